"""Measures `new`: a large table, and from a CSV file to a pushed model."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
from pyarrow import csv

from benchmarks.common import PROJECT, report, run_measured

_NAME = "benchmark_of_new"
_BATCH = 50_000
_NUMBERS, _INTEGERS, _TEXTS = 25, 10, 13


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="Rows of the large table.")
@click.option(
    "--run-rows", default=15_000, show_default=True, help="Rows of the table to train on."
)
def main(rows: int, run_rows: int) -> None:
    """Makes tables of 50 columns; runs `new` on both, and the pipeline on the small one."""
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for count, then_run in ((rows, False), (run_rows, True)):
            path = Path(folder) / f"{count}.csv"
            write_rows(path, count)
            try:
                table.append(_measure(path, count, then_run, Path(folder) / "output"))
            finally:
                _remove()
    headers = ["rows", "columns", "new, seconds", "peak memory, MB", "new and run, seconds"]
    notes = (
        "Rows of random numbers, categories, a time and a binary label, as CSV. `run` is the whole "
        "pipeline to a pushed version; set-up is not counted."
    )
    report("new", headers, table, {"rows": table}, notes)


def write_rows(path: Path, rows: int) -> None:
    """Writes a CSV file of random rows whose label depends on some columns."""
    random = np.random.default_rng(7)
    fields = [(f"number_{i}", pa.float64()) for i in range(_NUMBERS)]
    fields += [(f"count_{i}", pa.int64()) for i in range(_INTEGERS)]
    fields += [(f"kind_{i}", pa.string()) for i in range(_TEXTS)]
    schema = pa.schema([*fields, ("time", pa.timestamp("s")), ("label", pa.string())])
    step = 365 * 24 * 3600 / rows  # The rows are of one year.
    with csv.CSVWriter(str(path), schema) as out:
        for begin in range(0, rows, _BATCH):
            count = min(_BATCH, rows - begin)
            numbers = [np.round(random.lognormal(0, 1 + i / 10, count), 4) for i in range(_NUMBERS)]
            integers = [random.integers(0, 10 ** (1 + i // 3), count) for i in range(_INTEGERS)]
            kinds = [random.integers(0, 3 * (i + 1) ** 2, count) for i in range(_TEXTS)]
            seconds = ((begin + np.arange(count)) * step).astype("timedelta64[s]")
            score = np.log(numbers[0]) + 0.5 * (integers[3] > 50) + random.normal(size=count)
            columns = [*numbers, *integers, *(np.char.add("v", k.astype(str)) for k in kinds)]
            columns += [np.datetime64("2024-01-01T00:00:00") + seconds]
            columns += [np.where(score > 1, "yes", "no")]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            out.write_table(pa.table(arrays, schema=schema))


def _measure(path: Path, rows: int, then_run: bool, output: Path) -> list[str]:
    arguments = ["--data", str(path), "--label", "label", "--time", "time", "--yes"]
    made = run_measured(["local_runner.py", "new", _NAME, *arguments])
    whole = ""
    if then_run:
        ran = run_measured(["local_runner.py", "run", "--model", _NAME, "--output", str(output)])
        whole = f"{made.seconds + ran.seconds:.0f}"
    columns = _NUMBERS + _INTEGERS + _TEXTS + 2
    memory = f"{made.peak_bytes / 1e6:,.0f}"
    return [f"{rows:,}", str(columns), f"{made.seconds:.0f}", memory, whole]


def _remove() -> None:
    for folder in (f"models/{_NAME}", f"tests/models/{_NAME}"):
        shutil.rmtree(PROJECT / folder, ignore_errors=True)
    (PROJECT / f"schema/{_NAME}.pbtxt").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
