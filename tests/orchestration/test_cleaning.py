"""Tests that old runs are cleaned, and nothing that anybody needs goes with them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as proto

import local_runner
from orchestration.local import cleaning
from orchestration.local.cleaning import clean_after_run, clean_all, find_directories, remove
from orchestration.local.history import RunRecord, list_runs
from orchestration.local.leftovers import find_leftovers
from orchestration.local.metadata import open_metadata
from orchestration.local.output_directory import AHEAD, BusyError, OutputDirectory
from orchestration.local.reports import write_index
from orchestration.outcome import Outcome
from storage.directory import ModelDirectory
from storage.errors import UserError
from storage.names import SAVED_MODEL

PROJECT = Path(__file__).parents[2]
NODES = ("ExampleGen", "Trainer", "Pusher")
COMPLETE, CACHED, FAILED = "complete", "cached", "failed"
_STATES = {
    COMPLETE: proto.Execution.COMPLETE,
    CACHED: proto.Execution.CACHED,
    FAILED: proto.Execution.FAILED,
}


@dataclass
class World:
    """An output directory with small runs in it, recorded as TFX and the runner do."""

    directory: OutputDirectory
    runs: list[str] = field(default_factory=list)
    newest: dict[str, tuple[int, Path]] = field(default_factory=dict)
    made: dict[str, list[Path]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with self.directory.locked():
            pass

    def store(self) -> MetadataStore:
        connection = proto.ConnectionConfig()
        connection.sqlite.filename_uri = str(self.directory.metadata)
        connection.sqlite.connection_mode = proto.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        return MetadataStore(connection)

    def run(self, states: dict[str, str] | None = None, outcome: str = "failed") -> str:
        """A run of all nodes; one that has nothing to take from the cache completes."""
        run_id = f"20260101-{len(self.runs):06}-000"
        self.runs.append(run_id)
        self.made[run_id] = []
        store = self.store()
        run = self._context(store, "pipeline_run", run_id)
        for node in NODES:
            self._execute(store, run_id, run, node, (states or {}).get(node, COMPLETE))
        logs = self.directory.logs(run_id)
        logs.mkdir(parents=True)
        for name in ("runner", *NODES):
            (logs / f"{name}.log").write_text("log")
        RunRecord(run_id, started="", outcome=Outcome(outcome)).write(self.directory)
        (self.directory.reports / run_id).mkdir(parents=True)
        for name in ("report.html", "report.json"):
            (self.directory.reports / run_id / name).write_text("report")
        return run_id

    def _context(self, store: MetadataStore, kind: str, name: str) -> int:
        type_id = store.put_context_type(proto.ContextType(name=kind))
        context = store.get_context_by_type_and_name(kind, name)
        if context:
            return int(context.id)
        return int(store.put_contexts([proto.Context(type_id=type_id, name=name)])[0])

    def _execute(self, store: MetadataStore, run_id: str, run: int, node: str, state: str) -> None:
        if state == CACHED and node not in self.newest:
            state = COMPLETE
        kind = store.put_execution_type(proto.ExecutionType(name=node))
        (number,) = store.put_executions(
            [proto.Execution(type_id=kind, last_known_state=_STATES[state])]
        )
        contexts = (run, self._context(store, "node", f"toys.{node}"))
        store.put_attributions_and_associations(
            [], [proto.Association(execution_id=number, context_id=c) for c in contexts]
        )
        folder = self.directory.artifacts / run_id / node
        (folder / ".system" / "executor_execution" / str(number)).mkdir(parents=True)
        artifact, path = self.newest.get(node, (0, Path()))
        if state != CACHED:
            path = folder / "output" / str(number)
            (path / "Split-train").mkdir(parents=True)
            (path / "Split-train" / "data").write_text(run_id)
            self.made[run_id].append(path)
        if state == FAILED:
            return
        if state == COMPLETE:
            type_id = store.put_artifact_type(proto.ArtifactType(name="Toy"))
            (artifact,) = store.put_artifacts(
                [proto.Artifact(type_id=type_id, uri=str(path), state=proto.Artifact.LIVE)]
            )
            self.newest[node] = (artifact, path)
        event = proto.Event(artifact_id=artifact, execution_id=number, type=proto.Event.OUTPUT)
        event.path.steps.add().key = "output"
        store.put_events([event])

    @property
    def models(self) -> ModelDirectory:
        return ModelDirectory(str(self.directory.serving), "toy")

    def push(self) -> int:
        """Pushes what the newest run made; returns the version."""
        run_id, version = self.runs[-1], len(self.runs)
        model, provenance = (self.directory.root.parent / name for name in ("model", "provenance"))
        for folder in (model, provenance):
            folder.mkdir(exist_ok=True)
        (model / SAVED_MODEL).write_text(run_id)
        artifacts = {node: {"uri": str(path)} for node, (_, path) in self.newest.items()}
        (provenance / "provenance.json").write_text(json.dumps({"artifacts": artifacts}))
        self.models.publish(version, str(model), str(provenance))
        RunRecord(run_id, started="", outcome=Outcome.PUSHED, version=version).write(self.directory)
        return version

    def clean(self, keep: int) -> list[str]:
        with self.directory.cleaned():
            return remove(self.directory, find_leftovers(self.directory, keep))

    def live(self) -> dict[Path, bool]:
        """Whether ML Metadata holds an artifact for live, by path."""
        with open_metadata(self.directory) as store:
            artifacts = store.get_artifacts()
        return {Path(a.uri): a.state == proto.Artifact.LIVE for a in artifacts}


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """All files, links and empty folders below a folder but for databases and locks."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file() and not path.name.endswith("lock") and path.suffix != ".sqlite":
            found[name] = path.read_bytes()
        elif path.is_dir() and not any(path.iterdir()):
            found[name] = "empty"
    return found


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory: all that takes long here is that databases wait for the disk."""
    folder = make_folder()
    yield folder
    shutil.rmtree(folder)


def make_folder() -> Path:
    return Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(OutputDirectory(tmp_path / "output"))


def test_clean_keeps_the_newest_runs_and_marks_what_it_deletes(world: World) -> None:
    runs = [world.run() for _ in range(5)]
    assert world.clean(2) == []
    assert [record.run_id for record in list_runs(world.directory)] == [runs[4], runs[3]]
    root = world.directory.root
    for folder in ("artifacts", "logs", "reports"):
        assert sorted(os.listdir(root / folder)) == runs[3:]
    for run_id in runs:
        for path in world.made[run_id]:
            assert path.exists() == world.live()[path] == (run_id in runs[3:])
    assert world.clean(2) == []
    with world.directory.cleaned():
        assert find_leftovers(world.directory, 2) == []


def test_clean_deletes_what_went_ahead_of_a_run_that_never_began(world: World) -> None:
    never, store = "20251231-000000-000", world.store()
    world.made[never] = []
    context = world._context(store, "pipeline_run", f"{never}{AHEAD}")
    world._execute(store, never, context, NODES[0], COMPLETE)
    world.directory.logs(never).mkdir(parents=True)
    (world.directory.logs(never) / f"{NODES[0]}.log").write_text("log")
    run = world.run()
    world.clean(1)
    for folder in ("artifacts", "logs"):
        assert os.listdir(world.directory.root / folder) == [run]


def test_clean_counts_a_run_and_what_went_ahead_of_it_as_one(world: World) -> None:
    runs = [f"20260101-{number:06}-000" for number in range(3)]
    for run_id in runs:
        world._context(world.store(), "pipeline_run", f"{run_id}{AHEAD}")
        assert world.run() == run_id
    shutil.rmtree(world.directory.runs)  # Only ML Metadata knows them now.
    world.clean(2)
    assert sorted(os.listdir(world.directory.artifacts)) == runs[1:]


def test_clean_leaves_no_dead_link_in_the_index(world: World) -> None:
    runs = [world.run() for _ in range(3)]
    index = write_index(world.directory)
    assert f"reports/{runs[0]}/report.html" in index.read_text()
    world.clean(1)
    text = index.read_text()
    assert f"reports/{runs[2]}/report.html" in text
    assert runs[0] not in text


def test_clean_keeps_what_the_next_run_takes_from_the_cache(world: World) -> None:
    first = world.run()
    world.run({"Trainer": FAILED, "Pusher": FAILED})
    for _ in range(3):
        world.run({"ExampleGen": CACHED, "Trainer": FAILED, "Pusher": FAILED})
    world.clean(1)
    trainer, pusher = (world.newest[node][1] for node in ("Trainer", "Pusher"))
    assert trainer.parts[-4] == pusher.parts[-4] == first
    for _, path in world.newest.values():
        assert path.exists()
        assert world.live()[path]
    assert not world.made[first][0].exists()


@pytest.mark.parametrize("state", ["served", "older", "labelled", "rolled back"])
def test_clean_keeps_runs_and_artifacts_of_versions(world: World, state: str) -> None:
    run_id = world.run()
    version = world.push()
    if state != "served":
        world.run()
        world.push()
    if state == "labelled":
        world.models.pin(version, "stable")
        world.run()
        world.push()
        world.models.retain(1)
    if state == "rolled back":
        world.models.rollback(version)
    for _ in range(3):
        world.run()
    world.clean(1)
    assert all(path.exists() for path in world.made[run_id])
    assert world.directory.logs(run_id).exists()
    assert run_id in [record.run_id for record in list_runs(world.directory)]


def test_clean_deletes_no_file_that_it_does_not_know(world: World, tmp_path: Path) -> None:
    runs = [world.run() for _ in range(3)]
    root = world.directory.root
    outside = tmp_path / "outside"
    shutil.copytree(root / "artifacts" / runs[0], outside / runs[0])
    (outside / "runner.log").touch()
    strange = [
        root / "notes.txt",
        root / "artifacts" / "my-run" / "Trainer" / "model" / "1",
        root / "artifacts" / runs[0] / "notes.txt",
        root / "artifacts" / runs[0] / "Trainer" / "output" / "copy of 1",
        root / "logs" / runs[0] / "notes.txt",
        root / "logs" / "my-logs" / "a.log",
        root / "logs" / runs[0] / "folder.log" / "notes.txt",
        root / "reports" / runs[0] / "notes.txt",
        root / "reports" / "my-report" / "report.html",
        root / "runs" / "notes.txt",
        root / "runs" / "0-notes.json",
        root / "runs" / "0-folder.json" / "notes.txt",
        root / "2026-01-01_2026-01-02_7" / "notes.txt",
        root / "spans" / "notes.txt",
        root / "schedule.json",
    ]
    for path in strange:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    links = [
        root / "artifacts" / runs[0] / "Linked",
        root / "artifacts" / runs[0] / "Trainer" / "output" / "999",
        root / "logs" / runs[0] / "link.log",
        root / "runs" / "link.json",
    ]
    for link in links:
        link.symlink_to(outside)
    (world.made[runs[0]][0] / "link").symlink_to(outside)
    before = snapshot(outside)
    assert world.clean(1) == []
    assert all(path.exists() for path in (*strange, *links))
    assert snapshot(outside) == before
    assert not any(path.exists() for path in world.made[runs[0]])


def test_clean_does_not_follow_links_in_place_of_its_folders(world: World, tmp_path: Path) -> None:
    for _ in range(3):
        world.run()
    month = world.directory.spans / "201301"
    month.mkdir(parents=True)
    (month / "examples-aa").touch()
    os.utime(month / "examples-aa", (0, 0))
    (month / "examples-bb").touch()
    for name in ("artifacts", "logs", "reports", "runs", "spans"):
        (world.directory.root / name).rename(tmp_path / name)
        (world.directory.root / name).symlink_to(tmp_path / name)
    before = snapshot(tmp_path)
    assert world.clean(1) == []
    assert snapshot(tmp_path) == before


def test_clean_of_a_moved_directory_keeps_artifacts_of_versions(
    world: World, tmp_path: Path
) -> None:
    run_id = world.run()
    world.push()
    world.run()
    world.directory.root.rename(tmp_path / "moved")
    moved = World(OutputDirectory(tmp_path / "moved"))
    moved.clean(1)
    for path in world.made[run_id]:
        assert (tmp_path / "moved" / path.relative_to(world.directory.root)).exists()


def test_clean_of_a_copy_leaves_the_original_alone(world: World, tmp_path: Path) -> None:
    for _ in range(3):
        world.run()
    shutil.copytree(world.directory.root, tmp_path / "copy")
    before, live = snapshot(world.directory.root), world.live()
    World(OutputDirectory(tmp_path / "copy")).clean(1)
    assert (snapshot(world.directory.root), world.live()) == (before, live)


def test_clean_works_without_metadata_and_refuses_damaged_metadata(world: World) -> None:
    runs = [world.run() for _ in range(3)]
    before = snapshot(world.directory.root)
    database = world.directory.metadata.read_bytes()
    world.directory.metadata.write_bytes(database[:8192] + b"\xff" * 8192 + database[16384:])
    with pytest.raises(UserError, match=r"metadata\.sqlite"):
        world.clean(1)
    assert snapshot(world.directory.root) == before
    world.directory.metadata.unlink()
    world.clean(1)
    assert os.listdir(world.directory.artifacts) == [runs[2]]


def test_clean_reports_what_it_cannot_delete_and_deletes_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [world.run() for _ in range(3)]
    kept = world.made[runs[0]][1]

    def refuse(path: Path) -> None:
        if path == kept:
            raise PermissionError(13, "Permission denied")
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    monkeypatch.setattr(cleaning, "_delete", refuse)
    said: list[str] = []
    assert clean_all(world.directory, 1, dry_run=False, say=said.append) is False
    assert f"{kept} cannot be deleted: Permission denied" in said
    assert [path.exists() for path in world.made[runs[0]]] == [False, True, False]


def test_clean_leaves_a_directory_in_use_alone(world: World) -> None:
    world.run()
    with world.directory.locked(), pytest.raises(BusyError, match="a run is using"):
        clean_all(world.directory, 1, dry_run=True, say=print)


@pytest.mark.parametrize("mount_point", ["absent", "empty"])
def test_clean_refuses_a_serving_directory_that_is_not_mounted(
    world: World, mount_point: str
) -> None:
    runs = [world.run()]
    world.push()
    runs += [world.run() for _ in range(3)]
    serving, away = world.directory.serving, world.directory.root.parent / "away"
    serving.rename(away)
    if mount_point == "empty":
        serving.mkdir()
    before = snapshot(world.directory.root)
    with pytest.raises(UserError, match=f"holds no version, but {runs[0]} pushed one there"):
        clean_all(world.directory, 1, dry_run=False, say=print)
    assert snapshot(world.directory.root) == before
    assert clean_all(world.directory, 1, dry_run=False, say=print, serving_gone=True) is True
    assert not any(path.exists() for path in world.made[runs[0]])


def test_clean_refuses_a_folder_that_is_not_an_output_directory(tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "1").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="is not an output directory"):
            find_directories(OutputDirectory(folder))
    assert not (tmp_path / "missing").exists()


def test_clean_includes_monitoring_and_backtests_by_their_own_rules(world: World) -> None:
    root = world.directory.root
    monitoring, backtest, variant = (
        World(OutputDirectory(root / name))
        for name in ("monitoring", "backtest", "backtest/compare/slow")
    )
    runs = [[w.run() for _ in range(4)] for w in (world, monitoring, backtest, variant)]
    periods = [f"2026-0{n}-01_2026-0{n + 1}-01_17" for n in range(1, 5)]
    for period in periods:
        (root / "monitoring" / period).mkdir()
        for name in ("report.html", "report.json"):
            (root / "monitoring" / period / name).write_text("{}")
    first = {"run_id": runs[2][1], "outcome": Outcome.PUSHED}
    state = {"months": [{"run_id": runs[2][0], "outcome": "not blessed"}, first]}
    (root / "backtest" / "backtest.json").write_text(json.dumps(state))
    before = snapshot(root)
    said: list[str] = []
    assert clean_all(OutputDirectory(root), 1, dry_run=True, say=said.append) is True
    assert snapshot(root) == before
    assert "would be deleted" in said[-1]
    announced = {line.split("MB  ")[1] for line in said[:-1]}
    assert clean_all(OutputDirectory(root), 1, dry_run=False, say=lambda line: None) is True
    gone = {str(root / name) for name in before if not os.path.lexists(root / name)}
    assert gone
    assert all(any(g == a or g.startswith(f"{a}/") for a in announced) for g in gone)
    for w, ran in zip((world, monitoring, variant), (runs[0], runs[1], runs[3]), strict=True):
        assert os.listdir(w.directory.artifacts) == [ran[3]]
    # With the first version that was pushed, all later months are compared.
    assert sorted(os.listdir(backtest.directory.artifacts)) == [runs[2][1], runs[2][3]]
    kept = [name for name in os.listdir(root / "monitoring") if name in periods]
    assert kept == periods[-1:]


@pytest.mark.parametrize("state", ['{"months": ', '{"months": 5}', '{"months":' + "[" * 100_000])
def test_clean_leaves_a_backtest_with_damaged_state_alone(world: World, state: str) -> None:
    for _ in range(3):
        world.run()
    (world.directory.root / "backtest.json").write_text(state)
    before = snapshot(world.directory.root)
    with pytest.raises(UserError, match=r"backtest\.json cannot be read"):
        world.clean(1)
    assert snapshot(world.directory.root) == before


@pytest.mark.parametrize("record", ["{", '{"artifacts": 5}', '{"artifacts": {"Model": {}}}'])
def test_clean_refuses_a_version_with_damaged_provenance(world: World, record: str) -> None:
    world.run()
    version = world.push()
    world.run()
    (Path(world.models.provenance_uri(version)) / "provenance.json").write_text(record)
    before = snapshot(world.directory.root)
    with pytest.raises(UserError, match=f"what version {version} of toy was made of"):
        world.clean(1)
    assert snapshot(world.directory.root) == before


def test_clean_deletes_old_span_store_entries_that_were_replaced(world: World) -> None:
    world.run()
    month = world.directory.spans / "201301"
    month.mkdir(parents=True)
    days = {
        "examples-aa": 500,  # Another one was written since.
        "examples-bb": 1,
        "statistics-cc": 500,  # The only one there is.
        "examples-dd.0f.part": 2,
        "examples-ee.0f.part": 0,  # Somebody may be writing it.
    }
    now = (world.directory.root / "runs").stat().st_mtime
    for name, age in days.items():
        (month / name).touch()
        os.utime(month / name, (now - age * 86400,) * 2)
    world.clean(1)
    assert sorted(os.listdir(month)) == ["examples-bb", "examples-ee.0f.part", "statistics-cc"]


def test_clean_after_run_never_fails_the_run_and_keeps_all_at_0(world: World) -> None:
    for _ in range(3):
        world.run()
    before = snapshot(world.directory.root)
    with world.directory.locked():
        clean_after_run(world.directory, 0)
        (world.directory.root / "backtest.json").write_text("damaged")
        clean_after_run(world.directory, 1)
        (world.directory.root / "backtest.json").unlink()
    assert snapshot(world.directory.root) == before


def test_clean_command_lists_what_would_be_deleted_and_how_much(world: World) -> None:
    for _ in range(3):
        world.run()

    def clean(*arguments: str) -> Result:
        output = f"--output={world.directory.root}"
        return CliRunner().invoke(local_runner.main, ["clean", output, *arguments])

    before = snapshot(world.directory.root)
    dry = clean("--dry-run", "--keep-runs=1")
    assert dry.exit_code == 0, dry.output
    assert str(world.made[world.runs[0]][0]) in dry.output
    assert "MB  in all would be deleted" in dry.output
    assert snapshot(world.directory.root) == before
    with world.directory.locked():
        assert clean("--keep-runs=1").exit_code == 75
    assert clean("--keep-runs=0").exit_code == 2
    assert clean("--output=/nowhere").exit_code == 1
    assert "everything is kept" in clean("--set", "keep_runs=0").output
    assert clean("--set", "keep_runs=1").exit_code == 0
    assert os.listdir(world.directory.artifacts) == [world.runs[2]]
    assert "nothing to delete" in clean("--set", "keep_runs=1").output


# Cleans, and is killed after so many deletions, in the middle of the next one.
KILLED_CLEAN = """
import os, signal, shutil, sys
from pathlib import Path
from orchestration.local import cleaning
from orchestration.local.output_directory import OutputDirectory

directory, left = OutputDirectory(Path(sys.argv[1])), int(sys.argv[2])
delete = cleaning._delete

def die(path):
    global left
    if not left:
        for file in [p for p in path.rglob("*") if p.is_file()][:1]:
            file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    delete(path)

cleaning._delete = die
with directory.cleaned():
    cleaning.remove(directory, cleaning.find_leftovers(directory, 1))
"""


@pytest.mark.parametrize("deletions", [0, 4, 13])
def test_clean_that_was_killed_can_be_repeated(world: World, deletions: int) -> None:
    runs = [world.run() for _ in range(3)]
    kept = world.directory.root / "artifacts" / runs[2]
    before = snapshot(kept)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_CLEAN, str(world.directory.root), str(deletions)],
        cwd=PROJECT,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert snapshot(kept) == before
    assert world.clean(1) == []
    assert os.listdir(world.directory.artifacts) == [runs[2]]
    assert os.listdir(world.directory.root / "logs") == [runs[2]]
    assert [record.outcome for record in list_runs(world.directory)] == ["failed"]
    assert {path for path, is_live in world.live().items() if is_live} == set(world.made[runs[2]])


class Stopped(Exception):
    """Stands for a kill."""


class Cleaning(RuleBasedStateMachine):
    """Runs, pushes, rollbacks and cleanings that are stopped anywhere, in any order."""

    @initialize()
    def begin(self) -> None:
        self.folder = make_folder()
        self.world = World(OutputDirectory(self.folder / "output"))
        self.strange: list[Path] = []
        self.needed: dict[int, list[Path]] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(states=st.fixed_dictionaries({node: st.sampled_from(list(_STATES)) for node in NODES}))
    def run(self, states: dict[str, str]) -> None:
        self.world.run(states)

    @precondition(lambda self: self.world.runs and len(self.world.runs) not in self.needed)
    @rule()
    def push(self) -> None:
        paths = [path for _, path in self.world.newest.values()]
        self.needed[self.world.push()] = paths

    @precondition(lambda self: len(self.world.models.versions()) > 1)
    @rule()
    def roll_back(self) -> None:
        self.world.models.rollback()

    @precondition(lambda self: len(self.world.models.versions()) > 1)
    @rule()
    def retain(self) -> None:
        for version in self.world.models.retain(1):
            del self.needed[version]

    @precondition(lambda self: self.world.runs)
    @rule(data=st.data())
    def put_something_strange(self, data: st.DataObject) -> None:
        folders = [p for p in self.world.directory.artifacts.rglob("output") if p.is_dir()]
        if folders:
            path = data.draw(st.sampled_from(sorted(folders))) / f"mine-{len(self.strange)}"
            path.touch()
            self.strange.append(path)

    @rule(keep=st.integers(1, 3), stop_after=st.none() | st.integers(0, 8))
    def clean(self, keep: int, stop_after: int | None) -> None:
        left = stop_after
        newest = self.world.runs[-keep:]  # An earlier cleaning may have kept fewer.
        there = [p for run in newest for p in self.world.made[run] if p.exists()]
        records = {record.run_id for record in list_runs(self.world.directory)} & set(newest)
        delete = cleaning._delete

        def stop(path: Path) -> None:
            nonlocal left
            if left is not None:
                if left == 0:
                    raise Stopped
                left -= 1
            delete(path)

        cleaning._delete = stop
        try:
            with suppress(Stopped):
                self.world.clean(keep)
                with self.world.directory.cleaned():
                    assert find_leftovers(self.world.directory, keep) == []
        finally:
            cleaning._delete = delete
        assert {record.run_id for record in list_runs(self.world.directory)} >= records
        assert all(path.exists() for path in there)

    @invariant()
    def what_is_needed_is_there(self) -> None:
        if not self.world.runs:
            return
        for paths in self.needed.values():
            assert all(path.exists() for path in paths)
        assert all(path.exists() for _, path in self.world.newest.values())
        assert all(path.exists() for path in self.strange)
        for path, is_live in self.world.live().items():
            assert is_live or not path.exists()


TestCleaningStateMachine = pytest.mark.filterwarnings("ignore")(Cleaning.TestCase)
Cleaning.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=15,
    suppress_health_check=list(HealthCheck),
)


def test_clean_deletes_a_killed_run_as_any_other(world: World) -> None:
    killed = world.run(outcome="running")
    assert [record.outcome for record in list_runs(world.directory)] == [Outcome.KILLED]
    world.run()
    world.clean(1)
    assert killed not in os.listdir(world.directory.artifacts)
