"""Search for the largest batch or the mesh that fits."""

import dataclasses

from xqg_jax.errors import InputError
from xqg_jax.planning.compilation import Measured, measure_step
from xqg_jax.planning.steps import Recipe

# A batch that fills so much of the memory counts as the largest: from here on
# the compiler computes things twice to keep to the limit.
_FULL = 0.86
# Batches nearer to each other are not told apart.
_NEAR = 1.05


@dataclasses.dataclass
class Planner:
  """Compiles one recipe for one topology, each shape once.

  Attributes:
    recipe: what is compiled.
    topology: for which devices.
    memory: bytes of a device; None: unknown, so that everything fits.
    budget: compilations after which no search goes on.
    measured: by batch and number of partitions.
  """

  recipe: Recipe
  topology: str
  memory: float | None
  budget: int
  measured: dict[tuple[int, int], Measured] = dataclasses.field(
    default_factory=dict
  )

  def measure(self, batch_size: int | None, num_partitions: int) -> Measured:
    """Compiles one shape, or remembers it."""
    if batch_size is not None and (batch_size, num_partitions) in self.measured:
      return self.measured[batch_size, num_partitions]
    found = measure_step(
      self.recipe,
      topology=self.topology,
      num_partitions=num_partitions,
      batch_size=batch_size,
    )
    self.measured[found.batch_size, num_partitions] = found
    return found

  def fits(self, measured: Measured) -> bool:
    """Whether a step fits into a device's memory."""
    return measured.fits(self.memory)

  @property
  def _is_spent(self) -> bool:
    return len(self.measured) >= self.budget

  def find_partitions(self, asked: Measured) -> Measured | None:
    """Splits the parameters over more devices until the batch fits."""
    num_partitions = 2 * asked.num_partitions
    while num_partitions <= asked.num_devices and not self._is_spent:
      try:
        found = self.measure(asked.batch_size, num_partitions)
      except InputError:  # something is not divisible by so many
        found = None
      if found is not None and self.fits(found):
        return found
      num_partitions *= 2
    return None

  def find_largest(self, asked: Measured) -> Measured | None:
    """Bisects for the largest batch on the mesh asked for.

    Memory grows almost in proportion to the batch, so that a line through two
    measured batches says where to look next.

    Returns:
      The largest that was found to fit, nearly the largest there is unless the
      budget was spent; None if none was, or if the memory is unknown.
    """
    if self.memory is None:
      return None
    unit = asked.num_devices // asked.num_partitions
    largest = asked if self.fits(asked) else None
    smallest_misfit = None if largest else asked
    known = [asked]
    while not self._is_spent:
      if largest and (largest.total_bytes or 0.0) >= _FULL * self.memory:
        break
      batch_size = guess_batch(known, self.memory, unit)
      batch_size = _clamp(batch_size, largest, smallest_misfit, unit)
      if batch_size is None:
        break
      known.append(self.measure(batch_size, asked.num_partitions))
      if self.fits(known[-1]):
        largest = known[-1]
      else:
        smallest_misfit = known[-1]
    return largest


def guess_batch(known: list[Measured], memory: float, unit: int) -> int | None:
  """Where the line through the measured batches reaches the memory.

  Args:
    known: measured batches of one mesh.
    memory: bytes of a device.
    unit: the batch is a multiple of it.

  Returns:
    A multiple of `unit`, rounded down; None if nothing is known.
  """
  points = [
    (m.batch_size, m.total_bytes) for m in known if m.total_bytes is not None
  ]
  if not points:
    return None
  # The nearest to the limit tell most.
  points.sort(key=lambda point: abs(point[1] - memory))
  if len(points) == 1:
    fixed = known[0].parameter_bytes + known[0].optimizer_bytes
    points.append((0, fixed))
  (batch, size), (other_batch, other_size) = points[:2]
  if size == other_size:
    return None
  slope = (size - other_size) / (batch - other_batch)
  target = memory * (1 + _FULL) / 2
  return max(0, int(batch + (target - size) / slope)) // unit * unit


def _clamp(
  guess: int | None,
  largest: Measured | None,
  misfit: Measured | None,
  unit: int,
) -> int | None:
  """Keeps a guess strictly between what fits and what does not.

  Returns:
    The next batch to try; None if there is nothing between them.
  """
  low = largest.batch_size if largest else 0
  high = misfit.batch_size if misfit else None
  if high is None:
    return min(guess, 2 * low) if guess and guess > low else 2 * low
  if high - low <= unit or (low and high <= _NEAR * low):
    return None
  if guess and low < guess < high:
    return guess
  return max(low + unit, (low + high) // 2 // unit * unit)
