"""Bounds of connections: how many there are, and what the clients of HTTP may send in a head."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
from typing import ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# File descriptors for all but connections: models, files that are looked at, logs, pipes.
_OTHER_FILES = 128

# Time for both sides to shake hands, of either protocol.
HANDSHAKE_SECONDS = 10

_LONGEST_HEAD = 64 << 10
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b"Connection: close\r\nContent-Length: 37\r\n\r\n"
    b'{"error": "too many connections now"}'
)


def allow_connections(wanted: int) -> int:
    """Raises the process's limit of files to what two ports need.

    Args:
      wanted: Connections to allow on each of them.

    Returns:
      As many as the system allows, at most `wanted`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        soft = needed
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, (soft - _OTHER_FILES) // 2))


class BoundedProtocol(HttpToolsProtocol):
    """Bounds the head of a request, its first line and headers; the body is the application's.

    A head has as much time as uvicorn gives an idle connection (`timeout_keep_alive`), and so has
    the rest of a body that got its response before all of it came.

    Attributes:
      max_connections: Most connections at a time, those of this class together.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _in_head = True
    _heads = 0
    _head_bytes = 0
    max_connections = 1000

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.write(_TOO_MANY)
            transport.close()
            return
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        in_head, heads = self._in_head, self._heads
        if in_head:
            if self._head_bytes > _LONGEST_HEAD:
                self.send_400_response("The first line and the headers are too large.")
                return
            self._start_timer()
        super().data_received(data)
        if in_head and self._heads == heads:  # There was nothing in it but head.
            self._head_bytes += len(data)

    def on_headers_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._in_head, self._heads, self._head_bytes = False, self._heads + 1, 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """See `uvicorn.protocols.http.httptools_impl.HttpToolsProtocol`."""
        super().on_response_complete()
        if not self._in_head and self.cycle.response_complete:
            self._start_timer()

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.timeout_keep_alive, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class TlsHandshake(asyncio.Protocol):
    """A connection until both sides have shaken hands; then a `BoundedProtocol` takes it over.

    It is counted like any other connection, and has `HANDSHAKE_SECONDS`. An event loop's own server
    with TLS tells nobody of a connection before its handshake is done.

    Args:
      protocol: What takes the connection over.
      context: Certificate and key.
    """

    _shaking_hands: ClassVar[set[TlsHandshake]] = set()

    def __init__(self, protocol: BoundedProtocol, context: ssl.SSLContext):
        self._protocol = protocol
        self._context = context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        transport = cast(asyncio.Transport, transport)
        connections = len(self._shaking_hands) + len(self._protocol.connections)
        if connections < self._protocol.max_connections:
            # A transport that is there begins to read before `start_tls` can: it is given up, and
            # a copy of its descriptor becomes one that has TLS from its first byte on.
            with contextlib.suppress(OSError):  # The process may have no descriptor left.
                copy = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
                copy.setblocking(False)
                self._shaking_hands.add(self)
                self._task = self._protocol.loop.create_task(self._shake_hands(copy))
        transport.abort()

    async def _shake_hands(self, connection: socket.socket) -> None:
        try:
            await self._protocol.loop.connect_accepted_socket(
                lambda: self._protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except OSError:  # Also what TLS says, and that it took too long.
            connection.close()
        finally:
            self._shaking_hands.discard(self)
