"""The command line of serving: serve models, ask them, and choose which version is live."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import click

from serving.server.settings import GRPC_PORT, REST_PORT, ServerSettings
from storage.directory import ModelDirectory
from storage.encryption_keys import EncryptionError, Keys, add_key, load_keys, require_keys
from storage.keys import KeyFileError, SignatureError, TrustStore, default_trust, short_id
from storage.memory import MEMORY, check_is_memory
from storage.names import TFLITE_MODEL
from storage.private_copy import PrivateCopy, delete_private_copies, private_copy
from storage.protected import read_token
from storage.signing import claimed_key
from storage.signing import sign as sign_version
from storage.uris import exists, file_sizes
from storage.versions import find_models
from terminal.streams import run_command

_SERVING_DIR = "output/serving_model"
_LIVE, _OLDER, _ROLLED_BACK = "live", "older", "rolled back"
_PORT = click.IntRange(0, 65535)
_FILE = click.Path(exists=True, dir_okay=False)
_ORIGIN = re.compile(r"\*|https?://[^/\s]+")

_Command = TypeVar("_Command", bound=Callable[..., None])


@click.group()
def main() -> None:
    """Serves the models of a Serving directory, and looks after their versions.

    \b
    Examples:
      python -m serving serve
      python -m serving versions
      python -m serving rollback

    SERVING_DIR is output/serving_model unless given; a folder whose name is a number is given as
    ./2013. The live version, which a server answers from by default, is always the newest.

    \b
    Exit status:
      0 done    1 refused, or failed    2 wrong usage
    """


def _model_option(command: _Command) -> _Command:
    return click.option(
        "--model", metavar="NAME", help="Name of the model; needed if there are several."
    )(command)


def _public_key_option(command: _Command) -> _Command:
    return click.option(
        "--public-key",
        "public_keys",
        multiple=True,
        metavar="PATH",
        help="Public key of whoever signs, or folder of them (*.pub); may be given again. "
        "Default: the folder keys beside SERVING_DIR.",
    )(command)


_encryption_keys_option = click.option(
    "--encryption-keys",
    default="",
    metavar="FILE",
    help="Keys to decrypt with. Default: the variable FLIGHTDECK_ENCRYPTION_KEYS, if it is set.",
)
_decrypt_to_disk_option = click.option(
    "--decrypt-to-disk", is_flag=True, help="Decrypt also where that is not in memory."
)


def _trust(serving_dir: str, public_keys: tuple[str, ...]) -> TrustStore:
    return TrustStore(public_keys or [default_trust(serving_dir)])


@main.command()
@click.argument("serving_dir", default=_SERVING_DIR)
@_model_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, for programs.")
@click.option("--verify", "verifies", is_flag=True, help="Verify each version, which reads it.")
@_public_key_option
@_encryption_keys_option
def versions(
    serving_dir: str,
    model: str | None,
    as_json: bool,
    verifies: bool,
    public_keys: tuple[str, ...],
    encryption_keys: str,
) -> None:
    """Lists the versions of a model, newest first, with the key that each says it was signed by.

    \b
    Examples:
      python -m serving versions
      python -m serving versions /data/serving_model --model my_model
      python -m serving versions --json --verify
    """
    with _refusals():
        directory = _directory(serving_dir, model)
        rows = _describe(directory)
        if verifies:
            trust, keys = _trust(serving_dir, public_keys), load_keys(encryption_keys)
            for row in rows:
                aside = row["state"] == _ROLLED_BACK
                row["verified"] = _verifies(directory, row["version"], trust, aside, keys)
        ignored, withdrawn = directory.ignored(), directory.withdrawn()
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _print_table(directory, rows)
    if withdrawn:
        click.echo("Nothing is live: the last version was withdrawn.", err=True)
    if ignored:
        click.echo(f"No server can load the folders {', '.join(ignored)}.", err=True)


@main.command()
@click.argument("arguments", nargs=-1, metavar="[SERVING_DIR] [VERSION]")
@click.option("--withdraw", is_flag=True, help="Also the last version: nothing is served then.")
@_model_option
def rollback(arguments: tuple[str, ...], withdraw: bool, model: str | None) -> None:
    """Moves a version aside; nothing is deleted.

    It is the newest unless one is given. Servers fall back to the newest version that is left; the
    last one stays, unless it is to be withdrawn.

    \b
    Examples:
      python -m serving rollback
      python -m serving rollback 1795434497
      python -m serving rollback /data/serving_model --model my_model --withdraw
    """
    serving_dir, chosen = _split(arguments, at_most=1)
    with _refusals():
        change = _directory(serving_dir, model).rollback(*chosen, withdraw=withdraw)
    if change.served is None:
        click.echo(
            f"Withdrew version {change.version}; nothing is live until a version is promoted or "
            "pushed."
        )
        return
    still = "now" if change.version > change.served else "still"
    click.echo(f"Rolled back version {change.version}; live is {still} version {change.served}.")


@main.command()
@click.argument("arguments", nargs=-1, metavar="[SERVING_DIR] [VERSION]")
@_model_option
def promote(arguments: tuple[str, ...], model: str | None) -> None:
    """Brings back a version that was rolled back.

    It is the newest of those unless one is given, and live again only if there is no newer version.

    \b
    Examples:
      python -m serving promote
      python -m serving promote 1795434497
      python -m serving promote /data/serving_model --model my_model
    """
    serving_dir, chosen = _split(arguments, at_most=1)
    with _refusals():
        change = _directory(serving_dir, model).promote(*chosen)
    if change.version == change.served:
        click.echo(f"Promoted version {change.version}; it is live now.")
    else:
        click.echo(
            f"Promoted version {change.version}; live is still version {change.served}, which is "
            "newer: roll that back to have the older one live."
        )


@main.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[SERVING_DIR] VERSION")
@click.option("--label", required=True, help="What clients say for it, such as stable.")
@_model_option
def pin(arguments: tuple[str, ...], label: str, model: str | None) -> None:
    """Gives a version a label.

    Servers answer to the label, and the version is kept when old ones are deleted. A label that
    another version has moves.

    \b
    Examples:
      python -m serving pin 1795434497 --label stable
      python -m serving pin /data/serving_model 1795434497 --label stable
      python -m serving pin 1795434497 --label canary --model my_model
    """
    serving_dir, chosen = _split(arguments, at_most=1)
    if not chosen:
        raise click.UsageError("Missing argument 'VERSION'.")
    (version,) = chosen
    with _refusals():
        directory = _directory(serving_dir, model)
        directory.pin(version, label)
        click.echo(
            f"Version {version} has the label {label}; live is version {directory.served()}."
        )


@main.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[SERVING_DIR] LABEL")
@_model_option
def unpin(arguments: tuple[str, ...], model: str | None) -> None:
    """Takes a label away from the version that has it.

    \b
    Examples:
      python -m serving unpin stable
      python -m serving unpin /data/serving_model stable
      python -m serving unpin canary --model my_model
    """
    *before, label = arguments
    if len(before) > 1:
        raise click.UsageError(f"Got unexpected extra argument ({before[1]})")
    with _refusals():
        directory = _directory(before[0] if before else _SERVING_DIR, model)
        version = directory.unpin(label)
        served = directory.served()
    click.echo(f"Version {version} no longer has the label {label}; live is version {served}.")


@main.command()
@click.argument("arguments", nargs=-1, metavar="[SERVING_DIR] [VERSION ...]")
@_public_key_option
@_encryption_keys_option
@_model_option
def verify(
    arguments: tuple[str, ...],
    public_keys: tuple[str, ...],
    encryption_keys: str,
    model: str | None,
) -> None:
    """Checks that versions are, file by file, what was signed.

    All that a server can load are checked, unless some are given; those may be rolled back.

    \b
    Examples:
      python -m serving verify
      python -m serving verify 1795434497 --public-key keys/signing.pub
      python -m serving verify /data/serving_model --model my_model
    """
    serving_dir, chosen = _split(arguments)
    failed = False
    with _refusals():
        directory = _directory(serving_dir, model)
        trust, keys = _trust(serving_dir, public_keys), load_keys(encryption_keys)
        rolled_back = directory.rolled_back()
        for version in chosen or directory.versions():
            try:
                aside = version in rolled_back
                with _copy_privately(directory, version, trust, aside, keys) as copy:
                    signed = copy.signed
            except (SignatureError, EncryptionError, OSError) as error:
                failed = True
                click.echo(f"version {version}: FAILED, {error}")
            else:
                assert signed is not None
                key = short_id(signed.key_id)
                click.echo(f"version {version}: ok, signed {signed.time} by the key {key}")
    sys.exit(int(failed))


@main.command()
@click.argument("serving_dir")
@click.argument("target")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Default: all models.")
@_public_key_option
@_encryption_keys_option
@_decrypt_to_disk_option
@click.option(
    "--follow", is_flag=True, help="Go on, until SIGTERM, with versions that come and go."
)
@click.option(
    "--poll-seconds",
    type=click.FloatRange(min=0.05),
    default=2.0,
    show_default=True,
    help="Time between two looks for other versions.",
)
def mirror(
    serving_dir: str,
    target: str,
    models: tuple[str, ...],
    public_keys: tuple[str, ...],
    encryption_keys: str,
    decrypt_to_disk: bool,
    follow: bool,
    poll_seconds: float,
) -> None:
    """Copies versions to TARGET, verified and decrypted, for TensorFlow Serving, which checks none.

    TARGET gets the newest version of each model that verifies, and those with a label; what was
    rolled back goes from it. Nobody else should be able to write to it. Where there are keys, it
    must be in memory.

    \b
    Examples:
      python -m serving mirror /serving-directory /models --public-key /keys/signing.pub
      python -m serving mirror /serving-directory /models --public-key /keys --follow
    """
    from serving.mirror import Mirror
    from serving.server.logs import start_logging

    start_logging()
    with _refusals():
        trust = _trust(serving_dir, public_keys)
        os.makedirs(target, exist_ok=True)
        if load_keys(encryption_keys) and not decrypt_to_disk:
            check_is_memory(target)
        copies = Mirror(serving_dir, target, models, trust, lambda: load_keys(encryption_keys))
        if follow:
            copies.follow(poll_seconds)
        elif not copies.look():
            raise SignatureError(f"{target} lacks {'; '.join(copies.missing)}")


@main.command()
@click.argument("file")
def new_key(file: str) -> None:
    """Puts a new encryption key first in FILE, which is made where there is none.

    The first key encrypts, all decrypt. To replace a key: make a new one, give FILE to all that
    read, encrypt again what is there with `reencrypt`, and then delete the line of the old key.

    \b
    Examples:
      python -m serving new-key keys/encryption.keys
      python -m serving new-key /secrets/encryption.keys
    """
    with _refusals():
        click.echo(f"Key {add_key(file)} is the first of {file}.")


@main.command()
@click.argument("serving_dir", default=_SERVING_DIR)
@_encryption_keys_option
@click.option("--request-log", metavar="DIR", help="Request log to encrypt again as well.")
def reencrypt(serving_dir: str, encryption_keys: str, request_log: str | None) -> None:
    """Encrypts with the first key what is encrypted with another one; the rest stays as it is.

    Signatures stay good: they are of what is encrypted.

    \b
    Examples:
      python -m serving reencrypt --encryption-keys keys/encryption.keys
      python -m serving reencrypt --encryption-keys keys/encryption.keys --request-log requests
    """
    from storage.reencryption import reencrypt_log, reencrypt_versions

    with _refusals():
        keys = require_keys(encryption_keys)
        changed = sum(
            reencrypt_versions(ModelDirectory(serving_dir, name), keys)
            for name in find_models(serving_dir)
        )
        if request_log:
            changed += reencrypt_log(request_log, keys)
    click.echo(f"Encrypted {changed} files again, with the key {keys.first}.")


@main.command()
@click.argument("arguments", nargs=-1, metavar="[SERVING_DIR] VERSION")
@click.option(
    "--signing-key",
    metavar="KEY",
    required=True,
    help="Private key: its file, env:NAME, fd:NUMBER, or a PKCS #11 URI.",
)
@click.option(
    "--password-from",
    metavar="PLACE",
    default="",
    help="Where its password is: env:NAME, fd:NUMBER, or a file.",
)
@_encryption_keys_option
@_model_option
def sign(
    arguments: tuple[str, ...],
    signing_key: str,
    password_from: str,
    encryption_keys: str,
    model: str | None,
) -> None:
    """Signs a version again, under the name and number that it has now.

    A signature is good for one version of one model. Whoever moves a version on purpose, to another
    model or number, copies its folder and its provenance, verifies them where they came from, and
    signs it where it is now.

    \b
    Examples:
      python -m serving sign 1795434497 --signing-key output/keys/signing.key
      python -m serving sign /data/serving_model 1795434497 --model my_model \\
          --signing-key env:SIGNING_KEY --password-from env:SIGNING_PASSWORD
    """
    serving_dir, chosen = _split(arguments, at_most=1)
    if not chosen:
        raise click.UsageError("Missing argument 'VERSION'.")
    (version,) = chosen
    with _refusals():
        directory = _directory(serving_dir, model)
        with directory.locked():
            aside = version in directory.rolled_back()
            keys = load_keys(encryption_keys)
            with _copy_privately(directory, version, None, aside, keys) as copy:
                sign_version(copy.directory, version, signing_key, password_from)
                directory.put_signature(version, copy.directory)
    click.echo(f"Signed version {version} of {directory.model_name}.")


@main.command()
@click.argument("serving_dir", default=_SERVING_DIR)
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
@_public_key_option
@click.option("--no-verify", is_flag=True, help="Serve versions whether they are signed or not.")
@click.option(
    "--poll-seconds",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help="Time between two looks for other versions.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=2,
    show_default=True,
    help="Requests that are computed at a time.",
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
    help="Longest time from a request to its answer.",
)
@click.option("--token-file", type=_FILE, help="Bearer token that requests have to bring.")
@click.option(
    "--tokens",
    "tokens_file",
    type=_FILE,
    help="TOML file of several tokens, as SHA-256, each with the models and methods it is for.",
)
@click.option("--tls-certificate", type=_FILE, help="Certificate chain, PEM.")
@click.option("--tls-key", type=_FILE, help="Its private key, PEM.")
@click.option(
    "--tls-client-ca",
    type=_FILE,
    help="Certificates, PEM, of who signs those of clients; clients then need one.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Listen beyond this machine although nobody is asked for a token or there is no TLS.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Let web pages of this origin ask, such as https://example.org; * for any. May be given "
    "again.",
)
@click.option("--request-log", metavar="DIR", default="", help="Log requests and answers there.")
@click.option(
    "--request-log-sampling",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of the requests to log.",
)
@_encryption_keys_option
@click.option(
    "--decrypt-to",
    default=MEMORY,
    show_default=True,
    metavar="DIR",
    help="Folder in memory for what is decrypted.",
)
@_decrypt_to_disk_option
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
    **settings: Any,
) -> None:
    """Serves models over TensorFlow Serving's gRPC and REST interfaces.

    New versions take over when they are loaded; versions that were changed after they were signed
    are refused. SIGTERM and Ctrl-C stop it when the requests at hand are answered; SIGHUP has it
    read tokens, certificates and public keys again.

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
    if tls_client_ca and not tls_certificate:
        raise click.UsageError("--tls-client-ca needs --tls-certificate and --tls-key.")
    trust = None
    if not no_verify:
        try:
            trust = _trust(serving_dir, public_keys)
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
        **settings,
    )
    if server_settings.weakness and not insecure:
        raise click.UsageError(
            f"{server_settings.weakness[:1].upper()}{server_settings.weakness[1:]}: give --tokens "
            "or --token-file, and --tls-certificate with --tls-key; or say --insecure."
        )
    # Before TensorFlow is imported, which would tell on the standard error what it found.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from serving.server.app import serve as run_server
    from serving.server.request_log import RequestLogError

    try:
        with _refusals(RequestLogError):
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


@main.command()
@click.argument("file", type=_FILE)
@click.option(
    "--server",
    default=f"http://127.0.0.1:{REST_PORT}",
    show_default=True,
    help="Address of the server's REST interface.",
)
@click.option("--model", metavar="NAME", required=True, help="Name of the model.")
@click.option("--version", "version", type=int, help="Version to ask. Default: the live one.")
@click.option("--label", help="Label of the version to ask.")
@click.option("--signature", help="Signature to ask. Default: the first that the columns fit.")
@click.option("--rows", type=click.IntRange(min=1), help="Ask for the first rows only.")
@click.option("--token-file", type=_FILE, help="Bearer token that the server wants.")
@click.option("--ca-file", type=_FILE, help="Certificates to trust, PEM, for https.")
def predict(
    file: str, version: int | None, label: str | None, token_file: str | None, **options: Any
) -> None:
    """Asks a server about the rows of a CSV or Parquet file, and prints its answers as CSV.

    Columns that the model does not read are passed over; an empty value is an absent one.

    \b
    Examples:
      python -m serving predict rows.csv --model my_model
      python -m serving predict rows.parquet --model my_model --label stable --rows 10
    """
    if version is not None and label:
        raise click.UsageError("--version and --label exclude each other.")
    from serving.client import ClientError, print_predictions

    with _refusals(ClientError):
        token = read_token(token_file).decode() if token_file else ""
        print_predictions(file, version=version, label=label, token=token, **options)


@contextlib.contextmanager
def _refusals(*more: type[Exception]) -> Iterator[None]:
    """Shows what the Serving directory refuses as a message, and exits with status 1."""
    expected: tuple[type[Exception], ...] = (
        *(LookupError, ValueError, OSError, SignatureError, EncryptionError),
        *more,
    )
    try:
        yield
    except expected as error:
        raise click.ClickException(str(error)) from error


def _split(arguments: tuple[str, ...], at_most: int | None = None) -> tuple[str, list[int]]:
    """Tells the Serving directory from the versions after it.

    Args:
      arguments: What was given.
      at_most: How many versions there may be; None for any number.

    Returns:
      The Serving directory, and the versions.
    """
    serving_dir, numbers = _SERVING_DIR, list(arguments)
    if numbers and not _is_number(numbers[0]):
        serving_dir = numbers.pop(0)
    if wrong := [number for number in numbers if not _is_number(number)]:
        raise click.UsageError(f"{wrong[0]!r} is not the number of a version.")
    if at_most is not None and len(numbers) > at_most:
        raise click.UsageError(f"Got unexpected extra argument ({numbers[at_most]})")
    return serving_dir, [int(number) for number in numbers]


def _is_number(argument: str) -> bool:
    return argument.isascii() and argument.isdigit()


def _directory(serving_dir: str, model: str | None) -> ModelDirectory:
    """The model that is meant, which may go unnamed if there is but one."""
    models = find_models(serving_dir)
    if not models:
        raise click.UsageError(f"There is no model in {serving_dir}.")
    if model is None and len(models) > 1:
        raise click.UsageError(
            f"There are several models in {serving_dir}; choose one with --model: "
            f"{', '.join(models)}."
        )
    if model is not None and model not in models:
        raise click.UsageError(
            f"There is no model {model!r} in {serving_dir}; it has {', '.join(models)}."
        )
    return ModelDirectory(serving_dir, model or models[0])


def _describe(directory: ModelDirectory) -> list[dict[str, Any]]:
    """What is known of each version, newest first."""
    served, labels = directory.served(), directory.labels()
    places = {version: (_OLDER, directory.version_uri(version)) for version in directory.versions()}
    if served is not None:
        places[served] = (_LIVE, directory.version_uri(served))
    for version in directory.rolled_back():
        places[version] = (_ROLLED_BACK, directory.rolled_back_uri(version))
    rows = []
    for version, (state, uri) in sorted(places.items(), reverse=True):
        record, sizes = directory.provenance(version), file_sizes(uri)
        spans = record.get("spans", {})
        rows.append(
            {
                "version": version,
                "state": state,
                "labels": [name for name, pinned in labels.items() if pinned == version],
                "created": record.get("created"),
                "auc": record.get("metrics", {}).get("auc"),
                "learned_from": spans.get("train", []),
                "judged_on": spans.get("test", []),
                "bytes": sum(sizes.values()),
                "tflite_bytes": sizes.get(TFLITE_MODEL),
                "signed": exists(directory.signature_uri(version)),
                "key_id": claimed_key(directory.signature_uri(version)) or None,
            }
        )
    return rows


def _copy_privately(
    directory: ModelDirectory,
    version: int,
    trust: TrustStore | None,
    aside: bool,
    keys: Keys | None,
) -> PrivateCopy:
    """A private copy, which is in memory if it may have been decrypted."""
    parent = MEMORY if keys else None
    return private_copy(directory, version, trust, rolled_back=aside, parent=parent, keys=keys)


def _verifies(
    directory: ModelDirectory, version: int, trust: TrustStore, aside: bool, keys: Keys | None
) -> bool:
    try:
        _copy_privately(directory, version, trust, aside, keys).close()
    except (SignatureError, EncryptionError, OSError):
        return False
    return True


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def _print_table(directory: ModelDirectory, rows: list[dict[str, Any]]) -> None:
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    from terminal.tables import print_table, standard_output

    table = Table(
        title=Text(f"{directory.model_name} in {directory.serving_dir}"),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name, width in (("version", 10), ("state", 11), ("made, UTC", 10), ("AUC", 6)):
        table.add_column(name, min_width=width, overflow="fold")
    for name, width in (("learned", 9), ("judged", 6), ("size", 6), ("TFLite", 7)):
        table.add_column(name, min_width=width, overflow="fold", justify="right")
    table.add_column("signed by", min_width=6, overflow="fold")
    verified = {True: "yes", False: "NO"}
    if rows and "verified" in rows[0]:
        table.add_column("verified", min_width=3)
    for row in rows:
        cells = (
            str(row["version"]),
            ", ".join([row["state"], *row["labels"]]),
            (row["created"] or "").replace("T", " ")[:16],
            "" if row["auc"] is None else f"{row['auc']:.4f}",
            _months(row["learned_from"]),
            _months(row["judged_on"]),
            decimal(row["bytes"], precision=0),
            "none" if row["tflite_bytes"] is None else decimal(row["tflite_bytes"]),
            "no" if not row["signed"] else _printable(short_id(row["key_id"] or "unknown")),
            *([verified[row["verified"]]] if "verified" in row else []),
        )
        style = {_LIVE: "bold green", _ROLLED_BACK: "dim"}.get(row["state"], "")
        table.add_row(*map(Text, cells), style=style)
    print_table(table, standard_output())


def _months(spans: list[int]) -> str:
    first_and_last = (spans[0], spans[-1]) if len(spans) > 1 else spans
    return " to ".join(map(str, first_and_last))


if __name__ == "__main__":
    run_command(main)
