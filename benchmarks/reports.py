"""Measures how long the pages of finished runs take to make, and how large they are."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.common import PROJECT, report
from orchestration.local.history import list_runs
from orchestration.local.model_directories import list_directories
from orchestration.local.reports import page_of

SECONDS, MEGABYTES = 5.0, 2.0


def measure(output: Path, run_id: str) -> tuple[float, float]:
    """Seconds, and CPU seconds, in which a process makes the page of a run and the index."""
    command = [sys.executable, "local_runner.py", "report", run_id, "--again", f"--output={output}"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@click.command()
@click.option("--run", "output", type=click.Path(exists=True, path_type=Path), default="output")
@click.option("--newest", type=click.IntRange(min=1), default=5, show_default=True)
def main(output: Path, newest: int) -> None:
    """Makes the pages of the newest runs of an output directory again, in a copy of it."""
    rows, data = [], []
    with tempfile.TemporaryDirectory() as folder:
        # Artifacts are read where they are.
        ignored = shutil.ignore_patterns("artifacts", "spans", "logs")
        copy = Path(shutil.copytree(output.resolve(), Path(folder) / "output", ignore=ignored))
        found = [(d, record) for d in list_directories(copy) for record in list_runs(d)]
        found.sort(key=lambda one: one[1].run_id, reverse=True)
        for directory, record in found[:newest]:
            seconds, processor = measure(copy, record.run_id)
            size = page_of(directory, record.run_id).stat().st_size / 1e6
            verdict = "yes" if seconds <= SECONDS and size <= MEGABYTES else "no"
            name = f"{directory.model} {record.run_id}, {record.outcome}"
            rows.append([name, f"{seconds:.1f}", f"{processor:.1f}", f"{size:.2f} MB", verdict])
            data.append({"run": name, "seconds": seconds, "cpu": processor, "megabytes": size})
    report(
        "reports",
        ["run", "seconds", "CPU seconds", "page", f"{SECONDS:g} s and {MEGABYTES:g} MB at most"],
        rows,
        data,
        "Of `local_runner.py report RUN --again`, with the start of the process and the index. At "
        "the end of a run, its own process makes them.",
    )


if __name__ == "__main__":
    main()
