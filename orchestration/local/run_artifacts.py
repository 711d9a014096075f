"""The nodes and artifacts of a run, as ML Metadata knows them; read without TFX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestration.local.history import NodeNote, RunRecord
from orchestration.local.metadata import MetadataGone, open_metadata
from orchestration.local.output_directory import OutputDirectory
from report.run import CACHED, COMPLETE, FAILED, Artifact, Node

if TYPE_CHECKING:
    from ml_metadata.metadata_store import MetadataStore


def read_nodes(directory: OutputDirectory, record: RunRecord) -> tuple[tuple[Node, ...], str]:
    """The nodes of a run, with what its record says of them.

    Args:
      directory: The directory of the run.
      record: The record of the run.

    Returns:
      The nodes, in the order in which they began; and why ML Metadata said nothing, or "".
    """
    try:
        with open_metadata(directory) as store:
            found = _executions(store, record.run_id)
    except (MetadataGone, OSError) as error:
        found, note = {}, f"Without artifacts: {error}."
    else:
        note = "" if found or not record.nodes else "Without artifacts: ML Metadata has none of it."
    starts = [one["began"] for one in found.values() if one["began"]]
    first = min(starts, default=0.0)
    names = [*record.nodes, *(name for name in found if name not in record.nodes)]
    nodes = []
    for name in names:
        of_metadata = found.get(name, {})
        noted = record.nodes.get(name) or NodeNote(of_metadata.get("state", ""))
        began = of_metadata.get("began")
        nodes.append(
            Node(
                name=name,
                state=noted.state,
                line=noted.line,
                details=noted.details,
                began=began - first if began else None,
                seconds=of_metadata.get("seconds"),
                outputs=of_metadata.get("outputs", {}),
            )
        )
    return tuple(sorted(nodes, key=lambda n: (n.began is None, n.began or 0.0))), note


def _executions(store: MetadataStore, run_id: str) -> dict[str, dict[str, Any]]:
    """State, times and outputs of the executions of a run, by name of the component."""
    from ml_metadata.proto import metadata_store_pb2

    kinds = metadata_store_pb2.Execution
    states = {kinds.COMPLETE: COMPLETE, kinds.CACHED: CACHED, kinds.FAILED: FAILED}
    context = store.get_context_by_type_and_name("pipeline_run", run_id)
    if context is None:
        return {}
    executions = store.get_executions_by_context(context.id)
    events = [
        event
        for event in store.get_events_by_execution_ids([each.id for each in executions])
        if event.type == metadata_store_pb2.Event.OUTPUT
    ]
    made = {each.id: each for each in store.get_artifacts_by_id({e.artifact_id for e in events})}
    found = {}
    for execution in executions:
        began = execution.create_time_since_epoch / 1000
        outputs = {
            event.path.steps[0].key: _artifact(made[event.artifact_id])
            for event in events
            if event.execution_id == execution.id and event.artifact_id in made
        }
        found[execution.type.rpartition(".")[2]] = {
            "state": states.get(execution.last_known_state, ""),
            "began": began,
            "seconds": max(execution.last_update_time_since_epoch / 1000 - began, 0.0),
            "outputs": outputs,
        }
    return found


def _artifact(artifact: Any) -> Artifact:
    properties = {
        name: getattr(value, value.WhichOneof("value"))
        for name, value in artifact.custom_properties.items()
        if value.WhichOneof("value") in ("int_value", "double_value", "string_value")
    }
    return Artifact(artifact.uri, properties)
