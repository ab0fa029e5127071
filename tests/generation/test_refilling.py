"""Slots that refill: same queries as one batch at a time, nothing compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import tiny_t5
from xqg_jax.generation.decoding import decode, make_row_keys
from xqg_jax.generation.refilling import decode_queue
from xqg_jax.generation.sampling import GREEDY, Sampling
from xqg_jax.generation.slot_decoder import SlotDecoder, plan_calls
from xqg_jax.models.t5 import network
from xqg_jax.runtime import sharding

CONFIG = tiny_t5.CONFIG
NUM_SAMPLES, MAX_LENGTH = 3, 12
# Few tokens beside the end: rows end anywhere between the first and the last.
ALLOWED = np.isin(np.arange(tiny_t5.VOCAB_SIZE), [1, *range(40, 49)])


@pytest.fixture(scope="module")
def model():
  module, row = network.T5(config=CONFIG), jnp.zeros((1, 4), jnp.int32)
  variables = jax.jit(module.init)(jax.random.key(0), row, row, row)
  return module, variables["params"]


@functools.cache
def _prompts(num_prompts, seed=0):
  lengths = np.random.default_rng(seed).integers(3, 17, num_prompts).tolist()
  rows = tiny_t5.make_rows(lengths, 16, seed=seed)
  return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def _keys(num_prompts):
  return make_row_keys(
    [str(number) for number in range(num_prompts)],
    ["fi"] * num_prompts,
    num_samples=NUM_SAMPLES,
    seed=0,
  )


def _make_decoder(model, *, num_devices=1, num_slots=5, **options):
  defaults = {"allowed": ALLOWED[None], "sampling": Sampling()}
  return SlotDecoder(
    *model,
    mesh=sharding.make_mesh(devices=jax.devices()[:num_devices]),
    num_samples=NUM_SAMPLES,
    max_input_length=16,
    max_length=MAX_LENGTH,
    num_slots=num_slots,
    **(defaults | options),
  )


def _run(decoder, prompts, tables=None):
  found = {}
  for written in decoder.decode(prompts, _keys(len(prompts)), tables):
    assert not written.keys() & found.keys()
    found |= written
  assert sorted(found) == list(range(len(prompts)))
  assert all(is_finite for _, is_finite in found.values())
  return np.stack([found[number][0] for number in range(len(prompts))])


def _decode_at_once(model, prompts, allowed=ALLOWED, **options):
  rows = np.zeros((len(prompts), 16), np.int32)
  for row, prompt in zip(rows, prompts, strict=True):
    row[: len(prompt)] = prompt
  tokens, _ = decode(
    *model,
    rows,
    _keys(len(prompts)),
    allowed,
    **({"sampling": Sampling(), "max_length": MAX_LENGTH} | options),
  )
  return np.asarray(tokens)


@pytest.fixture(scope="module")
def expected(model):
  return _decode_at_once(model, _prompts(37))


@pytest.mark.slow
@pytest.mark.parametrize(
  "options",
  [{}, {"refill": False}, {"num_slots": 8, "num_devices": 2}],
  ids=["refill", "wait for all", "two devices"],
)
def test_refilling_changes_no_query(model, expected, options):
  lengths = (expected != 0).sum(axis=-1)
  assert len(np.unique(lengths)) > 6
  decoder = _make_decoder(model, **options)
  np.testing.assert_array_equal(_run(decoder, _prompts(37)), expected)


def test_each_length_is_compiled_once(model):
  decoder = _make_decoder(model, num_slots=3, sampling=GREEDY)
  assert decoder.buckets == [8, 16]
  before = decode_queue._cache_size()
  _run(decoder, _prompts(37))
  assert decode_queue._cache_size() - before == 2
  for num_prompts in (1, 5, 30):
    _run(decoder, _prompts(num_prompts, seed=num_prompts))
  assert decode_queue._cache_size() - before == 2


@pytest.mark.slow
def test_the_arrangement_for_cpus_changes_nothing(model, expected):
  found = _decode_at_once(model, _prompts(37), for_cpu=True)
  np.testing.assert_array_equal(found, expected)


# --------------------------------------------------------- fewer output tokens


@pytest.mark.slow
@pytest.mark.parametrize(
  ("sampling", "for_cpu"),
  [(Sampling(), False), (Sampling(top_p=0.8), True), (GREEDY, True)],
)
def test_fewer_tokens_equal_the_others_masked(model, sampling, for_cpu):
  ids = np.flatnonzero(ALLOWED).astype(np.int32)
  ids = np.sort(np.concatenate([ids, np.arange(100, 190, dtype=np.int32)]))
  masked = _decode_at_once(model, _prompts(9), sampling=sampling)
  fewer = _decode_at_once(
    model,
    _prompts(9),
    ALLOWED[ids],
    token_ids=ids,
    sampling=sampling,
    for_cpu=for_cpu,
  )
  np.testing.assert_array_equal(fewer, masked)


@pytest.mark.slow
def test_each_prompt_keeps_to_its_table(model):
  ids = np.arange(1, 200, dtype=np.int32)
  allowed = np.stack([ids % 2 == 1, (ids % 3 == 0) | (ids == 1)])
  decoder = _make_decoder(model, allowed=allowed, token_ids=ids)
  prompts, tables = _prompts(9), [0, 1, 1, 0, 1, 0, 0, 1, 0]
  by_sample = np.repeat(np.array(tables, np.int32)[:, None], NUM_SAMPLES, 1)
  found = _run(decoder, prompts, by_sample)
  for table in (0, 1):
    mask = np.zeros(tiny_t5.VOCAB_SIZE, bool)
    mask[ids] = allowed[table]
    masked = _decode_at_once(model, prompts, mask)
    rows = np.array(tables) == table
    np.testing.assert_array_equal(found[rows], masked[rows])


# ------------------------------------------------------------------------ plan


@pytest.mark.parametrize("refill", [True, False])
@pytest.mark.parametrize(("num_slots", "group_size"), [(8, 1), (5, 2), (3, 3)])
@pytest.mark.parametrize("num_devices", [1, 3])
def test_plans_hold_every_prompt_once(
  refill, num_slots, group_size, num_devices
):
  lengths = np.random.default_rng(0).integers(1, 17, 50).tolist()
  calls = plan_calls(
    lengths,
    buckets=[4, 8, 16],
    num_slots=num_slots,
    group_size=group_size,
    num_devices=num_devices,
    refill=refill,
  )
  groups = [(call.length, group) for call in calls for group in call.groups]
  numbers = [number for _, group in groups for number in group.numbers]
  assert sorted(numbers) == list(range(50))
  for length, group in groups:
    assert all(lengths[n] <= length < lengths[n] + 8 for n in group.numbers)
    on_a_device = -(-len(group.numbers) // num_devices)
    assert on_a_device <= group_size
    assert on_a_device <= group.wait_for <= num_slots
  assert len({len(call.groups) for call in calls}) == 1
  # At the end all slots are emptied.
  assert calls[-1].groups[0].wait_for == num_slots
  assert len(calls[-1].groups) * group_size >= num_slots
