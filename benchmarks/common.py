"""What the benchmarks share: a measured command, node times out of ML Metadata, reports."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).parents[1]
RESULTS = PROJECT / "output" / "benchmarks"
# Names another file than docs/results.md, for measurements that are not to be kept.
PAGE_VARIABLE = "FLIGHTDECK_RESULTS"

_Execution = metadata_store_pb2.Execution


@dataclass(frozen=True)
class Measured:
    """A finished command.

    Attributes:
      seconds: Wall-clock time.
      peak_bytes: Most memory that the command and its descendants held at once, each shared page
        counted once (proportional set size, sampled four times a second); 0 if not sampled.
      output: What it printed.
    """

    seconds: float
    peak_bytes: int
    output: str


def run_measured(
    arguments: list[str], allowed: Iterable[int] = (0,), *, with_memory: bool = True
) -> Measured:
    """Runs a command of this project's Python and measures it.

    Args:
      arguments: Of Python.
      allowed: Exit statuses that are no error.
      with_memory: Whether to sample its memory, which takes up to a quarter of a core.

    Raises:
      RuntimeError: If its exit status is not among `allowed`.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=PROJECT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    peak = [0]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.25):
            peak[0] = max(peak[0], _session_memory(process.pid))

    sampler = threading.Thread(target=sample)
    if with_memory:
        sampler.start()
    output = process.communicate()[0]
    if with_memory:
        done.set()
        sampler.join()
    if process.returncode not in allowed:
        raise RuntimeError(f"{arguments} ended with status {process.returncode}:\n{output}")
    return Measured(time.perf_counter() - started, peak[0], output)


def node_seconds(metadata_path: Path) -> dict[str, float]:
    """Seconds from registration to publication of each node that ran, the last run's.

    Args:
      metadata_path: SQLite file of ML Metadata.
    """
    config = metadata_store_pb2.ConnectionConfig()
    config.sqlite.filename_uri = str(metadata_path)
    store = MetadataStore(config)
    kinds = {kind.id: kind.name.rpartition(".")[2] for kind in store.get_execution_types()}
    return {
        kinds[execution.type_id]: (
            execution.last_update_time_since_epoch - execution.create_time_since_epoch
        )
        / 1000
        for execution in store.get_executions()
        if execution.last_known_state == _Execution.COMPLETE
    }


def report(
    name: str, columns: list[str], rows: list[list[str]], data: Any, notes: str = ""
) -> None:
    """Prints a table, writes its figures as JSON, and puts it into docs/results.md.

    The section names the command that is running, so a benchmark has to be a `click` command.

    Args:
      name: Name of the measurement and of its section of the page, which it replaces.
      columns: Heads of the columns.
      rows: Cells of the rows.
      data: The figures behind the table, for programs.
      notes: What a reader of the table has to know.

    Raises:
      RuntimeError: If no command is running.
    """
    measured = origin()
    table = Table(title=name, caption=notes or None)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    # Without a terminal rich assumes 80 columns, in which the wide tables are hard to read.
    console = Console(width=shutil.get_terminal_size((180, 50)).columns)
    console.print(table)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(data, indent=2) + "\n")
    page = Path(os.environ.get(PAGE_VARIABLE) or PROJECT / "docs" / "results.md")
    section = [measured, "", _markdown(columns), _markdown(["---"] * len(columns))]
    section += [_markdown(row) for row in rows]
    section += ["", notes] if notes else []
    before = page.read_text(encoding="utf-8") if page.exists() else "# Measured\n"
    page.write_text(replace_section(before, name, "\n".join(section)), encoding="utf-8")
    console.print(f"Written to {path.relative_to(PROJECT)} and {page.name}")


def replace_section(page: str, name: str, content: str) -> str:
    """The Markdown page with the content of its section `name` replaced, or added at the end.

    Example:
      >>> replace_section("# Measured\\n\\n## a\\n\\nold\\n\\n## b\\n\\nkept\\n", "a", "new")
      '# Measured\\n\\n## a\\n\\nnew\\n\\n## b\\n\\nkept\\n'
    """
    head, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    bodies = dict(section.split("\n", 1) for section in sections)
    bodies[name] = f"\n{content}\n"
    parts = [f"## {title}\n\n{body.strip()}\n" for title, body in bodies.items()]
    return "\n".join([f"{head.strip()}\n", *parts])


def origin() -> str:
    """When, on which commit and where a section was measured, and with which command."""
    git = ["git", "-C", str(PROJECT)]
    commit = subprocess.run(
        [*git, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"`{_command()}`, {datetime.now(UTC):%Y-%m-%d}, commit {commit or 'unknown'}, "
        f"{len(os.sched_getaffinity(0))} cores ({platform.machine()}), {gigabytes:.0f} GiB, "
        f"TFX {library_version('tfx')}"
    )


def _command() -> str:
    """The command that is running, with the options that it was given."""
    context = click.get_current_context()
    module = Path(context.command.callback.__code__.co_filename).stem  # type: ignore[union-attr]
    words = ["python", "-m", f"benchmarks.{module}"]
    for parameter in context.command.params:
        if context.get_parameter_source(str(parameter.name)) is ParameterSource.DEFAULT:
            continue
        given = context.params[str(parameter.name)]
        values = [_without_folder(v) for v in (given if isinstance(given, tuple) else [given])]
        if isinstance(parameter, click.Argument):
            words += values
        elif parameter.is_flag:  # type: ignore[attr-defined]
            words.append((parameter.opts if given else parameter.secondary_opts)[0])
        else:
            words += [word for value in values for word in (parameter.opts[0], value)]
    return shlex.join(words)


def _without_folder(value: object) -> str:
    """A value of an option; of a path that only this machine has, the last name."""
    key, equals, text = str(value).rpartition("=")
    path = Path(text)
    if path.is_absolute() or ".." in path.parts:
        text = path.name
    return f"{key}{equals}{text}"


def _markdown(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _session_memory(session: int) -> int:
    total = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            total += _process_memory(entry.path, session)
    return total


def _process_memory(folder: str, session: int) -> int:
    """Proportional set size of a process in bytes, 0 if it is of another session or gone."""
    try:
        if int(Path(folder, "stat").read_text().rpartition(")")[2].split()[3]) != session:
            return 0
        for line in Path(folder, "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return 0
