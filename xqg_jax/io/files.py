"""Atomic writes, checksums, and readers of JSON and compressed text."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any, BinaryIO

import numpy as np

from xqg_jax.errors import InputError
from xqg_jax.io.buckets import BucketPath
from xqg_jax.io.paths import Path, to_path
from xqg_jax.io.typed_json import decode_json

# Read once, before there are threads: it can only be read by setting it.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


def find_cache_folder() -> pathlib.Path:
  """Where copies and compiled programs are kept from one run to the next."""
  home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(home).expanduser() / "xqg_jax"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary sibling of `path` that becomes `path` on success.

  The file or folder written to the yielded name is renamed when the block
  ends and removed when it raises, so a reader never sees half of it. For a
  bucket it is a local one, copied there when the block ends: each file whole
  or not at all, `manifest.json` the last of a folder.
  """
  path = to_path(path)
  if isinstance(path, BucketPath):
    with tempfile.TemporaryDirectory() as folder:
      local = pathlib.Path(folder, path.name)
      yield local
      path.upload(local)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = partial_path(path)
  _remove(partial)
  try:
    yield partial
    _allow_as_usual(partial)
    partial.replace(path)
  finally:
    _remove(partial)


def _allow_as_usual(path: pathlib.Path) -> None:
  """Gives a file the rights that the umask leaves, which libraries narrow."""
  usual = 0o666 & ~_UMASK
  if path.is_file() and usual & ~path.stat().st_mode:
    with contextlib.suppress(OSError):  # a file system without rights
      path.chmod(usual)


def partial_path(path: pathlib.Path) -> pathlib.Path:
  """Where a file or folder is written before it has its name.

  >>> partial_path(pathlib.Path("run.json")).name
  '.run.json.partial'
  """
  return path.with_name(f".{path.name}.partial")


def _remove(path: pathlib.Path) -> None:
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes UTF-8 text atomically."""
  with atomic_path(path) as partial:
    partial.write_text(text, encoding="utf-8")


def write_array(path: str | os.PathLike, array: np.ndarray) -> None:
  """Writes a `.npy` file atomically."""
  with atomic_path(path) as partial, partial.open("wb") as file:
    np.lib.format.write_array(file, array, allow_pickle=False)


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The arrays of an `.npz` file, by name."""
  content = io.BytesIO(to_path(path).read_bytes())
  with np.load(content, allow_pickle=False) as arrays:
    return dict(arrays)


def write_lines(path: str | os.PathLike, lines: Iterable[str]) -> None:
  """Writes text atomically, each line with its end."""
  write_text(path, "".join(f"{line}\n" for line in lines))


def write_rows(file: BinaryIO, blocks: Iterable[np.ndarray]) -> None:
  """Writes blocks of vectors, in order, as little-endian float32."""
  for vectors in blocks:
    file.write(np.ascontiguousarray(vectors, "<f4").data)


def write_npy(
  file: BinaryIO, blocks: Iterable[np.ndarray], *, shape: tuple[int, int]
) -> None:
  """Writes blocks of vectors, in order, as one float32 .npy file.

  Not by a memory map: a full disk would end the process without a word.
  """
  header = {"descr": "<f4", "fortran_order": False, "shape": shape}
  np.lib.format.write_array_header_1_0(file, header)
  write_rows(file, blocks)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes JSON atomically, keys in the order given, two-space indent."""
  write_text(path, format_json(value))


def format_json(value: Any) -> str:
  """JSON as the package writes it: two-space indent, no NaN."""
  text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
  return text + "\n"


def read_json(path: str | os.PathLike, schema: Any = object) -> Any:
  """Reads a JSON file that has a declared schema.

  Raises:
    InputError: the file is missing, is not JSON, or does not fit the schema.
  """
  try:
    content = to_path(path).read_bytes()
  except FileNotFoundError:
    raise InputError(
      "no such file", where=path, mend="check the path"
    ) from None
  return decode_json(content, schema, where=path)


def parse_json(content: str | bytes, *, where: object, mend: str) -> Any:
  """Parses a JSON text; a byte order mark before it is passed over.

  Raises:
    InputError: it is not JSON, or has more brackets within brackets or more
      digits in a number than Python takes.
  """
  try:
    if isinstance(content, bytes):
      content = content.decode("utf-8-sig")
    return json.loads(content)
  except json.JSONDecodeError as error:
    place = f"line {error.lineno}, " if "\n" in error.doc.strip() else ""
    what = f"not valid JSON ({error.msg} at {place}column {error.colno})"
  except UnicodeDecodeError as error:
    what = f"not UTF-8 ({error.reason} at byte {error.start})"
  except RecursionError:
    what = "not valid JSON (brackets are nested too deep)"
  except ValueError:  # of int, which converts no more than 4,300 digits
    what = "not valid JSON (a number has too many digits)"
  raise InputError(what, where=where, mend=mend)


def read_lines(
  path: str | os.PathLike, *, ends: str = "\r\n"
) -> Iterator[tuple[str, str]]:
  """Yields (`file:line` for messages, line without its end) of a text file.

  Files whose name ends in `.gz` are decompressed. A byte order mark at the
  beginning is passed over.

  Args:
    path: the file.
    ends: characters that are stripped from the ends of lines.

  Raises:
    InputError: the file is missing, is not UTF-8, or is a cut-off gzip file.
  """
  path = to_path(path)
  where, number = str(path), 0
  try:
    with open_text(path) as file:
      for number, line in enumerate(file, start=1):
        where = f"{path}:{number}"
        yield where, line.rstrip(ends)
  except (FileNotFoundError, IsADirectoryError):
    raise InputError(
      "no such file", where=path, mend="check the path"
    ) from None
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise InputError(
      f"damaged gzip file ({error}) after line {number}",
      where=path,
      mend="download or write it again",
    ) from None
  except UnicodeDecodeError as error:
    raise InputError(
      f"not UTF-8 ({error.reason}) after line {number}",
      where=path,
      mend="convert the file to UTF-8",
    ) from None


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
  """Opens UTF-8 text, decompressed if the name ends in `.gz`.

  A byte order mark at its beginning is left out.
  """
  with path.open("rb") as raw, contextlib.ExitStack() as stack:
    file = raw
    if path.suffix == ".gz":
      file = stack.enter_context(gzip.open(raw))
    yield stack.enter_context(
      io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n")
    )


def sha256_file(path: str | os.PathLike) -> str:
  """SHA-256 of a file's bytes, in hexadecimal."""
  opened: Any = to_path(path).open("rb")
  with opened as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(
  path: str | os.PathLike,
  sha256: str,
  *,
  mend: str = "run the same command again to mend it",
) -> None:
  """Compares a file with its SHA-256.

  Raises:
    InputError: it is missing or differs; `mend` says what helps.
  """
  try:
    found = sha256_file(path)
  except (FileNotFoundError, IsADirectoryError):
    raise InputError("is missing", where=path, mend=mend) from None
  if found != sha256:
    raise InputError("differs from its checksum", where=path, mend=mend)


def describe_files(paths: Iterable[str | os.PathLike]) -> list[dict[str, str]]:
  """Names and checksums of input files.

  Raises:
    InputError: a file is missing.
  """
  described = []
  for path in map(to_path, paths):
    if not path.is_file():
      raise InputError("no such file", where=path, mend="check the path")
    described.append({"name": path.name, "sha256": sha256_file(path)})
  return described


def fingerprint(value: Any) -> str:
  """SHA-256 of a JSON-able value, independent of the order of keys.

  >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
  True
  """
  text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
  return hashlib.sha256(text.encode()).hexdigest()


def import_pyarrow() -> tuple:
  """The modules `pyarrow` and `pyarrow.parquet`.

  Raises:
    InputError: they are not installed.
  """
  try:
    import pyarrow
    import pyarrow.parquet
  except ImportError:
    raise InputError(
      "parquet needs pyarrow", mend="pip install 'xqg_jax[parquet]'"
    ) from None
  return pyarrow, pyarrow.parquet
