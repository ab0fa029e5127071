"""The cache of compiled programs: in time, movable, one a processor."""

import os
import subprocess
import sys

from xqg_jax.cli.process import keep_compiled_programs

SCRIPT = """
import sys
from xqg_jax.cli.process import keep_compiled_programs
assert keep_compiled_programs()
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(jax.jit(lambda x: x @ x + 1)(jax.numpy.eye(3)).sum())
"""


def test_programs_are_kept_and_found_again(tmp_path):
  env = {k: v for k, v in os.environ.items() if "CACHE_DIR" not in k}
  env["XDG_CACHE_HOME"] = str(tmp_path)
  for _ in range(2):
    done = subprocess.run(
      [sys.executable, "-c", SCRIPT],
      env=env,
      capture_output=True,
      text=True,
      check=True,
    )
    assert done.stdout == "12.0\n"
    assert "error" not in done.stderr.lower()
    (folder,) = (tmp_path / "xqg_jax").iterdir()
    files = sorted(p.name for p in folder.rglob("*-cache"))
    assert files


def test_too_late_once_jax_is_loaded(monkeypatch):
  monkeypatch.setitem(sys.modules, "jax", os)
  assert not keep_compiled_programs()
