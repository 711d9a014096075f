"""States of a run's tasks, and why they failed, from what the server says of its workflow.

Argo Workflows has nodes, not tasks. Of every task there is a node of its name, one before it, its
driver, and the pods in which its executor ran; with retries, each of them again with "(0)" after
its name. The text is another program's: whatever it holds, reading it ends, and soon.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from storage.errors import one_line

PENDING, RUNNING, SUCCEEDED, FAILED = "PENDING", "RUNNING", "SUCCEEDED", "FAILED"
NOT_STARTED = "not started"
# Phases of Argo Workflows.
_STATES = {
    "Pending": PENDING,
    "Running": RUNNING,
    "Succeeded": SUCCEEDED,
    "Skipped": "SKIPPED",
    "Failed": FAILED,
    "Error": FAILED,
    "Omitted": PENDING,
}
_DRIVER, _ROOT = "-driver", "root"
_DEEPEST = 20  # nodes of which one is part of the next: root, task, attempt, pod
_LARGEST_STATUS = 64 * 2**20  # bytes of unpacked node status
_GZIP = zlib.MAX_WBITS | 16
# What Argo puts before the message with which a container ended.
_EXIT = re.compile(r"(?:main: )?Error \(exit code 1\): (?=\S)")
# What nodes say of others.
_HEARSAY = re.compile(r"child '.*' failed|No more retries left|Max duration limit exceeded")


@dataclass(frozen=True)
class TaskStatus:
    """How far a task of a run is; `error` is "" unless the server knows one."""

    name: str
    state: str
    error: str = ""


@dataclass(frozen=True)
class _Node:
    """A node of a workflow; `boundary` is the ID of the node that it is part of."""

    node_id: str
    display_name: str
    state: str
    started: str
    message: str = ""
    boundary: str = ""
    is_pod: bool = False

    @property
    def name(self) -> str:
        """The name without the number of an attempt."""
        return re.sub(r"\(\d+\)\Z", "", self.display_name)


def of_manifest(manifest: str, *, final: bool) -> tuple[TaskStatus, ...]:
    """The tasks of a workflow.

    Args:
      manifest: The workflow as JSON, of which its status may hold the nodes compressed.
      final: Whether the run is over.

    Returns:
      The tasks; none if the manifest cannot be read.
    """
    workflow = _mapping(_load(manifest))
    status = _mapping(workflow.get("status"))
    nodes = _mapping(status.get("nodes"))
    if not nodes:
        nodes = _mapping(_load(_unpack(_text(status.get("compressedNodes")))))
    found = [_node(node_id, _mapping(node)) for node_id, node in nodes.items()]
    return tuple(_tasks(found, _declared(workflow), final=final)) if found else ()


def of_details(details: Iterable[Any], *, final: bool) -> tuple[TaskStatus, ...]:
    """The tasks among the details of a run of the v2beta1 API.

    Args:
      details: Its `task_details`.
      final: Whether the run is over.
    """
    nodes = [
        _Node(
            node_id=str(one.task_id),
            display_name=one.display_name or "",
            state=one.state or PENDING,
            started=one.start_time.isoformat() if one.start_time else "",
            message=(one.error and one.error.message) or "",
        )
        for one in details
    ]
    return tuple(_tasks(nodes, (), final=final))


def retries_errors_alone(manifest: str) -> bool:
    """Whether the workflow's controller tries failed tasks again only on errors of Kubernetes."""
    workflow = _mapping(_load(manifest))
    specs = [
        workflow.get("spec"),
        _mapping(workflow.get("status")).get("storedWorkflowTemplateSpec"),
    ]
    for spec in map(_mapping, specs):
        for template in (spec.get("templateDefaults"), *_list(spec.get("templates"))):
            if _mapping(_mapping(template).get("retryStrategy")).get("retryPolicy") == "OnError":
                return True
    return False


def _tasks(nodes: Iterable[_Node], declared: Iterable[str], *, final: bool) -> Iterator[TaskStatus]:
    in_order = sorted(nodes, key=lambda node: (not node.started, node.started))
    named: dict[str, _Node] = {}
    for node in in_order:
        # That of all attempts before those of one; otherwise the last attempt.
        if node.name not in named or named[node.name].display_name != node.name:
            named[node.name] = node
    errors = _errors(in_order)
    drivers = [node.name for node in in_order if node.name.endswith(_DRIVER)]
    names = [driver.removesuffix(_DRIVER) for driver in drivers]
    for name in dict.fromkeys((*names, *declared)):
        if name == _ROOT:
            continue
        task, driver = named.get(name), named.get(name + _DRIVER)
        state = task.state if task else driver.state if driver else PENDING
        if task is None and state == SUCCEEDED:
            state = RUNNING  # its driver is done, and it will be there soon
        if final and (state == PENDING or (task is None and state == RUNNING)):
            state = NOT_STARTED
        error = errors.get(name, "") or errors.get(name + _DRIVER, "")
        yield TaskStatus(name, state, error if state == FAILED else "")


def _errors(in_order: Iterable[_Node]) -> dict[str, str]:
    """By the name of a task or driver, the message of what failed last in it; of pods first."""
    nodes = {node.node_id: node for node in in_order}
    found: dict[str, str] = {}
    failed = [n for n in nodes.values() if n.state == FAILED and n.message]
    for node in sorted(failed, key=lambda one: (one.is_pod, not _HEARSAY.match(one.message))):
        message = _EXIT.sub("", one_line(node.message), count=1)
        owner: _Node | None = node
        for _ in range(_DEEPEST):
            if owner is None:
                break
            name = owner.name.removesuffix(_DRIVER)
            found[owner.name] = message.removeprefix(f"{name}: ")
            owner = nodes.get(owner.boundary)
    return found


def _declared(workflow: Mapping[str, Any]) -> Iterator[str]:
    """Names of the tasks that the workflow is to run, whether they have begun or not."""
    for template in _list(_mapping(workflow.get("spec")).get("templates")):
        for task in _list(_mapping(_mapping(template).get("dag")).get("tasks")):
            name = _text(_mapping(task).get("name"))
            if name.endswith(_DRIVER):
                yield name.removesuffix(_DRIVER)


def _node(node_id: str, node: Mapping[str, Any]) -> _Node:
    return _Node(
        node_id=node_id,
        display_name=_text(node.get("displayName")),
        state=_STATES.get(_text(node.get("phase")), PENDING),
        started=_text(node.get("startedAt")),
        message=_text(node.get("message")),
        boundary=_text(node.get("boundaryID")),
        is_pod=node.get("type") == "Pod",
    )


def _unpack(text: str) -> str:
    """Base64 of gzip, as Argo keeps a large status; "" where it is not, or larger than allowed."""
    try:
        packed = base64.b64decode(text, validate=True)
        content = zlib.decompressobj(_GZIP).decompress(packed, _LARGEST_STATUS + 1)
        return content.decode() if len(content) <= _LARGEST_STATUS else ""
    except (ValueError, zlib.error):
        return ""


def _load(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
