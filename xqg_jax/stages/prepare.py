"""Stage `prepare`: public data sets, or an invented one, in our formats."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from xqg_jax.data.languages import get_language
from xqg_jax.data.training_pairs import read_training_pairs
from xqg_jax.errors import InputError
from xqg_jax.io.claims import lock_folder
from xqg_jax.io.files import atomic_path
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.typed_json import Positive, Seed
from xqg_jax.text.prompts import make_prompt
from xqg_jax.text.tokenizer_training import train_tokenizer
from xqg_jax.xor_mini import make_xor_mini

TOKENIZER_PAIRS = 20_000
PROMPT_PERIOD = 4
TOKENIZERS: Mapping[str, Literal["bert", "t5"]] = {
  "bert_tokenizer": "bert",
  "t5_tokenizer": "t5",
}


def prepare(
  *,
  output_dir: str,
  dataset: str = "xor_mini",
  num_passages: Positive = 3000,
  seed: Seed = 0,
  num_train_questions: Positive | None = None,
  vocab_size: Positive = 3000,
  manual_dir: str | None = None,
  verify_checksums: bool = True,
  plain_files: bool = False,
) -> Path:
  """Makes `xor_mini` with two tokenizers, or prepares a public data set.

  A public data set goes into `output_dir` as TFDS lays it out, several side by
  side: `tfds.load("xor_tydi/retrieve", data_dir=output_dir)` reads it once
  `xqg_jax.datasets` is imported. A second call returns at once, or goes on
  after the last finished shard.

  Args:
    output_dir: folder to write; an identical call finds its work done.
    dataset: `xor_mini`, `xor_tydi/retrieve`, `xor_tydi/gold_passages`,
      `xor_tydi/pairs`, `wiki_passages/enwiki_2019`, `wiki_passages/psgs_w100`,
      `natural_questions_dpr/dpr` or `natural_questions_dpr/tevatron`.
    num_passages: of `xor_mini`: its size, 200 to 1,000,000.
    seed: of `xor_mini`: decides every byte written.
    num_train_questions: of `xor_mini`: training pairs; one for each training
      entity by default.
    vocab_size: of `xor_mini`: pieces of each tokenizer.
    manual_dir: folder with the official files of a public data set, plain or
      gzipped; nothing is then downloaded. None downloads them.
    verify_checksums: False accepts other editions of the official files.
    plain_files: writes a public data set as plain files, too, into
      `output_dir/plain/<dataset>`.

  Returns:
    For `xor_mini` the folder: `passages.tsv`, `train_pairs.jsonl`,
    `questions_train.jsonl`, `questions_dev.jsonl`, `qrels_dev.tsv`,
    `bert_tokenizer/` and `t5_tokenizer/` (a `tokenizer.json` each). For a
    public data set TFDS's folder of it.

  Raises:
    InputError: a size out of range, a folder that holds something else, an
      unknown data set, a missing or wrong file, or a malformed row.
  """
  if dataset != "xor_mini":
    return _import_prepare_dataset()(
      dataset=dataset,
      output_dir=to_path(output_dir),
      manual_dir=None if manual_dir is None else to_path(manual_dir),
      verify_checksums=verify_checksums,
      plain_files=plain_files,
    )
  folder = to_path(output_dir)
  make_xor_mini(
    output_dir=folder,
    num_passages=num_passages,
    seed=seed,
    num_train_questions=num_train_questions,
  )
  with lock_folder(folder):
    _train_tokenizers(folder, vocab_size)
  return folder


def _import_prepare_dataset() -> Callable[..., Path]:
  try:
    from xqg_jax.datasets.catalogue import prepare_dataset
  except ModuleNotFoundError as error:
    raise InputError(
      f"public data sets need the package {error.name}",
      mend="pip install 'xqg_jax[tasks]'",
    ) from None
  return prepare_dataset


def _train_tokenizers(folder: Path, vocab_size: int) -> None:
  for name, style in TOKENIZERS.items():
    if not (folder / name).exists():
      tokenizer = train_tokenizer(
        _tokenizer_texts(folder), vocab_size=vocab_size, style=style
      )
      with atomic_path(folder / name) as partial:
        partial.mkdir()
        tokenizer.save(partial)


def _tokenizer_texts(folder: Path) -> Iterator[str]:
  """Training queries, and prompts for every fourth of them, nothing else.

  With all the prompts, names in English would crowd out the other scripts.
  """
  pairs = read_training_pairs(folder / "train_pairs.jsonl")
  for number, pair in enumerate(itertools.islice(pairs, TOKENIZER_PAIRS)):
    yield pair.query
    if number % PROMPT_PERIOD == 0:
      language = get_language(pair.language)
      yield from (make_prompt(passage, language) for passage in pair.positives)
