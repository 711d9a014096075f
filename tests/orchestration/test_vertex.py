"""Tests of runs and schedules on Vertex AI, over HTTP, where a server refuses what Google does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

pytest.importorskip("google.cloud.aiplatform_v1", reason="the extra `vertex` is not installed")
pytest.importorskip("gcp_storage_emulator", reason="the emulator of the storage is not installed")

from kubeflow_runner import main
from orchestration.kubeflow.package import read_package
from orchestration.vertex.client import five_fields
from orchestration.vertex.compilation import compile_config
from pipeline.config import load_config
from pipeline.layers import ConfigError
from storage.errors import UserError
from tests.cloud.vertex_stub import (
    DROP,
    DROP_AFTER,
    LOCATION,
    PARENT,
    PROJECT,
    Refused,
    VertexStub,
    check_pipeline,
)
from tests.orchestration.kubeflow_stub import PACKAGE

IMAGE = f"registry.example.com/flightdeck@sha256:{'0' * 64}"
ROOT = "gs://my-bucket/pipelines"
VALUES = ["--param", "epochs=3", "--param", "uri=gs://bucket/data"]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VertexStub]:
    with VertexStub() as running:
        credentials = running.write_credentials(tmp_path / "account.json")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(credentials))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


class Tool:
    """`kubeflow_runner.py ... --target vertex`, with the stand-in and a small package."""

    def __init__(self, stub: VertexStub, folder: Path) -> None:
        self._common = ["--target", "vertex", "--project", PROJECT, "--location", LOCATION]
        self._common += ["--api-endpoint", stub.url]
        self.package = folder / "pipeline.yaml"
        spec = next(iter(yaml.safe_load_all(PACKAGE)))
        self.package.write_text(yaml.safe_dump({**spec, "defaultPipelineRoot": ROOT}))
        self.status = 0

    def __call__(self, *arguments: str) -> str:
        if arguments[0] in ("submit", "schedule"):
            arguments = (*arguments, "--package", str(self.package), *VALUES)
        result = CliRunner().invoke(main, [*arguments, *self._common])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.status = result.exit_code
        return result.output

    def refused(self, *arguments: str) -> str:
        output = self(*arguments)
        assert self.status == 1, output
        (line,) = output.splitlines()
        return line


@pytest.fixture
def tool(stub: VertexStub, tmp_path: Path) -> Tool:
    return Tool(stub, tmp_path)


def only(found: dict[str, Any]) -> Any:
    (one,) = found.values()
    return one


# Compiling


def config(*settings: str) -> Any:
    common = ["data.uri=gs://bucket/data", "kubeflow.serving_dir=gs://bucket/serving"]
    common += [f"kubeflow.image={IMAGE}", f"vertex.pipeline_root={ROOT}", "serving.sign=false"]
    common += ["kubeflow.request_log=gs://bucket/requests"]
    return load_config(None, [*common, *settings])


@pytest.mark.parametrize("pipeline", ["training", "monitoring"])
def test_compile_for_vertex_gives_one_document_with_the_bucket_as_root(pipeline: str) -> None:
    changed = ["kubeflow.cpu=2", "vertex.accelerator=NVIDIA_TESLA_T4"]
    changed.append("kubeflow.nodes.Trainer.accelerator=nvidia.com/gpu")
    text = compile_config(config(*changed), pipeline)
    (spec,) = yaml.safe_load_all(text)
    assert spec["schemaVersion"] == "2.1.0"
    assert spec["defaultPipelineRoot"] == ROOT
    executors = spec["deploymentSpec"]["executors"]
    for name, executor in executors.items():
        container = executor["container"]
        assert container["image"] == IMAGE
        assert container["command"][:3] == ["python", "-m", "orchestration.kubeflow.entrypoint"]
        assert container["resources"]["cpuLimit"] == 2.0
        accelerator = container["resources"].get("accelerator", {}).get("type")
        assert accelerator == ("NVIDIA_TESLA_T4" if name == "exec-Trainer" else None)
    # What the stand-in checks of a job, with the defaults as its values.
    values = read_package(text.encode()).complete({})
    runtime = {"gcsOutputDirectory": ROOT, "parameterValues": values}
    check_pipeline({"pipelineSpec": spec, "runtimeConfig": runtime})
    if pipeline == "training":
        assert values["serving_dir"] == "gs://bucket/serving"


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("vertex.pipeline_root=", "vertex.pipeline_root is missing"),
        ("kubeflow.volume_claim=claim", "kubeflow.volume_claim"),
        ("kubeflow.secret_env.A=secret/key", "kubeflow.secret_env"),
        ("kubeflow.node_selector.a=b", "kubeflow.node_selector"),
        ("kubeflow.nodes.Trainer.labels.a=b", "kubeflow.nodes.Trainer.labels"),
        ("kubeflow.nodes.Trainer.accelerator=nvidia.com/gpu", "vertex.accelerator"),
        ("serving.sign=true", "serving.sign"),
        ("kubeflow.serving_dir=serving", "kubeflow.serving_dir"),
        ("kubeflow.image=", "kubeflow.image is missing"),
    ],
)
def test_compile_for_vertex_names_what_does_not_fit(setting: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        compile_config(config(setting))
    assert not isinstance(caught.value, ConfigError)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        "vertex.project=My Project",
        "vertex.location=europe",
        "vertex.pipeline_root=s3://bucket",
        "vertex.pipeline_root=/data",
        "vertex.service_account=me",
        "vertex.network=default",
        "vertex.kms_key=key",
        "vertex.accelerator=nvidia.com/gpu",
        "vertex.api_endpoint=http://example.com",
        "vertex.region=europe-west4",
    ],
)
def test_vertex_config_refuses_what_is_no_such_name(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        load_config(None, [setting])


def test_vertex_config_refuses_a_key_of_another_region() -> None:
    key = f"projects/{PROJECT}/locations/us-east1/keyRings/r/cryptoKeys/k"
    with pytest.raises(ConfigError, match="europe-west4"):
        load_config(None, [f"vertex.kms_key={key}", "vertex.location=europe-west4"])


# Runs


def test_vertex_submit_starts_a_run_with_all_parameters(stub: VertexStub, tool: Tool) -> None:
    output = tool("submit", "--service-account", f"runner@{PROJECT}.iam.gserviceaccount.com")
    assert tool.status == 0, output
    job = only(stub.jobs)
    assert job["runtimeConfig"] == {
        "gcsOutputDirectory": ROOT,
        "parameterValues": {"epochs": 3, "rate": 0.5, "uri": "gs://bucket/data", "window": 6},
    }
    assert job["serviceAccount"] == f"runner@{PROJECT}.iam.gserviceaccount.com"
    assert job["name"] in output
    assert f"project={PROJECT}" in output


def test_vertex_submit_with_a_name_starts_one_run(stub: VertexStub, tool: Tool) -> None:
    for fault in ([DROP], [DROP_AFTER], []):
        stub.faults["create_pipeline_job"] = list(fault)
        tool("submit", "--run-name", "nightly-1")
    assert tool.status == 0
    assert list(stub.jobs) == [f"{PARENT}/pipelineJobs/nightly-1"]
    tool.package.write_text(tool.package.read_text() + "# changed\n")
    assert "another run of that name" in tool.refused("submit", "--run-name", "nightly-1")
    assert "expected" in tool.refused("submit", "--run-name", "Nightly 1")


def test_vertex_submit_with_a_used_up_quota_says_so(stub: VertexStub, tool: Tool) -> None:
    stub.faults["create_pipeline_job"] = [429]
    line = tool.refused("submit", "--run-name", "nightly-1")
    assert "a quota is used up" in line
    assert stub.jobs == {}


def test_vertex_status_shows_tasks_and_why_one_failed(stub: VertexStub, tool: Tool) -> None:
    tool("submit", "--run-name", "nightly-1")
    job = only(stub.jobs)
    job["state"] = "PIPELINE_STATE_FAILED"
    job["error"] = {"code": 9, "message": "The DAG failed."}
    job["jobDetail"] = {
        "taskDetails": [
            {"taskId": "1", "taskName": "nightly-1", "state": "FAILED"},
            {"taskId": "3", "parentTaskId": "1", "taskName": "Trainer", "state": "FAILED"}
            | {"createTime": "2026-11-27T06:02:00Z", "error": {"message": "out of\nmemory"}},
            {"taskId": "2", "parentTaskId": "1", "taskName": "Left", "state": "SUCCEEDED"}
            | {"createTime": "2026-11-27T06:01:00Z"},
        ]
    }
    output = tool("status", f"{PARENT}/pipelineJobs/nightly-1")
    assert [line.split() for line in output.splitlines()[2:4]] == [
        ["Left", "SUCCEEDED"],
        ["Trainer", "FAILED:", "out", "of", "memory"],
    ]
    assert "FAILED: The DAG failed" in output.splitlines()[0]
    assert tool("status", "nightly-1") == output


def test_vertex_submit_waits_and_fails_as_the_run_does(stub: VertexStub, tool: Tool) -> None:
    original = stub._get_pipeline_job

    def over(name: str, query: Any, given: Any) -> Any:
        return {**original(name, query, given), "state": "PIPELINE_STATE_SUCCEEDED"}

    stub.faults["get_pipeline_job"] = [503, DROP]  # which pass
    stub._get_pipeline_job = over  # type: ignore[method-assign]
    assert "ended as SUCCEEDED" in tool("submit", "--wait", "--poll-seconds", "0.05")


def test_vertex_terminate_stops_a_run_once(stub: VertexStub, tool: Tool) -> None:
    tool("submit", "--run-name", "nightly-1")
    tool("terminate", "nightly-1")
    assert only(stub.jobs)["state"] == "PIPELINE_STATE_CANCELLING"
    assert "CANCELLING already" in tool.refused("terminate", "nightly-1")
    assert "HTTP 404" in tool.refused("terminate", "nightly-2")


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ("", "is no ID"),
        ("a/b", "is no ID"),
        (f"projects/{PROJECT}/locations/us-east1/pipelineJobs/a", "not of the region"),
        ("projects/other-project/locations/europe-west4/pipelineJobs/a", "project"),
    ],
)
def test_vertex_status_refuses_a_run_of_elsewhere(tool: Tool, run: str, reason: str) -> None:
    assert reason in tool.refused("status", run)


def test_vertex_without_project_or_region_says_where_they_are_given(
    stub: VertexStub, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(main, ["status", "a", "--target", "vertex"])
    assert result.exit_code == 1
    assert "vertex.project" in result.output
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "Not A Project")
    result = CliRunner().invoke(main, ["status", "a", "--target", "vertex"])
    assert result.exit_code == 2
    assert "--project 'Not A Project'" in result.output


def test_vertex_refuses_options_of_kubeflow(tool: Tool) -> None:
    output = tool("status", "a", "--host", "http://localhost:8080")
    assert tool.status == 2
    assert "--host is for Kubeflow" in output


# Schedules


@pytest.mark.parametrize(
    ("given", "five"),
    [("0 6 1 * *", "0 6 1 * *"), ("0 30 5 ? * mon", "30 5 * * mon")],
)
def test_five_fields_leaves_out_the_seconds(given: str, five: str) -> None:
    assert five_fields(given) == five


def test_five_fields_refuses_seconds() -> None:
    with pytest.raises(UserError, match="begins with seconds"):
        five_fields("30 0 6 1 * *")


def test_vertex_schedule_is_made_once_and_changed_in_place(stub: VertexStub, tool: Tool) -> None:
    stub.faults["create_schedule"] = [DROP_AFTER]
    output = tool("schedule", "--cron", "0 6 1 * *", "--name", "monthly")
    assert (tool.status, len(stub.schedules)) == (0, 1), output
    assert only(stub.schedules)["cron"] == "0 6 1 * *"
    assert only(stub.schedules)["maxConcurrentRunCount"] == "1"
    before = json.dumps(stub.schedules)
    assert "is unchanged" in tool("schedule", "--cron", "0 6 1 * *", "--name", "monthly")
    assert json.dumps(stub.schedules) == before
    assert "was updated" in tool("schedule", "--cron", "0 7 1 * *", "--name", "monthly")
    assert only(stub.schedules)["cron"] == "0 7 1 * *"


def test_vertex_schedule_that_is_disabled_stays_so(stub: VertexStub, tool: Tool) -> None:
    tool("schedule", "--cron", "0 6 1 * *", "--name", "monthly")
    tool("schedules", "disable", "monthly")
    output = tool("schedule", "--cron", "0 7 1 * *", "--name", "monthly")
    assert "It is disabled" in output
    assert only(stub.schedules)["state"] == "PAUSED"
    assert "None of the schedules" in tool.refused("schedules", "start", "monthly")
    tool("schedules", "enable", "monthly")
    tool("schedules", "start", "monthly")
    assert only(stub.jobs)["pipelineSpec"]["defaultPipelineRoot"] == ROOT


def test_vertex_schedules_are_listed_over_pages_and_deleted(stub: VertexStub, tool: Tool) -> None:
    for name in ("b", "a", "c"):
        tool("schedule", "--cron", "0 6 1 * *", "--name", name)
    output = tool("schedules", "list")
    assert [line.split()[0] for line in output.splitlines()] == ["a", "b", "c"]
    tool("schedules", "delete", "b")
    assert "there are: a, c" in tool.refused("schedules", "delete", "b")
    assert "has a quote" in tool.refused("schedules", "delete", 'b" OR "')


# The stand-in


def test_vertex_stub_refuses_a_field_that_the_api_has_not(stub: VertexStub) -> None:
    with pytest.raises(Refused, match="nothing"):
        stub._create_endpoint("", {"endpointId": "ab"}, {"nothing": 1})
