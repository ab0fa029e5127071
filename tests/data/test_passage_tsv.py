"""Tables of passages: quotes, line breaks, headers, and what we write."""

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xqg_jax.data.passages import Passage, read_passages, write_passages
from xqg_jax.errors import InputError


def _read(tmp_path, text):
  path = tmp_path / "p.tsv"
  path.write_bytes(text.encode())
  return [(p.passage_id, p.text, p.title) for p in read_passages(path)]


def test_line_breaks_and_tabs_in_quotes_are_read_as_csv_does(tmp_path):
  rows = [
    ("id", "text", "title"),
    ("m1", "The Tana rises\n\nin the mountains.", "Tana"),
    ("m2", 'Called "the long one".\nIt is deep.', "Lake"),
    ("m3", "north\tsouth", "Both\nways"),
    ("m4", "plain", ""),
  ]
  file = io.StringIO()
  csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)
  assert _read(tmp_path, file.getvalue()) == rows[1:]
  with_returns = file.getvalue().replace("\n", "\r\n")
  expected = [tuple(f.replace("\n", "\r\n") for f in row) for row in rows[1:]]
  assert _read(tmp_path, with_returns) == expected


def test_a_quotation_mark_that_nothing_closes_is_text(tmp_path):
  text = '1\t"Yes, she said.\tA\n2\tTwo\tB\n3\t"No" and "yes\tC\n4\tF "x"\tD\n'
  assert _read(tmp_path, text) == [
    ("1", '"Yes, she said.', "A"),
    ("2", "Two", "B"),
    ("3", '"No" and "yes', "C"),
    ("4", 'F "x"', "D"),
  ]


def test_lines_that_may_be_one_record_or_several_are_refused(tmp_path):
  text = '1\ta\tA\n2\t"Yes, she said.\tB\n3\ta screen of 6"\tC\n'
  with pytest.raises(InputError, match=r"p\.tsv:2: .* closes in line 3"):
    _read(tmp_path, text)
  # A mark within an unquoted field shows that quotes mean nothing here.
  rows = _read(tmp_path, text.replace("1\ta", '1\tsix 6" screens'))
  assert [row[0] for row in rows] == ["1", "2", "3"]


@pytest.mark.parametrize(
  ("header", "row"),
  [
    ("docid\ttext\ttitle", "1\tx\tT"),
    ("ID\tText\tTITLE", "1\tx\tT"),
    ("title\tid\ttext", "T\t1\tx"),
    ("_id\ttitle\tcontents", "1\tT\tx"),
    ('"id"\t"text"\t"title"', "1\tx\tT"),
  ],
)
def test_a_header_gives_the_order_of_columns(tmp_path, header, row):
  for mark in ("", "\ufeff"):
    text = f"{mark}{header}\n{row}\n"
    assert _read(tmp_path, text) == [("1", "x", "T")]


@pytest.mark.parametrize("header", ["id\ttext", "pid\tpassage"])
def test_a_header_of_two_columns(tmp_path, header):
  assert _read(tmp_path, f"{header}\n1\tx\n") == [("1", "x", "")]


def test_no_header_is_made_of_a_passage(tmp_path):
  rows = [("7", "title", "text"), ("8", "x", "id")]
  text = "".join("\t".join(row) + "\n" for row in rows)
  assert _read(tmp_path, text) == rows
  assert _read(tmp_path, f"\ufeff{text}") == rows


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("id\ttext\turl\n1\tx\ty\n", "p.tsv:1: the header is id, text, url; write"),
    ("id\ttext\ttitle\n1\tx\n", "p.tsv:2: found 2 tab-separated fields, exp"),
    ("1\tx\ty\n2\tx\n", "p.tsv:2: found 2 tab-separated fields, expected 3"),
    ("1 2\tx\ty\n", "p.tsv:1: the passage id '1 2' is empty or has blanks"),
    ("\tx\ty\n", "p.tsv:1: the passage id '' is empty or has blanks in it"),
    ('1\t"x\ny\tT\n', "p.tsv:2: found 1 tab-separated fields, expected 2"),
  ],
)
def test_what_is_no_table_is_told_with_its_line(tmp_path, text, message):
  if text.startswith('1\t"'):
    text = text.replace("y\tT", "y")
  with pytest.raises(InputError) as error:
    _read(tmp_path, text)
  assert message in str(error.value)


_TEXTS = st.text(
  st.one_of(st.sampled_from('"\t\n\r ab'), st.characters(codec="utf-8"))
)


@given(st.lists(st.tuples(_TEXTS.filter(str.strip), _TEXTS), min_size=1))
@example([("x\ty\nz\tw", "T")])
@example([('"', '"'), ('a\n"', "\r"), ("b\r", "\r\n")])
@example([('six 6" screens', ""), ('"one\ttwo\nthree', '4"')])
def test_what_is_written_is_read_back(tmp_path_factory, rows):
  passages = [Passage(str(i), *row) for i, row in enumerate(rows)]
  path = tmp_path_factory.getbasetemp() / "round_trip.tsv"
  with path.open("w", encoding="utf-8", newline="") as file:
    write_passages(file, passages)
  assert list(read_passages(path)) == passages
