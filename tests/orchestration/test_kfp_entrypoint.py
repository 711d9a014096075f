"""Tests of the entrypoint, called as the open-source driver and as `kfp.local` would."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import toy_components
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from google.protobuf import json_format
from tfx import v1 as tfx

from ml.artifacts import MonitoringReport
from orchestration.kubeflow import entrypoint as kfp_entrypoint
from orchestration.kubeflow import news, shown
from orchestration.kubeflow.entrypoint import Task, local_path, parse_task, prepare, restore
from orchestration.kubeflow.package import check_package
from orchestration.kubeflow.spec import Platform, compile_package
from pipeline.config import load_config
from storage.errors import UserError

# A TYPE_NAME that TFX accepts on Kubeflow and imports: a module and a class.
NOTE = "toy_components.Note"


@pytest.fixture(autouse=True)
def importable_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_components.Note, "TYPE_NAME", NOTE)


def join() -> Any:
    left = toy_components.Source(text="a").with_id("Left")
    right = toy_components.Source(text="b").with_id("Right")
    return toy_components.Join(
        left=left.outputs["note"], right=right.outputs["note"], separator=" and "
    )


def compiled(component: Any) -> list[str]:
    """The arguments of the task that a component becomes."""
    others = {channel.producer_component for channel in component.inputs.values()}
    pipeline = tfx.dsl.Pipeline("toy", pipeline_root="", components=[*others, component])
    platform = Platform(image="image", nodes={})
    package = compile_package(pipeline, platform, {})
    spec, _ = check_package(package)
    document: dict[str, Any] = json_format.MessageToDict(spec)
    container = document["deploymentSpec"]["executors"][f"exec-{component.id}"]["container"]
    arguments: list[str] = container["command"][3:] + container["args"]
    return arguments


def write_note(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "text").write_text(text)
    return folder


def task_of(component: Any, invocation: dict[str, Any]) -> Task:
    arguments = compiled(component)
    arguments[arguments.index("{{$}}")] = json.dumps(invocation)
    return parse_task(arguments)


def driver_artifact(uri: str, number: str, **metadata: Any) -> dict[str, Any]:
    """An input artifact as the open-source driver reads it from ML Metadata: no type, its id."""
    defaults = {"display_name": "note", "store_session_info": '{"Provider":"minio"}'}
    return {"name": number, "uri": uri, "metadata": defaults | metadata}


def local_artifact(uri: str, **metadata: Any) -> dict[str, Any]:
    """The same as `kfp.local` hands it on: every type is `system.Artifact`."""
    kind = {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}
    return {"name": "note", "type": kind, "uri": uri, "metadata": metadata}


def output_artifact(uri: str) -> dict[str, Any]:
    return {"type": {"instanceSchema": f"title: {NOTE}\ntype: object\n"}, "uri": uri}


def invocation(
    inputs: dict[str, dict[str, Any]], outputs: dict[str, dict[str, Any]], folder: Path, **more: Any
) -> dict[str, Any]:
    return {
        "inputs": {
            "parameterValues": {"separator": " and "},
            "artifacts": {name: {"artifacts": [each]} for name, each in inputs.items()},
        },
        "outputs": {
            "artifacts": {name: {"artifacts": [each]} for name, each in outputs.items()},
            "outputFile": str(folder / "executor_output.json"),
        },
        **more,
    }


def executor_output(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "executor_output.json").read_text())
    return content


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which buckets are mirrored, here not at the root."""
    mounts = {scheme: f"{tmp_path}{path}" for scheme, path in kfp_entrypoint._MOUNTS.items()}
    monkeypatch.setattr(kfp_entrypoint, "_MOUNTS", mounts)
    return tmp_path


@pytest.mark.parametrize("scheme", ["gs", "s3", "minio"])
def test_entrypoint_runs_a_task_on_the_mirror_and_reports_the_bucket(
    scheme: str, mirror: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = {"gs": "gcs"}.get(scheme, scheme)
    root = f"{scheme}://bucket/v2/artifacts/toy/run-1"
    on_disk = mirror / folder / "bucket" / "v2" / "artifacts" / "toy" / "run-1"
    write_note(on_disk / "left", "a")
    write_note(on_disk / "right", "b")
    given = invocation(
        {
            "left": driver_artifact(f"{root}/left", "7"),
            "right": driver_artifact(f"{root}/right", "8"),
        },
        {"note": output_artifact(f"{root}/join/note")},
        on_disk / "join",
    )

    kfp_entrypoint.run(task_of(join(), given))

    assert (on_disk / "join" / "note" / "text").read_text() == "a and b"
    (made,) = executor_output(on_disk / "join")["artifacts"]["note"]["artifacts"]
    assert made["uri"] == f"{root}/join/note"


@pytest.fixture
def bucket(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What TensorFlow alone can open, in this process: it stands for gs://, with a note in it."""
    monkeypatch.setitem(kfp_entrypoint._MOUNTS, "ram://", f"{mirror}/ram/")
    with tf.io.gfile.GFile("ram://bucket/left/text", "w") as file:
        file.write("a word")
    return "ram://bucket"


@pytest.fixture
def worker_pool() -> Iterator[str]:
    """Address of a pool whose workers are threads of this process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    _, server = BeamFnExternalWorkerPoolServicer.start(use_process=False, port=port)
    yield f"localhost:{port}"
    server.stop(None)


def shout(root: str, folder: Path, *beam_args: str) -> Task:
    component = toy_components.Shout(note=toy_components.Source().with_id("Left").outputs["note"])
    given = invocation(
        {"note": driver_artifact(f"{root}/left", "7")},
        {"loud": output_artifact(f"{root}/loud")},
        folder,
    )
    given["inputs"]["parameterValues"] = {}
    return dataclasses.replace(task_of(component, given), beam_args=beam_args)


def test_entrypoint_gives_beam_workers_elsewhere_the_bucket_itself(
    bucket: str, worker_pool: str, mirror: Path
) -> None:
    elsewhere = (
        *("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=EXTERNAL"),
        *(f"--environment_config={worker_pool}", "--sdk_container_image=flightdeck"),
    )
    kfp_entrypoint.run(shout(bucket, mirror, *elsewhere))
    with tf.io.gfile.GFile(f"{bucket}/loud/text") as file:
        assert file.read() == "A WORD"
    (made,) = executor_output(mirror)["artifacts"]["loud"]["artifacts"]
    assert made["uri"] == f"{bucket}/loud"
    # Of what is not there, the launcher uploads nothing.
    assert not (mirror / "ram").exists()


@pytest.mark.parametrize(
    "beam_args",
    [
        (),
        ("--runner", "DirectRunner", "--direct_running_mode=multi_processing"),
        ("--runner=FlinkRunner", *load_config().beam_args),
        ("--runner=FlinkRunner", "--flink_master=[local]", "--environment_type=LOOPBACK"),
    ],
)
def test_prepare_gives_beam_workers_of_the_task_the_mirror(
    beam_args: tuple[str, ...], tmp_path: Path
) -> None:
    prepared, remote = prepare(shout("s3://b", tmp_path, *beam_args))
    (read,) = prepared["inputs"]["artifacts"]["note"]["artifacts"]
    assert read["uri"] == "/s3/b/left"
    assert remote == {"/s3/b/left": "s3://b/left", "/s3/b/loud": "s3://b/loud"}


@pytest.mark.parametrize("runner", ["FlinkRunner", "SparkRunner", "DataflowRunner", "PrismRunner"])
def test_prepare_leaves_a_bucket_to_beam_workers_elsewhere(runner: str, tmp_path: Path) -> None:
    prepared, remote = prepare(shout("gs://b", tmp_path, f"--runner={runner}"))
    (read,) = prepared["inputs"]["artifacts"]["note"]["artifacts"]
    (written,) = prepared["outputs"]["artifacts"]["loud"]["artifacts"]
    assert (read["uri"], written["uri"]) == ("gs://b/left", "gs://b/loud")
    assert remote == {}


def test_prepare_gives_a_task_without_beam_the_mirror(tmp_path: Path) -> None:
    inputs = {"left": driver_artifact("s3://b/left", "7")}
    task = task_of(join(), invocation(inputs, {"note": output_artifact("s3://b/n")}, tmp_path))
    _, remote = prepare(dataclasses.replace(task, beam_args=("--runner=FlinkRunner",)))
    assert remote == {"/s3/b/left": "s3://b/left", "/s3/b/n": "s3://b/n"}


@pytest.mark.parametrize("scheme", ["s3", "minio"])
def test_entrypoint_refuses_a_bucket_out_of_reach_of_beam_workers(
    scheme: str, mirror: Path
) -> None:
    task = shout(f"{scheme}://b", mirror, "--runner=FlinkRunner", "--job_endpoint=localhost:1")
    with pytest.raises(UserError, match=rf"^{scheme}://b/left is out of reach .* of FlinkRunner: "):
        kfp_entrypoint.run(task)
    assert list(mirror.iterdir()) == []


def test_entrypoint_makes_an_empty_mirror_of_an_artifact_without_files(mirror: Path) -> None:
    # Nothing is uploaded of it, so the launcher downloads nothing.
    write_note(mirror / "s3" / "b" / "left", "a")
    given = invocation(
        {
            "left": driver_artifact("s3://b/left", "7"),
            "right": driver_artifact("s3://b/right", "8"),
        },
        {"note": output_artifact("s3://b/note")},
        mirror / "s3" / "b",
    )
    kfp_entrypoint.run(task_of(join(), given))
    assert list((mirror / "s3" / "b" / "right").iterdir()) == []
    assert (mirror / "s3" / "b" / "note" / "text").read_text() == "a and "


def test_entrypoint_runs_a_task_of_kfp_local_on_the_declared_types(tmp_path: Path) -> None:
    left, right = write_note(tmp_path / "l", "a"), write_note(tmp_path / "r", "b")
    given = invocation(
        {"left": local_artifact(str(left)), "right": local_artifact(str(right))},
        {"note": output_artifact(str(tmp_path / "join" / "note"))},
        tmp_path / "join",
    )

    kfp_entrypoint.run(task_of(join(), given))

    assert (tmp_path / "join" / "note" / "text").read_text() == "a and b"
    (made,) = executor_output(tmp_path / "join")["artifacts"]["note"]["artifacts"]
    assert made["uri"] == str(tmp_path / "join" / "note")


def test_entrypoint_passes_custom_properties_to_the_next_task(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    given = invocation({}, {"note": output_artifact(str(folder / "note"))}, folder)
    given["inputs"]["parameterValues"] = {"text": "a"}
    kfp_entrypoint.run(task_of(toy_components.Source(text="a"), given))
    (made,) = executor_output(folder)["artifacts"]["note"]["artifacts"]
    assert made["metadata"]["start"] > 0
    assert made["metadata"]["end"] >= made["metadata"]["start"]

    # What the driver makes of them: numbers stay numbers, lists and mappings are wrapped.
    metadata = made["metadata"] | {"months": {"list": [1, 2]}, "rows": {"struct": {"train": 3}}}
    inputs = {"left": driver_artifact(made["uri"], "7", **metadata)}
    prepared, _ = prepare(task_of(join(), invocation(inputs, {}, folder)))
    (read,) = prepared["inputs"]["artifacts"]["left"]["artifacts"]
    assert read["metadata"]["start"] == made["metadata"]["start"]
    assert (read["metadata"]["months"], read["metadata"]["rows"]) == ([1, 2], {"train": 3})


def test_restore_leaves_out_a_null_property() -> None:
    made = {"note": {"artifacts": [{"uri": "/a", "metadata": {"span": None, "rows": 3}}]}}
    (artifact,) = restore({"artifacts": made}, {})["artifacts"]["note"]["artifacts"]
    assert artifact == {"uri": "/a", "metadata": {"rows": 3}}


def test_prepare_hides_the_outputs_of_kubeflow_itself(tmp_path: Path) -> None:
    logs = {"type": {"schemaTitle": "system.Artifact"}, "uri": "minio://bucket/executor-logs"}
    outputs = {"note": output_artifact("/note"), "executor-logs": logs}
    prepared, _ = prepare(task_of(join(), invocation({}, outputs, tmp_path)))
    assert list(prepared["outputs"]["artifacts"]) == ["note"]


def test_prepare_does_not_change_its_input(tmp_path: Path) -> None:
    inputs = {"left": driver_artifact("s3://bucket/left", "7", months={"list": [1]})}
    task = task_of(join(), invocation(inputs, {"note": output_artifact("s3://b/n")}, tmp_path))
    before = json.dumps(task.invocation)
    prepare(task)
    assert json.dumps(task.invocation) == before


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("gs://bucket/a/b", "/gcs/bucket/a/b"),
        ("s3://bucket/a", "/s3/bucket/a"),
        ("minio://mlpipeline/v2", "/minio/mlpipeline/v2"),
        ("/mnt/a", "/mnt/a"),
        ("file:///a", "file:///a"),
    ],
)
def test_local_path_mirrors_buckets_where_the_launcher_does(uri: str, path: str) -> None:
    assert local_path(uri) == path


def test_parse_task_keeps_integers_and_passes_beam_arguments_on() -> None:
    component = toy_components.Report(lines=3, length=5)
    arguments = compiled(component)
    arguments[arguments.index("{{$}}")] = "{}"
    task = parse_task([*arguments, "--runner=X", "--direct_num_workers", "2"])
    assert task.beam_args == ("--runner=X", "--direct_num_workers", "2")
    kinds = {name: kind["parameterType"] for name, kind in task.inputs_spec["parameters"].items()}
    assert kinds == {"lines": "NUMBER_INTEGER", "length": "NUMBER_INTEGER"}
    assert (task.node_id, task.executor) == ("Report", "toy_components.Report_Executor")


@pytest.fixture
def run_failing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str, str], str]:
    """Runs a task that raises an error of a kind; returns what it says on standard error."""

    def run(kind: str, message: str) -> str:
        given = invocation({}, {"note": output_artifact(str(tmp_path / "note"))}, tmp_path)
        given["inputs"]["parameterValues"] = {"kind": kind, "message": message, "unless": "/no"}
        arguments = compiled(toy_components.Fail(kind=kind, message=message))
        arguments[arguments.index("{{$}}")] = json.dumps(given)
        assert kfp_entrypoint.main(arguments) == 1
        assert not (tmp_path / "executor_output.json").exists()
        return capsys.readouterr().err

    return run


def test_entrypoint_ends_with_the_message_of_a_user_error_alone(
    run_failing: Callable[[str, str], str],
) -> None:
    said = run_failing("DataError", "column 'x' is missing")
    assert said.splitlines()[-1] == "Fail: column 'x' is missing"
    assert "Traceback" not in said


def test_entrypoint_ends_with_a_traceback_and_the_message_of_another_error(
    run_failing: Callable[[str, str], str],
) -> None:
    said = run_failing("ValueError", "not a number")
    assert said.splitlines()[-1] == "Fail: ValueError: not a number"
    assert "Traceback" in said


def test_entrypoint_writes_a_termination_message_when_a_task_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = tmp_path / "termination-log"
    message.touch()
    monkeypatch.setattr(kfp_entrypoint, "_TERMINATION_MESSAGE", message)
    given = invocation({}, {"note": output_artifact(str(tmp_path / "note"))}, tmp_path)
    arguments = compiled(toy_components.Fail())
    arguments[arguments.index("{{$}}")] = json.dumps(given)
    # The parameters are missing, as they never are.
    assert kfp_entrypoint.main(arguments) == 1
    assert message.read_text().startswith("Fail: ")
    assert capsys.readouterr().err.splitlines()[-1] == message.read_text()


def test_entrypoint_prints_a_summary_of_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from orchestration.local import summaries

    monkeypatch.setattr(summaries, "summarize", toy_components.summarize)
    folder = tmp_path / "source"
    given = invocation({}, {"note": output_artifact(str(folder / "note"))}, folder)
    given["inputs"]["parameterValues"] = {"text": "what it came to"}
    kfp_entrypoint.run(task_of(toy_components.Source(), given))
    first, *details = capsys.readouterr().out.splitlines()
    assert first == "Source: what it came to"
    # The times in the note's properties.
    assert [float(line) > 0 for line in details] == [True, True]


def test_entrypoint_reaches_its_own_machine_without_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "a.example")
    seen: list[str] = []
    monkeypatch.setattr(kfp_entrypoint, "run", lambda task: seen.append(os.environ["no_proxy"]))
    given = invocation({}, {"note": output_artifact(str(tmp_path / "note"))}, tmp_path)
    arguments = compiled(toy_components.Source())
    arguments[arguments.index("{{$}}")] = json.dumps(given)
    assert kfp_entrypoint.main(arguments) == 0
    assert seen == ["a.example,localhost,127.0.0.1,::1"]


# What is Kubeflow's alone: a run that finds nothing new, and what the web interface shows.


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Task]:
    """Makes the first task of a run, whose executor writes a note; `look` finds a given thing."""

    def make(found: str) -> Task:
        monkeypatch.setattr(news, "FIRST", "Source")
        monkeypatch.setattr(news, "look", lambda key, parameters: f"{found}{key}{parameters}")
        given = invocation({}, {"note": output_artifact(str(tmp_path / "note"))}, tmp_path)
        given["inputs"]["parameterValues"] = {"text": "a", news.ONLY_IF_NEW: ""}
        given["outputs"]["parameters"] = {news.NEWS: {"outputFile": str(tmp_path / "news")}}
        return task_of(toy_components.Source(text="a"), given)

    return make


def test_entrypoint_passes_on_what_the_first_task_found(
    first: Callable[[str], Task], tmp_path: Path
) -> None:
    kfp_entrypoint.run(first("new: "))
    answer = executor_output(tmp_path)
    # The component's own parameters, without those of the run.
    assert answer["parameterValues"] == {"news": "new: {'text': 'a'}"}
    assert (tmp_path / "note" / "text").read_text() == "a"


def test_entrypoint_runs_no_executor_where_nothing_is_new(
    first: Callable[[str], Task],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = first("")
    monkeypatch.setattr(news, "look", lambda key, parameters: news.NOTHING)
    kfp_entrypoint.run(task)
    answer = executor_output(tmp_path)
    assert answer["parameterValues"] == {"news": "nothing new"}
    (made,) = answer["artifacts"]["note"]["artifacts"]
    assert made["uri"] == str(tmp_path / "note")
    assert list((tmp_path / "note").iterdir()) == []
    assert "Source: nothing new" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["what it was", None])
def test_entrypoint_notes_what_a_run_was_about_after_the_last_task(
    given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[Any] = []
    monkeypatch.setattr(news, "LAST", "Source")
    monkeypatch.setattr(news, "note", noted.append)
    call = invocation({}, {"note": output_artifact(str(tmp_path / "note"))}, tmp_path)
    call["inputs"]["parameterValues"] = {"text": "a"} | ({news.NEWS: given} if given else {})
    kfp_entrypoint.run(task_of(toy_components.Source(text="a"), call))
    assert noted == ([given] if given else [])
    assert "parameterValues" not in executor_output(tmp_path)


def shown_outputs(folder: str) -> dict[str, Any]:
    kinds = {"metrics": "system.Metrics", "page": "system.HTML"}
    return {
        name: {"type": {"schemaTitle": kind}, "uri": f"{folder}/{name}"}
        for name, kind in kinds.items()
    }


def test_entrypoint_shows_metrics_and_a_page(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shown.OUTPUTS, "Source", ("metrics", "page"))
    monkeypatch.setitem(shown._METRICS, "Source", lambda outputs: {"auc": 0.7, "none": None})
    monkeypatch.setitem(shown._PAGES, "Source", lambda *given: given[-1]["note"].uri.encode())
    given = invocation(
        {},
        {"note": output_artifact("s3://b/note"), **shown_outputs("s3://b")},
        mirror / "s3" / "b",
    )
    given["inputs"]["parameterValues"] = {"text": "a"}
    kfp_entrypoint.run(task_of(toy_components.Source(text="a"), given))
    artifacts = executor_output(mirror / "s3" / "b")["artifacts"]
    (metrics,), (page,) = (artifacts[name]["artifacts"] for name in ("metrics", "page"))
    # A metric that is undefined is none; ML Metadata has no null.
    assert metrics["metadata"] == {"auc": 0.7}
    assert (metrics["uri"], page["uri"]) == ("s3://b/metrics", "s3://b/page")
    assert (mirror / "s3" / "b" / "page").read_text() == str(mirror / "s3" / "b" / "note")


def test_entrypoint_completes_a_task_that_cannot_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*artifacts: Any) -> Any:
        raise ValueError("no report")

    monkeypatch.setitem(shown.OUTPUTS, "Source", ("metrics", "page"))
    monkeypatch.setitem(shown._METRICS, "Source", fail)
    monkeypatch.setitem(shown._PAGES, "Source", fail)
    outputs = {"note": output_artifact(str(tmp_path / "note")), **shown_outputs(str(tmp_path))}
    given = invocation({}, outputs, tmp_path)
    given["inputs"]["parameterValues"] = {"text": "a"}
    kfp_entrypoint.run(task_of(toy_components.Source(text="a"), given))
    assert set(executor_output(tmp_path)["artifacts"]) == {"note", "metrics", "page"}
    assert "warning: Source shows no metrics: no report" in capsys.readouterr().err


def test_shown_metrics_and_page_of_the_monitor_are_those_of_its_report(tmp_path: Path) -> None:
    report = MonitoringReport()
    report.uri = str(tmp_path)
    content = {
        "alarms": ["temp: skew"],
        "checks": [{}, {}],
        "requests": {"rows": {"current": 40}},
        "live": [{"metrics": {"auc": 0.6, "log_loss": None, "calibration": math.inf}}],
    }
    report.write(content)
    Path(report.page).write_text("<p>page</p>")
    outputs = {"report": report}
    assert shown.page("ServingMonitor", {}, {}, outputs) == b"<p>page</p>"
    counts = {"alarms": 1.0, "checks": 2.0, "requests": 40.0}
    assert shown.metrics("ServingMonitor", outputs) == {"live_auc": 0.6, **counts}
    report.write(content | {"live": []})
    assert shown.metrics("ServingMonitor", outputs) == counts
