"""False negatives: in-batch passages that may answer a query, left out.

A new rule is a function that marks passages from a feature of the batch, and
one entry of `MASKS`.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@dataclasses.dataclass(frozen=True)
class Mask:
  """A rule that leaves in-batch negatives out.

  Attributes:
    feature: what it needs of a batch.
    find: marks [queries, passages] from the feature, given the number of
      passages.
  """

  feature: str
  find: Callable[[Array, int], Bool[Array, "queries passages"]]


def find_same_passages(
  passage_ids: Int[Array, "queries group 2"],
) -> Bool[Array, "queries passages"]:
  """Marks passages with the id of a query's positive, itself among them.

  >>> ids = jnp.array([[[1, 1], [2, 2]], [[3, 3], [1, 1]]])
  >>> find_same_passages(ids).astype(int).tolist()
  [[1, 0, 0, 1], [0, 0, 1, 0]]
  """
  # [queries, group, 2] -> [passages, 2]
  ids = passage_ids.reshape(-1, 2)
  return jnp.all(passage_ids[:, 0, None] == ids[None], axis=-1)


def find_same_answers(
  answer_ids: Int[Array, "queries answers 2"],
) -> Bool[Array, "queries queries"]:
  """Marks pairs of queries that share an answer; zeros are no answer.

  >>> ids = jnp.array([[[7, 1], [0, 0]], [[5, 1], [7, 1]], [[0, 0], [0, 0]]])
  >>> find_same_answers(ids).astype(int).tolist()
  [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
  """
  count = answer_ids.shape[1]
  is_answer = jnp.any(answer_ids != 0, axis=-1)
  found = jnp.zeros((len(answer_ids), len(answer_ids)), bool)
  # One answer with one at a time: no array of [queries, queries, answers ** 2].
  for i in range(count):
    for j in range(count):
      equal = jnp.all(answer_ids[:, None, i] == answer_ids[None, :, j], axis=-1)
      found |= equal & is_answer[:, None, i] & is_answer[None, :, j]
  return found


def _spread_to_positives(
  same: Bool[Array, "queries queries"], num_passages: int
) -> Bool[Array, "queries passages"]:
  """Marks the positives of the marked queries, not their hard negatives."""
  is_positive = jnp.arange(num_passages // len(same)) == 0
  # [queries, queries] -> [queries, queries, group] -> [queries, passages]
  return (same[:, :, None] & is_positive).reshape(len(same), num_passages)


MASKS: Mapping[str, Mask] = {
  "same_passage": Mask("passage_ids", lambda ids, _: find_same_passages(ids)),
  "same_answer": Mask(
    "answer_ids",
    lambda ids, num_passages: _spread_to_positives(
      find_same_answers(ids), num_passages
    ),
  ),
}
