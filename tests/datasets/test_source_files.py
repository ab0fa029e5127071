"""The files of data sets: bad ones, checksums, downloads."""

import gzip
import hashlib
import http.server
import json
import threading
import zipfile
from typing import ClassVar

import pytest

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
  load_splits,
  write_gold,
  write_lines,
  write_text,
)
from xqg_jax.cli import main
from xqg_jax.datasets.reading import source_files
from xqg_jax.datasets.reading.source_files import SourceFile
from xqg_jax.datasets.wiki_passages import WikiPassages
from xqg_jax.errors import InputError
from xqg_jax.stages.prepare import prepare

# ------------------------------------------------------------------ bad input


def _cut(path, content):
  path.write_bytes(gzip.compress(content)[:-9])


BAD_FILES = {
  "field missing": (
    "xor_tydi/retrieve",
    lambda d: write_lines(d / TRAIN, [QUESTION, {"id": "8", "lang": "fi"}]),
    rf"{TRAIN}:2: the field 'question' is missing",
  ),
  "answers missing": (
    "xor_tydi/retrieve",
    lambda d: write_lines(d / TRAIN, [{**QUESTION, "answers": []}]),
    rf"{TRAIN}:1: question '7' has no answers",
  ),
  "unknown language": (
    "xor_tydi/retrieve",
    lambda d: write_lines(d / TRAIN, [{**QUESTION, "lang": "xx"}]),
    rf"{TRAIN}:1: unknown language 'xx'",
  ),
  "not JSON": (
    "xor_tydi/retrieve",
    lambda d: write_text(d / TRAIN, "{\n"),
    rf"{TRAIN}:1: not valid JSON",
  ),
  "cut gzip": (
    "xor_tydi/pairs",
    lambda d: _cut(d / PAIRS, json.dumps(PAIR).encode() * 3),
    rf"{PAIRS}: damaged gzip file",
  ),
  "no positive": (
    "xor_tydi/pairs",
    lambda d: write_lines(d / PAIRS, [PAIR, {**PAIR, "positive_passages": []}]),
    rf"{PAIRS}:2: the row has no positive passage",
  ),
  "no language": (
    "xor_tydi/pairs",
    lambda d: write_lines(d / PAIRS, [{**PAIR, "query": "1917?"}]),
    rf"{PAIRS}, row 1: the query has no letters",
  ),
  "not a zip": (
    "xor_tydi/gold_passages",
    lambda d: (d / "tydi_xor_gp.zip").write_text("no"),
    r"tydi_xor_gp.zip: damaged zip archive",
  ),
  "empty zip": (
    "xor_tydi/gold_passages",
    lambda d: zipfile.ZipFile(d / "tydi_xor_gp.zip", "w").close(),
    r"tydi_xor_gp.zip: there is no gp_squad_train_data.json in the archive",
  ),
  "gold field missing": (
    "xor_tydi/gold_passages",
    lambda d: write_gold(
      d, gold_document({"paragraphs": [{"qas": []}]}), "{}", is_zipped=True
    ),
    r"gp_squad_train_data.json, entry 1: the field 'context' is missing",
  ),
  "gold without positive": (
    "xor_tydi/gold_passages",
    lambda d: write_gold(
      d, gold_document(gold_article("T", " ")), "{}", is_zipped=True
    ),
    r"entry 1: the paragraph is empty, so there is no positive passage",
  ),
  "array cut": (
    "natural_questions_dpr/dpr",
    lambda d: (
      write_text(d / NQ_TRAIN, json.dumps([NQ_ROW])[:-20]),
      write_text(d / NQ_DEV, json.dumps([NQ_ROW])),
    ),
    rf"{NQ_TRAIN}:1: not a valid JSON array \(the file ends too early",
  ),
  "array cut gzip": (
    "natural_questions_dpr/dpr",
    lambda d: (
      _cut(d / NQ_TRAIN, json.dumps([NQ_ROW]).encode()),
      write_text(d / NQ_DEV, json.dumps([NQ_ROW])),
    ),
    rf"{NQ_TRAIN}: damaged gzip file",
  ),
  "array malformed": (
    "natural_questions_dpr/dpr",
    lambda d: (
      write_text(d / NQ_TRAIN, "[\n{},\n{1}\n" + " " * 100 + "]"),
      write_text(d / NQ_DEV, json.dumps([NQ_ROW])),
    ),
    rf"{NQ_TRAIN}:2: the field 'positive_ctxs' is missing",
  ),
  "columns missing": (
    "wiki_passages/enwiki_2019",
    lambda d: write_text(d / WIKI, WIKI_TSV + "6\n"),
    rf"{WIKI}:7: found 1 tab-separated fields",
  ),
  "id twice": (
    "wiki_passages/enwiki_2019",
    lambda d: write_text(d / WIKI, WIKI_TSV + "3\tAgain.\tThird\n"),
    rf"{WIKI}:7: passage id '3' appears twice",
  ),
  "empty text": (
    "wiki_passages/enwiki_2019",
    lambda d: write_text(d / WIKI, "x\t \tThird\n"),
    rf"{WIKI}:1: passage 'x' has an empty text",
  ),
  "no rows": (
    "wiki_passages/enwiki_2019",
    lambda d: write_text(d / WIKI, "id\ttext\ttitle\n"),
    rf"{WIKI}: no passages in it",
  ),
  "missing": (
    "xor_tydi/pairs",
    lambda d: None,
    r"manual: there is no xor-t2e-100w.jsonl.gz or xor-t2e-100w.jsonl; "
    r"download https://huggingface.co/.*/xor-t2e-100w.jsonl.gz into",
  ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(run, manual, tmp_path, case):
  dataset, make, message = BAD_FILES[case]
  make(manual)
  if dataset == "xor_tydi/retrieve":
    write_lines(manual / DEV, [QUESTION])
  with pytest.raises(InputError, match=message) as error:
    run(dataset)
  assert "\n" not in str(error.value)
  home = tmp_path / "data" / dataset
  assert not (home / "1.0.0").exists()
  assert not list(home.glob("incomplete*"))


def test_command_line_tells_bad_files_in_one_line(manual, tmp_path, capsys):
  write_lines(manual / TRAIN, [QUESTION])
  write_lines(manual / DEV, [QUESTION])
  code = main.main(
    [
      "prepare",
      f"--gin.OUTPUT_DIR={tmp_path / 'data'}",
      "--gin.DATASET=xor_tydi/retrieve",
      f"--gin.MANUAL_DIR={manual}",
    ]
  )
  assert code == 2
  lines = capsys.readouterr().err.strip().splitlines()
  assert lines[-1].startswith(f"xqg: error: {manual / TRAIN}: wrong checksum")


# ------------------------------------------------------------------ checksums


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_wrong_checksum(run, manual, suffix):
  write_lines(manual / f"{TRAIN}{suffix}", [QUESTION])
  write_lines(manual / DEV, [QUESTION])
  with pytest.raises(
    InputError, match=rf"{TRAIN}{suffix}: wrong checksum: SHA-256 .*f0c8202e"
  ):
    run("xor_tydi/retrieve", verify_checksums=True)


def test_gzipped_copy_of_an_official_file_is_known_by_its_content(tmp_path):
  path = tmp_path / "a.tsv.gz"
  write_text(path, "content")
  source = SourceFile(
    url="https://host/a.tsv", sha256=hashlib.sha256(b"content").hexdigest()
  )
  found = source_files.verify_source(path, source, recorded={})
  assert found == hashlib.sha256(path.read_bytes()).hexdigest()
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(InputError, match="damaged gzip file"):
    source_files.verify_source(path, source, recorded={})


def test_first_preparation_records_the_checksum(run, manual):
  write_text(manual / WIKI, WIKI_TSV)
  folder = run("wiki_passages/enwiki_2019", verify_checksums=True)
  recorded = json.loads((folder.parent / "source_files.json").read_text())
  assert recorded == {WIKI: hashlib.sha256(WIKI_TSV.encode()).hexdigest()}
  for path in folder.iterdir():
    path.unlink()
  folder.rmdir()
  write_text(manual / WIKI, WIKI_TSV + "6\tA sixth.\tSixth\n")
  with pytest.raises(InputError, match=f"{WIKI}: wrong checksum"):
    run("wiki_passages/enwiki_2019", verify_checksums=True)
  run("wiki_passages/enwiki_2019")
  assert len(load_splits("wiki_passages", folder.parents[2])["train"]) == 6


# ------------------------------------------------------------------- download


class _Handler(http.server.BaseHTTPRequestHandler):
  """Serves `files`; cuts the connection after `cut` bytes, if it is set."""

  files: ClassVar[dict[str, bytes]] = {}
  ranges: ClassVar[list[str | None]] = []
  cut: ClassVar[int | None] = None

  def do_GET(self):
    content = self.files.get(self.path)
    if content is None:
      self.send_error(404)
      return
    wanted = self.headers.get("Range")
    self.ranges.append(wanted)
    start = int(wanted[len("bytes=") : -1]) if wanted else 0
    if start >= len(content):
      self.send_error(416)
      return
    self.send_response(206 if wanted else 200)
    self.send_header("Content-Length", str(len(content) - start))
    self.end_headers()
    end = len(content) if self.cut is None else self.cut
    self.wfile.write(content[start:end])

  def log_message(self, *args):
    pass


@pytest.fixture
def server():
  _Handler.files, _Handler.ranges, _Handler.cut = {}, [], None
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as httpd:
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()


def test_cut_download_goes_on(server, tmp_path):
  content = bytes(range(256)) * 10
  _Handler.files["/a.tsv"] = content
  _Handler.cut = 1000
  path = tmp_path / "downloads" / "a.tsv"
  with pytest.raises(InputError, match=r"cannot download http.*1000 of 2560"):
    source_files.download(f"{server}/a.tsv", path)
  assert not path.exists()
  _Handler.cut = None
  source_files.download(f"{server}/a.tsv", path)
  assert path.read_bytes() == content
  assert _Handler.ranges == [None, "bytes=1000-"]
  path.rename(path.with_name("a.tsv.partial"))
  source_files.download(f"{server}/a.tsv", path)
  assert path.read_bytes() == content


def test_download_that_is_not_there(server, tmp_path):
  with pytest.raises(InputError, match=r"cannot download .*404.*MANUAL_DIR"):
    source_files.download(f"{server}/b.tsv", tmp_path / "b.tsv")


def test_no_network(tmp_path):
  with pytest.raises(InputError, match=r"cannot download .*refused"):
    source_files.download("http://127.0.0.1:9/a.tsv", tmp_path / "a.tsv")


def test_builder_downloads_once(server, tmp_path, monkeypatch):
  _Handler.files["/a.tsv"] = WIKI_TSV.encode()
  config = WikiPassages.builder_configs["enwiki_2019"]
  source = config.splits["train"]
  monkeypatch.setattr(
    config,
    "splits",
    {
      "train": type(source)(
        file=SourceFile(url=f"{server}/a.tsv"), read=source.read
      )
    },
  )
  for _ in range(2):
    folder = prepare(
      dataset="wiki_passages/enwiki_2019", output_dir=str(tmp_path)
    )
  assert _Handler.ranges == [None]
  assert (tmp_path / "downloads" / "a.tsv").exists()
  assert json.loads((folder.parent / "source_files.json").read_text()) == {
    "a.tsv": hashlib.sha256(WIKI_TSV.encode()).hexdigest()
  }
