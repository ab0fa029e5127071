"""Stage `serve`: a search page and its JSON API.

One thread encodes and searches; requests wait for it in a bounded queue. The
page, the API and their limits need the extra `serve`.
"""

import asyncio
import os
import sys
from types import ModuleType

import xqg_jax
from xqg_jax.augmentation.centering import (
  NOT_CENTERED,
  CenterSettings,
)
from xqg_jax.augmentation.settings import Reduction
from xqg_jax.data.passage_lookup import read_shown_passages
from xqg_jax.errors import InputError
from xqg_jax.io.typed_json import Positive, Share
from xqg_jax.models.dual_encoder.config import DualEncoderConfig
from xqg_jax.serving.live_search import LiveSearch
from xqg_jax.serving.question_encoder import MAX_BATCH
from xqg_jax.serving.request_limits import LOOPBACK_HOSTS, Limits
from xqg_jax.serving.service import SearchService
from xqg_jax.serving.worker import QuestionWorker

MAX_WAITING = 64


def serve(
  *,
  index: str | os.PathLike,
  checkpoint_path: str | os.PathLike,
  passages: str | os.PathLike,
  generated_queries: str | os.PathLike | None = None,
  encoder: DualEncoderConfig | None = None,
  baseline_index: str | os.PathLike | None = None,
  reduction: Reduction = "sum",
  alpha: Share = 0.01,
  centering: CenterSettings = NOT_CENTERED,
  host: str = "127.0.0.1",
  port: Positive = 8000,
  answer_seconds: float = 10.0,
) -> None:
  """Serves the search page until SIGINT or SIGTERM.

  Two vectors a passage are held in memory, and the texts.

  Args:
    index: folder that `index` wrote.
    checkpoint_path: the dual encoder that also encoded the passages.
    passages: the collection, for titles and texts.
    generated_queries: shown under their passages.
    encoder: pooling, prefixes and lengths; the checkpoint's own when absent.
    baseline_index: index of the store as it is; proposes passages for the
      baseline beside a ScaNN index of a view.
    reduction: "sum" or "mean", where the index is not of a view.
    alpha: where the page's slider starts, where the index is not of a view.
    centering: of questions: where the page's second slider starts. Where the
      store or these settings have means, the page has it at any strength.
    host: address to listen on; beyond this machine only if it says so.
    port: port to listen on; 0 takes a free one.
    answer_seconds: the longest that a request waits.

  Raises:
    InputError: the extra `serve` is missing, a bad setting, an index of
      another encoder or store or with changed files, or a port that is taken.
    ScannError: ScaNN failed or crashed.
  """
  app_module = _import_app()
  if not 0 < answer_seconds < float("inf"):
    raise InputError(
      f"answer_seconds is {answer_seconds}", mend="use more than 0"
    )
  limits = Limits(hosts=LOOPBACK_HOSTS if _is_loopback(host) else ())
  with (
    app_module.open_socket(host, port) as listener,
    LiveSearch(
      index=index,
      checkpoint_path=checkpoint_path,
      encoder=encoder,
      baseline_index=baseline_index,
      reduction=reduction,
      alpha=alpha,
      centering=centering,
    ) as live,
  ):
    shown = read_shown_passages(
      live.passage_ids, passages=passages, generated_queries=generated_queries
    )
    service = SearchService(live, shown)
    with QuestionWorker(
      service.answer_batch, max_batch=MAX_BATCH, max_waiting=MAX_WAITING
    ) as worker:
      app = app_module.make_app(
        worker,
        service.describe(),
        limits=limits,
        answer_seconds=answer_seconds,
        version=xqg_jax.__version__,
      )
      _announce(host, listener.getsockname()[1])
      server = app_module.make_server(app)
      asyncio.run(server.serve(sockets=[listener]))


def _import_app() -> ModuleType:
  try:
    from xqg_jax.serving import app as serving_app
  except ModuleNotFoundError as error:
    if error.name not in ("fastapi", "pydantic", "starlette", "uvicorn"):
      raise
    raise InputError(
      f"the search page needs {error.name}, which is not installed",
      mend="pip install 'xqg_jax[serve]'",
    ) from None
  return serving_app


def _name_host(host: str) -> str:
  """As it stands in a URL."""
  return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
  return _name_host(host) in LOOPBACK_HOSTS


def _announce(host: str, port: int) -> None:
  name = _name_host(host)
  print(f"xqg serve: http://{name}:{port}/", file=sys.stderr, flush=True)
  if not _is_loopback(host):
    print(
      "xqg serve: this address can be reached from other machines, and there "
      "is no password",
      file=sys.stderr,
      flush=True,
    )
