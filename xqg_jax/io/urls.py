"""URLs among paths: told apart and taken apart."""

import re

from xqg_jax.errors import InputError

# One slash suffices: `gs:/bucket` is a URL that some program has shortened,
# and would else become a local folder named `gs:`.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)(.*)", re.DOTALL)


def is_url(path: object) -> bool:
  """Whether a path says by which protocol it is reached.

  >>> is_url("gs://t5-data/pretrained_models"), is_url("/data/mt5")
  (True, False)
  """
  return _URL.match(str(path)) is not None


def split_url(path: object) -> tuple[str, str]:
  """The scheme of a URL and what follows it.

  >>> split_url("gs://models/mt5/")
  ('gs', 'models/mt5/')

  Raises:
    InputError: there is one slash where a URL has two.
  """
  match = _URL.fullmatch(str(path))
  if match is None or not match[2]:
    raise InputError(
      "a URL has two slashes after its scheme",
      where=path,
      mend="write gs://..., or ./... for a folder with that name",
    )
  return match[1].lower(), match[3]
