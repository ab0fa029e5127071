"""Source files of data sets: lookup, download, checksums.

A file in the manual folder is used under its official name, plain or gzipped,
and nothing is then looked up on the network. A download that was cut goes on
where it ended.

SHA-256 sums stand in the code where a source outside this project published
them. For the other files the first successful preparation writes the sum down
beside the prepared data, and later ones are held to it.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import http.client
import io
import pathlib
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Mapping

from xqg_jax.errors import InputError
from xqg_jax.io.paths import Path
from xqg_jax.io.progress import Progress

_BLOCK = 1 << 20
_TIMEOUT_SECONDS = 30
_RANGE_NOT_SATISFIABLE = 416


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFile:
  """One official file.

  Attributes:
    url: where it is published.
    sha256: of its bytes; None where no published sum is known.
    member: the file wanted from it, if it is a zip archive.
  """

  url: str
  sha256: str | None = None
  member: str = ""

  @property
  def name(self) -> str:
    """The official file name."""
    return self.url.rsplit("/", 1)[-1]

  @property
  def accepted_names(self) -> tuple[str, ...]:
    """Names under which it may lie in the manual folder, by preference.

    >>> SourceFile(url="https://host/a.tsv").accepted_names
    ('a.tsv', 'a.tsv.gz')
    >>> SourceFile(url="https://host/a.zip", member="b.json").accepted_names
    ('a.zip', 'b.json', 'b.json.gz')
    """
    if self.member:
      return self.name, self.member, f"{self.member}.gz"
    if self.name.endswith(".gz"):
      return self.name, self.name.removesuffix(".gz")
    return self.name, f"{self.name}.gz"


def find_source(
  source: SourceFile,
  *,
  manual_dir: pathlib.Path | None,
  download_dir: pathlib.Path,
) -> pathlib.Path:
  """The local path of a file, which is downloaded where it must be.

  Args:
    source: the file.
    manual_dir: folder of files that are there already; None downloads.
    download_dir: where downloads go and earlier ones lie.

  Raises:
    InputError: the file is not in the manual folder, or cannot be downloaded;
      the message names file, URL and folder.
  """
  if manual_dir is None:
    path = download_dir / source.name
    if not path.exists():
      download(source.url, path)
    return path
  for name in source.accepted_names:
    if (manual_dir / name).is_file():
      return manual_dir / name
  raise InputError(
    f"there is no {' or '.join(source.accepted_names)}",
    where=manual_dir,
    mend=f"download {source.url} into that folder",
  )


# ------------------------------------------------------------------- download


def download(url: str, path: pathlib.Path) -> None:
  """Downloads a file, going on where an earlier attempt was cut.

  Raises:
    InputError: no connection, an HTTP error, or a connection that was cut.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f"{path.name}.partial")
  try:
    _fetch(url, partial)
  except (OSError, http.client.HTTPException) as error:
    raise InputError(
      f"cannot download {url} ({error})",
      where=path,
      mend="the same command goes on where it ended; without a network put "
      "the file into a folder and name it by MANUAL_DIR",
    ) from None
  partial.replace(path)


def _fetch(url: str, partial: pathlib.Path) -> None:
  start = partial.stat().st_size if partial.exists() else 0
  request = urllib.request.Request(url)
  if start:
    request.add_header("Range", f"bytes={start}-")
  try:
    response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    if start and error.code == _RANGE_NOT_SATISFIABLE:
      return  # cut between the last byte and the renaming
    raise
  with response:
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
      start = 0
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    with open(partial, "ab" if start else "wb") as file:
      _copy(response, file, total=total, start=start, name=partial.stem)
  size = partial.stat().st_size
  if total is not None and size != total:
    raise ConnectionError(f"it ended after {size} of {total} bytes")


def _copy(
  response: http.client.HTTPResponse,
  file: io.BufferedIOBase,
  *,
  total: int | None,
  start: int,
  name: str,
) -> None:
  progress = Progress(
    desc=f"download {name}",
    total=total,
    initial=start,
    unit="B",
    unit_scale=True,
  )
  with progress:
    while block := response.read(_BLOCK):
      file.write(block)
      progress.update(len(block))


# ------------------------------------------------------------------ checksums


def verify_source(
  path: pathlib.Path,
  source: SourceFile,
  *,
  recorded: Mapping[str, str],
  accept_others: bool = False,
) -> str:
  """Compares a file with the published or the recorded sum.

  A gzipped copy of a file that is published plain is compared by its content.

  Args:
    path: the local file.
    source: what it should be.
    recorded: SHA-256 by file name, from earlier preparations.
    accept_others: computes the sum and compares nothing.

  Returns:
    SHA-256 of the local file's bytes.

  Raises:
    InputError: another sum than expected, or a damaged gzip file.
  """
  with open(path, "rb") as file:
    found = _sha256(file, path, total=path.stat().st_size)
  if accept_others:
    return found
  if path.name == source.name:
    expected, compared = source.sha256, found
  elif source.sha256 and path.name == f"{source.name}.gz":
    expected, compared = source.sha256, _sha256_content(path)
  else:
    expected, compared = None, found
  if expected is None:
    expected, compared = recorded.get(path.name), found
  if expected not in (None, compared):
    raise InputError(
      f"wrong checksum: SHA-256 {compared}, expected {expected}",
      where=path,
      mend=f"remove it and download {source.url} again, or accept other "
      "editions by VERIFY_CHECKSUMS=False",
    )
  return found


def _sha256_content(path: pathlib.Path) -> str:
  with damaged_gzip_as_input_error(path), gzip.open(path, "rb") as file:
    return _sha256(file, path)


def _sha256(
  file: io.BufferedIOBase, path: pathlib.Path, *, total: int | None = None
) -> str:
  digest = hashlib.sha256()
  progress = Progress(
    desc=f"check {path.name}",
    total=total,
    unit="B",
    unit_scale=True,
    delay=2,  # seconds; small files show nothing
    leave=False,
  )
  with progress:
    while block := file.read(_BLOCK):
      digest.update(block)
      progress.update(len(block))
  return digest.hexdigest()


@contextlib.contextmanager
def damaged_gzip_as_input_error(path: Path) -> Iterator[None]:
  """Turns the errors of a cut or damaged gzip file into an `InputError`."""
  try:
    yield
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise InputError(
      f"damaged gzip file ({error})",
      where=path,
      mend="download or write it again",
    ) from None
