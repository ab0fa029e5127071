"""Hooks for T5X's gin files: notes on cut prompts, writers of queries.

T5X itself is imported when it calls, and never before.
"""

import gzip
import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict, cast

import numpy as np
import seqio
import tensorflow as tf

from xqg_jax.data.generated_queries import write_generated_queries
from xqg_jax.data.passages import Passage
from xqg_jax.errors import InputError
from xqg_jax.io.typed_json import decode_json
from xqg_jax.seqio_data.batches import report_cut_prompts

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


def get_dataset(
  cfg: Any, shard_id: int, num_shards: int, *args: Any, **kwargs: Any
) -> Any:
  """T5X's own `get_dataset`, after one line about prompts that are cut.

  Args:
    cfg: a `t5x.utils.DatasetConfig`.
    shard_id: of this host; the first one reports.
    num_shards: hosts.
    *args: for T5X.
    **kwargs: for T5X.
  """
  from t5x import utils  # pyright: ignore[reportMissingImports] not on PyPI

  if shard_id == 0:
    report_cut_prompts(
      cfg.mixture_or_task_name, cfg.task_feature_lengths, split=cfg.split
    )
  return utils.get_dataset(cfg, shard_id, num_shards, *args, **kwargs)


def write_queries(
  path: str,
  inferences: tuple[Sequence[Any], Mapping[str, Any]],
  task_ds: tf.data.Dataset,
  mode: str,
  vocabulary: seqio.Vocabulary | None = None,
) -> None:
  """Writes the queries of a chunk of prompts, one prompt a line.

  Args:
    path: file to write.
    inferences: token ids of each prompt's queries, [queries, length] or
      [length]; and T5X's further outputs, which are not used.
    task_ds: the prompts, with `passage_id`, `title`, `text` and `language`.
    mode: of T5X's `infer`; only "predict" gives queries.
    vocabulary: of the queries.

  Raises:
    InputError: another mode.
  """
  if mode != "predict":
    raise InputError(
      f"infer.mode is {mode!r}, which gives no queries",
      mend="use 'predict'",
    )
  if vocabulary is None:
    raise ValueError("queries are decoded by a vocabulary")
  keys = ("passage_id", "title", "text", "language")
  with tf.io.gfile.GFile(path, "w") as file:
    examples = cast(Iterator[Any], task_ds.as_numpy_iterator())
    for example, tokens in zip(examples, inferences[0], strict=True):
      rows = np.atleast_2d(np.asarray(tokens)).tolist()
      texts = [" ".join(vocabulary.decode(row).split()) for row in rows]
      fields = {key: example[key].decode() for key in keys}
      row = {**fields, "queries": texts}
      file.write(json.dumps(row, ensure_ascii=False) + "\n")


def merge_queries(
  output_dir: str, output_fname: str, tmp_dir: str, step: int | None
) -> None:
  """Joins the chunks of `write_queries` to one file of the released form.

  The lines of a passage stand one after another, so that one passage is held
  at a time. The file appears whole.

  Args:
    output_dir: folder to write `part-00000-of-00001.jsonl.gz` to.
    output_fname: T5X's name for the result, which says the shard.
    tmp_dir: folder of the chunks.
    step: of the checkpoint; not used.

  Raises:
    InputError: no chunks.
  """
  del step
  chunks = sorted(tf.io.gfile.glob(f"{tmp_dir}/{output_fname}-chunk?????"))
  if not chunks:
    raise InputError(
      "no queries were written", where=tmp_dir, mend="check PASSAGES"
    )
  named = _SHARD.search(output_fname)
  if named is None:
    raise ValueError(f"{output_fname} names no shard")
  shard, num_shards = named.groups()
  path = os.path.join(  # noqa: PTH118 - the folder may be on gs://
    output_dir, f"part-{shard}-of-{num_shards}.jsonl.gz"
  )
  partial = f"{path}.partial"
  with (
    tf.io.gfile.GFile(partial, "wb") as raw,
    gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
    io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
  ):
    rows = _read_chunks(chunks)
    for _, group in itertools.groupby(rows, lambda row: row["passage_id"]):
      _write_passage(file, list(group))
  tf.io.gfile.rename(partial, path, overwrite=True)


class _PredictionRow(TypedDict):
  """Queries of one passage in one language, as a chunk has them."""

  passage_id: str
  title: str
  text: str
  language: str
  queries: list[str]


def _read_chunks(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
  for path in paths:
    with tf.io.gfile.GFile(path) as file:
      for line in file:
        yield decode_json(line, _PredictionRow, where=path)


def _write_passage(
  file: io.TextIOBase, rows: Sequence[Mapping[str, Any]]
) -> None:
  passage = Passage(rows[0]["passage_id"], rows[0]["text"], rows[0]["title"])
  queries = {row["language"]: row["queries"] for row in rows}
  write_generated_queries(file, passage, queries)
