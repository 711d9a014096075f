"""Measures `new`: large tables, the repository's models made from their data, a first answer."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from pyarrow import csv
from sklearn.datasets import load_breast_cancer

from benchmarks.common import PROJECT, Measured, report, run_measured
from orchestration.outcome import Outcome

# Names of the models that are made, which are deleted at the end.
_OF_TABLE, _OF_MODEL, _OF_CSV = "benchmark_of_table", "benchmark_of_model", "benchmark_of_csv"
_BATCH = 50_000
_NUMBERS, _INTEGERS, _TEXTS = 25, 10, 13
_PARTS = ("tables", "models", "first_answer")
_OUTCOMES = (Outcome.PUSHED, Outcome.NOT_BLESSED)
_MODELS = ("penguins", "digits", "diamonds", "flights")


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="Rows of the large table.")
@click.option(
    "--run-rows", default=15_000, show_default=True, help="Rows of the table to train on."
)
@click.option("--part", "parts", multiple=True, type=click.Choice(_PARTS), help="Only this part.")
@click.option("--model", "models", multiple=True, type=click.Choice(_MODELS), help="Only this one.")
def main(rows: int, run_rows: int, parts: tuple[str, ...], models: tuple[str, ...]) -> None:
    """Runs `new` on tables of 50 columns, on the data of the repository's models, and on a CSV."""
    chosen = parts or _PARTS
    if "first_answer" in chosen:
        _measure_first_answer()
    if "tables" in chosen:
        _measure_tables(rows, run_rows)
    if "models" in chosen:
        _compare_models(models or _MODELS)


def _measure_tables(rows: int, run_rows: int) -> None:
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for count, then_run in ((rows, False), (run_rows, True)):
            path = Path(folder) / f"{count}.csv"
            write_rows(path, count)
            with _model_for(_OF_TABLE, path, "label", "time") as made:
                memory = f"{made.peak_bytes / 1e6:,.0f}"
                whole = ""
                if then_run:
                    ran, record = _run(_OF_TABLE, Path(folder) / "output")
                    pushed = "" if record else ", not pushed"
                    whole = f"{made.seconds + ran.seconds:.0f}{pushed}"
            columns = str(_NUMBERS + _INTEGERS + _TEXTS + 2)
            table.append([f"{count:,}", columns, f"{made.seconds:.0f}", memory, whole])
    headers = ["rows", "columns", "new, seconds", "peak memory, MB", "new and run, seconds"]
    notes = (
        "Rows of random numbers, categories, a time and a binary label, as CSV. `run` is the whole "
        "pipeline; set-up is not counted."
    )
    report("new", headers, table, {"rows": table}, notes)


def _compare_models(names: tuple[str, ...]) -> None:
    """Makes each model from its data, runs it and the one written by hand."""
    table = []
    for name in names:
        settings = tomllib.loads((PROJECT / "models" / name / "config.toml").read_text("utf-8"))
        data = settings["data"]
        with tempfile.TemporaryDirectory() as folder:
            _, by_hand = _run(name, Path(folder) / "by_hand")
            time_column = data.get("time_column", "")
            with _model_for(_OF_MODEL, PROJECT / data["uri"], settings["label"], time_column):
                _, generated = _run(_OF_MODEL, Path(folder) / "generated")
        table.append(_comparison(name, by_hand, generated))
        # After each model, so that a measurement that is stopped leaves what it has.
        _report_comparison(table)


def _report_comparison(table: list[list[str]]) -> None:
    headers = ["model", "metric", "by hand", "by new", "by new is better by", "within 0.01"]
    notes = (
        "`new --yes` on the data of each model, and a run of both: the metric of the compressed "
        "model on the rows that neither has seen. The difference of an RMSE is in standard "
        "deviations of the label, whose unit it has. Windows differ: the flights' by hand is six "
        "months, that by `new` as long as the data allow."
    )
    report("new and by hand", headers, table, {"rows": table}, notes)


def _comparison(name: str, by_hand: dict[str, Any], generated: dict[str, Any]) -> list[str]:
    """The cells of a model's row."""
    if not (by_hand and generated):
        cells = [
            record["headline"]["text"] if record else "refused" for record in (by_hand, generated)
        ]
        return [name, "", *cells, "", "no"]
    headline = by_hand["headline"]
    before, after = headline["value"], generated["headline"]["value"]
    better = after - before
    if headline["name"] == "rmse":
        better = (before - after) / label_deviation(by_hand["metrics"])
    within = "yes" if better >= -0.01 else "no"
    cells = [by_hand["headline"]["text"], generated["headline"]["text"]]
    return [name, headline["title"], *cells, f"{better:+.4f}", within]


def label_deviation(metrics: dict[str, float]) -> float:
    """The standard deviation of the labels behind the metrics of a regression.

    Example:
      >>> label_deviation({"rmse": 3.0, "r2": 0.75})
      6.0
    """
    return metrics["rmse"] / math.sqrt(1 - metrics["r2"])


def _measure_first_answer() -> None:
    """Goes from a CSV file that no model knows to an answer over REST."""
    frame = load_breast_cancer(as_frame=True).frame
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "tumours.csv", Path(folder) / "output"
        frame.to_csv(path, index=False)
        started = time.perf_counter()
        with _model_for(_OF_CSV, path, "target") as made:
            ran, record = _run(_OF_CSV, output)
            if not record:
                raise RuntimeError(f"the model was not pushed:\n{ran.output}")
            settings = PROJECT / "models" / _OF_CSV / "config.toml"
            features = tomllib.loads(settings.read_text("utf-8"))["features"]
            row = frame[features].iloc[0]
            serving_dir, serving_started = output / "serving_model", time.perf_counter()
            answer = _ask(serving_dir, {name: float(row[name]) for name in features})
        finished = time.perf_counter()
    steps = {
        "`new`": made.seconds,
        "`run`, to a pushed version": ran.seconds,
        "server's start and the first answer": finished - serving_started,
        "all of it": finished - started,
    }
    table = [[step, f"{seconds:.0f}"] for step, seconds in steps.items()]
    notes = (
        f"scikit-learn's table of {len(frame)} tumours, as CSV. {record['headline']['title']} "
        f"{record['headline']['text']}; the answer: {json.dumps(answer)}."
    )
    report("first answer", ["step", "seconds"], table, {"seconds": steps, "answer": answer}, notes)


def _ask(serving_dir: Path, row: dict[str, float]) -> Any:
    """Starts a server, sends one row over REST, and returns the prediction."""
    command = [sys.executable, "-m", "serving", "serve", str(serving_dir), "--prefer-tflite"]
    command += ["--grpc-port", "0", "--rest-port", "0"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            events: dict[str, Any] = {}
            # In either order: a model may be loaded before the server listens.
            while not {"listening", "serving"} <= events.keys():
                line = server.stdout.readline()
                if not line:
                    raise RuntimeError(f"the server ended; it told of {', '.join(events)}")
                if line.startswith("{"):
                    event = json.loads(line)
                    events[event["event"]] = event
            port = events["listening"]["rest_port"]
            body = json.dumps({"signature_name": "raw_features", "instances": [row]})
            url = f"http://127.0.0.1:{port}/v1/models/{_OF_CSV}:predict"
            with urllib.request.urlopen(url, body.encode(), timeout=60) as response:
                return json.load(response)["predictions"]
        finally:
            server.terminate()


@contextmanager
def _model_for(name: str, path: Path, label: str, time_column: str = "") -> Iterator[Measured]:
    """Makes a model of a table, and deletes it at the end."""
    arguments = ["--data", str(path), "--label", label, "--yes"]
    arguments += ["--time", time_column] if time_column else []
    try:
        yield run_measured(["local_runner.py", "new", name, *arguments])
    finally:
        for folder in (f"models/{name}", f"tests/models/{name}"):
            shutil.rmtree(PROJECT / folder, ignore_errors=True)
        (PROJECT / f"schema/{name}.pbtxt").unlink(missing_ok=True)


def _run(model: str, output: Path) -> tuple[Measured, dict[str, Any]]:
    """Runs a model's pipeline; returns the provenance of what it pushed, nothing if refused."""
    words = ["local_runner.py", "run", "--model", model, "--output", str(output)]
    done = run_measured(words, allowed=[each.exit_status for each in _OUTCOMES])
    records = sorted(output.glob("serving_model/*/.flightdeck/*/provenance.json"))
    click.echo(done.output)
    return done, json.loads(records[-1].read_text("utf-8")) if records else {}


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


if __name__ == "__main__":
    main()
