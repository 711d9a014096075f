"""Compares SpanExampleGen with stock CsvExampleGen on the same rows, as CSV files."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from tfx import v1 as tfx
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor

from benchmarks.common import report
from benchmarks.stock_pipeline import SPLITS, write_csv
from components.span_example_gen.component import SpanExampleGen
from ml.artifacts import schema_uri
from pipeline.config import Config, load_config
from storage import spans
from storage.parquet import open_file

_artifacts = tfx.types.standard_artifacts


@click.command()
@click.option("--window", default=11, show_default=True, help="Months to train on.")
@click.option("--repeats", default=3, show_default=True, help="Times that each is run.")
def main(window: int, repeats: int) -> None:
    """Runs both executors in turn, after both have read a month, and prints seconds.

    SpanExampleGen keeps nothing here: each time it parses all files.
    """
    times: dict[str, list[float]] = {"SpanExampleGen": [], "CsvExampleGen": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # What libraries do once in a process is no cost of the rows.
        _measure(load_config(settings=["data.window=1"]), root / "first")
        config = load_config(settings=[f"data.window={window}"])
        for number in range(repeats):
            for name, took in _measure(config, root / str(number)).items():
                times[name].append(took)
    ours, stock = (min(times[name]) for name in times)
    window_of = spans.resolve_window(config.data.source, config.data.as_of, window)
    count = sum(open_file(path).metadata.num_rows for s in window_of.spans for path in s.files)
    rows = [[f"{count:,}", f"{ours:.1f}", f"{stock:.1f}", f"{stock / ours:.1f} x"]]
    headers = ["rows", "SpanExampleGen, seconds", "CsvExampleGen, seconds", "ratio"]
    notes = (
        f"The same rows in the same splits, the fastest of {repeats}, in one process and with "
        "nothing kept of earlier runs. SpanExampleGen also checks types against the schema."
    )
    report("ingestion", headers, rows, {"rows": count, "seconds": times}, notes)


def _measure(config: Config, root: Path) -> dict[str, float]:
    """Seconds of both executors."""
    return {
        "SpanExampleGen": _run_ours(config, root / "ours"),
        "CsvExampleGen": _run_stock(config, root / "stock"),
    }


def _run_ours(config: Config, root: Path) -> float:
    """Seconds of SpanExampleGen on a CSV file per span."""
    data = config.data
    csv = root / "csv"
    csv.mkdir(parents=True)
    for span in spans.resolve_window(data.source, data.as_of, data.window).spans:
        (path,) = span.files
        open_file(path).read().to_pandas().to_csv(csv / f"{span.number}.csv", index=False)
    source = replace(data.source, uri=str(csv), pattern="{YYYY}{MM}.csv")
    schema = _new(_artifacts.Schema(), root / "schema")
    Path(schema_uri(schema)).write_text(Path(config.gate.schema).read_text(encoding="utf-8"))
    parameters = {
        "data_uri": str(csv),
        "layout": source.layout,
        "as_of": data.as_of,
        "window": data.window,
        "eval_days": data.eval_days,
        "eval_share": data.eval_share,
        "test_share": data.test_share,
        "key_columns": json.dumps(data.key_columns),
        "fingerprint": "",
    }
    examples = _new(_artifacts.Examples(), root / "examples")
    executor = SpanExampleGen.EXECUTOR_SPEC.executor_class
    return _run(executor, config, {"schema": [schema]}, examples, parameters)


def _run_stock(config: Config, root: Path) -> float:
    """Seconds of CsvExampleGen on a CSV file per split."""
    write_csv(config, root / "csv")
    splits = [tfx.proto.Input.Split(name=name, pattern=f"{name}/*") for name in SPLITS]
    component = tfx.components.CsvExampleGen(
        input_base=str(root / "csv"), input_config=tfx.proto.Input(splits=splits)
    )
    examples = _new(_artifacts.Examples(), root / "examples")
    executor = component.executor_spec.executor_class
    return _run(executor, config, {}, examples, dict(component.exec_properties))


def _new(artifact: Any, folder: Path) -> Any:
    folder.mkdir(parents=True)
    artifact.uri = str(folder)
    return artifact


def _run(
    executor: Any, config: Config, inputs: Any, examples: Any, parameters: dict[str, Any]
) -> float:
    context = BaseBeamExecutor.Context(
        beam_pipeline_args=list(config.beam_args), tmp_dir=tempfile.gettempdir()
    )
    begin = time.perf_counter()
    executor(context).Do(inputs, {"examples": [examples]}, parameters)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
