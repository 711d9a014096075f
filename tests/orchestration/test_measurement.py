"""Tests of what a real run's artifacts say of its month."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tensorflow as tf
from tfx import v1 as tfx

from ml.artifacts import serving_model_uri
from ml.tasks import Task
from orchestration.backtest.measurement import _score, measure
from orchestration.local.output_directory import OutputDirectory
from tests.conftest import PushedRun

TASK = Task("binary", "delayed")


@pytest.fixture
def model_uri(pushed: PushedRun) -> str:
    model = tfx.types.standard_artifacts.Model()
    model.uri = str(pushed.artifact("Quantizer", "quantized_model"))
    return serving_model_uri(model)


def examples(rows: list[bytes], folder: Path) -> tfx.dsl.Artifact:
    (folder / "Split-test").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "Split-test" / "data.gz"), "GZIP") as writer:
        for row in rows:
            writer.write(row)
    artifact = tfx.types.standard_artifacts.Examples()
    artifact.uri, artifact.split_names = str(folder), '["test"]'
    return artifact


def labelled(pushed: PushedRun, label: int | None) -> list[bytes]:
    """Some rows whose first one has that label, or none."""
    file = min((pushed.artifact("SpanExampleGen", "examples") / "Split-test").iterdir())
    rows = list(tf.data.TFRecordDataset(str(file), "GZIP").take(200).as_numpy_iterator())
    example = tf.train.Example.FromString(rows[0])
    del example.features.feature["delayed"]
    if label is not None:
        example.features.feature["delayed"].int64_list.value.append(label)
    return [example.SerializeToString(), *rows[1:]]


def test_measure_gives_the_headline_metric_of_the_evaluator(pushed: PushedRun) -> None:
    output = OutputDirectory(pushed.cli.directory)
    (record,) = output.runs.glob("*.json")
    files = (str(output.metadata), str(output.metadata_lock))
    found = measure(*files, record.stem, (1, record.stem), TASK.to_json())
    provenance = pushed.version.parent / ".flightdeck" / pushed.version.name / "provenance.json"
    assert found.new_score == json.loads(provenance.read_text())["metrics"]["auc"]
    assert found.first_score == pytest.approx(found.new_score, abs=1e-3)
    assert (found.served_version, found.served_score, found.drift) == (None, None, None)


@pytest.mark.parametrize(("label", "known"), [(0, True), (1, True), (7, False), (None, False)])
def test_score_is_none_for_rows_without_good_labels(
    pushed: PushedRun, model_uri: str, label: int | None, known: bool, tmp_path: Path
) -> None:
    score = _score(model_uri, examples(labelled(pushed, label), tmp_path), TASK)
    assert (score is not None) == known


def test_score_is_none_for_rows_that_the_model_cannot_read(model_uri: str, tmp_path: Path) -> None:
    empty = [tf.train.Example().SerializeToString()] * 2
    assert _score(model_uri, examples(empty, tmp_path), TASK) is None
