"""Tests of the compiled pipeline, run task by task by `kfp.local`, each in a process of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import yaml

from orchestration.kubeflow import news, shown
from pipeline.config import load_config
from storage.directory import ModelDirectory
from storage.keys import TrustStore
from storage.private_copy import private_copy
from tests import forked
from tests.conftest import PushedRun

DIGEST = "sha256:" + "0123456789abcdef" * 4
# As in `Cli`, for a model that has seen little.
SETTINGS = (
    *(
        "evaluation.thresholds.auc=0.5",
        "evaluation.slice_thresholds.auc=0.4",
        "evaluation.max_loss=0.5",
    ),
    *("compression.max_loss=0.5", "compression.max_slice_loss=1"),
)


@dataclass(frozen=True)
class KubeflowRun:
    """A finished run of a package."""

    root: Path
    package: Path
    screen: str

    @property
    def model(self) -> Path:
        return self.root / "serving" / "trip_delay"

    @property
    def version(self) -> Path:
        (version,) = (path for path in self.model.iterdir() if path.name.isdigit())
        return version

    def outputs(self) -> dict[str, dict[str, Any]]:
        """The outputs that each task reports, by its name."""
        files = self.root.glob("pipeline_root/*/*/executor_output.json")
        return {file.parent.name: json.loads(file.read_text()) for file in files}


@pytest.fixture(scope="module")
def kubeflow_run(small_spans: Path, tmp_path_factory: pytest.TempPathFactory) -> KubeflowRun:
    """Trained on January, evaluated on February. Leave it as it is."""
    root = tmp_path_factory.mktemp("kubeflow")
    package = root / "pipeline.yaml"
    settings = [
        f"kubeflow.image=flightdeck@{DIGEST}",
        f"kubeflow.serving_dir={root / 'serving'}",
        f"serving.signing_key={root / 'keys' / 'signing.key'}",
        f"kubeflow.state_dir={root / 'state'}",
        f"data.uri={small_spans}",
        *SETTINGS,
    ]
    sets = [argument for setting in settings for argument in ("--set", setting)]
    compiled = forked.run(["kubeflow_runner.py", "compile", "--output", str(package), *sets])
    assert compiled.returncode == 0, compiled.stdout
    parameters = {
        "data_as_of": 201302,
        "data_window": 1,
        # What is pruned learns from the float model alone, which has to be good.
        "training_epochs": 10,
        "training_patience": 10,
        "training_batch_size": 256,
        "only_if_new": "a schedule",
    }
    runner = "tests/e2e/run_package.py"
    pipeline_root = str(root / "pipeline_root")
    done = forked.run([runner, str(package), pipeline_root, json.dumps(parameters), "forked"])
    assert done.returncode == 0, done.stdout
    return KubeflowRun(root, package, done.stdout)


def test_kubeflow_run_of_a_schedule_notes_what_it_trained_on(
    kubeflow_run: KubeflowRun, small_spans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(news.STATE_VARIABLE, str(kubeflow_run.root / "state" / "trip_delay"))
    layout = load_config(None, [f"data.uri={small_spans}"]).data.source.layout
    data = {"data_uri": str(small_spans), "layout": layout, "as_of": 201302, "window": 1}
    assert news.look("a schedule", data) == news.NOTHING
    assert news.look("another schedule", data) != news.NOTHING
    assert news.look("a schedule", data | {"as_of": 201303}) != news.NOTHING


def relative_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def provenance(version: Path) -> Path:
    return version.parent / ".flightdeck" / version.name


def test_kubeflow_run_tasks_report_artifacts_that_exist(kubeflow_run: KubeflowRun) -> None:
    spec, *_ = yaml.safe_load_all(kubeflow_run.package.read_text())
    tasks = spec["root"]["dag"]["tasks"]
    outputs = kubeflow_run.outputs()
    assert set(outputs) == set(tasks)
    for name, output in outputs.items():
        declared = spec["components"][f"comp-{name}"]["outputDefinitions"]["artifacts"]
        assert set(output["artifacts"]) == set(declared)
        for key, group in output["artifacts"].items():
            for artifact in group["artifacts"]:
                assert Path(artifact["uri"]).is_dir() or key in shown.TYPES


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("Trainer", {"eval_auc", "epochs"}),
        ("Quantizer", {"bytes", "p50_ms", "times_smaller_than_float"}),
        ("CompressionEvaluator", {"auc", "blessed"}),
        ("Evaluator", {"auc", "calibration", "blessed"}),
    ],
)
def test_kubeflow_run_shows_metrics(
    task: str, metrics: set[str], kubeflow_run: KubeflowRun
) -> None:
    (made,) = kubeflow_run.outputs()[task]["artifacts"]["metrics"]["artifacts"]
    assert metrics <= set(made["metadata"])
    assert all(isinstance(value, float) for value in made["metadata"].values())
    assert made["metadata"].get("blessed", 1) == 1


def test_kubeflow_run_shows_the_page_of_the_run(kubeflow_run: KubeflowRun) -> None:
    (made,) = kubeflow_run.outputs()["Pusher"]["artifacts"]["page"]["artifacts"]
    assert made["type"]["schemaTitle"] == "system.HTML"
    page = Path(made["uri"]).read_text()
    assert f"Version {kubeflow_run.version.name} was pushed." in page
    # What each section shows, and nothing that could not be read.
    lines = ["Evaluator", "blessed; AUC 0.", "int8: model.tflite", "200 rows, p99", "trip_delay"]
    record = json.loads((provenance(kubeflow_run.version) / "provenance.json").read_text())
    lines += [f'<td class="n">{record["rows"]["test"]:,}</td>']
    lines += [f'<p class="lead">version {kubeflow_run.version.name}</p>']
    assert [line for line in lines if line not in page] == []
    for absent in (
        "Not made: there is no",
        "Not made: the run",
        "no summary",
        "cannot be read",
        "Without artifacts",
    ):
        assert absent not in page


def test_kubeflow_run_pushes_what_the_local_runner_pushes(
    kubeflow_run: KubeflowRun, pushed: PushedRun
) -> None:
    theirs, ours = kubeflow_run.version, pushed.version
    assert relative_files(theirs) == relative_files(ours)
    assert relative_files(provenance(theirs)) == relative_files(provenance(ours))
    records = [json.loads((provenance(v) / "provenance.json").read_text()) for v in (theirs, ours)]
    assert records[0].keys() == records[1].keys()
    assert records[0]["artifacts"].keys() == records[1]["artifacts"].keys()
    assert records[0]["compression"] == records[1]["compression"]


def test_kubeflow_run_pushes_formats_that_predict_alike(
    kubeflow_run: KubeflowRun, pushed: PushedRun
) -> None:
    theirs, ours = (tf.saved_model.load(str(v)) for v in (kubeflow_run.version, pushed.version))
    assert theirs.signatures.keys() == ours.signatures.keys()
    shapes = [
        {name: (spec.dtype, spec.shape) for name, spec in signature.items()}
        for model in (theirs, ours)
        for signature in [model.signatures["raw_features"].structured_input_signature[1]]
    ]
    assert shapes[0] == shapes[1]
    rows = {
        name: tf.constant([["x"]] if spec.dtype == tf.string else [[1]], spec.dtype)
        for name, spec in theirs.signatures["raw_features"].structured_input_signature[1].items()
    }
    (saved,) = theirs.signatures["raw_features"](**rows).values()
    lite = tf.lite.Interpreter(str(kubeflow_run.version / "model.tflite"))
    runner = lite.get_signature_runner("raw_features")
    (edge,) = runner(**{name: value.numpy() for name, value in rows.items()}).values()
    assert np.isfinite(edge).all()
    np.testing.assert_allclose(edge, saved.numpy(), atol=0.05)


def test_kubeflow_run_signs_its_version(kubeflow_run: KubeflowRun) -> None:
    folder = kubeflow_run.version.parent
    directory = ModelDirectory(str(folder.parent), folder.name)
    trust = TrustStore([str(kubeflow_run.root / "keys")])
    private_copy(directory, int(kubeflow_run.version.name), trust).close()


def test_kubeflow_run_parameters_reach_the_tasks(kubeflow_run: KubeflowRun) -> None:
    record = json.loads((provenance(kubeflow_run.version) / "provenance.json").read_text())
    # By way of the custom properties of the examples, which pass through every task.
    assert record["spans"] == {"train": [201301], "test": [201302]}
    assert record["rows"]["test"] > 1000
    (model_run,) = kubeflow_run.outputs()["Trainer"]["artifacts"]["model_run"]["artifacts"]
    training = json.loads((Path(model_run["uri"]) / "training.json").read_text())
    assert training["epochs"] == 10


@pytest.mark.parametrize(
    "line",
    [
        "SpanExampleGen: ",
        "DataGate: passed, no warnings; drift: nothing served yet",
        "Trainer: eval AUC 0.",
        "Evaluator: blessed; AUC 0.",
        "ServingValidator: blessed; 200 rows",
        "Pusher: version ",
    ],
)
def test_kubeflow_run_prints_a_summary_of_each_task(line: str, kubeflow_run: KubeflowRun) -> None:
    said = [text.strip() for text in kubeflow_run.screen.splitlines()]
    assert any(text.startswith(line) for text in said)
