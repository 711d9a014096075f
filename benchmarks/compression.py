"""Measures how much compression costs over several seeds: mean, standard deviation and worst.

Trainer, Pruner and Quantizer of a finished run are run again with each seed, and both models are
evaluated on the split `test`, which none of them has seen.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import report
from benchmarks.finished_run import FinishedRun, run_options
from components.quantizer.choice import measure_loss
from components.quantizer.measurement import Measurement
from ml.artifacts import serving_model_uri
from ml.metrics import Metric
from ml.predictors import load_predictor
from ml.scores import headline

# 1 for figures of which more is better.
_DIRECTIONS = {"sparsity": 1, "times_smaller": 1}
# The headline metric of the compressed model on `test`.
SHIPPED = "compressed"


@click.command()
@run_options
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--slice", "column", default="", help="Feature whose worst value is shown.")
@click.option("--set", "settings", multiple=True, help="KEY=VALUE of the configuration.")
def main(output: Path, model: str, seeds: int, column: str, settings: tuple[str, ...]) -> None:
    """Trains, prunes and quantizes with several seeds and prints what compression costs."""
    run = FinishedRun(output, [f"model={model}", *settings])
    rows = run.test_rows(column)
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, seeds + 1):
            measured.append(compress(run, Path(folder, str(seed)), seed, rows))
            print(measured[-1], flush=True)
    metric = run.config.make_task().headline
    figures = [*(key for key in measured[0] if key not in ("seed", "worst_slice"))]
    table = []
    for key in figures:
        values = np.array([row[key] for row in measured], float)
        direction = metric.direction if key in (metric.name, SHIPPED) else _DIRECTIONS.get(key, -1)
        worst = values.min() if direction > 0 else values.max()
        shown = [f"{value:.4g}" for value in (values.mean(), values.std(), worst)]
        table.append([key.replace("_", " "), *shown, ", ".join(f"{value:.4g}" for value in values)])
    notes = (
        f"{model}, {len(rows[1]):,} rows of test, {seeds} seeds. Losses are of {metric.title} "
        f"against the same seed's float model{', a share of it' if metric.relative else ''}; "
        "of a slice: of the one that loses most."
    )
    columns = ["figure", "mean", "std", "worst", "by seed"]
    report(f"compression of {model}", columns, table, measured, notes)


def compress(run: FinishedRun, folder: Path, seed: int, rows: Any) -> dict[str, Any]:
    """Trains and compresses with one seed.

    Returns:
      The metric of the float model and of the compressed one, losses on `test` and on `eval`, size,
      and seconds of the Pruner and the Quantizer.
    """
    examples, labels, masks = rows
    task = run.config.make_task()
    trained = run.execute("Trainer", folder / "Trainer", setting_seed=seed)["model"]
    start = time.perf_counter()
    pruned = run.execute("Pruner", folder / "Pruner", {"model": trained}, seed=seed)
    pruner_seconds = time.perf_counter() - start
    inputs = {"model": pruned["pruned_model"], "float_model": trained}
    start = time.perf_counter()
    quantized = run.execute("Quantizer", folder / "Quantizer", inputs, seed=seed)
    quantizer_seconds = time.perf_counter() - start
    predictions = [
        load_predictor(serving_model_uri(model), prefer_tflite=tflite).predict(examples)
        for model, tflite in ((trained, False), (quantized["quantized_model"], True))
    ]
    before, after = (
        # An undefined metric becomes NaN.
        {name: float(headline(task, labels[m], values[m]) or "nan") for name, m in masks.items()}
        for values in predictions
    )
    losses = {name: task.headline.loss(after[name], before[name]) for name in masks}
    total = losses.pop("")
    result = quantized["report"].read()
    shipped = result["modes"][result["mode"]]
    figures = {"seed": seed, task.headline.name: before[""], SHIPPED: after[""], "loss": total}
    figures["loss_on_eval"] = loss_on_eval(quantized["report"], task.headline)
    if losses:
        worst = max(losses, key=lambda name: losses[name])
        figures |= {"worst_slice": worst, "loss_of_worst_slice": losses[worst]}
    return figures | {
        "sparsity": pruned["report"].read()["sparsity"],
        "bytes": shipped["bytes"],
        "gzip_bytes": shipped["gzip_bytes"],
        "times_smaller": result["float"]["bytes"] / shipped["bytes"],
        "row_us": 1000 * shipped["p50_ms"],
        "pruner_seconds": pruner_seconds,
        "quantizer_seconds": quantizer_seconds,
    }


def loss_on_eval(report: Any, metric: Metric) -> float:
    """What the Quantizer found that its model loses on `eval` against the float model."""
    found = report.read()
    shipped = Measurement(**found["modes"][found["mode"]])
    return measure_loss(shipped, Measurement(**found["float"]), metric)


if __name__ == "__main__":
    main()
