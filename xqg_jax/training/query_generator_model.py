"""Query generator as a trainable model: features, loss, checkpoints."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from xqg_jax.checkpoints import load_query_generator, save_model_files
from xqg_jax.data.languages import LANGUAGES
from xqg_jax.errors import InputError
from xqg_jax.models.parameters import init_params, param_axes
from xqg_jax.models.t5.network import T5, T5Config
from xqg_jax.text.prompts import LANGUAGE_IN, make_decoder_start
from xqg_jax.text.tokenizer import Tokenizer
from xqg_jax.training.losses.cross_entropy import chunked_cross_entropy
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

# What the feature converter makes, and the task feature that it is as long as.
_BATCH_FEATURES = {
  "encoder_input_tokens": "inputs",
  "decoder_input_tokens": "targets",
  "decoder_target_tokens": "targets",
  "decoder_loss_weights": "targets",
}


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
    language_in: "prompt": the prompt names the language of the question, as in
      the paper. "decoder": the prompt is title and passage alone, and the
      question begins with the language's name, which is given: nothing is
      learned of it. One encoded prompt then serves all languages.
  """

  config: T5Config | None = None
  tokenizer: Tokenizer | Path | None = None
  dropout_rate: float = 0.1
  dtype: str = "float32"
  loss_chunk_length: int | None = None
  language_in: str = "prompt"

  task_kind = "generation"
  is_encoder = False
  num_draws = 1

  def __post_init__(self):
    if self.language_in not in LANGUAGE_IN:
      raise InputError(
        f"language_in is {self.language_in!r}",
        mend="use one of " + ", ".join(LANGUAGE_IN),
      )

  def complete(
    self, checkpoint_path: Path | None
  ) -> tuple["QueryGeneratorModel", Params | None]:
    """See `TrainableModel`."""
    given = self.tokenizer
    found = None
    if checkpoint_path:
      # T5X's checkpoints have none: a path says where theirs is.
      is_path = not isinstance(given, Tokenizer | None)
      found = load_query_generator(
        checkpoint_path, tokenizer_path=given if is_path else None
      )
      given = None if is_path else given
    config = complete_config(
      self.config, found and found.config, ("dropout_rate", "dtype")
    )
    config = dataclasses.replace(
      config, dropout_rate=self.dropout_rate, dtype=self.dtype
    )
    tokenizer = complete_tokenizer(given, found and found.tokenizer)
    check_vocabulary_size(tokenizer, config.vocab_size)
    model = dataclasses.replace(self, config=config, tokenizer=tokenizer)
    return model, found and found.params

  @property
  def _sizes(self) -> T5Config:
    return completed(self.config)

  @property
  def _tokenizer(self) -> Tokenizer:
    return completed_tokenizer(self.tokenizer)

  @functools.cached_property
  def module(self) -> T5:
    """The network."""
    return T5(self._sizes)

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
    hidden: Any = self.module.apply(
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
    if not self._sizes.logits_via_embedding:
      return params["decoder"]["logits_dense"]["kernel"]
    table = params["token_embedder"]["embedding"]
    return table.T / jnp.sqrt(self._sizes.emb_dim)

  def get_feature_lengths(self, lengths: Mapping[str, int] | None) -> Lengths:
    """The lengths given, else 256 for `inputs` and 32 for `targets`."""
    return check_lengths(lengths, {"inputs": 256, "targets": 32})

  def task_settings(self) -> dict[str, Any]:
    """See `TrainableModel`."""
    return {
      "generator_tokenizer": self._tokenizer,
      "language_in": self.language_in,
    }

  def make_feature_converter(self) -> Any:
    """See `TrainableModel`."""
    import seqio  # pulls in TensorFlow

    return seqio.EncDecFeatureConverter(pack=False)

  def prepare_batch(self, batch: HostBatch, *, num_groups: int) -> HostBatch:
    """See `TrainableModel`; the language's name weighs nothing."""
    del num_groups
    if self.language_in == "prompt":
      return batch
    is_given = _find_starts(batch["decoder_target_tokens"], self._starts)
    weights = np.where(is_given, 0, batch["decoder_loss_weights"])
    return {**batch, "decoder_loss_weights": weights}

  @functools.cached_property
  def _starts(self) -> list[Int[np.ndarray, " length"]]:
    """The tokens of every language's name."""
    rows = self._tokenizer.encode_batch(
      [make_decoder_start(language) for language in LANGUAGES.values()],
      max_length=64,
    )
    return [row[:-1] for row in rows]  # without the end of sequence

  def count_tokens(self, batch: HostBatch) -> int:
    """See `TrainableModel`."""
    prompts = batch["encoder_input_tokens"] != self._tokenizer.pad_id
    return int(prompts.sum() + batch["decoder_loss_weights"].sum())

  def batch_shapes(
    self, lengths: Lengths, batch_size: int
  ) -> dict[str, jax.ShapeDtypeStruct]:
    """See `TrainableModel`."""
    return {
      name: jax.ShapeDtypeStruct((batch_size, lengths[feature]), jnp.int32)
      for name, feature in _BATCH_FEATURES.items()
    }

  def save_files(
    self, model_dir: Path, languages: Sequence[str] | None = None
  ) -> None:
    """See `TrainableModel`."""
    save_model_files(
      model_dir,
      model_config_hf=self._sizes.to_hf(),
      tokenizer=self._tokenizer,
      generator_task={
        "language_in": self.language_in,
        "languages": languages and list(languages),
      },
    )

  def describe(self) -> dict[str, Any]:
    """See `TrainableModel`."""
    return {
      "kind": self.task_kind,
      "config": dataclasses.asdict(self._sizes),
      "tokenizer": self._tokenizer.fingerprint,
      "loss_chunk_length": self.loss_chunk_length,
      "language_in": self.language_in,
    }


def _find_starts(
  targets: Int[np.ndarray, "b q"], starts: list[Int[np.ndarray, "..."]]
) -> Bool[np.ndarray, "b q"]:
  """Marks the beginnings of rows that equal one of `starts`.

  >>> rows = np.array([[4, 5, 7, 1], [6, 7, 1, 0]])
  >>> _find_starts(rows, [np.array([4, 5]), np.array([6])]).astype(int)
  array([[1, 1, 0, 0],
         [1, 0, 0, 0]])
  """
  found = np.zeros(targets.shape, bool)
  for start in starts:
    if len(start) > targets.shape[1]:
      continue
    is_here = (targets[:, : len(start)] == start).all(axis=1)
    found[is_here, : len(start)] = True
  return found
