"""Dual encoder as a trainable model: features, loss, checkpoints."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from xqg_jax.checkpoints import load_dual_encoder, save_model_files
from xqg_jax.data.training_pairs import MAX_ANSWERS
from xqg_jax.errors import InputError
from xqg_jax.models.dual_encoder.config import (
  SIDES,
  DualEncoderConfig,
  Side,
  side_name,
)
from xqg_jax.models.dual_encoder.dual_encoder import DualEncoder
from xqg_jax.models.dual_encoder.network import Projection, make_network
from xqg_jax.models.dual_encoder.text_embedder import TextEmbedder
from xqg_jax.models.encoder_families import (
  RUN_FIELDS,
  EncoderConfig,
  encoder_config_to_hf,
  get_width,
  make_encoder,
  with_dropout,
)
from xqg_jax.models.parameters import init_params, param_axes
from xqg_jax.text.packing import get_num_segments
from xqg_jax.text.tokenizer import Tokenizer
from xqg_jax.training.chunked_encoding import (
  TextRows,
  embed_rows,
  make_padded_rows,
  take_texts,
)
from xqg_jax.training.losses.ranking import RankingObjective
from xqg_jax.training.rows import count_rows, pack_batch
from xqg_jax.training.trainable import (
  Batch,
  HostBatch,
  Lengths,
  Metrics,
  Params,
  Path,
  check_lengths,
  check_vocabulary_size,
  complete_config,
  complete_tokenizer,
  completed,
  completed_tokenizer,
)

# Task feature -> the padded batch's name of it.
_TOKEN_FEATURES = {
  "query": "query_tokens",
  "passage": "passage_tokens",
  "negative_passages": "negative_passage_tokens",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoderModel:
  """A dual encoder that learns to bring questions to their passages.

  Attributes:
    config: sizes of the transformer, a `BertConfig` or a `T5Config`; None
      takes the initial checkpoint's.
    encoder: pooling, projection, prefixes and lengths; None takes the
      checkpoint's. A projection that the checkpoint lacks starts at random,
      alike whatever the seed; separate sides start alike from a shared one.
    tokenizer: the tokenizer, or its folder; None takes the checkpoint's.
    objective: the loss.
    num_negatives: hard negatives drawn for each question and step.
    row_lengths: packs the texts of a batch into rows of so many tokens, such as
      {"query": 128, "passage": 128}, so that few are padding; None: each text
      has a row, padded to the longest.
    rows_per_chunk: rows that are encoded at once, over all devices; large
      batches fit in memory by it. A multiple of the devices that share a batch.
      None: all.
    dropout_rate: of this training, in hidden states and attention alike.
    dtype: "float32" or "bfloat16", of matrix products.
  """

  config: EncoderConfig | None = None
  encoder: DualEncoderConfig | None = None
  tokenizer: Tokenizer | Path | None = None
  objective: RankingObjective = dataclasses.field(
    default_factory=RankingObjective
  )
  num_negatives: int = 7
  row_lengths: Mapping[str, int] | None = None
  rows_per_chunk: int | None = None
  dropout_rate: float = 0.1
  dtype: str = "float32"

  task_kind = "dual_encoder"
  is_encoder = True

  @property
  def num_draws(self) -> int:
    """See `TrainableModel`; hard negatives take most of an example's memory."""
    return 4 if self.num_negatives else 32

  def complete(
    self, checkpoint_path: Path | None
  ) -> tuple["DualEncoderModel", Params | None]:
    """See `TrainableModel`."""
    found = self._load(checkpoint_path) if checkpoint_path else None
    config = complete_config(
      self.config, found and found.module.config, RUN_FIELDS
    )
    encoder = complete_config(self.encoder or (found and found.config), None)
    if found is not None:
      encoder = _add_structure(encoder, found.config)
    tokenizer = complete_tokenizer(self.tokenizer, found and found.tokenizer)
    check_vocabulary_size(tokenizer, config.vocab_size)
    config = with_dropout(config, self.dropout_rate)
    make_encoder(config, self.dtype)  # refuses a dtype that overflows
    model = dataclasses.replace(
      self, config=config, encoder=encoder, tokenizer=tokenizer
    )
    return model, found and _add_params(found, encoder)

  def _load(self, checkpoint_path: Path) -> DualEncoder:
    """The checkpoint with what it has, which may be less than is wanted."""
    config = self.encoder and dataclasses.replace(
      self.encoder, projection=None, share_encoders=True
    )
    return load_dual_encoder(checkpoint_path, config=config)

  @property
  def _sizes(self) -> EncoderConfig:
    return completed(self.config)

  @property
  def _encoder(self) -> DualEncoderConfig:
    return completed(self.encoder)

  @property
  def _tokenizer(self) -> Tokenizer:
    return completed_tokenizer(self.tokenizer)

  @functools.cached_property
  def module(self) -> nn.Module:
    """The transformer."""
    return make_encoder(self._sizes, self.dtype)

  @functools.cached_property
  def network(self) -> nn.Module:
    """The transformer of each side, with pooling and projection."""
    return make_network(self.module, self._encoder)

  def init(self, rng: Array) -> Params:
    """See `TrainableModel`."""
    return init_params(self.network, rng)

  def param_axes(self) -> Any:
    """See `TrainableModel`."""
    return param_axes(self.network)

  def loss(
    self, params: Params, batch: Batch, rng: Array
  ) -> tuple[Float[Array, ""], Metrics]:
    """The objective over the queries and passages of the whole batch.

    `accuracy` is the share of questions whose positive comes first.

    Args:
      params: the parameters.
      batch: padded, or packed by `prepare_batch`.
      rng: decides dropout.
    """
    query_rng, passage_rng = jax.random.split(rng)
    queries, _ = self._embed(params, batch, "query", query_rng)
    passages, is_passage = self._embed(params, batch, "passage", passage_rng)
    return self.objective(
      queries, passages, passage_mask=is_passage, batch=batch
    )

  def _embed(
    self, params: Params, batch: Batch, side: Side, rng: Array
  ) -> tuple[Float[Array, "texts dim"], Bool[Array, " texts"]]:
    """Embeds the texts of a side; says where there is one."""
    rows = self._find_rows(batch, side)
    is_packed = f"{side}_slots" in batch
    length = rows.tokens.shape[1]
    embedder = TextEmbedder(self.module, self._encoder)

    def embed(rows: TextRows, key: Array | None) -> Array:
      return embedder.embed(
        params,
        *rows,
        side=side,
        num_segments=get_num_segments(length) if is_packed else 1,
        dropout_rng=key,
      )

    vectors = embed_rows(
      embed,
      rows,
      rng if self.dropout_rate else None,
      rows_per_chunk=self.rows_per_chunk,
    )
    if is_packed:
      return take_texts(vectors, batch[f"{side}_slots"])
    return vectors[:, 0], jnp.any(rows.segment_ids != 0, axis=1)

  def _find_rows(self, batch: Batch, side: Side) -> TextRows:
    if f"{side}_slots" in batch:
      return TextRows(*(batch[f"{side}_{name}"] for name in TextRows._fields))
    tokens = batch[f"{side}_tokens"]
    if side == "passage":
      # [queries, length], [queries, negatives, length]
      #   -> [queries, 1 + negatives, length] -> [passages, length]
      negatives = batch["negative_passage_tokens"]
      tokens = jnp.concatenate([tokens[:, None], negatives], axis=1)
      tokens = tokens.reshape(-1, tokens.shape[-1])
    return make_padded_rows(tokens, self._tokenizer.pad_id)

  def get_feature_lengths(self, lengths: Mapping[str, int] | None) -> Lengths:
    """The lengths given, else the encoder's; adds that of the negatives."""
    defaults = {
      "query": self._encoder.query_length,
      "passage": self._encoder.passage_length,
    }
    given = check_lengths(lengths, defaults)
    group = 1 + self.num_negatives
    known: dict[str, int | tuple[int, int]] = {
      **given,
      "negative_passages": (self.num_negatives, given["passage"]),
      "passage_ids": (group, 2),
      "answer_ids": (MAX_ANSWERS, 2),
      "teacher_scores": group,
    }
    wanted = (*_TOKEN_FEATURES, *self.objective.batch_features)
    return {name: known[name] for name in wanted}

  def task_settings(self) -> dict[str, Any]:
    """See `TrainableModel`."""
    return {
      "encoder_tokenizer": self._tokenizer,
      "encoder_config": self._encoder,
    }

  def make_feature_converter(self) -> Any:
    """See `TrainableModel`."""
    from xqg_jax.seqio_data.feature_converter import DualEncoderFeatureConverter

    return DualEncoderFeatureConverter(
      self._tokenizer.pad_id, self.objective.batch_features
    )

  def prepare_batch(self, batch: HostBatch, *, num_groups: int) -> HostBatch:
    """See `TrainableModel`.

    Raises:
      InputError: a passage without the teacher's score that the loss needs.
    """
    if "teacher_scores" in batch:
      _check_scores(batch)
    if self.row_lengths is None:
      return batch
    return pack_batch(
      batch,
      pad_id=self._tokenizer.pad_id,
      row_lengths=self.row_lengths,
      num_groups=num_groups,
    )

  def count_tokens(self, batch: HostBatch) -> int:
    """See `TrainableModel`."""
    tokens = [v for k, v in batch.items() if k.endswith("_tokens")]
    return sum(int((x != self._tokenizer.pad_id).sum()) for x in tokens)

  def batch_shapes(
    self, lengths: Lengths, batch_size: int
  ) -> dict[str, jax.ShapeDtypeStruct]:
    """See `TrainableModel`; packed rows as many as any batch can take."""
    shapes = {
      _TOKEN_FEATURES.get(feature, feature): (
        batch_size,
        *np.atleast_1d(length).tolist(),
      )
      for feature, length in lengths.items()
    }
    if self.row_lengths is not None:
      shapes = _pack_shapes(shapes, self.row_lengths)
    return {
      name: jax.ShapeDtypeStruct(
        shape, jnp.float32 if name == "teacher_scores" else jnp.int32
      )
      for name, shape in shapes.items()
    }

  def save_files(
    self, model_dir: Path, languages: Sequence[str] | None = None
  ) -> None:
    """See `TrainableModel`."""
    del languages
    save_model_files(
      model_dir,
      model_config_hf=encoder_config_to_hf(self._sizes),
      tokenizer=self._tokenizer,
      dual_encoder_config=self._encoder,
    )

  def describe(self) -> dict[str, Any]:
    """See `TrainableModel`."""
    return {
      "kind": self.task_kind,
      "config": dataclasses.asdict(self._sizes),
      "encoder": dataclasses.asdict(self._encoder),
      "tokenizer": self._tokenizer.fingerprint,
      "objective": dataclasses.asdict(self.objective),
      "num_negatives": self.num_negatives,
      "row_lengths": self.row_lengths and dict(self.row_lengths),
      "rows_per_chunk": self.rows_per_chunk,
      "dtype": self.dtype,
    }


def _pack_shapes(
  shapes: Mapping[str, tuple[int, ...]], row_lengths: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
  batch_size, count, length = shapes["negative_passage_tokens"]
  texts = {
    "query": shapes["query_tokens"],
    "passage": (batch_size * (1 + count), length),
  }
  packed = {k: v for k, v in shapes.items() if not k.endswith("_tokens")}
  for side, shape in texts.items():
    row_length = row_lengths[side]
    rows = count_rows(shape, row_length), row_length
    packed |= {f"{side}_{name}": rows for name in TextRows._fields}
    packed[f"{side}_slots"] = shape[:1]
  return packed


def _check_scores(batch: HostBatch) -> None:
  if np.isnan(batch["teacher_scores"]).any():
    raise InputError(
      "distillation needs a teacher's score for every passage, and pairs have "
      "none",
      mend="give each passage a 'teacher_score' in train_pairs.jsonl, or leave "
      "distillation out",
    )


def _add_structure(
  wanted: DualEncoderConfig, found: DualEncoderConfig
) -> DualEncoderConfig:
  """Adds to a config what the initial checkpoint's parameters have."""
  projection = wanted.projection or found.projection
  if found.projection not in (None, projection):
    raise InputError(
      f"the projection is {projection}, the initial checkpoint's is "
      f"{found.projection}",
      mend="leave the projection out, or start from the transformer alone",
    )
  return dataclasses.replace(
    wanted,
    projection=projection,
    share_encoders=wanted.share_encoders and found.share_encoders,
  )


def _add_params(found: DualEncoder, config: DualEncoderConfig) -> Params:
  """The checkpoint's parameters, and what it lacks: a projection, a side."""
  sides = [found.params]
  if not found.config.share_encoders:
    sides = [found.params[side_name(side)] for side in SIDES]
  if config.projection != found.config.projection:
    inputs = jnp.zeros((1, get_width(found.module.config)))
    init = jax.jit(Projection(completed(config.projection)).init)
    sides = [
      {**side, "projection": init(jax.random.key(0), inputs)["params"]}
      for side in sides
    ]
  if config.share_encoders:
    return sides[0]
  # A copy, since a training step takes over the memory of its parameters.
  query, passage = sides if len(sides) > 1 else (sides[0], _copy(sides[0]))
  return {side_name("query"): query, side_name("passage"): passage}


def _copy(params: Params) -> Params:
  return jax.tree.map(jnp.copy, params)
