"""The compiled pipeline in containers without network, from the data to the pushed version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from storage.directory import ModelDirectory
from storage.keys import TrustStore, default_trust
from storage.private_copy import private_copy
from tests.containers.conftest import ContainerRun, RunPipeline


@pytest.fixture(scope="module")
def finished(
    run_pipeline: RunPipeline, small_spans: Path, tmp_path_factory: pytest.TempPathFactory
) -> ContainerRun:
    volume = tmp_path_factory.mktemp("volume")
    shutil.copytree(small_spans, volume / "spans").chmod(0o755)
    run = run_pipeline(volume)
    # The runner's word for it is not enough: the other tests look at files.
    assert run.returncode == 0, run.screen
    return run


@pytest.fixture(scope="module")
def serving(finished: ContainerRun) -> ModelDirectory:
    return ModelDirectory(str(finished.volume / "serving_model"), "trip_delay")


def test_pipeline_in_containers_hands_over_the_outputs_of_every_task(
    finished: ContainerRun,
) -> None:
    outputs = {path.parent.name: path for path in finished.artifacts.glob("*/executor_output.json")}

    assert outputs.keys() == finished.tasks
    for task, path in outputs.items():
        artifacts = json.loads(path.read_text(encoding="utf-8"))["artifacts"]
        assert artifacts, f"{task} has no outputs"
        for name, made in artifacts.items():
            for artifact in made["artifacts"]:
                if name == "metrics":  # They are their own properties.
                    assert artifact["metadata"], f"{task} has no metrics"
                elif name == "page":
                    page = Path(artifact["uri"]).read_text(encoding="utf-8")
                    assert page.startswith("<!DOCTYPE html>"), f"{task} has no page"
                else:
                    assert Path(artifact["uri"]).is_dir(), f"{task}: {name} is missing"


def test_pipeline_in_containers_pushes_one_version_in_both_formats(serving: ModelDirectory) -> None:
    (version,) = serving.versions()

    folder = Path(serving.version_uri(version))
    assert (folder / "saved_model.pb").is_file()
    assert (folder / "model.tflite").is_file()


def test_pipeline_in_containers_signs_the_version(serving: ModelDirectory) -> None:
    (version,) = serving.versions()

    private_copy(serving, version, TrustStore([default_trust(serving.serving_dir)])).close()


def test_pipeline_in_containers_records_the_provenance_of_the_version(
    serving: ModelDirectory,
) -> None:
    (version,) = serving.versions()

    provenance = serving.provenance(version)
    assert provenance["spans"] == {"train": [201301, 201302], "test": [201303]}
    assert 0.5 < provenance["metrics"]["auc"] < 1


def test_pipeline_in_containers_fails_with_a_failing_task_and_tells_why(
    run_pipeline: RunPipeline, tmp_path: Path
) -> None:
    (tmp_path / "spans").mkdir()

    run = run_pipeline(tmp_path)

    assert run.returncode != 0
    assert "data directory '/mnt/flightdeck/spans' holds no span" in run.screen
    assert not (tmp_path / "serving_model").exists()
