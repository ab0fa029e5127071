"""Inputs of the encoding benchmarks: a model, a tokenizer, texts.

They are drawn from a seed, or taken from the folder that XQG_BENCH_INPUTS
names: a model `bert` with its tokenizer, `passages.tsv`, `queries.jsonl` and
`generated_queries.jsonl`.
"""

import json
import os
import pathlib
import random

LENGTHS = {"passages": 128, "questions": 32}
LANGUAGES = ("ar", "bn", "fi", "ja", "ko", "ru", "te")
QUERIES_PER_LANGUAGE = 5
_FILES = ("passages.tsv", "queries.jsonl", "generated_queries.jsonl", "bert")
_NUM_WORDS = 250_000


def write_inputs(
  folder: pathlib.Path, *, passages: int = 2000, questions: int = 10_000
) -> None:
  """Links the given inputs into a folder, or draws some of e5-small's shape."""
  if given := os.environ.get("XQG_BENCH_INPUTS"):
    for name in _FILES:
      (folder / name).symlink_to(pathlib.Path(given).absolute() / name)
    return
  draw = random.Random(0)

  def make_text(low: int, high: int) -> str:
    count = draw.randint(low, high)
    return " ".join(f"w{draw.randrange(_NUM_WORDS)}" for _ in range(count))

  with (folder / "passages.tsv").open("w") as file:
    for number in range(passages):
      file.write(f"p{number}\t{make_text(80, 170)}\ttitle\n")
  with (folder / "queries.jsonl").open("w") as file:
    for _ in range(questions):
      file.write(json.dumps({"question": make_text(6, 22)}) + "\n")
  with (folder / "generated_queries.jsonl").open("w") as file:
    for number in range(passages):
      queries = {
        code: [make_text(6, 22) for _ in range(QUERIES_PER_LANGUAGE)]
        for code in LANGUAGES
      }
      item = {"docid": f"p{number}", "generated_queries": queries}
      file.write(json.dumps(item) + "\n")
  _write_model(folder / "bert")


def _write_model(folder: pathlib.Path) -> None:
  import tokenizers
  import torch
  import transformers

  torch.manual_seed(0)
  config = transformers.BertConfig(
    vocab_size=250_037,
    hidden_size=384,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=1536,
    pad_token_id=1,
  )
  transformers.BertModel(config).save_pretrained(folder)
  words = ["<s>", "<pad>", "</s>", "<unk>"]
  words += [f"w{number}" for number in range(_NUM_WORDS)]
  backend = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>")
  )
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  backend.post_processor = tokenizers.processors.TemplateProcessing(
    single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
  )
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend,
    bos_token="<s>",
    eos_token="</s>",
    cls_token="<s>",
    sep_token="</s>",
    pad_token="<pad>",
    unk_token="<unk>",
  ).save_pretrained(folder)


def read_texts(folder: pathlib.Path, job: str, count: int) -> list[str]:
  """The first `count` texts of a job, as they are tokenised."""
  if job == "passages":
    with (folder / "passages.tsv").open() as file:
      texts = [" ".join(line.split("\t")[1:]).rstrip() for line in file]
  else:
    with (folder / "queries.jsonl").open() as file:
      texts = [json.loads(line)["question"] for line in file]
  return texts[:count]


def read_generated_queries(
  folder: pathlib.Path, count: int
) -> list[dict[str, list[str]]]:
  """By passage its queries by language."""
  with (folder / "generated_queries.jsonl").open() as file:
    rows = [json.loads(line)["generated_queries"] for line in file]
  return rows[:count]
