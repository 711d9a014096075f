"""Options, help texts and errors that commands share."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import click

from orchestration.outcome import USAGE_STATUS, Outcome
from storage.errors import UserError

if TYPE_CHECKING:
    from orchestration.local.output_directory import OutputDirectory
    from pipeline.config import Config

Command = TypeVar("Command", bound=Callable[..., Any])

config_option = click.option(
    "--config", "config_path", metavar="FILE.toml", help="Configuration file."
)
set_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting; overrides the file."
)
window_option = click.option(
    "--window", type=int, help="Spans before it to train on. Default: data.window."
)


def output_option(default: str = "output") -> Callable[[Command], Command]:
    """The option `--output`: the output directory."""
    return click.option(
        "--output",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(default),
        show_default=True,
        help="Directory for artifacts, metadata, logs and the Serving directory.",
    )


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Combines decorators; `--help` shows the options in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def model_option(command: Command) -> Command:
    """The option `--model`, which the command gets as the last of its `settings`."""

    @click.option("--model", metavar="NAME", help="Model, by its folder. Default: the default one.")
    @functools.wraps(command)
    def with_model(
        *args: Any, model: str | None, settings: tuple[str, ...], **options: Any
    ) -> object:
        named_model(model, settings)
        given = (*settings, f"model={model}") if model is not None else settings
        return command(*args, settings=given, **options)

    return cast(Command, with_model)


def named_model(model: str | None, settings: Iterable[str]) -> str | None:
    """The model that `--model` or `--set model=NAME` names; None if neither does.

    Raises:
      click.UsageError: If they name different models.

    Examples:
      >>> named_model(None, ["training.epochs=3", "model=penguins"])
      'penguins'
    """
    pairs = [[part.strip() for part in setting.partition("=")] for setting in settings]
    for key, _, other in pairs:
        if key == "model" and model is not None and other != model:
            raise click.UsageError(f"--model {model} and --set model={other} contradict each other")
    return next((name for key, _, name in reversed(pairs) if key == "model"), model)


# `model_option` is the last decorator that is applied, so it needs the options that it changes.
config_options = together(model_option, config_option, set_option)
as_of_option = click.option(
    "--as-of", type=int, help="Span to evaluate on, as YYYYMM. Default: the newest."
)
# Options of a run.
run_options = together(as_of_option, window_option, output_option(), config_options)


def settings_of(as_of: int | None, window: int | None, settings: Iterable[str]) -> list[str]:
    """All settings of a command line in the form of `--set`.

    Examples:
      >>> settings_of(201309, None, ["training.epochs=3"])
      ['training.epochs=3', 'data.as_of=201309']
    """
    flags = {"data.as_of": as_of, "data.window": window}
    return [*settings, *(f"{key}={value}" for key, value in flags.items() if value is not None)]


def read_config(config_path: str | None, settings: Iterable[str]) -> Config:
    """Loads the configuration; an invalid one is a usage error."""
    from pipeline.config import load_config

    with usage_errors():
        return load_config(config_path, settings)


def output_of(config: Config, output: Path) -> OutputDirectory:
    """The directory of the runs of a configuration's model, in an output directory."""
    from orchestration.local.model_directories import find_directory

    return find_directory(output.resolve(), config.model, config.model_name)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Reports a `ConfigError` as a usage error, with status 2."""
    try:
        yield
    except (UserError, ValueError) as error:
        raise click.UsageError(str(error)) from error


@contextmanager
def click_errors() -> Iterator[None]:
    """Shows an error like click, behind `Error:`, with the status of a failure."""
    try:
        yield
    except UserError as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def failures() -> Iterator[None]:
    """Shows an error without a traceback, and exits with the status of a failure."""
    try:
        yield
    except UserError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Shows a message, and exits with the status of a failure."""
    click.echo(message, err=True)
    sys.exit(Outcome.FAILED.exit_status)


def epilog(
    examples: Iterable[str],
    *outcomes: Outcome | tuple[Outcome, str],
    heading: str = "Exit status",
) -> str:
    r"""The end of a command's help: examples and exit statuses.

    Args:
      examples: Command lines.
      outcomes: Possible outcomes of the command, with a meaning if it is not the usual one.
      heading: Heading of the exit statuses.

    Examples:
      >>> text = epilog(["python local_runner.py clean"], (Outcome.FAILED, "no"), Outcome.BUSY)
      >>> print(text.replace("\b", ""))
      <BLANKLINE>
      Examples:
        python local_runner.py clean
      <BLANKLINE>
      <BLANKLINE>
      Exit status:
        1    no
        2    wrong usage or configuration
        75   another run is using the output directory
    """
    meanings: dict[int, list[str]] = {USAGE_STATUS: ["wrong usage or configuration"]}
    for one in outcomes:
        outcome, meaning = one if isinstance(one, tuple) else (one, one.meaning)
        meanings.setdefault(outcome.exit_status, []).append(meaning)
    statuses = [
        f"  {status:<4} {', or '.join(texts)}" for status, texts in sorted(meanings.items())
    ]
    shown = ["\b", "Examples:", *(f"  {line}" for line in examples)]
    return "\n".join([*shown, "", "\b", f"{heading}:", *statuses] if outcomes else shown)


def hush_libraries() -> None:
    """Keeps what TensorFlow and Google's libraries say when they are imported off the screen."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", "(grpcio|Support for google-cloud-storage) <", FutureWarning)
    # Without any handler, the first warning of a library would make one that writes to the screen.
    logging.getLogger().addHandler(logging.NullHandler())
