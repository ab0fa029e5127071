"""The stage: what it writes, that it resumes, and what it refuses."""

import collections
import gzip
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import tiny_generator
from tests.helpers.tiny_generator import OPTIONS, PASSAGES, read_bytes
from xqg_jax.checkpoints import load_query_generator
from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.data.languages import get_languages
from xqg_jax.data.passages import Passage
from xqg_jax.errors import InputError
from xqg_jax.generation import query_files
from xqg_jax.generation.decoding import Sampling
from xqg_jax.generation.output_vocabulary import make_language_vocabularies
from xqg_jax.generation.query_writer import QuerySettings
from xqg_jax.generation.slot_decoder import bucket_lengths
from xqg_jax.generation.writers.t5 import T5QueryWriter
from xqg_jax.stages.generate import generate
from xqg_jax.text.prompts import make_prompt

NAMES = [f"part-0000{n}-of-00003.jsonl.gz" for n in range(3)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  return tiny_generator.write_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def passages(tmp_path):
  return tiny_generator.write_file(tmp_path / "passages.tsv", PASSAGES)


@pytest.fixture
def run(checkpoint, passages, tmp_path):
  def call(name="out", **options):
    folder = tmp_path / name
    manifest = generate(
      checkpoint_path=checkpoint,
      passages=passages,
      output_dir=folder,
      **(OPTIONS | options),
    )
    return folder, manifest

  return call


def _read(folder):
  return {
    item.passage_id: dict(item.queries)
    for _, item in read_generated_queries(folder)
  }


# ------------------------------------------------------------------- output


def test_writes_the_released_form_and_a_manifest(run):
  folder, manifest = run()
  assert sorted(p.name for p in folder.glob("part-*")) == NAMES
  queries = _read(folder)
  assert list(queries) == [p.passage_id for p in PASSAGES]
  for by_language in queries.values():
    assert list(by_language) == ["fi", "te"]
    assert all(len(texts) == 3 for texts in by_language.values())
  with gzip.open(folder / NAMES[0], "rt", encoding="utf-8") as file:
    first = json.loads(file.readline())
  assert first["docid"] == "p0"
  assert first["title"] == "River 0"
  assert first["text"] == PASSAGES[0].text
  assert manifest == json.loads((folder / "manifest.json").read_text())
  assert manifest["num_passages"] == 7
  assert manifest["num_queries"] == 7 * 2 * 3
  assert [s["num_passages"] for s in manifest["shards"]] == [3, 3, 1]
  assert manifest["settings"]["sampling"]["top_k"] == 10


def test_manifest_tells_health(run):
  folder, manifest = run()
  health = manifest["health"]
  assert list(health) == ["fi", "te", "all"]
  # The vocabulary has no Telugu.
  te_texts = [t for q in _read(folder).values() for t in q["te"]]
  is_empty = sum(not text for text in te_texts) / len(te_texts)
  assert health["te"]["empty"] == pytest.approx(is_empty, abs=1e-6)
  assert health["te"]["wrong_script"] == pytest.approx(1 - is_empty, abs=1e-6)
  assert health["all"]["sentinel"] == 0


def test_bytes_hold_neither_time_nor_name(run):
  folder, _ = run()
  header = (folder / NAMES[0]).read_bytes()[:10]
  assert header[:2] == b"\x1f\x8b"
  assert header[3] == 0  # no name
  assert header[4:8] == bytes(4)  # no time


def test_long_prompts_keep_their_start_and_are_counted(run, checkpoint):
  _, manifest = run()
  tokenizer = load_query_generator(checkpoint).tokenizer
  prompts = [
    make_prompt(p, language)
    for p in PASSAGES
    for language in get_languages(("fi", "te"))
  ]
  whole = tokenizer.encode_batch(prompts, max_length=10_000)
  too_long = sum(len(tokens) > 48 for tokens in whole)
  assert 0 < too_long < len(prompts)
  assert manifest["num_cut_prompts"] == too_long


def test_prompts_are_cut_at_their_end_only(checkpoint):
  writer = _writer(checkpoint)
  tokenizer = writer.generator.tokenizer
  for prompt in writer.make_prompts(PASSAGES):
    language = get_languages(prompt.languages)[0]
    (whole,) = tokenizer.encode_batch(
      [make_prompt(PASSAGES[prompt.row], language)], max_length=10_000
    )
    assert prompt.is_cut == (len(whole) > 48)
    if prompt.is_cut:
      assert prompt.tokens.tolist() == [*whole[:47], tokenizer.eos_id]
    else:
      assert prompt.tokens.tolist() == whole.tolist()


@pytest.mark.parametrize("limit", [16, 20, 48, 64, 100, 256, 512])
def test_buckets_are_few_and_cover_the_limit(limit):
  lengths = bucket_lengths(limit)
  assert len(lengths) <= 4
  assert lengths == sorted(set(lengths))
  assert limit <= lengths[-1] < limit + 32
  assert all(length % 8 == 0 for length in lengths)


# --------------------------------------------------- same queries everywhere


def _writer(checkpoint, devices=None, **options):
  options = OPTIONS | options
  settings = QuerySettings(
    languages=get_languages(options["languages"]),
    num_queries=options["num_queries"],
    sampling=Sampling(),
    max_input_length=options["max_input_length"],
    max_query_length=options["max_query_length"],
    seed=options.get("seed", 0),
    batch_size=options["batch_size"],
  )
  return T5QueryWriter(load_query_generator(checkpoint), settings, devices)


@pytest.mark.slow
def test_shards_and_batches_change_no_query(run):
  expected = _read(run()[0])
  one_shard, _ = run("one_shard", shard_size=100)
  other_batch, _ = run("other_batch", batch_size=5)
  assert _read(one_shard) == expected
  assert _read(other_batch) == expected


@pytest.mark.slow
def test_devices_change_no_query(checkpoint):
  assert len(jax.devices()) == 8
  expected = _writer(checkpoint, jax.devices()).write(PASSAGES)
  one = _writer(checkpoint, jax.devices()[:1]).write(PASSAGES)
  assert one == expected


def test_order_and_company_change_no_query(checkpoint):
  writer = _writer(checkpoint, jax.devices()[:1])
  expected = writer.write(PASSAGES).queries
  assert writer.write(PASSAGES[::-1]).queries == expected[::-1]
  assert writer.write(PASSAGES[2:3]).queries == expected[2:3]


def test_the_seed_and_the_passage_id_decide(checkpoint):
  passage = PASSAGES[0]
  twin = Passage("twin", passage.text, passage.title)
  queries = _writer(checkpoint).write([passage, twin]).queries
  assert queries[0] != queries[1]
  other = _writer(checkpoint, seed=1).write([passage]).queries
  assert other[0] != queries[0]


def test_progress_counts_every_query_once(checkpoint):
  told = []
  _writer(checkpoint).write(PASSAGES, on_progress=told.append)
  assert sum(told) == 7 * 2 * 3


# -------------------------------------------------------- fewer output tokens


@pytest.mark.slow
def test_queries_hold_only_tokens_of_their_language(run, checkpoint, tmp_path):
  path = tmp_path / "questions.jsonl"
  rows = [
    {"question": "The river.", "lang": "fi"},
    {"question": "rises in", "lang": "te"},
  ]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  folder, manifest = run(vocabulary_texts=str(path))
  tokenizer = load_query_generator(checkpoint).tokenizer
  tables = make_language_vocabularies(
    tokenizer,
    path,
    get_languages(("fi", "te")),
    vocab_size=tokenizer.vocab_size + 4,
  )
  described = {code: table.describe() for code, table in tables.items()}
  assert manifest["output_vocabulary"] == described
  assert tables["fi"].token_ids.tolist() != tables["te"].token_ids.tolist()
  for by_language in _read(folder).values():
    for language, texts in by_language.items():
      ids = tables[language].token_ids.tolist()
      pieces = tokenizer.decode_batch([[token] for token in ids])
      assert set("".join(texts)) <= set("".join(pieces)) | {" "}
  with pytest.raises(InputError, match="another"):
    run()


# ------------------------------------------------------------------- resume


def _stop_after(monkeypatch, num_shards):
  """Stops the job, as a kill would, before the next shard is written."""
  write, calls = query_files._write_gzip, itertools.count()

  def stopping(path, *args):
    write(path, *args)
    if next(calls) == num_shards:
      raise KeyboardInterrupt

  monkeypatch.setattr(query_files, "_write_gzip", stopping)


@pytest.mark.parametrize("num_shards", [0, 1, 2])
def test_a_stopped_run_goes_on_with_the_sameread_bytes(
  run, monkeypatch, num_shards
):
  expected = read_bytes(run("unbroken")[0])
  with monkeypatch.context() as patch:
    _stop_after(patch, num_shards)
    with pytest.raises(KeyboardInterrupt):
      run("broken")
  written = collections.Counter()
  write_prompts = T5QueryWriter.write_prompts

  def counting(writer, prompts, *args, **options):
    written.update({prompt.passage_id for prompt in prompts})
    return write_prompts(writer, prompts, *args, **options)

  monkeypatch.setattr(T5QueryWriter, "write_prompts", counting)
  folder, _ = run("broken")
  assert read_bytes(folder) == expected
  assert sum(written.values()) == 7 - 3 * num_shards


def test_a_shard_without_its_record_is_written_again(run):
  folder, _ = run()
  expected = read_bytes(folder)
  next(iter((folder / "finished").iterdir())).unlink()
  run()
  assert read_bytes(folder) == expected


def test_a_damaged_shard_is_written_again(run):
  folder, _ = run()
  expected = read_bytes(folder)
  shard = folder / NAMES[1]
  data = bytearray(shard.read_bytes())
  data[-20] ^= 1
  shard.write_bytes(data)
  run()
  assert read_bytes(folder) == expected


def test_a_finished_run_is_not_done_again(run, monkeypatch):
  folder, manifest = run()
  monkeypatch.delattr(T5QueryWriter, "write_prompts")
  assert run() == (folder, manifest)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({"languages": ("xx",)}, "unknown language 'xx'"),
    ({"languages": ()}, "no languages"),
    ({"num_queries": 0}, "num_queries is 0"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"shard_size": 0}, "shard_size is 0"),
    ({"max_input_length": 4}, "max_input_length is 4"),
    ({"top_p": 2.0}, "top_p is 2"),
  ],
)
def test_unfit_options_write_nothing(run, tmp_path, options, expected):
  with pytest.raises(InputError, match=expected):
    run(**options)
  assert not (tmp_path / "out").exists()


def test_bad_passages_write_nothing(run, passages, tmp_path):
  with open(passages, "a") as file:
    file.write("p0\tthe same id\ttitle\n")
  with pytest.raises(InputError, match=r"passages.tsv:9: .*'p0' appears twice"):
    run()
  assert not (tmp_path / "out").exists()


def test_another_run_in_the_folder_is_refused(run):
  run()
  with pytest.raises(InputError, match="another settings"):
    run(seed=1)


def test_states_that_are_not_finite_stop_the_job(checkpoint):
  writer = _writer(checkpoint)
  norm = writer.decoder.params["encoder"]["encoder_norm"]
  norm["scale"] = jnp.full_like(norm["scale"], np.nan)
  with pytest.raises(InputError, match="not finite at passage 'p"):
    writer.write(PASSAGES)
