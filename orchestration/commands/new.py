"""The command `new`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestration.commands.options import click_errors, epilog, hush_libraries, set_option
from orchestration.outcome import Outcome
from terminal.imports import silent_imports

if TYPE_CHECKING:
    from ml.tasks import Kind
    from orchestration.new_model.columns import Role
    from orchestration.new_model.drafting import Question
    from storage.spans import DataSource

_PROJECT = Path(__file__).parents[2]
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_EPILOG = epilog(
    [
        "python local_runner.py new taxi --data trips.csv --label tipped --time pickup_time",
        "python local_runner.py new prices --data s3://bucket/houses --label price --yes",
        "python local_runner.py new taxi --data trips.csv --label tipped --compare",
    ],
    (Outcome.PUSHED, "the model was written, or compared"),
    (Outcome.FAILED, "no model can be made of the data; nothing was written"),
)


@click.command(epilog=_EPILOG)
@click.argument("name")
@click.option("--data", "uri", required=True, metavar="PATH", help="File or folder of the data.")
@click.option("--label", required=True, metavar="COLUMN", help="The column to predict.")
@click.option("--time", "time_column", default="", metavar="COLUMN", help="The time of a row.")
@click.option(
    "--task",
    type=click.Choice(["binary", "multiclass", "regression"]),
    help="What is predicted. Default: a guess.",
)
@click.option("--weight", default="", metavar="COLUMN", help="How much a row weighs.")
@click.option(
    "--as", "roles", multiple=True, metavar="COLUMN=ROLE", help="What becomes of a column."
)
@set_option
@click.option("--yes", is_flag=True, help="Ask nothing, and take the guesses.")
@click.option(
    "--compare", is_flag=True, help="Show what the data suggest today beside what stands there."
)
def new(
    name: str,
    uri: str,
    label: str,
    time_column: str,
    task: Kind | None,
    weight: str,
    roles: tuple[str, ...],
    settings: tuple[str, ...],
    yes: bool,
    compare: bool,
) -> None:
    """Writes a model for a table: settings, schema, preprocessing, network and tests.

    `--set` takes keys of `data` alone, such as data.separator.
    """
    if not _NAME.fullmatch(name):
        raise click.UsageError(
            f"NAME = {name!r}: lower-case letters, digits and _ are expected, a letter first"
        )
    hush_libraries()
    with silent_imports():
        from orchestration.new_model import writing
        from orchestration.new_model.drafting import Wishes, draft_model
        from orchestration.new_model.showing import show

    with click_errors():
        if not compare:
            writing.refuse_existing(_PROJECT, name)
        source = _source(uri, time_column, settings)
        wishes = Wishes(name, source, label, task, weight, _roles(roles))
        ask = _take_guess if yes or compare or not sys.stdin.isatty() else _ask
        draft, dangers, questions = draft_model(wishes, ask)
        files = writing.render(draft)
        if compare:
            lines = list(writing.compare(_PROJECT, files))
            click.echo("\n".join(lines) if lines else "The data suggest what stands there.")
            return
        show(draft, dangers, questions)
        writing.write(_PROJECT, files)
    click.echo("\nWritten: " + ", ".join(sorted(files)))
    click.echo(f"Next: make run MODEL={name}")


def _source(uri: str, time_column: str, settings: Sequence[str]) -> DataSource:
    """Where the data are; a path in the project is written relative to it, any other absolute."""
    from pipeline.config import DataConfig
    from pipeline.layers import ConfigError, Layer, merge, parse_setting

    path = Path(uri)
    if path.exists() and path.resolve().is_relative_to(_PROJECT):
        uri = str(path.resolve().relative_to(_PROJECT))
    elif path.exists():
        uri = str(path.resolve())
    layers = [Layer("--data and --time", {"uri": uri, "time_column": time_column})]
    for setting in settings:
        values = parse_setting(setting).values
        if set(values) != {"data"} or not isinstance(values["data"], dict):
            raise ConfigError(f"--set {setting}: `new` takes keys of data alone")
        layers.append(Layer("--set", values["data"]))
    return merge(DataConfig, layers).source


def _roles(texts: Sequence[str]) -> dict[str, Role]:
    """Reads `COLUMN=ROLE`; a column may have a = in its name."""
    from orchestration.new_model.columns import Role

    chosen = {}
    for text in texts:
        column, equals, role = text.rpartition("=")
        if not equals or role not in [each.value for each in Role]:
            allowed = ", ".join(each.value for each in Role)
            raise click.UsageError(f"--as {text!r}: COLUMN=ROLE is expected, ROLE one of {allowed}")
        chosen[column] = Role(role)
    return chosen


def _take_guess(question: Question) -> str:
    return question.guess


def _ask(question: Question) -> str:
    return str(
        click.prompt(
            f"{question.subject}: {question.text}",
            type=click.Choice(question.options),
            default=question.guess,
        )
    )
