"""Describes in one line what a node produced, from its output artifacts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import v1 as tfx

from components.compression_evaluator import read_budgets
from components.data_gate.component import GateFacts
from components.evaluator.baselines import Comparison, show
from components.evaluator.fairness import describe_fairness, read_fairness
from components.evaluator.results import (
    OVERALL,
    read_baseline_metrics,
    read_intervals,
    read_metrics,
    read_verdict,
)
from components.evaluator.verdict import Verdict
from components.explainer.importance import shares
from components.serving_validator.component import read_report
from ml.artifacts import anomalies_uri, load_schema
from ml.compared_requests import Pair
from ml.file_names import TRAINING_FILE
from ml.metrics import Metric
from ml.requests import Requests
from ml.tasks import TITLES, Task
from orchestration.local.node_process import Summary

Outputs = dict[str, tfx.dsl.Artifact]


def summarize(node_id: str, outputs: Outputs) -> Summary:
    """Describes what a node produced.

    Args:
      node_id: Id of the node.
      outputs: Its output artifacts, by key.

    Returns:
      The summary; an empty line for a node that this module does not know.
    """
    describe = _BY_NODE.get(node_id)
    return describe(outputs) if describe else Summary("")


def _span_example_gen(outputs: Outputs) -> Summary:
    examples = outputs["examples"]
    rows = json.loads(examples.get_string_custom_property("rows"))
    spans = json.loads(examples.get_string_custom_property("spans"))
    counts = ", ".join(f"{count:,} {split}" for split, count in rows.items())
    months = spans["train"]
    trained = f"{months[0]}" if len(months) == 1 else f"{months[0]} to {months[-1]}"
    split = examples.get_string_custom_property("split")
    line = f"{counts} rows; trained on {trained}, evaluated on {spans['test'][0]}"
    if spans["train"] == spans["test"]:
        line = f"{counts} rows; split {split}"
    elif split:
        line += f"; split {split}"
    left_out = json.loads(examples.get_string_custom_property("left_out") or "[]")
    rounded = json.loads(examples.get_string_custom_property("rounded") or "[]")
    notes = []
    if left_out:
        notes.append(f"left out, for the schema lacks them: {', '.join(left_out)}")
    if rounded:
        notes.append(
            f"rounded, for a 32-bit float holds seven digits: {', '.join(rounded)} (make an id a "
            "string or INT feature; scale what hardly differs)"
        )
    return Summary(line, tuple(notes))


def _import_schema_gen(outputs: Outputs) -> Summary:
    return Summary(f"{len(load_schema(outputs['schema']).feature)} features")


def _statistics_gen(outputs: Outputs) -> Summary:
    splits = json.loads(outputs["statistics"].split_names)
    return Summary(f"statistics of {', '.join(splits)}")


def _example_validator(outputs: Outputs) -> Summary:
    anomalies = outputs["anomalies"]
    lines = []
    for split in json.loads(anomalies.split_names):
        with tfx.dsl.io.fileio.open(anomalies_uri(anomalies, split), "rb") as file:
            found = anomalies_pb2.Anomalies.FromString(file.read())
        lines += [f"{split}: {name}" for name in sorted(found.anomaly_info)]
    count = _count(len(lines), "anomaly", "anomalies")
    return Summary(f"{count}: {', '.join(lines)}" if lines else count)


def _served_model(outputs: Outputs) -> Summary:
    version = outputs["model"].get_int_custom_property("version")
    return Summary(f"version {version}" if version else "nothing is served yet")


def _data_gate(outputs: Outputs) -> Summary:
    facts = GateFacts.of(outputs["anomalies"])
    drift = "compared" if facts.compared else "nothing served yet"
    if facts.drift:
        feature, value, limit = facts.drift
        drift += f", nearest its limit {feature} ({value:.2g} of {limit:g})"
    return Summary(f"passed, {_count(facts.warnings, 'warning')}; drift: {drift}", facts.shown)


def _transform(outputs: Outputs) -> Summary:
    graph = tft.TFTransformOutput(outputs["transform_graph"].uri)
    return Summary(f"{len(graph.transformed_feature_spec())} transformed features")


def _tuner(outputs: Outputs) -> Summary:
    content = outputs["report"].read()
    title, best, configured = content["metric"]["title"], content["best"], content["configured"]
    change = f"eval {title} {_value(best['value'])}, was {_value(configured['value'])}"
    settings = ", ".join(f"{key} {_setting(value)}" for key, value in best["settings"].items())
    found = settings if best["number"] else "the configured settings are the best"
    counts = ", ".join(f"{count} {state}" for state, count in content["counts"].items() if count)
    failed = (f"trial {t['number']} failed: {t['why']}" for t in content["trials"] if t["why"])
    return Summary(f"{change}: {found}; {len(content['trials'])} trials: {counts}", tuple(failed))


def _setting(value: int | float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _trainer(outputs: Outputs) -> Summary:
    path = os.path.join(outputs["model_run"].uri, TRAINING_FILE)
    if not tfx.dsl.io.fileio.exists(path):
        return Summary("")
    with tfx.dsl.io.fileio.open(path, "r") as file:
        run = json.loads(file.read())
    name, value = next(iter(run["metrics"].items()))
    line = f"eval {TITLES[name]} {_value(value)} at epoch {run['best_epoch']} of {run['epochs']}"
    if start := run.get("warm_start"):
        why_cold = start.get("why_cold")
        line += f"; cold start: {why_cold}" if why_cold else "; started from the served model"
    return Summary(line)


def _pruner(outputs: Outputs) -> Summary:
    report = outputs["report"].read()
    (name, after), *_ = report["after"]["metrics"].items()
    before = report["before"]["metrics"][name]
    why = report["why"]
    target = report["target_sparsity"]
    few = f" (too few steps for {target:.0%})" if report["pruning"]["sparsity"] < target else ""
    line = f"{report['sparsity']:.1%} of the weights are zero{few}"
    if removed := sum(layer["removed"] for layer in report["units"].values()):
        units = sum(layer["units"] for layer in report["units"].values())
        line = f"{report['sparsity']:.1%} of the weights are zero or removed{few}"
        line += f", and {removed:,} of {units:,} units removed"
    change = f"eval {TITLES[name]} {_value(after)}, was {_value(before)}"
    return Summary(f"{line}; {change}", (why,) if why else ())


def _quantizer(outputs: Outputs) -> Summary:
    report = outputs["report"].read()
    shipped, original = report["modes"][report["mode"]], report["float"]
    return Summary(
        f"{report['mode']}: model.tflite {shipped['bytes'] / 1000:.1f} kB, "
        f"{original['bytes'] / shipped['bytes']:.1f} times smaller than float; "
        f"{shipped['p50_ms'] * 1000:.1f} µs a row",
        (report["why"],),
    )


def _baseline_evaluator(outputs: Outputs) -> Summary:
    report = outputs["baselines"].read()
    metric = Task.from_config(report["task"]).headline
    shown = ", ".join(
        f"{facts['title']} {show(facts['metrics'][metric.name])}"
        for facts in reversed(report["baselines"].values())
    )
    return Summary(f"{metric.title}: {shown}")


def _compression_evaluator(outputs: Outputs) -> Summary:
    uri = outputs["evaluation"].uri
    verdict = read_verdict(uri)
    metric = verdict.task.headline
    own, base = read_metrics(uri), read_baseline_metrics(uri)
    losses = {
        name: metric.loss(value, before)
        for name, values in own.items()
        if (value := values.get(metric.name)) is not None
        and (before := base.get(name, {}).get(metric.name)) is not None
    }
    if OVERALL in losses:
        of_float = base[OVERALL][metric.name]
        margin = _change_margin(uri, metric, of_float)
        line = f"{metric.title} {_change(metric, losses[OVERALL])}{margin} against float"
    else:
        line = f"{metric.title} undefined"
    if slices := {name: loss for name, loss in losses.items() if name != OVERALL}:
        worst = max(slices, key=lambda name: slices[name])
        line += f", {_change(metric, slices[worst])} at worst ({worst})"
    if outputs["blessing"].get_int_custom_property("blessed"):
        return Summary(f"blessed; {line}")
    return Summary(f"not blessed; {line}", (*read_budgets(uri), *verdict.failures))


def _change(metric: Metric, loss: float) -> str:
    """A change, in the metric's own direction: a difference, or a share."""
    change = -metric.direction * loss
    return f"{change:+.2%}" if metric.relative else f"{change:+.4f}"


def _change_margin(evaluation_uri: str, metric: Metric, of_float: float | None) -> str:
    """Half the width of the interval of a change, in the units of `_change`; "" if unknown."""
    interval = read_intervals(evaluation_uri).get(OVERALL, {}).get(f"{metric.name}_diff")
    if not interval or not of_float:
        return ""
    margin = (interval[1] - interval[0]) / 2
    return f" ±{margin / abs(of_float):.2%}" if metric.relative else f" ±{margin:.4f}"


def _evaluator(outputs: Outputs) -> Summary:
    uri = outputs["evaluation"].uri
    verdict = read_verdict(uri)
    overall = read_metrics(uri).get(OVERALL, {})
    values = ", ".join(
        f"{metric.title} {metric.show(overall[metric.name], _margin(verdict, metric))}"
        for metric in verdict.task.metrics
        if metric.name in overall
    )
    comparison = Comparison.read(uri)
    if outputs["blessing"].get_int_custom_property("blessed"):
        details = [comparison.line] if comparison else []
        if fairness := read_fairness(uri):
            details.append(describe_fairness(fairness))
        return Summary(f"blessed; {values}", tuple(details))
    return Summary(f"not blessed; {values}", verdict.failures)


def _margin(verdict: Verdict, metric: Metric) -> float | None:
    """Half the width of the interval of the first metric; the others are shown without it."""
    return verdict.margins.get(metric.name) if metric == verdict.task.headline else None


def _explainer(outputs: Outputs) -> Summary:
    content = outputs["explanations"].read()
    if content["importance"]:
        most = ", ".join(
            f"{feature} {share:.0%}"
            for feature, share in list(shares(content["importance"]).items())[:3]
        )
        line = f"{content['rows']:,} rows; most important: {most}"
    else:
        line = "nothing could be explained"
    left_out = content["rows_left_out"]
    notes = tuple(f"{one['rows']:,} rows left out: {one['why']}" for one in left_out)
    if outputs["blessing"].get_int_custom_property("blessed"):
        return Summary(line, notes)
    return Summary(f"not blessed; {line}", tuple(content["reasons"]))


def _serving_validator(outputs: Outputs) -> Summary:
    report = read_report(outputs["blessing"])
    times: dict[str, float] = {}
    for trial in report["formats"].values():
        for protocol, took in trial["protocols"].items():
            times[protocol] = max(took["p99_ms"], times.get(protocol, 0.0))
    starts = [trial["startup_seconds"] or 0.0 for trial in report["formats"].values()]
    line = f"{report['rows']} rows"
    if times:
        slowest = ", ".join(f"{time:.1f} ms over {protocol}" for protocol, time in times.items())
        line += f", p99 {slowest}; ready in {max(starts):.1f} s"
    if outputs["blessing"].get_int_custom_property("blessed"):
        return Summary(f"blessed; {line}")
    return Summary(f"not blessed; {line}", tuple(report["reasons"]))


def _pusher(outputs: Outputs) -> Summary:
    pushed = outputs["pushed_model"]
    if pushed.get_int_custom_property("pushed"):
        version = pushed.get_string_custom_property("pushed_version")
        destination = pushed.get_string_custom_property("pushed_destination")
        return Summary(f"version {version}", (destination,))
    return Summary(f"not pushed: {pushed.get_string_custom_property('reason')}")


def _request_example_gen(outputs: Outputs) -> Summary:
    requests = Requests.from_examples(outputs["examples"])
    counts = ", ".join(f"{count:,} {split}" for split, count in requests.rows.items())
    return Summary(f"{counts} rows; {sum(requests.labelled.values()):,} of them with a label")


def _traffic_example_gen(outputs: Outputs) -> Summary:
    text = outputs["examples"].get_string_custom_property("pair")
    if not text:
        return Summary("no challenger")
    pair = Pair.from_json(text)
    return Summary(f"challenger {pair.challenger}, champion {pair.champion}")


def _serving_monitor(outputs: Outputs) -> Summary:
    content = outputs["report"].read()
    alarms = content["alarms"]
    if not content["evaluated"]:
        line = "too few rows to evaluate"
    elif alarms:
        line = _count(len(alarms), "alarm")
    else:
        line = f"{len(content['checks'])} checks, no alarm"
    return Summary(line, (outputs["report"].uri,))


def _value(value: float | None) -> str:
    """A metric, as a label's unit of any size needs it."""
    if value is None:
        return "undefined"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def _count(number: int, singular: str, plural: str = "") -> str:
    """A number and its noun, for instance "no warnings", "1 warning", "2 anomalies"."""
    return f"{number or 'no'} {singular if number == 1 else plural or singular + 's'}"


_BY_NODE: dict[str, Callable[[Outputs], Summary]] = {
    "SpanExampleGen": _span_example_gen,
    "ImportSchemaGen": _import_schema_gen,
    "StatisticsGen": _statistics_gen,
    "ExampleValidator": _example_validator,
    "ServedModel": _served_model,
    "DataGate": _data_gate,
    "BaselineEvaluator": _baseline_evaluator,
    "Transform": _transform,
    "Tuner": _tuner,
    "Trainer": _trainer,
    "Pruner": _pruner,
    "Quantizer": _quantizer,
    "CompressionEvaluator": _compression_evaluator,
    "Evaluator": _evaluator,
    "Explainer": _explainer,
    "ServingValidator": _serving_validator,
    "Pusher": _pusher,
    "RequestExampleGen": _request_example_gen,
    "TrafficExampleGen": _traffic_example_gen,
    "ServingMonitor": _serving_monitor,
}
