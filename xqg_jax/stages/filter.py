"""Stage `filter`: generated queries without harmful ones.

What is left is written in the released form again, in the order of the
passages. An interrupted run goes on at the first shard that is missing or
damaged, with the same bytes as an unbroken run:

    scores/00000.npz                scores and ranks of a shard's queries
    part-00000-of-00018.jsonl.gz    one passage a line, released form
    finished/part-00000-of-....json checksum and counts of a finished shard
    manifest.json                   at the end: what each filter removed
"""

import collections
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from xqg_jax.augmentation.centering import (
  NOT_CENTERED,
  CenterSettings,
)
from xqg_jax.checkpoints import load_dual_encoder
from xqg_jax.data.collection import scan_collection
from xqg_jax.data.generated_queries import list_shards
from xqg_jax.data.passages import list_passage_files
from xqg_jax.errors import InputError
from xqg_jax.generation.filter_job import NUM_EXAMPLES, FilteringJob
from xqg_jax.generation.query_filters import TEXT_FILTERS
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.files import describe_files
from xqg_jax.io.full_disk import tell_of_full_disk
from xqg_jax.io.locations import Location
from xqg_jax.io.paths import to_path
from xqg_jax.io.shard_job import Record
from xqg_jax.io.shared_claims import claim_together
from xqg_jax.io.typed_json import Positive, Seed
from xqg_jax.models.dual_encoder.config import DualEncoderConfig

FORMAT_VERSION = 1


def filter_queries(
  *,
  passages: str | os.PathLike,
  generated_queries: str | os.PathLike,
  output_dir: str | os.PathLike,
  text_filters: Sequence[str] = TEXT_FILTERS,
  checkpoint_path: str | os.PathLike | None = None,
  encoder: DualEncoderConfig | None = None,
  round_trip_k: Positive | None = None,
  sample_size: Positive = 10_000,
  score_percentile: float = 0.0,
  seed: Seed = 0,
  shard_size: Positive = 1000,
  centering: CenterSettings = NOT_CENTERED,
) -> dict[str, Any]:
  """Removes generated queries, by one filter after the other.

  Args:
    passages: TSV or JSONL file, or a folder of such, that the queries were
      generated from.
    generated_queries: JSONL file, or folder of such.
    output_dir: folder to write; readers of generated queries take it whole.
    text_filters: of `query_filters.TEXT_FILTERS`, in this order: "empty",
      "duplicate" within a passage, "sentinel", and "script": fewer than half of
      the letters in that of the language.
    checkpoint_path: a dual encoder, for the two filters that need one.
    encoder: its pooling, prefixes and lengths; the checkpoint's own when
      absent.
    round_trip_k: keeps queries whose passage is among the best k of it and a
      sample of the others; None: all.
    sample_size: passages of this sample.
    score_percentile: removes so many per cent of the queries, over all
      languages: those with the smallest inner products with their passages.
    seed: of the sample.
    shard_size: passages in a file.
    centering: how much of its language's mean is subtracted from a query that
      is scored.

  Returns:
    The content of `manifest.json`: what each filter removed, with examples,
    and what is kept of each language.

  Raises:
    InputError: bad input (the message names file and line), a filter without
      its dual encoder, a full disk, or an output folder that holds something
      else.
  """
  settings = FilterSettings(
    text_filters=tuple(text_filters),
    round_trip_k=round_trip_k,
    sample_size=sample_size,
    score_percentile=score_percentile,
    seed=seed,
    shard_size=shard_size,
  )
  _check_encoder(settings, checkpoint_path, centering)
  collection = scan_collection(passages, generated_queries)
  model = (
    load_dual_encoder(checkpoint_path, config=encoder)
    if checkpoint_path
    else None
  )
  centered = centering.open(
    store=None, encoder_fingerprint=model and model.fingerprint
  )
  paths = [*list_passage_files(passages), *list_shards(generated_queries)]
  # In the order of the arguments, which the manifest keeps.
  given = dataclasses.asdict(settings)
  arguments = {
    "text_filters": given.pop("text_filters"),
    "encoder": model and model.fingerprint,
    **given,
    "inputs": describe_files(paths),
    **({"centering": noted} if (noted := centered.to_json()) else {}),
  }
  folder = Location.of(output_dir)
  job = FilteringJob(
    folder=folder,
    collection=collection,
    shard_size=shard_size,
    text_filters=tuple(text_filters),
    encoder=model,
    sample_size=sample_size,
    seed=seed,
    round_trip_k=round_trip_k,
    score_percentile=score_percentile,
    centering=centered,
  )
  with (
    tell_of_full_disk(to_path(output_dir)),
    claim_together(folder, stage="filter", arguments=arguments),
  ):
    manifest = _make_manifest(job.run(), job.threshold, arguments)
    (folder / MANIFEST_FILE).write_json(manifest)
  print(format_removed(manifest), file=sys.stderr)
  return manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterSettings:
  """What `filter_queries` removes, and how it is written.

  Attributes are its arguments of the same names.
  """

  text_filters: tuple[str, ...]
  round_trip_k: int | None
  sample_size: int
  score_percentile: float
  seed: int
  shard_size: int

  def __post_init__(self):
    for name in self.text_filters:
      if name not in TEXT_FILTERS:
        raise InputError(
          f"unknown text filter {name!r}",
          mend=f"use those of {', '.join(TEXT_FILTERS)}",
        )
    for name in ("round_trip_k", "sample_size", "shard_size"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise InputError(f"{name} is {value}", mend="use 1 or more")
    if not 0 <= self.score_percentile < 100:
      raise InputError(
        f"score_percentile is {self.score_percentile}",
        mend="use 0 or more, below 100",
      )

  @property
  def needs_encoder(self) -> bool:
    """Whether a filter scores queries with a dual encoder."""
    return self.round_trip_k is not None or self.score_percentile > 0


def _check_encoder(
  settings: FilterSettings,
  checkpoint_path: str | os.PathLike | None,
  centering: CenterSettings,
) -> None:
  """Refuses a dual encoder that no filter uses, and filters without theirs."""
  if centering.strength and not settings.needs_encoder:
    raise InputError(
      "centring without a filter that uses a dual encoder",
      mend="set ROUND_TRIP_K or SCORE_PERCENTILE, too",
    )
  if settings.needs_encoder != (checkpoint_path is not None):
    raise InputError(
      "a dual encoder and a filter that uses it go together",
      mend="set CHECKPOINT_PATH with ROUND_TRIP_K or SCORE_PERCENTILE",
    )


# -------------------------------------------------------------------- manifest


def _make_manifest(
  records: Sequence[Record],
  threshold: float | None,
  arguments: Mapping[str, Any],
) -> dict[str, Any]:
  removed: dict[str, collections.Counter] = {}
  examples = collections.defaultdict(list)
  for record in records:
    for language, row in record["counts"].items():
      removed.setdefault(language, collections.Counter()).update(row)
      removed.setdefault("all", collections.Counter()).update(row)
    for name, found in record["examples"].items():
      examples[name] = (examples[name] + found)[:NUM_EXAMPLES]
  asked = {name: row.pop("queries", 0) for name, row in removed.items()}
  kept = {
    name: {"of": asked[name], "kept": asked[name] - sum(row.values())}
    for name, row in removed.items()
  }
  everything = kept.pop("all", {"of": 0, "kept": 0})
  shards = [
    {name: record[name] for name in ("name", "num_passages", "sha256")}
    for record in records
  ]
  return {
    "format_version": FORMAT_VERSION,
    "num_queries": everything["of"],
    "num_kept": everything["kept"],
    "kept": kept,
    "removed": removed,
    "score_threshold": threshold,
    "examples": examples,
    **arguments,
    "shards": shards,
  }


def format_removed(manifest: Mapping[str, Any]) -> str:
  """What is kept, and what each filter removed, a line each.

  >>> print(
  ...   format_removed(
  ...     {
  ...       "num_queries": 50,
  ...       "num_kept": 47,
  ...       "kept": {"fi": {"of": 50, "kept": 47}},
  ...       "removed": {"fi": {"script": 3}, "all": {"script": 3}},
  ...     }
  ...   )
  ... )
  47 of 50 generated queries are kept: fi 47 of 50
  script removed 3 (6.0%): fi 3
  """
  total, removed = manifest["num_queries"], manifest["removed"]
  kept = ", ".join(
    f"{language} {row['kept']:,} of {row['of']:,}"
    for language, row in manifest["kept"].items()
  )
  count = manifest["num_kept"]
  lines = [f"{count:,} of {total:,} generated queries are kept: {kept}"]
  for name, count in removed.get("all", {}).items():
    by_language = ", ".join(
      f"{language} {row[name]:,}"
      for language, row in removed.items()
      if language != "all" and row.get(name)
    )
    share = f"{100 * count / total:.1f}%"
    lines.append(f"{name} removed {count:,} ({share}): {by_language}")
  return "\n".join(lines)
