"""The job: killed, shared by processes, watched, and given bad input."""

import gzip
import itertools
import json
import pathlib
import random
import shutil
import signal
import socket
import time

import pytest

from tests.helpers import tiny_generator as tiny
from xqg_jax.checkpoints import load_query_generator
from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.data.languages import get_languages
from xqg_jax.data.passages import Passage
from xqg_jax.demo.pretraining import SHIPPED_GENERATOR
from xqg_jax.errors import InputError
from xqg_jax.generation import query_files
from xqg_jax.generation.health import SIGNS
from xqg_jax.generation.job import SAMPLE_FILE, Ledger, find_cost_left
from xqg_jax.generation.query_writer import QuerySettings
from xqg_jax.generation.sampling import GREEDY
from xqg_jax.generation.writers.t5 import T5QueryWriter
from xqg_jax.stages.generate import SKIPPED_FILE, generate
from xqg_jax.text.prompts import make_prompt
from xqg_jax.xor_mini import iter_passages

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  return tiny.write_checkpoint(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def run(checkpoint, tmp_path):
  def call(passages=tiny.PASSAGES, name="out", **options):
    manifest = generate(
      checkpoint_path=options.pop("checkpoint_path", checkpoint),
      passages=tiny.write_file(tmp_path / "passages.tsv", passages),
      output_dir=tmp_path / name,
      **(tiny.OPTIONS | options),
    )
    return tmp_path / name, manifest

  return call


# ------------------------------------------------------------------------ kills


def _make_alone(folder, **options):
  """The same job in this process, from end to end."""
  generate(
    checkpoint_path=folder / "model",
    passages=folder / "passages.tsv",
    output_dir=folder / "unbroken",
    languages=("fi",),
    num_queries=2,
    max_input_length=32,
    max_query_length=4,
    force=True,
    **options,
  )
  return tiny.read_bytes(folder / "unbroken")


def _read_job(folder):
  found = tiny.read_bytes(folder)
  del found["operative_config.gin"]  # of the command line
  return found


@pytest.mark.slow
def test_kills_lose_nothing_and_double_nothing(tmp_path, checkpoint):
  """kill -9 at any time, over and over, until 2,000 passages are through."""
  shutil.copytree(checkpoint, tmp_path / "model")
  passages = [
    Passage(f"p{n}", f"The river {n} rises in the hills.", f"River {n % 9}")
    for n in range(2000)
  ]
  tiny.write_file(tmp_path / "passages.tsv", passages)
  expected = _make_alone(tmp_path, shard_size=200)
  folder, draw, num_kills = tmp_path / "broken", random.Random(0), 0
  finished = folder / "finished"
  while True:
    job = tiny.start_job(
      tmp_path, OUTPUT_DIR=folder, NUM_QUERIES=2, SHARD_SIZE=200
    )
    wanted = draw.randint(1, 4) + len(list(finished.glob("*.json")))
    while job.poll() is None and len(list(finished.glob("*.json"))) < wanted:
      time.sleep(0.01)
    time.sleep(draw.random() / 10)
    if job.poll() is not None:
      break
    job.send_signal(signal.SIGKILL)
    job.wait()
    num_kills += 1
  assert job.returncode == 0, job.stdout.read()
  assert num_kills >= 2
  assert _read_job(folder) == expected
  ids = [item.passage_id for _, item in read_generated_queries(folder)]
  assert ids == [passage.passage_id for passage in passages]


def _find_port():
  with socket.socket() as probe:
    probe.bind(("", 0))
    return probe.getsockname()[1]


@pytest.mark.slow
def test_two_processes_write_what_one_does(tmp_path, checkpoint):
  shutil.copytree(checkpoint, tmp_path / "model")
  tiny.write_file(tmp_path / "passages.tsv", tiny.PASSAGES)
  port = _find_port()
  jobs = [
    tiny.start_job(
      tmp_path,
      f"--coordinator_address=localhost:{port}",
      "--num_processes=2",
      f"--process_id={number}",
      num_devices=2,
      OUTPUT_DIR=tmp_path / "two",
      NUM_QUERIES=2,
      SHARD_SIZE=2,
    )
    for number in range(2)
  ]
  expected = _make_alone(tmp_path, shard_size=2)
  outputs = [job.communicate(timeout=200)[0] for job in jobs]
  assert [job.returncode for job in jobs] == [0, 0], outputs
  assert _read_job(tmp_path / "two") == expected
  assert sum(name.startswith("part-") for name in expected) == 4


# ----------------------------------------------------------------------- health


def test_an_untrained_checkpoint_stops_the_job(run, capsys):
  with pytest.raises(InputError, match="looks untrained or damaged") as caught:
    run(force=False)
  line = str(caught.value)
  assert "% unfinished" in line
  assert "FORCE=True" in line
  assert "\n" not in line
  folder, _ = run()  # forced, it goes on in the same folder
  sample = json.loads((folder / SAMPLE_FILE).read_text())
  assert len(sample["examples"]) == 5
  assert sum(row["queries"] for row in sample["counts"].values()) == 7 * 2 * 3
  table = capsys.readouterr().err
  assert "health of a sample" in table
  assert "te " in table


def test_a_sample_is_looked_at_before_anything_is_written(run, tmp_path):
  with pytest.raises(InputError):
    run(force=False)
  assert not list((tmp_path / "out").glob("part-*"))


@pytest.mark.slow
def test_a_trained_generator_passes(run):
  passages = list(itertools.islice(iter_passages(200, seed=4), 6))
  _, manifest = run(
    passages,
    checkpoint_path=SHIPPED_GENERATOR,
    max_input_length=40,
    max_query_length=36,
    batch_size=8,
    force=False,
  )
  assert manifest["health"]["all"]["wrong_script"] < 0.2
  shares = manifest["health"]["fi"]
  lengths = [v for name, v in shares.items() if name.startswith("characters_")]
  assert sum(lengths) == pytest.approx(1, abs=1e-5)


def test_a_job_that_turns_bad_stops(run, monkeypatch):
  write = T5QueryWriter.write_prompts
  calls = []

  def failing(writer, prompts, num_passages, **options):
    written = write(writer, prompts, num_passages, **options)
    calls.append(num_passages)
    text = "kysymys joesta" if len(calls) < 2 else ""
    for number, queries in enumerate(written.queries):
      for language in queries:
        queries[language] = [f"{text} {number} {n}".strip() for n in range(3)]
        queries[language] = queries[language] if text else [""] * 3
    for row in written.unfinished:
      row.update(dict.fromkeys(row, 0))
    return written

  monkeypatch.setattr(T5QueryWriter, "write_prompts", failing)
  with pytest.raises(InputError, match="queries so far are 100% empty"):
    run(force=False, languages=("fi",))
  assert calls[0] == 7  # the sample


def test_costs_follow_from_the_rate():
  assert find_cost_left(0, 10, 5.0, 1.0) is None
  assert find_cost_left(20, 60, 1800.0, None) is None
  assert find_cost_left(20, 60, 1800.0, 4 * 3.0) == pytest.approx(1.5 * 12)


def test_the_ledger_tells_health_and_what_is_left_to_pay():
  ledger = Ledger(4)
  row = dict.fromkeys(("queries", *SIGNS), 0) | {"queries": 8}
  ledger.add({"index": 0, "counts": {"fi": row | {"empty": 2}}})
  ledger.start()
  assert "to go" not in ledger.describe(1e6)  # nothing done since
  ledger.add({"index": 2, "counts": {"te": row}})
  line = ledger.describe(1e12)
  assert line.startswith("12.5% empty, 0.0% duplicate, 0.0% wrong script, $")
  assert line.endswith(" to go")
  assert "$" not in ledger.describe(None)


# -------------------------------------------------------------------- bad input


def test_empty_passages_are_skipped_counted_and_listed(run, capsys):
  passages = list(tiny.PASSAGES)
  passages.insert(2, Passage("hollow", " ", "A title alone"))
  folder, manifest = run(passages)
  assert manifest["num_skipped_passages"] == 1
  assert manifest["num_passages"] == 7
  skipped = (folder / SKIPPED_FILE).read_text()
  assert skipped == "passages.tsv:4\thollow\n"
  ids = [item.passage_id for _, item in read_generated_queries(folder)]
  assert ids == [passage.passage_id for passage in tiny.PASSAGES]
  assert "1 passages have no text and are left out" in capsys.readouterr().err


def test_passages_without_any_text_are_refused(run):
  with pytest.raises(InputError, match="no passage has a text"):
    run([Passage("p0", ""), Passage("p1", " ")])


def test_a_passage_of_ten_megabytes(run, checkpoint):
  long = Passage("long", "The river rises in the hills. " * 350_000, "River 0")
  blank = Passage("blank", " " * 300_000 + "river", "River 0")
  folder, manifest = run([long, blank], languages=("fi",), num_queries=1)
  assert manifest["num_passages"] == 2
  with gzip.open(folder / "part-00000-of-00001.jsonl.gz", "rt") as file:
    assert json.loads(file.readline())["text"] == long.text
  # Only the beginning was tokenised, with the same result as the whole.
  settings = QuerySettings(
    languages=get_languages(("fi",)),
    num_queries=1,
    sampling=GREEDY,
    max_input_length=48,
    max_query_length=8,
    seed=0,
    batch_size=2,
  )
  writer = T5QueryWriter(load_query_generator(checkpoint), settings)
  (finnish,) = settings.languages
  first = writer.make_prompts([long, blank])
  (whole,) = writer.generator.tokenizer.encode_batch(
    [make_prompt(Passage("", long.text[:9000], "River 0"), finnish)],
    max_length=48,
  )
  assert first[0].tokens[:47].tolist() == whole[:47].tolist()
  assert [prompt.is_cut for prompt in first] == [True, False]


def test_control_characters_of_texts_pass_through(run):
  text = "river\x00 rises\x07 in\x1b the\x85 hills\u2028\u202e."
  folder, manifest = run([Passage("c1", text, "ti\x0btle"), *tiny.PASSAGES])
  assert manifest["num_passages"] == 8
  rows = list(read_generated_queries(folder))
  assert rows[0][1].passage_id == "c1"
  for shard in folder.glob("part-*"):
    with gzip.open(shard, "rt", encoding="utf-8", newline="\n") as file:
      assert all(json.loads(line)["docid"] for line in file)


def test_half_a_character_is_refused(checkpoint, tmp_path):
  path = tmp_path / "passages.jsonl"
  path.write_text('{"docid": "p0", "text": "river \\ud800"}\n')
  with pytest.raises(
    InputError, match=r"passages.jsonl:1: .* half a character"
  ):
    generate(
      checkpoint_path=checkpoint, passages=path, output_dir=tmp_path / "out"
    )


def test_a_language_without_training_is_warned_of(run, tmp_path, capsys):
  task = {"language_in": "prompt", "languages": ["fi", "ru"]}
  trained = tiny.write_checkpoint(tmp_path / "trained", task)
  run(checkpoint_path=trained)
  lines = capsys.readouterr().err.splitlines()
  assert (
    "xqg: warning: the checkpoint was not trained for Telugu (te), only for "
    "fi, ru"
  ) in lines


def test_a_full_disk_is_one_line_and_the_job_goes_on(run, monkeypatch):
  expected = tiny.read_bytes(run(name="unbroken")[0])
  write, paths = query_files._write_gzip, iter([pathlib.Path("/dev/full")])

  def to_full_disk(path, rows):
    write(next(paths, path), rows)

  monkeypatch.setattr(query_files, "_write_gzip", to_full_disk)
  with pytest.raises(InputError, match="the disk is full") as caught:
    run()
  assert "\n" not in str(caught.value)
  assert tiny.read_bytes(run()[0]) == expected


def test_passages_may_lie_in_several_files(run, checkpoint, tmp_path):
  expected = run()[0]
  folder = tmp_path / "shards"
  folder.mkdir()
  tiny.write_file(folder / "a.tsv", tiny.PASSAGES[:2])
  with gzip.open(folder / "b.jsonl.gz", "wt") as file:
    for p in tiny.PASSAGES[2:]:
      row = {"docid": p.passage_id, "title": p.title, "text": p.text}
      file.write(json.dumps(row) + "\n")
  generate(
    checkpoint_path=checkpoint,
    passages=folder,
    output_dir=tmp_path / "several",
    **tiny.OPTIONS,
  )
  for name in (p.name for p in expected.glob("part-*")):
    assert (tmp_path / "several" / name).read_bytes() == (
      expected / name
    ).read_bytes()
