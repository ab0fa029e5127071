"""Worker process for ScaNN, and its messages over two pipes.

ScaNN is native code that may abort; here it takes down only this process.
`process.py` runs this file as a script, so it imports nothing of the
package. A message is a JSON header and arrays in NumPy's own format, each
behind its length in eight bytes; nothing is ever unpickled.
"""

import io
import json
import os
import pathlib
import struct
import sys
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

# Pipes, files and buffers.
ByteStream = io.BufferedIOBase | IO[bytes]
_LENGTH = struct.Struct("<Q")


# ------------------------------------------------------------------- messages


def write_message(
  stream: ByteStream,
  header: dict[str, Any],
  arrays: Sequence[np.ndarray] = (),
) -> None:
  """Writes a header and arrays to a pipe."""
  frames = [json.dumps({**header, "num_arrays": len(arrays)}).encode()]
  for array in arrays:
    frame = io.BytesIO()
    np.lib.format.write_array(frame, array, allow_pickle=False)
    frames.append(frame.getvalue())
  for frame in frames:
    stream.write(_LENGTH.pack(len(frame)))
    stream.write(frame)
  stream.flush()


def read_message(
  stream: ByteStream,
) -> tuple[dict[str, Any], list[np.ndarray]]:
  """Reads what `write_message` wrote.

  Raises:
    EOFError: the other side is gone.
  """
  header = json.loads(_read_frame(stream))
  frames = [
    io.BytesIO(_read_frame(stream)) for _ in range(header["num_arrays"])
  ]
  return header, [
    np.lib.format.read_array(frame, allow_pickle=False) for frame in frames
  ]


def _read_frame(stream: ByteStream) -> bytes:
  (length,) = _LENGTH.unpack(_read_exactly(stream, _LENGTH.size))
  return _read_exactly(stream, length)


def _read_exactly(stream: ByteStream, length: int) -> bytes:
  content = stream.read(length)
  if len(content) < length:
    raise EOFError("the pipe was closed")
  return content


# ----------------------------------------------------------------- the server


class _Server:
  """Answers requests; each method is one action, named in the header."""

  def __init__(self):
    # Importing scann also imports TensorFlow where that is installed, for an
    # interface not used here: ten seconds, and an abort if versions differ.
    absent: Any = None
    sys.modules["tensorflow"] = absent
    from scann.scann_ops.py import scann_ops_pybind

    self._scann = scann_ops_pybind
    self._searcher: Any = None

  def build(
    self, *, vectors: str, num_neighbors: int, num_threads: int, **parameters
  ) -> None:
    """Builds a searcher from a .npy file of float32 vectors."""
    corpus = np.load(vectors, mmap_mode="r", allow_pickle=False)
    builder = self._scann.builder(corpus, num_neighbors, "dot_product")
    builder.set_n_training_threads(num_threads)
    builder.tree(
      num_leaves=parameters["num_leaves"],
      num_leaves_to_search=parameters["num_leaves_to_search"],
      training_sample_size=parameters["training_sample_size"],
      # Random centres would come from the system's entropy, and no two builds
      # would be alike; k-means++ draws with a fixed seed.
      random_init=False,
    )
    builder.score_ah(
      parameters["dimensions_per_block"],
      anisotropic_quantization_threshold=parameters["anisotropic_threshold"],
      training_sample_size=parameters["training_sample_size"],
    )
    builder.reorder(parameters["num_reordered"])
    self._searcher = builder.build()

  def save(self, *, folder: str) -> None:
    """Writes the searcher's assets into an existing folder."""
    self._searcher.serialize(folder, relative_path=True)

  def load(self, *, folder: str) -> None:
    """Loads assets, none of them pickled: `load_searcher` would unpickle."""
    assets = (pathlib.Path(folder) / "scann_assets.pbtxt").read_text()
    native = self._scann.scann_pybind.ScannNumpy(folder, assets)
    self._searcher = self._scann.ScannSearcher(native)

  def search(
    self,
    queries: np.ndarray,
    *,
    k: int,
    num_leaves_to_search: int,
    num_reordered: int,
  ) -> list[np.ndarray]:
    """Returns rows and scores; unfilled places have a NaN score."""
    rows, scores = self._searcher.search_batched_parallel(
      queries,
      final_num_neighbors=k,
      leaves_to_search=num_leaves_to_search,
      pre_reorder_num_neighbors=num_reordered,
      batch_size=min(256, -(-len(queries) // (os.cpu_count() or 1))),
    )
    return [scores, rows]


def serve(requests: ByteStream, replies: ByteStream) -> None:
  """Answers requests until the pipe is closed."""
  server = None
  while True:
    try:
      header, arrays = read_message(requests)
    except EOFError:
      return
    action = header.pop("action")
    del header["num_arrays"]
    try:
      server = server or _Server()
      answer = getattr(server, action)(*arrays, **header)
      write_message(replies, {}, answer or ())
    except Exception as error:
      reply = {
        "error": f"{type(error).__name__}: {error}",
        "is_import_error": isinstance(error, ImportError),
      }
      write_message(replies, reply)


def main() -> None:
  """Serves on standard input and output; native prints go to stderr."""
  replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
  serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
  main()
