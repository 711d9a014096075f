"""Measures time and memory of every node with 1, 10 and 30 times the rows."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.common import PROJECT, node_seconds, report
from orchestration.local.model_directories import list_directories
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


@click.command()
@click.option("--times", type=int, multiple=True, default=(1, 10, 30), show_default=True)
@click.option("--window", default=11, show_default=True, help="Months to learn from.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Settings of the runs.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="For rows and runs: about 1 GB for each million rows. [default: a temporary folder]",
)
def main(
    times: tuple[int, ...], window: int, settings: tuple[str, ...], folder: Path | None
) -> None:
    """Runs the pipeline on all months, each row that many times, and prints what each node took.

    A copy of a row differs from it by a little noise in each measured number, within the range of
    the column, so that the schema holds and no row is there twice. Memory is the resident set of a
    node's process and all that it started, sampled five times a second.
    """
    config = load_config(settings=[f"data.window={window}", *settings])
    measured = {}
    for count in times:
        with tempfile.TemporaryDirectory(dir=folder) as root:
            rows = multiply_rows(config, count, Path(root, "data"))
            nodes = _measure(Path(root), config, settings)
            measured[count] = {"rows": rows, "nodes": {n: asdict(one) for n, one in nodes.items()}}
    report("scale", *_table(measured), measured, _notes(settings))


@dataclass(frozen=True)
class NodeCost:
    """What a node took.

    Attributes:
      seconds: From registration to publication.
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


def _measure(root: Path, config: Config, settings: tuple[str, ...]) -> dict[str, NodeCost]:
    output = root / "output"
    command = [
        *(sys.executable, "local_runner.py", "run", f"--output={output}"),
        *("--set", f"data.uri={root / 'data'}", "--set", f"data.window={config.data.window}"),
        *(word for setting in settings for word in ("--set", setting)),
    ]
    with open(root / "screen", "wb") as screen:
        process = subprocess.Popen(
            command, cwd=PROJECT, stdout=screen, stderr=subprocess.STDOUT, start_new_session=True
        )
        peaks: dict[str, int] = defaultdict(int)
        sampler = threading.Thread(target=_sample, args=(process.pid, peaks))
        sampler.start()
        status = process.wait()
        sampler.join()
    if status not in (0, 4):  # Pushed, or not blessed.
        shown = (root / "screen").read_text(errors="replace")[-4000:]
        raise RuntimeError(f"{command} ended with status {status}:\n{shown}")
    (directory,) = list_directories(output)
    seconds = node_seconds(directory.metadata)
    return {name: NodeCost(seconds[name], peaks.get(name, 0)) for name in seconds}


def _sample(pid: int, peaks: dict[str, int]) -> None:
    """Keeps the most memory of each node until the runner has ended."""
    while psutil.pid_exists(pid):
        held: dict[str, int] = defaultdict(int)
        try:
            runner = psutil.Process(pid)
            if runner.status() == psutil.STATUS_ZOMBIE:
                return
            family = runner.children(recursive=True)
        except psutil.NoSuchProcess:
            return
        # Parents come first: what a node starts belongs to the node.
        nodes: dict[int, str] = {}
        for process in family:
            try:
                name = _node(process.pid) or nodes.get(process.ppid(), "")
                if name:
                    nodes[process.pid] = name
                    held[name] += process.memory_info().rss
            except (psutil.NoSuchProcess, OSError):
                continue
        for name, size in held.items():
            peaks[name] = max(peaks[name], size)
        time.sleep(_SECONDS)


def _node(pid: int) -> str:
    """The node whose log a process writes to, `logs/RUN/NODE.log`; "" for another process."""
    target = Path(os.readlink(f"/proc/{pid}/fd/1"))
    is_node = target.parts[-3:-2] == ("logs",) and target.stem not in _OTHER_LOGS
    return target.stem if is_node else ""


def _table(measured: dict[int, Any]) -> tuple[list[str], list[list[str]]]:
    heads = ["node"]
    for count, run in measured.items():
        heads += [f"{count} x ({run['rows']:,} rows), s", "GB"]
    names = dict.fromkeys(name for run in measured.values() for name in run["nodes"])
    rows = []
    for name in names:
        cells = [name]
        for run in measured.values():
            cost = run["nodes"].get(name, {"seconds": 0.0, "peak_bytes": 0})
            # A node of less than a fifth of a second may not be seen.
            size = cost["peak_bytes"] / 1e9
            cells += [f"{cost['seconds']:.1f}", f"{size:.2f}" if size else "-"]
        rows.append(cells)
    most = ["most"]
    for run in measured.values():
        peak = max(cost["peak_bytes"] for cost in run["nodes"].values())
        most += ["", f"{peak / 1e9:.2f}{'' if peak <= _MOST_BYTES else ', above 2.5'}"]
    return heads, [*rows, most]


def _notes(settings: tuple[str, ...]) -> str:
    chosen = f" Settings: {', '.join(settings)}." if settings else ""
    return (
        "Peak of the resident memory of each node with all that it started; pages that processes "
        f"share, as those of the imports, count in each. 2.5 GB a node is the goal.{chosen}"
    )


if __name__ == "__main__":
    main()
