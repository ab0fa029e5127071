"""The search page's HTTP application: the page, its files, and a JSON API."""

import asyncio
import contextlib
import pathlib
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Annotated, Any

import fastapi
import pydantic
import uvicorn
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from xqg_jax.augmentation.language_means import (
  MAX_STRENGTH,
)
from xqg_jax.data.languages import get_language
from xqg_jax.errors import InputError, NativeError
from xqg_jax.serving.questions import MAX_QUESTION_LENGTH, check_question
from xqg_jax.serving.request_limits import Limits, RequestLimits
from xqg_jax.serving.service import SearchRequest
from xqg_jax.serving.worker import Busy, QuestionWorker

MAX_HITS = 100
_PAGE_FILES = {
  "/": ("page.html", "text/html"),
  "/page.css": ("page.css", "text/css"),
  "/page.js": ("page.js", "text/javascript"),
}


# ------------------------------------------------------------------- the form


class _Strict(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(extra="forbid", strict=True)


def _check_language(code: str | None) -> str | None:
  return None if code is None else get_language(code).code


class Question(_Strict):
  """What is asked."""

  question: Annotated[
    str,
    pydantic.Field(min_length=1, max_length=MAX_QUESTION_LENGTH),
    pydantic.AfterValidator(check_question),
  ]
  alpha: Annotated[
    float | None,
    pydantic.Field(ge=0, le=1, description="The view's own when absent."),
  ] = None
  k: Annotated[
    int, pydantic.Field(ge=1, le=MAX_HITS, description="Hits of a variant.")
  ] = 10
  center: Annotated[
    float | None,
    pydantic.Field(
      ge=0,
      le=MAX_STRENGTH,
      description="How much of its language's mean the question loses; the "
      "server's own when absent.",
    ),
  ] = None
  language: Annotated[
    str | None,
    pydantic.Field(
      max_length=3,
      description="Code of the question's language; identified when absent.",
    ),
    pydantic.AfterValidator(_check_language),
  ] = None


class HitAnswer(_Strict):
  """One hit: (1 - alpha) (passage_score - mean_score) + alpha query_score.

  The scores are those of the centred question, if it is centred.
  """

  passage_id: str
  score: float
  passage_score: float
  query_score: float | None


class PassageAnswer(_Strict):
  """A passage's texts."""

  title: str
  text: str
  queries: dict[str, list[str]]


class Answer(_Strict):
  """Both variants, best first; `augmented` is null without queries.

  `center` is null without means; `language` is the one whose mean the question
  loses, null where that is the mean over all.
  """

  question: str
  alpha: float | None
  center: float | None
  language: str | None
  mean_score: float
  baseline: list[HitAnswer]
  augmented: list[HitAnswer] | None
  passages: dict[str, PassageAnswer]
  is_known: bool
  milliseconds: float


class Description(_Strict):
  """What is searched, and how."""

  num_passages: int
  dim: int
  index_kind: str
  is_exact: bool
  index_fingerprint: str
  encoder_fingerprint: str
  reduction: str | None
  alpha: float | None
  center: float | None
  center_by: str
  languages: list[str]


class Error(_Strict):
  """What went wrong, in one line."""

  error: str


# ------------------------------------------------------------ the application


def make_app(
  worker: QuestionWorker,
  description: Mapping[str, Any],
  *,
  limits: Limits,
  answer_seconds: float,
  version: str,
) -> RequestLimits:
  """Makes the application.

  Args:
    worker: answers `SearchRequest`s.
    description: what `SearchService.describe` returned.
    limits: bounds on requests.
    answer_seconds: the longest that a request waits for its answer.
    version: of the package, as the API's description says it.

  Raises:
    InputError: a file of the page is missing.
  """
  app = fastapi.FastAPI(
    title="xqg serve",
    description="Passages for a question in any language.",
    version=version,
    # Their pages load scripts from another host.
    docs_url=None,
    redoc_url=None,
  )
  _add_page(app)
  _add_error_handlers(app)
  errors: dict[int | str, dict[str, Any]] = {
    code: {"model": Error} for code in (400, 408, 413, 422, 503, 504)
  }

  @app.head("/api/info", include_in_schema=False)
  @app.get("/api/info", response_model=Description)
  async def info() -> JSONResponse:
    return JSONResponse(dict(description))

  @app.post("/api/search", response_model=Answer, responses=errors)
  async def search(asked: Question) -> JSONResponse:
    if asked.center and description["center"] is None:
      raise HTTPException(422, "no means to centre questions by are known here")
    request = SearchRequest(
      asked.question, asked.alpha, asked.k, asked.center, asked.language
    )
    future = asyncio.wrap_future(worker.submit(request))
    async with asyncio.timeout(answer_seconds):
      return JSONResponse(await future)

  app.add_middleware(
    TrustedHostMiddleware,
    allowed_hosts=limits.hosts or ("*",),
    www_redirect=False,
  )
  return RequestLimits(app, limits)


def _add_page(app: fastapi.FastAPI) -> None:
  # Read once: no request names a file.
  for path, (name, media_type) in _PAGE_FILES.items():
    route = _make_page_route(_read_page_file(name), media_type)
    app.add_api_route(
      path, route, methods=["GET", "HEAD"], include_in_schema=False
    )


def _make_page_route(
  content: bytes, media_type: str
) -> Callable[[], Awaitable[fastapi.Response]]:
  async def get() -> fastapi.Response:
    return fastapi.Response(content, media_type=media_type)

  return get


def _read_page_file(name: str) -> bytes:
  path = pathlib.Path(__file__).parent / "page" / name
  try:
    return path.read_bytes()
  except OSError:
    raise InputError(
      "a file of the search page is missing",
      where=path,
      mend="install xqg_jax again",
    ) from None


def _add_error_handlers(app: fastapi.FastAPI) -> None:
  def tell(status: int, describe: Callable[[Any], str]) -> Callable:
    async def handle(_: fastapi.Request, error: Exception) -> JSONResponse:
      headers = {"retry-after": "1"} if status == 503 else None
      return JSONResponse({"error": describe(error)}, status, headers=headers)

    return handle

  async def tell_http(_: fastapi.Request, error: HTTPException) -> JSONResponse:
    answer = {"error": str(error.detail).lower()}
    return JSONResponse(answer, error.status_code, headers=error.headers)

  app.exception_handler(HTTPException)(tell_http)
  for kind, status, describe in (
    (RequestValidationError, 422, _describe_invalid),
    (Busy, 503, lambda _: "too many questions wait; try again"),
    (TimeoutError, 504, lambda _: "the answer took too long"),
    (NativeError, 503, str),
    (Exception, 500, lambda _: "something went wrong here"),
  ):
    app.exception_handler(kind)(tell(status, describe))


def _describe_invalid(error: RequestValidationError) -> str:
  """The first defect, without the input, which may be anything."""
  first = error.errors()[0]
  place = ".".join(str(part) for part in first["loc"][1:])
  return f"{place}: {first['msg']}" if place else first["msg"]


# ----------------------------------------------------------------- the server


class Server(uvicorn.Server):
  """Ends gracefully at SIGINT and SIGTERM, and then returns."""

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    """Unlike uvicorn's own, does not raise the signal again at the end."""
    if threading.current_thread() is not threading.main_thread():
      yield
      return
    previous = {
      number: signal.signal(number, self.handle_exit)
      for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
      yield
    finally:
      for number, handler in previous.items():
        signal.signal(number, handler)


def make_server(app: RequestLimits) -> Server:
  """A server with bounds on headers, connections and idle time."""
  return Server(
    uvicorn.Config(
      app,
      http="h11",
      ws="none",
      lifespan="off",
      loop="asyncio",
      log_level="warning",
      access_log=False,
      server_header=False,
      proxy_headers=False,
      limit_concurrency=256,
      timeout_keep_alive=30,
      timeout_graceful_shutdown=5,
      h11_max_incomplete_event_size=16_384,
    )
  )


def open_socket(host: str, port: int) -> socket.socket:
  """Listens on a port; 0 takes a free one.

  Raises:
    InputError: the port is taken, or not ours to take.
  """
  family = socket.AF_INET6 if ":" in host else socket.AF_INET
  try:
    return socket.create_server((host, port), family=family, backlog=256)
  except (OSError, OverflowError) as error:
    raise InputError(
      f"cannot listen on {host}:{port} ({error})",
      mend="choose another PORT or HOST",
    ) from None
