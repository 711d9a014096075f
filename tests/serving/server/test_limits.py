"""Tests that no request, and no number of them, takes more memory than the server is given.

The requests are small, and stand for much. While they are answered, others are too.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, get_model_status_pb2, predict_pb2

from storage.directory import ModelDirectory
from tests.serving.server.running import (
    PATIENCE,
    RunningServer,
    predict_request,
    refusal,
    running,
    strings,
)
from tests.serving.server.toys import f32, i64, save_odd, save_versioned

MB = 2**20
REQUEST, BUDGET = 4, 128  # MB
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
ROW = {"distance": 1.0, "hour": 2, "company": "AA"}
PREDICT = "/tensorflow.serving.PredictionService/Predict"
TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def limited(toys: Path) -> Iterator[RunningServer]:
    """A server with a budget of `BUDGET`."""
    limits = ("--max-request-mb", str(REQUEST), "--request-memory-mb", str(BUDGET))
    with running(toys, *limits, "--workers", "1") as server:
        send_requests(server)
        yield server


def send_requests(server: RunningServer) -> None:
    """Sends a good request in both protocols."""
    columns = {"distance": f32([1.0]), "hour": i64([2]), "company": strings(b"AA")}
    server.predictions.Predict(predict_request("toy", "raw_features", **columns), timeout=30)
    document = {"signature_name": "raw_features", "instances": [ROW]}
    assert server.rest("toy:predict", document).status_code == 200


def peak_memory(server: RunningServer) -> int:
    """The most memory the server ever had, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kilobytes) * 1024


@contextlib.contextmanager
def within_budget(server: RunningServer) -> Iterator[None]:
    """Checks that memory does not grow by more than the budget, and other requests succeed."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    before = peak_memory(server)
    stopping = threading.Event()

    def keep_sending() -> int:
        requests = 0
        while not stopping.is_set() or not requests:
            send_requests(server)
            requests += 1
        return requests

    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(keep_sending)
        try:
            yield
        finally:
            stopping.set()
        assert others.result()
    assert peak_memory(server) < before + 1.2 * BUDGET * MB


def in_parallel(times: int, call: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(times) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(times)]]


def tensors(count: int, rows: int) -> predict_pb2.PredictRequest:
    """Inputs of one value each, which stands for all rows."""
    request = predict_request("toy", "raw_features")
    for number in range(count):
        tensor = request.inputs[f"input {number}"]
        tensor.dtype = types_pb2.DT_FLOAT
        tensor.tensor_shape.dim.add(size=rows)
        tensor.float_val.append(1)
    return request


class TestGrpc:
    def refuse(self, server: RunningServer, content: bytes) -> tuple[grpc.StatusCode, str]:
        return refusal(server.channel.unary_unary(PREDICT), content)

    def test_gzip_bomb_is_not_inflated(self, limited: RunningServer) -> None:
        bomb = gzip.compress(bytes(300 * MB), 1)
        assert len(bomb) < 2 * MB
        with within_budget(limited):
            # gRPC would inflate it too if it were said to be compressed, and not all at once.
            for code, message in in_parallel(4, lambda: self.refuse(limited, bomb)):
                assert code is EXHAUSTED
                assert f"larger than the {REQUEST * MB:,} bytes" in message

    def test_grpc_gzip_bomb_is_not_inflated(self, limited: RunningServer) -> None:
        call = limited.channel.unary_unary(PREDICT)
        with within_budget(limited):
            code, _ = refusal(call, bytes(200 * MB), compression=grpc.Compression.Gzip)
        assert code is EXHAUSTED

    def test_compressed_request_is_predicted(self, limited: RunningServer) -> None:
        request = predict_request("toy", "echo", text=strings(*[b"x" * 1000] * 10))
        response = limited.predictions.Predict(request, compression=grpc.Compression.Gzip)
        assert len(response.outputs["text"].string_val) == 10
        damaged = gzip.compress(request.SerializeToString())[:-9]
        code, message = self.refuse(limited, damaged)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "cannot be decompressed" in message

    def test_many_inputs_of_one_value_are_not_expanded(self, limited: RunningServer) -> None:
        request = tensors(16, 2_000_000).SerializeToString()
        assert len(request) < 1000
        with within_budget(limited):
            for code, message in in_parallel(8, lambda: self.refuse(limited, request)):
                assert code is EXHAUSTED
                assert "2,000,000 rows, 10,000 are allowed" in message

    def test_inputs_are_limited_together(self, limited: RunningServer) -> None:
        code, message = self.refuse(limited, tensors(200, 9000).SerializeToString())
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "is larger than" in message

    @pytest.mark.parametrize(
        "piece",
        [
            b"\x12\x00",  # an entry without key and value
            b"\x1a\x00",  # a name of an output
            b"\x12\x06\x0a\x01x\x12\x01\x7a",  # a variant, cut off
        ],
    )
    def test_messages_of_many_small_parts_are_not_parsed(
        self, limited: RunningServer, piece: bytes
    ) -> None:
        content = piece * (REQUEST * MB // len(piece))
        with within_budget(limited):
            for code, message in in_parallel(3, lambda: self.refuse(limited, content)):
                assert code is EXHAUSTED
                assert "the request takes more than" in message

    def test_context_is_not_copied_into_thousands_of_examples(self, limited: RunningServer) -> None:
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name, request.model_spec.signature_name = "toy", "classify"
        context = request.input.example_list_with_context
        context.context.features.feature["x"].bytes_list.value.append(bytes(MB))
        for _ in range(5000):
            context.examples.add()
        with within_budget(limited):
            code, message = refusal(limited.predictions.Classify, request)
        assert code is EXHAUSTED
        assert "5,000 examples" in message

    def test_long_name_is_cut(self, limited: RunningServer) -> None:
        request = predict_request("x" * (REQUEST * MB - 1000))
        code, message = refusal(limited.predictions.Predict, request)
        assert code is grpc.StatusCode.NOT_FOUND
        assert len(message) < 1000
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "x" * 50_000
        code, message = refusal(limited.models.GetModelStatus, status)
        assert code is grpc.StatusCode.NOT_FOUND
        assert len(message) < 1000
        status.model_spec.name = "x" * 100_000
        assert refusal(limited.models.GetModelStatus, status)[0] is EXHAUSTED
        assert all(len(json.dumps(line)) < 5000 for line in limited.lines)

    def test_body_without_a_token_is_not_read(self, toys: Path, tmp_path: Path) -> None:
        (tmp_path / "token").write_text(TOKEN)
        (tmp_path / "token").chmod(0o600)
        with running(toys, "--token-file", str(tmp_path / "token")) as server:
            before = peak_memory(server)
            call = server.channel.unary_unary(PREDICT)

            def send() -> grpc.StatusCode:
                return refusal(call, bytes(14 * MB))[0]

            assert set(in_parallel(6, send)) == {grpc.StatusCode.UNAUTHENTICATED}
            assert peak_memory(server) < before + 60 * MB


LISTS = b'{"instances": [' + b"[]," * (REQUEST * MB // 3 - 20) + b"[]]}"
BODIES = {
    "lists": LISTS,
    "lists in lists": b'{"instances": [' + (b"[" * 1000 + b"]" * 1000 + b",") * 2000 + b"0]}",
    "objects": LISTS.replace(b"[],", b"{},"),
    "members": b'{"instances": [' + b'{"":0},' * (REQUEST * MB // 8) + b"0]}",
    "strings": b'{"instances": [' + b'"ab",' * (REQUEST * MB // 6) + b"0]}",
    "quotes": b'{"NaN": "' + b'"' * (REQUEST * MB - 100) + b"}",
}


def test_server_limits_the_memory_of_small_requests_that_expand(tmp_path: Path) -> None:
    save_odd(tmp_path / "odd" / "1")
    request = predict_request("odd", "any_shape")
    tensor = request.inputs["x"]
    tensor.dtype = types_pb2.DT_FLOAT
    for size in (1, MB - 1000):
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.append(1)
    limits = ("--max-request-mb", str(REQUEST), "--request-memory-mb", str(BUDGET))
    with running(tmp_path, *limits, "--workers", "1") as server:
        server.predictions.Predict(request, timeout=PATIENCE)
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
        before = peak_memory(server)
        calls = [server.predictions.Predict.future(request, timeout=PATIENCE) for _ in range(300)]
        for call in calls:
            assert call.result().outputs["sum"].float_val
        assert peak_memory(server) < before + BUDGET * MB


class TestRest:
    def post(self, server: RunningServer, body: bytes, **headers: str) -> tuple[int, str]:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        path = "/v1/models/toy:predict"
        response = server.http.post(path, content=body, headers=headers)
        return response.status_code, response.json().get("error", "")

    @pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
    def test_json_that_takes_many_times_its_bytes_is_not_parsed(
        self, limited: RunningServer, body: bytes
    ) -> None:
        assert len(body) <= REQUEST * MB
        with within_budget(limited):
            for status, message in in_parallel(3, lambda: self.post(limited, body)):
                assert status == 413
                assert "the request takes more than" in message

    def test_gzip_body_is_predicted(self, limited: RunningServer) -> None:
        document = {"signature_name": "raw_features", "instances": [ROW] * 3}
        body = gzip.compress(json.dumps(document).encode())
        assert self.post(limited, body, Content_Encoding="gzip") == (200, "")
        assert self.post(limited, body)[0] == 400
        status, message = self.post(limited, body[:-5], Content_Encoding="gzip")
        assert (status, "cannot be decompressed" in message) == (400, True)
        status, message = self.post(limited, body, Content_Encoding="br")
        assert (status, "Content-Encoding br is not supported" in message) == (400, True)

    def test_gzip_bomb_is_not_inflated(self, limited: RunningServer) -> None:
        bomb = gzip.compress(b" " * (300 * MB), 1)
        with within_budget(limited):
            for status, message in in_parallel(
                4, lambda: self.post(limited, bomb, Content_Encoding="gzip")
            ):
                assert (status, "larger than the" in message) == (413, True)

    def test_length_that_is_too_large_is_refused_before_the_body_comes(
        self, limited: RunningServer
    ) -> None:
        with socket.create_connection(("127.0.0.1", limited.rest_port), timeout=60) as client:
            client.sendall(
                b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: 100000000\r\n\r\n"
            )
            assert client.recv(1000).startswith(b"HTTP/1.1 413 ")

    def test_unfinished_bodies_make_room_for_others(self, limited: RunningServer) -> None:
        size = REQUEST * MB
        head = (
            f"POST /v1/models/toy:predict HTTP/1.1\r\n"
            f"Host: localhost\r\nContent-Length: {size}\r\n\r\n"
        ).encode()
        body = json.dumps({"signature_name": "raw_features", "instances": [ROW] * 5000}).encode()
        with contextlib.ExitStack() as stack, within_budget(limited):
            for _ in range(30):
                client = socket.create_connection(("127.0.0.1", limited.rest_port), timeout=60)
                stack.enter_context(client).setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.send(head + b" " * (size - 1))
            assert self.post(limited, body) == (200, "")

    def test_log_holds_no_values_of_features(self, limited: RunningServer) -> None:
        secret = "B6 is the secret"
        bad: dict[str, Any] = {**ROW, "hour": secret}
        status, message = self.post(
            limited, json.dumps({"signature_name": "raw_features", "instances": [bad]}).encode()
        )
        assert (status, secret in message) == (400, True)
        request = predict_request("toy", "", examples=strings(f"no tf.Example: {secret}".encode()))
        code, _ = refusal(limited.predictions.Predict, request)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        send_requests(limited)
        assert secret not in json.dumps(limited.lines)


class TestConnections:
    @pytest.fixture
    def few(self, tmp_path: Path) -> Iterator[tuple[RunningServer, Path]]:
        save_versioned(tmp_path / "models" / "toy" / "1")
        with running(
            tmp_path / "models", "--max-connections", "20", "--poll-seconds", "0.1"
        ) as server:
            yield server, tmp_path / "models"

    def test_idle_connections_leave_files_for_the_directory(
        self, few: tuple[RunningServer, Path]
    ) -> None:
        server, models = few
        server.models.GetModelStatus(
            get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "toy"})
        )
        files = Path(f"/proc/{server.process.pid}/fd")
        before = len(list(files.iterdir()))
        with contextlib.ExitStack() as stack:
            for port in (server.rest_port, server.grpc_port):
                for _ in range(100):
                    client = socket.create_connection(("127.0.0.1", port), timeout=60)
                    stack.enter_context(client)
            end = time.monotonic() + 60
            while len(list(files.iterdir())) > before + 60 and time.monotonic() < end:
                time.sleep(0.1)
            assert len(list(files.iterdir())) <= before + 60
            version = ModelDirectory(str(models), "toy").next_version()
            save_versioned(models / "toy" / str(version), 7)
            server.wait_for("serving", version=version)
        response = server.rest("toy:predict", {"instances": [1.0]})
        assert response.json() == {"predictions": [7]}

    def test_connection_above_the_limit_gets_an_error(
        self, few: tuple[RunningServer, Path]
    ) -> None:
        server, _ = few
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(
                    socket.create_connection(("127.0.0.1", server.rest_port), timeout=60)
                )
                for _ in range(21)
            ]
            response = clients[-1].recv(1000)
        assert response.startswith(b"HTTP/1.1 503 ")
        assert json.loads(response.partition(b"\r\n\r\n")[2]) == {
            "error": "too many connections now"
        }
