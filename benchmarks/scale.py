"""Measures time and memory of every node with 1, 10 and 30 times the rows."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.common import PROJECT, RESULTS, origin, report
from pipeline.config import Config, load_config
from storage import spans
from storage.parquet import open_file, write_row_groups

# What each node may hold at most, with all that it starts.
_MOST_BYTES = 2.5e9
# Standard deviation of the jitter, in those of the column.
_JITTER = 0.02
# Numbers of fewer different values are codes, and stay as they are.
_FEWEST_VALUES = 100
_ROWS_PER_GROUP = 1 << 20
_SECONDS = 0.2
# Logs of the runner and of the server that nodes are forked from.
_OTHER_LOGS = ("runner", "imports")

# By how often each row is written: `rows`, the `origin` of the figures, whether the run is
# `complete`, and the cost of each of the `nodes`; as JSON has it.
_Measured = dict[str, dict[str, Any]]


@click.command()
@click.option("--times", type=int, multiple=True, default=(1, 10, 30), show_default=True)
@click.option("--window", default=11, show_default=True, help="Months to learn from.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Settings of the runs.")
@click.option("--add", is_flag=True, help="Keep other multiples that were measured before.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="For rows and runs: about 1 GB for each million rows. [default: a temporary folder]",
)
def main(
    times: tuple[int, ...], window: int, settings: tuple[str, ...], add: bool, folder: Path | None
) -> None:
    """Runs the pipeline on all months, each row that many times, and prints what each node took.

    A copy of a row differs from it by a little noise in each measured number, within the range of
    the column, so that the schema holds and no row is there twice.

    The memory of a node is the sum of the resident sets of its process and of all that it started,
    sampled five times a second; where one of these processes once held more, what that one held.
    Figures are written after each node, so a run that is stopped leaves those of the nodes before.

    Memory does not depend on the number of epochs: `--set training.epochs=1` makes a run shorter.
    """
    config = load_config(settings=[f"data.window={window}", *settings])
    measured = _read() if add else {}
    for count in times:
        with tempfile.TemporaryDirectory(dir=folder) as root:
            rows = multiply_rows(config, count, Path(root, "data"))
            run = measured[str(count)] = {
                "rows": rows,
                "origin": origin(),
                "complete": False,
                "nodes": {},
            }

            def keep(name: str, cost: NodeCost, run: dict[str, Any] = run) -> None:
                run["nodes"][name] = asdict(cost)
                _write(measured)
                click.echo(f"{name}: {cost.seconds:.1f} s, {cost.peak_bytes / 1e9:.2f} GB")

            try:
                run_pipeline(Path(root), config, settings, keep)
                run["complete"] = True
            finally:
                report("scale", *_table(measured), measured, _notes(measured))


@dataclass(frozen=True)
class NodeCost:
    """What a node took.

    Attributes:
      seconds: How long its process was there.
      peak_bytes: Most memory that its process and its descendants held at once.
    """

    seconds: float
    peak_bytes: int


def multiply_rows(config: Config, times: int, root: Path) -> int:
    """Writes the months of a window, each row some times with jitter, in large row groups.

    Args:
      config: Names the data and the window.
      times: How often each row is written; the first time as it is.
      root: Folder of the spans.

    Returns:
      Number of rows written.
    """
    source, total = config.data.source, 0
    window = spans.resolve_window(source, config.data.as_of, config.data.window)
    for span in window.spans:
        for path in span.files:
            table = open_file(path).read()
            target = root / Path(path).relative_to(Path(source.uri).absolute())
            target.parent.mkdir(parents=True, exist_ok=True)
            batches = (
                batch
                for copy in range(times)
                for batch in (
                    table if not copy else jitter(table, 1000 * span.number + copy)
                ).to_batches()
            )
            with open(target, "wb") as out:
                write_row_groups(batches, out, _ROWS_PER_GROUP)
            total += times * len(table)
    return total


def jitter(table: pa.Table, seed: int) -> pa.Table:
    """Adds noise to the measured numbers of a table, within the range of each column."""
    random = np.random.default_rng(seed)
    for place, field in enumerate(table.schema):
        column = table.column(place)
        if not pa.types.is_floating(field.type):
            continue
        if pc.count_distinct(column).as_py() < _FEWEST_VALUES:
            continue
        values = column.to_numpy()
        low, high = np.nanmin(values), np.nanmax(values)
        noisy = values + random.normal(0, _JITTER * np.nanstd(values), len(values))
        array = pa.array(np.clip(noisy, low, high), from_pandas=True).cast(field.type)
        table = table.set_column(place, field, array)
    return table


def run_pipeline(
    root: Path, config: Config, settings: tuple[str, ...], ended: Callable[[str, NodeCost], None]
) -> None:
    """Runs the pipeline.

    Args:
      root: Folder of the `data`, and of the outputs.
      config: Names the window.
      settings: Settings of the run.
      ended: Called with the name and the cost of each node that has ended.

    Raises:
      RuntimeError: If the run fails.
    """
    command = [
        *(sys.executable, "local_runner.py", "run", f"--output={root / 'output'}"),
        *("--set", f"data.uri={root / 'data'}", "--set", f"data.window={config.data.window}"),
        *(word for setting in settings for word in ("--set", setting)),
    ]
    with open(root / "screen", "wb") as screen:
        process = subprocess.Popen(
            command, cwd=PROJECT, stdout=screen, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            sample_nodes(process.pid, ended)
        finally:
            process.terminate()  # If it has not ended.
            status = process.wait()
    if status not in (0, 4):  # Pushed, or not blessed.
        shown = (root / "screen").read_text(errors="replace")[-4000:]
        raise RuntimeError(f"{command} ended with status {status}:\n{shown}")


def sample_nodes(pid: int, ended: Callable[[str, NodeCost], None]) -> None:
    """Measures each node of a runner until the runner has ended.

    Args:
      pid: The runner.
      ended: Called with the name and the cost of each node that has ended, or that runs when this
        is interrupted.
    """
    started: dict[str, float] = {}
    peaks: dict[str, int] = {}
    try:
        while started or _is_running(pid):
            held = _held_by_nodes(pid)
            for name, size in held.items():
                started.setdefault(name, time.monotonic())
                peaks[name] = max(peaks.get(name, 0), size)
            for name in [name for name in started if name not in held]:
                ended(name, NodeCost(time.monotonic() - started.pop(name), peaks.pop(name)))
            time.sleep(_SECONDS)
    finally:
        for name, since in started.items():
            ended(name, NodeCost(time.monotonic() - since, peaks[name]))


def _is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _held_by_nodes(pid: int) -> dict[str, int]:
    """The memory of each node of a runner, in bytes."""
    try:
        family = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return {}
    held: dict[str, int] = defaultdict(int)
    most: dict[str, int] = defaultdict(int)
    nodes: dict[int, str] = {}
    # Parents come first: what a node starts belongs to the node.
    for process in family:
        try:
            name = _node(process.pid) or nodes.get(process.ppid(), "")
            if name:
                resident, highest = _resident(process.pid)
                nodes[process.pid] = name
                held[name] += resident
                most[name] = max(most[name], highest)
        except (psutil.NoSuchProcess, OSError):
            continue
    return {name: max(size, most[name]) for name, size in held.items()}


def _resident(pid: int) -> tuple[int, int]:
    """The resident set of a process, now and at most since it was started or forked, in bytes.

    Raises:
      OSError: If it has ended.
    """
    sizes = dict(re.findall(r"(\w+):\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()))
    if "VmRSS" not in sizes:
        raise ProcessLookupError(pid)
    return 1024 * int(sizes["VmRSS"]), 1024 * int(sizes["VmHWM"])


def _node(pid: int) -> str:
    """The node whose log a process writes to, `logs/RUN/NODE.log`; "" for another process."""
    target = Path(os.readlink(f"/proc/{pid}/fd/1"))
    is_node = target.parts[-3:-2] == ("logs",) and target.stem not in _OTHER_LOGS
    return target.stem if is_node else ""


def _read() -> _Measured:
    path = RESULTS / "scale.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _write(measured: _Measured) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "scale.json").write_text(json.dumps(measured, indent=2) + "\n")


def _table(measured: _Measured) -> tuple[list[str], list[list[str]]]:
    counts = sorted(measured, key=int)
    heads = ["node"]
    for count in counts:
        heads += [f"{count} x ({measured[count]['rows']:,} rows), s", "GB"]
    names = dict.fromkeys(name for count in counts for name in measured[count]["nodes"])
    first = measured[counts[0]]["nodes"]
    rows = []
    for name in names:
        cells = [name]
        for count in counts:
            cost = measured[count]["nodes"].get(name)
            before = first.get(name) if count != counts[0] else None
            cells += _cells(cost, before) if cost else ["-", "-"]
        rows.append(cells)
    most = ["most"]
    for count in counts:
        peak = max((cost["peak_bytes"] for cost in measured[count]["nodes"].values()), default=0)
        most += ["", f"{peak / 1e9:.2f}{'' if peak <= _MOST_BYTES else ', above 2.5'}"]
    return heads, [*rows, most]


def _cells(cost: dict[str, Any], before: dict[str, Any] | None) -> list[str]:
    size = f"{cost['peak_bytes'] / 1e9:.2f}"
    if before:
        size += f" ({cost['peak_bytes'] / before['peak_bytes']:.1f} x)"
    return [f"{cost['seconds']:.1f}", size]


def _notes(measured: _Measured) -> str:
    notes = [
        "Peak of the resident memory of each node with all that it started (in brackets, how many "
        "times that of the first column); pages that processes share, as those of the imports, "
        "count in each. 2.5 GB a node is the goal. A node of less than a fifth of a second may not "
        "be seen."
    ]
    for count in sorted(measured, key=int):
        run = measured[count]
        if run["origin"] != origin():
            notes.append(f"{count} x: {run['origin']}.")
        if not run["complete"]:
            notes.append(f"The run of {count} x did not end; its last nodes may have been stopped.")
    return " ".join(notes)


if __name__ == "__main__":
    # So that the run ends with this program, and what was measured is written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
