"""The command `report`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestration.commands.options import click_errors, epilog, output_option
from orchestration.outcome import Outcome

_EPILOG = epilog(
    [
        "python local_runner.py report",
        "python local_runner.py report 20261127-065211-339 --open",
        "python local_runner.py report --model my_model --again",
    ],
    (Outcome.FAILED, "there is no such run, or its page cannot be written"),
)


@click.command(epilog=_EPILOG)
@click.argument("run", required=False)
@output_option()
@click.option("--model", metavar="NAME", help="Model, by its folder. Default: that of the run.")
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
@click.option(
    "--again", is_flag=True, help="Make the page anew, of what is left of the run's artifacts."
)
def report(run: str | None, output: Path, model: str | None, opens: bool, again: bool) -> None:
    """Prints the path of the page of a run; makes it, and the index, where there is none.

    The default RUN is the newest one.
    """
    from orchestration.local.reports import find_run, page_of, write_index, write_report

    with click_errors():
        directory, record = find_run(output.resolve(), run, model)
        page = page_of(directory, record.run_id)
        if again or not page.is_file():
            write_report(directory, record)
            write_index(directory)
    click.echo(page)
    if opens and click.launch(str(page)) != 0:
        raise click.ClickException(f"no browser could be started: open {page} yourself")
