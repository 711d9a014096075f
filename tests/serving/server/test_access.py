"""Tests of who is answered by a running server, and how that changes under it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import ssl
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import httpx
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    prediction_service_pb2_grpc,
)

from serving.__main__ import main
from serving.server.authentication import Authenticator
from serving.server.metrics import ServerMetrics
from serving.server.rest import RestInterface
from tests.serving.server.certificates import Certificate, make_certificate
from tests.serving.server.running import (
    PATIENCE,
    RunningServer,
    predict_request,
    refusal,
    running,
    strings,
)
from tests.serving.server.toys import f32, i64

SERVING = health_pb2.HealthCheckResponse.SERVING
GOOD = {"distance": f32([1]), "hour": i64([2]), "company": strings(b"AA")}
DOCUMENT = {
    "signature_name": "raw_features",
    "instances": [{"distance": 1.0, "hour": 2, "company": "AA"}],
}


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
        token.chmod(0o640)
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

    def test_server_refuses_two_authorization_headers(self, guarded: RunningServer) -> None:
        good, bad = f"Bearer {self.TOKEN}", "Bearer wrong"
        request = predict_request("toy", "raw_features", **GOOD)
        for pair in ((good, bad), (bad, good), (good, good)):
            headers = [("Authorization", value) for value in pair]
            response = guarded.rest("toy:predict", DOCUMENT, headers=headers)
            assert response.status_code == 401
            assert response.json()["error"].endswith("in one authorization header alone")
            metadata = [("authorization", value) for value in pair]
            code, message = refusal(guarded.predictions.Predict, request, metadata=metadata)
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert message.endswith("in one authorization header alone")

    def test_server_counts_and_logs_refused_tokens_but_not_each_of_them(
        self, guarded: RunningServer
    ) -> None:
        secret = "a-token-that-somebody-tries"

        def counted(reason: str) -> float:
            headers = {"Authorization": f"Bearer {self.TOKEN}"}
            page = guarded.http.get("/monitoring/prometheus/metrics", headers=headers).text
            name = "flightdeck_serving_unauthenticated_total"
            (line,) = [
                line
                for line in page.splitlines()
                if line.startswith(f'{name}{{protocol="rest",reason="{reason}"}}')
            ]
            return float(line.split()[-1])

        guarded.rest("toy", headers={"Authorization": "Bearer x"})
        before = counted("wrong")
        for _ in range(30):
            guarded.rest("toy", headers={"Authorization": f"Bearer {secret}"})
        assert counted("wrong") == before + 30
        line = guarded.wait_for("unauthenticated")
        assert line["level"] == "warning"
        assert line["peer"]
        assert len(guarded.find("unauthenticated")) < 30
        assert secret not in str(guarded.lines)

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_whoever_brings_it_is_answered(self, guarded: RunningServer, scheme: str) -> None:
        header = f"{scheme} {self.TOKEN}"
        response = guarded.rest("toy:predict", DOCUMENT, headers={"Authorization": header})
        assert response.status_code == 200
        request = predict_request("toy", "raw_features", **GOOD)
        answer = guarded.predictions.Predict(request, metadata=[("authorization", header)])
        assert answer.outputs["probability"].float_val

    def test_so_is_the_client_with_token_and_certificate(
        self, guarded: RunningServer, certificate: Certificate, tmp_path: Path
    ) -> None:
        rows, token = tmp_path / "rows.csv", tmp_path / "token"
        rows.write_text("distance,hour,company\n1,2,AA\n")
        token.write_text(self.TOKEN)
        token.chmod(0o600)
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


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Clients:
    """What asks a server with a certificate of its own, over new connections."""

    def __init__(self, server: RunningServer, trusted: bytes, own: Certificate | None):
        chain = own and (own.key.read_bytes(), own.certificate.read_bytes())
        credentials = grpc.ssl_channel_credentials(trusted, *(chain or ()))
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.secure_channel(server.grpc_address, credentials, options)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        context = ssl.create_default_context(cadata=trusted.decode())
        if own:
            context.load_cert_chain(own.certificate, own.key)
        self.http = httpx.Client(base_url=server.rest_url, timeout=PATIENCE, verify=context)

    def ask(self, token: str) -> tuple[int, grpc.StatusCode]:
        """The statuses of both protocols."""
        header = f"Bearer {token}"
        response = self.http.post(
            "/v1/models/toy:predict", json=DOCUMENT, headers={"Authorization": header}
        )
        request = predict_request("toy", "raw_features", **GOOD)
        try:
            self.predictions.Predict(request, metadata=[("authorization", header)])
        except grpc.RpcError as error:
            return response.status_code, error.code()
        return response.status_code, grpc.StatusCode.OK

    def assert_cannot_connect(self) -> None:
        with pytest.raises(httpx.TransportError):
            self.http.get("/v1/models/toy")
        code, _ = refusal(self.predictions.Predict, predict_request("toy", "raw_features", **GOOD))
        assert code is grpc.StatusCode.UNAVAILABLE

    def close(self) -> None:
        self.http.close()
        self._channel.close()


def test_server_reads_tokens_and_certificates_again_without_dropping_a_connection(
    toys: Path, tmp_path: Path
) -> None:
    ours, first, second = (make_certificate(tmp_path, name) for name in ("server", "one", "two"))
    authority, tokens = tmp_path / "clients.pem", tmp_path / "tokens.toml"
    authority.write_bytes(first.certificate.read_bytes())
    tokens.write_text(f"[[token]]\nname = 'a'\nsha256 = '{hashed('first')}'\n")
    answered, refused = (200, grpc.StatusCode.OK), (401, grpc.StatusCode.UNAUTHENTICATED)
    trusted = ours.certificate.read_bytes()
    with (
        running(
            toys,
            *("--tokens", str(tokens), "--tls-client-ca", str(authority)),
            *("--tls-certificate", str(ours.certificate), "--tls-key", str(ours.key)),
            tls=trusted,
        ) as server,
        contextlib.ExitStack() as opened,
    ):

        def connect(own: Certificate | None) -> Clients:
            clients = Clients(server, trusted, own)
            opened.callback(clients.close)
            return clients

        with_first, with_none = connect(first), connect(None)
        assert with_first.ask("first") == answered
        assert with_first.ask("second") == refused
        with_none.assert_cannot_connect()

        renewed = make_certificate(tmp_path, "server")
        authority.write_bytes(second.certificate.read_bytes())
        tokens.write_text(f"[[token]]\nname = 'a'\nsha256 = '{hashed('second')}'\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("reloaded", part="tokens")
        server.wait_for("reloaded", part="tls")
        # Of connections that are open, only the token changes.
        assert with_first.ask("second") == answered
        assert with_first.ask("first") == refused
        trusted = renewed.certificate.read_bytes()
        connect(first).assert_cannot_connect()
        assert connect(second).ask("second") == answered

        for path in (tokens, ours.certificate):
            path.write_text("garbage")
        server.process.send_signal(signal.SIGHUP)
        for part, name in (("tokens", "tokens.toml"), ("tls", "server.pem")):
            line = server.wait_for("not reloaded", part=part)
            assert line["level"] == "error"
            assert name in line["reason"]
        assert connect(second).ask("second") == answered
        assert with_first.ask("second") == answered


def test_server_answers_only_what_a_token_allows(toys: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(
        f"""
        [[token]]
        name = "asks toy"
        sha256 = "{hashed("asker")}"
        models = ["toy"]
        methods = ["predict", "status"]
        [[token]]
        name = "looks"
        sha256 = "{hashed("looker")}"
        methods = ["metrics", "metadata"]
        [[token]]
        name = "asks another"
        sha256 = "{hashed("other")}"
        models = ["another"]
        """
    )
    with running(toys, "--tokens", str(tokens)) as server:

        def rest(token: str, path: str, document: Any = None) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return server.rest(path, document, headers=headers).status_code

        def metrics(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return server.http.get("/monitoring/prometheus/metrics", headers=headers).status_code

        def over_grpc(token: str, call: Any, message: Any) -> grpc.StatusCode:
            try:
                call(message, timeout=PATIENCE, metadata=[("authorization", f"Bearer {token}")])
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        ok, denied = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
        predict = predict_request("toy", "raw_features", **GOOD)
        metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        status = get_model_status_pb2.GetModelStatusRequest()
        metadata.model_spec.name = status.model_spec.name = "toy"
        asked = {}
        for token in ("asker", "looker", "other"):
            asked[token] = (
                rest(token, "toy:predict", DOCUMENT),
                rest(token, "toy"),
                rest(token, "toy/metadata"),
                metrics(token),
                over_grpc(token, server.predictions.Predict, predict),
                over_grpc(token, server.models.GetModelStatus, status),
                over_grpc(token, server.predictions.GetModelMetadata, metadata),
            )
        assert asked == {
            "asker": (200, 200, 403, 403, ok, ok, denied),
            "looker": (403, 403, 200, 200, denied, denied, ok),
            "other": (403, 403, 403, 403, denied, denied, denied),
        }
        assert rest("asker", "another:predict", DOCUMENT) == 403
        # Nobody is told of models that they may not ask.
        other = {"Authorization": "Bearer other"}
        for path, document in (("another:predict", DOCUMENT), ("another/metadata", None)):
            answer = server.rest(path, document, headers=other)
            assert answer.status_code == 404
            assert "toy" not in answer.text
        # No message is read of whoever may not use the method.
        came = threading.Event()
        upload = server.channel.stream_unary("/tensorflow.serving.PredictionService/Predict")
        messages = (b"" for _ in range(1) if came.wait(PATIENCE))
        with pytest.raises(grpc.RpcError) as refused:
            upload(messages, timeout=PATIENCE, metadata=[("authorization", "Bearer looker")])
        assert refused.value.code() is denied
        came.set()
        line = server.wait_for("request", client="asks another", method="predict")
        assert line["status"] == "PERMISSION_DENIED"
        page = server.http.get(
            "/monitoring/prometheus/metrics", headers={"Authorization": "Bearer looker"}
        ).text
        assert 'status="PERMISSION_DENIED"' in page


class TestCors:
    """What a browser asks before it lets a page ask."""

    PAGE = "https://pages.example"

    def ask(
        self, origins: tuple[str, ...], method: str, path: str, headers: dict[str, str]
    ) -> httpx.Response:
        token = Path(tempfile.mkdtemp(), "token")
        token.touch(0o600)
        token.write_text("secret")
        app = RestInterface(
            cast(Any, None),
            max_bytes=1,
            max_rows=1,
            deadline_seconds=1,
            authenticator=Authenticator(str(token), "", ServerMetrics()),
            cors_origins=origins,
        ).make_app()

        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(run())

    def ask_before(self, origins: tuple[str, ...], origin: str) -> httpx.Response:
        return self.ask(
            origins,
            "OPTIONS",
            "/v1/models/toy:predict",
            {
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
            },
        )

    @pytest.mark.parametrize("origins", [(PAGE,), ("https://other.example", PAGE)])
    def test_page_of_a_named_origin_may_ask_with_a_token(self, origins: tuple[str, ...]) -> None:
        answer = self.ask_before(origins, self.PAGE)
        assert answer.status_code == 200  # Though a browser sends no token here.
        assert answer.headers["access-control-allow-origin"] == self.PAGE
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "Authorization" in answer.headers["access-control-allow-headers"]
        refused = self.ask(origins, "GET", "/v1/models/toy", {"Origin": self.PAGE})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == self.PAGE

    def test_any_page_may_ask_where_any_is_allowed(self) -> None:
        answer = self.ask_before(("*",), self.PAGE)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers

    @pytest.mark.parametrize("origins", [(), ("https://other.example",)])
    def test_no_other_page_may_ask(self, origins: tuple[str, ...]) -> None:
        answer = self.ask_before(origins, self.PAGE)
        assert answer.status_code >= 400
        assert "access-control-allow-origin" not in answer.headers


class TestHost:
    """Where a server listens that asks nobody who he is, or encrypts nothing."""

    @pytest.fixture
    def started(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Settings of the servers that would have been started."""
        from serving.server import app

        monkeypatch.chdir(tmp_path)
        (tmp_path / "models").mkdir()
        (tmp_path / "file").touch()
        settings: list[Any] = []
        monkeypatch.setattr(app, "serve", settings.append)
        monkeypatch.setattr(os, "_exit", sys.exit)  # The server's process ends so.
        return settings

    def serve(self, *arguments: str) -> str:
        done = CliRunner().invoke(main, ["serve", "models", "--no-verify", *arguments])
        assert (done.exit_code == 2) == bool(done.output)
        return done.output

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "0", "192.0.2.7", "::ffff:127.0.0.1"])
    def test_serve_refuses_other_machines_without_token_and_tls(
        self, started: list[Any], host: str
    ) -> None:
        tls = ("--tls-certificate", "file", "--tls-key", "file")
        said = self.serve("--host", host)
        assert "no token or client certificate is required and nothing is encrypted" in said
        assert "or say --insecure" in said
        assert "nothing is encrypted: " in self.serve("--host", host, "--token-file", "file")
        assert "is required: " in self.serve("--host", host, *tls)
        assert started == []
        assert self.serve("--host", host, *tls, "--token-file", "file") == ""
        assert self.serve("--host", host, *tls, "--tokens", "file") == ""
        assert self.serve("--host", host, *tls, "--tls-client-ca", "file") == ""
        assert self.serve("--host", host, "--insecure") == ""
        assert len(started) == 4

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
    def test_serve_takes_loopback_as_it_is(self, started: list[Any], host: str) -> None:
        assert self.serve("--host", host) == ""
        assert len(started) == 1
