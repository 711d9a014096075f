"""Runs the model server: both protocols in one event loop, models in worker threads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import uvicorn
import uvloop

from serving.directory import ModelDirectory
from serving.server.connections import BoundedProtocol, allow_connections
from serving.server.health import HealthService
from serving.server.logs import log_event, start_logging
from serving.server.manager import ModelManager
from serving.server.metrics import ServerMetrics
from serving.server.models import LoadedModel, load_model
from serving.server.request_log import RequestLog
from serving.server.rest import RestInterface
from serving.server.rpc import make_server
from serving.server.service import Service
from serving.server.settings import ServerSettings
from serving.server.warmup import warm_up
from serving.signing import verify

# A thread that computes in Python gives way to the one that answers sockets after this many
# seconds; Python's 5 ms would be most of a request's time.
_SWITCH_SECONDS = 0.0005
_KEEP_ALIVE_SECONDS = 75


def serve(settings: ServerSettings) -> None:
    """Serves until SIGTERM or SIGINT, and then until the requests that came before are answered.

    Args:
      settings: How.

    Raises:
      OSError: If a port or a file cannot be had.
      RequestLogError: If another server writes to the request log's folder.
    """
    start_logging()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.freeze()  # What is imported stays; to look for garbage in it takes a second each time.
    uvloop.run(_serve(settings))


async def _serve(settings: ServerSettings) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    metrics = ServerMetrics()
    health = HealthService()

    def on_change(name: str, available: bool) -> None:
        loop.call_soon_threadsafe(health.set, name, available)

    manager = ModelManager(
        settings.serving_dir,
        settings.models,
        lambda directory, version: _load(settings, directory, version),
        metrics,
        on_change,
    )
    request_log = None
    if settings.request_log:
        request_log = RequestLog(settings.request_log, settings.request_log_sampling, metrics)
    service = Service(
        manager,
        metrics,
        workers=settings.workers,
        max_queue=settings.max_queue,
        request_memory=settings.request_memory,
        deadline_seconds=settings.deadline_seconds,
        access_log=settings.access_log,
        request_log=request_log,
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
        token=settings.token,
    )
    grpc_port = _listen(rpc, settings)
    rest = RestInterface(
        service,
        max_bytes=settings.max_request_bytes,
        max_rows=settings.max_rows,
        deadline_seconds=settings.deadline_seconds,
        token=settings.token,
    )
    rest_socket = _bind(settings.host, settings.rest_port)
    web = _WebServer(
        uvicorn.Config(
            rest.make_app(),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            http=BoundedProtocol,
            ws="none",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(settings.deadline_seconds) + 1,
            ssl_certfile=settings.tls_certificate or None,
            ssl_keyfile=settings.tls_key or None,
        )
    )
    await rpc.start()
    web_task = asyncio.create_task(web.serve([rest_socket]))
    log_event(
        "listening",
        host=settings.host,
        grpc_port=grpc_port,
        rest_port=rest_socket.getsockname()[1],
        tls=bool(settings.tls_certificate),
    )
    manager.start(settings.poll_seconds)
    await asyncio.wait(
        [web_task, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED
    )
    log_event("stopping")
    manager.stop()
    health.stop()
    web.should_exit = True
    await asyncio.gather(web_task, rpc.stop(settings.deadline_seconds))
    service.close()
    if request_log is not None:
        await asyncio.to_thread(request_log.close)
    log_event("stopped")


def _load(settings: ServerSettings, directory: ModelDirectory, version: int) -> LoadedModel:
    """Verifies, loads and warms a version."""
    folder = directory.version_uri(version)
    if settings.public_key is not None:
        verify(folder, directory.signature_uri(version), settings.public_key)
    model = load_model(folder, prefer_tflite=settings.prefer_tflite, concurrency=settings.workers)
    answered = warm_up(model, folder)
    log_event(
        "loaded",
        model=directory.model_name,
        version=version,
        form=type(model).__name__,
        verified=settings.public_key is not None,
        warmup_requests=answered,
    )
    return model


class _WebServer(uvicorn.Server):
    """Leaves the signals to the event loop, which stops both protocols."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise OSError(f"{host}:{port} cannot be listened on: {error.strerror}") from error
    return listener


def _listen(server: grpc.aio.Server, settings: ServerSettings) -> int:
    """Gives the gRPC server its port, and returns its number."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    _bind(settings.host, settings.grpc_port).close()  # It says what is wrong, and gRPC does not.
    try:
        if settings.tls_certificate:
            pair = _read_certificate(settings)
            return server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"{address} cannot be listened on: is it in use?") from error


def _read_certificate(settings: ServerSettings) -> tuple[bytes, bytes]:
    """The private key and the certificate of the server, which belong together."""
    key, certificate = Path(settings.tls_key), Path(settings.tls_certificate)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:
        raise OSError(
            f"{certificate} and {key} are no certificate with its key: {error}"
        ) from error
    return key.read_bytes(), certificate.read_bytes()
