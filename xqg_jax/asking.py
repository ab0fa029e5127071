"""`xqg search --query`: the passages of one question, in the terminal."""

import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

from xqg_jax.errors import InputError
from xqg_jax.fusion import Reduction
from xqg_jax.live_search import Hit, LiveSearch, rank_passages
from xqg_jax.models.dual_encoder import DualEncoderConfig
from xqg_jax.passage_texts import ShownPassage, read_shown_passages

MAX_QUESTION_LENGTH = 2000
_MIN_SIDE = 36
_GAP = 3
_JOINERS = "\u200c\u200d"


def ask(
  *,
  query: str,
  index: str | os.PathLike,
  checkpoint_path: str | os.PathLike,
  passages: str | os.PathLike,
  encoder: DualEncoderConfig | None = None,
  baseline_index: str | os.PathLike | None = None,
  reduction: Reduction = "sum",
  alpha: float | None = None,
  k: int = 5,
) -> None:
  """Prints the passages found for one question; writes no files.

  The passages as they are stand beside the augmented ones, or above them in a
  narrow terminal.

  Args:
    query: a question in any language.
    index: folder that `index` wrote.
    checkpoint_path: the dual encoder that also encoded the passages.
    passages: the collection, for titles and texts.
    encoder: pooling, prefixes and lengths; the checkpoint's own when absent.
    baseline_index: index of the store as it is, beside a ScaNN index.
    reduction: "sum" or "mean", where the index is not of a view.
    alpha: weight of the generated queries; the view's own when absent.
    k: passages of each variant.

  Raises:
    InputError: a bad question, an index of another encoder or store, or one
      with changed files.
    ScannError: ScaNN failed or crashed.
  """
  question = check_question(query)
  check_numbers(alpha=alpha, k=k)
  with LiveSearch(
    index=index,
    checkpoint_path=checkpoint_path,
    encoder=encoder,
    baseline_index=baseline_index,
    reduction=reduction,
    alpha=0.01 if alpha is None else alpha,
  ) as live:
    (products,) = live.find([question])
    ids = live.passage_ids
    found = {"baseline": rank_passages(products, alpha=None, k=k)}
    if live.augmentation is not None:
      weight = live.augmentation.alpha if alpha is None else alpha
      name = f"augmented, {live.augmentation.reduction}, alpha {weight:g}"
      found[name] = rank_passages(products, alpha=weight, k=k)
  shown = read_shown_passages(
    {ids[hit.row] for hits in found.values() for hit in hits},
    passages=passages,
  )
  width = shutil.get_terminal_size().columns
  sys.stdout.writelines(
    f"{line}\n" for line in format_variants(found, ids, shown, width=width)
  )


def check_question(question: str) -> str:
  """The question without blanks around it.

  Raises:
    InputError: it is empty, too long, or not text.

  >>> check_question("  why? ")
  'why?'
  """
  question = question.strip()
  if not question:
    raise InputError("the question is empty", mend="write one")
  if len(question) > MAX_QUESTION_LENGTH:
    raise InputError(
      f"the question has {len(question):,} characters",
      mend=f"use at most {MAX_QUESTION_LENGTH:,}",
    )
  try:
    question.encode("utf-8")
  except UnicodeEncodeError:
    raise InputError(
      "the question is not valid Unicode", mend="give it in UTF-8"
    ) from None
  return question


def check_numbers(*, alpha: float | None, k: int) -> None:
  """Refuses an alpha outside 0 to 1 and a k below 1.

  Raises:
    InputError: one of them.
  """
  if alpha is not None and not 0 <= alpha <= 1:
    raise InputError(f"alpha is {alpha}", mend="choose it between 0 and 1")
  if k < 1:
    raise InputError(f"k is {k}", mend="ask for at least one passage")


# ------------------------------------------------------------------- printing


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
