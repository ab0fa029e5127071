"""Search results as text for a terminal, in columns that fit its width."""

import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

from xqg_jax.data.passage_lookup import ShownPassage
from xqg_jax.serving.products import Hit

_MIN_SIDE = 36
_GAP = 3
_JOINERS = "\u200c\u200d"


def format_variants(
  found: Mapping[str, Sequence[Hit]],
  passage_ids: Sequence[str],
  shown: Mapping[str, ShownPassage],
  *,
  width: int,
) -> Iterator[str]:
  """Lines of a terminal `width` columns wide, the variants side by side.

  Args:
    found: hits by the variant's name.
    passage_ids: by row.
    shown: the passages' texts by id.
    width: columns of the terminal.
  """
  side = (width - _GAP * (len(found) - 1)) // len(found)
  is_beside = side >= _MIN_SIDE
  side = side if is_beside else max(width, 1)
  columns = [
    [name, "", *_format_hits(hits, passage_ids, shown, width=side)]
    for name, hits in found.items()
  ]
  if not is_beside:
    for column in columns:
      yield from (cut_text(line, side) for line in column)
    return
  height = max(map(len, columns))
  padded = [[*column, *[""] * (height - len(column))] for column in columns]
  for lines in zip(*padded, strict=True):
    cells = [_fill(cut_text(line, side), side) for line in lines]
    yield (" " * _GAP).join(cells).rstrip()


def _format_hits(
  hits: Iterable[Hit],
  passage_ids: Sequence[str],
  shown: Mapping[str, ShownPassage],
  *,
  width: int,
) -> Iterator[str]:
  for place, hit in enumerate(hits, start=1):
    passage = shown[passage_ids[hit.row]].passage
    title = clean_text(passage.title or passage.passage_id)
    yield f"{place:>2}. {hit.score:.4f}  {title}"
    yield from _wrap(clean_text(passage.text), width - 4)
    yield ""


def _wrap(text: str, width: int) -> list[str]:
  """At most two indented lines, the second of them cut."""
  lines = textwrap.wrap(text, max(width, 1), max_lines=2, placeholder=" …")
  return [f"    {line}" for line in lines]


def clean_text(text: str) -> str:
  r"""One line without control characters, which could steer the terminal.

  >>> clean_text("two \x1b[31m lines\n of text")
  'two [31m lines of text'
  """
  kept = (c for c in text if c.isspace() or not _is_control(c))
  return " ".join("".join(kept).split())


def _is_control(character: str) -> bool:
  # Cf holds the marks that reverse the direction of what follows, but also the
  # joiners that some scripts are written with.
  is_format = unicodedata.category(character) in ("Cc", "Cf", "Cs")
  return is_format and character not in _JOINERS


def _columns_of(character: str) -> int:
  if unicodedata.category(character) in ("Mn", "Me", "Cf"):
    return 0
  return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut_text(text: str, width: int) -> str:
  """Cuts a line to columns of a terminal; wide characters take two.

  >>> cut_text("東京タワー", 7)
  '東京タ…'
  >>> cut_text("tower", 7)
  'tower'
  """
  if sum(map(_columns_of, text)) <= width:
    return text
  kept, used = "", 1
  for character in text:
    used += _columns_of(character)
    if used > width:
      break
    kept += character
  return f"{kept}…"


def _fill(text: str, width: int) -> str:
  return text + " " * (width - sum(map(_columns_of, text)))
