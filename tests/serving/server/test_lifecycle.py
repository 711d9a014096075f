"""Tests of a server from start to end: who may ask, what it says of itself, how it stops."""

from __future__ import annotations

import datetime
import ipaddress
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.__main__ import main
from tests.conftest import PROJECT
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
GOOD = {"distance": f32([1]), "hour": i64([2]), "carrier": strings(b"AA")}
ROW = {"distance": 1.0, "hour": 2, "carrier": "AA"}
DOCUMENT = {"signature_name": "raw_features", "instances": [ROW]}


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Serving directory with a model that counts, for ever if told to."""
    root = tmp_path_factory.mktemp("counter")
    save_counter(root / "counter" / "1")
    return root


class Health:
    """What a server says of its health, from when it is asked on."""

    def __init__(self, server: RunningServer, name: str):
        self.said: list[int] = []
        self._news = threading.Condition()
        stub = health_pb2_grpc.HealthStub(server.channel)
        self._watch = stub.Watch(health_pb2.HealthCheckRequest(service=name))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for answer in self._watch:
                with self._news:
                    self.said.append(answer.status)
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
    def test_requests_at_hand_are_answered_and_health_says_that_it_stops(
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

    def test_what_takes_for_ever_is_ended_by_its_deadline(self, counter: Path) -> None:
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

    def test_a_model_that_is_being_loaded_is_not_waited_for(self, tmp_path: Path) -> None:
        folder = tmp_path / "stuck" / "1"
        folder.mkdir(parents=True)
        os.mkfifo(folder / "saved_model.pb")  # To read it waits for somebody who writes.
        with running(tmp_path, wait_for_model=False) as server:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE) == 0


def until_waiting(server: RunningServer, requests: int) -> None:
    while f"flightdeck_serving_waiting_requests {float(requests)}" not in server.metrics():
        assert server.process.poll() is None


class TestDeadline:
    @pytest.fixture(scope="class")
    def hasty(self, counter: Path) -> Iterator[RunningServer]:
        """A server with one worker, and little patience."""
        with running(counter, "--deadline-seconds", "1", "--workers", "1") as server:
            yield server

    def test_a_model_that_takes_for_ever_is_given_up_and_its_worker_is_free_again(
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

    def test_a_client_that_sends_its_body_slowly_is_given_up(self, hasty: RunningServer) -> None:
        with socket.create_connection(("127.0.0.1", hasty.rest_port), PATIENCE) as client:
            client.sendall(
                b"POST /v1/models/counter:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
            )
            answer = b""
            while piece := client.recv(1000):  # It does not leave the connection open.
                answer += piece
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive within 1 seconds" in answer
        assert hasty.rest("counter:predict", {"instances": [5]}).status_code == 200


def test_before_a_model_is_there_nothing_is_served(toys: Path, tmp_path: Path) -> None:
    with running(tmp_path, "--poll-seconds", "0.05", wait_for_model=False) as server:
        overall, toy = Health(server, ""), Health(server, "toy")
        overall.wait_for(NOT_SERVING)
        toy.wait_for(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        another = Health(server, "toy")
        another.wait_for(health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        another.leave()
        response = server.rest("toy:predict", DOCUMENT)
        assert response.status_code == 404
        assert "being served are the models none" in response.json()["error"]
        os.symlink(toys / "toy", tmp_path / "toy")
        server.wait_for("serving", model="toy")
        overall.wait_for(SERVING)
        toy.wait_for(SERVING)
        assert server.rest("toy:predict", DOCUMENT).status_code == 200


@dataclass(frozen=True)
class Certificate:
    """A certificate for localhost, and its key."""

    certificate: Path
    key: Path


def make_certificate(folder: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / "server.pem", folder / "server.key")
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made


class TestTokenAndTls:
    TOKEN = "a-Secret.token~+/=="

    @pytest.fixture(scope="class")
    def certificate(self, tmp_path_factory: pytest.TempPathFactory) -> Certificate:
        return make_certificate(tmp_path_factory.mktemp("tls"))

    @pytest.fixture(scope="class")
    def guarded(
        self, toys: Path, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[RunningServer]:
        """A server that wants a token, and speaks TLS alone."""
        token = tmp_path_factory.mktemp("token") / "token.txt"
        token.write_text(f"{self.TOKEN}\n")
        with running(
            toys,
            *("--token-file", str(token)),
            *("--tls-certificate", str(certificate.certificate)),
            *("--tls-key", str(certificate.key)),
            tls=certificate.certificate.read_bytes(),
        ) as server:
            yield server

    @pytest.mark.parametrize(
        "header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN} "]
    )
    def test_nobody_is_answered_without_the_token(
        self, guarded: RunningServer, header: str | None
    ) -> None:
        given = {} if header is None else {"Authorization": header}
        if header and header.endswith(" "):
            given = {"Authorization": header.strip() + "x"}
        for method, path in (
            ("POST", "/v1/models/toy:predict"),
            ("GET", "/v1/models/toy"),
            ("GET", "/v1/models/toy/metadata"),
            ("GET", "/monitoring/prometheus/metrics"),
        ):
            response = guarded.http.request(method, path, headers=given)
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == "Bearer"
            assert self.TOKEN not in response.text
        metadata = [("authorization", value) for value in given.values()]
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        status = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = status.model_spec.name = "toy"
        for call, message in (
            (guarded.predictions.Predict, predict_request("toy", "raw_features", **GOOD)),
            (guarded.predictions.GetModelMetadata, request),
            (guarded.models.GetModelStatus, status),
        ):
            code, _ = refusal(call, message, metadata=metadata)
            assert code is grpc.StatusCode.UNAUTHENTICATED

    def test_whoever_brings_it_is_answered(self, guarded: RunningServer) -> None:
        header = f"Bearer {self.TOKEN}"
        response = guarded.rest("toy:predict", DOCUMENT, headers={"Authorization": header})
        assert response.status_code == 200
        request = predict_request("toy", "raw_features", **GOOD)
        answer = guarded.predictions.Predict(request, metadata=[("authorization", header)])
        assert answer.outputs["probability"].float_val

    def test_so_is_the_client_with_token_and_certificate(
        self, guarded: RunningServer, certificate: Certificate, tmp_path: Path
    ) -> None:
        rows, token = tmp_path / "rows.csv", tmp_path / "token"
        rows.write_text("distance,hour,carrier\n1,2,AA\n")
        token.write_text(self.TOKEN)
        predict = ["predict", str(rows), "--server", guarded.rest_url, "--model", "toy"]
        trusting = [*predict, "--ca-file", str(certificate.certificate)]
        done = CliRunner().invoke(main, [*trusting, "--token-file", str(token)])
        assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "row,probability"), done.output
        for arguments, message in ((trusting, "401: a bearer token"), (predict, "certificate")):
            done = CliRunner().invoke(main, arguments)
            assert done.exit_code == 1
            assert message in done.stderr

    def test_health_can_be_asked_without_it(self, guarded: RunningServer) -> None:
        stub = health_pb2_grpc.HealthStub(guarded.channel)
        assert stub.Check(health_pb2.HealthCheckRequest(service="toy")).status == SERVING

    def test_whoever_does_not_speak_tls_is_not_answered(self, guarded: RunningServer) -> None:
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{guarded.rest_port}/v1/models/toy")
        with grpc.insecure_channel(f"127.0.0.1:{guarded.grpc_port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            code, _ = refusal(stub.Check, health_pb2.HealthCheckRequest())
            assert code is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"{guarded.rest_url}/v1/models/toy")


class TestWhatItTells:
    def test_metrics_are_a_page_that_prometheus_reads(self, server: RunningServer) -> None:
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

    def test_each_request_is_a_line_with_its_status(self, server: RunningServer) -> None:
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

    def test_it_says_where_it_listens_and_what_it_loaded(self, server: RunningServer) -> None:
        (line,) = server.find("listening")
        assert line["host"] == "127.0.0.1"
        assert line["tls"] is False
        (line,) = server.find("loaded", version=2)
        assert (line["model"], line["form"], line["verified"]) == ("toy", "SavedModel", False)


class TestNoStart:
    """A server that cannot start says why in a line."""

    @pytest.fixture(scope="class")
    def failures(
        self, toys: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> dict[str, subprocess.CompletedProcess[str]]:
        """What became of those that try, and, as `ports`, the ports that are taken."""
        root = tmp_path_factory.mktemp("failures")
        certificate = make_certificate(root)
        (root / "garbage").write_bytes(b"\xff\xfe\n\n")
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
            }

            def run(options: tuple[Any, ...]) -> subprocess.CompletedProcess[str]:
                return subprocess.run(
                    command(toys, "--no-verify", *map(str, options)),
                    cwd=PROJECT,
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                    check=False,
                )

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
        ],
    )
    def test_for_want_of_a_port_or_a_file(
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
            (
                ["models", "--no-verify", "--token-file", "empty"],
                "There is no token in empty: it is empty.",
            ),
            (["models", "--no-verify", "--token-file", "nowhere"], "'nowhere' does not exist"),
            (["models"], "There is no public key"),
            (["models", "--no-verify", "--public-key", "empty"], "exclude each other"),
            (["models", "--no-verify", "--tls-key", "empty"], "belong together"),
            (["models", "--no-verify", "--rest-port", "65536"], "65536 is not in the range"),
            (["models", "--no-verify", "--workers", "0"], "0 is not in the range"),
            (["models", "--no-verify", "--request-log-sampling", "2"], "2.0 is not in the range"),
        ],
    )
    def test_for_wrong_usage(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "models").mkdir()
        (tmp_path / "empty").write_text("\n")
        done = CliRunner().invoke(main, ["serve", *arguments])
        assert done.exit_code == 2
        assert message in done.output.splitlines()[-1]
