"""Measures what one month more costs the data nodes, with and without what was kept."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from tfx import v1 as tfx
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor

from benchmarks.common import report
from components.span_example_gen.component import SpanExampleGen
from components.span_example_gen.plan import SPLITS
from components.statistics_gen import StatisticsGen
from components.transform.component import Transform
from ml.artifacts import schema_uri
from pipeline.config import load_config
from pipeline.model import Model
from storage.span_store import STORE_VARIABLE

_NODES = ("SpanExampleGen", "StatisticsGen", "Transform's analysis")
_artifacts = tfx.types.standard_artifacts


@click.command()
@click.option("--month", type=int, default=201312, show_default=True, help="The month more.")
@click.option("--window", type=int, default=6, show_default=True)
def main(month: int, window: int) -> None:
    """Runs the executors of the data nodes on two windows one after the other, and prints times.

    First the window before `--month`, with an empty store; then the window of `--month`, with what
    was kept of the first; then that again with an empty store, as if nothing were ever kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ[STORE_VARIABLE] = str(root / "warm-up")
        _measure(root / "0", month, 1)  # What libraries do once in a process is no month's cost.
        os.environ[STORE_VARIABLE] = str(root / "store")
        first = _measure(root / "1", _month_before(month), window)
        more = _measure(root / "2", month, window)
        shutil.rmtree(root / "store")
        anew = _measure(root / "3", month, window)
    rows = [
        [
            name,
            *(f"{took[name]:.1f}" for took in (first, more, anew)),
            f"{more[name] / first[name]:.0%}",
        ]
        for name in (*_NODES, "all")
    ]
    headers = ["seconds", "first run", "one month more", "the same, nothing kept", "more / first"]
    report("window", headers, rows, {"first": first, "more": more, "anew": anew})


def _month_before(month: int) -> int:
    return month - 1 if month % 100 > 1 else month - 100 + 11


def _measure(folder: Path, month: int, window: int) -> dict[str, float]:
    """Seconds of each data node, and of all."""
    config = load_config()
    data, model = config.data, Model.load(config)
    schema = _new(_artifacts.Schema(), folder / "schema")
    shutil.copy(config.gate.schema, schema_uri(schema))
    examples = _new(_artifacts.Examples(), folder / "examples")
    statistics = _new(_artifacts.ExampleStatistics(), folder / "statistics")
    graph = _new(_artifacts.TransformGraph(), folder / "graph")
    transformed = _new(_artifacts.Examples(), folder / "transformed")
    took = [
        _run(
            SpanExampleGen,
            {"schema": [schema]},
            {"examples": [examples]},
            {
                "data_uri": data.uri,
                "layout": data.source.layout,
                "as_of": month,
                "window": window,
                "eval_days": data.eval_days,
                "eval_share": data.eval_share,
                "test_share": data.test_share,
                "key_columns": json.dumps(data.key_columns),
                "fingerprint": "",
            },
        )
    ]
    assert json.loads(examples.split_names) == list(SPLITS)
    inputs = {"examples": [examples], "schema": [schema]}
    took.append(_run(StatisticsGen, inputs, {"statistics": [statistics]}, {}))
    took.append(
        _run(
            Transform,
            inputs,
            {"transform_graph": [graph], "transformed_examples": [transformed]},
            {
                "preprocessing_fn": model.preprocessing_fn,
                "custom_config": json.dumps(model.custom_config),
                "analyze": '["train"]',
                "transform": "[]",
            },
        )
    )
    return dict(zip(_NODES, took, strict=True)) | {"all": sum(took)}


def _new(artifact: Any, folder: Path) -> Any:
    folder.mkdir(parents=True)
    artifact.uri = str(folder)
    return artifact


def _run(component: Any, inputs: Any, outputs: Any, parameters: dict[str, Any]) -> float:
    """Runs the executor of a component and returns its time in seconds."""
    context = BaseBeamExecutor.Context(
        beam_pipeline_args=list(load_config().beam_args), tmp_dir=tempfile.gettempdir()
    )
    begin = time.perf_counter()
    component.EXECUTOR_SPEC.executor_class(context).Do(inputs, outputs, parameters)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
