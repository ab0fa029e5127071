"""How many files a passage goes through in `encode`, a question in `search`."""

import collections
import inspect
import pathlib
import sys
import threading

import pytest

import xqg_jax
from tests.helpers.tiny_dual_encoder import make_texts, write_checkpoint
from xqg_jax.data.passages import Passage, write_passages
from xqg_jax.data.questions import Question, write_questions
from xqg_jax.stages import encode, search

PACKAGE = pathlib.Path(xqg_jax.__file__).parent


@pytest.mark.slow
def test_files_that_a_text_goes_through(tmp_path, monkeypatch, capsys):
  checkpoint = write_checkpoint(tmp_path / "checkpoint")
  passages = tmp_path / "passages.tsv"
  questions = tmp_path / "questions.jsonl"
  texts = make_texts(6, longest=8)
  with passages.open("w") as file:
    write_passages(file, [Passage(str(i), t) for i, t in enumerate(texts)])
  with questions.open("w") as file:
    write_questions(
      file, [Question(str(i), t, "fi") for i, t in enumerate(texts)]
    )
  model = xqg_jax.load_dual_encoder(checkpoint)
  for stage in (encode, search):  # loading is no part of the road
    monkeypatch.setattr(stage, "load_dual_encoder", lambda *_, **__: model)

  def encode_passages(folder):
    return encode.encode(
      passages=passages, checkpoint_path=checkpoint, output_dir=folder
    )

  def search_questions(folder):
    return search.search(
      index=tmp_path / "index",
      questions=questions,
      checkpoint_path=checkpoint,
      output_dir=folder,
    )

  entered = {"encode": _count_entries(encode_passages, tmp_path / "store")}
  xqg_jax.build_index(
    embeddings=tmp_path / "store", output_dir=tmp_path / "index", kind="exact"
  )
  entered["search"] = _count_entries(search_questions, tmp_path / "search")
  with capsys.disabled():
    for verb, counts in entered.items():
      print(f"\n{verb}: {len(counts)} files, {sum(counts.values())} calls")
      print("  " + "\n  ".join(f"{n:5} {file}" for file, n in counts.items()))
  assert {"data/passages.py", "encoding/job.py"} <= entered["encode"].keys()
  assert {"data/questions.py", "encoding/texts.py"} <= entered["search"].keys()


def _count_entries(call, folder):
  """Calls of functions of each file of the package, in all threads."""
  counts = collections.Counter()

  def note(frame, event, _):
    code = frame.f_code
    is_function = code.co_flags & inspect.CO_OPTIMIZED  # no module, no class
    if event == "call" and is_function:
      path = pathlib.Path(code.co_filename)
      if path.is_relative_to(PACKAGE):
        counts[path.relative_to(PACKAGE).as_posix()] += 1

  threading.setprofile(note)
  sys.setprofile(note)
  try:
    call(folder)
  finally:
    sys.setprofile(None)
    threading.setprofile(None)
  return counts
