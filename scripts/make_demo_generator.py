#!/usr/bin/env python3
"""Trains the demo's query generator and puts it into the package.

    python scripts/make_demo_generator.py OUTPUT_DIR

Writes OUTPUT_DIR, then replaces xqg_jax/demo_generator by what was trained,
with the logs of its training (train_log_*.jsonl) beside it.
"""

import pathlib
import shutil
import sys

from xqg_jax.cli.process import keep_freed_memory
from xqg_jax.demo.pretraining import SHIPPED_GENERATOR, pretrain_generator


def main() -> None:
  """Runs the script."""
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  keep_freed_memory()
  exported = pretrain_generator(output_dir=sys.argv[1])
  shutil.rmtree(SHIPPED_GENERATOR, ignore_errors=True)
  shutil.copytree(exported, SHIPPED_GENERATOR)
  for part in ("names", "questions"):
    log = pathlib.Path(sys.argv[1]) / part / "training" / "metrics.jsonl"
    shutil.copy(log, SHIPPED_GENERATOR / f"train_log_{part}.jsonl")


if __name__ == "__main__":
  main()
