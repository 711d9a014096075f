"""Tests of what a person sees of a run, on a terminal and elsewhere."""

import io
import re
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from orchestration.local import display
from orchestration.local.dag_runner import SKIPPED
from orchestration.local.display import RunDisplay
from orchestration.local.node_process import CACHED, COMPLETE, FAILED, NodeResult, Summary

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Clock:
    """Stands in for the `time` module of the display."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(display, "time", clock)
    return clock


def terminal(width: int = 100, name: str = "xterm") -> tuple[Console, Callable[[], str]]:
    """A terminal, and what gives all that was sent to it since the last look."""
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=True, width=width, height=30, _environ={"TERM": name}
    )

    def take() -> str:
        text = file.getvalue()
        file.seek(0)
        file.truncate()
        return text

    return console, take


def plain(width: int = 100) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=False, width=width, highlight=False), file


def rows(text: str) -> dict[str, str]:
    """Lines of a table without colours, trailing and repeated blanks, by their first word."""
    lines = [re.sub(" +", " ", line).strip() for line in _ESCAPES.sub("", text).splitlines()]
    return {line.split()[0]: line for line in lines if line}


def test_display_shows_each_node_with_state_time_and_result_on_a_terminal(clock: Clock) -> None:
    console, take = terminal()
    nodes = ["Examples", "Statistics", "Trainer", "Evaluator", "Pusher", "Infra"]
    with RunDisplay(console, nodes) as shown:
        table = rows(take())
        assert table["node"] == "node state time result"
        assert [table[node] for node in nodes] == [f"{node} waiting" for node in nodes]

        shown.started("Examples")
        shown.started("Statistics")
        clock.now += 2.5
        shown.finished("Examples", NodeResult(COMPLETE, Summary("1,000 rows")))
        shown.finished("Statistics", NodeResult(CACHED, Summary("statistics of train")))
        shown.started("Trainer")
        shown.progressed("Trainer", "epoch 1, loss 0.5")
        shown.progressed("Trainer", "epoch 2, loss 0.4")
        shown.started("Evaluator")
        clock.now += 1.25
        shown.finished("Evaluator", NodeResult(FAILED, Summary("ValueError: no"), "ValueError"))
        shown.finished("Pusher", NodeResult(SKIPPED, Summary("needs Evaluator")))
        clock.now += 1.0
        shown.tick()
        table = rows(take())
        assert [table[node] for node in nodes] == [
            "Examples complete 2.5 s 1,000 rows",
            "Statistics cached 2.5 s statistics of train",
            "Trainer running 2.2 s epoch 2, loss 0.4",
            "Evaluator failed 1.2 s ValueError: no",
            "Pusher skipped needs Evaluator",
            "Infra waiting",
        ]
        clock.now += 1.0
        shown.tick()
        assert rows(take())["Trainer"] == "Trainer running 3.2 s epoch 2, loss 0.4"


def test_display_keeps_the_last_table_and_restores_the_cursor() -> None:
    console, take = terminal()
    with RunDisplay(console, ["Only"]) as shown:
        shown.started("Only")
        assert "\x1b[?25l" in take()
        shown.finished("Only", NodeResult(COMPLETE, Summary("all of it")))
    last = take()
    assert "all of it" in rows(last)["Only"]
    assert "\x1b[?25h" in last


def test_display_folds_a_long_result_and_shows_all_of_it() -> None:
    console, take = terminal(width=60)
    words = [f"word{number}" for number in range(30)]
    with RunDisplay(console, ["Only"]) as shown:
        shown.finished("Only", NodeResult(FAILED, Summary(" ".join(words))))
        take()
    text = _ESCAPES.sub("", take())
    assert [word for word in words if word not in text] == []
    assert max(map(len, text.splitlines())) <= 60


def test_display_shows_brackets_of_a_result_unchanged() -> None:
    result = NodeResult(FAILED, Summary("ValueError: [bold]x[/bold] [/] :smile:"))
    console, take = terminal()
    with RunDisplay(console, ["Only"]) as shown:
        shown.finished("Only", result)
    assert rows(take())["Only"].endswith(result.summary.line)
    console, file = plain()
    with RunDisplay(console, ["Only"]) as shown:
        shown.finished("Only", result)
    assert file.getvalue().rstrip().endswith(result.summary.line)


def test_display_keeps_other_output_off_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console, take = terminal()
    with RunDisplay(console, ["Only"]):
        print("a library speaks")
        print("a library warns", file=sys.stderr)
    assert "a library" not in take()
    assert capsys.readouterr() == ("a library speaks\n", "a library warns\n")


def test_display_prints_a_plain_line_for_each_change_without_terminal(clock: Clock) -> None:
    console, file = plain(width=40)
    with RunDisplay(console, ["Examples", "Trainer", "Pusher"]) as shown:
        shown.started("Examples")
        shown.tick()
        clock.now += 12.34
        shown.finished("Examples", NodeResult(COMPLETE, Summary("1,000 rows " * 10)))
        shown.started("Trainer")
        clock.now += 0.5
        shown.progressed("Trainer", "step 10")
        shown.tick()
        shown.finished("Trainer", NodeResult(FAILED, Summary("ValueError: no"), "ValueError"))
        shown.finished("Pusher", NodeResult(SKIPPED, Summary("needs Trainer")))
    assert "\x1b" not in file.getvalue()
    assert file.getvalue().splitlines() == [
        "Examples  running     0.0 s",
        f"Examples  complete   12.3 s  {('1,000 rows ' * 10).strip()}",
        "Trainer   running     0.0 s",
        "Trainer   running     0.5 s  step 10",
        "Trainer   failed      0.5 s  ValueError: no",
        "Pusher    skipped            needs Trainer",
    ]


def test_display_prints_a_plain_line_of_progress_every_five_seconds_and_no_old_one(
    clock: Clock,
) -> None:
    console, file = plain()
    with RunDisplay(console, ["Trainer", "Pruner"]) as shown:
        shown.started("Trainer")
        shown.started("Pruner")
        for step in range(1, 101):  # For ten seconds.
            shown.progressed("Trainer", f"step {step}")
            if step == 11:
                shown.progressed("Pruner", "step 1")
            shown.tick()
            clock.now += 0.125
        for _ in range(100):  # Nothing new: what came last is printed once.
            shown.tick()
            clock.now += 0.125
        shown.progressed("Trainer", "step 101")
        shown.progressed("Trainer", "step 102")
        shown.finished("Trainer", NodeResult(COMPLETE, Summary("loss 0.4")))
        clock.now += 60
        shown.tick()
    assert [" ".join(line.split()) for line in file.getvalue().splitlines()] == [
        "Trainer running 0.0 s",
        "Pruner running 0.0 s",
        "Trainer running 0.0 s step 1",
        "Pruner running 1.2 s step 1",
        "Trainer running 5.0 s step 41",
        "Trainer running 10.0 s step 81",
        "Trainer running 15.0 s step 100",
        "Trainer running 25.0 s step 101",
        "Trainer complete 25.0 s loss 0.4",
    ]


def test_display_prints_plain_lines_on_a_terminal_that_cannot_redraw(clock: Clock) -> None:
    console, take = terminal(name="dumb")
    with RunDisplay(console, ["Only"]) as shown:
        shown.started("Only")
        assert take() == "Only  running     0.0 s\n"
        shown.finished("Only", NodeResult(COMPLETE, Summary("all of it")))
        assert take() == "Only  complete    0.0 s  all of it\n"
    assert take() == ""


@pytest.mark.parametrize("width", [10, 40])
def test_display_prints_whole_lines_where_a_table_has_no_room(width: int) -> None:
    console, take = terminal(width=width)
    names = ["CompressionEvaluator", "Pusher"]
    with RunDisplay(console, names) as shown:
        shown.started(names[0])
        shown.finished(names[0], NodeResult(FAILED, Summary("the AUC 0.6012 is below 0.62")))
        shown.tick()
    text = _ESCAPES.sub("", take())
    assert "CompressionEvaluator  failed" in text
    assert "the AUC 0.6012 is below 0.62" in text
    assert "…" not in text
