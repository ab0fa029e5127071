"""The dual encoder as the training loop sees it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from xqg_jax.checkpoints import load_dual_encoder, save_model_files
from xqg_jax.errors import InputError
from xqg_jax.losses import in_batch_softmax_loss
from xqg_jax.models.dual_encoder import (
  SIDES,
  DualEncoder,
  DualEncoderConfig,
  Projection,
  Side,
  make_network,
  side_name,
)
from xqg_jax.models.encoders import (
  RUN_FIELDS,
  EncoderConfig,
  encoder_config_to_hf,
  get_width,
  make_encoder,
  with_dropout,
)
from xqg_jax.models.parameters import init_params, param_axes
from xqg_jax.tokenizers import Tokenizer
from xqg_jax.trainable import (
  Batch,
  Lengths,
  Metrics,
  Params,
  Path,
  check_lengths,
  check_vocabulary_size,
  complete_config,
  complete_tokenizer,
  register_tasks_of,
)


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
    temperature: the similarities are divided by it.
    num_negatives: hard negatives drawn for each question and step.
    dropout_rate: of this training, in hidden states and attention alike.
    dtype: "float32" or "bfloat16", of matrix products.
  """

  config: EncoderConfig | None = None
  encoder: DualEncoderConfig | None = None
  tokenizer: Tokenizer | Path | None = None
  temperature: float = 1.0
  num_negatives: int = 7
  dropout_rate: float = 0.1
  dtype: str = "float32"

  task_kind = "dual_encoder"
  num_draws = 4

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
    model = dataclasses.replace(
      self,
      config=with_dropout(config, self.dropout_rate),
      encoder=encoder,
      tokenizer=tokenizer,
    )
    make_encoder(model.config, self.dtype)  # refuses a dtype that overflows
    return model, found and _add_params(found, encoder)

  def _load(self, checkpoint_path: Path) -> DualEncoder:
    """The checkpoint with what it has, which may be less than is wanted."""
    config = self.encoder and dataclasses.replace(
      self.encoder, projection=None, share_encoders=True
    )
    return load_dual_encoder(checkpoint_path, config=config)

  @functools.cached_property
  def module(self) -> nn.Module:
    """The transformer."""
    return make_encoder(self.config, self.dtype)

  @functools.cached_property
  def network(self) -> nn.Module:
    """The transformer of each side, with pooling and projection."""
    return make_network(self.module, self.encoder)

  def init(self, rng: Array) -> Params:
    """See `TrainableModel`."""
    return init_params(self.network, rng)

  def param_axes(self) -> Any:
    """See `TrainableModel`."""
    return param_axes(self.network)

  def loss(
    self, params: Params, batch: Batch, rng: Array
  ) -> tuple[Float[Array, ""], Metrics]:
    """In-batch softmax loss over the passages of the whole batch.

    `accuracy` is the share of questions whose positive comes first.
    """
    query_rng, passage_rng = jax.random.split(rng)
    # [queries, length], [queries, negatives, length]
    #   -> [queries, 1 + negatives, length]
    positives = batch["passage_tokens"][:, None]
    tokens = jnp.concatenate(
      [positives, batch["negative_passage_tokens"]], axis=1
    )
    # [queries, 1 + negatives, length] -> [passages, length]
    tokens = tokens.reshape(-1, tokens.shape[-1])
    return in_batch_softmax_loss(
      self._embed(params, batch["query_tokens"], "query", query_rng),
      self._embed(params, tokens, "passage", passage_rng),
      temperature=self.temperature,
      passage_mask=jnp.any(tokens != self.tokenizer.pad_id, axis=1),
    )

  def _embed(
    self,
    params: Params,
    tokens: Int[Array, "rows length"],
    side: Side,
    rng: Array,
  ) -> Float[Array, "rows dim"]:
    """Embeds one text a row."""
    engine = DualEncoder(
      module=self.module,
      params=params,
      config=self.encoder,
      tokenizer=self.tokenizer,
      fingerprint="",
    )
    segment_ids = (tokens != self.tokenizer.pad_id).astype(jnp.int32)
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    positions = jnp.broadcast_to(positions, tokens.shape) * segment_ids
    # [rows, length] -> [rows, 1, dim]
    embeddings = engine.embed(
      params,
      tokens,
      segment_ids,
      positions,
      side=side,
      num_segments=1,
      dropout_rng=rng,
    )
    return embeddings[:, 0]

  def get_feature_lengths(self, lengths: Mapping[str, int] | None) -> Lengths:
    """The lengths given, else the encoder's; adds that of the negatives."""
    defaults = {
      "query": self.encoder.query_length,
      "passage": self.encoder.passage_length,
    }
    lengths = check_lengths(lengths, defaults)
    return {
      **lengths,
      "negative_passages": (self.num_negatives, lengths["passage"]),
    }

  def register_tasks(
    self, mixture_or_task_name: str, data_dir: Path | None
  ) -> None:
    """See `TrainableModel`."""
    register_tasks_of(
      self,
      mixture_or_task_name,
      data_dir,
      encoder_tokenizer=self.tokenizer,
      encoder_config=self.encoder,
    )

  def make_feature_converter(self) -> Any:
    """See `TrainableModel`."""
    from xqg_jax.feature_converters import DualEncoderFeatureConverter

    return DualEncoderFeatureConverter(self.tokenizer.pad_id)

  def save_files(self, model_dir: Path) -> None:
    """See `TrainableModel`."""
    save_model_files(
      model_dir,
      model_config_hf=encoder_config_to_hf(self.config),
      tokenizer=self.tokenizer,
      dual_encoder_config=self.encoder,
    )

  def describe(self) -> dict[str, Any]:
    """See `TrainableModel`."""
    return {
      "kind": self.task_kind,
      "config": dataclasses.asdict(self.config),
      "encoder": dataclasses.asdict(self.encoder),
      "tokenizer": self.tokenizer.fingerprint,
      "temperature": self.temperature,
      "num_negatives": self.num_negatives,
      "dtype": self.dtype,
    }


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
    init = jax.jit(Projection(config.projection).init)
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
