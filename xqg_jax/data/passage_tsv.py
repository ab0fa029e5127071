"""Tables of passages, tab-separated with optional CSV quotes, read and written.

Two kinds of files share the suffix `.tsv`: quoted as `csv` writes them, where
a field may hold tabs and line breaks, and plain ones, where a text may begin
with a quotation mark. A record is read as `csv` would if its quotes are in
order and it has as many columns as the first line, and as plain text if not.
"""

import collections
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from xqg_jax.errors import InputError

HEADER = ("id", "text", "title")

# Column names in use, in any case.
_COLUMNS = {
  "id": ("id", "_id", "docid", "doc_id", "pid", "passage_id", "psg_id"),
  "text": ("text", "passage", "contents", "content", "passage_text"),
  "title": ("title", "passage_title"),
}
_COLUMN_OF = {name: c for c, names in _COLUMNS.items() for name in names}

_QUOTED = re.compile(r'"((?:[^"]|"")*+)"(?=\t|\Z)')
_OPEN = re.compile(r'"(?:[^"]|"")*+\Z')
# A quotation mark that nothing closes is looked for no further than this.
_MAX_RECORD_LINES = 10_000


def read_rows(
  lines: Iterator[tuple[str, str]],
) -> Iterator[tuple[str, tuple[str, str, str]]]:
  """Yields (`file:line` of its beginning, (id, text, title)) of each record.

  A first line of known column names, in any case, gives the columns' order;
  without one they are id, text and title. The title may be absent.

  Args:
    lines: (`file:line`, line) of the whole file.

  Raises:
    InputError: a header with a column that is not known, or a record with
      another number of columns than the first.
  """
  records = _Records(lines)
  first = records.read_next()
  if first is None:
    return
  where, fields = first
  names = _read_header(fields, where)
  if names is None:
    names = HEADER[: len(fields)]
    _check_width(fields, names, where)
    rows = itertools.chain([first], records)
  else:
    rows = iter(records)
  records.width = len(names)
  order = [names.index(n) if n in names else None for n in HEADER]
  for where, fields in rows:
    _check_width(fields, names, where)
    id_, text, title = ("" if i is None else fields[i] for i in order)
    yield where, (id_, text, title)


def _read_header(fields: Sequence[str], where: str) -> list[str] | None:
  """What the columns hold by the header's names; None: it is no header."""
  given = [field.strip().lower() for field in fields]
  names = [_COLUMN_OF.get(name) for name in given]
  if len(fields) < 2 or "id" not in names:
    return None
  known = [name for name in names if name is not None]
  if len(set(known)) == len(names) and "text" in known:
    return known
  # Other columns beside an id: a passage whose id is `docid` is unlikely.
  if names[0] == "id" and all(n.isidentifier() for n in given):
    raise InputError(
      f"the header is {', '.join(fields)}",
      where=where,
      mend="write the columns id, text, title and name them so",
    )
  return None


def _check_width(
  fields: Sequence[str], names: Sequence[str], where: str
) -> None:
  if len(names) < 2 or len(fields) != len(names):
    expected = len(names) if len(names) > 1 else 3
    raise InputError(
      f"found {len(fields)} tab-separated fields, expected {expected}",
      where=where,
      mend="write id, text and title separated by single tabs, and quote a "
      "field that holds tabs or line breaks",
    )


class _Records:
  """The records of a table, of one line or, in quotes, of several."""

  def __init__(self, lines: Iterator[tuple[str, str]]):
    self._lines = lines
    self._waiting: collections.deque[tuple[str, str]] = collections.deque()
    self._is_plain = False  # a line was seen that `csv` would have quoted
    self.width: int | None = None  # columns, once they are known

  def __iter__(self) -> Iterator[tuple[str, list[str]]]:
    while (record := self.read_next()) is not None:
      yield record

  def read_next(self) -> tuple[str, list[str]] | None:
    """The next record; None at the end."""
    line = self._next_line()
    if line is None:
      return None
    where, raw = line
    text = raw.removesuffix("\r")
    plain = text.split("\t")
    if '"' not in text:
      return where, plain
    plain = [unquote(field) for field in plain]
    if self._is_plain and self._is_wide(plain):
      return where, plain
    fields, rest, is_plain = _split_quoted(text)
    self._is_plain |= is_plain
    if rest is not None:
      is_sure = text.startswith('"') or not self._is_wide(plain)
      rest = raw[len(text) - len(rest) :]
      fields = self._read_on(where, fields, rest, is_sure=is_sure)
    if fields is not None and self._is_wide(fields):
      return where, fields
    self._is_plain = True
    return where, plain

  def _next_line(self) -> tuple[str, str] | None:
    return self._waiting.popleft() if self._waiting else next(self._lines, None)

  def _is_wide(self, fields: Sequence[str]) -> bool:
    return len(fields) in ((2, 3) if self.width is None else (self.width,))

  def _read_on(
    self, where: str, fields: list[str], rest: str, *, is_sure: bool
  ) -> list[str] | None:
    """The fields of a record that goes on in the next lines.

    None, and no line is taken, where the quotation mark that opens `rest` is
    not closed as `csv` would. Unless `is_sure`, lines that could be records of
    their own are refused.
    """
    taken: list[tuple[str, str]] = []
    parts = [rest]
    while len(taken) < _MAX_RECORD_LINES and (line := self._next_line()):
      taken.append(line)
      parts.append(line[1])
      if '"' not in line[1]:
        continue
      raw = "\n".join(parts)
      text = raw.removesuffix("\r")
      if not (_QUOTED.match(text) or _OPEN.match(text)):
        break
      more, open_field, _ = _split_quoted(text)
      fields = fields + more
      if open_field is None:
        if not is_sure and all(self._is_wide(t.split("\t")) for _, t in taken):
          raise _two_readings(where, taken[-1][0])
        return fields
      parts = [raw[len(text) - len(open_field) :]]
    self._waiting.extendleft(reversed(taken))
    return None


def _two_readings(where: str, last: str) -> InputError:
  return InputError(
    "a quotation mark opens here and closes in line "
    f"{last.rpartition(':')[2]}: one record, or several",
    where=where,
    mend="quote every field of the record, or write the mark twice",
  )


def _split_quoted(text: str) -> tuple[list[str], str | None, bool]:
  r"""Splits a line as `csv` does.

  Returns:
    The fields; what is open at the end of the line, if anything; and whether
    a field has a quotation mark for which `csv` would have quoted it.

  >>> _split_quoted('1\t"a ""b"" c"\t"d')
  (['1', 'a "b" c'], '"d', False)
  """
  fields: list[str] = []
  start, is_plain = 0, False
  while start <= len(text):
    if match := _QUOTED.match(text, start):
      fields.append(match[1].replace('""', '"'))
      start = match.end() + 1
    elif _OPEN.match(text, start):
      return fields, text[start:], is_plain
    else:
      end = text.find("\t", start)
      end = len(text) if end < 0 else end
      fields.append(text[start:end])
      is_plain |= '"' in fields[-1]
      start = end + 1
  return fields, None, is_plain


def unquote(field: str) -> str:
  """Undoes CSV quoting, but leaves text that merely begins with a quote.

  >>> unquote('"the ""Great"" Theatre"')
  'the "Great" Theatre'
  >>> unquote('"Yes" and "no"')
  '"Yes" and "no"'
  """
  match = _QUOTED.fullmatch(field)
  return match[1].replace('""', '"') if match else field


def write_rows(file: io.TextIOBase, rows: Iterable[Sequence[str]]) -> int:
  """Writes the header and a record for each row; returns how many rows.

  A field with quotation marks is quoted. A record with tabs or line breaks in
  it is quoted throughout, so that its lines cannot be read as records.
  """
  file.write("\t".join(HEADER) + "\n")
  count = 0
  for row in rows:
    is_broken = any(c in field for field in row for c in "\t\n\r")
    fields = (_quote(f) if is_broken or '"' in f else f for f in row)
    file.write("\t".join(fields) + "\n")
    count += 1
  return count


def _quote(field: str) -> str:
  return '"' + field.replace('"', '""') + '"'
