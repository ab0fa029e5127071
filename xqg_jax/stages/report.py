"""Stage `report`: evaluations as one HTML page."""

import os
from collections.abc import Sequence

from xqg_jax.errors import InputError
from xqg_jax.evaluation.report.page import render_page
from xqg_jax.evaluation.results import load_evaluation
from xqg_jax.io.claims import MANIFEST_FILE, claim_output_dir, lock_folder
from xqg_jax.io.files import sha256_file, write_json, write_text
from xqg_jax.io.paths import Path
from xqg_jax.stages import STAGES

REPORT_FILE = "report.html"


def report(
  *,
  evaluations: Sequence[str | os.PathLike],
  output_dir: str | os.PathLike,
  model_dirs: Sequence[str | os.PathLike] = (),
  generated_queries: str | os.PathLike | None = None,
  title: str = "Retrieval with generated queries",
) -> Path:
  """Writes `report.html`: tables, plots, examples, and where all came from.

  Args:
    evaluations: folders of `evaluate` or `pool`, shown in order.
    output_dir: folder to write.
    model_dirs: folders of trained models, for their loss curves
      (`metrics.jsonl`) and configs.
    generated_queries: the passages' generated queries, to show them beside
      the examples; a file or a folder of shards.
    title: heading of the page.

  Returns:
    The page's path.

  Raises:
    InputError: a folder without a finished evaluation, or a malformed file.
  """
  if not evaluations:
    raise InputError("no evaluations to report", mend="set EVALUATIONS")
  loaded = [load_evaluation(folder) for folder in evaluations]
  page = render_page(
    loaded,
    model_dirs=model_dirs,
    generated_queries=generated_queries,
    title=title,
    road=STAGES,
  )
  folder = claim_output_dir(
    output_dir,
    stage="report",
    arguments={
      "title": title,
      "evaluations": [_identify(e.folder / MANIFEST_FILE) for e in loaded],
      "model_dirs": [str(folder) for folder in model_dirs],
      "generated_queries": generated_queries and str(generated_queries),
    },
  )
  with lock_folder(folder):
    write_text(folder / REPORT_FILE, page)
    sha256 = sha256_file(folder / REPORT_FILE)
    write_json(
      folder / MANIFEST_FILE,
      {"format_version": 1, "stage": "report", "files": {REPORT_FILE: sha256}},
    )
  print(f"report: {folder / REPORT_FILE}")
  return folder / REPORT_FILE


def _identify(path: Path) -> dict[str, str]:
  return {"path": str(path), "sha256": sha256_file(path)}
