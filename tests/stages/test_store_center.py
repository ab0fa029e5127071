"""The stage `store center`: passages without their language's offset."""

import json

import numpy as np
import pytest

from tests.helpers.tiny_store import write_store
from xqg_jax.augmentation.language_means import measure_means, read_means
from xqg_jax.cli.main import main
from xqg_jax.data.passage_languages import read_passage_languages
from xqg_jax.errors import InputError
from xqg_jax.stages.store_center import center_store
from xqg_jax.stages.store_verify import verify_store
from xqg_jax.store.shards import ShardArrays
from xqg_jax.store.store import open_store

# Two passages in English, one in Finnish: means (2, 0) and (0, 6), over all
# (4/3, 2); offsets (2/3, -2) and (-4/3, 4).
VECTORS = np.array([[1, 0], [3, 0], [0, 6]], np.float32)
CENTRED = [[1 / 3, 2], [7 / 3, 2], [4 / 3, 2]]


@pytest.fixture
def world(tmp_path):
  sums = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
  counts = np.ones((3, 1), np.int32)
  write_store(
    tmp_path / "store",
    ShardArrays(["a", "b"], VECTORS[:2], sums[:2], counts[:2]),
    ShardArrays(["c"], VECTORS[2:], sums[2:], counts[2:]),
  )
  rows = [("c", "fi"), ("a", "en"), ("b", "en")]  # in any order
  lines = [
    json.dumps({"docid": name, "text": "t", "lang": code})
    for name, code in rows
  ]
  (tmp_path / "passages.jsonl").write_text("\n".join(lines))
  return tmp_path


def run(world, name="centred", **changes):
  return center_store(
    store=world / "store",
    passages=world / "passages.jsonl",
    output_dir=world / name,
    **changes,
  )


def test_offsets_by_hand(world, capsys):
  found = run(world)
  (block,) = found.blocks(10)
  np.testing.assert_allclose(block.passages, CENTRED, rtol=1e-6)
  assert "passages centred: en 2, fi 1" in capsys.readouterr().err
  # All else is as it was.
  (before,) = open_store(world / "store").blocks(10)
  np.testing.assert_array_equal(block.query_sums, before.query_sums)
  np.testing.assert_array_equal(block.query_counts, before.query_counts)
  assert found.passage_ids == ["a", "b", "c"]
  assert found.encoder_fingerprint == "e"
  assert len(found.manifest["shards"]) == 2


def test_half_the_strength_and_none(world):
  (half,) = run(world, "half", strength=0.5).blocks(10)
  expected = (VECTORS + CENTRED) / 2
  np.testing.assert_allclose(half.passages, expected, rtol=1e-6)
  (same,) = run(world, "same", strength=0.0).blocks(10)
  np.testing.assert_array_equal(same.passages, VECTORS)


def test_the_means_of_questions_go_along(world):
  means = measure_means(VECTORS, ["fi", "fi", "ko"], encoder_fingerprint="e")
  means.write(world / "store")
  run(world)
  assert read_means(world / "centred").fingerprint == means.fingerprint


def test_verify_reads_the_means_of_questions(world):
  means = measure_means(VECTORS, ["fi", "fi", "ko"], encoder_fingerprint="e")
  means.write(world / "store")
  verify_store(store=world / "store")
  path = world / "store" / "question_means.json"
  path.write_text(path.read_text().replace("6.0", "7.0"))
  with pytest.raises(InputError, match="differs from its checksum"):
    verify_store(store=world / "store")


def test_a_finished_run_is_opened_and_another_is_refused(world):
  first = run(world).fingerprint
  assert run(world).fingerprint == first
  with pytest.raises(InputError, match="another strength"):
    run(world, strength=0.5)


def test_languages_are_identified(world):
  pytest.importorskip("py3langid")
  texts = {
    "a": "Where is the river?",
    "b": "The old town.",
    "c": "Missä joki on?",
  }
  path = world / "passages.tsv"
  path.write_text(
    "".join(f"{name}\t{text}\t\n" for name, text in texts.items())
  )
  found = read_passage_languages(path, field=None, languages=("en", "fi"))
  assert found == {"a": "en", "b": "en", "c": "fi"}


@pytest.mark.parametrize(
  ("line", "changes", "message"),
  [
    ({"docid": "d", "text": "t"}, {}, r"jsonl:1: no language in the field"),
    ({"docid": "a", "text": "t", "lang": "xx"}, {}, "unknown language 'xx'"),
    (
      {"docid": "a", "text": "t", "lang": "fi"},
      {},
      "no language of passage 'b'",
    ),
    ({"docid": "a", "text": "t"}, {"language_field": None}, "set LANGUAGES"),
    ({"docid": "a", "text": "t"}, {"strength": 3.0}, "choose 0 to 2"),
  ],
)
def test_bad_input_leaves_nothing_behind(world, line, changes, message):
  (world / "passages.jsonl").write_text(json.dumps(line))
  with pytest.raises(InputError, match=message):
    run(world, **changes)
  assert not (world / "centred").exists()


def test_the_command_line(world):
  code = main(
    [
      "store",
      "center",
      f"--gin.STORE={world / 'store'}",
      f"--gin.PASSAGES={world / 'passages.jsonl'}",
      f"--gin.OUTPUT_DIR={world / 'centred'}",
      "--gin.CENTER_PASSAGES=0.5",
    ]
  )
  assert code == 0
  (block,) = open_store(world / "centred").blocks(10)
  expected = (VECTORS + CENTRED) / 2
  np.testing.assert_allclose(block.passages, expected, rtol=1e-6)
