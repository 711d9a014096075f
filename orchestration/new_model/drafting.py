"""Drafts a new model: from a table and the name of its label to all that is written of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ml.names import check_column, check_features
from ml.tasks import Kind as TaskKind
from ml.tasks import Task
from orchestration.new_model.columns import Column, Facts, Kind, Role, allowed_roles, decide
from orchestration.new_model.dangers import Danger, find_dangers
from orchestration.new_model.layout import recognize
from orchestration.new_model.reading import SPAN, Look, look, seconds_of_sample
from orchestration.new_model.schema import make_schema
from orchestration.new_model.settings import choose_period, choose_settings
from orchestration.new_model.task import Target, guess_target
from orchestration.new_model.writing import Draft
from storage.errors import DataError, UserError
from storage.spans import DataSource

MOST_FEATURES = 500


@dataclass(frozen=True)
class Question:
    """A decision that was a guess.

    Attributes:
      subject: The column, or what is asked about.
      text: The question.
      guess: What was decided.
      options: What else it may be.
      how: How to change it afterwards, or by an option.
    """

    subject: str
    text: str
    guess: str
    options: tuple[str, ...]
    how: str


Ask = Callable[[Question], str]


@dataclass(frozen=True)
class Wishes:
    """What the user said of a new model.

    Attributes:
      name: Its folder below `models/`.
      source: Where the data are.
      label: Column that is predicted.
      task: The task; None guesses.
      weight: Column with the weight of a row; "" for none.
      roles: Roles of columns.
    """

    name: str
    source: DataSource
    label: str
    task: TaskKind | None = None
    weight: str = ""
    roles: Mapping[str, Role] | None = None


def draft_model(wishes: Wishes, ask: Ask) -> tuple[Draft, list[Danger], list[Question]]:
    """Looks at data, and decides what a model of them reads and how it is trained.

    Args:
      wishes: What the user said.
      ask: Answers a question, with one of its options.

    Returns:
      The draft, what may ruin the model, and the decisions that were guesses.

    Raises:
      DataError: If the data cannot be read, or no model can be made of them.
      UserError: If a wish names a column that is not there, or a role that it cannot have.
    """
    found = look(recognize(wishes.source))
    found = _with_period(found)
    roles = dict(wishes.roles or {})
    _check_names(found, wishes, roles)
    # The sample has no vectors.
    labels = found.sample.get(wishes.label, pd.Series(dtype=object))
    target = guess_target(found.facts[wishes.label], labels, wishes.task)
    asked: list[Question] = []

    def answer(question: Question) -> str:
        asked.append(question)
        return ask(question)

    if target.guess and len(target.classes) == 2:
        target = _ask_positive(target, answer)
    columns = tuple(_column(facts, found, wishes, roles, answer) for facts in found.facts.values())
    _check_count(columns)
    task = Task(target.kind, wishes.label, target.classes)
    dangers = find_dangers(found, columns, task, found.source.time_column)
    columns = tuple(_leave_out(c, dangers, roles, asked) for c in columns)
    _check_features(columns)
    settings = choose_settings(found, columns, target)
    draft = Draft(wishes.name, found, columns, target, settings, make_schema(found, columns))
    return draft, dangers, asked


def _with_period(found: Look) -> Look:
    """The look with spans of a period that fits the times."""
    column = found.source.time_column
    if column not in found.facts:  # None, or `_check_names` says so.
        return found
    facts = found.facts[column]
    seconds = seconds_of_sample(found)
    if facts.kind is Kind.INTEGER and _dates_as_numbers(facts):
        raise DataError(
            f"--time {column}: {facts.values[0][0]} looks like a date, but whole numbers are "
            "seconds since 1970: write dates as 2013-01-31"
        )
    if found.source.pattern:
        return found
    source = choose_period(found.source, seconds)
    spans = source.period.numbers_of(seconds)
    numbers, counts = np.unique(spans, return_counts=True)
    if len(numbers) < 2:
        raise DataError(
            f"--time {column}: all rows are of one {source.period.value}, so that none is left to "
            "judge a model on: leave --time out to split the rows by a hash"
        )
    scale = found.count / max(1, len(seconds))
    rows = {int(n): round(c * scale) for n, c in zip(numbers, counts, strict=True)}
    return replace(found, source=source, rows=rows, sample=found.sample.assign(**{SPAN: spans}))


def _check_names(found: Look, wishes: Wishes, roles: Mapping[str, Role]) -> None:
    named = [("--label", wishes.label), ("--time", found.source.time_column)]
    named += [("--weight", wishes.weight), *(("--as", name) for name in roles)]
    for option, name in named:
        if name not in found.facts and (name or option == "--label"):
            shown = ", ".join(list(found.facts)[:30])
            raise UserError(f"{option} {name!r}: there is no such column; the columns are {shown}")
        try:
            check_column(name or wishes.label)
        except ValueError as error:
            raise UserError(f"{option} {error}") from error
    if wishes.label in (found.source.time_column, wishes.weight):
        raise UserError(f"--label {wishes.label}: it is the time or the weight of a row as well")
    if wishes.weight:
        _check_weight(found.facts[wishes.weight])
    for name, role in roles.items():
        if name in (wishes.label, wishes.weight):
            raise UserError(f"--as {name}={role.value}: it is the label or the weight of a row")
        facts = found.facts[name]
        allowed = [each.value for each in allowed_roles(facts)]
        if role.value not in allowed:
            raise UserError(
                f"--as {name}={role.value}: a column of the kind {facts.kind.value} can be "
                f"{', '.join(allowed)}"
            )


def _dates_as_numbers(facts: Facts) -> bool:
    """Whether whole numbers are dates such as 20130131."""
    texts = pd.Series([value for value, _ in facts.values])
    return bool(pd.to_datetime(texts, format="%Y%m%d", errors="coerce").notna().all())


def _check_weight(facts: Facts) -> None:
    """Raises a `UserError` if rows cannot weigh as a column says."""
    reason = ""
    if facts.kind not in (Kind.INTEGER, Kind.NUMBER):
        reason = f"it has values of the kind {facts.kind.value}"
    elif facts.missing:
        reason = f"{facts.missing:,} of {facts.rows:,} rows have no value"
    elif not facts.exact or (facts.minimum or 0) < 0 or not facts.maximum:
        reason = f"it has values from {facts.minimum:g} to {facts.maximum:g}"
    if reason:
        raise UserError(
            f"--weight {facts.name}: {reason}; a number of 0 or more is expected, not 0 everywhere"
        )


def _ask_positive(target: Target, answer: Ask) -> Target:
    negative, positive = target.classes
    question = Question(
        target.facts.name,
        "which value is the positive class?",
        positive,
        (negative, positive),
        "`classes` in config.toml, the positive one last",
    )
    if answer(question) == positive:
        return target
    return replace(target, classes=(positive, negative), why=f"{negative!r} is the positive class")


def _column(
    facts: Facts, found: Look, wishes: Wishes, roles: Mapping[str, Role], answer: Ask
) -> Column:
    if facts.name == wishes.label:
        return Column(facts, Role.LABEL, "")
    if wishes.weight and facts.name == wishes.weight:
        return Column(facts, Role.WEIGHT, "--weight")
    if facts.name in roles:
        return Column(facts, roles[facts.name], "--as")
    column = decide(facts)
    if facts.name == found.source.time_column and not facts.zone:
        answer(
            Question(
                facts.name,
                "times without a zone are taken as UTC",
                "UTC",
                ("UTC",),
                "write the zone into the data",
            )
        )
    if not column.guess:
        return column
    options = tuple(role.value for role in allowed_roles(facts))
    how = f"--as {facts.name}=ROLE ({', '.join(options)})"
    chosen = Role(answer(Question(facts.name, column.guess, column.role.value, options, how)))
    return column if chosen is column.role else column.with_role(chosen, "as answered")


def _leave_out(
    column: Column, dangers: Sequence[Danger], roles: Mapping[str, Role], asked: list[Question]
) -> Column:
    """Leaves out a column that gives the label away, unless the user gave it a role."""
    reasons = [d.text for d in dangers if d.column == column.name and d.leave_out]
    if not reasons or column.name in roles:
        return column
    options = tuple(role.value for role in allowed_roles(column.facts))
    asked.append(
        Question(
            column.name,
            "is it of use?",
            Role.LEFT_OUT.value,
            options,
            f"--as {column.name}={column.role.value}",
        )
    )
    return column.with_role(Role.LEFT_OUT, reasons[0])


def _check_count(columns: Sequence[Column]) -> None:
    count = sum(column.is_feature for column in columns)
    if count > MOST_FEATURES:
        raise DataError(
            f"{count:,} columns would be features; at most {MOST_FEATURES} are taken: remove some "
            "from the data, or put those of one kind into a column of vectors"
        )


def _check_features(columns: Sequence[Column]) -> None:
    if not any(column.is_feature for column in columns):
        reasons = "; ".join(f"{c.name}: {c.why}" for c in columns if c.role is Role.LEFT_OUT)
        raise DataError(f"no column is left for a model to read: {reasons}")
    try:
        check_features(tuple(column.name for column in columns if column.is_feature))
    except ValueError as error:
        raise DataError(str(error)) from error
