"""Runs that are killed at any moment harm nothing: not what is served, not the runs after them."""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest
import tensorflow as tf
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from orchestration.local.history import list_runs
from orchestration.local.output_directory import OutputDirectory
from orchestration.outcome import Outcome
from storage.directory import ModelDirectory
from storage.keys import TrustStore, default_trust
from storage.private_copy import private_copy
from tests import forked
from tests.conftest import Cli, PushedRun

# Nodes to be killed at work, in the order in which a run after the other gets to them, and seconds
# within which. The nodes between these are launched, recorded and taken from the cache like them.
TARGETS = (("SpanExampleGen", 0.5), ("Transform", 3.0), ("Trainer", 3.0))
# The Pusher is killed more often, alone. The worst moment: the version can be seen, and nothing
# else knows of it yet.
PUSHES, PUBLISHED = 14, 3
LONGEST = 240.0


@pytest.fixture
def chance() -> random.Random:
    """Says when to kill whom: always the same, unless a seed is named."""
    seed = int(os.environ.get("KILL_SEED", "14"))
    print(f"To repeat this: KILL_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def server() -> Iterator[psutil.Process]:
    """The server that runs and their nodes are forked from, with all that they import."""
    process = forked.start_server()
    yield process
    kill_all(process)


def kill_all(server: psutil.Process) -> None:
    """Kills whatever the fork server has made, and waits for that."""
    processes = server.children(recursive=True)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


class Firings:
    """Runs, one after the other, into one output directory.

    Attributes:
      cli: The command line.
      directory: That output directory.
    """

    def __init__(self, run: PushedRun, root: Path, *program: str):
        """Copies what a run left.

        Args:
          run: That run.
          root: Where to.
          program: What runs instead of `local_runner.py`.
        """
        shutil.copytree(run.cli.output, root / "output")
        self.cli = Cli(run.cli.data, root / "output")
        self.directory = OutputDirectory(self.cli.directory, self.cli.output, "tests.trips")
        self._screens = root
        self._program = program or ("local_runner.py",)
        self._loaded: set[int] = set()

    def start(self, name: str, *arguments: str) -> ForkServerProcess:
        # The logs of all of them are looked at.
        command = self.cli.command(*arguments, "--set", "keep_runs=0")[2:]
        return forked.start([*self._program, *command], self._screen(name))

    def screen(self, name: str) -> str:
        """What a run shows."""
        return self._screen(name).read_text()

    def _screen(self, name: str) -> Path:
        return self._screens / f"{name}.txt"

    def finish(self, name: str, *arguments: str) -> str:
        """Runs to the end and returns what was shown."""
        process = self.start(name, *arguments)
        process.join(LONGEST)
        screen = self.screen(name)
        assert process.exitcode == 0, screen
        return screen

    @property
    def models(self) -> ModelDirectory:
        (model,) = (self.cli.output / "serving_model").iterdir()
        return ModelDirectory(str(model.parent), model.name)

    def check(self) -> None:
        """What holds at any moment: every version that can be seen is whole, and MLMD opens."""
        models = self.models
        for version in models.versions():
            trust = TrustStore([default_trust(models.serving_dir)])
            private_copy(models, version, trust).close()
            assert models.provenance(version)["version"] == version
            if version not in self._loaded:
                loaded = tf.saved_model.load(models.version_uri(version))
                assert "serving_default" in loaded.signatures
                self._loaded.add(version)
        self._check_metadata()

    def _check_metadata(self) -> None:
        with self._metadata() as store:
            with closing(sqlite3.connect(self.directory.metadata)) as database:
                assert database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
            assert store.get_executions()

    @contextmanager
    def _metadata(self) -> Iterator[MetadataStore]:
        config = metadata_store_pb2.ConnectionConfig()
        config.sqlite.filename_uri = str(self.directory.metadata)
        with self.directory.metadata_lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield MetadataStore(config)

    def forget(self, version: int) -> None:
        """Takes a version away, so that there is something to push again."""
        shutil.rmtree(self.models.version_uri(version))
        shutil.rmtree(self.models.provenance_uri(version))

    def forget_pushes(self) -> None:
        """Takes all pushes from ML Metadata: within one run, a node is not run again."""
        pushes = "SELECT e.id FROM Execution e JOIN Type t ON t.id = e.type_id"
        pushes += " WHERE t.name LIKE '%Pusher'"
        with self._metadata(), sqlite3.connect(self.directory.metadata) as database:
            for table in ("Event", "Association", "ExecutionProperty"):
                database.execute(f"DELETE FROM {table} WHERE execution_id IN ({pushes})")
            database.execute(f"DELETE FROM Execution WHERE id IN ({pushes})")


def wait_until(happened: Callable[[], bool], process: ForkServerProcess) -> None:
    deadline = time.monotonic() + LONGEST
    while not happened() and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill_within(
    seconds: float, process: ForkServerProcess, server: psutil.Process, alone: bool
) -> None:
    """Kills a run after some time: all of it, or the runner alone.

    Its nodes notice that, while the next run may have begun.
    """
    moment = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= moment, process)
    if alone:
        process.kill()
    else:
        kill_all(server)
    process.join()
    assert process.exitcode in (-signal.SIGKILL, 0)


def test_local_run_killed_at_any_moment_harms_nothing(
    pushed: PushedRun, tmp_path: Path, server: psutil.Process, chance: random.Random
) -> None:
    firings = Firings(pushed, tmp_path)
    before = firings.models.versions()
    killed = set()
    for target, within in TARGETS:
        run_id = f"kill-{target}"
        process = firings.start(run_id, "--as-of", "201304", "--run-id", run_id)
        log = firings.directory.logs(run_id) / f"{target}.log"
        wait_until(log.exists, process)
        alone = chance.random() < 0.5
        kill_within(chance.uniform(0, within), process, server, alone)
        print(f"{run_id}: {'runner' if alone else 'all'}, {process.exitcode}")
        firings.check()
        assert firings.models.versions() == before
        killed.add(run_id)
    kill_all(server)
    process = firings.start("last", "--as-of", "201304", "--run-id", "last")
    pruner = firings.directory.logs("last") / "Pruner.log"
    wait_until(pruner.exists, process)  # That much is made; the rest is made as in any run.
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(LONGEST)
    screen = firings.screen("last")
    assert process.exitcode == 130, screen
    firings.check()
    assert firings.models.versions() == before
    for node in ("SpanExampleGen", "Transform"):  # What is complete stays so.
        assert re.search(rf"^{node} +cached", screen, re.MULTILINE), screen
    outcomes = {record.run_id: record.outcome for record in list_runs(firings.directory)}
    assert outcomes["last"] == Outcome.INTERRUPTED
    assert {outcomes[run_id] for run_id in killed} == {Outcome.KILLED}


def test_pusher_killed_at_any_moment_publishes_a_whole_version_or_none(
    pushed: PushedRun, tmp_path: Path, server: psutil.Process, chance: random.Random
) -> None:
    firings = Firings(pushed, tmp_path, "tests/e2e/only_node.py", "Pusher")
    (record,) = list_runs(firings.directory)
    arguments = ("--as-of", "201303", "--run-id", record.run_id)
    log = firings.directory.logs(record.run_id) / "Pusher.log"
    models = firings.models
    (version,) = models.versions()
    firings.forget(version)
    moments = [False] * PUSHES + [True] * PUBLISHED
    chance.shuffle(moments)
    pushes = 0
    for number, published in enumerate(moments):
        log.unlink(missing_ok=True)
        firings.forget_pushes()
        process = firings.start(f"push-{number:02}", *arguments)
        wait_until(lambda: bool(models.versions()) if published else log.exists(), process)  # noqa: B023
        alone = number % 2 == 0
        kill_within(chance.uniform(0, 0.1 if published else 1.5), process, server, alone)
        print(f"push-{number:02}: {'runner' if alone else 'all'}, {process.exitcode}")
        firings.check()
        if process.exitcode:
            (record,) = list_runs(firings.directory)
            # The run may have been over, and its page what was killed.
            over = record.outcome == Outcome.PUSHED and models.versions()
            assert over or record.outcome == Outcome.KILLED
        if found := models.versions():
            kill_all(server)
            assert "Nothing new" in firings.finish(f"idle-{number:02}", *arguments)
            pushes += 1
            (version,) = found
            firings.forget(version)
    kill_all(server)
    firings.forget_pushes()
    screen = firings.finish("last", *arguments)
    firings.check()
    assert len(models.versions()) == 1, screen
    assert pushes >= 1  # By those that were killed just after that.
