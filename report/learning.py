"""What was learned, how it was compressed, and how it was served on trial."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ml.file_names import REPORT_FILE, SUMMARY_FILE, TRAINING_FILE
from ml.tasks import TITLES, Task
from report.plots import FIRST, INK, MUTED, SECOND, draw, finite, label, unzip
from report.reading import Absent, find, read_json
from report.run import Run
from report.texts import number

_OVERALL = "Overall"
_MOST_SLICES = 8


def describe_training(run: Run) -> dict[str, Any]:
    """What the template shows of the training."""
    record = read_json(find(run, "Trainer", "model_run"), TRAINING_FILE)
    history = record.get("history") or {}
    losses = {split: history[split] for split in ("train", "eval") if history.get(split)}
    start = record.get("warm_start") or {}
    return {
        "epochs": record.get("epochs"),
        "best_epoch": record.get("best_epoch"),
        "metrics": [(TITLES.get(n, n), v) for n, v in (record.get("metrics") or {}).items()],
        "start": (start.get("why_cold") or "from the served model") if start else "",
        "plot": _plot_losses(losses, record.get("best_epoch")) if losses else None,
    }


def _plot_losses(losses: dict[str, list[float]], best: Any) -> Markup:
    def function(axes: Axes) -> None:
        for (split, values), colour in zip(losses.items(), (FIRST, SECOND), strict=False):
            points = finite(range(1, len(values) + 1), values)
            axes.plot(*unzip(points, 2), color=colour, marker="o", markersize=3, label=split)
        if isinstance(best, int):
            axes.axvline(best, color=MUTED, linewidth=0.8, linestyle=":")
            axes.annotate(" kept", (best, axes.get_ylim()[1]), color=INK, va="top", fontsize=8)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()

    last = ", ".join(f"{split} {number(values[-1])}" for split, values in losses.items())
    epochs = max(map(len, losses.values()))
    return draw(f"Loss by epoch over {epochs} epochs; at the end {last}", function)


def describe_compression(run: Run) -> dict[str, Any]:
    """What the template shows of pruning and quantization."""
    found: dict[str, Any] = {"notes": []}
    for name, describe in (("pruning", _pruning), ("modes", _modes), ("against", _against)):
        try:
            found[name] = describe(run)
        except Absent as absent:
            found[name] = None
            found["notes"].append(str(absent))
    if not any(found[name] for name in ("pruning", "modes", "against")):
        raise Absent(found["notes"][0])
    return found


def _pruning(run: Run) -> dict[str, Any]:
    report = read_json(find(run, "Pruner", "report"), REPORT_FILE)
    units = report.get("units") or {}
    return {
        "sparsity": report.get("sparsity"),
        "why": report.get("why") or "",
        "layers": [
            {
                "name": name,
                "sparsity": layer.get("sparsity"),
                "weights": layer.get("weights"),
                **{key: units.get(name, {}).get(key) for key in ("units", "removed")},
                "sensitivity": (report.get("sensitivity") or {}).get(name),
            }
            for name, layer in (report.get("layers") or {}).items()
        ],
        "trials": report.get("trials") or [],
    }


def _modes(run: Run) -> dict[str, Any]:
    report = read_json(find(run, "Quantizer", "report"), REPORT_FILE)
    modes = {"float": report["float"], **report["modes"]}
    # The task's headline metric is the first.
    metric = next(iter(report["float"]["metrics"]))
    shown = [
        {
            "name": name,
            "chosen": name == report["mode"],
            "quality": mode["metrics"].get(metric),
            **{key: mode.get(key) for key in ("bytes", "gzip_bytes", "sparsity", "storage")},
            **{key: mode.get(key) for key in ("p50_ms", "p99_ms")},
        }
        for name, mode in modes.items()
    ]
    return {
        "mode": report["mode"],
        "why": report.get("why") or "",
        "metric": TITLES.get(metric, metric),
        "shown": shown,
        "plot": _plot_modes(shown, TITLES.get(metric, metric)),
    }


def _plot_modes(modes: list[dict[str, Any]], title: str) -> Markup:
    def function(axes: Axes) -> None:
        for mode in modes:
            for kilobytes, quality in finite([_thousandth(mode["bytes"])], [mode["quality"]]):
                axes.scatter(
                    kilobytes, quality, s=45, color=FIRST if mode["chosen"] else MUTED, zorder=3
                )
                axes.annotate(
                    label(mode["name"]), (kilobytes, quality), (5, 5), textcoords="offset points"
                )
        axes.set_xlim(left=0)
        axes.margins(x=0.25, y=0.25)
        axes.set_xlabel("size of model.tflite in kB")
        axes.set_ylabel(f"{title} on eval")

    points = "; ".join(
        f"{m['name']} {number(_thousandth(m['bytes']))} kB, {title} {number(m['quality'])}"
        for m in modes
    )
    return draw(f"Quality by size: {points}", function)


def _thousandth(value: Any) -> float | None:
    return value / 1000 if isinstance(value, int | float) else None


def _against(run: Run) -> dict[str, Any]:
    """The compressed model in comparison with the float one, overall and in the worst slices."""
    summary = read_json(find(run, "CompressionEvaluator", "evaluation"), SUMMARY_FILE)
    metric = Task.from_config(summary["task"]).headline
    rows = []
    for each in summary["slices"]:
        own = each["metrics"].get(metric.name, {})
        if own.get("value") is None or own.get("baseline") is None:
            continue
        rows.append(
            {
                "name": each["name"],
                "value": own["value"],
                "before": own["baseline"],
                "loss": metric.loss(own["value"], own["baseline"]),
                "change": own.get("change"),
                "low": own.get("change_low"),
                "high": own.get("change_high"),
            }
        )
    rows.sort(key=lambda row: (row["name"] != _OVERALL, -row["loss"]))
    return {"metric": metric.title, "slices": rows[: _MOST_SLICES + 1]} if rows else {}


def describe_trial(run: Run) -> dict[str, Any]:
    """What the template shows of the serving trial."""
    report = read_json(find(run, "ServingValidator", "blessing"), REPORT_FILE)
    rows = [
        {
            "format": name,
            "protocol": protocol,
            **took,
            "startup_seconds": trial.get("startup_seconds"),
            "memory_mb": trial.get("memory_mb"),
        }
        for name, trial in report["formats"].items()
        for protocol, took in trial["protocols"].items()
    ]
    limits = {name: value for name, value in (report.get("limits") or {}).items() if value}
    return {
        "server": report.get("server"),
        "rows": report.get("rows"),
        "trials": rows,
        "limits": limits,
        "reasons": report.get("reasons") or [],
    }
