"""Stage `mine-negatives`: hard negatives of training pairs from an index.

train_pairs.jsonl  the pairs with their hard negatives, best first
manifest.json      what was left out, and why

The folder is one to train on: DATA_DIR of `xqg train`.
"""

import collections
import dataclasses
import itertools
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tqdm

from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.data.generated_pairs import GeneratedPairs
from xqg_jax.data.passage_lookup import read_shown_passages
from xqg_jax.data.training_pairs import (
  TrainingPair,
  read_training_pairs,
  write_training_pairs,
)
from xqg_jax.encoding.texts import encode_texts
from xqg_jax.errors import InputError
from xqg_jax.indexes.index import Index
from xqg_jax.indexes.kinds import check_encoder, open_index
from xqg_jax.io.claims import claim_output_dir, lock_folder
from xqg_jax.io.files import atomic_path, read_json, sha256_file, write_json
from xqg_jax.io.full_disk import tell_of_full_disk
from xqg_jax.io.paths import to_path
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder
from xqg_jax.training.negative_rules import Candidate, NegativeRules

PAIRS_FILE = "train_pairs.jsonl"
MANIFEST_FILE = "manifest.json"
_SHARDS_DIR = ".shards"


# ---------------------------------------------------------------------- stage


def mine_negatives(
  *,
  index: str | os.PathLike,
  checkpoint_path: str | os.PathLike,
  passages: str | os.PathLike,
  output_dir: str | os.PathLike,
  train_pairs: str | os.PathLike | None = None,
  generated_pairs: GeneratedPairs | None = None,
  encoder: DualEncoderConfig | None = None,
  rules: NegativeRules | None = None,
  k: int = 100,
  shard_size: int = 20_000,
) -> dict[str, Any]:
  """Gives training pairs the hard negatives that an index finds for them.

  An interrupted call goes on at its last finished shard, and ends with the
  same bytes. Each shard reads the passages once.

  Args:
    index: folder that `index` wrote.
    checkpoint_path: the dual encoder of its vectors.
    passages: TSV or JSONL file of the passages that were indexed.
    output_dir: folder to write; DATA_DIR of `train`.
    train_pairs: JSONL of Tevatron/DPR form; its own negatives are replaced.
    generated_pairs: generated queries, in place of `train_pairs`.
    encoder: pooling, prefixes and lengths; the checkpoint's own when absent.
    rules: which passages are taken; None: the usual ones.
    k: passages that are looked for.
    shard_size: pairs that are searched and written at a time.

  Returns:
    The content of `manifest.json`: numbers of pairs and negatives, and how
    many passages each rule left out.

  Raises:
    InputError: bad input (the message names file and line), an index of another
      encoder's vectors, both kinds of pairs or none, a full disk, or an output
      folder that holds something else.
    ScannError: ScaNN failed or crashed.
  """
  rules = rules or NegativeRules()
  if (train_pairs is None) == (generated_pairs is None):
    raise InputError(
      "give either training pairs or generated queries",
      mend="set TRAIN_PAIRS, or add --gin_file=generated_pairs.gin",
    )
  opened = open_index(index)
  model = load_dual_encoder(checkpoint_path, config=encoder)
  check_encoder(opened, model)
  source = (
    generated_pairs.describe()
    if train_pairs is None
    else sha256_file(train_pairs)
  )
  arguments = {
    "index_fingerprint": opened.fingerprint,
    "encoder_fingerprint": model.fingerprint,
    "pairs": source,
    "rules": dataclasses.asdict(rules),
    "k": k,
    "shard_size": shard_size,
  }
  with tell_of_full_disk(to_path(output_dir)):
    folder = claim_output_dir(
      output_dir, stage="mine-negatives", arguments=arguments
    )
    if not (folder / MANIFEST_FILE).exists():
      job = _Job(folder, opened, model, passages, rules, k)
      pairs = (
        generated_pairs.read_pairs(generated_pairs.scan())
        if train_pairs is None
        else read_training_pairs(train_pairs)
      )
      with lock_folder(folder), opened:
        job.run(pairs, shard_size, arguments)
  return read_json(folder / MANIFEST_FILE)


@dataclasses.dataclass(frozen=True)
class _Job:
  """A call of `mine_negatives`, checked and put together."""

  folder: pathlib.Path
  index: Index
  model: DualEncoder
  passages: str | os.PathLike
  rules: NegativeRules
  k: int

  def run(
    self,
    pairs: Iterable[TrainingPair],
    shard_size: int,
    arguments: Mapping[str, Any],
  ) -> None:
    (self.folder / _SHARDS_DIR).mkdir(exist_ok=True)
    records = []
    with tqdm.tqdm(desc="mine negatives", unit=" pairs") as progress:
      for number, shard in enumerate(_cut(pairs, shard_size)):
        records.append(self._read_record(number) or self._write(number, shard))
        progress.update(len(shard))
    if not records:
      raise InputError(
        "there are no pairs to mine for",
        mend="choose languages that the queries have",
      )
    self._finish(records, arguments)

  def _shard_path(self, number: int) -> pathlib.Path:
    return self.folder / _SHARDS_DIR / f"{number:05d}.jsonl"

  def _read_record(self, number: int) -> dict[str, Any] | None:
    """The record of a finished, undamaged shard; None where there is none."""
    path = self._shard_path(number)
    record_path = path.with_suffix(".json")
    if not (path.exists() and record_path.exists()):
      return None
    record = read_json(record_path)
    return record if record["sha256"] == sha256_file(path) else None

  def _write(
    self, number: int, pairs: Sequence[TrainingPair]
  ) -> dict[str, Any]:
    mined, left_out = [], collections.Counter()
    for pair, found in zip(pairs, self._find(pairs), strict=True):
      negatives, missed = self.rules.choose(pair, found)
      left_out += missed
      mined.append(
        dataclasses.replace(
          pair,
          negatives=tuple(negatives),
          positive_scores=(),
          negative_scores=(),
        )
      )
    path = self._shard_path(number)
    with (
      atomic_path(path) as partial,
      partial.open("w", encoding="utf-8") as file,
    ):
      write_training_pairs(file, mined)
    counts = [len(pair.negatives) for pair in mined]
    record = {
      "num_pairs": len(mined),
      "num_negatives": sum(counts),
      "pairs_without_negatives": counts.count(0),
      "left_out": left_out,
      "sha256": sha256_file(path),
    }
    write_json(path.with_suffix(".json"), record)
    return record

  def _find(self, pairs: Sequence[TrainingPair]) -> Iterator[list[Candidate]]:
    """The k best passages of each pair's query, with their scores."""
    vectors = encode_texts(
      self.model,
      [self.model.format_query(pair.query) for pair in pairs],
      side="query",
      max_length=self.model.config.query_length,
    )
    scores, rows = self.index.search(vectors, self.k)
    ids = self.index.passage_ids
    wanted = {ids[row] for row in set(rows.ravel().tolist()) if row >= 0}
    texts = read_shown_passages(wanted, passages=self.passages)
    for its_scores, its_rows in zip(
      scores.tolist(), rows.tolist(), strict=True
    ):
      yield [
        (texts[ids[row]].passage, score)
        for score, row in zip(its_scores, its_rows, strict=True)
        if row >= 0
      ]

  def _finish(
    self, records: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]
  ) -> None:
    """Joins the shards, and writes what is known of them."""
    with atomic_path(self.folder / PAIRS_FILE) as partial:
      with partial.open("wb") as joined:
        for number in range(len(records)):
          with self._shard_path(number).open("rb") as shard:
            shutil.copyfileobj(shard, joined)
    names = ("num_pairs", "num_negatives", "pairs_without_negatives")
    left_out = collections.Counter()
    for record in records:
      left_out.update(record["left_out"])
    manifest = {
      "format_version": 1,
      "stage": "mine-negatives",
      **{name: sum(record[name] for record in records) for name in names},
      "left_out": left_out,
      "sha256": sha256_file(self.folder / PAIRS_FILE),
      **arguments,
    }
    write_json(self.folder / MANIFEST_FILE, manifest)
    shutil.rmtree(self.folder / _SHARDS_DIR)
    print(format_mined(manifest))


def _cut(
  pairs: Iterable[TrainingPair], size: int
) -> Iterator[list[TrainingPair]]:
  pairs = iter(pairs)
  while shard := list(itertools.islice(pairs, size)):
    yield shard


def format_mined(manifest: Mapping[str, Any]) -> str:
  """What was mined, in one line.

  >>> print(
  ...   format_mined(
  ...     {
  ...       "num_pairs": 10,
  ...       "num_negatives": 50,
  ...       "pairs_without_negatives": 1,
  ...       "left_out": {"positive": 9},
  ...     }
  ...   )
  ... )
  10 pairs have 5.0 hard negatives each, 1 has none; left out: positive 9
  """
  pairs = manifest["num_pairs"]
  without = manifest["pairs_without_negatives"]
  left_out = ", ".join(f"{k} {v:,}" for k, v in manifest["left_out"].items())
  return (
    f"{pairs:,} pairs have {manifest['num_negatives'] / pairs:.1f} hard "
    f"negatives each, {without:,} {'has' if without == 1 else 'have'} none; "
    f"left out: {left_out or 'nothing'}"
  )
