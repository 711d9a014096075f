"""What the web interface of Kubeflow Pipelines shows of a task: metrics, and a page.

TFX's artifacts are of types that it does not know. So some tasks have outputs more, of the types
`system.Metrics` and `system.HTML` of the SDK.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfx import v1 as tfx

METRICS, PAGE = "metrics", "page"
TYPES = {METRICS: "system.Metrics", PAGE: "system.HTML"}
# Outputs of a node that are added to its own.
OUTPUTS = {
    "Trainer": (METRICS,),
    "Quantizer": (METRICS,),
    "CompressionEvaluator": (METRICS,),
    "Evaluator": (METRICS,),
    "Pusher": (PAGE,),
    "ServingMonitor": (METRICS, PAGE),
}
# Inputs of a node that are added to its own, for its page: the node that makes each, and its key.
INPUTS = {
    "Pusher": {
        "shown_anomalies": ("DataGate", "anomalies"),
        "shown_compression_evaluation": ("CompressionEvaluator", "evaluation"),
        "shown_served_statistics": ("ServedModel", "statistics"),
    }
}


def metrics(node_id: str, outputs: Mapping[str, tfx.dsl.Artifact]) -> dict[str, float]:
    """The metrics of a node, by name, from its output artifacts; without those that are undefined.

    Raises:
      OSError, ValueError, KeyError: If the outputs are not those of the node.
    """
    found = _METRICS[node_id](outputs)
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def page(
    node_id: str,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, tfx.dsl.Artifact],
    outputs: Mapping[str, tfx.dsl.Artifact],
) -> bytes:
    """The page of a node, as HTML.

    Args:
      node_id: Id of the node.
      parameters: Its parameters.
      inputs: Its input artifacts, with those of `INPUTS`.
      outputs: Its output artifacts.

    Raises:
      OSError: If it is not there.
    """
    return _PAGES[node_id](parameters, inputs, outputs)


def _trainer(outputs: Mapping[str, tfx.dsl.Artifact]) -> Mapping[str, Any]:
    from ml.file_names import TRAINING_FILE
    from storage.uris import read_json

    run = read_json(f"{outputs['model_run'].uri}/{TRAINING_FILE}")
    return {f"eval_{name}": value for name, value in run["metrics"].items()} | {
        "epochs": run["epochs"]
    }


def _quantizer(outputs: Mapping[str, tfx.dsl.Artifact]) -> Mapping[str, Any]:
    report = outputs["report"].read()
    shipped = report["modes"][report["mode"]]
    return {
        "bytes": shipped["bytes"],
        "p50_ms": shipped["p50_ms"],
        "times_smaller_than_float": report["float"]["bytes"] / shipped["bytes"],
    }


def _evaluation(outputs: Mapping[str, tfx.dsl.Artifact]) -> Mapping[str, Any]:
    from components.evaluator.results import OVERALL, read_metrics

    blessed = outputs["blessing"].get_int_custom_property("blessed")
    return {**read_metrics(outputs["evaluation"].uri).get(OVERALL, {}), "blessed": blessed}


def _serving_monitor(outputs: Mapping[str, tfx.dsl.Artifact]) -> Mapping[str, Any]:
    report = outputs["report"].read()
    live = report["live"][0]["metrics"] if report["live"] else {}
    rows = report["requests"]["rows"]["current"]
    return {
        **{f"live_{name}": value for name, value in live.items()},
        **{"alarms": len(report["alarms"]), "checks": len(report["checks"]), "requests": rows},
    }


def _monitoring_page(
    parameters: Mapping[str, Any],
    inputs: Mapping[str, tfx.dsl.Artifact],
    outputs: Mapping[str, tfx.dsl.Artifact],
) -> bytes:
    from storage.uris import read_file

    return read_file(outputs["report"].page)


def _page_of_run(
    parameters: Mapping[str, Any],
    inputs: Mapping[str, tfx.dsl.Artifact],
    outputs: Mapping[str, tfx.dsl.Artifact],
) -> bytes:
    from orchestration.kubeflow.run_page import make_run_page

    return make_run_page(parameters, inputs, outputs)


_METRICS: dict[str, Callable[[Mapping[str, tfx.dsl.Artifact]], Mapping[str, Any]]] = {
    "Trainer": _trainer,
    "Quantizer": _quantizer,
    "CompressionEvaluator": _evaluation,
    "Evaluator": _evaluation,
    "ServingMonitor": _serving_monitor,
}
_PAGES = {"Pusher": _page_of_run, "ServingMonitor": _monitoring_page}
