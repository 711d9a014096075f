"""The model card of a version: what it is for, what it was made from, and how good it is.

The sections are those of Mitchell et al., Model Cards for Model Reporting, FAT* 2019. The block of
metadata is Hugging Face's, so that their tools read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ml.effort import WATTS_PER_CORE, Effort, energy_kwh
from ml.metrics import Metric
from ml.model_card.team_text import TeamText
from ml.tasks import REGRESSION, Task

_OVERALL = "Overall"
# By Hugging Face's names; others keep their own.
_HUB_METRICS = {
    "auc": "roc_auc",
    "macro_auc": "roc_auc",
    "auc_pr": "pr_auc",
    "r2": "r_squared",
    "bias": "mean_error",
}

Values = Mapping[str, Mapping[str, float | None]]
Intervals = Mapping[str, Mapping[str, Sequence[float]]]


def make_card(
    record: Mapping[str, Any],
    task: Task,
    team: TeamText,
    metrics: Values,
    intervals: Intervals,
    not_judged: Sequence[str],
    compression: Mapping[str, Any],
    efforts: Iterable[Effort],
    baselines: Mapping[str, Any] | None = None,
    fairness: Mapping[str, Any] | None = None,
    explanations: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Makes the card of a version.

    Args:
      record: Its provenance.
      task: Its task.
      team: What its team says of it.
      metrics: Value by metric, by slice.
      intervals: 95% intervals of these.
      not_judged: What is undefined, a line each.
      compression: The Quantizer's report.
      efforts: What nodes took.
      baselines: The comparison with baselines, as it is stored; None without.
      fairness: The content of `fairness.json`; None without.
      explanations: The content of `explanations.json`; None without.

    Returns:
      A JSON object. A metric is an object of `value`, `low` and `high`, which may be None.
    """
    nodes = [asdict(effort) for effort in efforts]
    cpu_seconds = sum(node["cpu_seconds"] for node in nodes)
    order = sorted(metrics, key=lambda name: _harm(task.headline, name, metrics[name]))
    return {
        "model_name": record["model_name"],
        "version": record["version"],
        "created": record["created"],
        "run_key": record.get("run_key", ""),
        "task": {
            "kind": task.kind,
            "label": task.label,
            "classes": list(task.class_names),
            "example_weight": task.example_weight,
        },
        "team": {
            **{name: value for name, value in asdict(team).items() if name != "text"},
            "others": [list(section) for section in team.others],
        },
        "data": {
            "spans": record.get("spans", {}),
            "rows": record.get("rows", {}),
            "digests": record.get("data", {}),
            "split": record.get("split", ""),
        },
        "titles": {metric.name: metric.title for metric in task.metrics},
        "headline": record.get("headline", {}),
        "metrics": [
            {
                "slice": name,
                "rows": metrics[name].get("example_count"),
                "values": {
                    metric: _estimate(value, intervals.get(name, {}).get(metric))
                    for metric, value in metrics[name].items()
                    if metric != "example_count"
                },
            }
            for name in order
        ],
        "not_judged": list(not_judged),
        "baselines": baselines,
        "compression": _compression(compression),
        "fairness": fairness,
        "explanations": explanations,
        "effort": {
            "nodes": nodes,
            "seconds": round(sum(node["seconds"] for node in nodes), 1),
            "cpu_seconds": round(cpu_seconds, 1),
            "energy_kwh_estimate": energy_kwh(cpu_seconds),
            "watts_per_core": WATTS_PER_CORE,
        },
        "libraries": record.get("libraries", {}),
    }


def make_metadata(card: Mapping[str, Any]) -> dict[str, Any]:
    """Hugging Face's metadata of a card, for the block of YAML at its top."""
    kind = "tabular-regression" if card["task"]["kind"] == REGRESSION else "tabular-classification"
    name = _printable(card["model_name"])
    rows = {row["slice"]: row["values"] for row in card["metrics"]}
    overall: Mapping[str, Any] = rows.get(_OVERALL, {})
    spans = [str(span) for span in card["data"]["spans"].get("test", [])]
    results = [
        {
            "type": _HUB_METRICS.get(metric, metric),
            "name": card["titles"][metric],
            "value": estimate["value"],
        }
        for metric, estimate in overall.items()
        if metric in card["titles"] and estimate["value"] is not None
    ]
    metadata: dict[str, Any] = {}
    if card["team"]["license"]:
        metadata["license"] = card["team"]["license"]
    metadata |= {
        "library_name": "tf-keras",
        "pipeline_tag": kind,
        "tags": ["tfx", "tflite", "model-card"],
        "metrics": [*dict.fromkeys(result["type"] for result in results)],
    }
    if results:
        metadata["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": kind},
                        "dataset": {
                            "type": name,
                            "name": _printable(f"{name} {', '.join(spans)}".strip()),
                            "split": "test",
                        },
                        "metrics": results,
                    }
                ],
            }
        ]
    return metadata


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]


def _harm(headline: Metric, name: str, values: Mapping[str, float | None]) -> tuple[Any, ...]:
    """Orders slices: all rows first, then the worst by the headline metric, undefined ones last."""
    value = values.get(headline.name)
    return name != _OVERALL, value is None, headline.direction * (value or 0.0), name


def _estimate(value: float | None, interval: Sequence[float] | None) -> dict[str, Any]:
    low, high = interval if value is not None and interval else (None, None)
    return {"value": value, "low": low, "high": high}


def _compression(report: Mapping[str, Any]) -> dict[str, Any]:
    """What was chosen, in comparison with the float model."""
    mode = report.get("mode", "")
    names = ("bytes", "sparsity", "p50_ms", "p99_ms", "metrics")
    return {
        "mode": mode,
        "why": report.get("why", ""),
        **{
            kind: {name: found[name] for name in names if name in found}
            for kind, found in (
                ("float", report.get("float", {})),
                ("compressed", report.get("modes", {}).get(mode, {})),
            )
        },
    }
