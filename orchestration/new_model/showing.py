"""Shows the draft of a model: its columns, what may ruin it, and what was guessed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestration.new_model.columns import TREATMENTS, Column
from orchestration.new_model.dangers import Danger
from orchestration.new_model.drafting import Question
from orchestration.new_model.writing import Draft
from terminal.tables import print_table, standard_output


def show(draft: Draft, dangers: Sequence[Danger], questions: Sequence[Question]) -> None:
    """Prints a table of the columns, warnings, guesses, and how the data are split."""
    console = standard_output()
    table = Table(box=None, pad_edge=False)
    for heading in ("column", "type", "role", "becomes", "why"):
        table.add_column(heading, overflow="fold")
    for column in draft.columns:
        table.add_row(*map(Text, _row(column)))
    print_table(table, console)
    target, settings = draft.target, draft.settings
    console.print(f"\n{target.facts.name} is predicted as {target.kind}: {target.why}.")
    console.print(_split(draft))
    for note in settings.notes:
        console.print(f"Warning: {note}.", style="yellow")
    _print_dangers(console, dangers)
    if questions or target.guess:
        console.print("\nGuessed:")
    if target.guess and not any(q.subject == target.facts.name for q in questions):
        console.print(f"  {target.facts.name}: {target.guess}")
    for question in questions:
        console.print(f"  {question.subject}: {question.text} {question.guess}; {question.how}")


def _row(column: Column) -> tuple[str, str, str, str, str]:
    facts = column.facts
    kind = facts.kind.value
    if facts.missing:
        kind += f", {facts.share_missing:.1%} absent"
    return column.name, kind, column.role.value, TREATMENTS[column.role], column.why


def _split(draft: Draft) -> str:
    """How the data are divided into rows to train on and rows to be judged on."""
    found, settings = draft.look, draft.settings
    rows = f"{found.count:,} rows"
    if len(found.rows) == 1 and not settings.source.time_column:
        return (
            f"{rows} without a time: split by a hash of the rows, about {settings.train_rows:,} to "
            f"train on and {settings.test_rows:,} to be judged on. Time cannot split them: if the "
            "world changes, the model is worse than it is judged."
        )
    period = settings.source.numbering.value
    return (
        f"{rows} in {len(found.rows)} spans ({period}): {settings.window} to train on, about "
        f"{settings.train_rows:,} rows; the newest to be judged on, {settings.test_rows:,} rows."
    )


def _print_dangers(console: Console, dangers: Sequence[Danger]) -> None:
    for danger in dangers:
        subject = f"{danger.column}: " if danger.column else ""
        console.print(f"Warning: {subject}{danger.text}", style="yellow")
