"""Training pairs from generated queries, each with its own passage.

SWIM-IR (Thakur et al. 2023) trained retrievers on generated questions alone
that were better than those of human labels.
"""

import dataclasses
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xqg_jax.data.collection import Collection, read_blocks, scan_collection
from xqg_jax.data.generated_queries import list_shards
from xqg_jax.data.languages import get_languages
from xqg_jax.data.passages import Passage, list_passage_files
from xqg_jax.data.training_pairs import TrainingPair
from xqg_jax.errors import InputError
from xqg_jax.io.files import describe_files

_BLOCK_SIZE = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedPairs:
  """The generated queries of a collection, as pairs to train on.

  Attributes:
    passages: TSV or JSONL file that the queries were generated from.
    generated_queries: what `generate` or `filter` wrote, or any file or folder
      of the released form.
    languages: of the queries to take; None: all.
    num_queries: to take of each passage and language, the first ones; None:
      all.
    sample: share of the passages to take, by a hash of their ids. Large
      collections are streamed in their order: a run that is shorter than an
      epoch would see their beginning alone.
    share: of the examples in a mixture with other pairs.
  """

  passages: str | os.PathLike
  generated_queries: str | os.PathLike
  languages: tuple[str, ...] | None = None
  num_queries: int | None = None
  sample: float = 1.0
  share: float = 0.5

  def __post_init__(self):
    if self.languages is not None:
      codes = tuple(code.code for code in get_languages(self.languages))
      object.__setattr__(self, "languages", codes)
    if self.num_queries is not None and self.num_queries < 1:
      raise InputError(
        f"num_queries is {self.num_queries}", mend="use at least 1"
      )
    if not 0 < self.sample <= 1:
      raise InputError(
        f"the sample of passages is {self.sample}",
        mend="use a share above 0 and at most 1",
      )
    if not 0 < self.share < 1:
      raise InputError(
        f"the share of generated pairs is {self.share}",
        mend="use a number between 0 and 1",
      )

  def scan(self) -> Collection:
    """Reads both files from end to end.

    Raises:
      InputError: as `scan_collection`.
    """
    return scan_collection(self.passages, self.generated_queries)

  def read(
    self, collection: Collection
  ) -> Iterator[tuple[Passage, dict[str, list[str]]]]:
    """Streams the passages that have queries, with these by language.

    Args:
      collection: what `scan` returned.
    """
    with tempfile.TemporaryDirectory() as scratch:
      for block in read_blocks(
        collection,
        block_size=_BLOCK_SIZE,
        scratch_dir=Path(scratch) / "sorted_queries",
      ):
        for passage, queries in zip(block.passages, block.queries, strict=True):
          chosen = self._choose(queries)
          if chosen and self._is_sampled(passage.passage_id):
            yield passage, chosen

  def _choose(
    self, queries: Mapping[str, Sequence[str]]
  ) -> dict[str, list[str]]:
    chosen = {
      code: [text for text in texts[: self.num_queries] if text.strip()]
      for code, texts in queries.items()
      if self.languages is None or code in self.languages
    }
    return {code: texts for code, texts in chosen.items() if texts}

  def _is_sampled(self, passage_id: str) -> bool:
    return zlib.crc32(passage_id.encode()) < self.sample * 2**32

  def read_pairs(self, collection: Collection) -> Iterator[TrainingPair]:
    """Streams a pair for each query, in the order of the passages.

    Args:
      collection: what `scan` returned.
    """
    for passage, queries in self.read(collection):
      for code, texts in queries.items():
        for rank, text in enumerate(texts):
          yield TrainingPair(
            query_id=f"{passage.passage_id}-{code}-{rank}",
            query=text,
            language=code,
            positives=(passage,),
          )

  def describe(self) -> dict[str, Any]:
    """JSON-able identity of the pairs, which `share` does not change."""
    files = (
      *list_passage_files(self.passages),
      *list_shards(self.generated_queries),
    )
    return {
      "files": describe_files(files),
      "languages": self.languages,
      "num_queries": self.num_queries,
      "sample": self.sample,
    }
