"""Runs the model server: both protocols in one event loop, models in worker threads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import uvicorn
import uvloop

from serving.server.authentication import Authenticator
from serving.server.browsers import BrowserRules
from serving.server.connections import BoundedProtocol, TlsHandshake, allow_connections
from serving.server.health import HealthService
from serving.server.loading import load_version
from serving.server.logs import log_event, start_logging
from serving.server.manager import ModelManager
from serving.server.metrics import ServerMetrics
from serving.server.request_log import RequestLog
from serving.server.rest import RestInterface
from serving.server.rpc import make_server
from serving.server.service import Service
from serving.server.settings import ServerSettings
from serving.server.tls import Tls
from storage.encryption_keys import load_keys
from storage.keys import SignatureError
from storage.memory import check_is_memory

# A thread that computes in Python gives way to the one that serves sockets after this many
# seconds; Python's 5 ms would be most of a request's time.
_SWITCH_SECONDS = 0.0005
_KEEP_ALIVE_SECONDS = 75


def serve(settings: ServerSettings) -> None:
    """Serves until SIGTERM or SIGINT, and then until the requests that came before are done.

    The ports are opened when each model that is there is served or refused, as TensorFlow Serving
    does. SIGHUP has tokens, certificates and public keys read again.

    Args:
      settings: The settings.

    Raises:
      OSError: If a port or a file is not available.
      ValueError: If a file of tokens is not one.
      RequestLogError: If another server writes to the request log's folder.
      EncryptionError: If the keys cannot be read, or the folder to decrypt into is on a disk.
    """
    start_logging()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.freeze()  # What is imported stays; to look for garbage in it takes a second each time.
    decrypt_to = None
    if load_keys(settings.encryption_keys):
        decrypt_to = settings.decrypt_to
        if not settings.decrypt_to_disk:
            check_is_memory(decrypt_to)
    uvloop.run(_serve(settings, decrypt_to))


async def _serve(settings: ServerSettings, decrypt_to: str | None) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    metrics = ServerMetrics()
    health = HealthService()

    def on_change(name: str, available: bool) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is over, and a thread still looks.
            loop.call_soon_threadsafe(health.set, name, available)

    authenticator = Authenticator(settings.token_file, settings.tokens_file, metrics)
    tls = None
    if settings.tls_certificate:
        tls = Tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    manager = ModelManager(
        settings.serving_dir,
        settings.models,
        lambda directory, version, given_up: load_version(
            settings, directory, version, given_up, decrypt_to
        ),
        metrics,
        on_change,
        lambda key_id: not settings.trust or settings.trust.find(key_id) is not None,
    )
    loop.add_signal_handler(
        signal.SIGHUP,
        lambda: loop.run_in_executor(None, _reload, settings, authenticator, tls, manager),
    )
    request_log = None
    if settings.request_log:
        request_log = RequestLog(
            settings.request_log,
            settings.request_log_sampling,
            metrics,
            load_keys=lambda: load_keys(settings.encryption_keys),
        )
    service = Service(
        manager,
        metrics,
        workers=settings.workers,
        max_queue=settings.max_queue,
        request_memory=settings.request_memory,
        deadline_seconds=settings.deadline_seconds,
        access_log=settings.access_log,
        request_log=request_log,
        challenger_seconds=settings.challenger_seconds,
        challenger_failures=settings.challenger_failures,
        challenger_queue=settings.challenger_queue,
    )
    max_connections = allow_connections(settings.max_connections)
    if max_connections < settings.max_connections:
        log_event("fewer connections", logging.WARNING, allowed_by_open_files=max_connections)
    BoundedProtocol.max_connections = max_connections
    rpc = make_server(
        service,
        health,
        max_bytes=settings.max_request_bytes,
        max_rows=settings.max_rows,
        max_connections=max_connections,
        authenticator=authenticator,
    )
    rest = RestInterface(
        service,
        max_bytes=settings.max_request_bytes,
        max_rows=settings.max_rows,
        deadline_seconds=settings.deadline_seconds,
        authenticator=authenticator,
        cors_origins=settings.cors_origins,
        rules=BrowserRules.of(settings),
        ui=settings.ui,
    )
    rest_socket = _bind(settings.host, settings.rest_port)
    web = _WebServer(
        uvicorn.Config(
            rest.make_app(),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            http=_protocol(tls),
            ws="none",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(settings.deadline_seconds) + 1,
        )
    )
    _bind(settings.host, settings.grpc_port).close()  # It says what is wrong, and gRPC does not.
    if settings.weakness:
        log_event("insecure", logging.WARNING, reason=settings.weakness)
    manager.start(settings.poll_seconds)
    stopped = asyncio.create_task(stopping.wait())
    await _first(stopped, asyncio.wrap_future(manager.decided))
    if stopping.is_set():
        manager.stop()
    else:
        grpc_port = _listen(rpc, settings, tls)
        await rpc.start()
        rest_socket.listen()  # So that it is true that it listens when the log says so.
        web_task = asyncio.create_task(web.serve([rest_socket]))
        log_event(
            "listening",
            host=settings.host,
            grpc_port=grpc_port,
            rest_port=rest_socket.getsockname()[1],
            tls=tls is not None,
        )
        await _first(stopped, web_task)
        log_event("stopping")
        manager.stop()
        health.stop()
        web.should_exit = True
        await asyncio.gather(web_task, rpc.stop(settings.deadline_seconds))
    service.close()
    if request_log is not None:
        await asyncio.to_thread(request_log.close)
    log_event("stopped")


async def _first(*some: asyncio.Future) -> None:
    await asyncio.wait(some, return_when=asyncio.FIRST_COMPLETED)


_reloading = threading.Lock()


def _reload(
    settings: ServerSettings, authenticator: Authenticator, tls: Tls | None, manager: ModelManager
) -> None:
    """Reads again who may send requests and who may sign; of what cannot be read the old stays."""
    parts: Mapping[str, Callable[[], None] | None] = {
        "tokens": authenticator.reload,
        "tls": tls.reload if tls else None,
        "public keys": settings.trust.reload if settings.trust else None,
    }
    with _reloading:
        for part, reload in parts.items():
            if reload is None:
                continue
            try:
                reload()
            except (OSError, ValueError, SignatureError) as error:
                reason = f"{error}; what was read before still holds"
                log_event("not reloaded", logging.ERROR, part=part, reason=reason)
            else:
                log_event("reloaded", part=part)
        manager.trust_again()


class _WebServer(uvicorn.Server):
    """Leaves the signals to the event loop, which stops both protocols."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _protocol(tls: Tls | None) -> Any:
    """Makes the protocol of each connection to the web server."""
    if tls is None:
        return BoundedProtocol
    context = tls.make_context()
    return lambda **options: TlsHandshake(BoundedProtocol(**options), context)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise OSError(f"{host}:{port} cannot be listened on: {error.strerror}") from error
    return listener


def _listen(server: grpc.aio.Server, settings: ServerSettings, tls: Tls | None) -> int:
    """Gives the gRPC server its port, and returns its number."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    try:
        if tls:
            return server.add_secure_port(address, tls.make_credentials())
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"{address} cannot be listened on: is it in use?") from error
