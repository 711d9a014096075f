"""Measures `local_runner.py predict` on many rows: seconds, memory, and rows a second.

The rows are those of the worked example, repeated. The version is one that was pushed before.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa

from benchmarks.common import report, run_measured
from pipeline.config import load_config
from storage.parquet import open_file, write_row_groups
from storage.spans import find_spans

_ROWS_PER_GROUP = 65_536


@click.command()
@click.option("--rows", multiple=True, type=int, default=(1_000_000,), help="May be given again.")
@click.option("--runs", default="output", show_default=True, help="Output directory of a run.")
@click.option("--repeats", default=1, show_default=True, help="Times that each is measured.")
@click.option("--format", "formats", multiple=True, default=("tflite",), help="Model format.")
@click.option("--processes", default=1, show_default=True, help="Workers, each a process.")
@click.option("--explain", is_flag=True, help="With the contributions of features.")
def main(
    rows: tuple[int, ...],
    runs: str,
    repeats: int,
    formats: tuple[str, ...],
    processes: int,
    explain: bool,
) -> None:
    """Predicts tables of some sizes, and prints time and memory of the whole command."""
    cells, data = [], []
    with tempfile.TemporaryDirectory() as folder:
        for count, model_format in itertools.product(rows, formats):
            table = Path(folder) / f"{count}.parquet"
            if not table.exists():
                _write(table, count)
            best = min(
                (
                    run_measured(
                        [
                            *("local_runner.py", "predict", "--runs", runs),
                            *("--input", str(table), "--format", model_format),
                            *("--output", f"{folder}/{model_format}-{count}-{number}"),
                            *(["--explain"] if explain else []),
                            *_processes(processes),
                        ]
                    )
                    for number in range(repeats)
                ),
                key=lambda measured: measured.seconds,
            )
            peak = best.peak_bytes / 2**20
            cells.append(
                [
                    f"{count:,}",
                    f"{model_format}, explained" if explain else model_format,
                    f"{best.seconds:.1f}",
                    f"{count / best.seconds:,.0f}",
                    f"{peak:,.0f}",
                ]
            )
            data.append(
                {
                    "rows": count,
                    "format": model_format,
                    "processes": processes,
                    "explain": explain,
                    "seconds": best.seconds,
                    "peak_bytes": best.peak_bytes,
                }
            )
    heads = ["rows", "model", "seconds", "rows a second", "most memory, MiB"]
    notes = (
        "The whole command, with the start of Python, the verification of the version, reading and "
        f"writing Parquet, in {processes} process(es), whose memory is summed up; the fastest of "
        f"{repeats}. The limits are 30 s for 1,000,000 rows with TFLite, ten times that for "
        "10,000,000, and 1,536 MiB."
    )
    report("predict", heads, cells, data, notes)


def _processes(number: int) -> list[str]:
    """Options that have Beam start workers."""
    if number == 1:
        return []
    args = ["--direct_running_mode=multi_processing", f"--direct_num_workers={number}"]
    return ["--set", f"node_beam_args.BatchPredictor={json.dumps(args)}"]


def _write(path: Path, rows: int) -> None:
    """Writes the rows of all spans, again and again."""
    files = [file for span in find_spans(load_config().data.source) for file in span.files]
    spans = [open_file(file).read() for file in files]
    whole = pa.concat_tables(spans)
    tables = itertools.repeat(whole, -(-rows // len(whole)))
    batches = (batch for table in tables for batch in table.to_batches())
    left = rows

    def first_rows() -> Iterator[pa.RecordBatch]:
        nonlocal left
        for batch in batches:
            if left > 0:
                yield batch.slice(0, left)
                left -= batch.num_rows

    with path.open("wb") as out:
        write_row_groups(first_rows(), out, _ROWS_PER_GROUP)


if __name__ == "__main__":
    main()
