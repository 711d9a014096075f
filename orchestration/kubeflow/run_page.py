"""The page of a training run, made by its last task from the artifacts of the others.

It is that of `local_runner.py report`, without what no task knows: times, and the settings that
differ from the defaults.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestration.local.node_facts import read_facts
from orchestration.local.node_process import Summary, describe
from orchestration.local.provenance import known_provenance
from orchestration.outcome import Outcome
from report.page import make_page
from report.run import COMPLETE, Artifact, Node, Run
from storage.directory import ModelDirectory

if TYPE_CHECKING:
    from tfx import v1 as tfx

LAST = "Pusher"
# Which node makes each input of the last one, and its key there; nodes in the pipeline's order.
SOURCES = {
    "shown_served_statistics": ("ServedModel", "statistics"),
    "schema": ("ImportSchemaGen", "schema"),
    "examples": ("SpanExampleGen", "examples"),
    "statistics": ("StatisticsGen", "statistics"),
    "shown_anomalies": ("DataGate", "anomalies"),
    "transform_graph": ("Transform", "transform_graph"),
    "tuning": ("Tuner", "report"),
    "model_run": ("Trainer", "model_run"),
    "pruning_report": ("Pruner", "report"),
    "model": ("Quantizer", "quantized_model"),
    "compression_report": ("Quantizer", "report"),
    "shown_compression_evaluation": ("CompressionEvaluator", "evaluation"),
    "compression_blessing": ("CompressionEvaluator", "blessing"),
    "evaluation": ("Evaluator", "evaluation"),
    "blessing": ("Evaluator", "blessing"),
    "explanations": ("Explainer", "explanations"),
    "explanation_blessing": ("Explainer", "blessing"),
    "infra_blessing": ("ServingValidator", "blessing"),
}
# Of these not all that a summary is made from is an input.
_WITHOUT_LINE = ("ServedModel",)
_SUMMARIZE = "orchestration.local.summaries.summarize"
# The launcher keeps the artifacts of a run in a folder that is named by its id.
_RUN_ID = re.compile(r"/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/")


def make_run_page(
    parameters: Mapping[str, Any],
    inputs: Mapping[str, tfx.dsl.Artifact],
    outputs: Mapping[str, tfx.dsl.Artifact],
) -> bytes:
    """Makes the page of a run, whether it pushed or not.

    Args:
      parameters: Parameters of the last node.
      inputs: Its input artifacts, by key, with those that only the page shows.
      outputs: Its output artifacts.

    Returns:
      The document. What cannot be read is said in its section.
    """
    by_node: dict[str, dict[str, tfx.dsl.Artifact]] = {}
    for name, (node, key) in SOURCES.items():
        if name in inputs:
            by_node.setdefault(node, {})[key] = inputs[name]
    nodes = tuple(_node(name, made) for name, made in (*by_node.items(), (LAST, outputs)))
    pushed = read_facts(outputs.values())
    refused = [node for node in nodes if node.blessed is False]
    outcome = Outcome.NOTHING_NEW
    if pushed.version:
        outcome = Outcome.PUSHED
    elif refused:
        outcome = Outcome.NOT_BLESSED
    lines = [f"{node.name}: {line}" for node in refused for line in (node.details or (node.line,))]
    found = _RUN_ID.search(outputs["pushed_model"].uri)
    spans = inputs["examples"].get_string_custom_property("spans") if "examples" in inputs else ""
    run = Run(
        run_id=found.group(1) if found else "",
        model=str(parameters.get("model_name", "")),
        outcome=outcome,
        meaning=outcome.meaning,
        version=pushed.version,
        reasons=tuple(lines) or ((f"not pushed: {pushed.reason}",) if pushed.reason else ()),
        months=json.loads(spans) if spans else {},
        nodes=nodes,
        provenance=_provenance(pushed.destination, pushed.version),
    )
    return make_page(run).html.encode(errors="replace")


def _node(name: str, outputs: Mapping[str, tfx.dsl.Artifact]) -> Node:
    known = name not in _WITHOUT_LINE
    summary = describe(_SUMMARIZE, name, dict(outputs)) if known else Summary("")
    artifacts = {key: Artifact(each.uri, _properties(each)) for key, each in outputs.items()}
    return Node(name, COMPLETE, summary.line, summary.details, outputs=artifacts)


def _properties(artifact: tfx.dsl.Artifact) -> dict[str, Any]:
    """The custom properties; TFX wraps those that come from Kubeflow, and numbers are floats."""
    names = artifact.mlmd_artifact.custom_properties
    return {name: artifact.get_custom_property(name) for name in names}


def _provenance(destination: str, version: int | None) -> dict[str, Any]:
    """The provenance of a version, from the URI that it was pushed to; empty if there is none."""
    if version is None:
        return {}
    serving_dir, model_name, _ = destination.rstrip("/").rsplit("/", 2)
    return known_provenance(ModelDirectory(serving_dir, model_name), version)
