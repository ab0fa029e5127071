"""Relevance of passages: judged by people (qrels) or by answer strings."""

from collections.abc import Iterable, Mapping

from xqg_jax.data.answers import scored_answers, to_words
from xqg_jax.data.qrels import Qrels
from xqg_jax.data.questions import Question
from xqg_jax.data.runs import Run, sort_neighbors


def judge_by_answers(
  rankings: Iterable[Run],
  questions: Iterable[Question],
  texts: Mapping[str, str],
  *,
  depth: int | None = None,
) -> Qrels:
  """Judges retrieved passages by whether they contain an answer.

  As in the evaluation of DPR (Karpukhin et al. 2020): an answer counts when
  its words, in any case, follow one another in the passage's text. Answers
  "yes" and "no" never count. Only passages of the rankings are judged.

  Args:
    rankings: the runs whose passages to judge.
    questions: the questions with their answers.
    texts: text by passage id.
    depth: how many passages of each ranking to judge; all by default.

  Returns:
    {question_id: {passage_id: 0 or 1}} of the questions that have answers.
  """
  rankings = list(rankings)
  words: dict[str, str] = {}
  qrels: Qrels = {}
  for question in questions:
    answers = [to_words(a) for a in scored_answers(question)]
    if not answers:
      continue
    judged = qrels.setdefault(question.question_id, {})
    for run in rankings:
      ranked = list(sort_neighbors(run.get(question.question_id, {})))
      for passage_id in ranked[:depth]:
        if passage_id not in words:
          words[passage_id] = to_words(texts[passage_id])
        judged[passage_id] = int(any(a in words[passage_id] for a in answers))
  return qrels
