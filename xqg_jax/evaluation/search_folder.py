"""The files that `search` writes: run, question vectors, manifest."""

import os

from xqg_jax.errors import InputError
from xqg_jax.io.paths import Path, to_path

FORMAT_VERSION = 1
RUN_FILE = "run.trec"
EMBEDDINGS_KEY = "question_embeddings"
EMBEDDINGS_FILE = f"{EMBEDDINGS_KEY}.npy"
RUN_KEY = "run"


def find_run_file(path: str | os.PathLike) -> Path:
  """The file that holds the ranking: in a search folder, its `run.trec`.

  Raises:
    InputError: nothing there.
  """
  path = to_path(path)
  file = path / RUN_FILE if path.is_dir() else path
  if not file.is_file():
    raise InputError(
      "no such run", where=file, mend="give a search folder or a run file"
    )
  return file
