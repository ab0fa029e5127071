"""Paired tests over questions, and intervals, for comparing two runs.

All are deterministic for a seed. Differences are one number per question:
the variant's value minus the baseline's.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

# Sign patterns or resamples that are held at once.
_CHUNK = 1 << 22


def paired_randomization_test(
  differences: Float[np.ndarray, " questions"],
  *,
  rounds: int = 10_000,
  seed: int = 0,
) -> float:
  """Two-sided paired randomization test of a sum of differences.

  Under the null hypothesis each question's difference could as well have had
  the other sign. p is the share of sign patterns whose sum is at least as far
  from zero as the one seen (Smucker et al. 2007). All patterns are counted
  when there are at most `rounds` of them; otherwise `rounds` are drawn and p
  is (1 + hits) / (1 + rounds), which is never 0.

  The test of a mean is the same as that of the sum. For a macro average scale
  each difference by 1 / (its language's number of questions).

  Args:
    differences: one number per question; zeros do not matter.
    rounds: number of random sign patterns.
    seed: of the random signs.

  Returns:
    The p-value; 1 when no question differs.

  >>> paired_randomization_test(np.array([1.0, 1.0, 1.0, 0.0]))
  0.25
  """
  differences = differences[differences != 0].astype(np.float64)
  count = len(differences)
  if not count:
    return 1.0
  total = differences.sum()
  # Sums that are equal in exact arithmetic must not be told apart by rounding.
  threshold = abs(total) - 1e-9 * np.abs(differences).sum()
  if count < 63 and 2**count <= rounds:
    patterns = np.arange(2**count)[:, None] >> np.arange(count) & 1
    sums = total - 2 * (patterns @ differences)
    return float(np.mean(np.abs(sums) >= threshold))
  sums = _random_sums(differences, rounds, np.random.default_rng(seed))
  return float((1 + np.sum(np.abs(sums) >= threshold)) / (1 + rounds))


def _random_sums(
  differences: Float[np.ndarray, " questions"],
  rounds: int,
  rng: np.random.Generator,
) -> Float[np.ndarray, " rounds"]:
  """Sums of the differences under random signs."""
  count = len(differences)
  row_bytes = -(-count // 8)
  chunk = max(1, _CHUNK // (8 * row_bytes))
  sums = []
  for start in range(0, rounds, chunk):
    rows = min(chunk, rounds - start)
    drawn = np.frombuffer(rng.bytes(rows * row_bytes), np.uint8)
    # [rows, bytes] -> [rows, questions], one bit a question
    flips = np.unpackbits(drawn.reshape(rows, row_bytes), axis=1, count=count)
    sums.append(flips.astype(np.float64) @ differences)
  return differences.sum() - 2 * np.concatenate(sums)


def paired_bootstrap_interval(
  strata: Sequence[Float[np.ndarray, " _"]],
  *,
  rounds: int = 10_000,
  level: float = 0.95,
  seed: int = 0,
) -> tuple[float, float]:
  """Percentile bootstrap interval of a macro-averaged difference.

  Questions are drawn with replacement within each stratum (language), and the
  strata's means are averaged.

  Args:
    strata: the differences of each language's questions; empty ones are left
      out.
    rounds: number of resamples.
    level: coverage of the interval.
    seed: of the resampling.

  Returns:
    Lower and upper end.

  >>> paired_bootstrap_interval([np.array([0.5, 0.5]), np.array([1.0])])
  (0.75, 0.75)
  """
  rng = np.random.default_rng(seed)
  means = [_resample_means(d, rounds, rng) for d in strata if len(d)]
  if not means:
    return (0.0, 0.0)
  tails = [(1 - level) / 2, (1 + level) / 2]
  low, high = np.quantile(np.mean(means, axis=0), tails)
  return float(low), float(high)


def _resample_means(
  differences: Float[np.ndarray, " questions"],
  rounds: int,
  rng: np.random.Generator,
) -> Float[np.ndarray, " rounds"]:
  # Drawing questions is drawing how often each distinct difference comes.
  values, counts = np.unique(differences, return_counts=True)
  total = len(differences)
  chunk = max(1, _CHUNK // len(values))
  means = []
  for start in range(0, rounds, chunk):
    rows = min(chunk, rounds - start)
    drawn = rng.multinomial(total, counts / total, size=rows)
    means.append(drawn @ values / total)
  return np.concatenate(means)


def holm_correction(
  p_values: Sequence[float] | Float[np.ndarray, " tests"],
) -> Float[np.ndarray, " tests"]:
  """Holm's step-down correction for several tests (Holm 1979).

  Returns:
    Adjusted p-values in the order given; reject those below the level.

  >>> holm_correction([0.01, 0.04, 0.03]).tolist()
  [0.03, 0.06, 0.06]
  """
  p_values = np.asarray(p_values, np.float64)
  order = np.argsort(p_values, kind="stable")
  factors = len(p_values) - np.arange(len(p_values))
  adjusted = np.maximum.accumulate(np.minimum(1, p_values[order] * factors))
  result = np.empty_like(p_values)
  result[order] = adjusted
  return result


def significance_mark(p_value: float) -> str:
  """Marks p < 0.01 with two stars and p < 0.05 with one.

  >>> significance_mark(0.004), significance_mark(0.02), significance_mark(0.2)
  ('**', '*', '')
  """
  return "**" if p_value < 0.01 else "*" if p_value < 0.05 else ""
