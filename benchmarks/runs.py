"""Measures a whole run on the default window, node by node, and a backtest of several months."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.common import node_seconds, report, run_measured
from orchestration.local.model_directories import list_directories

# A run is not blessed (4) where its month is hard; that is no matter of its time.
_ENDINGS = (0, 4)
_ADDITIONS = 20_000_000


@click.command()
@click.option("--as-of", type=int, help="Month of the run. Default: the newest.")
@click.option("--window", type=int, help="Months to learn from. Default: the configuration's.")
@click.option("--from", "first", type=int, help="First month of the backtest; none without it.")
@click.option("--to", "last", type=int, help="Its last month.")
def main(as_of: int | None, window: int | None, first: int | None, last: int | None) -> None:
    """Runs both in empty folders, and prints times: the command's own, imports included."""
    options = ["--set", f"data.window={window}"] if window else []
    before = _seconds_of_additions()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        command = ["local_runner.py", "run", f"--output={output / 'run'}", *options]
        command += [f"--as-of={as_of}"] if as_of else []
        run = run_measured(command, _ENDINGS, with_memory=False)
        (directory,) = list_directories(output / "run")
        nodes = node_seconds(directory.metadata)
        rows = [[name, f"{seconds:.1f}"] for name, seconds in nodes.items()]
        rows.append(["whole run", f"{run.seconds:.1f}"])
        data: dict[str, Any] = {"nodes": nodes, "run": run.seconds}
        if first and last:
            months = [f"--from={first}", f"--to={last}", f"--output={output / 'backtest'}"]
            command = ["local_runner.py", "backtest", *months, *options]
            backtest = run_measured(command, with_memory=False)
            rows.append([f"backtest, {first} to {last}", f"{backtest.seconds:.1f}"])
            data["backtest"] = backtest.seconds
    data["additions"] = [before, after := _seconds_of_additions()]
    notes = (
        f"Twenty million additions in Python took {before:.2f} s before and {after:.2f} s after: "
        "so fast is the machine."
    )
    report("runs", ["node or command", "seconds"], rows, data, notes)


def _seconds_of_additions() -> float:
    """How fast the machine is, of three tries the best."""
    best = float("inf")
    for _ in range(3):
        start, total = time.perf_counter(), 0
        for number in range(_ADDITIONS):
            total += number
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
