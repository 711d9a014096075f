"""ServedModel, Evaluator and Pusher on what a real small run left behind."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tensorflow_model_analysis as tfma
from tfx.v1.types import standard_artifacts as standard

from components.evaluator.results import read_failures, read_metrics
from components.pusher import Pusher
from components.served_model import ServedModel
from ml.artifacts import CompressionReport, has_serving_model, statistics_uri
from storage.directory import ModelDirectory
from storage.errors import UserError
from storage.names import TFLITE_MODEL, WARMUP_FILE
from tests.components.parameters import DEFAULTS
from tests.conftest import PushedRun


def at(kind: Any, uri: Path) -> Any:
    artifact = kind()
    artifact.uri = str(uri)
    return artifact


def push(
    pushed: PushedRun, serving_dir: Path | str, work: Path, **parameters: Any
) -> standard.PushedModel:
    """Pushes the model of the run to another Serving directory."""
    examples = at(standard.Examples, pushed.artifact("SpanExampleGen", "examples"))
    inputs = {
        "model": at(standard.Model, pushed.artifact("Quantizer", "quantized_model")),
        "blessing": at(standard.ModelBlessing, pushed.artifact("Evaluator", "blessing")),
        "compression_blessing": at(
            standard.ModelBlessing, pushed.artifact("CompressionEvaluator", "blessing")
        ),
        "infra_blessing": at(
            standard.InfraBlessing, pushed.artifact("ServingValidator", "blessing")
        ),
        "compression_report": at(CompressionReport, pushed.artifact("Quantizer", "report")),
        "evaluation": at(standard.ModelEvaluation, pushed.artifact("Evaluator", "evaluation")),
        "examples": examples,
        "statistics": at(
            standard.ExampleStatistics, pushed.artifact("StatisticsGen", "statistics")
        ),
        "schema": at(standard.Schema, pushed.artifact("ImportSchemaGen", "schema")),
    }
    output = at(standard.PushedModel, work)
    Pusher.EXECUTOR_SPEC.executor_class().Do(
        {key: [artifact] for key, artifact in inputs.items()},
        {"pushed_model": [output]},
        {
            **DEFAULTS["Pusher"],
            "serving_dir": str(serving_dir),
            "model_name": "trip_delay",
            "run_key": "abc",
            **parameters,
        },
    )
    return output


def serve(
    serving_dir: Path | str, work: Path, version: int = 0
) -> tuple[standard.Model, standard.ExampleStatistics]:
    model = at(standard.Model, work / "model")
    statistics = at(standard.ExampleStatistics, work / "statistics")
    ServedModel.EXECUTOR_SPEC.executor_class().Do(
        {},
        {"model": [model], "statistics": [statistics]},
        {
            **DEFAULTS["ServedModel"],
            "serving_dir": str(serving_dir),
            "model_name": "trip_delay",
            "version": version,
        },
    )
    return model, statistics


def test_pusher_pushes_the_evaluated_files_byte_for_byte_and_warmup_requests(
    pushed: PushedRun,
) -> None:
    evaluated = digests(pushed.artifact("Quantizer", "quantized_model") / "Format-Serving")
    assert {"saved_model.pb", TFLITE_MODEL} <= set(evaluated)
    requests = digests(pushed.artifact("ServingValidator", "blessing"))[WARMUP_FILE]
    assert digests(pushed.version) == {**evaluated, WARMUP_FILE: requests}


def test_pusher_keeps_the_run_key_in_another_directory(pushed: PushedRun, tmp_path: Path) -> None:
    output = push(pushed, tmp_path / "serving", tmp_path / "work")
    assert output.get_int_custom_property("pushed") == 1
    directory = ModelDirectory(str(tmp_path / "serving"), "trip_delay")
    (version,) = directory.versions()
    assert output.get_string_custom_property("pushed_version") == str(version)
    assert directory.provenance(version)["run_key"] == "abc"


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_pusher_does_not_push_the_same_model_twice(pushed: PushedRun, tmp_path: Path) -> None:
    first = push(pushed, tmp_path / "serving", tmp_path / "1")
    second = push(pushed, tmp_path / "serving", tmp_path / "2")
    assert second.get_int_custom_property("pushed") == 0
    version = first.get_string_custom_property("pushed_version")
    assert second.get_string_custom_property("reason") == f"the same model is version {version}"
    assert ModelDirectory(str(tmp_path / "serving"), "trip_delay").versions() == [int(version)]


@pytest.mark.parametrize(
    ("node", "marker"),
    [
        ("Evaluator", "BLESSED"),
        ("CompressionEvaluator", "BLESSED"),
        ("ServingValidator", "INFRA_BLESSED"),
    ],
)
def test_pusher_pushes_nothing_without_all_blessings(
    pushed: PushedRun, tmp_path: Path, node: str, marker: str
) -> None:
    output = tmp_path / "output"
    refused = PushedRun(type(pushed.cli)(pushed.cli.data, output), "")
    shutil.copytree(pushed.cli.directory / "artifacts", refused.cli.directory / "artifacts")
    (refused.artifact(node, "blessing") / marker).unlink()
    result = push(refused, tmp_path / "serving", tmp_path / "work")
    assert result.get_int_custom_property("pushed") == 0
    assert result.get_string_custom_property("reason") == "not blessed"
    assert not (tmp_path / "serving").exists()


def test_served_model_outputs_model_and_statistics_being_served(
    pushed: PushedRun, tmp_path: Path
) -> None:
    push(pushed, tmp_path / "serving", tmp_path / "work")
    model, statistics = serve(tmp_path / "serving", tmp_path / "out")
    assert has_serving_model(model)
    directory = ModelDirectory(str(tmp_path / "serving"), "trip_delay")
    assert model.get_int_custom_property("version") == directory.served()
    trained_on = Path(
        statistics_uri(
            at(standard.ExampleStatistics, pushed.artifact("StatisticsGen", "statistics")), "train"
        )
    )
    assert Path(statistics_uri(statistics, "train")).read_bytes() == trained_on.read_bytes()
    assert json.loads(statistics.split_names) == ["train"]


def test_served_model_outputs_empty_artifacts_when_nothing_is_served(tmp_path: Path) -> None:
    model, statistics = serve(tmp_path / "serving", tmp_path / "out")
    assert not has_serving_model(model)
    assert json.loads(statistics.split_names) == []


def test_served_model_refuses_a_missing_version(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="version 12 of trip_delay is not in"):
        serve(tmp_path / "serving", tmp_path / "out", version=12)


def test_read_metrics_reads_overall_metrics_and_slices(pushed: PushedRun) -> None:
    metrics = read_metrics(str(pushed.artifact("Evaluator", "evaluation")))
    assert set(metrics["Overall"]) >= {"auc", "auc_pr", "calibration", "example_count"}
    origins = [metrics[f"origin:{name}"]["example_count"] for name in ("EWR", "JFK", "LGA")]
    assert sum(filter(None, origins)) == metrics["Overall"]["example_count"]


def test_evaluator_blesses_a_model_with_slices_too_small_to_evaluate(
    pushed: PushedRun,
) -> None:
    uri = str(pushed.artifact("Evaluator", "evaluation"))
    stock = tfma.load_validation_result(uri)
    assert not stock.validation_ok  # A company with few trips in the month: stock TFX refuses.
    assert read_failures(uri) == []
    blessing = pushed.artifact("Evaluator", "blessing")
    assert [path.name for path in blessing.iterdir()] == ["BLESSED"]
