"""Compares tuned with configured settings on the split `test`, and times the search."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from benchmarks.common import report, run_measured
from components.evaluator.results import OVERALL, read_metrics
from ml.file_names import TUNING_FILE
from orchestration.outcome import Outcome
from pipeline.config import load_config
from pipeline.model import Model

_MODELS = ("digits", "diamonds")
_COLUMNS = ["model", "search", "trials", "metric", "configured", "tuned", "better by", "settings"]


@click.command()
@click.option("--model", "models", multiple=True, default=_MODELS, show_default=True)
@click.option("--trials", default=20, show_default=True)
@click.option("--seed", "seeds", type=int, multiple=True, default=(7, 8, 9), show_default=True)
def main(models: tuple[str, ...], trials: int, seeds: tuple[int, ...]) -> None:
    """Searches once for each model, and runs the pipeline with both settings for each seed.

    The metrics are those of `model.tflite`, pruned and quantized, on `test`.
    """
    rows, data = [], []
    for model in models:
        metric = Model.load(load_config(settings=[f"model={model}"])).task.headline
        with tempfile.TemporaryDirectory() as root:
            tuning = _search(model, trials, seeds[0], Path(root))
            found = [f"{key}={value}" for key, value in tuning["best"]["settings"].items()]
            configured = [_test_metric(model, seed, [], Path(root)) for seed in seeds]
            tuned = [_test_metric(model, seed, found, Path(root)) for seed in seeds]
        before, after = fmean(configured), fmean(tuned)
        counts = ", ".join(f"{count} {state}" for state, count in tuning["counts"].items())
        rows.append(
            [
                *(model, f"{tuning['seconds']:.0f} s", counts, metric.title),
                f"{metric.show(before)} ({', '.join(map(metric.show, configured))})",
                f"{metric.show(after)} ({', '.join(map(metric.show, tuned))})",
                metric.format_loss(-metric.loss(after, before)),
                ", ".join(_show(key, value) for key, value in tuning["best"]["settings"].items()),
            ]
        )
        figures = {"model": model, "seeds": seeds, "configured": configured, "tuned": tuned}
        data.append({**figures, "tuning": tuning})
        # After each model, because each takes long.
        report(
            "tuning",
            _COLUMNS,
            rows,
            data,
            f"Means over {len(seeds)} seeds of `model.tflite` on `test`, which the search does not "
            "read, and each seed in brackets; the search has the first seed. The last but one "
            "column is a difference, and of RMSE a share; above 0 the tuned settings are better.",
        )


def _search(model: str, trials: int, seed: int, root: Path) -> dict[str, Any]:
    """What `tuning.json` says of a search."""
    output = _run(model, seed, [f"tuning.trials={trials}"], root)
    (file,) = output.glob(f"models/{model}/artifacts/*/Tuner/report/*/{TUNING_FILE}")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _test_metric(model: str, seed: int, settings: list[str], root: Path) -> float:
    """The headline metric that the Evaluator found, blessed or not."""
    output = _run(model, seed, settings, root)
    (folder,) = output.glob(f"models/{model}/artifacts/*/Evaluator/evaluation/*")
    name = Model.load(load_config(settings=[f"model={model}"])).task.headline.name
    value = read_metrics(str(folder))[OVERALL][name]
    if value is None:
        raise RuntimeError(f"{model}: the Evaluator found no {name}")
    return value


def _run(model: str, seed: int, settings: list[str], root: Path) -> Path:
    """Runs the pipeline in a new output directory, and returns that."""
    output = Path(tempfile.mkdtemp(dir=root))
    sets = [f"training.seed={seed}", *settings]
    run_measured(
        [
            *("local_runner.py", "run", "--model", model, "--output", str(output)),
            *(argument for setting in sets for argument in ("--set", setting)),
        ],
        allowed=(0, Outcome.NOT_BLESSED.exit_status),
    )
    return output


def _show(key: str, value: float | str) -> str:
    return f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"


if __name__ == "__main__":
    main()
