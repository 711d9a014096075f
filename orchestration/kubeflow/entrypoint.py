"""Runs the executor of one TFX node as a task of open-source Kubeflow Pipelines.

TFX has an entrypoint for Vertex Pipelines. This module adapts it to the open-source driver and
launcher, and to `kfp.local`, before and after it runs:

- Input artifacts come without their type, which is in the component's specification.
- Artifacts in a bucket are mirrored to a folder, and uploaded from there. The executor gets the
  folder, and its output names the bucket again. Beam workers that run elsewhere see no mirror:
  then the executor gets the bucket's own URIs (`workers`).
- ML Metadata wraps properties that are lists or mappings, and refuses those that are null.
- Folders of output artifacts are not there yet; TFX's own launcher makes them. Nor is the mirror of
  an input artifact that holds no file, for a bucket has no empty folders.
- There may be outputs that are not the component's, the launcher's own logs and those that the web
  interface shows, and inputs that are shown there (`shown`).
- A run may end where nothing is new (`news`), and an alarm may start one (`alarm`).
- A failing task is known by its termination message.

After `backend/src/v2` of Kubeflow Pipelines: `component/launcher_v2.go` (LocalPathForURI),
`metadata/converter.go`, `driver/driver.go` (provisionOutputs).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.kubeflow import alarm, news, shown, workers
from orchestration.local.node_facts import read_facts
from orchestration.local.node_process import describe
from orchestration.local.proxies import spare_loopback
from storage.errors import UserError, failure_of_job, from_worker_traceback

if TYPE_CHECKING:
    from tfx import v1 as tfx

# Where the launcher mirrors buckets, by the beginning of their URIs.
_MOUNTS = {"gs://": "/gcs/", "s3://": "/s3/", "minio://": "/minio/"}
# How ML Metadata wraps a value that is not a number or a text.
_WRAPPERS = {"list": list, "struct": dict}
# Types of Kubeflow's own artifacts; those of TFX begin otherwise.
_FOREIGN = "system."
# What Kubernetes, Argo Workflows and so `status` show of a container that failed.
_TERMINATION_MESSAGE = Path("/dev/termination-log")
_TERMINATION_BYTES = 4096


@dataclass(frozen=True)
class Task:
    """A task as Kubeflow Pipelines calls it.

    Attributes:
      node_id: Id of the node.
      executor: Import path of its executor.
      invocation: `ExecutorInput` as JSON: artifacts, parameters, where to write the answer.
      inputs_spec: `ComponentInputsSpec` as JSON: types of artifacts and parameters.
      beam_args: Arguments of Beam.
    """

    node_id: str
    executor: str
    invocation: Mapping[str, Any]
    inputs_spec: Mapping[str, Any]
    beam_args: tuple[str, ...]

    @property
    def output_file(self) -> Path:
        """Path of the output file."""
        return Path(local_path(self.invocation["outputs"]["outputFile"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a task and returns its exit status: 0, or 1 after reporting the error."""
    task = parse_task(argv)
    spare_loopback(os.environ)
    try:
        run(task)
    except UserError as error:
        _report(f"{task.node_id}: {error}")
    except Exception as error:
        traceback.print_exc()
        raised = "".join(traceback.format_exception_only(error)).strip()
        reason = from_worker_traceback(str(error)) or failure_of_job(error) or raised
        _report(f"{task.node_id}: {reason}")
    else:
        return 0
    return 1


def parse_task(argv: Sequence[str] | None) -> Task:
    """Reads the command line that the compiled pipeline gives to a task."""
    parser = argparse.ArgumentParser(prog="kfp_entrypoint", allow_abbrev=False)
    parser.add_argument("--node_id", required=True)
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", type=json.loads, required=True)
    parser.add_argument("--json_serialized_inputs_spec_args", type=json.loads, default={})
    known, beam_args = parser.parse_known_args(argv)
    return Task(
        node_id=known.node_id,
        executor=known.executor_class_path,
        invocation=known.json_serialized_invocation_args,
        inputs_spec=known.json_serialized_inputs_spec_args,
        beam_args=tuple(beam_args),
    )


def run(task: Task) -> None:
    """Runs the executor of a task, writes its output, and prints a summary.

    Raises:
      Exception: What the executor raised.
    """
    invocation, remote = prepare(task)
    inputs = _read_artifacts(invocation, "inputs") if task.node_id in shown.INPUTS else {}
    given = _take_own(task.node_id, invocation)
    found = ""
    if task.node_id == news.FIRST and news.ONLY_IF_NEW in given:
        found = news.look(given[news.ONLY_IF_NEW], invocation["inputs"]["parameterValues"])
    outputs = [artifact["uri"] for _, artifact in _artifacts(invocation["outputs"])]
    for folder in {*outputs, *remote}:
        if local_path(folder) == folder:  # There are no folders in a bucket.
            os.makedirs(folder, exist_ok=True)
    if found == news.NOTHING:
        _answer(task, restore({"artifacts": invocation["outputs"]["artifacts"]}, remote), found)
        print(f"{task.node_id}: nothing new: the other tasks are skipped", flush=True)
        return
    # The public entry of a module that TFX does not list under `tfx.v1`: without it a container
    # would have to be started as `python -m` of it, with nothing before or after.
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    arguments = argparse.Namespace(
        executor_class_path=task.executor,
        json_serialized_invocation_args=json.dumps(invocation),
        json_serialized_inputs_spec_args=json.dumps(task.inputs_spec),
    )
    kubeflow_v2_run_executor.main((arguments, list(task.beam_args)))
    local = json.loads(task.output_file.read_text(encoding="utf-8"))
    answer = restore(local, remote)
    made = _read_outputs(invocation, local)
    answer["artifacts"] = answer.get("artifacts", {}) | _show(task, inputs, made)
    _answer(task, answer, found)
    summary = describe("orchestration.local.summaries.summarize", task.node_id, made)
    print("\n".join([f"{task.node_id}: {summary.line}", *summary.details]), flush=True)
    if task.node_id == news.LAST and news.NEWS in given:
        news.note(given[news.NEWS])
    report = read_facts(made.values()).report
    if report and (said := alarm.publish(Path(report))):
        print(f"{task.node_id}: {said}", flush=True)


def prepare(task: Task) -> tuple[dict[str, Any], dict[str, str]]:
    """Converts a task for TFX's entrypoint.

    Returns:
      The invocation, and the URI in a bucket of each local path in it.

    Raises:
      UserError: If Beam workers that run elsewhere cannot open a bucket.
    """
    runner = workers.runner_elsewhere(task.executor, task.beam_args)
    invocation = json.loads(json.dumps(task.invocation))
    if "outputFile" in invocation.get("outputs", {}):
        invocation["outputs"]["outputFile"] = str(task.output_file)
    outputs = invocation.get("outputs", {}).get("artifacts", {})
    for name in [name for name, group in outputs.items() if _is_foreign(group)]:
        del outputs[name]
    remote: dict[str, str] = {}
    declared = task.inputs_spec.get("artifacts", {})
    for name, artifact in _artifacts(invocation.get("inputs", {})):
        if name in declared:
            artifact["type"] = declared[name]["artifactType"]
        metadata = artifact.get("metadata", {})
        artifact["metadata"] = {key: _unwrap(value) for key, value in metadata.items()}
        _mount(artifact, remote, runner)
    for _, artifact in _artifacts(invocation.get("outputs", {})):
        _mount(artifact, remote, runner)
    return invocation, remote


def restore(answer: Mapping[str, Any], remote: Mapping[str, str]) -> dict[str, Any]:
    """Converts the output of TFX's entrypoint for Kubeflow Pipelines.

    Args:
      answer: `ExecutorOutput` as JSON.
      remote: The URI in a bucket of each local path.
    """
    result: dict[str, Any] = json.loads(json.dumps(answer))
    for _, artifact in _artifacts(result):
        artifact["uri"] = remote.get(artifact["uri"], artifact["uri"])
        metadata = artifact.get("metadata", {})
        artifact["metadata"] = {k: v for k, v in metadata.items() if v is not None}
    return result


def local_path(uri: str) -> str:
    """The local path of a URI that the launcher mirrors; a path stays."""
    for scheme, mount in _MOUNTS.items():
        if uri.startswith(scheme):
            return mount + uri.removeprefix(scheme)
    return uri


def _artifacts(side: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, group in side.get("artifacts", {}).items():
        for artifact in group.get("artifacts", []):
            yield name, artifact


def _is_foreign(group: Mapping[str, Any]) -> bool:
    types = [artifact.get("type", {}) for artifact in group.get("artifacts", [])]
    return any(kind.get("schemaTitle", "").startswith(_FOREIGN) for kind in types)


def _mount(artifact: dict[str, Any], remote: dict[str, str], runner: str) -> None:
    path = local_path(artifact["uri"])
    if path == artifact["uri"]:
        return
    if runner:
        workers.check_reach(artifact["uri"], runner)
    else:
        remote[path] = artifact["uri"]
        artifact["uri"] = path


def _unwrap(value: Any) -> Any:
    if isinstance(value, dict) and len(value) == 1:
        ((key, inner),) = value.items()
        if isinstance(inner, _WRAPPERS.get(key, ())):
            return inner
    return value


def _take_own(node_id: str, invocation: dict[str, Any]) -> dict[str, str]:
    """Takes out what is not the component's, and returns the parameters of it that are given."""
    for name in shown.INPUTS.get(node_id, ()):
        invocation["inputs"]["artifacts"].pop(name, None)
    invocation.get("outputs", {}).get("parameters", {}).pop(news.NEWS, None)
    parameters = invocation.get("inputs", {}).get("parameterValues", {})
    own = (news.ONLY_IF_NEW, news.NEWS)
    return {name: parameters.pop(name) for name in own if name in parameters}


def _answer(task: Task, answer: dict[str, Any], found: str) -> None:
    """Writes what the task has made, and what it has found new."""
    if found:
        answer["parameterValues"] = {news.NEWS: found}
    task.output_file.write_text(json.dumps(answer), encoding="utf-8")


def _read_outputs(
    invocation: Mapping[str, Any], answer: Mapping[str, Any]
) -> dict[str, tfx.dsl.Artifact]:
    """The output artifacts of a task, with the properties that its executor set."""
    answered = dict(_artifacts(answer))
    for name, artifact in _artifacts(invocation["outputs"]):
        artifact["metadata"] = answered.get(name, {}).get("metadata", {})
    return _read_artifacts(invocation, "outputs")


def _read_artifacts(invocation: Mapping[str, Any], side: str) -> dict[str, tfx.dsl.Artifact]:
    """The artifacts of one side of an invocation, "inputs" or "outputs", by key."""
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_entrypoint_utils

    parsed = json_format.ParseDict(
        dict(invocation), pipeline_spec_pb2.ExecutorInput(), ignore_unknown_fields=True
    )
    groups = kubeflow_v2_entrypoint_utils.parse_raw_artifact_dict(getattr(parsed, side).artifacts)
    return {name: artifacts[0] for name, artifacts in groups.items() if artifacts}


def _show(
    task: Task, inputs: Mapping[str, tfx.dsl.Artifact], made: Mapping[str, tfx.dsl.Artifact]
) -> dict[str, Any]:
    """Fills the outputs that the web interface shows; a task that cannot is complete anyway."""
    groups = task.invocation["outputs"].get("artifacts", {})
    filled = {}
    for output in shown.OUTPUTS.get(task.node_id, ()):
        (artifact,) = groups.get(output, {}).get("artifacts") or [None]
        if artifact is None or artifact.get("type", {}).get("schemaTitle") != shown.TYPES[output]:
            continue
        artifact = dict(artifact)
        try:
            if output == shown.METRICS:
                artifact["metadata"] = shown.metrics(task.node_id, made)
            else:
                path = Path(local_path(artifact["uri"]))
                path.parent.mkdir(parents=True, exist_ok=True)
                parameters = task.invocation["inputs"].get("parameterValues", {})
                path.write_bytes(shown.page(task.node_id, parameters, inputs, made))
        except Exception as error:
            traceback.print_exc()
            print(f"warning: {task.node_id} shows no {output}: {error}", file=sys.stderr)
        filled[output] = {"artifacts": [artifact]}
    return filled


def _report(message: str) -> None:
    """Reports why a task failed: in its log, and as its termination message."""
    print(message, file=sys.stderr, flush=True)
    if os.access(_TERMINATION_MESSAGE, os.W_OK):
        _TERMINATION_MESSAGE.write_bytes(message.encode()[:_TERMINATION_BYTES])


if __name__ == "__main__":
    sys.exit(main())
