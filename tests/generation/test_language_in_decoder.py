"""One encoded prompt for all languages: trained, recorded, decoded, refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xqg_jax.tasks as tasks
from tests.helpers import tiny_t5
from tests.helpers.tiny_collection import make_tokenizer, write_collection
from tests.helpers.tiny_tasks import GENERATION_LENGTHS, read_examples
from xqg_jax.checkpoints import (
  QueryGenerator,
  export_query_generator,
  load_query_generator,
)
from xqg_jax.data.languages import get_languages
from xqg_jax.data.passages import Passage
from xqg_jax.errors import InputError
from xqg_jax.generation.decoding import decode
from xqg_jax.generation.query_writer import QuerySettings
from xqg_jax.generation.sampling import GREEDY, Sampling, make_row_keys
from xqg_jax.generation.writers.t5 import T5QueryWriter
from xqg_jax.models.t5 import network
from xqg_jax.stages.generate import generate
from xqg_jax.stages.train import train
from xqg_jax.text.prompts import make_prompt
from xqg_jax.training.query_generator_model import QueryGeneratorModel

pytestmark = pytest.mark.usefixtures("quick_compiler")

LANGUAGES = ("fi", "ru", "ko", "ar", "te", "ja", "bn")
CONFIG = tiny_t5.CONFIG
PASSAGES = [
  Passage(f"p{n}", "The river flows north. " * (n % 4 + 1), f"River {n}")
  for n in range(9)
]


@pytest.fixture(scope="module")
def generator():
  module, row = network.T5(config=CONFIG), jnp.zeros((1, 4), jnp.int32)
  variables = jax.jit(module.init)(jax.random.key(0), row, row, row)
  params = variables["params"]
  params["decoder"]["logits_dense"]["kernel"] *= 3  # so that texts differ
  return QueryGenerator(
    config=CONFIG,
    module=module,
    params=params,
    tokenizer=make_tokenizer("t5"),
    fingerprint="",
    language_in="decoder",
    languages=LANGUAGES,
  )


def _make_writer(generator, sampling=GREEDY, language_in="decoder", **options):
  settings = {
    "languages": get_languages(LANGUAGES),
    "num_queries": 2,
    "sampling": sampling,
    "max_input_length": 24,
    "max_query_length": 7,
    "seed": 0,
    "batch_size": 14,
    "language_in": language_in,
  }
  return T5QueryWriter(
    generator,
    QuerySettings(**(settings | options)),
    jax.devices()[:1],
  )


# --------------------------------------------------------------------- decoding


def test_forced_tokens_come_first_and_the_rest_is_recomputed(generator):
  """Every greedy token is the best of the whole network, run afresh."""
  module, params = generator.module, generator.params
  prompts = tiny_t5.make_rows([12, 7], 12)
  forced = np.zeros((2, 3, 3), np.int32)
  forced[:, 0, :3], forced[:, 1, :1] = [40, 41, 42], [43]
  keys = make_row_keys("ab", ["fi", "fi"], num_samples=3, seed=0)
  allowed = np.ones(CONFIG.vocab_size, bool)
  tokens, is_finite = decode(
    module,
    params,
    prompts,
    keys,
    allowed,
    forced=forced,
    sampling=GREEDY,
    max_length=7,
  )
  assert is_finite
  tokens = np.asarray(tokens)
  assert tokens.shape == (2, 3, 10)
  call = jax.jit(lambda *rows: module.apply({"params": params}, *rows))
  for sample, length in enumerate((3, 1, 0)):
    rows = tokens[:, sample]
    np.testing.assert_array_equal(rows[:, :length], forced[:, sample, :length])
    logits = call(prompts, tiny_t5.shift_right(rows), np.ones_like(rows))
    best = np.asarray(logits).argmax(axis=-1)
    for row, expected in zip(rows, best, strict=True):
      end = list(row).index(1) + 1 if 1 in row else length + 7
      np.testing.assert_array_equal(row[length:end], expected[length:end])
      assert not row[end:].any()


@pytest.mark.slow
def test_languages_share_a_prompt_without_changing_each_other(generator):
  together = _make_writer(generator, Sampling()).write(PASSAGES)
  for code in ("ru", "bn"):
    alone = _make_writer(
      generator, Sampling(), languages=get_languages((code,))
    ).write(PASSAGES)
    for several, one in zip(together.queries, alone.queries, strict=True):
      assert several[code] == one[code]
  texts = {tuple(queries["fi"]) for queries in together.queries}
  assert len(texts) > 5


def test_a_passage_is_encoded_once_for_all_languages(generator):
  writer = _make_writer(generator)
  prompts = writer.make_prompts(PASSAGES)
  assert len(prompts) == len(PASSAGES)
  assert writer.decoder.num_samples == 7 * 2
  (expected,) = generator.tokenizer.encode_batch(
    [f"{PASSAGES[0].title} {PASSAGES[0].text}"], max_length=24
  )
  assert prompts[0].tokens.tolist() == expected.tolist()
  assert "Generate" not in make_prompt(PASSAGES[0], None)
  assert len(
    _make_writer(generator, language_in="prompt").make_prompts(PASSAGES)
  ) == 7 * len(PASSAGES)


def test_names_that_the_tokenizer_confuses_are_refused(generator, monkeypatch):
  monkeypatch.setattr(
    "xqg_jax.generation.writers.t5.make_decoder_start",
    lambda language: "river",
  )
  with pytest.raises(InputError, match="does not tell the names"):
    _make_writer(generator)


# --------------------------------------------------------------------- training


def test_targets_begin_with_the_language_and_learn_nothing_of_it(tmp_path):
  tokenizer = make_tokenizer("t5")
  tasks.register_local_tasks(
    name="spoken",
    data_dir=write_collection(tmp_path),
    generator_tokenizer=tokenizer,
    language_in="decoder",
  )
  example = read_examples("spoken_generation_fi", GENERATION_LENGTHS)[0]
  assert example["inputs_pretokenized"] == (
    b"fiaor The river fiaor flows north."
  )
  question = b"Finnish: Miss\xc3\xa4 joki fiaor virtaa?"
  assert example["targets_pretokenized"] == question
  start, whole, plain = tokenizer.encode_batch(
    ["Finnish:", "Finnish: Missä joki", "Missä joki"], max_length=64
  )
  # The name's tokens are the same alone and before a question.
  assert whole.tolist() == [*start[:-1], *plain]
  model = QueryGeneratorModel(
    config=CONFIG, tokenizer=tokenizer, language_in="decoder"
  )
  targets = np.pad(whole, (0, 16 - len(whole)))[None]
  batch = model.prepare_batch(
    {
      "decoder_target_tokens": targets,
      "decoder_loss_weights": (targets > 0).astype(np.int32),
    },
    num_groups=1,
  )
  weights = batch["decoder_loss_weights"][0]
  assert not weights[: len(start) - 1].any()
  assert weights[len(start) - 1 : len(whole)].all()
  assert not weights[len(whole) :].any()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  folder = write_collection(tmp_path_factory.mktemp("trained"))
  train(
    model_dir=folder / "model",
    model=QueryGeneratorModel(
      config=CONFIG,
      tokenizer=make_tokenizer("t5"),
      language_in="decoder",
      dropout_rate=0.0,
    ),
    mixture_or_task_name="told_generation",
    data_dir=folder,
    task_feature_lengths=GENERATION_LENGTHS,
    train_steps=2,
    batch_size=8,
  )
  (folder / "passages.tsv").write_text("p1\tThe river flows.\tRiver\n")
  return folder


@pytest.mark.slow
def test_the_checkpoint_decides_how_queries_are_written(trained, tmp_path):
  recorded = json.loads((trained / "model/query_generator.json").read_text())
  assert recorded == {"language_in": "decoder", "languages": ["fi", "ko", "ru"]}
  generator = load_query_generator(trained / "model")
  assert generator.language_in == "decoder"
  assert generator.languages == ("fi", "ko", "ru")
  newest = load_query_generator(trained / "model" / "checkpoint_2")
  assert newest.language_in == "decoder"
  export_query_generator(tmp_path / "exported", generator)
  assert load_query_generator(tmp_path / "exported").task == recorded
  arguments = {
    "checkpoint_path": trained / "model",
    "passages": trained / "passages.tsv",
    "languages": ("fi", "ru"),
    "num_queries": 2,
    "max_input_length": 24,
    "max_query_length": 6,
    "batch_size": 2,
    "force": True,
  }
  manifest = generate(output_dir=tmp_path / "out", **arguments)
  assert manifest["settings"]["language_in"] == "decoder"
  assert manifest["num_queries"] == 4
  with pytest.raises(InputError, match="trained with the language in the dec"):
    generate(output_dir=tmp_path / "other", language_in="prompt", **arguments)
  assert not (tmp_path / "other").exists()


def test_an_unknown_place_is_refused():
  with pytest.raises(InputError, match="language_in is 'title'"):
    QueryGeneratorModel(language_in="title")
