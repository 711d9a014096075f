"""Tests of the one-line summaries that can be told from artifacts made by hand.

The others (Transform, Evaluator) are covered where whole pipelines run.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import v1 as tfx

from components.data_gate.component import GateFacts
from ml.artifacts import (
    BaselineReport,
    CompressionReport,
    Explanations,
    MonitoringReport,
    TuningReport,
)
from ml.comparisons import Drift
from orchestration.local.node_facts import NodeFacts, read_facts
from orchestration.local.node_process import Summary
from orchestration.local.summaries import summarize

artifacts = tfx.types.standard_artifacts

NEVER_READY: dict[str, Any] = {"startup_seconds": None, "protocols": {}}


def test_summarize_of_an_unknown_node_is_empty() -> None:
    assert summarize("Unheard", {"model": artifacts.Model()}) == Summary("")


def test_summarize_counts_examples_by_split_and_dates_them() -> None:
    examples = artifacts.Examples()
    rows = {"train": 123456, "eval": 7890, "test": 27020}
    examples.set_string_custom_property("rows", json.dumps(rows))
    for months, learned in [
        (["201311"], "201311"),
        (["201309", "201310", "201311"], "201309 to 201311"),
    ]:
        spans = {"train": months, "test": ["201312"]}
        examples.set_string_custom_property("spans", json.dumps(spans))
        assert summarize("SpanExampleGen", {"examples": examples}) == Summary(
            f"123,456 train, 7,890 eval, 27,020 test rows; trained on {learned}, "
            "evaluated on 201312"
        )


def test_summarize_tells_a_split_by_a_hash_and_what_is_not_read_as_it_is() -> None:
    examples = artifacts.Examples()
    for name, value in {
        "rows": {"train": 241, "eval": 35, "test": 68},
        "spans": {"train": [0], "test": [0]},
        "left_out": ["note", "Unnamed"],
        "rounded": ["fare"],
    }.items():
        examples.set_string_custom_property(name, json.dumps(value))
    examples.set_string_custom_property("split", "by a hash of the row")
    assert summarize("SpanExampleGen", {"examples": examples}) == Summary(
        "241 train, 35 eval, 68 test rows; split by a hash of the row",
        (
            "left out, for the schema lacks them: note, Unnamed",
            "rounded, for a 32-bit float holds seven digits: fare (make an id a string or INT "
            "feature; scale what hardly differs)",
        ),
    )


def test_summarize_counts_the_features_of_a_schema(tmp_path: Path) -> None:
    schema = artifacts.Schema()
    schema.uri = str(tmp_path)
    (tmp_path / "schema.pbtxt").write_text('feature { name: "a" } feature { name: "b" }')
    assert summarize("ImportSchemaGen", {"schema": schema}).line == "2 features"


def test_summarize_names_the_splits_of_statistics() -> None:
    statistics = artifacts.ExampleStatistics()
    statistics.split_names = '["train", "eval", "test"]'
    summary = summarize("StatisticsGen", {"statistics": statistics})
    assert summary.line == "statistics of train, eval, test"


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({"train": [], "test": []}, "no anomalies"),
        ({"train": ["origin"], "test": []}, "1 anomaly: train: origin"),
        (
            {"train": ["tailnum", "origin"], "test": ["origin"]},
            "3 anomalies: train: origin, train: tailnum, test: origin",
        ),
    ],
)
def test_summarize_counts_and_names_anomalies(
    tmp_path: Path, found: dict[str, list[str]], line: str
) -> None:
    anomalies = artifacts.ExampleAnomalies()
    anomalies.uri = str(tmp_path)
    anomalies.split_names = json.dumps(list(found))
    for split, features in found.items():
        diff = anomalies_pb2.Anomalies()
        for feature in features:
            diff.anomaly_info[feature].short_description = "Unexpected string values"
        (tmp_path / f"Split-{split}").mkdir()
        (tmp_path / f"Split-{split}" / "SchemaDiff.pb").write_bytes(diff.SerializeToString())
    assert summarize("ExampleValidator", {"anomalies": anomalies}) == Summary(line)


def test_summarize_names_the_served_version() -> None:
    model = artifacts.Model()
    assert summarize("ServedModel", {"model": model}).line == "nothing is served yet"
    model.set_int_custom_property("version", 1795417831)
    assert summarize("ServedModel", {"model": model}).line == "version 1795417831"


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (GateFacts(0, (), False, None), "passed, no warnings; drift: nothing served yet"),
        (GateFacts(1, ("first",), True, None), "passed, 1 warning; drift: compared"),
        (
            GateFacts(12, ("first", "second"), True, Drift("distance", 0.0391, 0.05)),
            "passed, 12 warnings; drift: compared, nearest its limit distance (0.039 of 0.05)",
        ),
    ],
)
def test_summarize_shows_warnings_and_drift_of_data_gate(facts: GateFacts, line: str) -> None:
    anomalies = artifacts.ExampleAnomalies()
    facts.attach(anomalies)
    assert GateFacts.of(anomalies) == facts
    assert summarize("DataGate", {"anomalies": anomalies}) == Summary(line, facts.shown)


def test_summarize_shows_the_best_epoch_of_a_trainer_with_a_record(tmp_path: Path) -> None:
    model_run = artifacts.ModelRun()
    model_run.uri = str(tmp_path)
    assert summarize("Trainer", {"model_run": model_run}) == Summary("")
    record = {"metrics": {"auc": 0.71239, "log_loss": 0.6}, "best_epoch": 3, "epochs": 5}
    (tmp_path / "training.json").write_text(json.dumps(record))
    assert summarize("Trainer", {"model_run": model_run}).line == "eval AUC 0.7124 at epoch 3 of 5"


@pytest.mark.parametrize(
    ("number", "found"),
    [(3, "training.l2 0.001235, network.units 128"), (0, "the configured settings are the best")],
)
def test_summarize_shows_the_best_settings_and_failed_trials_of_a_tuner(
    tmp_path: Path, number: int, found: str
) -> None:
    report = TuningReport()
    report.uri = str(tmp_path)
    settings = {"training.l2": 0.00123456, "network.units": 128}
    report.write(
        {
            "metric": {"name": "rmse", "title": "RMSE", "direction": -1},
            "best": {"number": number, "settings": settings, "value": 510.34},
            "configured": {"number": 0, "settings": {}, "value": None},
            "counts": {"complete": 1, "pruned": 0, "failed": 1},
            "trials": [{"number": 0, "why": ""}, {"number": 1, "why": "diverged"}],
        }
    )
    assert summarize("Tuner", {"report": report}) == Summary(
        f"eval RMSE 510.3, was undefined: {found}; 2 trials: 1 complete, 1 failed",
        ("trial 1 failed: diverged",),
    )


def test_summarize_shows_the_baselines_best_first(tmp_path: Path) -> None:
    report = BaselineReport()
    report.uri = str(tmp_path)
    titles = {"constant": "a constant", "column": "temp alone", "boosting": "gradient boosting"}
    values = dict(zip(titles, (0.5, 0.61234, None), strict=True))
    report.write(
        {
            "task": {"kind": "binary", "label": "delayed"},
            "baselines": {
                name: {"title": title, "metrics": {"auc": values[name], "log_loss": 1.0}}
                for name, title in titles.items()
            },
        }
    )
    assert summarize("BaselineEvaluator", {"baselines": report}) == Summary(
        "AUC: gradient boosting undefined, temp alone 0.6123, a constant 0.5000"
    )


@pytest.mark.parametrize(
    ("why", "pruned"),
    [
        ("", 0.84),
        ("24 steps are too few for a sparsity of 84%", 0.59),
        ("auto: the 156 steps suffice for no more", 0.84),
    ],
)
@pytest.mark.parametrize(
    ("metric", "before", "after", "shown"),
    [
        ("auc", 0.71239, 0.7, "eval AUC 0.7000, was 0.7124"),
        ("rmse", 1234.567, 12345678.9, "eval RMSE 12,345,678.9, was 1,234.6"),
        ("accuracy", None, 0.9, "eval accuracy 0.9000, was undefined"),
    ],
)
def test_summarize_shows_the_headline_metric_of_a_pruner_and_why_it_pruned_less(
    tmp_path: Path,
    why: str,
    pruned: float,
    metric: str,
    before: float | None,
    after: float,
    shown: str,
) -> None:
    report = CompressionReport()
    report.uri = str(tmp_path)
    metrics = {"before": {"metrics": {metric: before}}, "after": {"metrics": {metric: after}}}
    facts = {"sparsity": 0.593, "target_sparsity": 0.84, "pruning": {"sparsity": pruned}}
    report.write({**facts, "why": why, "units": {}, **metrics})
    few = " (too few steps for 84%)" if pruned < 0.84 else ""
    line = f"59.3% of the weights are zero{few}; {shown}"
    assert summarize("Pruner", {"report": report}) == Summary(line, (why,) if why else ())


def test_summarize_shows_the_most_important_features_and_why_a_model_is_not_blessed(
    tmp_path: Path,
) -> None:
    explanations, blessing = Explanations(), tfx.types.standard_artifacts.ModelBlessing()
    explanations.uri = str(tmp_path)
    sizes = {"clock": 6.0, "temp": 3.0, "visib": 1.0, "wind": 0.0}
    content: dict[str, Any] = {
        "rows": 1500,
        "importance": [{"feature": name, "mean_abs": size} for name, size in sizes.items()],
        "rows_left_out": [{"rows": 1200, "why": "the prediction is not finite"}],
        "reasons": ["max_share: clock has 60.0% of the importance"],
    }

    def shown() -> Summary:
        (tmp_path / "explanations.json").write_text(json.dumps(content))
        return summarize("Explainer", {"explanations": explanations, "blessing": blessing})

    line = "1,500 rows; most important: clock 60%, temp 30%, visib 10%"
    assert shown() == Summary(f"not blessed; {line}", tuple(content["reasons"]))
    blessing.set_int_custom_property("blessed", 1)
    assert shown() == Summary(line, ("1,200 rows left out: the prediction is not finite",))
    content["importance"] = []
    assert shown().line == "nothing could be explained"


def serving_report(folder: Path, saved_model: dict[str, Any], reasons: list[str]) -> Any:
    """An `InfraBlessing` as ServingValidator leaves it."""
    tflite = {
        "startup_seconds": 4.06,
        "protocols": {"gRPC": {"p99_ms": 0.91}, "REST": {"p99_ms": 12.34}},
    }
    report = {
        "rows": 200,
        "formats": {"SavedModel": saved_model, "TFLite": tflite},
        "reasons": reasons,
    }
    (folder / "report.json").write_text(json.dumps(report))
    blessing = artifacts.InfraBlessing()
    blessing.uri = str(folder)
    blessing.set_int_custom_property("blessed", int(not reasons))
    return blessing


def test_summarize_shows_the_slowest_format_of_a_model_that_serves(tmp_path: Path) -> None:
    saved_model = {
        "startup_seconds": 5.55,
        "protocols": {"gRPC": {"p99_ms": 1.96}, "REST": {"p99_ms": 3.0}},
    }
    blessing = serving_report(tmp_path, saved_model, [])
    assert summarize("ServingValidator", {"blessing": blessing}) == Summary(
        "blessed; 200 rows, p99 2.0 ms over gRPC, 12.3 ms over REST; ready in 5.5 s"
    )


def test_summarize_shows_every_reason_of_a_model_that_does_not_serve(tmp_path: Path) -> None:
    reasons = ["SavedModel: the server ended by SIGSEGV", "TFLite: took 9.00 MB"]
    blessing = serving_report(tmp_path, NEVER_READY, reasons)
    assert summarize("ServingValidator", {"blessing": blessing}) == Summary(
        "not blessed; 200 rows, p99 0.9 ms over gRPC, 12.3 ms over REST; ready in 4.1 s",
        tuple(reasons),
    )
    assert read_facts([blessing]).blessed is False


def test_summarize_shows_no_times_of_a_server_without_predictions(tmp_path: Path) -> None:
    report = {
        "rows": 7,
        "formats": {"SavedModel": NEVER_READY},
        "reasons": ["SavedModel: it hangs"],
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    blessing = artifacts.InfraBlessing()
    blessing.uri = str(tmp_path)
    summary = summarize("ServingValidator", {"blessing": blessing})
    assert summary == Summary("not blessed; 7 rows", ("SavedModel: it hangs",))


def test_summarize_and_read_facts_give_the_pushed_version() -> None:
    pushed = artifacts.PushedModel()
    pushed.set_int_custom_property("pushed", 1)
    pushed.set_string_custom_property("pushed_version", "7")
    pushed.set_string_custom_property("pushed_destination", "serving/trip_delay/7")
    assert summarize("Pusher", {"pushed_model": pushed}) == Summary(
        "version 7", ("serving/trip_delay/7",)
    )
    facts = NodeFacts(version=7, destination="serving/trip_delay/7")
    assert read_facts([pushed]) == facts


def test_summarize_and_read_facts_give_the_reason_of_no_push() -> None:
    pushed = artifacts.PushedModel()
    pushed.set_int_custom_property("pushed", 0)
    pushed.set_string_custom_property("reason", "not blessed")
    assert summarize("Pusher", {"pushed_model": pushed}) == Summary("not pushed: not blessed")
    assert read_facts([pushed]) == NodeFacts(reason="not blessed")


def test_read_facts_is_empty_for_outputs_that_decide_nothing() -> None:
    assert read_facts([artifacts.Examples(), artifacts.Model()]) == NodeFacts()


def test_read_facts_names_the_folder_of_a_monitoring_report() -> None:
    report = MonitoringReport()
    report.uri = "monitoring/report"
    assert read_facts([report]) == NodeFacts(report="monitoring/report")
