"""Atomic writes, claimed folders, damaged and missing files."""

import gzip
import multiprocessing

import pytest

from xqg_jax.errors import InputError
from xqg_jax.io import claims
from xqg_jax.io.files import (
  atomic_path,
  read_json,
  read_lines,
  write_json,
  write_text,
)


def test_atomic_path_leaves_nothing_when_the_block_raises(tmp_path):
  target = tmp_path / "sub" / "out.txt"
  with pytest.raises(KeyError), atomic_path(target) as partial:  # noqa: PT012
    partial.write_text("half")
    raise KeyError
  assert list((tmp_path / "sub").iterdir()) == []


def test_files_have_the_rights_that_the_umask_leaves(tmp_path):
  (tmp_path / "usual").touch()
  with atomic_path(tmp_path / "narrow") as partial:
    partial.touch(mode=0o600)
  usual, narrow = (tmp_path / n for n in ("usual", "narrow"))
  assert narrow.stat().st_mode == usual.stat().st_mode


def test_atomic_path_replaces_the_old_file(tmp_path):
  target = tmp_path / "out.txt"
  write_text(target, "old")
  write_text(target, "new")
  assert target.read_text() == "new"
  assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_json_refuses_nan_and_reads_back(tmp_path):
  path = tmp_path / "a.json"
  with pytest.raises(ValueError, match="not JSON compliant"):
    write_json(path, {"loss": float("nan")})
  assert not path.exists()
  write_json(path, {"ä": [1, 2]})
  assert read_json(path) == {"ä": [1, 2]}


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "a.json: no such file; check the path"),
    ("{", "a.json: not valid JSON (it ends too early); write it again"),
  ],
)
def test_read_json_names_the_file(tmp_path, content, message):
  path = tmp_path / "a.json"
  if content is not None:
    path.write_text(content)
  with pytest.raises(InputError) as error:
    read_json(path)
  assert message in str(error.value)


def test_read_lines_reads_gzip_and_plain_alike(tmp_path):
  plain, packed = tmp_path / "a.txt", tmp_path / "a.txt.gz"
  plain.write_text("ä\nb\u2028c\n", encoding="utf-8")
  packed.write_bytes(gzip.compress(plain.read_bytes()))
  expected = [("1", "ä"), ("2", "b\u2028c")]
  for path in (plain, packed):
    lines = [(w.rpartition(":")[2], t) for w, t in read_lines(path)]
    assert lines == expected


def test_read_lines_names_a_cut_off_gzip(tmp_path):
  path = tmp_path / "a.jsonl.gz"
  path.write_bytes(gzip.compress(b"abc\n" * 10_000)[:-20])
  with pytest.raises(InputError, match=r"a\.jsonl\.gz: damaged gzip file"):
    list(read_lines(path))


def test_read_lines_names_the_line_before_bad_utf8(tmp_path):
  path = tmp_path / "a.tsv"
  path.write_bytes(b"good\n\xff\xfe\n")
  with pytest.raises(InputError, match=r"a\.tsv: not UTF-8"):
    list(read_lines(path))


def test_claim_goes_on_with_the_same_run_only(tmp_path):
  folder = tmp_path / "out"
  arguments = {"alpha": 0.1, "languages": ("ar", "ru")}
  claims.claim_output_dir(folder, stage="augment", arguments=arguments)
  claims.claim_output_dir(folder, stage="augment", arguments=arguments)
  with pytest.raises(InputError, match="holds a run with another alpha"):
    claims.claim_output_dir(
      folder, stage="augment", arguments={**arguments, "alpha": 0.2}
    )
  with pytest.raises(InputError, match="already holds a run of `augment`"):
    claims.claim_output_dir(folder, stage="encode", arguments=arguments)


ROUNDS = 60


def claim_in_step(folder, who, barrier, told):
  """Claims folder after folder, each at the moment the other process does."""
  lines = []
  for number in range(ROUNDS):
    arguments = {"who": who if number % 2 else "both"}
    barrier.wait()
    try:
      claimed = claims.claim_output_dir(
        folder / str(number), stage="encode", arguments=arguments
      )
      with claims.lock_folder(claimed):
        lines.append("done")
    except Exception as error:  # a traceback, were it no InputError
      lines.append(f"{type(error).__name__}: {error}")
  told.put((who, lines))


def test_two_processes_that_start_at_once(tmp_path):
  context = multiprocessing.get_context("spawn")
  barrier, told = context.Barrier(2, timeout=60), context.SimpleQueue()
  started = [
    context.Process(target=claim_in_step, args=(tmp_path, who, barrier, told))
    for who in ("one", "two")
  ]
  for process in started:
    process.start()
  lines = dict(told.get() for _ in started)
  for process in started:
    process.join()
  for number, pair in enumerate(zip(lines["one"], lines["two"], strict=True)):
    done = [who for who in lines if lines[who][number] == "done"]
    folder = tmp_path / str(number)
    owner = read_json(folder / "run.json")["arguments"]["who"]
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "run.json"]
    if number % 2:
      # The first of two different runs has it; the other is told so.
      assert done == [owner]
      refused = "InputError: {}: output folder already holds a run with another"
    else:
      refused = "InputError: {}: another process is writing this folder"
    for line in pair:
      assert line == "done" or line.startswith(refused.format(folder))


def test_claim_goes_on_where_a_kill_left_one_begun(tmp_path):
  (tmp_path / ".run.json.0a1b.partial").write_text("{")
  claims.claim_output_dir(tmp_path, stage="encode", arguments={})
  assert read_json(tmp_path / "run.json")["stage"] == "encode"


def test_claim_refuses_a_folder_with_something_else(tmp_path):
  (tmp_path / "thesis.tex").write_text("x")
  with pytest.raises(InputError, match="is not empty"):
    claims.claim_output_dir(tmp_path, stage="encode", arguments={})
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
