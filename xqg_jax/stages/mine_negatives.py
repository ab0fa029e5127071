"""Stage `mine-negatives`: hard negatives of training pairs from an index.

train_pairs.jsonl  the pairs with their hard negatives, best first
manifest.json      what was left out, and why

The folder is one to train on: DATA_DIR of `xqg train`.
"""

import collections
import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

import tqdm

from xqg_jax.augmentation.centering import (
  NOT_CENTERED,
  Centering,
  CenterSettings,
)
from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.data.generated_pairs import GeneratedPairs
from xqg_jax.data.passage_lookup import read_shown_passages
from xqg_jax.data.training_pairs import (
  TrainingPair,
  read_training_pairs,
  write_training_pairs,
)
from xqg_jax.encoding.questions import encode_questions
from xqg_jax.errors import InputError
from xqg_jax.indexes.index import Index
from xqg_jax.indexes.kinds import (
  check_encoder,
  open_centering,
  open_index,
)
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.files import atomic_path, sha256_file
from xqg_jax.io.full_disk import tell_of_full_disk
from xqg_jax.io.locations import Location
from xqg_jax.io.manifests import read_sound_manifest
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.shard_job import (
  FileRecord,
  Record,
  ShardJob,
  cut_stream,
  run_shards,
)
from xqg_jax.io.shared_claims import (
  claim_in_turn,
  lock_together,
)
from xqg_jax.io.typed_json import Count, Positive
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder
from xqg_jax.training.negative_rules import Candidate, NegativeRules

PAIRS_FILE = "train_pairs.jsonl"
_SHARDS_DIR = ".shards"


# ---------------------------------------------------------------------- stage

_PairReader = Callable[[], Iterable[TrainingPair]]


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
  k: Positive = 100,
  shard_size: Positive = 20_000,
  centering: CenterSettings = NOT_CENTERED,
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
    centering: how much of its language's mean is subtracted from a query.

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
  source, open_source = _find_source(train_pairs, generated_pairs)
  opened = open_index(index)
  model = load_dual_encoder(checkpoint_path, config=encoder)
  check_encoder(opened, model)
  centered = open_centering(centering, opened, model)
  arguments = {
    "index_fingerprint": opened.fingerprint,
    "encoder_fingerprint": model.fingerprint,
    "pairs": source,
    "rules": dataclasses.asdict(rules),
    "k": k,
    "shard_size": shard_size,
    **({"centering": noted} if (noted := centered.to_json()) else {}),
  }
  folder = Location.of(output_dir)
  claim_in_turn(folder, stage="mine-negatives", arguments=arguments)
  if (manifest := _read_finished(to_path(folder))) is not None:
    return manifest
  with tell_of_full_disk(to_path(output_dir)), lock_together(folder):
    job = _MiningJob(
      folder=folder / _SHARDS_DIR,
      index=opened,
      model=model,
      passages=passages,
      rules=rules,
      k=k,
      centering=centered,
      read_pairs=open_source(),
      shard_size=shard_size,
    )
    with opened:
      _finish(folder, run_shards(job), arguments)
  return (folder / MANIFEST_FILE).read_json(MinedManifest)


def _read_finished(folder: Path) -> dict[str, Any] | None:
  """The manifest of what was mined before, if it is sound."""
  return read_sound_manifest(
    folder,
    MinedManifest,
    task="mine negatives",
    list_files=lambda manifest: {PAIRS_FILE: manifest["sha256"]},
  )


class MinedRecord(FileRecord):
  """Of a shard of pairs: what was mined for them."""

  num_pairs: Count
  num_negatives: Count
  pairs_without_negatives: Count
  left_out: dict[str, Count]


class MinedManifest(TypedDict):
  """Contents of the manifest of mined negatives."""

  num_pairs: Count
  num_negatives: Count
  pairs_without_negatives: Count
  left_out: dict[str, Count]
  sha256: str


def _find_source(
  train_pairs: str | os.PathLike | None, generated_pairs: GeneratedPairs | None
) -> tuple[Any, Callable[[], _PairReader]]:
  """What describes the pairs, and what opens them.

  Raises:
    InputError: both kinds of pairs, or none.
  """
  if train_pairs is not None and generated_pairs is None:
    reader = functools.partial(read_training_pairs, train_pairs)
    return sha256_file(train_pairs), lambda: reader
  if generated_pairs is None or train_pairs is not None:
    raise InputError(
      "give either training pairs or generated queries",
      mend="set TRAIN_PAIRS, or add --gin_file=generated_pairs.gin",
    )
  pairs = generated_pairs
  return pairs.describe(), lambda: functools.partial(
    pairs.read_pairs, pairs.scan()
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _MiningJob(ShardJob[list[TrainingPair], list[TrainingPair], "_Mined"]):
  """A call of `mine_negatives`, checked and put together."""

  folder: Location
  index: Index
  model: DualEncoder
  passages: str | os.PathLike
  rules: NegativeRules
  k: int
  centering: Centering
  read_pairs: _PairReader
  shard_size: int
  num_shards: None = None
  task: str = "mine negatives"
  schema: type = MinedRecord
  unit: str = "pairs"

  def name_shard(self, index: int) -> str:
    return f"{index:05d}.jsonl"

  def size(self, record: Record) -> int:
    return record["num_pairs"]

  def read(self) -> Iterator[list[TrainingPair]]:
    return map(list, cut_stream(self.read_pairs(), self.shard_size))

  def make(self, work: list[TrainingPair], bar: tqdm.tqdm) -> "_Mined":
    del bar
    mined, left_out = [], collections.Counter()
    for pair, found in zip(work, self._find(work), strict=True):
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
    return mined, left_out

  def write(self, place: Location, made: "_Mined") -> Record:
    mined, left_out = made
    with open(place, "w", encoding="utf-8") as file:
      write_training_pairs(file, mined)
    counts = [len(pair.negatives) for pair in mined]
    return {
      "num_pairs": len(mined),
      "num_negatives": sum(counts),
      "pairs_without_negatives": counts.count(0),
      "left_out": left_out,
    }

  def _find(self, pairs: Sequence[TrainingPair]) -> Iterator[list[Candidate]]:
    """The k best passages of each pair's query, with their scores."""
    vectors = encode_questions(
      self.model,
      [pair.query for pair in pairs],
      [pair.language for pair in pairs],
      centering=self.centering,
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


_Mined = tuple[list[TrainingPair], collections.Counter]


def _finish(
  folder: Location,
  records: Sequence[Record],
  arguments: Mapping[str, Any],
) -> None:
  """Joins the shards, and writes what is known of them."""
  if not records:
    raise InputError(
      "there are no pairs to mine for",
      mend="choose languages that the queries have",
    )
  with atomic_path(folder / PAIRS_FILE) as partial:
    with partial.open("wb") as joined:
      for record in records:
        path = to_path(folder / _SHARDS_DIR / record["name"])
        with path.open("rb") as shard:
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
    "sha256": sha256_file(folder / PAIRS_FILE),
    **arguments,
  }
  (folder / MANIFEST_FILE).write_json(manifest)
  (folder / _SHARDS_DIR).delete()
  print(format_mined(manifest))


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
