"""Stage `generate`: queries in several languages for every passage.

Passages are worked on in shards of fixed size. A shard's file appears whole,
and an interrupted run goes on at the first one that is missing or damaged,
with the same bytes as an unbroken run:

    health_sample.json              how the queries of a sample look
    skipped_passages.tsv            passages without text, if there are any
    part-00000-of-00018.jsonl.gz    one passage a line, released form
    finished/part-00000-of-....json checksum and counts of a finished shard
    manifest.json                   at the end: all counts, all checksums
"""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax

from xqg_jax.data.languages import XOR_TYDI_LANGUAGES, get_languages
from xqg_jax.data.passages import Passage, list_passage_files, read_passages
from xqg_jax.data.samples import draw_sample
from xqg_jax.errors import InputError
from xqg_jax.generation.health import add_counts, to_shares
from xqg_jax.generation.job import GenerationJob
from xqg_jax.generation.output_vocabulary import TextSource
from xqg_jax.generation.query_writer import QuerySettings, QueryWriter
from xqg_jax.generation.sampling import Sampling
from xqg_jax.generation.writers import open_writer
from xqg_jax.io.claims import MANIFEST_FILE
from xqg_jax.io.files import describe_files, write_text
from xqg_jax.io.full_disk import tell_of_full_disk
from xqg_jax.io.locations import Location
from xqg_jax.io.paths import to_path
from xqg_jax.io.progress import Progress
from xqg_jax.io.shard_job import Turn
from xqg_jax.io.shared_claims import claim_together
from xqg_jax.io.typed_json import Count, Positive, Seed

FORMAT_VERSION = 1
SKIPPED_FILE = "skipped_passages.tsv"
# Passages whose queries are looked at before all others are written.
_SAMPLE_SIZE = 20


def generate(
  *,
  checkpoint_path: str | os.PathLike,
  passages: str | os.PathLike,
  output_dir: str | os.PathLike,
  tokenizer_path: str | os.PathLike | None = None,
  languages: Sequence[str] = XOR_TYDI_LANGUAGES,
  language_in: Literal["prompt", "decoder"] | None = None,
  num_queries: Positive = 5,
  top_k: Count = 10,
  top_p: float = 1.0,
  temperature: float = 1.0,
  max_input_length: Positive = 256,
  max_query_length: Positive = 32,
  seed: Seed = 0,
  batch_size: Positive = 64,
  shard_size: Positive = 1000,
  dtype: Literal["float32", "bfloat16"] = "float32",
  vocabulary_texts: TextSource | None = None,
  approximate_top_k: bool = False,
  force: bool = False,
  price_per_chip_hour: float | None = None,
) -> dict[str, Any]:
  """Writes queries for every passage, as sharded JSONL.gz.

  A passage's queries depend on the model, the arguments and the passage alone,
  not on its shard or on the number of devices. (`batch_size` may change a token
  where two are equally likely to the last bit.)

  Several processes joined by `jax.distributed` share the shards.

  Args:
    checkpoint_path: the query generator; T5X's checkpoints are taken as well.
    passages: TSV or JSONL file, or a folder of such; passages without text are
      left out and listed.
    output_dir: folder to write; readers of generated queries take it whole.
    tokenizer_path: the tokenizer of a checkpoint that has none beside it, as
      those of T5X: a `sentencepiece.model`, a `tokenizer.json`, or a folder.
    languages: codes of ISO 639.
    language_in: what names the language, the prompt or the decoder's first
      tokens; None: as the checkpoint was trained, "prompt" where it does not
      say.
    num_queries: queries for each passage and language.
    top_k: the number of likeliest tokens to draw from; 1 is greedy, 0 all.
    top_p: of those, the likeliest with at least this probability together.
    temperature: divides the logits.
    max_input_length: tokens of a prompt; the end of longer passages is cut,
      and the manifest says how often.
    max_query_length: tokens of a query.
    seed: of all random draws.
    batch_size: prompts worked on at a time on each device.
    shard_size: passages in a file.
    dtype: of matrix products.
    vocabulary_texts: real text or questions in each language, as
      `output_vocabulary.read_texts` takes them. Queries then hold no tokens but
      those of their language's texts, single letters of its script and of
      ASCII, digits and punctuation: faster, and no longer the whole model's
      choice. The manifest says what a table lacks.
    approximate_top_k: on TPUs, find the likeliest tokens approximately.
    force: goes on even if queries look as those of an untrained generator.
    price_per_chip_hour: of each device, to say what is left to pay.

  Returns:
    The content of `manifest.json`: counts, checksums and health.

  Raises:
    InputError: bad input (the message names file and line), a damaged
      checkpoint or one that looks untrained, a full disk, or an output folder
      that holds something else.
  """
  if shard_size < 1:
    raise InputError(f"shard_size is {shard_size}", mend="use 1 or more")
  settings = QuerySettings(
    languages=get_languages(languages),
    sampling=Sampling(
      top_k=top_k,
      top_p=top_p,
      temperature=temperature,
      approximate=approximate_top_k,
    ),
    language_in=language_in or "prompt",
    num_queries=num_queries,
    max_input_length=max_input_length,
    max_query_length=max_query_length,
    seed=seed,
    batch_size=batch_size,
  )
  scan = _scan(passages)
  writer = open_writer(
    checkpoint_path,
    settings,
    tokenizer_path=tokenizer_path,
    language_in=language_in,
    dtype=dtype,
    vocabulary_texts=vocabulary_texts,
  )
  arguments = _describe(writer, passages, shard_size)
  folder = Location.of(output_dir)
  job = GenerationJob(
    folder=folder,
    passages=to_path(passages),
    num_passages=scan.num_passages,
    shard_size=shard_size,
    writer=writer,
    turn=Turn.of_this_process(),
    force=force,
    hourly_price=price_per_chip_hour
    and price_per_chip_hour * jax.local_device_count(),
  )
  with (
    tell_of_full_disk(to_path(output_dir)),
    claim_together(folder, stage="generate", arguments=arguments),
  ):
    return _run(job, scan, arguments)


def _describe(
  writer: QueryWriter, passages: str | os.PathLike, shard_size: int
) -> dict[str, Any]:
  """What decides the bytes that are written."""
  described = writer.describe()
  return {
    "generator": described.pop("generator"),
    "passages": describe_files(list_passage_files(passages)),
    "settings": _to_json(writer.settings),
    "shard_size": shard_size,
    **described,
  }


@dataclasses.dataclass(frozen=True)
class Scan:
  """Input that was read once from end to end and has no defects.

  Attributes:
    num_passages: with a text.
    sample: some of them, drawn evenly.
    skipped: `file:line` and id of those without a text.
  """

  num_passages: int
  sample: list[Passage]
  skipped: list[tuple[str, str]]


def _scan(passages: str | os.PathLike) -> Scan:
  """Reads all passages once, so that defects are found before any work."""
  skipped: list[tuple[str, str]] = []

  def skip(where: str, passage: Passage) -> None:
    skipped.append((to_path(where).name, passage.passage_id))

  read = read_passages(passages, on_empty=skip)
  progress = Progress(read, desc="check input", unit=" passages")
  sample, count = draw_sample(progress, _SAMPLE_SIZE, seed=0)
  if not count:
    raise InputError(
      "no passage has a text", where=passages, mend="fill in the texts"
    )
  return Scan(count, sample, skipped)


def _run(
  job: GenerationJob, scan: Scan, arguments: Mapping[str, Any]
) -> dict[str, Any]:
  is_first = job.turn.index == 0
  if is_first and scan.skipped:
    _list_skipped(job.folder, scan.skipped)
  job.check_sample(scan.sample)
  manifest = _make_manifest(job.run(), arguments, len(scan.skipped))
  if is_first:
    (job.folder / MANIFEST_FILE).write_json(manifest)
  return manifest


def _list_skipped(folder: Location, skipped: Sequence[tuple[str, str]]) -> None:
  print(
    f"xqg: warning: {len(skipped):,} passages have no text and are left out; "
    f"see {folder / SKIPPED_FILE}",
    file=sys.stderr,
  )
  lines = (f"{where}\t{passage_id}\n" for where, passage_id in skipped)
  write_text(folder / SKIPPED_FILE, "".join(lines))


def _to_json(settings: QuerySettings) -> dict[str, Any]:
  codes = [language.code for language in settings.languages]
  return dataclasses.asdict(settings) | {"languages": codes}


def _make_manifest(
  records: Sequence[Mapping[str, Any]],
  arguments: Mapping[str, Any],
  num_skipped: int,
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
    "num_skipped_passages": num_skipped,
    **arguments,
    "health": to_shares(counts),
    "shards": shards,
  }
