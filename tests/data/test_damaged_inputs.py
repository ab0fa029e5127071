"""Inputs damaged at random: every reader reads them or says one line.

`XQG_FUZZ_INPUTS=3000` tries more of each.
"""

import gzip
import json
import os
import random

import pytest

from xqg_jax.data.generated_queries import read_generated_queries
from xqg_jax.data.passages import read_passages
from xqg_jax.data.predictions import read_predictions
from xqg_jax.data.qrels import read_qrels
from xqg_jax.data.questions import read_questions
from xqg_jax.data.runs import read_run
from xqg_jax.data.training_pairs import read_training_pairs
from xqg_jax.errors import InputError

NUM_INPUTS = int(os.environ.get("XQG_FUZZ_INPUTS", "40"))

PASSAGE = {"docid": "1", "text": "Tana \u00e4", "title": "T"}
PAIR = {
  "query_id": "q",
  "query": "?",
  "lang": "fi",
  "answers": ["a"],
  "positive_passages": [PASSAGE | {"teacher_score": 1.5}],
  "negative_passages": [PASSAGE | {"teacher_score": 0}],
}
READERS = {
  "p.tsv": (read_passages, 'id\ttext\ttitle\n1\t"a\n""b"""\tT\n2\tx "y\t\n'),
  "p.jsonl": (read_passages, json.dumps(PASSAGE) + "\n"),
  "q.jsonl": (
    read_questions,
    '{"id": 7, "question": "?", "lang": "rus", "answers": ["a"]}\n',
  ),
  "pairs.jsonl": (read_training_pairs, json.dumps(PAIR) + "\n"),
  "g.jsonl": (
    read_generated_queries,
    '{"docid": "1", "generated_queries": {"fi": ["?"], "zh-CN": []}}\n',
  ),
  "predictions.json": (
    read_predictions,
    '[{"id": "q", "lang": "fi", "ctxs": ["t", {"text": "u"}]}]',
  ),
  "qrels.txt": (read_qrels, "q1 0 d1 1\nq1\tQ0 d2\t-1\n"),
  "run.trec": (read_run, "q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 -1e-3 tag\n"),
}
# What files of other programs, and damaged ones, have in odd places.
PIECES = [
  *(b"\xef\xbb\xbf", b"\x00", b"\xff", b"\r\n", b"\n\n", b"\t", b'"', b'""'),
  *(b"\xc2\xa0", b"\xe2\x80\xa8", b"\\ud83d", b"null", b"NaN", b"-0", b"1e999"),
  *(b"9" * 5000, b"[" * 2000, b"{}", b"[]", b"true", b"\x85", b"\x1c"),
]


def _damage(content: bytes, rng: random.Random) -> bytes:
  for _ in range(rng.randint(1, 3)):
    at, length = rng.randint(0, len(content)), rng.randint(1, 6)
    head, tail, piece = content[:at], content[at:], rng.choice(PIECES)
    content = rng.choice(
      (
        head + piece + tail,
        head + piece + tail[length:],
        head + tail[length:],
        head,
        head + rng.randbytes(1) + tail[1:],
        content + content,
      )
    )
  return content


def _read(read, path) -> str | None:
  """The line that refuses a file; None if it is read."""
  try:
    list(read(path))
  except InputError as error:
    return str(error)
  return None


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, name):
  read, text = READERS[name]
  (tmp_path / name).write_text(text)
  assert list(read(tmp_path / name))
  for seed in range(NUM_INPUTS):
    rng = random.Random(f"{name} {seed}")
    content = _damage(text.encode(), rng)
    path = tmp_path / name
    if rng.random() < 0.2 and name.endswith("l"):
      path = tmp_path / f"{name}.gz"
      content = _damage(gzip.compress(content), rng)
    path.write_bytes(content)
    line = _read(read, path)
    if line is not None:
      assert "\n" not in line, seed
      assert str(path) in line, (seed, line)
