"""Trainable models: the interface that the training loop asks for.

`QueryGeneratorModel` and `DualEncoderModel` have one small protocol: init or
restore parameters, name their axes, give the loss of a batch, and write the
files that make MODEL_DIR a checkpoint which every other stage opens.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from xqg_jax.errors import InputError
from xqg_jax.text.tokenizer import Tokenizer, load_tokenizer

T = TypeVar("T")
Path = str | os.PathLike
Params = Mapping[str, Any]
Batch = Mapping[str, Shaped[Array, "..."]]
HostBatch = Mapping[str, Shaped[np.ndarray, "..."]]
Metrics = dict[str, Float[Array, ""]]
Lengths = Mapping[str, int | tuple[int, int]]


@runtime_checkable
class TrainableModel(Protocol):
  """Interface of a model for the training loop."""

  @property
  def task_kind(self) -> str:
    """Ending of the names of its tasks."""
    ...

  @property
  def is_encoder(self) -> bool:
    """Whether it makes vectors, which retrieval needs."""
    ...

  @property
  def num_draws(self) -> int:
    """How many different draws of an example's texts to prepare."""
    ...

  @property
  def tokenizer(self) -> Tokenizer | Path | None:
    """The tokenizer, or its folder; None takes the checkpoint's."""
    ...

  def complete(
    self, checkpoint_path: Path | None
  ) -> tuple["TrainableModel", Params | None]:
    """Fills in what was left to the checkpoint; returns its params, if any."""
    ...

  def init(self, rng: Array) -> Params:
    """Random parameters."""
    ...

  def param_axes(self) -> Any:
    """The logical axis names of each parameter."""
    ...

  def loss(
    self, params: Params, batch: Batch, rng: Array
  ) -> tuple[Float[Array, ""], Metrics]:
    """Mean loss of a batch, with dropout by `rng`, and further metrics."""
    ...

  def get_feature_lengths(self, lengths: Mapping[str, int] | None) -> Lengths:
    """Lengths of all task features, from those that the user gave."""
    ...

  def task_settings(self) -> dict[str, Any]:
    """What its tasks are registered with: tokenizer and prefixes or prompts.

    The names are those of `tasks.register_local_tasks`.
    """
    ...

  def make_feature_converter(self) -> Any:
    """The `seqio.FeatureConverter` that makes batches for `loss`."""
    ...

  def prepare_batch(self, batch: HostBatch, *, num_groups: int) -> HostBatch:
    """Turns a batch of the feature converter into the input of `loss`.

    Args:
      batch: this process's part of a batch.
      num_groups: groups of this process's devices that share it; the first
        axes of all arrays are multiples of it.
    """
    ...

  def count_tokens(self, batch: HostBatch) -> int:
    """Tokens in a prepared batch that are not padding."""
    ...

  def batch_shapes(
    self, lengths: Lengths, batch_size: int
  ) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Shapes of a prepared batch, the largest that can come.

    Args:
      lengths: of all task features (`get_feature_lengths`).
      batch_size: examples.
    """
    ...

  def save_files(
    self, model_dir: Path, languages: Sequence[str] | None = None
  ) -> None:
    """Writes configuration and tokenizer beside the checkpoints.

    Args:
      model_dir: folder of the checkpoints.
      languages: those that a query generator is trained on; None: not known.
    """
    ...

  def describe(self) -> dict[str, Any]:
    """JSON-able identity: whatever decides the bytes of a checkpoint."""
    ...


def completed(value: T | None) -> T:
  """What `complete` has filled in.

  Raises:
    ValueError: it has not been called.
  """
  if value is None:
    raise ValueError("the model is not complete: call `complete` first")
  return value


def completed_tokenizer(tokenizer: Tokenizer | Path | None) -> Tokenizer:
  """A model's tokenizer, which `complete` has loaded.

  Raises:
    ValueError: it has not been called.
  """
  if not isinstance(tokenizer, Tokenizer):
    raise ValueError("the model is not complete: call `complete` first")
  return tokenizer


def complete_tokenizer(
  given: Tokenizer | Path | None, found: Tokenizer | None
) -> Tokenizer:
  """Loads the tokenizer given, or takes the checkpoint's.

  Raises:
    InputError: there is none, or it is not the checkpoint's.
  """
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


def complete_config(given: Any, found: Any, own: tuple[str, ...] = ()) -> Any:
  """Takes the checkpoint's config, or checks that the given one equals it.

  Args:
    given: what the user gave; None takes `found`.
    found: what the initial checkpoint has; None: there is none.
    own: fields that belong to the run and may differ.

  Raises:
    InputError: neither is there, or they differ.
  """
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
      and getattr(given, field.name) != getattr(found, field.name, None)
    ]
    if differing:
      raise InputError(
        f"the config differs from the initial checkpoint's in "
        f"{', '.join(differing)}",
        mend="leave the config out, or train from scratch",
      )
  return given


def check_vocabulary_size(tokenizer: Tokenizer, vocab_size: int) -> None:
  """Refuses a tokenizer with more tokens than the model has rows for."""
  if tokenizer.vocab_size > vocab_size:
    raise InputError(
      f"the tokenizer has {tokenizer.vocab_size} tokens, the model "
      f"{vocab_size}",
      mend="raise vocab_size in the model's config",
    )


def check_lengths(
  given: Mapping[str, int] | None, defaults: Mapping[str, int]
) -> dict[str, int]:
  """The lengths given, which must name the same features, else the defaults."""
  if given is None:
    return dict(defaults)
  if set(given) != set(defaults):
    raise InputError(
      f"TASK_FEATURE_LENGTHS names {', '.join(given)}",
      mend=f"give the lengths of {' and '.join(defaults)}",
    )
  return dict(given)
