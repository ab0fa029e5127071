"""Tests of the paired tests and intervals."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from xqg_jax.evaluation.significance import (
  holm_correction,
  paired_bootstrap_interval,
  paired_randomization_test,
  significance_mark,
)


def enumerate_p(differences) -> float:
  seen = abs(math.fsum(differences))
  sums = [
    abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True)))
    for signs in itertools.product((1, -1), repeat=len(differences))
  ]
  return sum(s >= seen - 1e-12 for s in sums) / len(sums)


@pytest.mark.parametrize("seed", range(5))
def test_exact_for_few_questions(seed):
  differences = np.random.default_rng(seed).normal(0.4, 1.0, size=9)
  assert paired_randomization_test(differences) == enumerate_p(differences)


def test_exact_with_ties_of_unequal_rounding():
  differences = np.array([0.1, 0.2, 0.3, -0.1, 0.7, -0.3])
  assert paired_randomization_test(differences) == enumerate_p(differences)


@pytest.mark.parametrize("shift", [0.1, 0.3, 0.5])
def test_sampled_agrees_with_enumeration(shift):
  differences = np.random.default_rng(3).normal(shift, 1.0, size=14)
  sampled = paired_randomization_test(differences, rounds=10_000, seed=1)
  assert sampled == pytest.approx(enumerate_p(differences), abs=0.015)


@pytest.mark.parametrize("seed", range(5))
def test_few_questions_agree_with_scipy(seed):
  differences = np.random.default_rng(seed).normal(0.4, 1.0, size=9)
  p = paired_randomization_test(differences)
  assert p == pytest.approx(_scipy_test(differences, math.inf), abs=1e-12)


@pytest.mark.parametrize("shift", [0.2, 0.25, 0.3])
def test_many_questions_agree_with_scipy(shift):
  differences = np.random.default_rng(7).normal(shift, 1.0, size=200)
  rounds = 20_000
  p = paired_randomization_test(differences, rounds=rounds, seed=1)
  expected = _scipy_test(differences, rounds)
  # Ours draws twice the tail, scipy doubles one of them: of the variances
  # p (1 - p) / rounds and p (2 - p) / rounds; four standard errors.
  error = math.sqrt((expected * (3 - 2 * expected)) / rounds)
  assert 0.001 < expected < 0.5
  assert p == pytest.approx(expected, abs=4 * error)


def _scipy_test(differences, rounds):
  return scipy.stats.permutation_test(
    (differences,),
    lambda x, axis: x.sum(axis=axis),
    permutation_type="samples",
    n_resamples=rounds,
    vectorized=True,
    rng=np.random.default_rng(3),
  ).pvalue


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_bootstrap_agrees_with_scipy(level):
  rng = np.random.default_rng(5)
  strata = [rng.normal(0.2, 1, 60), rng.exponential(1, 40), rng.random(25)]
  rounds = 20_000
  found = paired_bootstrap_interval(strata, rounds=rounds, level=level)
  expected = scipy.stats.bootstrap(
    strata,
    lambda *strata, axis: sum(s.mean(axis=axis) for s in strata) / len(strata),
    n_resamples=rounds,
    confidence_level=level,
    method="percentile",
    rng=np.random.default_rng(3),
  )
  # A sampled quantile q of a nearly normal distribution of spread s is off by
  # s sqrt(q (1 - q) / rounds) / density(q); both are sampled.
  q = (1 - level) / 2
  density = scipy.stats.norm.pdf(scipy.stats.norm.ppf(q))
  error = expected.standard_error * math.sqrt(2 * q * (1 - q) / rounds)
  np.testing.assert_allclose(
    found, expected.confidence_interval, rtol=0, atol=4 * error / density
  )


def test_binary_differences_agree_with_the_binomial():
  # 30 wins against 14 losses: the exact sign test.
  differences = np.array([1.0] * 30 + [-1.0] * 14 + [0.0] * 500)
  tail = sum(math.comb(44, k) for k in range(30, 45)) / 2**44
  p = paired_randomization_test(differences, rounds=100_000)
  assert p == pytest.approx(2 * tail, abs=0.002)


def test_zeros_do_not_matter():
  differences = np.array([0.5, -0.25, 0.75])
  with_zeros = np.array([0.5, 0.0, -0.25, 0.75, 0.0])
  assert paired_randomization_test(differences) == paired_randomization_test(
    with_zeros
  )


def test_no_difference_is_not_significant():
  assert paired_randomization_test(np.zeros(7)) == 1.0
  assert paired_randomization_test(np.zeros(0)) == 1.0


def test_never_zero_and_deterministic():
  differences = np.full(300, 0.1)
  p = paired_randomization_test(differences, rounds=10_000)
  assert p == 1 / 10_001
  noisy = np.random.default_rng(0).normal(0.05, 1, 300)
  first = paired_randomization_test(noisy, seed=4)
  assert first == paired_randomization_test(noisy, seed=4)
  assert first != paired_randomization_test(noisy, seed=5)


def test_p_values_are_uniform_without_an_effect():
  rng = np.random.default_rng(11)
  p_values = [
    paired_randomization_test(rng.normal(size=40), rounds=400)
    for _ in range(300)
  ]
  assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.035)
  assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)


def test_bootstrap_covers_the_normal_interval():
  rng = np.random.default_rng(2)
  strata = [rng.normal(0.2, 1, 400), rng.normal(0.4, 2, 300)]
  low, high = paired_bootstrap_interval(strata, rounds=20_000)
  mean = np.mean([s.mean() for s in strata])
  error = np.sqrt(sum(s.var() / len(s) for s in strata)) / 2
  assert low == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
  assert high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)


def test_bootstrap_is_the_macro_average():
  # One language has a thousand times the questions; each weighs a half.
  low, high = paired_bootstrap_interval([np.zeros(1000), np.ones(1)])
  assert (low, high) == (0.5, 0.5)
  assert paired_bootstrap_interval([np.zeros(0), np.ones(3)]) == (1.0, 1.0)
  assert paired_bootstrap_interval([]) == (0.0, 0.0)


def test_holm_by_hand():
  adjusted = holm_correction([0.04, 0.001, 0.5, 0.012])
  # 0.001*4, 0.012*3, 0.04*2, 0.5*1
  np.testing.assert_allclose(adjusted, [0.08, 0.004, 0.5, 0.036])
  np.testing.assert_allclose(holm_correction([0.6, 0.7]), [1.0, 1.0])
  assert holm_correction([]).shape == (0,)


def test_marks():
  assert significance_mark(0.05) == ""
  assert significance_mark(0.0499) == "*"
  assert significance_mark(0.01) == "*"
  assert significance_mark(0.0001) == "**"
