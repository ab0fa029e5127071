"""Settings against declared types: each wrong one is a line, before a start."""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import gin
import msgspec
import pytest
from beartype import BeartypeConf
from beartype.door import is_bearable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xqg_jax.cli.config import configure_stage, stage_macros
from xqg_jax.cli.main import main
from xqg_jax.cli.setting_types import Misfit, Reference, describe_hint, fit
from xqg_jax.cli.settings import list_hints
from xqg_jax.errors import InputError
from xqg_jax.io.typed_json import Count, Positive, Seed, Share
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.stages import STAGES

PATH = str | os.PathLike
EVALUATE = {
  "RUNS": "{'r': 'run.trec'}",
  "QUESTIONS": "q.jsonl",
  "PASSAGES": "p.tsv",
  "OUTPUT_DIR": "scores",
}
GENERATE = {"CHECKPOINT_PATH": "mt5", "PASSAGES": "p.tsv", "OUTPUT_DIR": "g"}
AUGMENT = {"STORE": "store", "OUTPUT_DIR": "view"}
SEARCH = {
  "INDEX": "index",
  "QUESTIONS": "q.jsonl",
  "CHECKPOINT_PATH": "e5",
  "OUTPUT_DIR": "found",
}
POOL = {"EVALUATIONS": "('a', 'b')", "OUTPUT_DIR": "pooled"}


# ------------------------------------------------------------------ one by one


@pytest.mark.parametrize(
  ("value", "hint", "fitted"),
  [
    (3, int, 3),
    (3, float, 3),
    (0.5, Share, 0.5),
    (None, int | None, None),
    ("a", PATH, "a"),
    ("a", Sequence[str], ("a",)),
    ("a", Sequence[PATH], ("a",)),
    ("a", Sequence[str] | None, ("a",)),
    ("a", Mapping[str, str] | PATH, "a"),
    (("a", "b"), Sequence[str], ("a", "b")),
    ([1, 2], Sequence[int], [1, 2]),
    ((), Sequence[float], ()),
    ({"r": "a"}, Mapping[str, PATH], {"r": "a"}),
    ((("fi", 2),), tuple[tuple[str, float], ...], (("fi", 2),)),
    ("sum", Literal["sum", "mean"], "sum"),
    ([["a", None]], Sequence[Sequence[Any]], [["a", None]]),
    (7, Annotated[int, msgspec.Meta(gt=6, lt=8)], 7),
  ],
)
def test_what_fits(value, hint, fitted):
  assert fit(value, hint) == fitted


@pytest.mark.parametrize(
  ("value", "hint", "line"),
  [
    (True, int, ": is True; give a whole number"),
    (1.0, int, ": is 1.0; give a whole number"),
    (10**400, int, ": is a number of hundreds of digits; give a whole number"),
    (float("nan"), float, ": is nan; give a number"),
    (float("-inf"), float | None, ": is -inf; give a number or None"),
    (1, bool, ": is 1; give True or False"),
    (5, PATH, ": is 5; give a path"),
    (None, PATH, ": is None; give a path"),
    (-1, Seed, ": is -1; give a whole number of 0 or more"),
    (2**32, Seed, ": is 4294967296; give a whole number of 0 or more"),
    (0, Positive, ": is 0; give a whole number of 1 or more"),
    (-1, Count | None, ": is -1; give a whole number of 0 or more or None"),
    (1.5, Share, ": is 1.5; give a number of 0 or more up to 1"),
    ("a", Sequence[int], ": is text ('a'); give a list of whole numbers, such"),
    (2000, Sequence[int], ": is 2000; give a list of whole numbers, such"),
    ((1, "a"), Sequence[int], "[1]: is text ('a'); give a whole number"),
    ("a", Mapping[str, PATH], ": is text ('a'); give {name: path}"),
    ({"r": 1}, Mapping[str, PATH], "['r']: is 1; give a path"),
    ({1: "a"}, Mapping[str, PATH], "[1]: is 1; give text"),
    (
      {"a": (0.1, "b")},
      Mapping[str, Sequence[float]],
      "['a'][1]: is text (",
    ),
    (
      "max",
      Literal["sum", "mean"],
      ": is text ('max'); give \"sum\" or",
    ),
    (("fi",), tuple[str, float], ": is ('fi',); give (text, a number)"),
    (
      "e5",
      DualEncoderConfig,
      ": is text ('e5'); give a reference such as",
    ),
    (Reference(int, "@b.B()"), DualEncoderConfig, ": is @b.B(); give a refer"),
    (Reference(None, "@f", is_made=False), int, ": is @f; give a whole number"),
  ],
)
def test_what_does_not_fit_is_told_in_words(value, hint, line):
  with pytest.raises(Misfit) as error:
    fit(value, hint)
  misfit = error.value
  assert f"{misfit.place}: {misfit.found}; {misfit.wanted}".startswith(line)


def test_references_to_classes_fit_their_classes():
  good = Reference(DualEncoderConfig, "@config.DualEncoderConfig()")
  assert fit(good, DualEncoderConfig | None) is good
  unknown = Reference(None, "@f()")
  assert fit(unknown, int) is unknown


# --------------------------------------------------------------- command line


@pytest.mark.parametrize(
  ("stage", "base", "name", "value", "line"),
  [
    (
      "evaluate",
      EVALUATE,
      "RUNS",
      "run.trec",
      "is text ('run.trec'); give",
    ),
    (
      "evaluate",
      EVALUATE,
      "RUNS",
      "{r: run.trec}",
      "is text ('{r: run.t",
    ),
    (
      "evaluate",
      EVALUATE,
      "TOKEN_BUDGETS",
      "2000",
      "is 2000; give a list of",
    ),
    ("evaluate", EVALUATE, "ALPHAS", "0.1", "is 0.1; give a list of numbers, "),
    ("evaluate", EVALUATE, "K", "None", "is None; give a whole"),
    (
      "evaluate",
      EVALUATE,
      "evaluate.rounds",
      "x",
      "is text ('x'); give a",
    ),
    ("search", SEARCH, "K", "1.5", "is 1.5; give a whole"),
    ("search", SEARCH, "K", "ten", "is no whole number"),
    (
      "search",
      SEARCH,
      "ENCODER",
      "e5",
      "is text ('e5'); give a reference",
    ),
    ("search", SEARCH, "SEARCH_DTYPE", "int8", "give "),
    ("augment", AUGMENT, "ALPHA", "nan", "is no number"),
    (
      "augment",
      AUGMENT,
      "ALPHA",
      "1e999",
      "is inf; give a number",
    ),
    ("generate", GENERATE, "SEED", "{1: 2}", "is {1: 2}; give a whole number"),
    (
      "generate",
      GENERATE,
      "SEED",
      "-5",
      "is -5; give a whole numb",
    ),
    ("generate", GENERATE, "NUM_QUERIES", "two", "is no whole number"),
    ("generate", GENERATE, "APPROXIMATE_TOP_K", "None", "give True or False"),
    ("pool", POOL, "EVALUATIONS", "{'a': 1}", "is {'a': 1}; give a list of pa"),
  ],
)
def test_a_wrong_setting_is_one_line(
  stage, base, name, value, line, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  flags = [f"--gin.{n}={v}" for n, v in (base | {name: value}).items()]
  assert main([stage, *flags]) == 2
  (said,) = capsys.readouterr().err.splitlines()
  assert said.startswith(f"xqg: error: --gin.{name}: ")
  assert line in said
  assert not list(tmp_path.iterdir())


def test_an_item_of_a_list_is_named(capsys):
  flags = [f"--gin.{n}={v}" for n, v in EVALUATE.items()]
  assert main(["evaluate", *flags, "--gin.TOKEN_BUDGETS=(2000, 2000.5)"]) == 2
  assert "--gin.TOKEN_BUDGETS[1]: is 2000.5; give a" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("stage", "base", "name", "value"),
  [
    ("evaluate", EVALUATE, "MEASURES", "RR@10"),
    ("generate", GENERATE, "LANGUAGES", "fi"),
    ("pool", POOL, "EVALUATIONS", "scores"),
  ],
)
def test_a_lone_text_is_a_list_of_one(stage, base, name, value):
  configure_stage(stage, gin_bindings={**base, name: value})
  assert gin.query_parameter(f"{name}/gin.macro.value") == (value,)


# ------------------------------------------------------------------ any values

# As for type checkers, a whole number is a good float.
TOWER = BeartypeConf(is_pep484_tower=True)
# Required settings that only references can fill are left to gin files.
NEEDS_A_FILE = {"plan", "train"}
ANY_TEXT = st.one_of(
  st.sampled_from(
    [
      *("None", "True", "nan", "inf", "-1", "0", "1.5", "1e400", "9" * 5000),
      *("ten", "a/b.tsv", "0,1", "2024-11-29", "@encode", "@x.Y()", "%K", "%"),
      *("()", "('a',)", "(1, 'a')", "[[1]]", "{}", "{1: 2}", "{'a': (1,)}"),
      *("'a", '"', "(" * 200, "{0", "\ud800", "\x00", "a\nb = 3", "a  # b", ""),
    ]
  ),
  st.text(max_size=8),
  st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats()),
    lambda inner: st.one_of(
      st.lists(inner, max_size=2), st.dictionaries(st.text(), inner, max_size=2)
    ),
    max_leaves=4,
  ).map(repr),
)


def _list_settings() -> list[tuple[str, str]]:
  return [
    (stage, macro)
    for stage in STAGES
    if stage not in NEEDS_A_FILE
    for macro in stage_macros(stage)
  ]


@given(setting=st.sampled_from(_list_settings()), value=ANY_TEXT)
@settings(
  max_examples=150,
  deadline=None,
  derandomize=True,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_value_of_any_setting_fits_or_is_one_line(
  setting, value, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  stage, name = setting
  known = {**EVALUATE, **GENERATE, **AUGMENT, **SEARCH, **POOL}
  given = {macro: known.get(macro, "x") for macro in stage_macros(stage)}
  given = {k: v for k, v in given.items() if _is_required(stage, k)}
  try:
    configure_stage(stage, gin_bindings=given | {name: value})
  except InputError:
    pass
  else:
    _check_bound()
  assert not list(tmp_path.iterdir())


def _is_required(stage: str, macro: str) -> bool:
  return f"\n{macro} = %gin.REQUIRED" in _read_run_file(stage)


def _read_run_file(stage: str) -> str:
  from xqg_jax.cli.config import run_file

  return run_file(stage).read_text(encoding="utf-8")


def _check_bound() -> None:
  """Compares what gin would pass with the annotations, by beartype."""
  for name, hint in list_hints():
    value = gin.query_parameter(name)
    while isinstance(value, gin.config.ConfigurableReference):
      if value.configurable.selector != "gin.macro":
        break
      value = gin.query_parameter("/".join(value.scopes) + "/gin.macro.value")
    has_reference = "@" in repr(value) or "%" in repr(value)
    assert has_reference or is_bearable(value, hint, conf=TOWER), name


def test_every_annotation_is_told_in_words():
  for stage in STAGES:
    for hint in (h for _, h in _hints_of(stage)):
      words = describe_hint(hint)
      assert words
      assert "typing" not in words
      assert "<" not in words


def _hints_of(stage: str) -> list[tuple[str, Any]]:
  known = {**EVALUATE, **GENERATE, **AUGMENT, **SEARCH, **POOL}
  required = {
    macro: known.get(macro, "x")
    for macro in stage_macros(stage)
    if _is_required(stage, macro)
  }
  for macro in ("MODEL", "TRAIN_STEPS"):
    if macro in required:
      required.pop(macro)
  files = ["models/bert_tiny.gin"] if stage in NEEDS_A_FILE else []
  required |= {"TRAIN_STEPS": "3"} if stage == "train" else {}
  configure_stage(stage, gin_files=files, gin_bindings=required)
  return list(list_hints())
