"""The dual encoder's losses: by hand and against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from xqg_jax.errors import InputError
from xqg_jax.training.losses.distillation import (
  distillation_loss,
  take_own_group,
)
from xqg_jax.training.losses.false_negatives import find_same_answers
from xqg_jax.training.losses.ranking import RankingObjective
from xqg_jax.training.losses.softmax import (
  compute_scores,
  in_batch_softmax_loss,
)


def _embeddings(num_queries, num_negatives, dim, seed=0):
  rng = np.random.default_rng(seed)
  queries = rng.normal(size=(num_queries, dim)).astype(np.float32)
  passages = rng.normal(size=(num_queries * (1 + num_negatives), dim))
  return queries, passages.astype(np.float32)


def _apply(objective, queries, passages, **batch):
  mask = jnp.asarray(batch.pop("mask", np.ones(len(passages), bool)))
  batch = {name: jnp.asarray(values) for name, values in batch.items()}
  return objective(
    jnp.asarray(queries), jnp.asarray(passages), passage_mask=mask, batch=batch
  )


def test_in_batch_loss_by_hand():
  # Each query's positive first, its hard negative after it.
  queries = jnp.array([[2.0, 0.0], [0.0, 2.0]])
  passages = jnp.array([[1.0, 0.0], [0.5, 0.0], [0.0, 0.5], [0.0, 1.0]])
  loss, metrics = _apply(RankingObjective(), queries, passages)
  e = np.exp
  first = -np.log(e(2) / (e(2) + e(1) + 1 + 1))
  second = -np.log(e(1) / (1 + 1 + e(1) + e(2)))
  assert float(loss) == pytest.approx((first + second) / 2, abs=1e-6)
  # The second query's hard negative is nearer than its positive.
  assert float(metrics["accuracy"]) == 0.5


def test_temperature_divides_and_mask_removes():
  queries = np.array([[1.0]], np.float32)
  passages = np.array([[1.0], [3.0], [0.0]], np.float32)
  loss, _ = _apply(RankingObjective(temperature=2.0), queries, passages)
  expected = np.log(np.exp(0.5) + np.exp(1.5) + 1) - 0.5
  assert float(loss) == pytest.approx(expected, abs=1e-6)
  mask = jnp.array([True, False, True])
  loss, metrics = _apply(RankingObjective(), queries, passages, mask=mask)
  expected = np.log(np.exp(1.0) + 1) - 1.0
  assert float(loss) == pytest.approx(expected, abs=1e-6)
  assert float(metrics["accuracy"]) == 1.0


def test_passages_must_come_in_groups():
  with pytest.raises(ValueError, match="5 passages"):
    compute_scores(jnp.ones((2, 3)), jnp.ones((5, 3)))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("num_negatives", [0, 3])
def test_loss_and_gradient_equal_torch(num_negatives, symmetric):
  queries, passages = _embeddings(6, num_negatives, 8)
  objective = RankingObjective(temperature=0.7, symmetric=symmetric)

  def loss_fn(q, p):
    return _apply(objective, q, p)[0]

  loss, gradients = jax.value_and_grad(loss_fn, (0, 1))(queries, passages)
  q = torch.tensor(queries, requires_grad=True)
  p = torch.tensor(passages, requires_grad=True)
  target = torch.arange(0, len(p), 1 + num_negatives)
  scores = q @ p.T / 0.7
  expected = torch.nn.functional.cross_entropy(scores, target)
  if symmetric:
    backward = torch.nn.functional.cross_entropy(
      scores[:, target].T, torch.arange(6)
    )
    expected = (expected + backward) / 2
  expected.backward()
  np.testing.assert_allclose(loss, expected.item(), atol=1e-5)
  np.testing.assert_allclose(gradients[0], q.grad, atol=1e-5)
  np.testing.assert_allclose(gradients[1], p.grad, atol=1e-5)


# ------------------------------------------------------------- false negatives


def test_masked_negatives_are_left_out():
  queries, passages = _embeddings(3, 1, 4)
  scores = queries @ passages.T
  # Query 0's positive is also query 2's hard negative; 1 and 2 share an answer.
  ids = np.array([[10, 11], [20, 21], [30, 10]], np.int32)
  ids = np.stack([ids, ids + 1], axis=-1)
  answers = np.zeros((3, 2, 2), np.int32)
  answers[1, 0], answers[2, 1] = (5, 6), (5, 6)
  answers[0, 0] = (5, 7)  # differs in one half

  def expect(left_out):
    total = 0.0
    for query, positive in enumerate((0, 2, 4)):
      kept = [p for p in range(6) if (query, p) not in left_out]
      total -= scores[query, positive]
      total += np.log(np.exp(scores[query, kept]).sum())
    return total / 3

  for names, left_out in (
    ((), set()),
    (("same_passage",), {(0, 5)}),
    (("same_answer",), {(1, 4), (2, 2)}),
    (("same_passage", "same_answer"), {(0, 5), (1, 4), (2, 2)}),
  ):
    objective = RankingObjective(masked_negatives=names)
    loss, _ = _apply(
      objective, queries, passages, passage_ids=ids, answer_ids=answers
    )
    assert float(loss) == pytest.approx(expect(left_out), abs=1e-5), names


def test_masks_act_on_both_directions():
  queries, passages = _embeddings(2, 0, 4)
  ids = np.ones((2, 1, 2), np.int32)  # both questions have the same passage
  objective = RankingObjective(
    symmetric=True, masked_negatives=("same_passage",)
  )
  loss, metrics = _apply(objective, queries, passages, passage_ids=ids)
  assert float(loss) == 0.0  # nothing is left to be confused with
  assert float(metrics["accuracy"]) == 1.0


def test_queries_without_answers_share_none():
  assert not find_same_answers(jnp.zeros((3, 4, 2), jnp.int32)).any()


# ---------------------------------------------------------------- distillation


def test_distillation_by_hand():
  scores = jnp.array([[2.0, 1.0, 9.0], [1.0, 0.0, 3.0]])
  teacher = jnp.array([[3.0, 1.0, np.nan], [1.0, 1.0, 1.0]])
  mask = jnp.array([[True, True, False], [True, True, True]])
  found = distillation_loss(scores, teacher, mask, kind="margin_mse")
  # Leads 1, 1, -2 against 2, 0, 0.
  assert float(found) == pytest.approx((1 + 1 + 4) / 3)
  found = distillation_loss(scores, teacher, mask, kind="kl")
  expected = 0.0
  for row, columns in ((0, [0, 1]), (1, [0, 1, 2])):
    student, wanted = (
      torch.log_softmax(torch.tensor(np.asarray(x)[row, columns]), 0)
      for x in (scores, teacher)
    )
    expected += torch.nn.functional.kl_div(
      student, wanted, reduction="sum", log_target=True
    ).item()
  assert float(found) == pytest.approx(expected / 2, abs=1e-6)


@pytest.mark.parametrize("kind", ["kl", "margin_mse"])
def test_the_parts_are_weighted_and_gradients_finite(kind):
  queries, passages = _embeddings(3, 2, 4)
  teacher = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
  mask = np.ones(9, bool)
  mask[4] = False
  teacher[1, 1] = np.nan
  objective = RankingObjective(
    temperature=0.5, distillation=kind, distillation_weight=0.3
  )

  def loss_fn(q, p):
    return _apply(
      objective, q, p, teacher_scores=jnp.asarray(teacher), mask=mask
    )

  (loss, metrics), gradients = jax.value_and_grad(
    loss_fn, (0, 1), has_aux=True
  )(queries, passages)
  scores = compute_scores(jnp.asarray(queries), jnp.asarray(passages), 0.5)
  softmax, _ = in_batch_softmax_loss(scores, excluded=jnp.asarray(~mask[None]))
  taught = distillation_loss(
    take_own_group(scores),
    jnp.asarray(teacher),
    jnp.asarray(mask.reshape(3, 3)),
    kind=kind,
  )
  np.testing.assert_allclose(loss, 0.7 * softmax + 0.3 * taught, rtol=1e-6)
  assert float(metrics["distillation_loss"]) == float(taught)
  assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"temperature": 0.0}, "temperature is 0.0"),
    ({"masked_negatives": ("same_title",)}, "choose of same_passage"),
    ({"distillation": "mse"}, "choose of kl, margin_mse"),
    ({"distillation_weight": 2.0}, "distillation_weight is 2.0"),
  ],
)
def test_bad_objectives(options, message):
  with pytest.raises(InputError, match=message):
    RankingObjective(**options)
