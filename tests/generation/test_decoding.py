"""The engine against transformers, its sampling, and its independence."""

import functools
import hashlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.helpers import tiny_t5
from xqg_jax.checkpoints import load_query_generator
from xqg_jax.data.languages import XOR_TYDI_LANGUAGES, get_languages
from xqg_jax.demo.pretraining import SHIPPED_GENERATOR
from xqg_jax.errors import InputError
from xqg_jax.generation.decoding import decode
from xqg_jax.generation.output_vocabulary import make_vocabulary_mask
from xqg_jax.generation.sampling import (
  GREEDY,
  Sampling,
  draw_tokens,
  find_candidates,
  make_row_keys,
  top_entries,
)
from xqg_jax.models.t5 import network
from xqg_jax.text.prompts import make_prompt
from xqg_jax.text.tokenizer_training import train_tokenizer
from xqg_jax.xor_mini import iter_passages

CONFIG = network.T5Config(
  vocab_size=tiny_t5.VOCAB_SIZE,
  emb_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=24,
  num_encoder_layers=2,
  num_decoder_layers=2,
)
TOP_10 = Sampling()
EVERYTHING = np.ones(tiny_t5.VOCAB_SIZE, bool)


@pytest.fixture(scope="module")
def model():
  module, row = network.T5(config=CONFIG), jnp.zeros((1, 4), jnp.int32)
  variables = jax.jit(module.init)(jax.random.key(0), row, row, row)
  return module, variables["params"]


def _keys(num_prompts, num_samples, seed=0):
  names = [str(number) for number in range(num_prompts)]
  return make_row_keys(
    names, ["fi"] * num_prompts, num_samples=num_samples, seed=seed
  )


def _decode(model, prompts, keys, sampling=TOP_10, *, allowed=EVERYTHING):
  module, params = model
  tokens, is_finite = decode(
    module, params, prompts, keys, allowed, sampling=sampling, max_length=16
  )
  assert is_finite
  return np.asarray(tokens)


# ------------------------------------------------------------------- greedy


def _generate_greedily(torch_model, prompts):
  """What transformers writes to each prompt, without the start token."""
  import torch

  with torch.no_grad():
    return torch_model.generate(
      input_ids=torch.tensor(prompts).long(),
      attention_mask=torch.tensor(prompts != 0).long(),
      max_new_tokens=16,
      do_sample=False,
      num_beams=1,
    ).numpy()[:, 1:]


@pytest.mark.slow
@pytest.mark.parametrize("shape", tiny_t5.SHAPES[:2])
def test_greedy_equals_transformers(shape):
  torch_model = tiny_t5.untie(tiny_t5.make_torch_model(shape))
  lengths = [3 + number % 38 for number in range(50)]
  prompts = tiny_t5.make_rows(lengths, 40)
  expected = _generate_greedily(torch_model, prompts)
  ours = _decode(tiny_t5.to_ours(torch_model), prompts, _keys(50, 1), GREEDY)
  padding = ((0, 0), (0, 16 - expected.shape[1]))
  np.testing.assert_array_equal(ours[:, 0], np.pad(expected, padding))


@pytest.mark.slow
def test_greedy_equals_transformers_for_a_trained_generator():
  pytest.importorskip("torch", reason="torch is the reference")
  transformers = pytest.importorskip("transformers")
  generator = load_query_generator(SHIPPED_GENERATOR)
  texts = [
    make_prompt(passage, language)
    for passage in itertools.islice(iter_passages(200, seed=3), 3)
    for language in get_languages(XOR_TYDI_LANGUAGES)
  ]
  found = generator.tokenizer.encode_batch(texts, max_length=40)
  prompts = np.zeros((len(found), 40), np.int32)
  for row, tokens in zip(prompts, found, strict=True):
    row[: len(tokens)] = tokens
  reference = transformers.MT5ForConditionalGeneration.from_pretrained(
    SHIPPED_GENERATOR
  )
  expected = _generate_greedily(reference, prompts)
  ours = _decode(
    (generator.module, generator.params),
    prompts,
    _keys(len(prompts), 1),
    GREEDY,
    allowed=np.ones(generator.config.vocab_size, bool),
  )
  padding = ((0, 0), (0, 16 - expected.shape[1]))
  np.testing.assert_array_equal(ours[:, 0], np.pad(expected, padding))


@pytest.mark.slow
def test_steps_equal_the_teacher_forced_network(model):
  module, params = model
  apply = functools.partial(tiny_t5.apply, module, params)
  prompts = tiny_t5.make_rows([12, 7], 12)
  tokens = np.random.default_rng(0).integers(2, 300, (2, 3, 6))
  encoded = apply(prompts, method="encode")
  cross = apply(encoded, method="cross_keys_values")
  cache, states = module.empty_cache(2, 3, 6), []
  for step in range(6):
    hidden, cache = module.apply(
      {"params": params},
      jnp.asarray(tokens[..., step]),
      cache,
      cross,
      jnp.asarray(prompts != 0),
      jnp.full(2, step),
      method="decode_step",
    )
    states.append(hidden)
  for sample in range(3):
    rows = tokens[:, sample]
    whole = apply(prompts, rows, rows, method="decode_hidden")
    found = jnp.stack(states, axis=2)[:, sample]
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_prompts_may_be_at_different_positions(model):
  module, params = model
  prompts = tiny_t5.make_rows([9, 9], 9)
  prompts[1] = prompts[0]
  encoded = tiny_t5.apply(module, params, prompts, method="encode")
  cross = module.apply({"params": params}, encoded, method="cross_keys_values")
  tokens = np.random.default_rng(1).integers(2, 300, 5)
  cache, states = module.empty_cache(2, 1, 5), {}
  for step in range(7):  # The second begins two steps after the first.
    positions = np.clip([step, step - 2], 0, 4)
    hidden, cache = module.apply(
      {"params": params},
      jnp.asarray(tokens[positions][:, None]),
      cache,
      cross,
      jnp.asarray(prompts != 0),
      jnp.asarray(positions),
      method="decode_step",
    )
    states[step] = np.asarray(hidden)
  for step in range(5):
    np.testing.assert_array_equal(states[step + 2][1], states[step][0])


def test_shared_prompts_equal_repeated_ones(model):
  prompts = tiny_t5.make_rows([12, 7, 9, 12], 12)
  keys = _keys(4, 5)
  shared = _decode(model, prompts, keys)
  repeated = _decode(
    model, np.repeat(prompts, 5, axis=0), keys.reshape(20, 1, 2)
  )
  np.testing.assert_array_equal(shared.reshape(20, -1), repeated[:, 0])


def test_company_and_order_change_nothing(model):
  prompts, keys = tiny_t5.make_rows([12, 7, 9, 12], 12), _keys(4, 5)
  together = _decode(model, prompts, keys)
  order = [2, 0, 3, 1]
  np.testing.assert_array_equal(
    _decode(model, prompts[order], keys[order]), together[order]
  )
  for row in range(4):
    one = slice(row, row + 1)
    alone = _decode(model, prompts[one], keys[one])
    np.testing.assert_array_equal(alone, together[one])


def test_samples_differ_and_the_seed_decides(model):
  prompts = tiny_t5.make_rows([12, 7], 12)
  tokens = _decode(model, prompts, _keys(2, 5))
  assert len({tuple(row) for row in tokens.reshape(10, -1)}) == 10
  np.testing.assert_array_equal(tokens, _decode(model, prompts, _keys(2, 5)))
  other = _decode(model, prompts, _keys(2, 5, seed=1))
  assert (tokens != other).any(axis=-1).all()


def test_rows_end_with_the_end_token_and_empty_prompts_stay_empty(model):
  prompts = tiny_t5.make_rows([12] * 20, 12)
  prompts[3] = 0
  tokens = _decode(model, prompts, _keys(20, 20), Sampling(top_k=0))
  assert not tokens[3].any()
  written = np.delete(tokens, 3, axis=0).reshape(-1, 16)
  ends = [list(row).index(1) for row in written if 1 in row]
  assert ends
  for row in written:
    if 1 in row:
      assert not row[list(row).index(1) + 1 :].any()


def test_blocked_tokens_never_appear(model):
  allowed = np.zeros_like(EVERYTHING)
  allowed[[1, 7, 8, 9]] = True
  prompts = tiny_t5.make_rows([12, 7], 12)
  for sampling in (Sampling(), Sampling(top_k=0), GREEDY):
    tokens = _decode(model, prompts, _keys(2, 8), sampling, allowed=allowed)
    assert set(np.unique(tokens)) <= {0, 1, 7, 8, 9}


def test_new_batches_compile_nothing(model):
  _decode(model, tiny_t5.make_rows([12, 7], 12), _keys(2, 5))
  before = decode._cache_size()
  _decode(model, tiny_t5.make_rows([3, 9], 12, seed=3), _keys(2, 5, seed=4))
  assert decode._cache_size() == before


def test_states_that_are_not_finite_are_told(model):
  module, params = model
  broken = jax.tree.map(lambda leaf: leaf, params)
  scale = broken["decoder"]["decoder_norm"]["scale"]
  broken["decoder"]["decoder_norm"] = {"scale": scale * jnp.nan}
  _, is_finite = decode(
    module,
    broken,
    tiny_t5.make_rows([5], 5),
    _keys(1, 1),
    EVERYTHING,
    sampling=GREEDY,
    max_length=4,
  )
  assert not is_finite


# ----------------------------------------------------------------- sampling


def _sample(logits, keys, positions, sampling):
  values, tokens = find_candidates(logits, sampling)
  return draw_tokens(values, tokens, keys, positions, sampling)


@pytest.mark.parametrize("size", [1, 7, 64, 300, 2000, 5003])
@pytest.mark.parametrize("k", [1, 3, 10, 64, 100])
def test_top_entries_equal_top_k(size, k):
  k = min(k, size)
  logits = np.random.default_rng(size).normal(size=(17, size)).round(1)
  logits[:, ::3] = -np.inf
  logits[0] = 0.5
  logits = jnp.asarray(logits, jnp.float32) + 0.0  # -0 is below 0 in `top_k`
  values, places = top_entries(logits, k)
  expected, expected_places = jax.lax.top_k(logits, k)
  np.testing.assert_array_equal(values, expected)
  is_real = np.isfinite(expected)
  np.testing.assert_array_equal(
    np.asarray(places)[is_real], np.asarray(expected_places)[is_real]
  )
  # Whatever is blocked, no entry appears twice.
  assert all(len(set(row)) == k for row in np.asarray(places).tolist())


def test_few_allowed_entries_are_found_once():
  logits = jnp.full((3, 2000), -jnp.inf).at[:, 7].set(0.0).at[1:, 900].set(1.0)
  values, places = top_entries(logits, 10)
  assert np.isfinite(values).sum(axis=1).tolist() == [1, 2, 2]
  assert places[:, 0].tolist() == [7, 900, 900]


@pytest.mark.parametrize(
  ("sampling", "kept"),
  [
    (Sampling(top_k=10), 10),
    (Sampling(top_k=4, temperature=0.5), 4),
    (Sampling(top_k=0, temperature=2.0), 50),
  ],
)
def test_frequencies_are_the_softmax_over_the_top_k(sampling, kept):
  draws = 50_000
  logits = np.random.default_rng(0).normal(size=50).astype(np.float32)
  keys = jnp.asarray(_keys(1, draws)[0])
  tokens = _sample(
    jnp.broadcast_to(logits, (draws, 50)),
    keys,
    jnp.full(draws, 3),
    sampling,
  )
  top = np.argsort(-logits)[:kept]
  weights = np.exp(logits[top] / sampling.temperature)
  counts = np.bincount(np.asarray(tokens), minlength=50)
  assert counts.sum() == counts[top].sum() == draws
  expected = draws * weights.astype(float) / weights.sum(dtype=float)
  test = stats.chisquare(counts[top], expected)
  assert test.pvalue > 0.01


def test_top_p_keeps_the_fewest_that_reach_it():
  # Before the four entries lie 0, 0.4, 0.7 and 0.9.
  logits = jnp.log(jnp.array([[0.3, 0.4, 0.1, 0.2]]))
  for top_p, kept in ((0.35, {1}), (0.6, {0, 1}), (0.8, {0, 1, 3})):
    tokens = _sample(
      jnp.broadcast_to(logits, (500, 4)),
      jnp.asarray(_keys(1, 500)[0]),
      jnp.zeros(500, jnp.int32),
      Sampling(top_k=4, top_p=top_p),
    )
    assert set(np.asarray(tokens).tolist()) == kept


def test_positions_draw_anew():
  draws = 200
  logits = jnp.zeros((draws, 10))
  keys = jnp.repeat(jnp.asarray(_keys(1, 1)[0]), draws, axis=0)
  tokens = _sample(logits, keys, jnp.arange(draws), Sampling())
  assert len(set(np.asarray(tokens).tolist())) == 10


def test_only_tpus_approximate():
  sampling = Sampling(approximate=True)
  find = jax.jit(functools.partial(find_candidates, sampling=sampling))
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3000)), "f4")
  for found, expected in zip(
    find(logits), jax.lax.top_k(logits, 10), strict=True
  ):
    np.testing.assert_array_equal(found, expected)
  traced = find.trace(logits)
  assert "ApproxTopK" in traced.lower(lowering_platforms=("tpu",)).as_text()
  assert "ApproxTopK" not in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_row_keys_are_the_first_bytes_of_a_digest():
  keys = make_row_keys(["p7", "p8"], ["fi", "te"], num_samples=3, seed=5)
  assert keys.shape == (2, 3, 2)
  digest = hashlib.sha256(b"5\x00p8\x00te\x002").digest()
  first = int.from_bytes(digest[:4], "little")
  second = int.from_bytes(digest[4:8], "little")
  assert keys[1, 2].tolist() == [first, second]
  assert len(np.unique(keys.reshape(-1, 2), axis=0)) == 6


@pytest.mark.parametrize(
  ("values", "expected"),
  [
    ({"top_k": -1}, "top_k is -1"),
    ({"top_p": 0.0}, "top_p is 0"),
    ({"top_p": 1.5}, "top_p is 1.5"),
    ({"temperature": 0.0}, "temperature is 0"),
  ],
)
def test_unfit_sampling_is_refused(values, expected):
  with pytest.raises(InputError, match=expected):
    Sampling(**values)


# --------------------------------------------------------------- vocabulary


def test_mask_leaves_out_what_is_no_text():
  tokenizer = train_tokenizer(
    ["what is the river", "<extra_id_0>"], vocab_size=60, style="t5"
  )
  tokenizer._backend.add_special_tokens(["<extra_id_0>", "<extra_id_99>"])
  tokenizer.vocab_size += 2
  mask = make_vocabulary_mask(tokenizer, tokenizer.vocab_size + 12)
  size = tokenizer.vocab_size
  blocked = {0, 2, size - 2, size - 1, *range(size, size + 12)}
  assert set(np.flatnonzero(~mask).tolist()) == blocked


def test_mask_keeps_a_vocabulary_without_sentinels():
  tokenizer = train_tokenizer(
    ["what is the extra river"], vocab_size=60, style="t5"
  )
  mask = make_vocabulary_mask(tokenizer, tokenizer.vocab_size)
  assert np.flatnonzero(~mask).tolist() == [0, 2]
