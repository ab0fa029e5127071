"""XOR-Retrieve's measures R@2kt and R@5kt: success within k tokens.

Terms: `success_at_k` is 1 when any relevant passage is among the first k,
`recall_at_k` is the share of the relevant passages among the first k, and
`success_at_k_tokens` (shown as R@2kt, R@5kt) is 1 when an answer string stands
in the first tokens of the ranked passages. The names "R@2kt" and "R@5kt" are
the shared task's, although they are success measures.

Every measure comes as one value in [0, 1] per question.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from xqg_jax.data.answers import scored_answers
from xqg_jax.data.questions import Question
from xqg_jax.data.runs import Run, sort_neighbors
from xqg_jax.evaluation.word_tokens import (
  TokenizedPassages,
  WordTokenizer,
  squeeze,
)

# ------------------------------------------------------------- word tokenizers


# -------------------------------------------------------- success_at_k_tokens


def tokens_to_answer(
  ranked_ids: Sequence[str],
  answers: Sequence[str],
  passages: TokenizedPassages,
  *,
  max_tokens: int,
) -> float:
  """Counts the tokens down to the end of the first answer of a ranking.

  The ranked texts are tokenized one by one, the tokens of all are joined by
  single spaces, and an answer is found as a case-sensitive substring. The
  answer is within a budget of N tokens exactly when the count is at most N,
  so one pass serves all budgets.

  Args:
    ranked_ids: passage ids, best first.
    answers: answer strings; any of them counts.
    passages: the passages' texts.
    max_tokens: the largest budget asked for; the pass stops there.

  Returns:
    The number of tokens, or infinity when it exceeds `max_tokens`.

  >>> texts = {"a": "Oulu is north.", "b": "It was founded in 1605."}
  >>> passages = TokenizedPassages(texts, str.split)
  >>> tokens_to_answer(["a", "b"], ["founded in"], passages, max_tokens=9)
  7.0
  >>> tokens_to_answer(["a", "b"], ["founded in"], passages, max_tokens=6)
  inf
  """
  if "" in answers:
    return 0.0  # It stands in any text, even in none.
  candidates = _candidate_ranks(ranked_ids, answers, passages, max_tokens)
  text = ""
  num_tokens = 0
  for rank in range(max(candidates, default=-1) + 1):
    joined = passages.joined(ranked_ids[rank])
    if not joined:
      continue
    start = len(text)
    text = f"{text} {joined}" if text else joined
    if rank in candidates:
      end = _first_answer_end(text, answers, start)
      if end is not None:
        needed = text.count(" ", 0, end) + min(end, 1)
        return float(needed) if needed <= max_tokens else math.inf
    num_tokens += joined.count(" ") + 1
    if num_tokens >= max_tokens:
      break
  return math.inf


def _first_answer_end(
  text: str, answers: Sequence[str], start: int
) -> int | None:
  """Where the first answer ends that reaches beyond `text[:start]`."""
  ends = []
  for answer in answers:
    found = text.find(answer, max(0, start - len(answer)))
    if found >= 0:
      ends.append(found + len(answer))
  return min(ends, default=None)


def _candidate_ranks(
  ranked_ids: Sequence[str],
  answers: Sequence[str],
  passages: TokenizedPassages,
  max_tokens: int,
) -> set[int]:
  """Ranks at which an answer can end, judged without tokenizing."""
  pieces: list[str] = []
  num_words = 0
  for passage_id in ranked_ids:
    if num_words >= max_tokens:
      break
    piece, words = passages.squeezed(passage_id)
    pieces.append(piece)
    num_words += words
  squeezed = "".join(pieces)
  ranks: set[int] = set()
  for answer in answers:
    ranks |= _answer_ranks(answer, pieces, squeezed)
  return ranks


def _answer_ranks(answer: str, pieces: list[str], squeezed: str) -> set[int]:
  needle = squeeze(answer.split())
  found = squeezed.find(needle)
  if found < 0:
    return set()
  if answer[-1:] not in needle[-1:] or not needle:
    # Its last characters are squeezed away and may stand in a later passage.
    return set(range(len(pieces)))
  ranks, rank, piece_end = set(), -1, 0
  while found >= 0:
    end = found + len(needle)
    while piece_end < end:
      rank += 1
      piece_end += len(pieces[rank])
    ranks.add(rank)
    # One occurrence per passage is enough.
    found = squeezed.find(needle, max(found + 1, piece_end - len(needle) + 1))
  return ranks


def count_tokens_to_answers(
  run: Run,
  questions: Iterable[Question],
  passages: TokenizedPassages,
  *,
  max_tokens: int,
) -> dict[str, float]:
  """`tokens_to_answer` of every scored question; see there.

  Questions whose answers are all "yes" or "no" are left out. A question that
  the run lacks counts as unanswered (infinity).
  """
  counts = {}
  for question in questions:
    answers = scored_answers(question)
    if answers:
      counts[question.question_id] = tokens_to_answer(
        list(sort_neighbors(run.get(question.question_id, {}))),
        answers,
        passages,
        max_tokens=max_tokens,
      )
  return counts


def success_at_k_tokens(
  run: Run,
  questions: Iterable[Question],
  texts: Mapping[str, str],
  *,
  budget: int,
  tokenize: WordTokenizer,
) -> dict[str, float]:
  """XOR-Retrieve's R@2kt, R@5kt (Asai et al. 2021), for any token budget.

  The ranked passages' texts (no titles) are tokenized and concatenated; a
  question succeeds when one of its answers is a case-sensitive substring of
  the first `budget` tokens joined by spaces. A success measure, although the
  shared task calls it recall; its headline is the macro average over
  languages.

  Args:
    run: {question_id: {passage_id: score}}.
    questions: those with only "yes"/"no" answers are left out of the result.
    texts: text by passage id.
    budget: number of tokens, 2000 or 5000 in the shared task.
    tokenize: from `load_word_tokenizer`.

  Returns:
    1.0 or 0.0 by question id.

  >>> run = {"q1": {"a": 2.0, "b": 1.0}, "q2": {"b": 1.0}}
  >>> texts = {"a": "Oulu is in the north .", "b": "Founded in 1605 ."}
  >>> questions = [
  ...   Question("q1", "...", "fi", ("1605",)),
  ...   Question("q2", "...", "fi", ("yes",)),
  ... ]
  >>> success_at_k_tokens(run, questions, texts, budget=9, tokenize=str.split)
  {'q1': 1.0}
  >>> success_at_k_tokens(run, questions, texts, budget=8, tokenize=str.split)
  {'q1': 0.0}
  """
  counts = count_tokens_to_answers(
    run, questions, TokenizedPassages(texts, tokenize), max_tokens=budget
  )
  return {key: float(count <= budget) for key, count in counts.items()}


def token_measure_name(budget: int) -> str:
  """The name that a token budget is shown under.

  >>> token_measure_name(2000), token_measure_name(500)
  ('R@2kt', 'R@500t')
  """
  return f"R@{budget // 1000}kt" if budget % 1000 == 0 else f"R@{budget}t"


# --------------------------------------------------------------- TREC measures
