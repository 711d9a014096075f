"""Tests of how runs are compiled and recorded, without running a node."""

import fcntl
from pathlib import Path

import pytest
import toy_components as toys
from ml_metadata.proto import metadata_store_pb2
from tfx import v1 as tfx

from orchestration.local import tfx_internals
from orchestration.local.tfx_internals import LockedMetadata
from pipeline.config import load_config
from pipeline.pipeline import create_pipeline

Execution = metadata_store_pb2.Execution


@pytest.fixture
def store(tmp_path: Path) -> LockedMetadata:
    return LockedMetadata(str(tmp_path / "metadata.sqlite"), str(tmp_path / "lock"))


def is_locked(folder: Path) -> bool:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_metadata_store_is_locked_while_it_is_connected(
    store: LockedMetadata, tmp_path: Path
) -> None:
    assert not is_locked(tmp_path)
    with store:
        assert is_locked(tmp_path)
        with store:
            assert is_locked(tmp_path)
        assert is_locked(tmp_path)
        assert store.store.get_executions() == []
    assert not is_locked(tmp_path)
    with pytest.raises(ZeroDivisionError), store:
        raise ZeroDivisionError
    assert not is_locked(tmp_path)


def test_metadata_store_that_cannot_be_opened_is_not_left_locked(
    store: LockedMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfx.orchestration.metadata._MAX_INIT_RETRY", 1)
    Path(tmp_path / "metadata.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(RuntimeError, match="not a database"):
        store.__enter__()
    assert not is_locked(tmp_path)
    (tmp_path / "metadata.sqlite").unlink()
    with store:
        assert is_locked(tmp_path)


def test_cancel_unfinished_cancels_only_unfinished_executions(store: LockedMetadata) -> None:
    states = [
        Execution.NEW,
        Execution.RUNNING,
        Execution.COMPLETE,
        Execution.FAILED,
        Execution.CACHED,
        Execution.CANCELED,
    ]
    assert tfx_internals.cancel_unfinished(store) == 0
    with store:
        kind = store.store.put_execution_type(metadata_store_pb2.ExecutionType(name="Toy"))
        ids = store.store.put_executions(
            [Execution(type_id=kind, last_known_state=state) for state in states]
        )
    assert tfx_internals.cancel_unfinished(store) == 2
    with store:
        after = {e.id: e.last_known_state for e in store.store.get_executions_by_id(ids)}
    assert [after[i] for i in ids] == [Execution.CANCELED, Execution.CANCELED, *states[2:]]


def test_compile_pipeline_keeps_the_order_and_the_code_versions_of_nodes() -> None:
    first = toys.Source(text="a").with_id("First")
    second = toys.Join(left=first.outputs["note"], right=first.outputs["note"]).with_id("Second")
    third = toys.Source(text="b").with_id("Third")
    third.add_upstream_node(second)
    pipeline = tfx.dsl.Pipeline("toys", "root", components=[third, second, first])

    def code_version(executor: str, parameters: str) -> str:
        age = "new" if '"b"' in parameters else "old"
        return f"{executor.rpartition('.')[2]} {age}"

    compiled = tfx_internals.compile_pipeline(pipeline, "run-7", code_version)
    upstream = {"First": (), "Second": ("First",), "Third": ("Second",)}
    assert tfx_internals.node_ids(compiled) == upstream
    assert list(tfx_internals.node_ids(compiled)) == list(upstream)
    assert compiled.runtime_spec.pipeline_run_id.field_value.string_value == "run-7"
    versions = {
        node.pipeline_node.node_info.id: node.pipeline_node.parameters.parameters[
            "code_version"
        ].field_value.string_value
        for node in compiled.nodes
    }
    assert versions == {
        "First": "Source_Executor old",
        "Second": "Join_Executor old",
        "Third": "Source_Executor new",
    }


def test_compile_pipeline_never_caches_changes_of_the_serving_directory() -> None:
    """A cached Pusher says "pushed", whatever became of the Serving directory since."""
    pipeline = create_pipeline(load_config(), pipeline_root="root", serving_dir="serving")
    compiled = tfx_internals.compile_pipeline(pipeline, "run", lambda executor, parameters: "")
    cached = {
        node.pipeline_node.node_info.id: bool(
            node.pipeline_node.execution_options.caching_options.enable_cache
        )
        for node in compiled.nodes
    }
    assert [node_id for node_id, is_cached in cached.items() if not is_cached] == ["Pusher"]
