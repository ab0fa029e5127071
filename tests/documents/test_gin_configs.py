"""Every shipped gin file parses, resolves and teaches."""

import importlib
import importlib.util
import inspect
import itertools
import re

import gin
import pytest

from xqg_jax import stages
from xqg_jax.cli.config import gin_root, run_file, stage_macros
from xqg_jax.stages import prepare

RUNS = sorted(stages.STAGES)
# `xqg.center(encoder, queries)`, beside one line of sentence-transformers.
POSITIONAL = {"center": ("encoder", "queries")}
FRAGMENTS = sorted(
  str(path.relative_to(gin_root()))
  for path in gin_root().rglob("*.gin")
  # Those of T5X need T5X: tests/test_t5x.py.
  if path.parent.name not in ("runs", "t5x")
)


@pytest.fixture(autouse=True)
def _clear_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def _required(stage):
  text = run_file(stage).read_text()
  return re.findall(r"^([A-Z_]+) = %gin.REQUIRED$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("stage", RUNS)
def test_run_file_teaches(stage):
  header = "".join(
    itertools.takewhile(
      lambda line: line.startswith("#"),
      run_file(stage).read_text().splitlines(keepends=True),
    )
  )
  for part in ("Required to be set:", "Commonly overridden:", "Command:"):
    assert part in header
  assert f"xqg {stage}" in header
  for macro in stage_macros(stage):
    assert re.search(rf"\b{macro}\b", header), macro


@pytest.mark.parametrize("stage", RUNS)
def test_run_file_parses_and_binds_what_the_function_needs(stage):
  bindings = [f"{name} = 'x'" for name in _required(stage)]
  gin.add_config_file_search_path(str(gin_root()))
  gin.parse_config_files_and_bindings([str(run_file(stage))], bindings)
  function = stages.STAGES[stage].load()
  bound = gin.get_bindings(function)
  needed = {
    name
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.default is inspect.Parameter.empty
  }
  assert needed <= set(bound)
  assert all(
    parameter.kind is inspect.Parameter.KEYWORD_ONLY
    for name, parameter in inspect.signature(function).parameters.items()
    if name not in POSITIONAL.get(stage, ())
  )


@pytest.mark.parametrize(
  ("fragment", "config"),
  [
    ("models/bert_tiny.gin", "bert_config.BertConfig"),
    ("models/mt5_tiny.gin", "t5_config.T5Config"),
    ("t5x/mt5_tiny.gin", "network.T5Config"),
  ],
)
def test_small_models_have_room_for_the_tokenizers_of_prepare(fragment, config):
  # Not parsed: T5X need not be there.
  text = (gin_root() / fragment).read_text()
  _, found, bindings = text.partition(f"\n{config}:\n")
  assert found
  size = int(re.search(r"^  vocab_size = (\d+)$", bindings, re.MULTILINE)[1])
  parameters = inspect.signature(prepare.prepare).parameters
  assert size >= parameters["vocab_size"].default


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_fragment_resolves(fragment):
  gin.add_config_file_search_path(str(gin_root()))
  gin.parse_config_file(fragment)
  text = (gin_root() / fragment).read_text()
  for macro in re.findall(r"^([A-Z_]+) = @", text, flags=re.MULTILINE):
    assert gin.query_parameter(f"{macro}/gin.macro.value")
  assert importlib.util.find_spec("xqg_jax")
