"""Measures `local_runner.py predict` on many rows: seconds, memory, and rows a second.

The rows are those of the worked example, repeated. The version is one that was pushed before.
"""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import pyarrow as pa
from pyarrow import csv

from benchmarks.common import report, run_measured
from pipeline.config import load_config
from storage.parquet import open_file, write_row_groups
from storage.spans import find_spans
from storage.text_buffers import JsonLinesBuffer

_ROWS_PER_GROUP = 65_536
# What 1,000,000 rows may take, and any number of them.
_SECONDS, _MIB = 30.0, 1536


@dataclass(frozen=True)
class Case:
    """What is predicted.

    Attributes:
      rows: How many rows.
      format: Format of the input, and of the predictions.
      explain: Whether with the contributions of features.
    """

    rows: int
    format: str
    explain: bool = False


@click.command()
@click.option(
    "--rows",
    multiple=True,
    type=click.IntRange(min=1),
    default=(1_000_000, 10_000_000),
    show_default=True,
    help="Rows of Parquet; may be given again. The first number is measured as text too.",
)
@click.option(
    "--explained-rows",
    type=click.IntRange(min=0),
    default=2_000,
    show_default=True,
    help="Rows that are explained; 0 for none.",
)
@click.option("--runs", default="output", show_default=True, help="Output directory of a run.")
@click.option("--repeats", default=1, show_default=True, help="Times that each is measured.")
@click.option("--model-format", default="tflite", show_default=True, help="Format of the model.")
@click.option("--processes", default=1, show_default=True, help="Workers, each a process.")
def main(
    rows: tuple[int, ...],
    explained_rows: int,
    runs: str,
    repeats: int,
    model_format: str,
    processes: int,
) -> None:
    """Predicts tables of some sizes and formats, and prints time and memory of the command."""
    cases = [Case(count, "parquet") for count in rows]
    cases += [Case(rows[0], "csv"), Case(rows[0], "jsonl")]
    if explained_rows:
        cases.append(Case(explained_rows, "parquet", explain=True))
    options = ["--runs", runs, "--model-format", model_format, *_processes(processes)]
    cells, data = [], []
    for case in cases:
        seconds, peak = _measure(case, options, repeats)
        mebibytes = peak / 2**20
        held = seconds <= _SECONDS * max(1, case.rows / 1e6) and mebibytes <= _MIB
        cells.append(
            [
                f"{case.rows:,}",
                f"{case.format}, explained" if case.explain else case.format,
                f"{seconds:.1f}",
                f"{case.rows / seconds:,.0f}",
                f"{mebibytes:,.0f}",
                "" if case.explain else ("yes" if held else "no"),
            ]
        )
        data.append(
            asdict(case)
            | {"model": model_format, "processes": processes}
            | {"seconds": seconds, "peak_bytes": peak}
        )
    heads = ["rows", "table", "seconds", "rows a second", "most memory, MiB", "within the limits"]
    notes = (
        "The whole command, with the start of Python, the verification of the version, reading and "
        f"writing the table, by the {model_format} model in {processes} process(es), whose memory "
        f"is summed up; the fastest of {repeats}. The predictions have the format of the table. "
        f"The limits are {_SECONDS:.0f} s for 1,000,000 rows, ten times that for 10,000,000, and "
        f"{_MIB:,} MiB. An explained row takes thousands of predictions and has no limit."
    )
    report("predict", heads, cells, data, notes)


def _measure(case: Case, options: list[str], repeats: int) -> tuple[float, int]:
    """Seconds and bytes of the fastest run."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        table, output = Path(folder, f"table.{case.format}"), Path(folder, "predictions")
        _write(table, case)
        explain = ["--explain"] if case.explain else []
        paths = ["--input", str(table), "--output", str(output)]
        for _ in range(repeats):
            measured = run_measured(["local_runner.py", "predict", *options, *paths, *explain])
            found.append((measured.seconds, measured.peak_bytes))
            shutil.rmtree(output)
    return min(found)


def _processes(number: int) -> list[str]:
    """Options that have Beam start workers."""
    if number == 1:
        return []
    args = ["--direct_running_mode=multi_processing", f"--direct_num_workers={number}"]
    return ["--set", f"node_beam_args.BatchPredictor={json.dumps(args)}"]


def _write(path: Path, case: Case) -> None:
    """Writes the rows of all spans, again and again."""
    files = [file for span in find_spans(load_config().data.source) for file in span.files]
    whole = pa.concat_tables([open_file(file).read() for file in files])
    batches = _first_rows(itertools.cycle(whole.to_batches(_ROWS_PER_GROUP)), case.rows)
    with path.open("wb") as out:
        if case.format == "parquet":
            write_row_groups(batches, out, _ROWS_PER_GROUP)
        elif case.format == "csv":
            with csv.CSVWriter(out, whole.schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
        else:
            for batch in batches:
                lines = JsonLinesBuffer(whole.schema)
                lines.add(pa.Table.from_batches([batch]))
                out.write(lines.close())


def _first_rows(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch.slice(0, rows)
        rows -= batch.num_rows
        if rows <= 0:
            return


if __name__ == "__main__":
    main()
