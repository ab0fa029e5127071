"""Stage `prepare`: writes a collection and the tokenizers to train on it."""

import itertools
import pathlib
from collections.abc import Iterator

from xqg_jax.files import atomic_path
from xqg_jax.languages import get_language
from xqg_jax.prompts import make_prompt
from xqg_jax.records import read_training_pairs
from xqg_jax.tokenizers import train_tokenizer
from xqg_jax.xor_mini import make_xor_mini

TOKENIZER_PAIRS = 20_000
PROMPT_PERIOD = 4
TOKENIZERS = {"bert_tokenizer": "bert", "t5_tokenizer": "t5"}


def prepare(
  *,
  output_dir: str,
  num_passages: int = 3000,
  seed: int = 0,
  num_train_questions: int | None = None,
  vocab_size: int = 3000,
) -> pathlib.Path:
  """Writes `xor_mini` and two tokenizers trained on its training split.

  Args:
    output_dir: folder to write; an identical call finds its work done.
    num_passages: size of the collection, 200 to 1,000,000.
    seed: decides every byte written.
    num_train_questions: training pairs; one for each training entity by
      default.
    vocab_size: pieces of each tokenizer.

  Returns:
    The folder: `passages.tsv`, `train_pairs.jsonl`, `questions_train.jsonl`,
    `questions_dev.jsonl`, `qrels_dev.tsv`, `bert_tokenizer/` and
    `t5_tokenizer/` (a `tokenizer.json` each).

  Raises:
    InputError: a size out of range, or a folder that holds something else.
  """
  folder = pathlib.Path(output_dir)
  make_xor_mini(
    output_dir=folder,
    num_passages=num_passages,
    seed=seed,
    num_train_questions=num_train_questions,
  )
  for name, style in TOKENIZERS.items():
    if not (folder / name).exists():
      tokenizer = train_tokenizer(
        _tokenizer_texts(folder), vocab_size=vocab_size, style=style
      )
      with atomic_path(folder / name) as partial:
        partial.mkdir()
        tokenizer.save(partial)
  return folder


def _tokenizer_texts(folder: pathlib.Path) -> Iterator[str]:
  """Training queries, and prompts for every fourth of them, nothing else.

  With all the prompts, names in English would crowd out the other scripts.
  """
  pairs = read_training_pairs(folder / "train_pairs.jsonl")
  for number, pair in enumerate(itertools.islice(pairs, TOKENIZER_PAIRS)):
    yield pair.query
    if number % PROMPT_PERIOD == 0:
      language = get_language(pair.language)
      yield from (make_prompt(passage, language) for passage in pair.positives)
