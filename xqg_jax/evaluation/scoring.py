"""Scores of every variant, measure and question."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xqg_jax.data.answers import scored_answers
from xqg_jax.data.passages import Passage
from xqg_jax.data.qrels import Qrels, read_qrels
from xqg_jax.data.questions import Question, read_questions
from xqg_jax.errors import InputError
from xqg_jax.evaluation.comparison import Scores
from xqg_jax.evaluation.relevance import judge_by_answers
from xqg_jax.evaluation.success_at_k_tokens import (
  count_tokens_to_answers,
  token_measure_name,
)
from xqg_jax.evaluation.trec_measures import (
  is_defined_without_qrels,
  parse_measures,
  score_rankings,
)
from xqg_jax.evaluation.variants import (
  Variant,
  count_loose_texts,
  list_unanswered,
)
from xqg_jax.evaluation.word_tokens import (
  TOKENIZER_NOTES,
  TokenizedPassages,
  WordTokenizer,
  check_tokenizer,
  load_word_tokenizer,
)


@dataclasses.dataclass(frozen=True)
class ScoringInputs:
  """What variants are scored by.

  Attributes:
    questions: all questions.
    questions_path: where they come from, for messages.
    qrels: judgements of these questions; None to judge by the answers.
    measures: parsed measures of ir_measures, by name.
    token_budgets: budgets of success_at_k_tokens.
    tokenizer: name of the word tokenizer.
    tokenize: the word tokenizer.
    num_budgets_left_out: budgets that were asked for where no question has an
      answer to look for.
  """

  questions: list[Question]
  questions_path: str | os.PathLike
  qrels: Qrels | None
  measures: dict[str, Any]
  token_budgets: list[int]
  tokenizer: str
  tokenize: WordTokenizer
  num_budgets_left_out: int = 0

  @classmethod
  def read(
    cls,
    questions: str | os.PathLike,
    qrels: str | os.PathLike | None,
    settings: Mapping[str, Any],
    *,
    punkt_dir: str | os.PathLike | None,
  ) -> "ScoringInputs":
    """Reads questions and qrels and loads the tokenizer.

    Args:
      questions: XOR-TyDi JSONL.
      qrels: relevance judgements, if any.
      settings: `token_budgets`, `measures`, `tokenizer`, `qrels_field`.
      punkt_dir: NLTK data folder.

    Raises:
      InputError: bad input; the message names file and line.
    """
    budgets = list(settings["token_budgets"])
    for budget in budgets:
      if budget < 1:
        raise InputError(
          f"a token budget is {budget}", mend="use at least one token"
        )
    asked = read_questions(questions, require_answers=qrels is None)
    if not any(map(scored_answers, asked)):
      budgets = []
    tokenizer = settings["tokenizer"]
    check_tokenizer(tokenizer)
    # Without budgets no token is counted, and no data are needed for it.
    used = tokenizer if budgets else "no_sentences"
    return cls(
      questions=asked,
      questions_path=questions,
      qrels=_read_qrels(qrels, settings["qrels_field"], asked),
      measures=parse_measures(settings["measures"]),
      token_budgets=budgets,
      tokenizer=tokenizer,
      tokenize=load_word_tokenizer(used, punkt_dir=punkt_dir),
      num_budgets_left_out=len(settings["token_budgets"]) - len(budgets),
    )


def _read_qrels(
  path: str | os.PathLike | None,
  field: str | None,
  questions: Sequence[Question],
) -> Qrels | None:
  if path is None:
    return None
  known = {question.question_id for question in questions}
  judged = read_qrels(path, field=field)
  qrels = {key: judged[key] for key in judged if key in known}
  if not qrels:
    raise InputError(
      "the qrels judge none of the questions",
      where=path,
      mend="give the qrels of these questions",
    )
  return qrels


def score_variants_by_question(
  variants: Sequence[Variant],
  inputs: ScoringInputs,
  passages: Mapping[str, Passage],
) -> tuple[Scores, list[str]]:
  """Scores every variant.

  Returns:
    (one value per question, measure and variant; notes on how they are meant,
    for the foot of the table).

  Raises:
    InputError: no question can be scored.
  """
  texts = {key: passage.text for key, passage in passages.items()}
  qrels, measures, notes = _judge(variants, inputs, texts)
  tokenized = TokenizedPassages(texts, inputs.tokenize)
  columns = {
    variant.name: {
      **_score_tokens(variant, inputs, tokenized),
      **score_rankings(variant.run, qrels, measures),
    }
    for variant in variants
  }
  notes = [*notes, *_note_tokens(inputs)]
  scores = _to_scores(inputs.questions, columns)
  return scores, [*notes, *_note_gaps(variants, inputs)]


def _note_tokens(inputs: ScoringInputs) -> list[str]:
  if inputs.num_budgets_left_out:
    return ["R@kt left out: no question has an answer"]
  if not inputs.token_budgets:
    return []
  notes = [TOKENIZER_NOTES[inputs.tokenizer]]
  without = sum(not question.answers for question in inputs.questions)
  if without:
    notes.append(
      f"R@kt: without {without} of {len(inputs.questions)} questions, which "
      "have no answers"
    )
  return notes


def _score_tokens(
  variant: Variant, inputs: ScoringInputs, tokenized: TokenizedPassages
) -> dict[str, dict[str, float]]:
  counts = count_tokens_to_answers(
    variant.run,
    inputs.questions if inputs.token_budgets else (),
    tokenized,
    max_tokens=max(inputs.token_budgets, default=0),
  )
  return {
    token_measure_name(budget): {
      question_id: float(count <= budget)
      for question_id, count in counts.items()
    }
    for budget in inputs.token_budgets
  }


def _judge(
  variants: Sequence[Variant],
  inputs: ScoringInputs,
  texts: Mapping[str, str],
) -> tuple[Qrels, dict[str, Any], list[str]]:
  """Relevance, the measures that it defines, and notes on both."""
  if inputs.qrels is not None:
    return inputs.qrels, inputs.measures, ["relevance: qrels"]
  left_out = [
    n for n, m in inputs.measures.items() if not is_defined_without_qrels(m)
  ]
  measures = {n: m for n, m in inputs.measures.items() if n not in left_out}
  notes = ["relevance: no qrels, a passage that contains an answer counts"]
  if left_out:
    notes.append(f"left out without qrels: {', '.join(left_out)}")
  if not measures:
    return {}, {}, notes[1:]
  cutoffs = [m.params.get("cutoff") for m in measures.values()]
  qrels = judge_by_answers(
    [variant.run for variant in variants],
    inputs.questions,
    texts,
    depth=None if None in cutoffs else max(cutoffs),
  )
  return qrels, measures, notes


def _to_scores(
  questions: Sequence[Question],
  columns: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> Scores:
  measures = tuple(next(iter(columns.values())))
  scores = Scores(
    question_ids=tuple(q.question_id for q in questions),
    languages=tuple(q.language for q in questions),
    measures=measures,
    values={
      name: np.array(
        [
          [by_measure[m].get(q.question_id, np.nan) for m in measures]
          for q in questions
        ]
      )
      for name, by_measure in columns.items()
    },
  )
  first = next(iter(scores.values.values()))
  if not measures or np.isnan(first).all(axis=0).any():
    raise InputError(
      "no question can be scored: all answers are yes or no, or no measure is "
      "left",
      mend="give questions with answers, token budgets, or qrels",
    )
  return scores


def _note_gaps(variants: Sequence[Variant], inputs: ScoringInputs) -> list[str]:
  notes = []
  for variant in variants:
    if variant.num_left_out:
      notes.append(
        f"{variant.name}: results for {variant.num_left_out} other questions, "
        "left out"
      )
    missing = list_unanswered(variant, inputs.questions)
    if missing:
      notes.append(
        f"{variant.name}: no results for {len(missing)} of "
        f"{len(inputs.questions)} questions, counted as failures"
      )
    loose = count_loose_texts(variant)
    if loose:
      notes.append(
        f"{variant.name}: {loose} texts are no passage of the collection"
      )
  return notes
