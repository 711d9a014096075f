"""Tests that versions come and go under a running server without a client noticing."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from storage.directory import ModelDirectory
from storage.keys import ensure_key_pair
from storage.signing import sign
from tests.serving.server.running import (
    PATIENCE,
    RunningServer,
    predict_request,
    running,
)
from tests.serving.server.toys import FOR_EVER, f32, i64, save_counter, save_versioned

ROW = f32([0.0])
DOCUMENT = {"instances": [0.0]}


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that predict their number, 1 to 3."""
    root = tmp_path_factory.mktemp("numbered")
    for number in (1, 2, 3):
        save_versioned(root / str(number))
    return root


@dataclass
class Watched:
    """A Serving directory, and a server that watches it."""

    root: Path
    numbered: Path
    server: RunningServer

    def directory(self, model: str) -> ModelDirectory:
        return ModelDirectory(str(self.root), model)

    def push(
        self, model: str, number: int, change: Callable[[Path], Any] = lambda folder: 0
    ) -> Path:
        """Adds a version as a whole, as `ModelDirectory.publish` does."""
        staged = self.root / model / ".flightdeck" / f"staging-{number}"
        shutil.copytree(self.numbered / str(number), staged)
        change(staged)
        return staged.rename(self.root / model / str(number))

    def predict(self, model: str, path: str = "") -> Any:
        """The version that predicts, or the message of the error."""
        response = self.server.rest(f"{model}{path}:predict", DOCUMENT).json()
        return response["error"] if "error" in response else response["predictions"][0]

    def until_serving(self, model: str, number: int, times: int = 1) -> None:
        self.server.wait_for("serving", model=model, version=number, times=times)

    def until_labelled(self, model: str, label: str, number: int) -> None:
        """Waits until a label names a version, which is later than that the version is loaded."""
        end = time.monotonic() + PATIENCE
        while (found := self.predict(model, f"/labels/{label}")) != number:
            assert time.monotonic() < end, found
            time.sleep(0.01)

    def states(self, model: str) -> dict[str, tuple[str, str]]:
        statuses = self.server.rest(model).json()["model_version_status"]
        return {one["version"]: (one["state"], one["status"]["error_message"]) for one in statuses}


@pytest.fixture(scope="module")
def watched(numbered: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A server; the model `begun` has a version 2 that does not load from the start."""
    root = tmp_path_factory.mktemp("watched")
    shutil.copytree(numbered / "1", root / "begun" / "1")
    shutil.copytree(numbered / "2", root / "begun" / "2")
    (root / "begun" / "2" / "saved_model.pb").write_bytes(b"broken")
    with running(root, "--poll-seconds", "0.05", "--max-queue", "100000") as server:
        yield Watched(root, numbered, server)


@dataclass
class Hammer:
    """A client that sends requests without a pause.

    Attributes:
      versions: The versions that predicted, one after the other.
      failures: Other responses.
    """

    predict: Callable[[], int]
    versions: list[int] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                version = self.predict()
            except Exception as error:
                self.failures.append(error)
            else:
                if self.versions[-1:] != [version]:
                    self.versions.append(version)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(PATIENCE)


def over_grpc(server: RunningServer, model: str) -> Iterator[int]:
    request = predict_request(model, "", x=ROW)
    while True:
        response = server.predictions.Predict(request)
        (version,) = response.outputs["version"].int64_val
        assert response.model_spec.version.value == version
        yield version


def over_rest(server: RunningServer, model: str) -> Iterator[int]:
    with httpx.Client(timeout=PATIENCE) as client:
        while True:
            response = client.post(f"{server.rest_url}/v1/models/{model}:predict", json=DOCUMENT)
            assert response.status_code == 200, response.text
            yield response.json()["predictions"][0]


def slow_to_load(folder: Path) -> None:
    """Adds so many warm-up requests that they take a while."""
    write_warm_up(folder, predict_request("swapped", "", x=ROW), 2000)


def write_warm_up(folder: Path, request: predict_pb2.PredictRequest, times: int = 1) -> None:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request)
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for _ in range(times):
            writer.write(log.SerializeToString())


def test_server_fails_no_request_while_versions_are_swapped_and_rolled_back(
    watched: Watched,
) -> None:
    watched.push("swapped", 1)
    watched.until_serving("swapped", 1)
    streams = [
        over_grpc(watched.server, "swapped"),
        over_grpc(watched.server, "swapped"),
        over_rest(watched.server, "swapped"),
        over_rest(watched.server, "swapped"),
    ]
    hammers = [Hammer(partial(next, stream)) for stream in streams]

    def until_all_see(*versions: int) -> None:
        end = time.monotonic() + PATIENCE
        while any(tuple(hammer.versions) != versions for hammer in hammers):
            assert time.monotonic() < end, [hammer.versions for hammer in hammers]
            assert not any(hammer.failures for hammer in hammers)
            time.sleep(0.01)

    until_all_see(1)
    watched.push("swapped", 2)
    until_all_see(1, 2)
    watched.push("swapped", 3, slow_to_load)
    until_all_see(1, 2, 3)
    watched.directory("swapped").rollback()
    until_all_see(1, 2, 3, 2)
    watched.directory("swapped").promote()
    until_all_see(1, 2, 3, 2, 3)
    for hammer in hammers:
        hammer.stop()
    assert [hammer.failures for hammer in hammers] == [[], [], [], []]
    assert watched.states("swapped")["2"] == ("END", "")


def test_server_fails_no_request_over_many_rollbacks_while_another_model_loads(
    watched: Watched,
) -> None:
    watched.push("often", 1)
    watched.until_serving("often", 1)
    watched.push("often", 2)
    watched.until_serving("often", 2)
    watched.push("slow", 1, warm_up_for_ever)
    watched.server.wait_for("loading", model="slow")
    streams = [over_grpc(watched.server, "often"), over_rest(watched.server, "often")]
    hammers = [Hammer(partial(next, stream)) for stream in streams]
    for times in range(1, 11):
        watched.directory("often").rollback()
        watched.until_serving("often", 1, times + 1)
        watched.directory("often").promote()
        watched.until_serving("often", 2, times + 1)
    for hammer in hammers:
        hammer.stop()
    assert [hammer.failures for hammer in hammers] == [[], []]
    assert watched.states("slow")["1"][0] == "LOADING"
    watched.directory("slow").rollback(withdraw=True)
    watched.server.wait_for("load given up", model="slow")
    for level in ("warning", "error"):
        assert [
            line
            for line in watched.server.lines
            if line["level"] == level and line.get("model") in ("often", "slow")
        ] == []


def warm_up_for_ever(folder: Path) -> None:
    """Adds a warm-up request without end, to a model that counts."""
    shutil.rmtree(folder)
    save_counter(folder)
    write_warm_up(folder, predict_request("slow", "", x=i64([FOR_EVER])))


def damage_graph(folder: Path) -> None:
    (folder / "saved_model.pb").write_bytes(b"broken")


def damage_warm_up(folder: Path) -> None:
    slow_to_load(folder)
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(damage_graph, "Error parsing message"), (damage_warm_up, "truncated record")],
)
def test_server_reports_a_version_that_does_not_load_and_serves_it_when_corrected(
    watched: Watched, damage: Callable[[Path], None], reason: str
) -> None:
    name = damage.__name__
    watched.push(name, 1)
    watched.until_serving(name, 1)
    folder = watched.push(name, 2, damage)
    refusal = watched.server.wait_for("refused", model=name, version=2)
    assert refusal["level"] == "error"
    assert reason in refusal["reason"]
    assert watched.predict(name) == 1
    assert watched.states(name) == {"2": ("END", refusal["reason"]), "1": ("AVAILABLE", "")}
    for path in watched.numbered.glob("2/*.pb"):
        shutil.copy(path, folder)
    shutil.rmtree(folder / "assets.extra", ignore_errors=True)
    watched.until_serving(name, 2)
    assert watched.predict(name) == 2


def test_server_serves_the_next_newest_version_at_the_start(watched: Watched) -> None:
    assert watched.predict("begun") == 1
    assert watched.states("begun")["2"][0] == "END"


def test_server_serves_a_model_added_later_next_to_a_broken_one(
    watched: Watched,
) -> None:
    assert "Servable not found" in watched.predict("later")
    watched.push("broken", 1, damage_graph)
    watched.push("later", 1)
    watched.until_serving("later", 1)
    assert watched.predict("later") == 1
    assert "Servable not found" in watched.predict("broken")
    assert watched.states("broken")["1"][0] == "END"
    health = health_pb2_grpc.HealthStub(watched.server.channel)

    def status(name: str) -> int:
        return health.Check(health_pb2.HealthCheckRequest(service=name)).status

    assert status("later") == health_pb2.HealthCheckResponse.SERVING
    assert status("broken") == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.RpcError) as error:
        status("nobody")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_server_serves_a_labelled_version_next_to_the_newest(watched: Watched) -> None:
    watched.push("labelled", 1)
    watched.directory("labelled").pin(1, "stable")
    watched.push("labelled", 2)
    watched.until_serving("labelled", 2)
    watched.until_labelled("labelled", "stable", 1)
    assert watched.predict("labelled", "/versions/1") == 1
    assert watched.predict("labelled") == 2
    watched.directory("labelled").pin(2, "stable")
    watched.server.wait_for("unloaded", model="labelled", version=1)
    assert watched.predict("labelled", "/labels/stable") == 2
    assert "of labelled the versions 2" in watched.predict("labelled", "/versions/1")


def test_server_serves_the_same_label_and_versions_of_two_models_over_both_protocols(
    watched: Watched,
) -> None:
    for model, stable in (("first", 1), ("second", 2)):
        for number in (1, 2, 3):
            watched.push(model, number)
        watched.directory(model).pin(stable, "stable")
    for model, stable in (("first", 1), ("second", 2)):
        watched.until_serving(model, 3)
        watched.until_labelled(model, "stable", stable)
        request = predict_request(model, "", x=ROW)
        for label, version in (("", 3), ("stable", stable)):
            if label:
                request.model_spec.version_label = label
            response = watched.server.predictions.Predict(request)
            assert list(response.outputs["version"].int64_val) == [version]
            assert response.model_spec.name == model
            path = f"/labels/{label}" if label else ""
            assert watched.predict(model, path) == version
    watched.directory("first").rollback(3)
    watched.server.wait_for("unloaded", model="first", version=3)
    assert watched.predict("first") in (1, 2)  # 2, once it is loaded.
    assert watched.predict("second") == 3


def test_server_keeps_the_last_good_version_when_all_are_deleted(watched: Watched) -> None:
    watched.push("gone", 1)
    watched.until_serving("gone", 1)
    shutil.rmtree(watched.root / "gone")
    watched.push("after", 1)  # The server has looked again when this is served.
    watched.until_serving("after", 1)
    assert watched.predict("gone") == 1


class TestSignatures:
    @pytest.fixture(scope="class")
    def signed(
        self, numbered: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[RunningServer]:
        """A server of models that were signed, then tampered with as their names say."""
        root = tmp_path_factory.mktemp("signed")
        keys = ensure_key_pair(str(root / "keys" / "signing.key"))
        other = ensure_key_pair(str(root / "others" / "signing.key"))
        (root / "provenance").mkdir()
        (root / "provenance" / "provenance.json").write_text("{}")
        for name in (
            *("untouched", "changed", "added", "missing", "unsigned", "stranger", "damaged"),
            "moved",
        ):
            private = other.private if name == "stranger" else keys.private
            directory = ModelDirectory(str(root / "models"), name)
            make = None if name == "unsigned" else partial(sign, private_key=private)
            directory.publish(1, str(numbered / "1"), str(root / "provenance"), make)
        versions = {path.name: path / "1" for path in (root / "models").iterdir()}
        index = versions["changed"] / "variables" / "variables.index"
        index.write_bytes(index.read_bytes() + b" ")
        (versions["added"] / "assets").mkdir(exist_ok=True)
        (versions["added"] / "assets" / "more.txt").write_text("more")
        os.remove(versions["missing"] / "fingerprint.pb")
        signature = Path(ModelDirectory(str(root / "models"), "damaged").signature_uri(1))
        signature.write_bytes(signature.read_bytes()[:-9])
        moved = ModelDirectory(str(root / "models"), "moved")
        for uri in (moved.version_uri, moved.provenance_uri):
            os.rename(uri(1), uri(2))
        with running(root / "models", "--public-key", keys.public, verify=True) as server:
            server.wait_for("serving", model="untouched")
            yield server

    def test_version_with_a_good_signature_is_served(self, signed: RunningServer) -> None:
        assert signed.rest("untouched:predict", DOCUMENT).json() == {"predictions": [1]}
        loaded = signed.wait_for("loaded", model="untouched")
        assert loaded["verified"] is True
        assert loaded["signed"].startswith("20")
        assert re.fullmatch("[0-9a-f]{16}", loaded["key_id"])

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("changed", "changed: 1/variables/variables.index"),
            ("added", "added: 1/assets/more.txt"),
            ("missing", "removed: 1/fingerprint.pb"),
            ("unsigned", "there is no signature"),
            ("stranger", "which is not trusted"),
            ("moved", "is that of version 1 of moved, not of version 2 of moved"),
            ("damaged", "model.sig is not the signature of a model"),
        ],
    )
    def test_changed_version_is_refused_naming_the_file(
        self, signed: RunningServer, name: str, reason: str
    ) -> None:
        refusal = signed.wait_for("refused", model=name)
        assert reason in refusal["reason"]
        (status,) = signed.rest(name).json()["model_version_status"]
        assert status["state"] == "END"
        assert reason in status["status"]["error_message"]
        assert signed.rest(f"{name}:predict", DOCUMENT).status_code == 404
