"""The verbs of `xqg`, in the order of the road: one file each."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Stage:
  """One verb: the function it runs and one line about it.

  Attributes:
    function: module and name.
    summary: for the help.
    also_takes: verbs whose settings it passes over, so that it can be put in
      the place of theirs in a command.
    spans_processes: whether several processes can do it together.
  """

  function: str
  summary: str
  also_takes: tuple[str, ...] = ()
  spans_processes: bool = False

  def load(self) -> Callable[..., Any]:
    """Imports the stage's function."""
    module, name = self.function.split(":")
    return getattr(importlib.import_module(f"xqg_jax.{module}"), name)


STAGES = {
  "demo": Stage(
    "demo.demo:run_demo", "the whole road on a collection made here"
  ),
  "prepare": Stage("stages.prepare:prepare", "write a collection's files"),
  "plan": Stage(
    "stages.plan:plan",
    "what a step needs on chips not yet rented",
    also_takes=("train", "generate", "encode"),
  ),
  "train": Stage(
    "stages.train:train",
    "train query generator or dual encoder",
    spans_processes=True,
  ),
  "export": Stage("stages.export:export", "write a model for other programs"),
  "generate": Stage(
    "stages.generate:generate",
    "write queries for passages",
    spans_processes=True,
  ),
  "filter": Stage("stages.filter:filter_queries", "remove harmful queries"),
  "encode": Stage(
    "stages.encode:encode",
    "passages and query sums to vectors",
    spans_processes=True,
  ),
  "augment": Stage("stages.augment:augment", "add query sums, as a view"),
  "center": Stage(
    "stages.center:center",
    "the mean question of each language",
    spans_processes=True,
  ),
  "tune-alpha": Stage(
    "stages.tune_alpha:tune_alpha", "choose alpha by dev questions"
  ),
  "store info": Stage("stages.store_info:describe_store", "what a store holds"),
  "store verify": Stage(
    "stages.store_verify:verify_store", "find what is damaged"
  ),
  "store export": Stage(
    "stages.store_export:export_store", "vectors for numpy, parquet or FAISS"
  ),
  "store import": Stage(
    "stages.store_import:import_vectors", "a store of vectors made elsewhere"
  ),
  "store center": Stage(
    "stages.store_center:center_store",
    "passages without their language's offset",
  ),
  "index": Stage("stages.index:build_index", "build a ScaNN or exact index"),
  "update-index": Stage(
    "stages.update_index:update_index", "an index of changed embeddings"
  ),
  "search": Stage(
    "stages.search:search", "find passages for questions", spans_processes=True
  ),
  "mine-negatives": Stage(
    "stages.mine_negatives:mine_negatives", "hard negatives for training pairs"
  ),
  "search --query": Stage(
    "stages.search_query:ask", "print passages for one question"
  ),
  "serve": Stage("stages.serve:serve", "a search page on this machine"),
  "evaluate": Stage("stages.evaluate:evaluate", "score and compare runs"),
  "pool": Stage("stages.pool:pool", "evaluations of several seeds as one"),
  "submit": Stage(
    "stages.submit:submit", "a file for XOR-Retrieve's leaderboard"
  ),
  "report": Stage("stages.report:report", "one HTML page of results"),
}
