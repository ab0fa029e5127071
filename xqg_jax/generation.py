"""The stage `generate`: queries in several languages for every passage.

Passages are worked on in shards of fixed size. A shard's file appears whole,
and an interrupted run goes on at the first one that is missing or damaged,
with the same bytes as an unbroken run:

    part-00000-of-00018.jsonl.gz    one passage a line, released form
    finished/part-00000-of-....json checksum and counts of a finished shard
    manifest.json                   at the end: all counts, all checksums
"""

import dataclasses
import gzip
import io
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tqdm

from xqg_jax.checkpoints import QueryGenerator, load_query_generator
from xqg_jax.decoding import Sampling
from xqg_jax.errors import InputError
from xqg_jax.files import (
  atomic_path,
  claim_output_dir,
  lock_folder,
  read_json,
  sha256_file,
  write_json,
)
from xqg_jax.languages import XOR_TYDI_LANGUAGES, get_languages
from xqg_jax.query_health import add_counts, count_signs, to_shares
from xqg_jax.query_writing import QuerySettings, QueryWriter, WrittenQueries
from xqg_jax.records import Passage, read_passages, write_generated_queries

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"


def generate(
  *,
  checkpoint_path: str | os.PathLike,
  passages: str | os.PathLike,
  output_dir: str | os.PathLike,
  tokenizer_path: str | os.PathLike | None = None,
  languages: Sequence[str] = XOR_TYDI_LANGUAGES,
  num_queries: int = 5,
  top_k: int = 10,
  top_p: float = 1.0,
  temperature: float = 1.0,
  max_input_length: int = 256,
  max_query_length: int = 32,
  seed: int = 0,
  batch_size: int = 64,
  shard_size: int = 1000,
  dtype: Literal["float32", "bfloat16"] = "float32",
) -> dict[str, Any]:
  """Writes queries for every passage, as sharded JSONL.gz.

  A passage's queries depend on the model, the arguments and the passage alone,
  not on its shard or on the number of devices. (`batch_size` may change a token
  where two are equally likely to the last bit.)

  Args:
    checkpoint_path: the query generator; T5X's checkpoints are taken as well.
    passages: TSV or JSONL file.
    output_dir: folder to write; readers of generated queries take it whole.
    tokenizer_path: the tokenizer of a checkpoint that has none beside it, as
      those of T5X: a `sentencepiece.model`, a `tokenizer.json`, or a folder.
    languages: ISO 639-1 codes.
    num_queries: queries for each passage and language.
    top_k: the number of likeliest tokens to draw from; 1 is greedy, 0 all.
    top_p: of those, the likeliest with at least this probability together.
    temperature: divides the logits.
    max_input_length: tokens of a prompt; the end of longer passages is cut,
      and the manifest says how often.
    max_query_length: tokens of a query.
    seed: of all random draws.
    batch_size: prompts decoded at a time on each device.
    shard_size: passages in a file.
    dtype: of matrix products.

  Returns:
    The content of `manifest.json`: counts, checksums and health.

  Raises:
    InputError: bad input (the message names file and line), a damaged
      checkpoint, or an output folder that holds something else.
  """
  settings = QuerySettings(
    languages=get_languages(languages),
    num_queries=num_queries,
    sampling=Sampling(top_k=top_k, top_p=top_p, temperature=temperature),
    max_input_length=max_input_length,
    max_query_length=max_query_length,
    seed=seed,
    batch_size=batch_size,
  )
  if shard_size < 1:
    raise InputError(f"shard_size is {shard_size}", mend="use 1 or more")
  path = pathlib.Path(passages)
  num_passages = _count(path)
  generator = load_query_generator(
    checkpoint_path, tokenizer_path=tokenizer_path, dtype=dtype
  )
  arguments = {
    "generator": _describe(generator),
    "passages": {"name": path.name, "sha256": sha256_file(path)},
    "settings": _to_json(settings),
    "shard_size": shard_size,
    "dtype": dtype,
  }
  folder = claim_output_dir(output_dir, stage="generate", arguments=arguments)
  job = GenerationJob(
    folder=folder,
    passages=path,
    num_passages=num_passages,
    shard_size=shard_size,
    writer=QueryWriter(generator, settings),
  )
  with lock_folder(folder):
    manifest = _make_manifest(job.run(), arguments)
    write_json(folder / MANIFEST_FILE, manifest)
  return manifest


def _count(path: pathlib.Path) -> int:
  """Reads all passages once, so that later nothing can be wrong with them."""
  passages = read_passages(path)
  return sum(
    1 for _ in tqdm.tqdm(passages, desc="check input", unit=" passages")
  )


def _describe(generator: QueryGenerator) -> dict[str, str]:
  return {
    "fingerprint": generator.fingerprint,
    "tokenizer_fingerprint": generator.tokenizer.fingerprint,
  }


def _to_json(settings: QuerySettings) -> dict[str, Any]:
  codes = [language.code for language in settings.languages]
  return dataclasses.asdict(settings) | {"languages": codes}


def _make_manifest(
  records: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]
) -> dict[str, Any]:
  counts = add_counts(record["counts"] for record in records)
  totals = {
    name: sum(record[name] for record in records)
    for name in ("num_passages", "num_queries", "num_cut_prompts")
  }
  shards = [
    {name: record[name] for name in ("name", "num_passages", "sha256")}
    for record in records
  ]
  return {
    "format_version": FORMAT_VERSION,
    **totals,
    **arguments,
    "health": to_shares(counts),
    "shards": shards,
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationJob:
  """The shards of one run.

  Attributes:
    folder: to write to.
    passages: file of the passages.
    num_passages: in that file.
    shard_size: passages in a shard; the last has the rest.
    writer: writes the queries.
  """

  folder: pathlib.Path
  passages: pathlib.Path
  num_passages: int
  shard_size: int
  writer: QueryWriter

  def run(self) -> list[dict[str, Any]]:
    """Writes every shard that is not there yet; returns all their records."""
    settings = self.writer.settings
    per_passage = len(settings.languages) * settings.num_queries
    passages = read_passages(self.passages)
    shards = iter(lambda: list(itertools.islice(passages, self.shard_size)), [])
    records = []
    with tqdm.tqdm(
      total=self.num_passages * per_passage, desc="generate", unit=" queries"
    ) as progress:
      for index, some in enumerate(shards):
        record = self._read_record(index)
        if record is None:
          written = self.writer.write(some, on_progress=progress.update)
          record = self._write_shard(index, some, written)
        else:
          progress.initial += len(some) * per_passage
          progress.update(len(some) * per_passage)
        records.append(record)
    return records

  def shard_name(self, index: int) -> str:
    """File name of a shard, which says how many there are."""
    num_shards = -(-self.num_passages // self.shard_size)
    return f"part-{index:05d}-of-{num_shards:05d}.jsonl.gz"

  def _record_path(self, index: int) -> pathlib.Path:
    stem = self.shard_name(index).removesuffix(".jsonl.gz")
    return self.folder / "finished" / f"{stem}.json"

  def _read_record(self, index: int) -> dict[str, Any] | None:
    """The record of a finished, undamaged shard; None where there is none."""
    path = self.folder / self.shard_name(index)
    if not (path.exists() and self._record_path(index).exists()):
      return None
    try:
      record = read_json(self._record_path(index))
      is_same = sha256_file(path) == record["sha256"]
    except (InputError, KeyError, TypeError):
      return None
    return record if is_same else None

  def _write_shard(
    self, index: int, passages: Sequence[Passage], written: WrittenQueries
  ) -> dict[str, Any]:
    path = self.folder / self.shard_name(index)
    with atomic_path(path) as partial:
      _write_gzip(partial, passages, written.queries)
      digest = sha256_file(partial)
    counts = add_counts(map(count_signs, passages, written.queries))
    record = {
      "name": path.name,
      "num_passages": len(passages),
      "num_queries": sum(row["queries"] for row in counts.values()),
      "num_cut_prompts": written.num_cut_prompts,
      "counts": counts,
      "sha256": digest,
    }
    write_json(self._record_path(index), record)
    return record


def _write_gzip(
  path: pathlib.Path,
  passages: Sequence[Passage],
  queries: Sequence[Mapping[str, Sequence[str]]],
) -> None:
  """Writes the released form; neither time nor name gets into the bytes."""
  with (
    open(path, "wb") as raw,
    gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
    io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
  ):
    for passage, by_language in zip(passages, queries, strict=True):
      write_generated_queries(file, passage, by_language)
