"""Runs with artifacts, as nodes write them, for the three tasks; what is theirs is named oddly.

The rows are random; metrics and curves are computed from them by the functions that nodes use.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from ml.curves import draw_curves
from ml.scores import measure
from ml.tasks import Task
from report.run import CACHED, COMPLETE, FAILED, SKIPPED, Artifact, Node, Run, Setting
from tests.ml.test_curves import rows_of

# What would be markup, end an attribute, a style or a script, or is math for matplotlib.
HOSTILE = "<script>alert(1)</script>\"' onload=alert(1) $\\frac{ &amp; </style>\u202e\x00]]>"
TASKS = {
    "binary": Task("binary", "sick", class_names=("well", HOSTILE)),
    "multiclass": Task("multiclass", "kind", ("a", "b", HOSTILE)),
    "regression": Task("regression", HOSTILE),
}
# Scripts in pictures do not run.
PICTURE = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 30" width="40" height="30">'
    b'<script>alert(1)</script><rect width="40" height="30" onload="alert(1)"/></svg>'
)
RUN_ID = "20260302-120000-000"
ROWS = 2000


def make_run(folder: Path, kind: str = "binary") -> Run:
    """A run that pushed a version, all of whose artifacts are there."""
    task = TASKS[kind]
    labels, predictions, weights = rows_of(task, ROWS)
    metrics = measure(task, labels, predictions, weights)
    names = [metric.name for metric in task.metrics]

    def put(name: str, files: dict[str, Any], **properties: Any) -> Artifact:
        for file, content in files.items():
            path = folder / RUN_ID / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                content if isinstance(content, bytes) else json.dumps(content).encode()
            )
        return Artifact(str(folder / RUN_ID / name), properties)

    def values(share: float) -> dict[str, Any]:
        return {
            name: {
                **{"value": value, "low": value * 0.98, "high": value * 1.02},
                **{"baseline": value * share, "change": value * (1 - share)},
            }
            for name, value in metrics.items()
            if value is not None
        }

    summary = {
        "task": dataclasses.asdict(task),
        "baseline": "served",
        "thresholds": [{"metric": names[0], "overall": o, "lowest": 0.3} for o in (True, False)],
        "slices": [
            {"slice": {}, "name": "Overall", "rows": ROWS, "metrics": values(0.99)},
            {"slice": {"c": HOSTILE}, "name": f"c:{HOSTILE}", "rows": 9, "metrics": values(1.1)},
        ],
    }
    own = draw_curves(task, labels, predictions, weights)
    served = draw_curves(task, labels, predictions[::-1], weights)
    curves = {"rows": ROWS, "kind": kind, "curves": {"model": own, "served": served}}
    rival = {"name": "boosting", "title": HOSTILE, "value": 0.6, "loss": -0.1, "margin": 0.01}
    mode = {"bytes": 32000, "gzip_bytes": 9000, "sparsity": 0.9, "metrics": metrics}
    mode |= {"p50_ms": 0.01, "p99_ms": 0.02, "storage": "with its zeros"}
    took = {"p50_ms": 1.0, "p99_ms": 2.5, "largest_difference": 1e-8}
    trial = {"startup_seconds": 2.0, "memory_mb": 600.0, "protocols": {HOSTILE: took}}
    splits = ("train", "test")
    statistics = {f"Split-{split}/FeatureStats.pb": make_statistics() for split in splits}
    anomalies = anomalies_pb2.Anomalies()
    drift = anomalies.drift_skew_info.add()
    drift.path.step.append(HOSTILE)
    drift.drift_measurements.add(value=0.9, threshold=0.1)
    drifts = anomalies.SerializeToString()
    outputs: dict[str, dict[str, Artifact]] = {
        "SpanExampleGen": {
            "examples": put(
                "examples",
                {},
                rows='{"train": 900, "test": 100}',
                spans='{"train": [201301], "test": [201302]}',
                left_out=json.dumps([HOSTILE]),
            )
        },
        "StatisticsGen": {"statistics": put("statistics", statistics)},
        "ServedModel": {"statistics": put("served", statistics)},
        "DataGate": {
            "anomalies": put("anomalies", {f"Split-{s}/SchemaDiff.pb": drifts for s in splits})
        },
        "Tuner": {"report": put("tuner", {"tuning.json": tuning()})},
        "Trainer": {
            "model_run": put(
                "model_run",
                {
                    "training.json": {
                        "epochs": 2,
                        "best_epoch": 2,
                        "metrics": metrics,
                        "history": {"train": [0.5, 0.4], "eval": [0.6, 0.55]},
                    }
                },
            )
        },
        "Pruner": {
            "report": put(
                "pruner",
                {
                    "report.json": {
                        "sparsity": 0.9,
                        "why": HOSTILE,
                        "layers": {HOSTILE: {"sparsity": 0.9, "weights": 100}},
                    }
                },
            )
        },
        "Quantizer": {
            "report": put(
                "quantizer",
                {
                    "report.json": {
                        "mode": HOSTILE,
                        "why": HOSTILE,
                        "float": mode,
                        "modes": {HOSTILE: mode | {"bytes": 9000}},
                    }
                },
            )
        },
        "CompressionEvaluator": {
            "evaluation": put("compression", {"summary.json": summary}),
            "blessing": put("compression_blessing", {}, blessed=1),
        },
        "Evaluator": {
            "evaluation": put(
                "evaluation",
                {
                    "summary.json": summary,
                    "curves.json": curves,
                    "baselines.json": {"rivals": [rival]},
                    "fairness.json": fairness(kind != "regression"),
                },
            ),
            "blessing": put("blessing", {}, blessed=1),
        },
        "Explainer": {
            "explanations": put(
                "explanations",
                {
                    "explanations.json": explanations(),
                    "beeswarm.svg": PICTURE,
                },
            )
        },
        "ServingValidator": {
            "blessing": put(
                "trial",
                {
                    "report.json": {
                        "server": HOSTILE,
                        "rows": 200,
                        "limits": {"tolerance": 0.005},
                        "formats": {"TFLite": trial},
                        "reasons": [],
                    }
                },
                blessed=1,
            )
        },
        "Pusher": {"pushed_model": put("pushed", {})},
    }
    nodes = [
        Node(
            name, CACHED if number == 1 else COMPLETE, HOSTILE, (HOSTILE,), float(number), 1.5, made
        )
        for number, (name, made) in enumerate(outputs.items())
    ]
    return Run(
        run_id=RUN_ID,
        model="toy",
        outcome="pushed",
        meaning="a version was pushed",
        started="2026-03-02T12:00:00+00:00",
        seconds=161.0,
        version=7,
        months={"train": (201301,), "test": (201302,)},
        run_key="k3y",
        log=HOSTILE,
        nodes=tuple(nodes),
        settings=(Setting("training.epochs", json.dumps(HOSTILE), "6", True),),
        provenance={
            "model_digest": HOSTILE,
            "data": {"201301": HOSTILE},
            "libraries": {HOSTILE: "1"},
        },
    )


def make_failed(run: Run, name: str, lines: tuple[str, ...], outcome: str) -> Run:
    """The run, had a node failed: those after it did not run."""
    names = [node.name for node in run.nodes]
    at = names.index(name)
    nodes = [
        *run.nodes[:at],
        Node(name, FAILED, lines[0], lines[1:]),
        *(Node(each, SKIPPED, f"needs {name}") for each in names[at + 1 :]),
    ]
    return dataclasses.replace(
        run,
        outcome=outcome,
        meaning=outcome,
        version=None,
        nodes=tuple(nodes),
        reasons=(f"{name}: {lines[0]}", *lines[1:]),
        provenance={},
    )


def make_statistics(features: tuple[str, ...] = ("distance", HOSTILE)) -> bytes:
    """Statistics of numeric features, and of a text."""
    data = statistics_pb2.DatasetFeatureStatisticsList()
    found = data.datasets.add(num_examples=100)
    for name in features:
        feature = found.features.add(type=statistics_pb2.FeatureNameStatistics.FLOAT)
        feature.path.step.append(name)
        feature.num_stats.common_stats.num_non_missing = 90
        feature.num_stats.mean, feature.num_stats.std_dev = 3.0, float("nan")
    text = found.features.add(type=statistics_pb2.FeatureNameStatistics.STRING)
    text.path.step.append("text")
    text.string_stats.common_stats.num_non_missing = 50
    text.string_stats.unique = 2
    text.string_stats.top_values.add(value=HOSTILE, frequency=30)
    return data.SerializeToString()


def tuning() -> dict[str, Any]:
    """What Tuner writes of three trials: the configured one, a better one, and one that failed."""
    key = f"network.{HOSTILE}"

    def trial(number: int, state: str, values: tuple[float, ...], why: str = "") -> dict[str, Any]:
        value = values[-1] if state == "complete" else None
        rows = zip((100, 900), values, strict=False)
        return {
            **{"number": number, "settings": {key: 0.1 * number}, "value": value, "state": state},
            **{"why": why, "seconds": 2.5},
            "trainings": [
                {"rows": count, "value": one, "epochs": 2, "seconds": 1.0} for count, one in rows
            ],
            "by_seed": {"7": value, "8": value} if state == "complete" else {},
        }

    trials = [
        trial(0, "complete", (0.5, 0.6)),
        trial(1, "failed", (), HOSTILE),
        trial(2, "pruned", (0.4,)),
        trial(3, "complete", (0.6, 0.7)),
    ]
    return {
        "metric": {"name": "auc", "title": "AUC", "direction": 1},
        **{"split": "eval", "seed": 7, "rows": 900, "steps": [100, 900]},
        "space": {key: {"low": 0.0, "high": 1.0, "log": False}},
        "counts": {"complete": 2, "pruned": 1, "failed": 1},
        **{"kept_trainings": 0, "seconds": 12.0, "configured": trials[0], "best": trials[3]},
        "trials": trials,
    }


def fairness(by_threshold: bool = True) -> dict[str, Any]:
    rate = {"value": 0.2, "low": 0.1, "high": 0.3}
    metrics = [
        {"slice": {"c": HOSTILE}, "rows": 9, "threshold": 0.5, "selection_rate": rate},
        # No row is positive.
        {"slice": {"c": "b"}, "rows": 9, "threshold": 0.5, "selection_rate": None},
    ]
    if not by_threshold:  # As of a regression.
        metrics = [{k: v for k, v in row.items() if k != "threshold"} for row in metrics]
    compared = {"column": HOSTILE, "metric": "selection_rate", "difference": rate, "ratio": rate}
    worst = {"slice": {"c": HOSTILE}, "rows": 9, "metric": HOSTILE, "value": 0.1}
    return {
        "columns": ["c"],
        "metrics": metrics,
        "comparisons": [{**compared, "slices": [{"c": HOSTILE}, {"c": "b"}]}],
        "worst_slices": [{**worst, "p_value_corrected": 0.01}],
    }


def explanations() -> dict[str, Any]:
    importance = [
        {"feature": HOSTILE, "columns": [HOSTILE], "mean_abs": 0.2, "low": 0.1, "high": 0.3},
        {"feature": "constant", "columns": ["constant"], "mean_abs": 0.0, "low": 0.0, "high": 0.0},
    ]
    row = {"why": "most wrong", "label": HOSTILE, "prediction": 0.4, "shap": {HOSTILE: 0.1}}
    return {
        "method": HOSTILE,
        "rows": 100,
        "background_rows": 50,
        "units": HOSTILE,
        "importance": importance,
        "rows_explained": [row],
        "agreement": {"rank_correlation": 0.9},
        "interactions": [{"features": [HOSTILE, "b"], "strength": 0.1}],
        "left_out": [{"feature": HOSTILE, "why": HOSTILE}],
    }
