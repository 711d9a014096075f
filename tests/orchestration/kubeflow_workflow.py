"""Workflows as Argo keeps them for Kubeflow Pipelines 2.17, and what its API makes of them."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping
from typing import Any

Json = dict[str, Any]

# Of a task: its state, or its state and the message with which its container ended. DRIVING is a
# task whose driver is done and which has not begun; SKIPPED one whose condition does not hold;
# OMITTED one that will not begin, as another failed or was skipped.
Tasks = Mapping[str, str | tuple[str, str]]

_PHASES = {
    "PENDING": "Pending",
    "RUNNING": "Running",
    "SUCCEEDED": "Succeeded",
    "FAILED": "Failed",
    "SKIPPED": "Skipped",
    "OMITTED": "Omitted",
}
_NEVER = "0001-01-01T00:00:00Z"


def nodes_of(tasks: Tasks) -> dict[str, Json]:
    """The nodes of a workflow, by ID: every one is there twice, as an attempt may be repeated."""
    nodes: dict[str, Json] = {}
    _add(nodes, "workflow-x7k2p", "DAG", "Running", 0)
    _add(nodes, "root-driver", "Pod", "Succeeded", 1)
    root = _add(nodes, "root", "DAG", "Running", 1)
    for number, (name, given) in enumerate(tasks.items(), 2):
        state, error = given if isinstance(given, tuple) else (given, "")
        if state == "OMITTED":
            for omitted in (f"{name}-driver", name):
                node = _node(omitted, "Skipped", "Omitted", number, root)
                nodes[omitted] = node | {"message": "omitted: depends condition not met"}
            continue
        _add(nodes, f"{name}-driver", "Pod", "Succeeded", number, root)
        if state == "DRIVING":
            continue
        phase = _PHASES[state]
        if state == "SKIPPED":
            skipped = _node(name, "Skipped", phase, number, root)
            nodes[name] = skipped | {"message": "when 'false != false' evaluated false"}
            continue
        own = _add(nodes, name, "DAG", phase, number, root)
        pod = _add(nodes, "executor", "Pod", phase, number, own)
        if error:
            nodes[pod]["message"] = f"Error (exit code 1): {name}: {error}"
            nodes[pod.removesuffix("(0)")]["message"] = "No more retries left"
            nodes[own]["message"] = f"child '{pod}' failed"
    return nodes


def workflow(tasks: Tasks, *, planned: Iterable[str], compressed: bool, retry_policy: str) -> Json:
    """The workflow of a run, as the API of v1beta1 has it in `workflow_manifest`."""
    names = [name for task in planned for name in (f"{task}-driver", task)]
    nodes: Json = {"nodes": nodes_of(tasks)}
    if compressed:
        packed = gzip.compress(json.dumps(nodes["nodes"]).encode())
        nodes = {"compressedNodes": base64.b64encode(packed).decode()}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": "workflow-x7k2p"},
        "spec": {
            "entrypoint": "entrypoint",
            "templateDefaults": {"retryStrategy": {"limit": "2", "retryPolicy": retry_policy}},
            "templates": [
                {"name": "system-container-impl", "container": {}},
                {"name": "root", "dag": {"tasks": [{"name": name} for name in names]}},
                {
                    "name": "entrypoint",
                    "dag": {"tasks": [{"name": "root-driver"}, {"name": "root"}]},
                },
            ],
        },
        "status": {"phase": "Running", **nodes},
    }


def task_details(run_id: str, tasks: Tasks) -> list[Json]:
    """The same nodes in a run of the API of v2beta1: by ID, without a word on what went wrong."""
    states = {phase: state for state, phase in _PHASES.items()}
    details = []
    for node_id, node in nodes_of(tasks).items():
        state = states[node["phase"]]
        detail = {
            "run_id": run_id,
            "task_id": node_id,
            "display_name": node["displayName"],
            "create_time": node["startedAt"],
            "start_time": node["startedAt"],
            "end_time": node["finishedAt"] or _NEVER,
            "child_tasks": [{"pod_name": f"{node_id}-pod"}],
        }
        if state != "OMITTED":
            detail |= {"state": state, "state_history": [{"state": state}]}
        details.append(detail)
    return sorted(details, key=lambda detail: str(detail["task_id"]))


def _add(
    nodes: dict[str, Json], name: str, kind: str, phase: str, start: int, boundary: str = ""
) -> str:
    """Adds a node and its one attempt; returns the ID of the attempt."""
    base = f"{boundary.removesuffix('(0)')}.{name}" if boundary else name
    nodes[base] = _node(name, "Retry", phase, start, boundary)
    nodes[f"{base}(0)"] = _node(f"{name}(0)", kind, phase, start, boundary)
    return f"{base}(0)"


def _node(name: str, kind: str, phase: str, start: int, boundary: str) -> Json:
    at = f"2026-01-01T00:00:{start:02}Z"
    return {
        "id": name,
        "displayName": name,
        "type": kind,
        "phase": phase,
        "boundaryID": boundary,
        "startedAt": at,
        "finishedAt": None if phase in ("Running", "Pending") else at,
    }
