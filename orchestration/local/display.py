"""Shows a run as it happens: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestration.local.dag_runner import SKIPPED
from orchestration.local.node_process import CACHED, COMPLETE, FAILED, NodeResult

_WAITING = "waiting"
_RUNNING = "running"
# For a state, a time, and enough of a result to be read.
_ROOM_BESIDE_NAMES = 40
# Between two plain lines about the progress of a node.
_PROGRESS_SECONDS = 5.0

_STYLES = {
    _WAITING: "dim",
    _RUNNING: "bold cyan",
    COMPLETE: "green",
    CACHED: "blue",
    FAILED: "bold red",
    SKIPPED: "yellow",
}


def show_error(console: Console, message: str) -> None:
    """Shows an error."""
    console.print(Text(message, "bold red"), soft_wrap=True)


def show_log(console: Console, path: Path) -> None:
    """Shows the path of a log."""
    console.print(Text(f"  log: {path}"), soft_wrap=True)


@dataclass
class _Row:
    state: str = _WAITING
    text: str = ""
    started: float | None = None
    seconds: float | None = None
    progress_printed: float | None = None
    has_news: bool = False

    def elapsed(self) -> str:
        if self.started is None:
            return ""
        return f"{time.monotonic() - self.started if self.seconds is None else self.seconds:.1f} s"


class RunDisplay:
    """A `RunObserver` that shows each node's state, elapsed time and one-line result."""

    def __init__(self, console: Console, nodes: list[str]):
        """Prepares the display.

        Args:
          console: Where to show the run.
          nodes: Ids of the nodes, in the order to show them.
        """
        self._console = console
        self._width = max(map(len, nodes))
        self._rows = {node_id: _Row() for node_id in nodes}
        has_room = console.width >= self._width + _ROOM_BESIDE_NAMES
        self._live = (
            # What libraries print goes where the runner sent it, not above the table.
            Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            if console.is_terminal and not console.is_dumb_terminal and has_room
            else None
        )

    def __enter__(self) -> RunDisplay:
        if self._live:
            self._live.start()
            self.tick()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live:
            self.tick()
            self._live.stop()

    def started(self, node_id: str) -> None:
        """Shows a node as running."""
        row = self._rows[node_id]
        row.state, row.started = _RUNNING, time.monotonic()
        self._print(node_id)

    def progressed(self, node_id: str, text: str) -> None:
        """Shows the progress of a running node; as a plain line, at most every few seconds."""
        row = self._rows[node_id]
        row.text, row.has_news = text, True
        self._print_progress(node_id)

    def finished(self, node_id: str, result: NodeResult) -> None:
        """Shows how a node ended."""
        row = self._rows[node_id]
        row.state, row.text, row.has_news = result.state, result.summary.line, False
        if row.started is not None:
            row.seconds = time.monotonic() - row.started
        self._print(node_id)

    def tick(self) -> None:
        """Redraws the live table, or prints the progress that had to wait."""
        if self._live:
            self._live.update(self._table(), refresh=True)
            return
        for node_id, row in self._rows.items():
            if row.has_news:
                self._print_progress(node_id)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("node", no_wrap=True)
        table.add_column("state", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True, min_width=7)
        table.add_column("result", overflow="fold", ratio=1)
        for node_id, row in self._rows.items():
            state = Text(row.state, _STYLES[row.state])
            table.add_row(node_id, state, row.elapsed(), Text(row.text))
        return table

    def _print_progress(self, node_id: str) -> None:
        row, now = self._rows[node_id], time.monotonic()
        if row.progress_printed is None or now - row.progress_printed >= _PROGRESS_SECONDS:
            row.progress_printed, row.has_news = now, False
            self._print(node_id)

    def _print(self, node_id: str) -> None:
        """One plain line about what has just changed, where there is no live table."""
        if self._live:
            return
        row = self._rows[node_id]
        line = f"{node_id:<{self._width}}  {row.state:<8}  {row.elapsed():>7}  {row.text}"
        self._console.print(Text(line.rstrip()), soft_wrap=True)
