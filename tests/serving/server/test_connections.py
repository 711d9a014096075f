"""Tests that no client can hold a connection, or fill the memory, with the head of a request."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import uvicorn
import uvloop

from serving.server import connections
from serving.server.connections import BoundedProtocol, TlsHandshake
from tests.serving.server.certificates import make_certificate
from tests.serving.server.running import PATIENCE

Connection: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """Answers with the body of the request."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def refuse(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """Answers without reading the body of the request."""
    length = (b"content-length", b"0")
    await send({"type": "http.response.start", "status": 401, "headers": [length]})
    await send({"type": "http.response.body"})


@asynccontextmanager
async def connection(seconds: int, app: Any = echo) -> AsyncIterator[Connection]:
    """A connection to a server that gives a head so many seconds."""
    config = uvicorn.Config(
        app, http=BoundedProtocol, timeout_keep_alive=seconds, lifespan="off", log_config=None
    )
    config.load()
    server = uvicorn.Server(config)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        lambda: BoundedProtocol(config, server.server_state, {}), "127.0.0.1", 0
    )
    async with listener, asyncio.timeout(PATIENCE):
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        yield reader, writer
        writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert await reader.readexactly(len(body)) == body


@pytest.mark.parametrize("beginning", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX: "])
def test_a_head_that_does_not_come_ends_the_connection(beginning: bytes) -> None:
    async def run() -> None:
        async with connection(seconds=1) as (reader, writer):
            writer.write(beginning)
            assert await reader.read() == b""

    asyncio.run(run())


def test_a_head_that_drips_ends_the_connection() -> None:
    async def run() -> None:
        async with connection(seconds=1) as (reader, writer):
            end = asyncio.ensure_future(reader.read())
            writer.write(b"GET / HTTP/1.1\r\n")
            while not end.done():
                writer.write(b"X: 1\r\n")
                await asyncio.wait([end], timeout=0.1)
            assert end.exception() or end.result() == b""

    asyncio.run(run())


def test_so_does_one_after_a_request_that_was_answered() -> None:
    async def run() -> None:
        async with connection(seconds=1) as (reader, writer):
            await ask(reader, writer, b"body")
            writer.write(b"GET / HT")
            assert await reader.read() == b""

    asyncio.run(run())


@pytest.mark.parametrize("piece", [b"X: %s\r\n" % (1000 * b"x"), 1000 * b"x"])
def test_a_head_without_end_is_refused(piece: bytes) -> None:
    async def run() -> None:
        async with connection(seconds=int(PATIENCE)) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nX: ")
            answer = asyncio.ensure_future(reader.read())
            while not answer.done():
                writer.write(piece)
                await asyncio.sleep(0)
            assert answer.exception() or answer.result().startswith(b"HTTP/1.1 400 ")

    asyncio.run(run())


def test_bodies_have_the_time_and_the_size_that_the_application_gives_them() -> None:
    async def run() -> None:
        async with connection(seconds=1) as (reader, writer):
            for _ in range(3):
                await ask(reader, writer, 300_000 * b"x")
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
            await asyncio.sleep(1.5)
            writer.write(b"ab")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")

    asyncio.run(run())


def test_requests_may_come_one_behind_the_other() -> None:
    async def run() -> None:
        async with connection(seconds=int(PATIENCE)) as (reader, writer):
            one = b"POST / HTTP/1.1\r\nHost: x\r\nX: %s\r\nContent-Length: 1\r\n\r\na" % (
                9000 * b"x"
            )
            writer.write(20 * one)
            for _ in range(20):
                await reader.readuntil(b"\r\n\r\n")
                assert await reader.readexactly(1) == b"a"

    asyncio.run(run())


def test_a_body_that_drips_after_its_refusal_ends_the_connection() -> None:
    async def run() -> None:
        async with connection(seconds=1, app=refuse) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
            end = asyncio.ensure_future(reader.read())
            while not end.done():
                writer.write(b"1\r\nx\r\n")
                await asyncio.sleep(0.05)
            with contextlib.suppress(ConnectionError):
                assert await end == b""

    asyncio.run(run())


def test_a_body_that_comes_after_its_refusal_leaves_the_connection_to_the_next_request() -> None:
    async def run() -> None:
        async with connection(seconds=60, app=refuse) as (reader, writer):
            for _ in range(2):
                writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
                writer.write(b"xx")

    asyncio.run(run())


@asynccontextmanager
async def tls_port(folder: Path) -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    """The port of a server with TLS, and what its clients trust."""
    certificate = make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    config = uvicorn.Config(echo, http=BoundedProtocol, lifespan="off", log_config=None)
    config.load()
    state = uvicorn.Server(config).server_state
    listener = await asyncio.get_running_loop().create_server(
        lambda: TlsHandshake(BoundedProtocol(config, state, {}), context), "127.0.0.1", 0
    )
    async with listener, asyncio.timeout(PATIENCE):
        trusted = ssl.create_default_context(cafile=str(certificate.certificate))
        yield listener.sockets[0].getsockname()[1], trusted


@pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n\r\n"])
def test_tls_handshake_that_does_not_end_ends_connection(
    beginning: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.2)

    async def run() -> None:
        async with tls_port(tmp_path) as (port, trusted):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(beginning)
            with contextlib.suppress(ConnectionError):
                await reader.read()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted)
            await ask(reader, writer, b"still served")
            writer.close()

    uvloop.run(run())


def test_tls_handshakes_count_as_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "max_connections", 2)

    async def run() -> None:
        async with tls_port(tmp_path) as (port, trusted):
            silent = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(2)]
            await asyncio.sleep(0.1)
            with pytest.raises(ConnectionError):
                await asyncio.open_connection("127.0.0.1", port, ssl=trusted)
            silent[0].close()
            await asyncio.sleep(0.1)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted)
            for _ in range(3):
                await ask(reader, writer, 100_000 * b"x")
            with pytest.raises(ConnectionError):
                await asyncio.open_connection("127.0.0.1", port, ssl=trusted)
            for one in (writer, silent[1]):
                one.close()

    uvloop.run(run())
