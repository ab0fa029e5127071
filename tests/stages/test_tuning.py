"""Alpha by cross-validation: by hand, and over a search folder's vectors."""

import json

import numpy as np
import pytest
from test_evaluation import search_folder, world

from xqg_jax.data.questions import Question, write_questions
from xqg_jax.errors import InputError
from xqg_jax.evaluation.alpha_choice import choose_alpha, make_folds
from xqg_jax.evaluation.comparison import Scores
from xqg_jax.stages.tune_alpha import tune_alpha

__all__ = ["search_folder", "world"]  # fixtures


def make_scores(by_variant, languages):
  return Scores(
    question_ids=tuple(f"q{i}" for i in range(len(languages))),
    languages=tuple(languages),
    measures=("RR@10",),
    values={n: np.array(v, float)[:, None] for n, v in by_variant.items()},
  )


def test_folds_hold_each_language_in_equal_parts():
  languages = np.array(["ar"] * 10 + ["fi"] * 7)
  folds = make_folds(languages, num_folds=5, seed=3)
  np.testing.assert_array_equal(np.bincount(folds[:10]), [2] * 5)
  np.testing.assert_array_equal(
    np.sort(np.bincount(folds[10:])), [1, 1, 1, 2, 2]
  )
  again = make_folds(languages, num_folds=5, seed=3)
  np.testing.assert_array_equal(folds, again)
  with pytest.raises(InputError, match="7 questions in 'fi'"):
    make_folds(languages, num_folds=8, seed=0)


def test_a_clear_winner_is_worth_what_it_shows():
  languages = ["ar"] * 6 + ["fi"] * 4
  values = {"0": [0] * 10, "0.1": [1] * 6 + [0.5] * 4, "0.2": [0.5] * 10}
  found = choose_alpha(
    make_scores(values, languages), "RR@10", num_folds=2, seed=0
  )
  assert found.best == "0.1"
  assert found.curve == {"0": 0.0, "0.1": 75.0, "0.2": 50.0}
  assert found.by_fold == ["0.1", "0.1"]
  assert found.value == 75.0


def test_a_choice_that_fits_its_own_questions_only_is_found_out():
  # Each variant is good on one question; none is good on others.
  count = 12
  values = {str(i): np.eye(count)[i] for i in range(count)}
  found = choose_alpha(
    make_scores(values, ["ar"] * count), "RR@10", num_folds=count, seed=0
  )
  assert max(found.curve.values()) == pytest.approx(100 / count)
  assert found.value == 0.0


def test_ties_go_to_the_smaller_alpha_and_unscored_questions_are_left_out():
  values = {"0": [np.nan, 1, 1, 0], "0.1": [np.nan, 1, 0, 1]}
  found = choose_alpha(
    make_scores(values, ["ar"] * 4), "RR@10", num_folds=3, seed=0
  )
  assert found.best == "0"
  assert found.curve["0"] == pytest.approx(200 / 3)


def test_over_a_search_folder(world, search_folder, capsys):
  # "known" stands in p3 alone, which the sum of its four queries lifts:
  # 0.9 * 0.8 + 0.1 * 4 > 0.9 * 1.
  questions = [
    Question(f"q{i + 1}", "?", code, ("known",))
    for i, code in enumerate(("fi", "fi", "ru", "ru"))
  ]
  with world.questions.open("w") as file:
    write_questions(file, questions)

  def tune(**changes):
    arguments = {
      "search": search_folder,
      "questions": world.questions,
      "passages": world.passages,
      "output_dir": world.root / "tuned",
      "alphas": (0.1, 0.01),
      "measure": "RR@10",
      "num_folds": 2,
    }
    return tune_alpha(**arguments | changes)

  with pytest.raises(InputError, match="folds"):
    tune(num_folds=5)
  with pytest.raises(InputError, match="unknown measure"):
    tune(measure="R@akt")
  with pytest.raises(InputError, match="no alphas"):
    tune(alphas=())
  assert not (world.root / "tuned").exists()
  content = tune()
  assert content["alpha"] == 0.1
  assert content["curve"] == pytest.approx(
    {"0": 100 / 3, "0.01": 100 / 3, "0.1": 100.0}
  )
  found = dict(content["cross_validated"])
  assert found.pop("fold_alphas") == [0.1, 0.1]
  assert found.pop("fold_centers") == [0.0, 0.0]
  low, high = found.pop("interval")
  assert low <= found["difference"] <= high
  assert found == pytest.approx(
    {
      "value": 100.0,
      "alpha_0": 100 / 3,
      "optimistic": 100.0,
      "difference": 200 / 3,
      # Every question gains: as far from zero with both signs alone.
      "p": 2 / 2**4,
    }
  )
  written = json.loads((world.root / "tuned" / "tuning.json").read_text())
  assert written == json.loads(json.dumps(content))
  told = capsys.readouterr().out
  assert "cross-validated: 100.0 (alpha 0: 33.3" in told
  assert "gain: +66.7 (" in told
  # An identical call reads it, even of files that have moved.
  (world.root / "tuned" / "tuning.json").write_text(
    json.dumps(written | {"alpha": 0.5})
  )
  moved = world.root / "moved.jsonl"
  moved.write_bytes(world.questions.read_bytes())
  assert tune(questions=moved)["alpha"] == 0.5
  with world.questions.open("a") as file:
    write_questions(file, [Question("q9", "?", "fi", ("known",))])
  with pytest.raises(InputError, match="inputs"):
    tune()
