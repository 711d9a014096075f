"""The command `serve`."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import Any, NoReturn

import click

from serving.commands.options import (
    FILE,
    SERVING_DIR,
    decrypt_to_disk_option,
    encryption_keys_option,
    poll_seconds_option,
    public_key_option,
    refusals,
    trust_of,
)
from serving.server.settings import GRPC_PORT, REST_PORT, ServerSettings
from serving.tensorflow_import import import_protocol, import_tensorflow
from storage.keys import KeyFileError
from storage.memory import MEMORY
from storage.private_copy import delete_private_copies
from terminal.imports import silent_imports

_PORT = click.IntRange(0, 65535)
_HOST = re.compile(r"\*|[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?")
_ORIGIN = re.compile(r"\*|https?://[^/\s]+")


@click.command()
@click.argument("serving_dir", default=SERVING_DIR)
@click.option(
    "--model", "models", multiple=True, metavar="NAME", help="A model to serve. Default: all."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--grpc-port", type=_PORT, default=GRPC_PORT, show_default=True, help="0 for any that is free."
)
@click.option(
    "--rest-port", type=_PORT, default=REST_PORT, show_default=True, help="0 for any that is free."
)
@click.option("--prefer-tflite", is_flag=True, help="Serve model.tflite where there is one.")
@public_key_option
@click.option("--no-verify", is_flag=True, help="Serve versions without verifying signatures.")
@poll_seconds_option(1.0)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=2,
    show_default=True,
    help="Number of requests computed at the same time.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(min=0),
    default=2048,
    show_default=True,
    help="Requests that may wait; one more is refused (503).",
)
@click.option(
    "--max-request-mb",
    type=click.FloatRange(min=0.001, max=2047),
    default=16,
    show_default=True,
    help="Largest request, also when it is decompressed and unfolded.",
)
@click.option(
    "--max-rows",
    type=click.IntRange(min=1),
    default=ServerSettings.max_rows,
    show_default=True,
    help="Most rows of a request.",
)
@click.option(
    "--request-memory-mb",
    type=click.FloatRange(min=0.01),
    default=ServerSettings.request_memory >> 20,
    show_default=True,
    help="Memory for all requests together, at least eight times that of the largest.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    default=ServerSettings.max_connections,
    show_default=True,
    help="Most connections at a time to each port.",
)
@click.option(
    "--deadline-seconds",
    type=click.FloatRange(min=0.01),
    default=30,
    show_default=True,
    help="Longest time from a request to its prediction.",
)
@click.option("--token-file", type=FILE, help="File of a bearer token that requests must have.")
@click.option(
    "--tokens",
    "tokens_file",
    type=FILE,
    help="TOML file of several tokens, as SHA-256, each with the models and methods it is for.",
)
@click.option("--tls-certificate", type=FILE, help="Certificate chain, PEM.")
@click.option("--tls-key", type=FILE, help="Its private key, PEM.")
@click.option(
    "--tls-client-ca",
    type=FILE,
    help="Certificates, PEM, of who signs those of clients; clients then need one.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Allow access from other machines without tokens or TLS.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Allow requests of web pages of this origin, such as https://example.org; * for any. "
    "May be given again.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Without tokens and TLS: allow requests that call the server by this name; * for any. "
    "Its addresses, localhost and --host are allowed. May be given again.",
)
@click.option("--no-ui", is_flag=True, help="Show no page at / on which people try the models.")
@click.option(
    "--challenger-seconds",
    type=click.FloatRange(min=0.001),
    default=ServerSettings.challenger_seconds,
    show_default=True,
    help="Longest time for a challenger's prediction; then the champion predicts.",
)
@click.option(
    "--challenger-failures",
    type=click.IntRange(1, 100),
    default=ServerSettings.challenger_failures,
    show_default=True,
    help="A challenger is taken out after so many failures in its last 100 predictions.",
)
@click.option(
    "--challenger-queue",
    type=click.IntRange(min=1),
    default=ServerSettings.challenger_queue,
    show_default=True,
    help="Requests that may wait for a challenger; others get the champion, or no shadow.",
)
@click.option(
    "--request-log", metavar="DIR", default="", help="Log requests and predictions there."
)
@click.option(
    "--request-log-sampling",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of the requests to log.",
)
@encryption_keys_option
@click.option(
    "--decrypt-to",
    default=MEMORY,
    show_default=True,
    metavar="DIR",
    help="Folder in memory for what is decrypted.",
)
@decrypt_to_disk_option
@click.option("--no-access-log", is_flag=True, help="Do not print a line for each request.")
def serve(
    serving_dir: str,
    models: tuple[str, ...],
    public_keys: tuple[str, ...],
    no_verify: bool,
    max_request_mb: float,
    request_memory_mb: float,
    token_file: str | None,
    tokens_file: str | None,
    tls_certificate: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    insecure: bool,
    no_access_log: bool,
    no_ui: bool,
    **settings: Any,
) -> None:
    """Serves models over TensorFlow Serving's gRPC and REST interfaces.
    
    New versions take over once they are loaded; versions that were changed after signing are
    refused. SIGTERM and Ctrl-C stop the server after the current requests; SIGHUP reloads tokens,
    certificates and public keys.

    \b
    Examples:
      python -m serving serve
      python -m serving serve --prefer-tflite --request-log output/requests
      python -m serving serve /data/serving_model --host 0.0.0.0 --token-file token.txt \\
          --tls-certificate server.pem --tls-key server.key
    """
    if not os.path.isdir(serving_dir):
        raise click.UsageError(f"There is no folder {serving_dir}.")
    if no_verify and public_keys:
        raise click.UsageError("--public-key and --no-verify exclude each other.")
    if bool(tls_certificate) != bool(tls_key):
        raise click.UsageError("--tls-certificate and --tls-key belong together.")
    for origin in settings["cors_origins"]:
        if not _ORIGIN.fullmatch(origin):
            raise click.UsageError(
                f"{origin!r} is no origin: https://example.org or *, without a path, is expected."
            )
    for name in settings["allowed_hosts"]:
        if not _HOST.fullmatch(name):
            raise click.UsageError(
                f"{name!r} is no name of a host: models.example.org or *, without scheme, port and "
                "path, is expected."
            )
    if tls_client_ca and not tls_certificate:
        raise click.UsageError("--tls-client-ca needs --tls-certificate and --tls-key.")
    trust = None
    if not no_verify:
        try:
            trust = trust_of(serving_dir, public_keys)
        except KeyFileError as error:
            raise click.UsageError(
                f"There is no public key to verify versions with: {error}. Name it with "
                "--public-key, or serve unverified versions with --no-verify."
            ) from error
    if request_memory_mb < 8 * max_request_mb:
        raise click.UsageError(
            f"--request-memory-mb {request_memory_mb:g} is less than eight times --max-request-mb "
            f"{max_request_mb:g}."
        )
    server_settings = ServerSettings(
        serving_dir=serving_dir,
        models=models,
        trust=trust,
        max_request_bytes=int(max_request_mb * 2**20),
        request_memory=int(request_memory_mb * 2**20),
        token_file=token_file or "",
        tokens_file=tokens_file or "",
        tls_certificate=tls_certificate or "",
        tls_key=tls_key or "",
        tls_client_ca=tls_client_ca or "",
        access_log=not no_access_log,
        ui=not no_ui,
        **settings,
    )
    if server_settings.weakness and not insecure:
        raise click.UsageError(
            f"{server_settings.weakness[:1].upper()}{server_settings.weakness[1:]}: give --tokens "
            "or --token-file, and --tls-certificate with --tls-key; or say --insecure."
        )
    # Before TensorFlow is imported, to silence its messages on the standard error.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent_imports():
        # The request log is written by TensorFlow too.
        if settings["prefer_tflite"] and not settings["request_log"]:
            import_protocol()
        else:
            import_tensorflow()
        from serving.server.app import serve as run_server
        from serving.server.request_log import RequestLogError

    try:
        with refusals(RequestLogError):
            run_server(server_settings)
    except click.ClickException as error:
        error.show()
        _end(error.exit_code)
    _end(0)


def _end(status: int) -> NoReturn:
    """Ends the process while threads may still load or compute.

    Python's own way ends such a thread in the middle of TensorFlow's C++, which aborts the process.
    """
    delete_private_copies()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
