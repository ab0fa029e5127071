"""The two models as the training loop sees them.

`QueryGeneratorModel` and `DualEncoderModel` have one small protocol: init or
restore parameters, name their axes, give the loss of a batch, and write the
files that make MODEL_DIR a checkpoint which every other stage opens.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from xqg_jax.checkpoints import (
  load_dual_encoder,
  load_query_generator,
  save_model_files,
)
from xqg_jax.errors import InputError
from xqg_jax.losses import chunked_cross_entropy, in_batch_softmax_loss
from xqg_jax.models.bert import BertConfig, BertEncoder
from xqg_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from xqg_jax.models.parameters import init_params, param_axes
from xqg_jax.models.t5 import T5, T5Config
from xqg_jax.tokenizers import Tokenizer, load_tokenizer

Path = str | os.PathLike
Params = Mapping[str, Any]
Batch = Mapping[str, Int[Array, "..."]]
Metrics = dict[str, Float[Array, ""]]
Lengths = Mapping[str, int | tuple[int, int]]


@runtime_checkable
class TrainableModel(Protocol):
  """What the training loop asks of a model.

  Attributes:
    task_kind: ending of the names of its tasks.
    num_draws: how many different draws of an example's passages to prepare.
    tokenizer: the tokenizer, or its folder; None takes the checkpoint's.
  """

  task_kind: str
  num_draws: int
  tokenizer: Tokenizer | Path | None

  def complete(
    self, checkpoint_path: Path | None
  ) -> tuple["TrainableModel", Params | None]:
    """Fills in what was left to the checkpoint; returns its params, if any."""

  def init(self, rng: Array) -> Params:
    """Random parameters."""

  def param_axes(self) -> Any:
    """The logical axis names of each parameter."""

  def loss(
    self, params: Params, batch: Batch, rng: Array
  ) -> tuple[Float[Array, ""], Metrics]:
    """Mean loss of a batch, with dropout by `rng`, and further metrics."""

  def get_feature_lengths(self, lengths: Mapping[str, int] | None) -> Lengths:
    """Lengths of all task features, from those that the user gave."""

  def register_tasks(self, mixture_or_task_name: str, data_dir: Path) -> None:
    """Registers the tasks over a local folder to which the name belongs."""

  def make_feature_converter(self) -> Any:
    """The `seqio.FeatureConverter` that makes batches for `loss`."""

  def save_files(self, model_dir: Path) -> None:
    """Writes configuration and tokenizer beside the checkpoints."""

  def describe(self) -> dict[str, Any]:
    """JSON-able identity: whatever decides the bytes of a checkpoint."""


def _complete_tokenizer(
  given: Tokenizer | Path | None, found: Tokenizer | None
) -> Tokenizer:
  tokenizer = given or found
  if tokenizer is None:
    raise InputError(
      "no tokenizer for the model",
      mend="give its folder, or INITIAL_CHECKPOINT_PATH",
    )
  if not isinstance(tokenizer, Tokenizer):
    tokenizer = load_tokenizer(tokenizer)
  if found is not None and tokenizer.fingerprint != found.fingerprint:
    raise InputError(
      "the tokenizer is not that of the initial checkpoint",
      mend="leave the tokenizer out, or train from scratch",
    )
  return tokenizer


def _complete_config(given: Any, found: Any, own: tuple[str, ...]) -> Any:
  """Takes the checkpoint's config, or checks that the given one equals it."""
  if given is None:
    if found is None:
      raise InputError(
        "no config for the model", mend="give one, or INITIAL_CHECKPOINT_PATH"
      )
    return found
  if found is not None:
    differing = [
      field.name
      for field in dataclasses.fields(given)
      if field.name not in own
      and getattr(given, field.name) != getattr(found, field.name)
    ]
    if differing:
      raise InputError(
        f"the config differs from the initial checkpoint's in "
        f"{', '.join(differing)}",
        mend="leave the config out, or train from scratch",
      )
  return given


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueryGeneratorModel:
  """An mT5 that learns to write the question to a prompt.

  Attributes:
    config: shape of the network; None takes the initial checkpoint's.
    tokenizer: the tokenizer, or its folder; None takes the checkpoint's.
    dropout_rate: of this training.
    dtype: "float32" or "bfloat16", of matrix products.
    loss_chunk_length: target positions whose logits exist at once; None
      chooses by their number (`losses.chunked_cross_entropy`).
  """

  config: T5Config | None = None
  tokenizer: Tokenizer | Path | None = None
  dropout_rate: float = 0.1
  dtype: str = "float32"
  loss_chunk_length: int | None = None

  task_kind = "generation"
  num_draws = 1

  def complete(
    self, checkpoint_path: Path | None
  ) -> tuple["QueryGeneratorModel", Params | None]:
    """See `TrainableModel`."""
    found = load_query_generator(checkpoint_path) if checkpoint_path else None
    config = _complete_config(
      self.config, found and found.config, ("dropout_rate", "dtype")
    )
    config = dataclasses.replace(
      config, dropout_rate=self.dropout_rate, dtype=self.dtype
    )
    tokenizer = _complete_tokenizer(self.tokenizer, found and found.tokenizer)
    if tokenizer.vocab_size > config.vocab_size:
      raise InputError(
        f"the tokenizer has {tokenizer.vocab_size} words, the model "
        f"{config.vocab_size}",
        mend="raise vocab_size in the model's config",
      )
    model = dataclasses.replace(self, config=config, tokenizer=tokenizer)
    return model, found and found.params

  @functools.cached_property
  def module(self) -> T5:
    """The network."""
    return T5(self.config)

  def init(self, rng: Array) -> Params:
    """See `TrainableModel`."""
    return init_params(self.module, rng)

  def param_axes(self) -> Any:
    """See `TrainableModel`."""
    return param_axes(self.module)

  def loss(
    self, params: Params, batch: Batch, rng: Array
  ) -> tuple[Float[Array, ""], Metrics]:
    """Mean cross-entropy of a target token, in nats; `accuracy` of tokens."""
    hidden = self.module.apply(
      {"params": params},
      batch["encoder_input_tokens"],
      batch["decoder_input_tokens"],
      batch["decoder_target_tokens"],
      deterministic=False,
      rngs={"dropout": rng},
      method=T5.decode_hidden,
    )
    sums = chunked_cross_entropy(
      hidden,
      self._output_kernel(params).astype(hidden.dtype),
      batch["decoder_target_tokens"],
      batch["decoder_loss_weights"].astype(jnp.float32),
      chunk_length=self.loss_chunk_length,
    )
    weight = jnp.maximum(sums.weight, 1.0)
    return sums.loss / weight, {"accuracy": sums.correct / weight}

  def _output_kernel(self, params: Params) -> Float[Array, "embed vocab"]:
    if not self.config.logits_via_embedding:
      return params["decoder"]["logits_dense"]["kernel"]
    table = params["token_embedder"]["embedding"]
    return table.T / jnp.sqrt(self.config.emb_dim)

  def get_feature_lengths(self, lengths: Mapping[str, int] | None) -> Lengths:
    """The lengths given, else 256 for `inputs` and 32 for `targets`."""
    return _check_lengths(lengths, {"inputs": 256, "targets": 32})

  def register_tasks(self, mixture_or_task_name: str, data_dir: Path) -> None:
    """See `TrainableModel`."""
    _register_local_tasks(
      self,
      mixture_or_task_name,
      data_dir=data_dir,
      generator_tokenizer=self.tokenizer,
    )

  def make_feature_converter(self) -> Any:
    """See `TrainableModel`."""
    import seqio  # pulls in TensorFlow

    return seqio.EncDecFeatureConverter(pack=False)

  def save_files(self, model_dir: Path) -> None:
    """See `TrainableModel`."""
    save_model_files(
      model_dir, model_config_hf=self.config.to_hf(), tokenizer=self.tokenizer
    )

  def describe(self) -> dict[str, Any]:
    """See `TrainableModel`."""
    return {
      "kind": self.task_kind,
      "config": dataclasses.asdict(self.config),
      "tokenizer": self.tokenizer.fingerprint,
      "loss_chunk_length": self.loss_chunk_length,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoderModel:
  """A dual encoder that learns to bring questions to their passages.

  Attributes:
    config: shape of the transformer; None takes the initial checkpoint's.
    encoder: pooling, prefixes and lengths; None takes the checkpoint's.
    tokenizer: the tokenizer, or its folder; None takes the checkpoint's.
    temperature: the similarities are divided by it.
    num_negatives: hard negatives drawn for each question and step.
    dropout_rate: of this training, in hidden states and attention alike.
    dtype: "float32" or "bfloat16", of matrix products.
  """

  config: BertConfig | None = None
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
    found = None
    if checkpoint_path:
      found = load_dual_encoder(checkpoint_path, config=self.encoder)
    rates = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    config = _complete_config(self.config, found and found.module.config, rates)
    config = dataclasses.replace(
      config, **dict.fromkeys(rates, self.dropout_rate)
    )
    encoder = _complete_config(self.encoder, found and found.config, ())
    tokenizer = _complete_tokenizer(self.tokenizer, found and found.tokenizer)
    if tokenizer.vocab_size > config.vocab_size:
      raise InputError(
        f"the tokenizer has {tokenizer.vocab_size} words, the model "
        f"{config.vocab_size}",
        mend="raise vocab_size in the model's config",
      )
    model = dataclasses.replace(
      self, config=config, encoder=encoder, tokenizer=tokenizer
    )
    return model, found and found.params

  @functools.cached_property
  def module(self) -> BertEncoder:
    """The transformer."""
    return BertEncoder(self.config, jnp.dtype(self.dtype))

  def init(self, rng: Array) -> Params:
    """See `TrainableModel`."""
    return init_params(self.module, rng)

  def param_axes(self) -> Any:
    """See `TrainableModel`."""
    return param_axes(self.module)

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
      self._embed(params, batch["query_tokens"], query_rng),
      self._embed(params, tokens, passage_rng),
      temperature=self.temperature,
      passage_mask=jnp.any(tokens != self.tokenizer.pad_id, axis=1),
    )

  def _embed(
    self, params: Params, tokens: Int[Array, "rows length"], rng: Array
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
    lengths = _check_lengths(lengths, defaults)
    return {
      **lengths,
      "negative_passages": (self.num_negatives, lengths["passage"]),
    }

  def register_tasks(self, mixture_or_task_name: str, data_dir: Path) -> None:
    """See `TrainableModel`."""
    _register_local_tasks(
      self,
      mixture_or_task_name,
      data_dir=data_dir,
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
      model_config_hf=self.config.to_hf(),
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


def _register_local_tasks(
  model: TrainableModel, mixture_or_task_name: str, **arguments: Any
) -> None:
  name, kind, _ = mixture_or_task_name.partition(f"_{model.task_kind}")
  if not kind:
    raise InputError(
      f"{mixture_or_task_name!r} names no task that this model learns from "
      "a local folder",
      mend=f"set MIXTURE_OR_TASK_NAME to <name>_{model.task_kind}",
    )
  # SeqIO pulls in TensorFlow, which only training needs.
  from xqg_jax.tasks import register_local_tasks

  register_local_tasks(name=name, **arguments)


def _check_lengths(
  given: Mapping[str, int] | None, defaults: Mapping[str, int]
) -> dict[str, int]:
  if given is None:
    return dict(defaults)
  if set(given) != set(defaults):
    raise InputError(
      f"TASK_FEATURE_LENGTHS names {', '.join(given)}",
      mend=f"give the lengths of {' and '.join(defaults)}",
    )
  return dict(given)
