"""The one place that reaches behind TFX's public names.

`tfx.v1` has no way to launch a single node of a pipeline, to say whether it came from the cache, or
to share one SQLite file between processes. These are the modules that TFX's own `LocalDagRunner` is
made of, the same in TFX 1.16 and 1.21.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from filelock import FileLock
from ml_metadata.proto import metadata_store_pb2
from tfx import types as tfx_types
from tfx import v1 as tfx
from tfx.dsl.compiler import compiler, constants
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils
from tfx.proto.orchestration import executable_spec_pb2, pipeline_pb2
from tfx.types import artifact_utils

from orchestration.local.manifest import manifest
from orchestration.local.output_directory import AHEAD

_Execution = metadata_store_pb2.Execution
_DONE = (_Execution.COMPLETE, _Execution.CACHED)

# What it does outlives its artifacts, and may have been undone since: a version was rolled back.
_NEVER_CACHED = ("Pusher",)

# Custom property of an artifact: what its node left in its folder.
_MANIFEST = "manifest"


class LockedMetadata(metadata.Metadata):
    """ML Metadata that one process at a time may be connected to.

    SQLite gives up with "database is locked" where two processes write at once. The launcher
    connects for moments only, before and after an executor runs: waiting for one's turn is cheap.
    """

    def __init__(self, sqlite_path: str, lock_path: str):
        super().__init__(tfx.orchestration.metadata.sqlite_metadata_connection_config(sqlite_path))
        self._lock = FileLock(lock_path, mode=0o644, thread_local=False)

    def __enter__(self) -> LockedMetadata:
        if self._users:
            super().__enter__()
            return self
        self._lock.acquire()
        try:
            super().__enter__()
        except BaseException:  # Or the next attempt of this very process would wait for ever.
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[Exception] | None = None,
        exc_value: Exception | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        super().__exit__(exc_type, exc_value, exc_tb)
        if self._users == 0:
            self._lock.release()


def compile_pipeline(
    pipeline: tfx.dsl.Pipeline,
    run_id: str,
    code_version: Callable[[str, str], str],
    *,
    ahead: bool = False,
) -> pipeline_pb2.Pipeline:
    """Compiles a pipeline to the intermediate representation of one run.

    TFX's cache key of a node holds its inputs and parameters, not the code behind them. Each node
    is therefore given one parameter more, `code_version`, which executors ignore and ML Metadata
    keeps. Artifacts go to a folder of the run, and the Pusher is never taken from the cache.

    Args:
      pipeline: The pipeline.
      run_id: Identifies the run in ML Metadata.
      code_version: Gives the version of the code that a node runs, from the import path of its
        executor and the text of its parameters.
      ahead: Whether it is for nodes that go ahead of the run. ML Metadata has them as of another
        run: the nodes that follow in the run itself take what it makes or finds in the cache.

    Returns:
      The representation, nodes in topological order.
    """
    compiled = compiler.Compiler().compile(pipeline)
    runtime_parameter_utils.substitute_runtime_parameter(
        compiled, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: f"{run_id}{AHEAD if ahead else ''}"}
    )
    # A folder for each run: artifacts' folders are named after execution ids, and those start again
    # at 1 where the metadata was lost.
    root = compiled.runtime_spec.pipeline_root.field_value
    root.string_value = os.path.join(root.string_value, run_id)
    deployment = runner_utils.extract_local_deployment_config(compiled)
    for node in compiled.nodes:
        node_id = node.pipeline_node.node_info.id
        parameters = node.pipeline_node.parameters.parameters
        executor = runner_utils.extract_executor_spec(deployment, node_id)
        version = code_version(_class_path(executor), str(node.pipeline_node.parameters))
        parameters["code_version"].field_value.string_value = version
        if node_id in _NEVER_CACHED:
            node.pipeline_node.execution_options.caching_options.enable_cache = False
    return compiled


def _class_path(executor: Any) -> str:
    """Import path of an executor: that of a Beam one is a level deeper."""
    if isinstance(executor, executable_spec_pb2.BeamExecutableSpec):
        executor = executor.python_executor_spec
    return str(executor.class_path)


def launch_node(compiled: pipeline_pb2.Pipeline, node_id: str, store: LockedMetadata) -> int:
    """Runs driver, executor and publisher of one node.

    TFX takes outputs from the cache as long as their folders exist. Here they must also hold what
    the node left in them; or else they are marked as deleted, which makes TFX pass them over.

    Returns:
      The id of its execution in ML Metadata.

    Raises:
      RuntimeError: If the node's inputs are missing.
      Exception: What the executor raised.
    """
    deployment = runner_utils.extract_local_deployment_config(compiled)
    node = next(n.pipeline_node for n in compiled.nodes if n.pipeline_node.node_info.id == node_id)
    _mark_damaged(store, node)
    info = launcher.Launcher(
        pipeline_node=node,
        mlmd_connection=store,
        pipeline_info=compiled.pipeline_info,
        pipeline_runtime_spec=compiled.runtime_spec,
        executor_spec=runner_utils.extract_executor_spec(deployment, node_id),
        custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, node_id),
    ).launch()
    if info is None or info.execution_id is None or _state(store, info.execution_id) not in _DONE:
        raise RuntimeError(f"{node_id}: inputs are missing")
    if not is_cached(store, info.execution_id):
        _record_manifests(store, info.execution_id)
    return int(info.execution_id)


def _record_manifests(store: LockedMetadata, execution_id: int) -> None:
    """Keeps what a node left in the folders of its outputs.

    A node that is killed before this has left outputs that nothing vouches for: it runs again.
    """
    with store:
        artifacts = _outputs(store, [execution_id])
        for artifact in artifacts:
            artifact.custom_properties[_MANIFEST].string_value = manifest(artifact.uri)
        store.store.put_artifacts(artifacts)


def _mark_damaged(store: LockedMetadata, node: pipeline_pb2.PipelineNode) -> None:
    """Marks those outputs of a node's earlier executions as deleted that are not whole any more."""
    (name,) = (
        context.name.field_value.string_value
        for context in node.contexts.contexts
        if context.type.name == constants.NODE_CONTEXT_TYPE_NAME
    )
    with store:
        context = store.store.get_context_by_type_and_name(constants.NODE_CONTEXT_TYPE_NAME, name)
        if context is None:  # It never ran.
            return
        executions = store.store.get_executions_by_context(context.id)
        artifacts = _outputs(store, [execution.id for execution in executions])
    damaged = []
    for artifact in artifacts:
        if artifact.state != metadata_store_pb2.Artifact.LIVE:
            continue
        noted = _MANIFEST in artifact.custom_properties  # To ask for it would add an empty one.
        before = artifact.custom_properties[_MANIFEST].string_value if noted else ""
        there = manifest(artifact.uri)
        if not there or there != before:
            logging.warning(
                "Not taken from the cache: %s held %s and holds %s",
                *(artifact.uri, before or "an unknown content", there or "nothing"),
            )
            artifact.state = metadata_store_pb2.Artifact.DELETED
            damaged.append(artifact)
    if damaged:
        with store:
            store.store.put_artifacts(damaged)


def _outputs(store: LockedMetadata, execution_ids: Iterable[int]) -> list[Any]:
    """The output artifacts of executions, each once."""
    events = store.store.get_events_by_execution_ids(list(execution_ids))
    made = {e.artifact_id for e in events if e.type == metadata_store_pb2.Event.OUTPUT}
    return list(store.store.get_artifacts_by_id(sorted(made)))


def read_outputs(store: LockedMetadata, execution_id: int) -> dict[str, tfx_types.Artifact]:
    """The output artifact of an execution, by output key."""
    with store:
        events = store.store.get_events_by_execution_ids([execution_id])
        keys = {
            event.artifact_id: event.path.steps[0].key
            for event in events
            if event.type == metadata_store_pb2.Event.OUTPUT
        }
        outputs: dict[str, tfx_types.Artifact] = {}
        for artifact in store.store.get_artifacts_by_id(list(keys)):
            (kind,) = store.store.get_artifact_types_by_id([artifact.type_id])
            outputs[keys[artifact.id]] = artifact_utils.deserialize_artifact(kind, artifact)
        return outputs


def find_executions(store: LockedMetadata, run_id: str) -> dict[str, int]:
    """The ids of a run's executions that are complete or from the cache, by name of component."""
    with store:
        run = store.store.get_context_by_type_and_name(
            constants.PIPELINE_RUN_CONTEXT_TYPE_NAME, run_id
        )
        if run is None:
            return {}
        return {
            execution.type.rpartition(".")[2]: execution.id
            for execution in store.store.get_executions_by_context(run.id)
            if execution.last_known_state in _DONE
        }


def is_cached(store: LockedMetadata, execution_id: int) -> bool:
    """Whether an execution was taken from the cache."""
    return bool(_state(store, execution_id) == _Execution.CACHED)


def _state(store: LockedMetadata, execution_id: int) -> int:
    with store:
        (execution,) = store.store.get_executions_by_id([execution_id])
        return int(execution.last_known_state)


def cancel_unfinished(store: LockedMetadata) -> int:
    """Marks executions that a stopped run left running as canceled; returns how many."""
    with store:
        unfinished = [
            execution
            for execution in store.store.get_executions()
            if execution.last_known_state in (_Execution.NEW, _Execution.RUNNING)
        ]
        for execution in unfinished:
            execution.last_known_state = _Execution.CANCELED
        if unfinished:
            store.store.put_executions(unfinished)
        return len(unfinished)


def node_ids(compiled: pipeline_pb2.Pipeline) -> dict[str, tuple[str, ...]]:
    """The nodes a compiled pipeline has, in topological order, with those each must wait for."""
    return {
        n.pipeline_node.node_info.id: tuple(n.pipeline_node.upstream_nodes) for n in compiled.nodes
    }
