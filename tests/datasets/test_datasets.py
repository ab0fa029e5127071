"""The TFDS builders: registration, values, order, resuming."""

import collections
import functools
import hashlib
import json
import signal
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from tests.helpers.tiny_dataset_files import (
  DEV,
  NQ_DEV,
  NQ_ROW,
  NQ_TRAIN,
  PAIR,
  PAIRS,
  QUESTION,
  TRAIN,
  WIKI,
  WIKI_TSV,
  gold_article,
  gold_document,
  hash_tree,
  load_splits,
  rows_per_shard_of,
  write_gold,
  write_lines,
  write_text,
)
from xqg_jax.data.passages import Passage, read_passages
from xqg_jax.data.questions import read_questions
from xqg_jax.data.training_pairs import read_training_pairs
from xqg_jax.datasets.catalogue import list_datasets
from xqg_jax.datasets.reading import json_arrays
from xqg_jax.datasets.reading.json_arrays import read_json_array
from xqg_jax.datasets.wiki_passages import WikiPassages
from xqg_jax.datasets.writing.streaming import serialize_example
from xqg_jax.datasets.xor_tydi import detect_language
from xqg_jax.errors import InputError
from xqg_jax.stages.prepare import prepare

# ------------------------------------------------------------------- registry


def test_every_data_set_is_registered_with_licence_and_citation(tmp_path):
  assert {"xor_tydi", "wiki_passages", "natural_questions_dpr"} <= set(
    tfds.list_builders(with_community_datasets=False)
  )
  for name in list_datasets():
    builder = tfds.builder(name, data_dir=tmp_path)
    assert str(builder.version) == "1.0.0"
    assert builder.info.citation.startswith("@")
    assert builder.info.redistribution_info.license
    for split in builder.builder_config.splits.values():
      assert split.file.url.startswith("https://")
      assert split.file.sha256 is None or len(split.file.sha256) == 64


@pytest.mark.parametrize("name", ["xor_tydi/pairs", "natural_questions_dpr"])
def test_features_of_pairs(name, tmp_path):
  text = tfds.features.Text()
  passages = tfds.features.Sequence(
    {"passage_id": text, "title": text, "text": text}
  )
  expected = tfds.features.FeaturesDict(
    {
      "query_id": text,
      "query": text,
      "language": text,
      "answers": tfds.features.Sequence(text),
      "positive_passages": passages,
      "negative_passages": passages,
    }
  )
  features = tfds.builder(name, data_dir=tmp_path).info.features
  assert repr(features) == repr(expected)


def test_records_are_those_of_the_serializer_of_tfds(tmp_path):
  passage = {"passage_id": "1", "title": "Ä", "text": "t"}
  example = {
    "query_id": "7",
    "query": "কি",
    "language": "bn",
    "answers": ["a", "b"],
    "positive_passages": [passage, {**passage, "passage_id": "2"}],
    "negative_passages": [passage],
  }
  features = tfds.builder("xor_tydi/pairs", data_dir=tmp_path).info.features
  reference = tfds.core.example_serializer.ExampleSerializer(
    features.get_serialized_info()
  ).get_tf_example(features.encode_example(example))
  assert serialize_example(example) == reference.SerializeToString(
    deterministic=True
  )


# ------------------------------------------------------------------ questions


@pytest.mark.slow
def test_the_real_questions(shared_dir, tmp_path):
  prepare(
    dataset="xor_tydi/retrieve",
    output_dir=str(tmp_path),
    manual_dir=str(shared_dir / "data" / "xor_tydi"),
  )
  columns = {
    split: tfds.as_numpy(
      rows.map(lambda r: (r["question"], r["language"], r["is_yes_no"])).batch(
        20_000
      )
    )
    for split, rows in tfds.load("xor_tydi/retrieve", data_dir=tmp_path).items()
  }
  languages, marks = {}, {}
  for split, ((questions, codes, marked),) in columns.items():
    languages[split] = collections.Counter(c.decode() for c in codes)
    for question, code in zip(questions, codes, strict=True):
      assert detect_language(question.decode()) == code.decode()
    marks[split] = (len(marked), int(marked.sum()))
  assert marks == {
    "train": (15_250, 1_214),
    "validation": (2_110, 2_110 - 1_928),
  }
  codes = ("ar", "bn", "fi", "ja", "ko", "ru", "te")
  train = (2574, 2582, 2088, 2288, 2469, 1941, 1308)
  assert languages["train"] == dict(zip(codes, train, strict=True))
  validation = (350, 312, 360, 296, 299, 255, 238)
  assert languages["validation"] == dict(zip(codes, validation, strict=True))


def test_questions_keep_yes_and_no_and_mend_labels(run, manual):
  yes_no = {**QUESTION, "id": "8", "answers": ["no", "yes"], "lang": " ar"}
  both = {**QUESTION, "id": "9", "answers": ["yes", "1917"]}
  write_lines(manual / f"{TRAIN}.gz", [QUESTION, yes_no])
  write_lines(manual / DEV, [both])
  folder = run("xor_tydi/retrieve", plain_files=True)
  assert folder.name == "1.0.0"
  rows = load_splits("xor_tydi/retrieve", folder.parents[2])
  assert [
    (r["id"], r["language"], list(r["answers"]), bool(r["is_yes_no"]))
    for r in (*rows["train"], *rows["validation"])
  ] == [
    (b"7", b"fi", [b"Finland"], False),
    (b"8", b"ar", [b"no", b"yes"], True),
    (b"9", b"fi", [b"yes", b"1917"], False),
  ]
  assert rows["train"][0]["question"].decode() == "Missä Helsinki on?"
  plain = folder.parents[2] / "plain" / "xor_tydi" / "retrieve"
  assert read_questions(plain / "questions_train.jsonl") == read_questions(
    manual / f"{TRAIN}.gz"
  )


# ---------------------------------------------------------------------- pairs


def _passage_texts(columns):
  return [
    tuple(columns[name][i].decode() for name in ("passage_id", "title", "text"))
    for i in range(len(columns["text"]))
  ]


def test_pairs(run, manual):
  labelled = {**PAIR, "query_id": "8", "lang": " ar", "query": "Linux?"}
  bare = {**labelled, "query_id": "9", "answers": None}
  bare["negative_passages"] = None
  write_lines(manual / PAIRS, [PAIR, labelled, bare])
  folder = run("xor_tydi/pairs", plain_files=True)
  rows = load_splits("xor_tydi/pairs", folder.parents[2])
  assert list(rows) == ["train"]
  first, second, third = rows["train"]
  assert first["query_id"] == b"7"
  assert first["query"].decode() == "ヘルシンキはどこですか？"
  assert list(first["answers"]) == [b"Finland"]
  assert [r["language"] for r in rows["train"]] == [b"ja", b"ar", b"ar"]
  assert _passage_texts(first["positive_passages"]) == [
    ("12", "Helsinki", "In Finland.")
  ]
  assert _passage_texts(second["negative_passages"]) == [
    ("13", "", "In Norway.")
  ]
  assert _passage_texts(third["negative_passages"]) == []
  assert list(third["answers"]) == []
  plain = list(
    read_training_pairs(
      folder.parents[2] / "plain/xor_tydi/pairs/train_pairs.jsonl"
    )
  )
  assert [(p.language, p.answers) for p in plain] == [
    ("ja", ("Finland",)),
    ("ar", ("Finland",)),
    ("ar", ()),
  ]
  assert plain[0].negatives == (Passage("13", "In Norway.", ""),)


@pytest.mark.parametrize(
  ("text", "language"),
  [
    ("Где находится NASA Jet Propulsion Laboratory?", "ru"),
    ("Kuka keksi Linuxin?", "fi"),
    ("1917?", None),
  ],
)
def test_language_of_a_question_by_its_script(text, language):
  assert detect_language(text) == language


@pytest.mark.parametrize("is_zipped", [True, False])
def test_gold_passages(run, manual, is_zipped):
  title = "Title:Helsinki_parentSection:History"
  train = gold_document(
    gold_article(title, "In\nFinland."),
    gold_article("Oslo", "In Norway.", id="8", question="कहाँ?", lang="ja"),
    gold_article("Espoo", "Near Helsinki."),
  )
  dev = gold_document(gold_article("Turku", "In Finland.", id="9"))
  write_gold(manual, train, dev, is_zipped=is_zipped)
  folder = run("xor_tydi/gold_passages", plain_files=True)
  plain = folder.parents[2] / "plain/xor_tydi/gold_passages"
  first, second = read_training_pairs(plain / "train_pairs.jsonl")
  assert (first.query_id, first.query, first.language, first.answers) == (
    "7",
    "Missä Helsinki on?",
    "fi",
    ("Finland",),
  )
  assert [(p.title, p.text) for p in first.positives] == [
    ("Helsinki", "In Finland."),
    ("Espoo", "Near Helsinki."),
  ]
  assert (
    first.positives[0].passage_id
    == (hashlib.sha256(b"Helsinki\nIn Finland.").hexdigest()[:16])
  )
  assert (second.language, second.negatives) == ("ja", ())
  (only,) = read_training_pairs(plain / "dev_pairs.jsonl")
  assert only.query_id == "9"


def test_natural_questions_of_dpr(run, manual, caplog):
  hard = {**NQ_ROW, "hard_negative_ctxs": [{"title": "", "text": "Hard."}]}
  empty = {**NQ_ROW, "positive_ctxs": []}
  write_text(manual / NQ_TRAIN, json.dumps([NQ_ROW, empty, hard], indent=4))
  write_text(manual / NQ_DEV.removesuffix(".gz"), json.dumps([NQ_ROW]))
  folder = run("natural_questions_dpr/dpr")
  assert "left out 1 of 3 rows" in caplog.text
  rows = load_splits("natural_questions_dpr", folder.parents[2])
  assert [r["query_id"] for r in rows["train"]] == [b"0", b"2"]
  assert {r["language"] for r in rows["train"]} == {b"en"}
  assert _passage_texts(rows["train"][0]["positive_passages"]) == [
    ("12", "Helsinki", "In Finland.")
  ]
  assert _passage_texts(rows["train"][0]["negative_passages"]) == [
    ("13", "Oslo", "In Norway.")
  ]
  digest = hashlib.sha256(b"\nHard.").hexdigest()[:16]
  assert _passage_texts(rows["train"][1]["negative_passages"]) == [
    (digest, "", "Hard.")
  ]
  assert len(rows["validation"]) == 1


def test_natural_questions_of_tevatron(run, manual):
  write_lines(manual / "nq-train.jsonl.gz", [PAIR])
  write_lines(manual / "nq-dev.jsonl.gz", [{**PAIR, "query_id": "8"}])
  folder = run("natural_questions_dpr/tevatron")
  rows = load_splits("natural_questions_dpr/tevatron", folder.parents[2])
  assert [r["language"] for r in rows["train"]] == [b"en"]
  assert [r["query_id"] for r in rows["validation"]] == [b"8"]


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_json_array_is_read_in_pieces(tmp_path, monkeypatch, block):
  monkeypatch.setattr(json_arrays, "_BLOCK", block)
  path = tmp_path / "array.json"
  rows = [{"a": "x" * 50, "b": [1.5, True, None]}, {}, {"ü": '\\ " é'}]
  path.write_text(json.dumps(rows, indent=2))
  found = list(read_json_array(path))
  assert [row for _, row in found] == rows
  assert [where for where, _ in found] == [
    f"{path}:{line}" for line in (2, 10, 11)
  ]


# ------------------------------------------------------------------- passages


@pytest.mark.parametrize("name", [WIKI, f"{WIKI}.gz"])
def test_passages_keep_their_order_over_shards(run, manual, name):
  write_text(manual / name, WIKI_TSV)
  with rows_per_shard_of(WikiPassages, "enwiki_2019", 2):
    folder = run("wiki_passages/enwiki_2019", plain_files=True)
  assert sorted(p.name for p in folder.glob("*tfrecord*")) == [
    f"wiki_passages-train.tfrecord-{i:05d}-of-00003" for i in range(3)
  ]
  rows = load_splits("wiki_passages", folder.parents[2])["train"]
  assert [
    tuple(r[n].decode() for n in ("passage_id", "title", "text"))
    for r in rows[:3]
  ] == [
    ("1", "Aaron", 'Aaron ("Ahärôn") is a prophet.'),
    ("2", "Answers", "\"Yes\" and 'no'"),
    ("3", "Third", "A third passage."),
  ]
  assert [r["passage_id"] for r in rows] == [b"1", b"2", b"3", b"4", b"5"]
  plain = folder.parents[2] / "plain/wiki_passages/enwiki_2019/passages.tsv"
  assert list(read_passages(plain)) == list(read_passages(manual / name))


# ------------------------------------------------------- resuming, determinism


def test_same_bytes_twice_and_nothing_made_again(run, manual):
  write_lines(manual / PAIRS, [PAIR, {**PAIR, "query_id": "8"}])
  first = run("xor_tydi/pairs", plain_files=True).parents[2]
  second = run("xor_tydi/pairs", output="more", plain_files=True).parents[2]
  assert hash_tree(first) == hash_tree(second)
  before = {p: p.stat().st_mtime_ns for p in first.rglob("*")}
  run("xor_tydi/pairs", plain_files=True)
  assert before == {p: p.stat().st_mtime_ns for p in first.rglob("*")}


def _read_until(path, *, read, last):
  for number, example in enumerate(read(path)):
    if number == last:
      raise KeyboardInterrupt
    yield example


def test_interrupted_preparation_goes_on(run, manual, tmp_path, monkeypatch):
  write_text(manual / WIKI, WIKI_TSV)
  home = tmp_path / "data" / "wiki_passages" / "enwiki_2019"
  with rows_per_shard_of(WikiPassages, "enwiki_2019", 2) as config:
    whole = run("wiki_passages/enwiki_2019", output="whole")
    source = config.splits["train"]
    read = functools.partial(_read_until, read=source.read, last=3)
    with monkeypatch.context() as patch:
      patch.setattr(
        config,
        "splits",
        {"train": type(source)(file=source.file, read=read)},
      )
      with pytest.raises(KeyboardInterrupt):
        run("wiki_passages/enwiki_2019")
    assert not (home / "1.0.0").exists()
    shards = home / ".unfinished" / "train"
    names = sorted(p.name for p in shards.iterdir())
    assert names == ["00000.tfrecord", "finished"]
    inode = (shards / "00000.tfrecord").stat().st_ino
    (home / "incomplete.KILLED_1.0.0").mkdir()
    folder = run("wiki_passages/enwiki_2019")
  assert (
    folder / "wiki_passages-train.tfrecord-00000-of-00003"
  ).stat().st_ino == inode
  assert hash_tree(folder) == hash_tree(whole)
  assert sorted(p.name for p in home.iterdir()) == [
    ".lock",
    "1.0.0",
    "source_files.json",
  ]


def test_split_that_is_written_is_not_lost(run, manual, tmp_path):
  write_lines(manual / TRAIN, [QUESTION])
  write_lines(manual / DEV, [{**QUESTION, "lang": "xx"}])
  with pytest.raises(InputError, match="unknown language"):
    run("xor_tydi/retrieve")
  home = tmp_path / "data" / "xor_tydi" / "retrieve"
  assert (home / ".unfinished/train/00000.tfrecord").exists()
  assert not (home / "1.0.0").exists()


def test_shards_of_another_file_are_not_taken_over(run, manual, monkeypatch):
  write_text(manual / WIKI, WIKI_TSV)
  with rows_per_shard_of(WikiPassages, "enwiki_2019", 2) as config:
    source = config.splits["train"]
    read = functools.partial(_read_until, read=source.read, last=3)
    with monkeypatch.context() as patch:
      patch.setattr(
        config,
        "splits",
        {"train": type(source)(file=source.file, read=read)},
      )
      with pytest.raises(KeyboardInterrupt):
        run("wiki_passages/enwiki_2019")
    write_text(manual / WIKI, "9\tNinth.\tN\n")
    folder = run("wiki_passages/enwiki_2019")
  rows = load_splits("wiki_passages", folder.parents[2])["train"]
  assert [r["passage_id"] for r in rows] == [b"9"]


KILLED = """
import os, signal, sys
from xqg_jax.datasets.wiki_passages import WikiPassages
from xqg_jax.stages.prepare import prepare
from xqg_jax.data.training_pairs import read_training_pairs
config = WikiPassages.builder_configs["enwiki_2019"]
config.rows_per_shard = 2
source = config.splits["train"]
def read(path):
  for number, example in enumerate(source.read(path)):
    if number == 3:
      os.kill(os.getpid(), signal.SIGKILL)
    yield example
config.splits = {"train": type(source)(file=source.file, read=read)}
prepare(dataset="wiki_passages/enwiki_2019", output_dir=sys.argv[1],
        manual_dir=sys.argv[2])
"""


@pytest.mark.slow
def test_killed_preparation_goes_on(run, manual, tmp_path):
  write_text(manual / WIKI, WIKI_TSV)
  result = subprocess.run(
    [sys.executable, "-c", KILLED, str(tmp_path / "data"), str(manual)],
    capture_output=True,
    check=False,
  )
  assert result.returncode == -signal.SIGKILL, result.stderr.decode()
  home = tmp_path / "data" / "wiki_passages" / "enwiki_2019"
  assert list(home.glob("incomplete*"))
  with rows_per_shard_of(WikiPassages, "enwiki_2019", 2):
    folder = run("wiki_passages/enwiki_2019")
    whole = run("wiki_passages/enwiki_2019", output="whole")
  assert not list(home.glob("incomplete*"))
  assert hash_tree(folder) == hash_tree(whole)


def test_manual_folder_of_tfds_is_used(tmp_path):
  manual = tmp_path / "data" / "downloads" / "manual"
  manual.mkdir(parents=True)
  write_lines(manual / PAIRS, [PAIR])
  rows = tfds.as_numpy(
    tfds.load("xor_tydi/pairs", data_dir=tmp_path / "data", split="train")
  )
  assert [row["query_id"] for row in rows] == [b"7"]
