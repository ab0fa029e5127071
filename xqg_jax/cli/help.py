"""Help text of a stage: header of its gin file, function, arguments."""

import inspect

from xqg_jax.cli.config import run_file
from xqg_jax.stages import STAGES


def describe_stage(stage: str) -> str:
  """The help text of a stage: header of its gin file, function, arguments."""
  text = run_file(stage).read_text(encoding="utf-8")
  header = [
    line.removeprefix("#").removeprefix(" ")
    for line in text.splitlines()
    if line.startswith("#")
  ]
  function = STAGES[stage].load()
  return "\n".join(
    (
      f"xqg {stage}: {STAGES[stage].summary}\n",
      *header,
      "",
      f"In Python: xqg_jax.{function.__name__}(...)",
      "",
      inspect.getdoc(function) or "",
    )
  )
