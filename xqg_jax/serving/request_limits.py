"""Limits of HTTP requests: size, time, host.

An ASGI application around another one. It reads a request's body before the
application sees it, and puts security headers on every answer.
"""

import asyncio
import dataclasses
import json
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
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
# A client that is still sending does not read the answer.
_MAX_DISCARDED = 4 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """Bounds on requests.

  Attributes:
    body_bytes: the largest body.
    body_seconds: the longest time that a body may take to arrive.
    hosts: names that requests may be for, as starlette's `allowed_hosts`;
      empty: any. A page elsewhere cannot then reach the server through a name
      of its own that points here.
  """

  body_bytes: int = 16_384
  body_seconds: float = 10.0
  hosts: tuple[str, ...] = LOOPBACK_HOSTS


class _Refused(Exception):
  def __init__(self, status: int, error: str):
    super().__init__(error)
    self.status, self.error = status, error


class RequestLimits:
  """Keeps an application from requests beyond the limits."""

  def __init__(self, app: App, limits: Limits):
    """Wraps `app`."""
    self._app = app
    self._limits = limits

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
      body = await self._read_body(receive)
    except _Refused as refused:
      await _send_error(send_safely, refused)
      return
    await self._app(scope, _replay(body, receive), send_safely)

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
  }
  await send(
    {
      "type": "http.response.start",
      "status": refused.status,
      "headers": _encode_headers(headers),
    }
  )
  await send({"type": "http.response.body", "body": body})
