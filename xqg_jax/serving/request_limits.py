"""Limits of HTTP requests: size, time, rate, host.

An ASGI application around another one. It reads a request's body before the
application sees it, and puts security headers on every answer.
"""

import asyncio
import dataclasses
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SECURITY_HEADERS = {
  # Scripts and styles are files of their own: nothing inline is ever run.
  "content-security-policy": (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
  ),
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "cache-control": "no-store",
}
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
# A client that is still sending does not read the answer.
_MAX_DISCARDED = 4 << 20
_MAX_CLIENTS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """Bounds on requests.

  Attributes:
    body_bytes: the largest body.
    body_seconds: the longest time that a body may take to arrive.
    requests_per_second: of one client, over some time.
    burst: of one client, at once.
    hosts: names that requests may be for; empty: any. A page elsewhere cannot
      then reach the server through a name of its own that points here.
  """

  body_bytes: int = 16_384
  body_seconds: float = 10.0
  requests_per_second: float = 50.0
  burst: int = 100
  hosts: tuple[str, ...] = LOOPBACK_NAMES


class RateLimiter:
  """A bucket of tokens for each client; those not seen for longest go first.

  >>> limiter = RateLimiter(rate=1.0, burst=2)
  >>> [limiter.wait_seconds("a", now) for now in (0.0, 0.0, 0.5, 1.0)]
  [0.0, 0.0, 0.5, 0.0]
  """

  def __init__(self, *, rate: float, burst: int):
    """Starts with full buckets."""
    self._rate = rate
    self._burst = burst
    self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

  def wait_seconds(self, client: str, now: float) -> float:
    """0 if the client may go on; else how long it has to wait."""
    tokens, then = self._buckets.pop(client, (float(self._burst), now))
    tokens = min(self._burst, tokens + (now - then) * self._rate)
    is_allowed = tokens >= 1
    self._buckets[client] = (tokens - 1 if is_allowed else tokens, now)
    if len(self._buckets) > _MAX_CLIENTS:
      self._buckets.popitem(last=False)
    return 0.0 if is_allowed else (1 - tokens) / self._rate


class _Refused(Exception):
  def __init__(self, status: int, error: str, **headers: str):
    super().__init__(error)
    self.status, self.error, self.headers = status, error, headers


def read_host_name(header: str) -> str:
  """The name in a Host header, without port and brackets.

  >>> read_host_name("localhost:8000"), read_host_name("[::1]:8000")
  ('localhost', '::1')
  """
  if header.startswith("["):
    return header[1:].partition("]")[0]
  return header.partition(":")[0].lower()


class RequestLimits:
  """Keeps an application from requests beyond the limits."""

  def __init__(self, app: App, limits: Limits):
    """Wraps `app`."""
    self._app = app
    self._limits = limits
    self._limiter = RateLimiter(
      rate=limits.requests_per_second, burst=limits.burst
    )

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers one request, or has it answered."""
    if scope["type"] != "http":
      return

    async def send_safely(message: MutableMapping[str, Any]) -> None:
      if message["type"] == "http.response.start":
        message["headers"] = [
          *message.get("headers", ()),
          *_encode_headers(SECURITY_HEADERS),
        ]
      await send(message)

    try:
      self._check(scope)
      body = await self._read_body(receive)
    except _Refused as refused:
      await _send_error(send_safely, refused)
      return
    await self._app(scope, _replay(body, receive), send_safely)

  def _check(self, scope: Scope) -> None:
    headers = dict(scope["headers"])
    host = read_host_name(headers.get(b"host", b"").decode("latin-1"))
    if self._limits.hosts and host not in self._limits.hosts:
      raise _Refused(421, "this server has another name")
    client = (scope.get("client") or ("unknown",))[0]
    wait = self._limiter.wait_seconds(client, time.monotonic())
    if wait:
      raise _Refused(
        429,
        f"too many requests; wait {wait:.2f} s",
        **{"retry-after": str(int(wait) + 1)},
      )

  async def _read_body(self, receive: Receive) -> bytes:
    """Reads the body whole.

    Raises:
      _Refused: it is too large, or takes too long.
    """
    limit = self._limits.body_bytes
    body, num_bytes = bytearray(), 0
    try:
      async with asyncio.timeout(self._limits.body_seconds):
        while True:
          message = await receive()
          if message["type"] == "http.disconnect":
            raise _Refused(400, "the request is incomplete")
          num_bytes += len(message.get("body", b""))
          if num_bytes <= limit:
            body += message.get("body", b"")
          is_last = not message.get("more_body", False)
          if is_last or num_bytes > _MAX_DISCARDED:
            break
    except TimeoutError:
      raise _Refused(408, "the request took too long to arrive") from None
    if num_bytes > limit:
      raise _Refused(413, f"the request is larger than {limit:,} bytes")
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
  """Gives a body that was read already, then what comes after it."""
  parts = [{"type": "http.request", "body": body, "more_body": False}]

  async def receive_again() -> MutableMapping[str, Any]:
    return parts.pop() if parts else await receive()

  return receive_again


def _encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
  return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _send_error(send: Send, refused: _Refused) -> None:
  body = json.dumps({"error": refused.error}).encode()
  headers = {
    "content-type": "application/json",
    "content-length": str(len(body)),
    **refused.headers,
  }
  await send(
    {
      "type": "http.response.start",
      "status": refused.status,
      "headers": _encode_headers(headers),
    }
  )
  await send({"type": "http.response.body", "body": body})
