"""Tests of a server from start to end: its ports, health, metrics, log, and how it stops."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import prediction_log_pb2

from serving.__main__ import main
from storage.directory import ModelDirectory
from storage.keys import ensure_key_pair
from tests import forked
from tests.conftest import PROJECT
from tests.serving.conftest import Sealed
from tests.serving.server.certificates import make_certificate
from tests.serving.server.running import (
    PATIENCE,
    RunningServer,
    command,
    predict_request,
    refusal,
    running,
    strings,
)
from tests.serving.server.toys import FOR_EVER, f32, i64, save_counter

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
GOOD = {"distance": f32([1]), "hour": i64([2]), "company": strings(b"AA")}
ROW = {"distance": 1.0, "hour": 2, "company": "AA"}
DOCUMENT = {"signature_name": "raw_features", "instances": [ROW]}


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Serving directory with a model that counts, for ever if told to."""
    root = tmp_path_factory.mktemp("counter")
    save_counter(root / "counter" / "1")
    return root


class Health:
    """The health that a server reports, from now on."""

    def __init__(self, server: RunningServer, name: str):
        self.said: list[int] = []
        self._news = threading.Condition()
        stub = health_pb2_grpc.HealthStub(server.channel)
        self._watch = stub.Watch(health_pb2.HealthCheckRequest(service=name))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for response in self._watch:
                with self._news:
                    self.said.append(response.status)
                    self._news.notify_all()
        except grpc.RpcError:
            pass  # The server, or the test, is over.

    def leave(self) -> None:
        self._watch.cancel()
        self._thread.join()

    def wait_for(self, status: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.said[-1:] == [status], PATIENCE), self.said


class TestStop:
    def test_requests_in_progress_are_completed_and_health_reports_the_stop(
        self, counter: Path
    ) -> None:
        with running(counter, "--deadline-seconds", "60") as server, ThreadPoolExecutor() as pool:
            health = Health(server, "counter")
            health.wait_for(SERVING)
            watches = [Health(server, name) for name in ("counter", "", "counter", "unknown")]
            number = 300_000
            over_grpc = server.predictions.Predict.future(
                predict_request("counter", "", x=i64([number]))
            )
            over_rest = pool.submit(server.rest, "counter:predict", {"instances": [number]})
            until_waiting(server, 2)
            server.process.send_signal(signal.SIGTERM)
            for watch in (health, *watches[:3]):
                watch.wait_for(NOT_SERVING)
            assert over_grpc.result(PATIENCE).outputs["count"].int64_val == [number]
            assert over_rest.result().json() == {"predictions": [number]}
            assert server.process.wait(PATIENCE) == 0
            assert server.find("stopped")

    def test_request_that_takes_too_long_ends_at_its_deadline(self, counter: Path) -> None:
        with running(counter, "--deadline-seconds", "2") as server:
            call = server.predictions.Predict.future(
                predict_request("counter", "", x=i64([FOR_EVER]))
            )
            until_waiting(server, 1)
            server.process.send_signal(signal.SIGINT)
            assert call.exception(PATIENCE).code() in (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.UNAVAILABLE,
            )
            assert server.process.wait(PATIENCE) == 0

    def test_model_that_is_loading_is_not_waited_for(
        self, counter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        with running(slow(counter, tmp_path / "models"), wait_for_ports=False) as server:
            server.wait_for("loading")
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE) == 0
        assert list(tmp_path.glob("flightdeck-*")) == []  # Not even the private copy.


def slow(counter: Path, root: Path) -> Path:
    """A Serving directory with a model whose warm-up counts for ever, and one that is well."""
    shutil.copytree(counter, root)
    shutil.copytree(root / "counter", root / "other")
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(predict_request("counter", "", x=i64([FOR_EVER])))
    path = root / "counter" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(log.SerializeToString())
    return root


def test_server_opens_its_ports_when_each_model_is_served_or_refused(
    counter: Path, tmp_path: Path
) -> None:
    root = slow(counter, tmp_path / "models")
    with socket.socket() as one, socket.socket() as two:
        for taken in (one, two):
            taken.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1], two.getsockname()[1]]
    arguments = ("--grpc-port", str(ports[0]), "--rest-port", str(ports[1]))
    with running(root, *arguments, "--poll-seconds", "0.05", wait_for_ports=False) as server:
        server.wait_for("serving", model="other")
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), PATIENCE)
        assert server.find("listening") == []
        ModelDirectory(str(root), "counter").rollback(withdraw=True)
        server.wait_for("load given up", model="counter")
        server.connect()
        assert server.rest("other:predict", {"instances": [5]}).json() == {"predictions": [5]}


def until_waiting(server: RunningServer, requests: int) -> None:
    while f"flightdeck_serving_waiting_requests {float(requests)}" not in server.metrics():
        assert server.process.poll() is None


class TestDeadline:
    @pytest.fixture(scope="class")
    def hasty(self, counter: Path) -> Iterator[RunningServer]:
        """A server with one worker, and little patience."""
        with running(counter, "--deadline-seconds", "1", "--workers", "1") as server:
            yield server

    def test_request_that_takes_too_long_ends_and_frees_its_worker(
        self, hasty: RunningServer
    ) -> None:
        for _ in range(2):
            request = predict_request("counter", "", x=i64([FOR_EVER]))
            code, message = refusal(hasty.predictions.Predict, request)
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert message
            until_waiting(hasty, 0)
            response = hasty.rest("counter:predict", {"instances": [FOR_EVER]})
            assert response.status_code == 504
            assert response.json()["error"]
            until_waiting(hasty, 0)
        assert hasty.rest("counter:predict", {"instances": [5]}).json() == {"predictions": [5]}

    def test_client_that_sends_its_body_slowly_is_refused(self, hasty: RunningServer) -> None:
        with socket.create_connection(("127.0.0.1", hasty.rest_port), PATIENCE) as client:
            client.sendall(
                b"POST /v1/models/counter:predict HTTP/1.1\r\n"
                b"Host: localhost\r\nContent-Length: 9\r\n\r\n{"
            )
            response = b""
            while piece := client.recv(1000):  # It does not leave the connection open.
                response += piece
        assert response.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive within 1 seconds" in response
        assert hasty.rest("counter:predict", {"instances": [5]}).status_code == 200


def test_server_without_a_model_serves_nothing_until_one_comes(toys: Path, tmp_path: Path) -> None:
    with running(tmp_path, "--poll-seconds", "0.05", wait_for_model=False) as server:
        overall, toy = Health(server, ""), Health(server, "toy")
        overall.wait_for(NOT_SERVING)
        toy.wait_for(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        service = Health(server, "tensorflow.serving.PredictionService")
        service.wait_for(NOT_SERVING)
        another = Health(server, "toy")
        another.wait_for(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        another.leave()
        response = server.rest("toy:predict", DOCUMENT)
        assert response.status_code == 404
        assert "being served are the models none" in response.json()["error"]
        os.symlink(toys / "toy", tmp_path / "toy")
        server.wait_for("serving", model="toy")
        overall.wait_for(SERVING)
        service.wait_for(SERVING)
        toy.wait_for(SERVING)
        stub = health_pb2_grpc.HealthStub(server.channel)
        for name in ("tensorflow.serving.ModelService", "ModelService", "PredictionService"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
        assert server.rest("toy:predict", DOCUMENT).status_code == 200


class TestMetricsAndLog:
    def test_metrics_can_be_read_by_prometheus(self, server: RunningServer) -> None:
        server.rest("toy:predict", DOCUMENT)
        response = server.http.get("/monitoring/prometheus/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=")
        samples: dict[tuple[str, str], float] = {}
        for family in text_string_to_metric_families(response.text):
            for sample in family.samples:
                key = (sample.name, sample.labels.get("status", sample.labels.get("version", "")))
                samples[key] = samples.get(key, 0) + sample.value
        assert samples["flightdeck_serving_requests_total", "OK"] >= 1
        assert samples["flightdeck_serving_serving_version", "2"] == 1
        assert samples["flightdeck_serving_serving_version", "1"] == 1
        assert samples["flightdeck_serving_waiting_requests", ""] == 0
        assert samples["flightdeck_serving_loads_total", ""] >= 2

    def test_log_has_a_line_with_the_status_of_each_request(self, server: RunningServer) -> None:
        model = "a model that is asked for here alone"
        server.rest(f"{model}:predict", DOCUMENT)
        line = server.wait_for("request", model=model)
        assert line["protocol"] == "rest"
        assert line["status"] == "NOT_FOUND"
        assert line["peer"].startswith("127.0.0.1:")
        refusal(server.predictions.Predict, predict_request(model, "", x=f32([1])))
        line = server.wait_for("request", model=model, protocol="grpc")
        assert (line["method"], line["status"]) == ("predict", "NOT_FOUND")
        fields = {"protocol": "grpc", "model": "toy", "status": "OK", "version": 2, "rows": 1}
        before = len(server.find("request", **fields))
        server.predictions.Predict(predict_request("toy", "raw_features", **GOOD))
        server.wait_for("request", times=before + 1, **fields)

    def test_log_tells_where_the_server_listens_and_what_it_loaded(
        self, server: RunningServer
    ) -> None:
        (line,) = server.find("listening")
        assert line["host"] == "127.0.0.1"
        assert line["tls"] is False
        (line,) = server.find("loaded", version=2)
        assert (line["model"], line["form"], line["verified"]) == ("toy", "SavedModel", False)


class TestServeErrors:
    """A server that cannot start says why in a line."""

    @pytest.fixture(scope="class")
    def failures(
        self, toys: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> dict[str, subprocess.CompletedProcess[str]]:
        """Outcomes of servers that fail to start, and, as `ports`, the ports that are taken."""
        root = tmp_path_factory.mktemp("failures")
        certificate = make_certificate(root)
        (root / "garbage").write_bytes(b"\xff\xfe\n\n")
        (root / "open").write_text("secret")
        (root / "empty").touch(0o600)
        with socket.socket() as taken, socket.socket() as also_taken:
            for one in (taken, also_taken):
                one.bind(("127.0.0.1", 0))
                one.listen()
            port, other_port = taken.getsockname()[1], also_taken.getsockname()[1]
            tls = ("--tls-certificate", root / "garbage", "--tls-key", certificate.key)
            tries: dict[str, tuple[Any, ...]] = {
                "rest port": ("--rest-port", port),
                "grpc port": ("--grpc-port", other_port),
                "tls": tls,
                "log": ("--request-log", "/dev/null/log"),
                "token": ("--token-file", root / "open"),
                "tokens": ("--tokens", root / "empty"),
            }

            def run(options: tuple[Any, ...]) -> subprocess.CompletedProcess[str]:
                _, *words = command(toys, "--no-verify", *map(str, options))
                process = forked.Program(words)
                with until(PATIENCE, process.kill):
                    said = process.stdout.read(), process.stderr.read()
                return subprocess.CompletedProcess(words, process.wait(PATIENCE), *said)

            with ThreadPoolExecutor(2) as pool:
                done = dict(zip(tries, pool.map(run, tries.values()), strict=True))
        done["ports"] = subprocess.CompletedProcess([], 0, f"{port} {other_port}", "")
        return done

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("rest port", "127.0.0.1:{0} cannot be listened on: Address already in use"),
            ("grpc port", "127.0.0.1:{1} cannot be listened on: Address already in use"),
            ("tls", "garbage and"),
            ("log", "/dev/null/log"),
            ("token", "open has mode 0644, so that others can read or change it: chmod 640"),
            ("tokens", "empty: token: Field required"),
        ],
    )
    def test_serve_fails_without_its_port_or_a_file(
        self,
        failures: dict[str, subprocess.CompletedProcess[str]],
        name: str,
        message: str,
    ) -> None:
        done = failures[name]
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: ")
        assert message.format(*failures["ports"].stdout.split()) in line
        assert done.stdout == ""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere", "--no-verify"], "There is no folder nowhere."),
            (["models", "--no-verify", "--tls-client-ca", "empty"], "needs --tls-certificate"),
            (["models", "--no-verify", "--token-file", "nowhere"], "'nowhere' does not exist"),
            (["models"], "keys cannot be read: No such file or directory"),
            (["models", "--no-verify", "--public-key", "empty"], "exclude each other"),
            (["models", "--no-verify", "--tls-key", "empty"], "belong together"),
            (["models", "--no-verify", "--cors-origin", "https://a/"], "'https://a/' is no origin"),
            (["models", "--no-verify", "--rest-port", "65536"], "65536 is not in the range"),
            (["models", "--no-verify", "--workers", "0"], "0 is not in the range"),
            (["models", "--no-verify", "--request-log-sampling", "2"], "2.0 is not in the range"),
        ],
    )
    def test_serve_refuses_wrong_usage(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "models").mkdir()
        (tmp_path / "empty").write_text("\n")
        done = CliRunner().invoke(main, ["serve", *arguments])
        assert done.exit_code == 2
        assert message in done.output.splitlines()[-1]


def test_server_stops_serving_versions_of_a_removed_key(
    sealed: Sealed, toys: Path, tmp_path: Path
) -> None:
    sealed.publish(1, toys / "toy" / "1", encrypt=False)
    stolen = ensure_key_pair(str(tmp_path / "keys" / "stolen.key"))
    sealed.private_key = stolen.private
    sealed.publish(2, toys / "toy" / "2", encrypt=False)
    directory, keys = Path(sealed.directory.serving_dir), str(tmp_path / "keys")
    with running(directory, "--public-key", keys, verify=True) as server:
        assert server.find("serving", version=2)
        os.remove(stolen.public)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("unloaded", version=2, reason="its key is no longer trusted")
        server.wait_for("serving", version=1)
        refused = server.wait_for("refused", version=2)
        assert "which is not trusted" in refused["reason"]
        assert server.rest("toy/versions/2").json()["model_version_status"][0]["state"] == "END"


@contextmanager
def until(seconds: float, end: Callable[[], None]) -> Iterator[None]:
    """Calls a function if the block takes longer."""
    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def test_serve_started_by_a_shell_prints_its_log_alone_and_ends_at_ctrl_c(toys: Path) -> None:
    """All other servers of the tests are forked from a process that has everything imported."""
    process = subprocess.Popen(
        command(toys, "--no-verify"),
        cwd=PROJECT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process, until(PATIENCE, process.kill):
        assert process.stdout is not None
        assert process.stderr is not None
        events = (json.loads(line)["event"] for line in process.stdout)
        assert "listening" in events
        process.send_signal(signal.SIGINT)
        assert [*events][-1] == "stopped"
        assert process.stderr.read() == ""
    assert process.returncode == 0
