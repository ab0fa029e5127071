"""Tiny files in the forms of the public data sets, by their official names."""

import contextlib
import gzip
import hashlib
import json
import zipfile

import tensorflow_datasets as tfds

TRAIN = "xor_train_retrieve_eng_span.jsonl"
DEV = "xor_dev_retrieve_eng_span_v1_1.jsonl"
PAIRS = "xor-t2e-100w.jsonl.gz"
WIKI = "enwiki_20190201_w100.tsv"
NQ_TRAIN, NQ_DEV = "biencoder-nq-train.json.gz", "biencoder-nq-dev.json.gz"

QUESTION = {
  "id": "7",
  "question": "Missä Helsinki on?",
  "answers": ["Finland"],
  "lang": "fi",
  "split": "train",
}
HELSINKI = {"docid": "12", "title": "Helsinki", "text": "In Finland."}
OSLO = {"docid": "13", "title": "", "text": "In Norway."}
PAIR = {
  "query_id": "7",
  "query": "ヘルシンキはどこですか？",
  "answers": ["Finland"],
  "positive_passages": [HELSINKI],
  "negative_passages": [OSLO],
}
WIKI_TSV = (
  "id\ttext\ttitle\n"
  '1\t"Aaron (""Ahärôn"") is a prophet."\tAaron\n'
  "2\t\"Yes\" and 'no'\tAnswers\n"
  "3\tA third passage.\tThird\n"
  "4\tA fourth.\tFourth\n"
  "5\tA fifth.\tFifth\n"
)
NQ_ROW = {
  "dataset": "nq_train_psgs_w100",
  "question": "where is helsinki",
  "answers": ["Finland"],
  "positive_ctxs": [
    {"title": "Helsinki", "text": "In Finland.", "passage_id": "12"}
  ],
  "negative_ctxs": [{"title": "Oslo", "text": "In Norway.", "psg_id": 13}],
  "hard_negative_ctxs": [],
}


def write_text(path, text):
  opener = gzip.open if path.suffix == ".gz" else open
  with opener(path, "wt", encoding="utf-8") as file:
    file.write(text)


def write_lines(path, rows):
  write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def gold_document(*articles):
  return json.dumps({"version": "1", "data": articles})


def gold_article(title, context, **question):
  question = {
    "id": "7",
    "question": " Missä Helsinki on? ",
    "lang": " fi",
    "answers": [{"text": "Finland", "answer_start": 3}],
    **question,
  }
  return {
    "title": title,
    "paragraphs": [{"context": context, "qas": [question]}],
  }


def write_gold(manual, train, dev, *, is_zipped):
  files = {
    "gp_squad_train_data.json": train,
    "gp_squad_dev_data.json": dev,
  }
  if not is_zipped:
    for name, text in files.items():
      write_text(manual / f"{name}.gz", text)
    return
  with zipfile.ZipFile(manual / "tydi_xor_gp.zip", "w") as archive:
    for name, text in files.items():
      archive.writestr(f"__MACOSX/tydi_xor_gp/{name}", "not JSON")
      archive.writestr(f"tydi_xor_gp/{name}", text)


def load_splits(name, folder):
  return {
    split: list(tfds.as_numpy(dataset))
    for split, dataset in tfds.load(name, data_dir=folder).items()
  }


def hash_tree(folder):
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


@contextlib.contextmanager
def rows_per_shard_of(builder_cls, config_name, rows):
  config = builder_cls.builder_configs[config_name]
  before, config.rows_per_shard = config.rows_per_shard, rows
  try:
    yield config
  finally:
    config.rows_per_shard = before
