"""Times CompressionEvaluator's three models in stock TFMA and by columns, on the same rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import click
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_model_analysis as tfma

from benchmarks.common import report, run_measured
from components.evaluator.evaluation import (
    Models,
    evaluate_by_columns,
    evaluate_by_rows,
    with_defaults,
)
from components.evaluator.results import read_metrics
from ml.file_names import SCHEMA_FILE
from orchestration.local.model_directories import list_directories
from pipeline.config import load_config
from pipeline.evaluation import make_compression_eval_config
from pipeline.model import Model

_SMALL = 2_500
_COLUMNS = ["evaluation", "rows", "seconds", "CPU seconds", "AUC", "AUC, largest difference"]


@click.command()
@click.option(
    "--run",
    "output",
    type=click.Path(exists=True, path_type=Path),
    help="Output directory of a finished run; without it, the pipeline runs first.",
)
def main(output: Path | None) -> None:
    """Evaluates the whole month and its first 2,500 rows, and prints what each way took."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if output is None:
            output = work / "run"
            run_measured(["local_runner.py", "run", f"--output={output}"], allowed=(0, 4))
        (directory,) = list_directories(output)
        runs = sorted(directory.artifacts.glob("*/CompressionEvaluator"))
        measured = _measure(runs[-1].parent, work)
    rows = [
        [
            item["evaluation"],
            f"{item['rows']:,}",
            f"{item['seconds']:.1f}",
            f"{item['cpu_seconds']:.1f}",
            f"{item['auc']:.6f}",
            f"{item['difference']:.1e}",
        ]
        for item in measured
    ]
    notes = (
        "Both in one process, the small ones first; a first evaluation of all, not shown, loads "
        "what is loaded once. The difference is that of any slice from stock TFMA's. Stock TFMA "
        "computes no intervals here."
    )
    report("evaluation", _COLUMNS, rows, measured, notes)


def _measure(artifacts: Path, work: Path) -> list[dict[str, Any]]:
    def one(pattern: str) -> str:
        (path,) = artifacts.glob(pattern)
        return str(path)

    compressed = one("Quantizer/quantized_model/*/Format-Serving")
    models: Models = {
        "tflite": (compressed, True),
        "saved_model": (compressed, False),
        "float": (one("Trainer/model/*/Format-Serving"), False),
    }
    schema = tfdv.load_schema_text(one(f"ImportSchemaGen/schema/*/{SCHEMA_FILE}"))
    files = [str(path) for path in sorted(artifacts.glob("SpanExampleGen/examples/*/Split-test/*"))]
    settings = load_config()
    model = Model.load(settings)
    config = make_compression_eval_config(
        settings.compression, settings.evaluation.min_slice_examples, model
    )
    config = with_defaults(config, has_baseline=True)
    plain = tfma.EvalConfig()
    plain.CopyFrom(config)
    plain.options.ClearField("compute_confidence_intervals")
    ways: list[tuple[str, Callable[..., None], tfma.EvalConfig]] = [
        ("stock TFMA", evaluate_by_rows, plain),
        ("by columns", evaluate_by_columns, plain),
        ("by columns, with intervals", evaluate_by_columns, config),
    ]
    small = str(work / "small.gz")
    _copy_rows(files, small, _SMALL)
    measured: list[dict[str, Any]] = []
    for names in ([small], [small], files):
        expected: dict[str, float] = {}
        for number, (name, way, way_config) in enumerate(ways):
            output = str(work / f"evaluation-{len(measured)}")
            item = _time(way, names, schema, model.task, way_config, models, output)
            aucs = {
                key: auc
                for key, metrics in read_metrics(output).items()
                if (auc := metrics.get("auc")) is not None
            }
            expected = expected if number else aucs
            item |= {"evaluation": name, "auc": aucs["Overall"], "rows": _count(names)}
            item["difference"] = max(abs(aucs[key] - auc) for key, auc in expected.items())
            measured.append(item)
    return measured[len(ways) :]


def _time(way: Callable[..., None], files: list[str], *arguments: Any) -> dict[str, Any]:
    started, cpu = time.perf_counter(), time.process_time()
    with beam.Pipeline(argv=list(load_config().beam_args)) as pipeline:
        way(pipeline, files, *arguments)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
    }


def _copy_rows(files: list[str], path: str, count: int) -> None:
    with tf.io.TFRecordWriter(path, "GZIP") as out:
        for example in tf.data.TFRecordDataset(files, "GZIP").take(count).as_numpy_iterator():
            out.write(example)


def _count(files: list[str]) -> int:
    records = tf.data.TFRecordDataset(files, "GZIP").batch(4096).as_numpy_iterator()
    return sum(len(batch) for batch in records)


if __name__ == "__main__":
    main()
