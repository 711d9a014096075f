"""Tests that the manager serves the newest version that loads, whatever happens to its folder."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_status_pb2

from serving.server.errors import ServingError
from serving.server.explaining import Background
from serving.server.form import Form
from serving.server.manager import ModelManager
from serving.server.metrics import ServerMetrics
from serving.server.signatures import Signature
from storage.directory import ModelDirectory
from storage.versions import ModelVersions

State = get_model_status_pb2.ModelVersionStatus

BAD = b"bad"


@dataclass(eq=False)
class Loaded:
    """What is loaded of a version."""

    content: bytes
    signatures: Mapping[str, Signature] = field(default_factory=dict)
    signature_defs: Mapping[str, meta_graph_pb2.SignatureDef] = field(default_factory=dict)
    batched: set[str] = field(default_factory=set)
    ends_by_itself: bool = True
    key_id: str = ""
    form: Form = field(default_factory=Form)
    background: Background | None = None

    def run(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        seconds: float,
    ) -> dict[str, np.ndarray]:
        raise NotImplementedError


class SlowLoad:
    """The load of a version that ends when it is told to."""

    def __init__(self) -> None:
        self._began, self._may_end = threading.Event(), threading.Event()
        self.given_up = threading.Event()

    def wait(self, given_up: threading.Event) -> None:
        self._thread, self.given_up = threading.current_thread(), given_up
        self._began.set()
        assert self._may_end.wait(60)

    def finish(self) -> None:
        """Lets it end, and waits for what the manager does then."""
        assert self._began.wait(60)
        self._may_end.set()
        self._thread.join()


def load_threads(name: str = "load ") -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def join_loads(name: str = "load ") -> None:
    while loads := load_threads(name):
        for load in loads:
            load.join()


class Serving:
    """A Serving directory, and a manager that loads what says in one of its files not to be bad.

    Attributes:
      loads: Model and version of each attempt to load one.
      changes: What the manager said of each model's health.
      signed_with: Id of the key that a version is signed with; "" if it is none of these.
      distrusted: Keys that are not trusted.
    """

    def __init__(self, root: Path, names: tuple[str, ...] = ()):
        self.root = root
        self.loads: list[tuple[str, int]] = []
        self.changes: list[tuple[str, bool]] = []
        self.before_load: Callable[[], None] = lambda: None
        self.slow_loads: dict[tuple[str, int], SlowLoad] = {}
        self.signed_with: dict[int, str] = {}
        self.distrusted: set[str] = set()
        self.metrics = ServerMetrics()
        self.manager = ModelManager(
            str(root),
            names,
            self._load,
            self.metrics,
            lambda name, available: self.changes.append((name, available)),
            lambda key_id: key_id not in self.distrusted,
        )

    def _load(self, directory: ModelVersions, version: int, given_up: threading.Event) -> Loaded:
        self.before_load()
        self.loads.append((directory.model_name, version))
        if (key_id := self.signed_with.get(version, "")) in self.distrusted:
            raise ValueError(f"the key {key_id} is not trusted")
        if slow := self.slow_loads.pop((directory.model_name, version), None):
            slow.wait(given_up)
        folder = Path(directory.version_uri(version))
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.read_bytes().startswith(BAD):
                raise ValueError(f"{path.name} is bad\nand the rest of a long message")
        return Loaded((folder / "saved_model.pb").read_bytes(), key_id=key_id)

    def directory(self, name: str = "toy") -> ModelDirectory:
        return ModelDirectory(str(self.root), name)

    def add(self, version: int, content: bytes = b"good", name: str = "toy") -> Path:
        folder = self.root / name / str(version)
        (folder / "variables").mkdir(parents=True)
        (folder / "assets.extra").mkdir()
        for path in ("variables/data", "assets.extra/requests", "model.tflite"):
            (folder / path).write_bytes(b"good")
        (folder / "saved_model.pb").write_bytes(content)
        return folder

    def look(self) -> None:
        """Looks once, and waits for all loads that follow from it."""
        self.manager.look()
        join_loads()

    def slow(self, version: int, name: str = "toy") -> SlowLoad:
        """Has the next load of a version last until it is finished."""
        slow = self.slow_loads[name, version] = SlowLoad()
        return slow

    def served(self, name: str = "toy") -> int:
        return self.manager.find(name).version

    def states(self, name: str = "toy") -> dict[int, int]:
        response = self.manager.status(name)
        return {one.version: one.state for one in response.model_version_status}

    def gauge(self) -> set[tuple[str, int]]:
        """Models and versions of which the metrics say that they are being served."""
        return {
            (sample.labels["model"], int(sample.labels["version"]))
            for sample in next(iter(self.metrics.versions.collect())).samples
            if sample.value == 1
        }

    def count(self, outcome: str, name: str = "toy") -> float:
        return self.metrics.loads.labels(name, outcome)._value.get()


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path)


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


def not_served(serving: Serving, *args: Any) -> ServingError:
    with pytest.raises(ServingError) as refused:
        serving.manager.find(*args)
    return refused.value


def test_manager_loads_and_serves_only_the_newest_version(serving: Serving) -> None:
    for version in (9, 10, 2):
        serving.add(version)
    serving.look()
    assert serving.served() == 10
    assert serving.loads == [("toy", 10)]
    assert serving.states() == {10: State.AVAILABLE}
    assert serving.gauge() == {("toy", 10)}


def test_manager_ignores_folders_that_are_not_versions(serving: Serving) -> None:
    serving.add(1)
    (serving.root / "toy" / "2").mkdir()
    for name in ("next", "3.new", "-4", ".5"):
        shutil.copytree(serving.root / "toy" / "1", serving.root / "toy" / name)
    (serving.root / "a file").write_text("")
    (serving.root / "empty").mkdir()
    serving.look()
    assert serving.loads == [("toy", 1)]


@pytest.mark.parametrize("name", ["20261126153000123456", "9" * 200, "007", "٧"])  # noqa: RUF001
def test_manager_ignores_and_names_once_a_number_that_clients_cannot_send(
    serving: Serving, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    serving.add(1)
    serving.add(int(name)).rename(serving.root / "toy" / name)
    with caplog.at_level(logging.WARNING, logger="serving"):
        serving.look()
        serving.look()
    assert serving.served() == 1
    assert serving.states() == {1: State.AVAILABLE}
    (record,) = [record for record in caplog.records if record.message == "ignored"]
    assert record.fields == {"model": "toy", "folders": [name]}  # type: ignore[attr-defined]
    assert serving.loads == [("toy", 1)]


def test_manager_serves_a_new_version_and_frees_the_old_one(serving: Serving) -> None:
    serving.add(1)
    serving.look()
    old = weakref.ref(serving.manager.find("toy").model)
    serving.add(2)
    serving.look()
    assert serving.served() == 2
    assert not_served(serving, "toy", 1).code is grpc.StatusCode.NOT_FOUND
    assert serving.states() == {1: State.END, 2: State.AVAILABLE}
    assert serving.gauge() == {("toy", 2)}
    gc.collect()
    assert old() is None


def test_manager_loads_nothing_twice(serving: Serving) -> None:
    serving.add(1)
    for _ in range(3):
        serving.look()
    assert serving.loads == [("toy", 1)]


def test_manager_serves_the_old_version_while_the_new_one_loads(serving: Serving) -> None:
    serving.add(1)
    serving.look()
    serving.add(2)
    slow = serving.slow(2)
    serving.manager.look()
    assert serving.served() == 1
    assert serving.states() == {1: State.AVAILABLE, 2: State.LOADING}
    slow.finish()
    assert serving.served() == 2


class TestRefusals:
    def test_old_version_stays_and_the_reason_is_reported(
        self, serving: Serving, caplog: pytest.LogCaptureFixture
    ) -> None:
        serving.add(1)
        serving.look()
        serving.add(2, BAD)
        serving.look()
        assert serving.served() == 1
        status = serving.manager.status("toy", 2).model_version_status[0]
        assert status.state == State.END
        assert status.status.error_code == grpc.StatusCode.UNKNOWN.value[0]
        assert status.status.error_message == "saved_model.pb is bad"
        (line,) = [r for r in caplog.records if r.getMessage() == "refused"]
        assert line.__dict__["fields"] == {
            "model": "toy",
            "version": 2,
            "reason": "saved_model.pb is bad",
        }
        assert (serving.count("loaded"), serving.count("refused")) == (1, 1)

    def test_next_newest_version_is_served_at_the_start(self, serving: Serving) -> None:
        serving.add(1)
        serving.add(2)
        serving.add(3, BAD)
        serving.add(4, BAD)
        serving.look()
        assert serving.served() == 2
        assert serving.loads == [("toy", 4), ("toy", 3), ("toy", 2)]

    def test_refused_version_is_not_tried_again_unchanged(self, serving: Serving) -> None:
        serving.add(1)
        serving.add(2, BAD)
        for _ in range(3):
            serving.look()
        assert serving.loads == [("toy", 2), ("toy", 1)]

    @pytest.mark.parametrize(
        "name", ["saved_model.pb", "variables/data", "assets.extra/requests", "model.tflite"]
    )
    def test_refused_version_is_loaded_when_its_file_is_corrected(
        self, serving: Serving, name: str
    ) -> None:
        serving.add(1)
        folder = serving.add(2)
        (folder / name).write_bytes(BAD)
        serving.look()
        assert serving.served() == 1
        (folder / name).write_bytes(b"well")
        serving.look()
        assert serving.served() == 2
        assert serving.states()[2] == State.AVAILABLE
        assert serving.manager.status("toy", 2).model_version_status[0].status.error_message == ""

    def test_refused_version_is_tried_again_with_a_new_file_or_signature(
        self, serving: Serving
    ) -> None:
        folder = serving.add(1, BAD)
        serving.look()
        (folder / "variables" / "more").write_bytes(b"")
        serving.look()
        signature = Path(serving.directory().signature_uri(1))
        signature.parent.mkdir(parents=True)
        signature.write_bytes(b"signature")
        serving.look()
        assert serving.loads == [("toy", 1)] * 3

    def test_refused_version_is_tried_again_after_rollback_and_promotion(
        self, serving: Serving
    ) -> None:
        serving.add(1)
        serving.add(2, BAD)
        serving.look()
        serving.directory().rollback()
        serving.look()
        serving.directory().promote()
        serving.look()
        assert serving.loads == [("toy", 2), ("toy", 1), ("toy", 2)]

    def test_reason_without_message_is_the_type_of_the_error(self, serving: Serving) -> None:
        def fail() -> None:
            raise MemoryError

        serving.before_load = fail
        serving.add(1)
        serving.look()
        (status,) = serving.manager.status("toy").model_version_status
        assert status.status.error_message == "MemoryError"


class TestRollback:
    def test_version_before_is_served(self, serving: Serving) -> None:
        serving.add(1)
        serving.add(2)
        serving.look()
        serving.directory().rollback()
        serving.look()
        assert serving.served() == 1
        serving.directory().promote()
        serving.look()
        assert serving.served() == 2
        assert serving.loads == [("toy", 2), ("toy", 1), ("toy", 2)]

    def test_last_good_version_stays_if_the_one_before_does_not_load(
        self, serving: Serving
    ) -> None:
        serving.add(1, BAD)
        serving.add(2)
        serving.look()
        serving.directory().rollback()
        serving.look()
        assert serving.served() == 2
        assert serving.states()[2] == State.AVAILABLE

    def test_last_good_version_stays_when_all_are_deleted_until_another_loads(
        self, serving: Serving
    ) -> None:
        serving.add(1)
        serving.look()
        shutil.rmtree(serving.root / "toy")
        serving.look()
        assert serving.served() == 1
        serving.add(3, BAD)
        serving.look()
        assert serving.served() == 1
        serving.add(2)
        serving.look()
        assert serving.served() == 2
        assert serving.gauge() == {("toy", 2)}

    def test_withdrawn_last_version_is_not_served_until_it_is_promoted(
        self, serving: Serving
    ) -> None:
        serving.add(1)
        serving.look()
        serving.directory().rollback(withdraw=True)
        serving.look()
        assert not_served(serving, "toy").code == grpc.StatusCode.NOT_FOUND
        assert serving.states() == {1: State.END}
        assert serving.gauge() == set()
        assert serving.changes[-1] == ("toy", False)
        serving.directory().promote()
        serving.look()
        assert serving.served() == 1
        assert serving.changes[-1] == ("toy", True)
        shutil.rmtree(serving.root / "toy" / "1")  # Lost, not withdrawn.
        serving.look()
        assert serving.served() == 1

    def test_last_good_version_stays_when_the_directory_is_deleted(self, serving: Serving) -> None:
        serving.add(1)
        serving.look()
        shutil.rmtree(serving.root)
        serving.look()
        assert serving.served() == 1


class TestSlowLoads:
    """Loads that take as long as the test says, while other things happen."""

    def test_manager_rolls_back_one_model_while_another_loads(self, serving: Serving) -> None:
        serving.add(1, name="a")
        serving.add(2, name="a")
        serving.add(1, name="b")
        slow = serving.slow(1, "b")
        serving.manager.look()
        join_loads("load a")
        assert serving.served("a") == 2
        serving.directory("a").rollback()
        serving.manager.look()
        join_loads("load a")
        assert serving.served("a") == 1
        assert serving.states("b") == {1: State.LOADING}
        slow.finish()
        assert serving.served("b") == 1

    def test_manager_rolls_back_while_a_newer_version_of_the_model_loads(
        self, serving: Serving
    ) -> None:
        serving.add(1)
        serving.add(2)
        serving.look()
        serving.add(3)
        slow = serving.slow(3)
        serving.manager.look()
        serving.directory().rollback(2)
        serving.manager.look()
        join_loads("load toy 1")
        assert serving.served() == 1
        assert serving.states() == {1: State.AVAILABLE, 2: State.END, 3: State.LOADING}
        slow.finish()
        assert serving.served() == 3
        assert serving.gauge() == {("toy", 3)}

    def test_manager_falls_back_at_once_to_a_version_that_is_loaded(self, serving: Serving) -> None:
        serving.add(1)
        serving.directory().pin(1, "stable")
        serving.add(2)
        serving.look()
        serving.add(3)
        slow = serving.slow(3)
        serving.manager.look()
        serving.directory().rollback(2)
        serving.manager.look()
        assert serving.served() == 1
        slow.finish()
        assert serving.served() == 3

    def test_manager_cancels_a_load_whose_version_is_rolled_back(
        self, serving: Serving, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        serving.add(1)
        serving.look()
        serving.add(2, BAD)
        slow = serving.slow(2)
        serving.manager.look()
        serving.directory().rollback()
        serving.manager.look()
        assert slow.given_up.is_set()
        assert serving.states() == {1: State.AVAILABLE, 2: State.END}
        slow.finish()
        assert serving.served() == 1
        assert "load given up" in [record.getMessage() for record in caplog.records]
        assert errors(caplog) == []
        assert serving.count("refused") == 0

    def test_manager_reports_no_error_for_a_version_removed_while_it_loads(
        self, serving: Serving, caplog: pytest.LogCaptureFixture
    ) -> None:
        serving.add(1)
        serving.look()
        serving.add(2, BAD)
        slow = serving.slow(2)
        serving.manager.look()
        serving.directory().rollback()
        slow.finish()  # It fails before the manager has looked again.
        assert errors(caplog) == []
        assert serving.count("refused") == 0
        serving.manager.look()
        assert serving.served() == 1
        assert serving.states() == {1: State.AVAILABLE, 2: State.END}

    def test_manager_loads_again_a_version_that_changed_while_it_was_read(
        self, serving: Serving, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = serving.add(1, BAD)
        slow = serving.slow(1)
        serving.manager.look()
        (folder / "variables" / "data").write_bytes(b"more of it")
        slow.finish()
        assert errors(caplog) == []
        (folder / "saved_model.pb").write_bytes(b"all of it")
        serving.look()
        assert serving.served() == 1

    def test_manager_loads_a_promoted_version_again_while_its_load_is_cancelled(
        self, serving: Serving
    ) -> None:
        serving.add(1)
        serving.look()
        serving.add(2)
        slow = serving.slow(2)
        serving.manager.look()
        serving.directory().rollback()
        serving.manager.look()
        second = serving.slow(2)
        serving.directory().promote()
        serving.manager.look()
        assert serving.states()[2] == State.LOADING
        assert not second.given_up.is_set()
        second.finish()
        slow.finish()
        assert serving.served() == 2
        assert serving.count("loaded") == 2

    def test_manager_serves_each_loaded_version_while_newer_ones_load(
        self, serving: Serving
    ) -> None:
        serving.add(1)
        serving.look()
        serving.add(2)
        slow = serving.slow(2)
        serving.manager.look()
        serving.add(3)
        slower = serving.slow(3)
        serving.manager.look()
        slow.finish()
        assert serving.served() == 2
        slower.finish()
        assert serving.served() == 3

    def test_manager_cancels_a_load_that_a_newer_version_overtakes(self, serving: Serving) -> None:
        serving.add(1)
        slow = serving.slow(1)
        serving.manager.look()
        serving.add(2)
        serving.manager.look()
        join_loads("load toy 2")
        assert serving.served() == 2
        assert slow.given_up.is_set()
        slow.finish()
        assert serving.gauge() == {("toy", 2)}

    def test_manager_cancels_its_loads_when_it_stops(self, serving: Serving) -> None:
        serving.add(1)
        slow = serving.slow(1)
        serving.manager.look()
        serving.manager.stop()
        assert slow.given_up.is_set()
        slow.finish()
        assert not_served(serving, "toy").code is grpc.StatusCode.NOT_FOUND


class TestTrust:
    """Keys that are taken away while the server runs."""

    def test_newest_trusted_version_replaces_one_no_longer_trusted(self, serving: Serving) -> None:
        for version in (1, 2, 3):
            serving.add(version)
        serving.signed_with = {2: "stolen", 3: "stolen"}
        serving.directory().pin(2, "stable")
        serving.look()
        assert serving.served() == 3
        serving.distrusted.add("stolen")
        serving.manager.trust_again()
        join_loads()
        assert serving.served() == 1
        assert serving.states() == {1: State.AVAILABLE, 2: State.END, 3: State.END}
        assert serving.gauge() == {("toy", 1)}
        for version in (2, 3):
            assert not_served(serving, "toy", version).code is grpc.StatusCode.NOT_FOUND
        assert not_served(serving, "toy", None, "stable").code is grpc.StatusCode.INVALID_ARGUMENT

    def test_nothing_is_served_until_a_version_is_trusted(self, serving: Serving) -> None:
        serving.add(1)
        serving.signed_with = {1: "stolen"}
        serving.look()
        serving.distrusted.add("stolen")
        serving.manager.trust_again()
        join_loads()
        assert not_served(serving, "toy").code is grpc.StatusCode.NOT_FOUND
        assert serving.changes[-1] == ("toy", False)
        assert "the key stolen is not trusted" in str(serving.manager.status("toy"))
        serving.distrusted.clear()
        serving.manager.trust_again()
        join_loads()
        assert serving.served() == 1

    def test_load_ends_when_its_key_is_removed(self, serving: Serving) -> None:
        serving.add(1)
        serving.look()
        serving.add(2)
        serving.signed_with = {2: "stolen"}
        slow = serving.slow(2)
        serving.manager.look()
        serving.distrusted.add("stolen")
        serving.manager.trust_again()
        slow.finish()
        join_loads()
        assert serving.served() == 1
        assert serving.states()[2] == State.END


class TestWithdrawal:
    def test_manager_cancels_the_load_of_a_withdrawn_version(self, serving: Serving) -> None:
        serving.add(1)
        slow = serving.slow(1)
        serving.manager.look()
        serving.directory().rollback(withdraw=True)
        serving.manager.look()
        assert slow.given_up.is_set()
        assert serving.manager.decided.done()
        slow.finish()
        assert not_served(serving, "toy").code is grpc.StatusCode.NOT_FOUND


class TestFirstLoad:
    def test_manager_is_decided_when_each_model_is_served_or_refused(
        self, serving: Serving
    ) -> None:
        serving.add(1, BAD, name="a")
        serving.add(1, name="b")
        serving.add(2, BAD, name="b")
        slow, slower = serving.slow(2, "b"), serving.slow(1, "b")
        serving.manager.look()
        join_loads("load a")
        assert not serving.manager.decided.done()
        slow.finish()
        assert not serving.manager.decided.done()
        slower.finish()
        assert serving.manager.decided.done()

    @pytest.mark.parametrize("names", [(), ("later",)])
    def test_manager_is_decided_when_there_is_nothing_to_load(
        self, tmp_path: Path, names: tuple[str, ...]
    ) -> None:
        serving = Serving(tmp_path, names)
        serving.manager.look()
        assert serving.manager.decided.done()


class TestStorage:
    """Storage that goes away, fills up, or holds what nobody expects."""

    @pytest.fixture
    def away(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int] | OSError], None]:
        """Has the next looks find these versions, or fail."""

        def go(found: list[int] | OSError) -> None:
            def versions(self: ModelDirectory) -> list[int]:
                if isinstance(found, OSError):
                    raise found
                return found

            # The tests may run as root, who can read everything.
            monkeypatch.setattr(ModelVersions, "versions", versions)

        return go

    @pytest.mark.parametrize("found", [[], OSError(116, "Stale file handle")])
    def test_manager_keeps_serving_loaded_versions_when_storage_goes_away(
        self,
        serving: Serving,
        away: Callable[[list[int] | OSError], None],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        found: list[int] | OSError,
    ) -> None:
        for version in (1, 2):
            serving.add(version)
        serving.directory().pin(1, "stable")
        serving.look()
        loads = list(serving.loads)
        away(found)
        for _ in range(3):
            serving.look()
        assert serving.served() == 2
        assert serving.manager.find("toy", label="stable").version == 1
        lines = [r.__dict__["fields"] for r in caplog.records if r.getMessage() == "look failed"]
        assert len([line for line in lines if line.get("model") == "toy"]) == 1
        monkeypatch.undo()
        serving.add(3)
        serving.look()
        assert serving.served() == 3
        assert serving.loads == [*loads, ("toy", 3)]

    def test_manager_starts_when_storage_is_away(
        self, serving: Serving, away: Callable[[list[int] | OSError], None]
    ) -> None:
        serving.add(1)
        away(OSError("Input/output error"))
        serving.look()
        assert serving.manager.decided.done()
        assert not_served(serving, "toy").code is grpc.StatusCode.NOT_FOUND

    def test_manager_serves_a_version_that_loaded_while_storage_went_away(
        self, serving: Serving, away: Callable[[list[int] | OSError], None]
    ) -> None:
        serving.add(1)
        slow = serving.slow(1)
        serving.manager.look()
        away([])
        slow.finish()
        assert serving.served() == 1

    def test_manager_tries_again_after_a_disk_error(
        self, serving: Serving, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> None:
            raise OSError(28, "No space left on device")

        serving.add(1)
        serving.before_load = fail
        serving.look()
        (status,) = serving.manager.status("toy").model_version_status
        assert "No space left" in status.status.error_message
        serving.before_load = lambda: None
        serving.look()
        assert serving.loads == []  # Not at each look.
        later = time.monotonic() + 3600
        monkeypatch.setattr(
            "serving.server.watched_model.time", SimpleNamespace(monotonic=lambda: later)
        )
        serving.look()
        assert serving.served() == 1

    def test_manager_tries_again_when_a_file_mode_is_corrected(self, serving: Serving) -> None:
        folder = serving.add(1, BAD)
        serving.look()
        (folder / "saved_model.pb").chmod(0o600)
        serving.look()
        assert serving.loads == [("toy", 1)] * 2

    def test_manager_ignores_a_number_that_the_protocol_cannot_hold(
        self, serving: Serving, away: Callable[[list[int] | OSError], None]
    ) -> None:
        serving.add(2**63 - 1)
        away([2**63 - 1, 2**63, 20261126153000123456])
        serving.look()
        assert serving.states() == {2**63 - 1: State.AVAILABLE}

    def test_status_reports_a_reason_that_is_not_text(self, serving: Serving) -> None:
        name = os.fsdecode(b"weights-\xff")

        def fail() -> None:
            raise ValueError(f"{name} is bad, {'x' * 100_000}")

        serving.before_load = fail
        serving.add(1)
        serving.look()
        (status,) = serving.manager.status("toy").model_version_status
        assert status.status.error_message.startswith("weights-\\udcff is bad, xx")
        assert len(status.status.error_message) < 5000


class TestLabels:
    def test_labelled_version_stays_loaded_and_is_found_by_its_label(
        self, serving: Serving
    ) -> None:
        serving.add(1)
        serving.directory().pin(1, "stable")
        serving.add(2)
        serving.look()
        assert serving.served() == 2
        assert serving.manager.find("toy", label="stable").version == 1
        assert serving.manager.find("toy", 1).version == 1
        assert serving.gauge() == {("toy", 1), ("toy", 2)}
        stable = serving.manager.find("toy", label="stable").model
        serving.add(3)
        serving.look()
        assert serving.manager.find("toy", label="stable").model is stable

    def test_label_that_moves_is_followed(self, serving: Serving) -> None:
        for version in (1, 2, 3):
            serving.add(version)
        serving.directory().pin(1, "stable")
        serving.look()
        serving.directory().pin(2, "stable")
        serving.look()
        assert serving.manager.find("toy", label="stable").version == 2
        assert not_served(serving, "toy", 1).code is grpc.StatusCode.NOT_FOUND
        serving.directory().unpin("stable")
        serving.look()
        error = not_served(serving, "toy", None, "stable")
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.message.endswith("label: stable; model toy has none")
        assert serving.gauge() == {("toy", 3)}

    def test_label_of_a_version_that_does_not_load_is_unknown(self, serving: Serving) -> None:
        serving.add(1, BAD)
        serving.add(2)
        serving.directory().pin(1, "stable")
        serving.directory().pin(2, "canary")
        serving.look()
        assert serving.served() == 2
        error = not_served(serving, "toy", None, "stable")
        assert error.message.endswith("label: stable; model toy has canary")

    def test_labels_are_kept_when_they_cannot_be_read(
        self, serving: Serving, caplog: pytest.LogCaptureFixture
    ) -> None:
        serving.add(1)
        serving.directory().pin(1, "stable")
        serving.look()
        labels = serving.root / "toy" / ".flightdeck" / "labels.json"
        labels.write_text("{")
        serving.add(2)
        serving.look()
        assert serving.served() == 2
        assert serving.manager.find("toy", label="stable").version == 1
        assert any("labels.json is not JSON" in str(record.__dict__) for record in caplog.records)
        labels.write_text(json.dumps({"stable": 2}))
        serving.look()
        assert serving.manager.find("toy", label="stable").version == 2


class TestSeveralModels:
    def test_broken_model_does_not_disturb_others(self, serving: Serving) -> None:
        serving.add(1, BAD, name="a")
        serving.add(1, name="b")
        serving.add(7, name="b")
        serving.add(1, name="c")
        (serving.root / "c" / ".flightdeck").mkdir()
        (serving.root / "c" / ".flightdeck" / "labels.json").write_text("{")
        serving.add(5, name="d")
        serving.look()
        assert [serving.served(name) for name in "bcd"] == [7, 1, 5]
        assert not_served(serving, "a").message.endswith("being served are the models b, c, d")
        some = not_served(serving, "a", None, None, {"a", "c"})
        assert some.message.endswith("being served are the models c")
        assert serving.states("a") == {1: State.END}
        assert set(dict(serving.changes).items()) == {
            ("a", False),
            ("b", True),
            ("c", True),
            ("d", True),
        }

    def test_unreadable_folder_does_not_disturb_other_models(
        self, serving: Serving, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        serving.add(1, name="a")
        serving.add(1, name="b")
        serving.look()
        serving.add(2, name="a")
        serving.add(2, name="b")

        def versions(self: ModelDirectory) -> list[int]:
            if self.model_name == "a":
                raise PermissionError(f"{self.uri}: permission denied")
            return [1, 2]

        # The tests may run as root, who can read everything.
        monkeypatch.setattr(ModelVersions, "versions", versions)
        serving.look()
        assert (serving.served("a"), serving.served("b")) == (1, 2)

    def test_model_added_later_is_served(self, serving: Serving) -> None:
        serving.add(1, name="a")
        serving.look()
        assert not serving.manager.knows("b")
        serving.add(1, name="b")
        serving.look()
        assert serving.served("b") == 1
        assert serving.manager.knows("b")

    def test_only_named_models_are_served(self, tmp_path: Path) -> None:
        serving = Serving(tmp_path, names=("b", "later"))
        serving.add(1, name="a")
        serving.add(1, name="b")
        serving.look()
        assert serving.loads == [("b", 1)]
        assert dict(serving.changes) == {"b": True, "later": False}
        serving.add(4, name="later")
        serving.look()
        assert serving.served("later") == 4


def test_manager_looks_repeatedly_until_it_is_stopped(serving: Serving) -> None:
    looks = threading.Semaphore(0)
    serving.add(1)
    serving.look()
    serving.before_load = looks.release
    serving.manager.start(0.01)
    for version in (2, 3):
        serving.add(version)
        assert looks.acquire(timeout=60)
    serving.manager.stop()


class Swaps(RuleBasedStateMachine):
    """Versions come, go, break and are corrected in any order."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.serving = Serving(Path(self.folder.name))
        self.good: dict[int, bool] = {}
        self.aside: set[int] = set()
        self.last_good: int | None = None
        self.serving.directory()

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(version=st.integers(1, 6), good=st.booleans())
    def push(self, version: int, good: bool) -> None:
        if version not in self.good and version not in self.aside:
            self.serving.add(version, b"good" if good else BAD)
            self.good[version] = good

    @precondition(lambda self: len(self.good) > 1)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        labelled = self.serving.directory().labels().values()
        free = sorted(self.good.keys() - set(labelled))
        if free:
            version = data.draw(st.sampled_from(free))
            self.serving.directory().rollback(version)
            self.aside.add(version)
            self.was = {**getattr(self, "was", {}), version: self.good.pop(version)}

    @precondition(lambda self: self.aside)
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.aside)))
        self.serving.directory().promote(version)
        self.aside.remove(version)
        self.good[version] = self.was[version]

    @precondition(lambda self: self.good)
    @rule(data=st.data(), label=st.sampled_from("ab"))
    def pin(self, data: st.DataObject, label: str) -> None:
        version = data.draw(st.sampled_from(sorted(self.good)))
        self.serving.directory().pin(version, label)

    @precondition(lambda self: not all(self.good.values()))
    @rule(data=st.data())
    def mend(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(v for v, good in self.good.items() if not good)))
        (self.serving.root / "toy" / str(version) / "saved_model.pb").write_bytes(b"corrected")
        self.good[version] = True

    @rule()
    def look(self) -> None:
        self.serving.look()
        good = {version for version, fine in self.good.items() if fine}
        self.last_good = max(good, default=self.last_good)
        if self.last_good is None:
            assert not_served(self.serving, "toy").code is grpc.StatusCode.NOT_FOUND
            return
        assert self.serving.served() == self.last_good
        labels = {
            label: version
            for label, version in self.serving.directory().labels().items()
            if version in good
        }
        for label, version in labels.items():
            assert self.serving.manager.find("toy", label=label).version == version
        expected = {self.last_good, *labels.values()}
        assert self.serving.gauge() == {("toy", version) for version in expected}
        available = {v for v, state in self.serving.states().items() if state == State.AVAILABLE}
        assert available == expected

    @invariant()
    def something_is_served_once_something_was(self) -> None:
        if getattr(self, "last_good", None) is not None:
            assert self.serving.manager.find("toy")


def test_manager_serves_the_newest_version_that_loads_in_any_order_of_events() -> None:
    run_state_machine_as_test(Swaps, settings=settings(max_examples=40, stateful_step_count=15))


class SlowSwaps(RuleBasedStateMachine):
    """Versions come and go while others load, and loads end in any order."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.serving = Serving(Path(self.folder.name))
        always_slow = AlwaysSlow()
        self.serving.slow_loads = always_slow
        self.loading = always_slow.begun
        self.good: dict[int, bool] = {}

    @rule(version=st.integers(1, 6), good=st.booleans())
    def push(self, version: int, good: bool) -> None:
        if version not in self.good:
            self.serving.add(version, b"good" if good else BAD)
            self.good[version] = good

    @precondition(lambda self: len(self.there()) > 1)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        self.serving.directory().rollback(data.draw(st.sampled_from(self.there())))

    @precondition(lambda self: self.serving.directory().rolled_back())
    @rule()
    def promote(self) -> None:
        self.serving.directory().promote()

    @precondition(lambda self: self.loading)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.finish_one(data.draw(st.integers(0, len(self.loading) - 1)))

    @rule()
    def look(self) -> None:
        self.serving.manager.look()  # It comes back, whatever is loading.
        self.until_loads_began()
        left = {version for _, version in self.serving.gauge()} & set(self.there())
        if left:
            assert self.serving.served() == max(left)

    def there(self) -> list[int]:
        return self.serving.directory().versions()

    def finish_one(self, number: int) -> None:
        self.loading.pop(number).finish()
        self.until_loads_began()

    def until_loads_began(self) -> None:
        while len(load_threads()) > len(self.loading):
            time.sleep(0.001)

    def teardown(self) -> None:
        self.look()
        while self.loading:
            self.finish_one(0)
            self.look()
        good = [version for version in self.there() if self.good[version]]
        if good:
            assert self.serving.served() == max(good)
            assert self.serving.gauge() == {("toy", max(good))}
        # What went, or came back, while it was loaded was not refused.
        for version in self.good if self.serving.manager.knows("toy") else ():
            _, reason = self.serving.manager._models["toy"].states.get(version, (0, ""))
            assert not (reason and self.good[version])
        self.folder.cleanup()


class AlwaysSlow(dict[tuple[str, int], SlowLoad]):
    """Each load is slow, and kept in `begun`."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[SlowLoad] = []

    def pop(self, *_: Any) -> SlowLoad:
        self.begun.append(SlowLoad())
        return self.begun[-1]


def test_manager_waits_for_no_load_in_any_order_of_events() -> None:
    run_state_machine_as_test(SlowSwaps, settings=settings(max_examples=60, stateful_step_count=20))
