"""Network that the decoding engine runs: prompts read once, tokens by steps.

`models.t5.network.T5` is one.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int


@runtime_checkable
class DecodingNetwork(Protocol):
  """A Linen module with these methods; `apply` has the parameters.

  A memory is a tree of what steps need of prompts, a cache one of what they
  need of earlier tokens; prompts are the first axis of all their arrays.

  Attributes:
    config: with `dtype` (its name), `pad_id`, `first_input` (the token before
      the first) and `end_ids` (those that end a text).
  """

  @property
  def config(self) -> Any:
    """See above."""
    ...

  @property
  def apply(self) -> Callable[..., Any]:
    """Linen's."""
    ...

  def read_prompts(
    self, tokens: Int[Array, "p l"], /
  ) -> tuple[Any, Bool[Array, " p"]]:
    """The memory of prompts, and whether all states were finite."""
    ...

  def empty_memory(self, num_prompts: int, length: int) -> Any:
    """The memory of as many prompts without tokens."""
    ...

  def lengthen_memory(self, memory: Any, spare: int) -> Any:
    """Adds padding behind the prompts."""
    ...

  def empty_cache(self, num_prompts: int, num_samples: int, length: int) -> Any:
    """The cache before the first step, for `length` tokens."""
    ...

  def decode_step(
    self,
    tokens: Int[Array, "p s"],
    cache: Any,
    memory: Any,
    is_prompt: Bool[Array, "p l"],
    positions: Int[Array, " p"],
    /,
  ) -> tuple[Float[Array, "p s d"], Any]:
    """States that predict the next tokens, and the cache with this step."""
    ...

  def output_kernel(
    self, params: Mapping[str, Any], token_ids: Int[Array, " n"] | None
  ) -> Float[Array, "d n"]:
    """Columns of the output layer, for some tokens or all (None)."""
    ...

  def project(
    self, hidden: Float[Array, "*b d"], kernel: Float[Array, "d n"]
  ) -> Float[Array, "*b n"]:
    """Logits in float32 of states, by what `output_kernel` gave."""
    ...
