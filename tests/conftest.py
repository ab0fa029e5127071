"""Test set-up: eight fake CPU devices, and the collections beside the clone."""

import os
import pathlib
import tempfile

# Many tests compile the same tiny programs, here and in processes of their own.
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR",
  str(pathlib.Path(tempfile.gettempdir(), f"xqg_jax_programs_{os.getuid()}")),
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import pytest

SHARED = pathlib.Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
  if not SHARED.is_dir():
    pytest.skip(f"needs the reference collections in {SHARED}")
  return SHARED


@pytest.fixture
def manual(tmp_path):
  """A folder for the official files of a data set."""
  folder = tmp_path / "manual"
  folder.mkdir()
  return folder


@pytest.fixture
def run(tmp_path, manual):
  """Prepares a data set from the manual folder."""
  from xqg_jax.stages.prepare import prepare

  def run(dataset, *, output="data", verify_checksums=False, **options):
    return prepare(
      dataset=dataset,
      output_dir=str(tmp_path / output),
      manual_dir=str(manual),
      verify_checksums=verify_checksums,
      **options,
    )

  return run


@pytest.fixture
def quick_compiler():
  """Compiles in half the time what runs for a moment."""
  import jax

  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
