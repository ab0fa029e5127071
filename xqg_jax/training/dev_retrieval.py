"""Retrieval on dev questions during training.

A subset of the passages is embedded by the parameters as they lie on the
devices, searched exactly, and scored as `evaluate` scores it.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int32

from xqg_jax.data.answers import scored_answers
from xqg_jax.data.passages import read_passages
from xqg_jax.data.runs import Run, make_run
from xqg_jax.encoding.batches import Batch, choose_rows_per_batch, make_batches
from xqg_jax.encoding.embedder import ProgramKey, sum_batches
from xqg_jax.errors import InputError
from xqg_jax.evaluation.comparison import compare_variants
from xqg_jax.evaluation.scoring import ScoringInputs, score_variants_by_question
from xqg_jax.evaluation.variants import Variant
from xqg_jax.indexes.exact.search import search_exact
from xqg_jax.io.progress import Progress
from xqg_jax.models.dual_encoder.config import Side
from xqg_jax.models.dual_encoder.text_embedder import TextEmbedder
from xqg_jax.models.encoder_families import make_encoder
from xqg_jax.runtime.prefetch import prefetch
from xqg_jax.training.dual_encoder_model import DualEncoderModel
from xqg_jax.training.trainable import completed, completed_tokenizer

TokenLists = Sequence[Int32[np.ndarray, " _"]]

# Texts whose vectors are on the device at once.
_TEXTS_PER_CHUNK = 8192
_MAX_RANK = 100
# The measures as `evaluate` names them, and as they are shown here.
_NAMES = {"R@2kt": "dev_R@2kt", "RR@10": "dev_MRR@10"}


class DevRetrieval:
  """Questions and a subset of the passages, kept ready to be measured on.

  Texts are read, checked and tokenised once. Beside them, a measurement needs
  the memory of one chunk of vectors. Over several hosts each makes the same
  calls and gets the same values.
  """

  def __init__(
    self,
    model: DualEncoderModel,
    *,
    questions: str | os.PathLike,
    passages: str | os.PathLike,
    mesh: Mesh,
  ):
    """Reads the texts.

    Args:
      model: the model in training, complete.
      questions: XOR-TyDi JSONL with answers.
      passages: TSV or JSONL.
      mesh: the devices of the training run.

    Raises:
      InputError: bad input; the message names file and line.
    """
    self._inputs = _read_inputs(questions)
    self._passages = {p.passage_id: p for p in read_passages(passages)}
    self._passage_ids = list(self._passages)
    self._mesh = mesh
    self._config = config = completed(model.encoder)
    self._tokenizer = tokenizer = completed_tokenizer(model.tokenizer)
    # In float32, as the stages load it.
    embedder = TextEmbedder(make_encoder(completed(model.config)), config)
    self._program = ProgramKey(embedder, mesh)
    self._tokens: dict[Side, TokenLists] = {
      "query": tokenizer.encode_batch(
        [config.format_query(q.question) for q in self._inputs.questions],
        max_length=config.query_length,
      ),
      "passage": tokenizer.encode_batch(
        [config.format_passage(p) for p in self._passages.values()],
        max_length=config.passage_length,
      ),
    }

  def measure(self, params: Any) -> dict[str, float]:
    """Ranks the passages for every question and scores the rankings.

    Args:
      params: the model's parameters, laid out over the mesh in any way.

    Returns:
      {"dev_R@2kt", "dev_MRR@10"} in percent, means over languages of the
      languages' means. A passage is relevant when it contains an answer.

    Raises:
      InputError: an embedding that is not finite.
    """
    queries = [vectors for _, vectors in self._embed(params, "query")]
    found = search_exact(
      np.concatenate(queries), self._embed(params, "passage"), _MAX_RANK
    )
    question_ids = [q.question_id for q in self._inputs.questions]
    return self._score(make_run(question_ids, self._passage_ids, *found))

  def _embed(
    self, params: Any, side: Side
  ) -> Iterator[tuple[int, Float32[np.ndarray, "texts dim"]]]:
    """Yields (number of the first text, vectors), chunk by chunk."""
    tokens = self._tokens[side]
    # Few sizes of results, and every chunk has the same programs.
    capacity = min(_TEXTS_PER_CHUNK, 1 << (len(tokens) - 1).bit_length())
    max_length = getattr(self._config, f"{side}_length")
    rows_per_batch = choose_rows_per_batch(
      max_length=max_length,
      mesh=self._mesh,
      max_tokens=capacity * max_length,
    )

    def make_chunk(start: int) -> list[Batch]:
      chunk = tokens[start : start + capacity]
      return make_batches(
        chunk,
        np.arange(len(chunk)),
        num_targets=capacity,
        rows_per_batch=rows_per_batch,
        pad_id=self._tokenizer.pad_id,
        side=side,
      )

    starts = range(0, len(tokens), capacity)
    progress = Progress(starts, desc=f"dev: {side}", leave=False, delay=5)
    for start, batches in zip(
      progress, prefetch(map(make_chunk, starts)), strict=True
    ):
      sums = sum_batches(self._program, params, batches, num_targets=capacity)
      yield start, np.asarray(sums)[: len(tokens) - start]

  def _score(self, run: Run) -> dict[str, float]:
    variant = Variant("dev", run)
    scores, _ = score_variants_by_question(
      [variant], self._inputs, self._passages
    )
    # A variant that is the baseline itself is averaged and not tested.
    found = compare_variants(scores, baseline="dev", rounds=1, seed=0)["dev"]
    return {
      shown: found[name]["macro"]["value"] for name, shown in _NAMES.items()
    }


def _read_inputs(questions: str | os.PathLike) -> ScoringInputs:
  """What the rankings are scored by; refuses what cannot be scored at all."""
  settings = {
    "token_budgets": [2000],
    "measures": ["RR@10"],
    # Needs no data.
    "tokenizer": "no_sentences",
    "qrels_field": None,
  }
  inputs = ScoringInputs.read(questions, None, settings, punkt_dir=None)
  if not any(map(scored_answers, inputs.questions)):
    raise InputError(
      "no question can be scored: all answers are yes or no",
      where=questions,
      mend="give questions with other answers",
    )
  return inputs
