"""Compares the pipeline's model with gradient boosting on the same window, month and features."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from benchmarks.common import report, run_measured
from ml.artifacts import REPORT_FILE


@click.command()
@click.option(
    "--month",
    "months",
    type=int,
    multiple=True,
    default=(201308, 201311, 201312),
    show_default=True,
)
@click.option("--seed", "seeds", type=int, multiple=True, default=(7,), show_default=True)
def main(months: tuple[int, ...], seeds: tuple[int, ...]) -> None:
    """Runs the pipeline and the baseline for each month and prints the AUC of both on it.

    The baseline is that of BaselineEvaluator, which trains on the whole window; the pipeline's
    model keeps the window's last days for early stopping.
    """
    rows, data = [], []
    ours, baselines = [], []
    for month in months:
        runs = [pipeline_aucs(month, seed) for seed in seeds]
        by_seed = [auc for auc, _ in runs]
        ours.append(sum(by_seed) / len(by_seed))
        baselines.append(runs[0][1])
        rows.append(_row(str(month), ours[-1], baselines[-1]))
        data.append({"month": month, "seeds": seeds, "ours": by_seed, "baseline": baselines[-1]})
    rows.append(_row("mean", sum(ours) / len(ours), sum(baselines) / len(baselines)))
    report("quality", ["AUC on", "ours", "HistGradientBoosting", "difference"], rows, data)


def pipeline_aucs(month: int, seed: int) -> tuple[float, float]:
    """The AUCs of the model and of gradient boosting, of a run into its own output directory."""
    with tempfile.TemporaryDirectory() as output:
        run_measured(
            [
                *("local_runner.py", "run", "--set", "model=flights"),
                *(f"--as-of={month}", f"--output={output}"),
                *("--set", f"training.seed={seed}", "--set", "evaluation.thresholds.auc=0"),
                *(
                    "--set",
                    "evaluation.slice_thresholds.auc=0",
                    "--set",
                    "evaluation.thresholds.calibration=[0,100]",
                ),
                *("--set", "compression.max_loss=1"),
                *("--set", "compression.max_slice_loss=1"),
                *("--set", "evaluation.max_baseline_loss=1"),
            ]
        )
        (record,) = Path(output).glob("serving_model/*/.flightdeck/*/provenance.json")
        (report_file,) = Path(output).glob(
            f"artifacts/*/BaselineEvaluator/baselines/*/{REPORT_FILE}"
        )
        boosting = json.loads(report_file.read_text())["baselines"]["boosting"]
        return (
            float(json.loads(record.read_text())["metrics"]["auc"]),
            float(boosting["metrics"]["auc"]),
        )


def _row(name: str, ours: float, baseline: float) -> list[str]:
    return [name, f"{ours:.4f}", f"{baseline:.4f}", f"{ours - baseline:+.4f}"]


if __name__ == "__main__":
    main()
