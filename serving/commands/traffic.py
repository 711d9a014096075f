"""The command `traffic`."""

from __future__ import annotations

import getpass
import json

import click

from serving.commands.options import SERVING_DIR, find_directory, model_option, refusals
from storage.directory import ModelDirectory
from storage.names import CHALLENGER, CHAMPION
from storage.traffic import (
    OFF,
    SHADOW,
    SPLIT,
    TrafficPolicy,
    format_traffic,
    parse_split,
    read_traffic,
    set_traffic,
)

_SHOWN_CHANGES = 10


@click.command()
@click.argument("serving_dir", default=SERVING_DIR)
@model_option
@click.option(
    "--split",
    metavar="SHARES",
    help="Share the requests: champion=90,challenger=10, in percent.",
)
@click.option("--shadow", is_flag=True, help="The challenger predicts too, for nobody.")
@click.option("--off", is_flag=True, help="The champion predicts alone.")
@click.option(
    "--key",
    metavar="NAME",
    help="With --split: requests with the same value of this feature, or header:NAME, get the same "
    "version. Default: chance.",
)
@click.option("--reason", default="", metavar="TEXT", help="Why, for the history.")
@click.option("--json", "as_json", is_flag=True, help="Print the policy as JSON, for programs.")
def traffic(
    serving_dir: str,
    model: str | None,
    split: str | None,
    shadow: bool,
    off: bool,
    key: str | None,
    reason: str,
    as_json: bool,
) -> None:
    """Shares requests between the versions labelled champion and challenger.

    Servers follow within --poll-seconds. Where there is a policy, requests that name neither
    version nor label go to the champion and its challenger, not to the newest version. Without an
    option the policy and its last changes are shown.

    \b
    Examples:
      python -m serving traffic
      python -m serving traffic --split champion=90,challenger=10 --key header:x-user
      python -m serving traffic /data/serving_model --model my_model --shadow
      python -m serving traffic --off --reason "the challenger is worse"
    """
    if (split is not None) + shadow + off > 1:
        raise click.UsageError("--split, --shadow and --off exclude each other.")
    if key is not None and split is None:
        raise click.UsageError("--key goes with --split.")
    mode = SPLIT if split is not None else SHADOW if shadow else OFF if off else ""
    if reason and not mode:
        raise click.UsageError("--reason goes with --split, --shadow or --off.")
    with refusals():
        directory = find_directory(serving_dir, model)
        if not mode:
            policy = read_traffic(directory)
        else:
            policy = set_traffic(
                directory,
                mode,
                challenger_percent=parse_split(split) if split is not None else 0.0,
                key=_in_lower_case(key),
                by=user(),
                reason=reason,
            )
        if as_json:
            click.echo(format_traffic(policy).decode().rstrip() if policy else json.dumps(None))
        else:
            _show(directory, policy)


def user() -> str:
    """The user who runs a command, for the history."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _in_lower_case(key: str | None) -> str | None:
    """A key, with the name of a header as requests are looked up by it."""
    is_header = key is not None and key.lower().startswith("header:")
    return key.lower() if key is not None and is_header else key


def _show(directory: ModelDirectory, policy: TrafficPolicy | None) -> None:
    name = directory.model_name
    if policy is None:
        click.echo(f"{name} has no traffic policy: its newest version predicts.")
        return
    labels, there = directory.labels(), directory.versions()
    click.echo(f"{name}: {policy.describe()}")
    for label in (CHAMPION, CHALLENGER):
        version = labels.get(label)
        if version is None:
            click.echo(f"  {label}: no version has this label")
        elif version not in there:
            click.echo(f"  {label}: {version}, which is not there")
        else:
            click.echo(f"  {label}: {version}")
    if CHAMPION not in labels:
        click.echo("  without a champion the newest version predicts")
    if out := policy.taken_out:
        click.echo(
            f"  version {out.version} was taken out at {out.time}, {_printable(out.reason)}: set "
            "the traffic again to have it back"
        )
    for change in policy.history[-_SHOWN_CHANGES:]:
        click.echo(f"  {change.time} {_printable(change.by)}: {_printable(change.what)}")


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)
