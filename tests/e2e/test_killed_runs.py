"""Runs that are killed at any moment harm nothing: not what is served, not the runs after them."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest
import tensorflow as tf
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from orchestration.local import fork_server
from orchestration.local.history import list_runs
from orchestration.local.output_directory import OutputDirectory
from orchestration.outcome import Outcome
from storage.directory import ModelDirectory
from storage.keys import TrustStore, default_trust
from storage.private_copy import private_copy
from tests.conftest import PROJECT, Cli, PushedRun

# The worst moment: the version can be seen, and nothing else knows of it yet.
PUBLISHED = "published"

# Nodes to be killed at work, in the order in which a run after the other gets to them, and seconds
# within which. The nodes between these are launched, recorded and taken from the cache like them.
TARGETS = (
    ("SpanExampleGen", 0.5),
    ("Trainer", 3.0),
    ("ServingValidator", 3.0),
    ("Pusher", 0.4),
    ("Pusher", 0.8),
    (PUBLISHED, 0.1),
)
# Others are killed within so many seconds of their start, whatever they do then.
UNTARGETED, WITHIN = 3, 4.0
LONGEST = 240.0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """The fork server that runs and their nodes come from, with all that they import."""
    monkeypatch.syspath_prepend(str(PROJECT / "tests" / "e2e"))
    preload = [*fork_server.PRELOAD, "local_runner", "pipeline.pipeline"]
    monkeypatch.setattr(fork_server, "PRELOAD", preload)
    state = forkserver._forkserver
    state._stop()  # type: ignore[attr-defined]
    fork_server.start_fork_server(tmp_path / "imports.log")
    process = psutil.Process(state._forkserver_pid)  # type: ignore[attr-defined]
    yield process
    kill_all(process)
    state._stop()  # type: ignore[attr-defined]


def kill_all(server: psutil.Process) -> None:
    """Kills whatever the fork server has made, and waits for that."""
    processes = server.children(recursive=True)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


class Firings:
    """Runs, one after the other, into one output directory."""

    def __init__(self, cli: Cli, screens: Path):
        self.cli = cli
        self._screens = screens
        self._loaded: set[int] = set()

    def start(self, run_id: str) -> ForkServerProcess:
        from killable_run import fire

        arguments = self.cli.command("--as-of", "201304", "--run-id", run_id)[2:]
        arguments += ["--set", "keep_runs=0"]  # All of them are looked at in the end.
        process = multiprocessing.get_context("forkserver").Process(
            target=fire, args=(arguments, str(self.screen(run_id)))
        )
        process.start()
        return process

    def screen(self, run_id: str) -> Path:
        return self._screens / f"{run_id}.txt"

    def finish(self, run_id: str) -> str:
        """Runs to the end and returns what was shown."""
        process = self.start(run_id)
        process.join(LONGEST)
        screen = self.screen(run_id).read_text()
        assert process.exitcode == 0, screen
        return screen

    @property
    def models(self) -> ModelDirectory:
        return ModelDirectory(str(self.cli.output / "serving_model"), "trip_delay")

    def check(self) -> None:
        """What holds at any moment: every version that can be seen is whole, and MLMD opens."""
        models = self.models
        versions = models.versions()
        assert versions
        for version in versions:
            trust = TrustStore([default_trust(models.serving_dir)])
            private_copy(models, version, trust).close()
            assert models.provenance(version)["version"] == version
            if version not in self._loaded:
                loaded = tf.saved_model.load(models.version_uri(version))
                assert "serving_default" in loaded.signatures
                self._loaded.add(version)
        self._check_metadata()

    def _check_metadata(self) -> None:
        directory = OutputDirectory(self.cli.output)
        config = metadata_store_pb2.ConnectionConfig()
        config.sqlite.filename_uri = str(directory.metadata)
        with directory.metadata_lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with closing(sqlite3.connect(directory.metadata)) as database:
                assert database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
            assert MetadataStore(config).get_executions()

    def forget(self, version: int) -> None:
        """Takes a version away, so that there is something to push again."""
        shutil.rmtree(self.models.version_uri(version))
        shutil.rmtree(self.models.provenance_uri(version))


def wait_until(happened: Callable[[], bool], process: ForkServerProcess) -> None:
    deadline = time.monotonic() + LONGEST
    while not happened() and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_runs_that_are_killed_at_any_moment_harm_nothing(
    pushed: PushedRun, tmp_path: Path, server: psutil.Process
) -> None:
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(2**32)))
    print(f"To repeat this: KILL_SEED={seed}")
    chance = random.Random(seed)
    targets = iter(TARGETS)
    # Whether at a target or at any time, and whether all processes or the runner alone.
    kills = [(True, number % 2 == 0) for number in range(len(TARGETS))]
    kills += [(False, number % 2 == 0) for number in range(UNTARGETED)]
    chance.shuffle(kills)
    shutil.copytree(pushed.cli.output, tmp_path / "output")
    firings = Firings(Cli(pushed.cli.data, tmp_path / "output"), tmp_path)
    directory = OutputDirectory(firings.cli.output)
    before = firings.models.versions()
    firings.check()
    killed = set()
    pushes = 0
    for number, (targeted, alone) in enumerate(kills):
        run_id = f"kill-{number:02}"
        process = firings.start(run_id)
        target, within = next(targets) if targeted else ("", WITHIN)
        if target == PUBLISHED:
            wait_until(lambda: firings.models.versions() != before, process)
        elif target:
            log = directory.logs(run_id) / f"{target}.log"
            wait_until(log.exists, process)
        moment = time.monotonic() + chance.uniform(0, within)
        wait_until(lambda: time.monotonic() >= moment, process)  # noqa: B023
        if alone:  # Its nodes notice, while the next run may have begun.
            process.kill()
        else:
            kill_all(server)
        process.join()
        print(f"{run_id}: {target or 'any'}, {'runner' if alone else 'all'}, {process.exitcode}")
        firings.check()
        assert process.exitcode in (-signal.SIGKILL, 0)
        if process.exitcode:
            killed.add(run_id)
        if new := set(firings.models.versions()) - set(before):
            kill_all(server)
            assert "Nothing new" in firings.finish(f"idle-{number:02}")
            pushes += 1
            (version,) = new
            firings.forget(version)
    kill_all(server)
    screen = firings.finish("last")
    firings.check()
    assert len(set(firings.models.versions()) - set(before)) == 1, screen
    assert set(before) < set(firings.models.versions())
    assert re.search(r"^Transform +cached", screen, re.MULTILINE)  # What is complete stays so.
    outcomes = {record.run_id: record.outcome for record in list_runs(directory)}
    assert outcomes["last"] == Outcome.PUSHED
    # The earliest are killed before they have left a trace.
    assert {outcomes[run_id] for run_id in killed & outcomes.keys()} == {Outcome.KILLED}
    assert len(killed & outcomes.keys()) >= len(TARGETS) - 2
    assert pushes >= 1  # By the one that was killed just after that.
