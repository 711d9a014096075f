"""Arguments, options and errors that the commands of serving share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click

from serving.server.settings import REST_PORT
from storage.directory import ModelDirectory
from storage.encryption_keys import EncryptionError
from storage.keys import SignatureError, TrustStore, default_trust
from storage.versions import find_models

SERVING_DIR = "output/serving_model"
FILE = click.Path(exists=True, dir_okay=False)

_Command = TypeVar("_Command", bound=Callable[..., None])


def model_option(command: _Command) -> _Command:
    """The option `--model`."""
    return click.option(
        "--model", metavar="NAME", help="Name for servers; needed if there are several."
    )(command)


def public_key_option(command: _Command) -> _Command:
    """The option `--public-key`."""
    return click.option(
        "--public-key",
        "public_keys",
        multiple=True,
        metavar="PATH",
        help="Public key to verify with, or folder of keys (*.pub); may be given again. "
        "Default: the folder keys next to SERVING_DIR.",
    )(command)


def encryption_keys_option(command: _Command) -> _Command:
    """The option `--encryption-keys`."""
    return click.option(
        "--encryption-keys",
        default="",
        metavar="FILE",
        help="Keys to decrypt with. Default: the variable FLIGHTDECK_ENCRYPTION_KEYS, if it is "
        "set.",
    )(command)


def decrypt_to_disk_option(command: _Command) -> _Command:
    """The option `--decrypt-to-disk`."""
    return click.option("--decrypt-to-disk", is_flag=True, help="Allow decrypted files on a disk.")(
        command
    )


def server_options(command: _Command) -> _Command:
    """The options of a server, and of the version of a model on it."""
    for option in (
        click.option("--ca-file", type=FILE, help="Certificates to trust, PEM, for https."),
        click.option("--token-file", type=FILE, help="File of a bearer token for the server."),
        click.option("--label", help="Label of the version that predicts."),
        click.option("--version", type=int, help="Version that predicts. Default: the live one."),
        click.option("--model", metavar="NAME", required=True, help="Name of the model."),
        click.option(
            "--server",
            default=f"http://127.0.0.1:{REST_PORT}",
            show_default=True,
            help="Address of the server's REST interface.",
        ),
    ):
        command = option(command)
    return command


def poll_seconds_option(default: float) -> Callable[[_Command], _Command]:
    """The option `--poll-seconds`."""
    return click.option(
        "--poll-seconds",
        type=click.FloatRange(min=0.05),
        default=default,
        show_default=True,
        help="Time between two checks for other versions.",
    )


def trust_of(serving_dir: str, public_keys: tuple[str, ...]) -> TrustStore:
    """The keys to verify with: those that are named, or those next to the Serving directory."""
    return TrustStore(public_keys or [default_trust(serving_dir)])


@contextmanager
def refusals(*more: type[Exception]) -> Iterator[None]:
    """Shows refusals as messages, and exits with status 1.

    Args:
      *more: Exceptions that are refusals too.
    """
    expected: tuple[type[Exception], ...] = (
        *(LookupError, ValueError, OSError, SignatureError, EncryptionError),
        *more,
    )
    try:
        yield
    except expected as error:
        raise click.ClickException(str(error)) from error


def split_versions(arguments: tuple[str, ...], at_most: int | None = None) -> tuple[str, list[int]]:
    """Splits arguments into the Serving directory and versions.

    Args:
      arguments: What was given.
      at_most: How many versions there may be; None for any number.

    Returns:
      The Serving directory, and the versions.

    Examples:
      >>> split_versions(("/data/serving_model", "7", "8"))
      ('/data/serving_model', [7, 8])
      >>> split_versions(("7",))
      ('output/serving_model', [7])
    """
    serving_dir, numbers = SERVING_DIR, list(arguments)
    if numbers and not _is_number(numbers[0]):
        serving_dir = numbers.pop(0)
    if wrong := [number for number in numbers if not _is_number(number)]:
        raise click.UsageError(f"{wrong[0]!r} is not the number of a version.")
    if at_most is not None and len(numbers) > at_most:
        raise click.UsageError(f"Got unexpected extra argument ({numbers[at_most]})")
    return serving_dir, [int(number) for number in numbers]


def split_version(arguments: tuple[str, ...]) -> tuple[str, int]:
    """As `split_versions`, for a command that has to be given one version."""
    serving_dir, versions = split_versions(arguments, at_most=1)
    if not versions:
        raise click.UsageError("Missing argument 'VERSION'.")
    return serving_dir, versions[0]


def _is_number(argument: str) -> bool:
    return argument.isascii() and argument.isdigit()


def find_directory(serving_dir: str, model: str | None) -> ModelDirectory:
    """The model that is meant, which may go unnamed if there is but one."""
    first, *others = find_directories(serving_dir, model)
    if others:
        names = ", ".join(directory.model_name for directory in (first, *others))
        raise click.UsageError(
            f"There are several models in {serving_dir}; choose one with --model: {names}."
        )
    return first


def find_directories(serving_dir: str, model: str | None) -> list[ModelDirectory]:
    """The model that is named, or all that there are."""
    models = find_models(serving_dir)
    if not models:
        raise click.UsageError(f"There is no model in {serving_dir}.")
    if model is not None and model not in models:
        raise click.UsageError(
            f"There is no model {model!r} in {serving_dir}; it has {', '.join(models)}."
        )
    return [ModelDirectory(serving_dir, name) for name in models if model in (None, name)]
