"""Tests that a bad request is refused with TensorFlow Serving's status and the name of the field.

After each, good requests in both protocols succeed.
"""

from __future__ import annotations

import base64
import json
import random
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from tests.serving.server.running import (
    RunningServer,
    example_of,
    predict_request,
    refusal,
    strings,
)
from tests.serving.server.toys import f32, i64

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION

GOOD: dict[str, np.ndarray] = {
    "distance": f32([1.0]),
    "hour": i64([2]),
    "company": strings(b"AA"),
}
GOOD_ROW = {"distance": 1.0, "hour": 2, "company": "AA"}
GOOD_MANY = {"matrix": [[1, 2]], "double": [1], "byte": [1], "flag": [True], "text": ["a"]}

MB = 2**20
LIMIT = 2 * MB  # of the server
BIG = 100 * MB


@pytest.fixture(autouse=True)
def _lives_on(server: RunningServer) -> Iterator[None]:
    yield
    server.predictions.Predict(predict_request("toy", "raw_features", **GOOD))
    document = {"signature_name": "raw_features", "instances": [GOOD_ROW]}
    assert server.rest("toy:predict", document).status_code == 200
    assert server.process.poll() is None


def post(server: RunningServer, path: str, body: str | bytes) -> tuple[int, str]:
    """Status and message of the response to a bad body."""
    response = server.http.post(f"/v1/models/{path}", content=body)
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert list(found) == ["error"]
    return response.status_code, found["error"]


def raw(change: dict[str, Any], drop: tuple[str, ...] = ()) -> dict[str, Any]:
    """A body in row format with one row."""
    row = {name: value for name, value in {**GOOD_ROW, **change}.items() if name not in drop}
    return {"signature_name": "raw_features", "instances": [row]}


def many(**change: Any) -> dict[str, Any]:
    """A body in column format for a signature of many dtypes."""
    return {"signature_name": "many", "inputs": {**GOOD_MANY, **change}}


class TestRestPredict:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "JSON Parse error"),
            (b"{", "JSON Parse error"),
            (b'{"instances": [1.0,]}', "JSON Parse error"),
            (b'{"instances": [tru]}', "JSON Parse error"),
            (b"\xff\xfe", "JSON Parse error"),
            (b"\x00" * 100, "JSON Parse error"),
            (b"[" * 100_000, "nested"),
            (b'{"instances": ' + 100_000 * b"[", "nested"),
            (b'{"instances": [' + 5000 * b"9" + b"]}", "JSON"),
            (b"[]", "object"),
            (b"null", "object"),
            (b"{}", "Missing 'inputs' or 'instances' key"),
            (b'{"instances": [1], "inputs": [1]}', "only one of"),
            (b'{"instances": [], "signature_name": "raw_features"}', "instances"),
            (b'{"instances": {}, "signature_name": "raw_features"}', "instances"),
            (b'{"instances": [1.0], "signature_name": 3}', "signature_name"),
            (b'{"instances": [1.0], "signature_name": "raw_features"}', "company.*distance"),
            (b'{"instances": [{"b64": "***"}]}', r"base64"),
            (b'{"instances": [{"b64": "AAAA"}, 3]}', r"element: 1 .*string"),
        ],
    )
    def test_malformed_body_is_refused(
        self, server: RunningServer, body: bytes, message: str
    ) -> None:
        status, found = post(server, "toy:predict", body)
        assert status == 400
        assert re.search(message, found)

    @pytest.mark.parametrize(
        ("document", "message"),
        [
            (raw({"distance": "far"}), 'key: distance .*"far".* expected type: float'),
            (raw({"distance": None}), "key: distance .*null"),
            (raw({"distance": [1.0]}), r'"distance" has the shape \[1, 1\], \[\?\] is expected'),
            (raw({"hour": 2.5}), r"key: hour .*2\.5.* expected type: int64"),
            (raw({"hour": 2**63}), "key: hour .*expected type: int64"),
            (raw({"hour": True}), "key: hour .*expected type: int64"),
            (raw({"company": 7}), "key: company .*expected type: string"),
            (raw({"company": {"b64": "*"}}), "key: company .*base64"),
            (raw({"company": {"b65": "AA=="}}), "company"),
            (raw({"compny": "AA"}, drop=("company",)), "Missing: .*company.* Not .*compny"),
            (raw({"tail": "N1"}), "Not in the signature: .*tail"),
            (raw({}, drop=("hour",)), "Missing: .*hour"),
            (many(matrix=[[1, 2, 3]]), r'"matrix" has the shape \[1, 3\], \[\?, 2\] is expected'),
            (many(matrix=[1, 2]), r'"matrix" has the shape \[2\], \[\?, 2\] is expected'),
            (many(matrix=[[1, 2], [3]]), r"matrix .*size: 2 but got: 1"),
            (many(byte=[256]), "byte .*expected type: uint8"),
            (many(byte=[-1]), "byte .*expected type: uint8"),
            (many(flag=[1]), "flag .*expected type: bool"),
            (many(text=[["a"]]), r'"text" has the shape \[1, 1\], \[\?\] is expected'),
            (many(double=[10**400]), "Number too big"),
        ],
    )
    def test_values_that_do_not_fit_the_signature_are_named(
        self, server: RunningServer, document: dict[str, Any], message: str
    ) -> None:
        status, found = post(server, "toy:predict", json.dumps(document))
        assert status == 400
        assert re.search(message, found), found

    @pytest.mark.parametrize("content", [b"no tf.Example", b"\xff" * 30, b"\n" + b"\x7f" * 50_000])
    def test_bytes_that_are_not_an_example_are_refused(
        self, server: RunningServer, content: bytes
    ) -> None:
        document = {"instances": [{"b64": base64.b64encode(content).decode()}]}
        status, found = post(server, "toy:predict", json.dumps(document))
        assert status == 400
        assert "Could not parse example input" in found
        assert len(found) < 3000

    @pytest.mark.parametrize(
        ("path", "status", "message"),
        [
            ("tyo:predict", 404, r"Latest\(tyo\).* being served are the models toy"),
            ("toy/versions/9:predict", 404, r"Specific\(toy, 9\).* of toy the versions 1, 2"),
            ("toy/labels/canary:predict", 400, "label: canary; model toy has stable"),
            (f"toy/versions/{2**63}:predict", 400, f"convert version: {2**63} to numeric"),
            (f"toy/versions/{5000 * '9'}:predict", 400, "to numeric"),
            (f"{5000 * 'x'}:predict", 404, "Servable not found"),
            ("%FF%00:predict", 404, "Servable not found"),
            ("toy:describe", 400, "Malformed request: POST /v1/models/toy:describe"),
            ("toy", 400, "Malformed request: POST /v1/models/toy"),
            ("toy/versions/x:predict", 400, "Malformed request"),
            ("toy/labels/stable/versions/1:predict", 400, "Malformed request"),
            (":predict", 400, "Malformed request"),
        ],
    )
    def test_unknown_path_is_refused(
        self, server: RunningServer, path: str, status: int, message: str
    ) -> None:
        found = post(server, path, json.dumps(raw({})))
        assert found[0] == status
        assert re.search(message, found[1])

    def test_unknown_signature_is_refused_listing_those_of_the_model(
        self, server: RunningServer
    ) -> None:
        document = {"signature_name": "raw", "instances": [GOOD_ROW]}
        status, found = post(server, "toy:predict", json.dumps(document))
        assert status == 400
        assert re.search('"raw" not found.*classify, echo, many, raw_features, regress', found)


class TestRestMethods:
    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
    def test_unsupported_methods_are_malformed_requests(
        self, server: RunningServer, method: str
    ) -> None:
        response = server.http.request(method, "/v1/models/toy:predict")
        assert response.status_code == 400
        assert response.json() == {"error": f"Malformed request: {method} /v1/models/toy:predict"}

    @pytest.mark.parametrize("path", ["toy:predict", "toy/labels", "toy/versions/1/x", ""])
    def test_get_of_a_predict_path_is_a_malformed_request(
        self, server: RunningServer, path: str
    ) -> None:
        response = server.rest(path)
        assert response.status_code == 400
        assert response.json() == {"error": f"Malformed request: GET /v1/models/{path}"}

    @pytest.mark.parametrize("path", ["/x", "/v2/models/toy", "/monitoring"])
    def test_unknown_path_is_not_found(self, server: RunningServer, path: str) -> None:
        response = server.http.get(path)
        assert response.status_code == 404
        assert path in response.json()["error"]

    @pytest.mark.parametrize(
        ("path", "status", "message"),
        [
            ("tyo", 404, "Could not find any versions of model tyo"),
            ("toy/versions/9", 404, "Could not find version 9 of model toy"),
            ("toy/labels/canary/metadata", 400, "Unrecognized servable version label: canary"),
            ("tyo/metadata", 404, "Servable not found"),
            ("toy/versions/9/metadata", 404, "Servable not found"),
            (f"toy/versions/{5000 * '9'}", 400, "to numeric"),
        ],
    )
    def test_status_and_metadata_of_a_missing_model_are_refused(
        self, server: RunningServer, path: str, status: int, message: str
    ) -> None:
        response = server.rest(path)
        assert response.status_code == status
        assert message in response.json()["error"]

    @pytest.mark.parametrize(
        ("path", "document", "message"),
        [
            ("toy:classify", {}, "'examples' is expected"),
            ("toy:classify", {"examples": []}, "empty"),
            ("toy:classify", {"examples": [3]}, r"examples\[0\]"),
            ("toy:classify", {"examples": [{"hour": None}]}, "Feature: hour"),
            ("toy:classify", {"examples": [{"hour": [1, "a"]}]}, "feature: hour"),
            ("toy:classify", {"examples": [{}]}, "No inputs found in SignatureDef"),
            ("toy:classify", {"examples": [{}], "signature_name": "x"}, "the name: x"),
            ("toy:classify", {"examples": [{}], "signature_name": "regress"}, "classification"),
            ("toy:regress", {"examples": [{}], "signature_name": "classify"}, "one output"),
            (
                "toy:regress",
                {"examples": [{"hour": "delayed"}], "signature_name": "regress"},
                "hour.*Data types don't match",
            ),
        ],
    )
    def test_examples_that_do_not_fit_are_refused(
        self, server: RunningServer, path: str, document: Any, message: str
    ) -> None:
        status, found = post(server, path, json.dumps(document))
        assert status == 400
        assert re.search(message, found), found


def changed(text: str = "", **inputs: np.ndarray) -> predict_pb2.PredictRequest:
    """A good request, but for some inputs, and for the text of a request that is merged in."""
    request = predict_request("toy", "raw_features", **{**GOOD, **inputs})
    text_format.Merge(text, request)
    return request


def without(request: predict_pb2.PredictRequest, name: str) -> predict_pb2.PredictRequest:
    del request.inputs[name]
    return request


def tensor(text: str) -> predict_pb2.PredictRequest:
    """A good request whose distance is as given."""
    request = without(changed(), "distance")
    text_format.Merge(f'inputs {{key: "distance" value {{{text}}}}}', request)
    return request


class TestGrpc:
    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            (changed(distance=np.array([1.0])), '"distance" has the dtype double, float is'),
            (changed(company=i64([1])), '"company" has the dtype int64, string is expected'),
            (changed(distance=f32([[1.0]])), r'"distance" has the shape \[1, 1\], \[\?\]'),
            (changed(distance=f32(1.0)), r'"distance" has the shape \[\], \[\?\] is'),
            (changed(tail=strings(b"N1")), r"4!=3\. Sent extra: \{tail\}"),
            (without(changed(), "hour"), r"2!=3\. .*Missing but required: \{hour\}"),
            (changed("output_filter: 'odds'"), "not in.*odds|odds.*probability"),
            (changed("output_filter: ['probability', 'probability']"), "duplicate.*probability"),
            (
                tensor("dtype: DT_FLOAT tensor_shape {dim {size: 1000000000000}} float_val: 1"),
                r'"distance" has 1,000,000,000,000 rows, 10,000 are allowed',
            ),
            (
                tensor("dtype: DT_FLOAT tensor_shape {dim {size: -1}} float_val: 1"),
                r'"distance" has no complete shape',
            ),
            (tensor("dtype: DT_FLOAT tensor_shape {unknown_rank: true}"), '"distance" has no comp'),
            (
                tensor("dtype: DT_FLOAT tensor_shape {dim {size: 1}} tensor_content: '123'"),
                '"distance" .*3 bytes of tensor_content, not 4',
            ),
            (
                tensor("dtype: DT_COMPLEX64 tensor_shape {dim {size: 1}} scomplex_val: [1, 0]"),
                '"distance" has the dtype complex64, float is',
            ),
            (tensor("dtype: DT_RESOURCE tensor_shape {dim {size: 1}}"), '"distance".*DT_RESOURCE'),
            (
                tensor(
                    "dtype: DT_STRING tensor_shape {dim {size: 2000}} "
                    f"string_val: '{200_000 * 'x'}'"
                ),
                r'"distance" of shape \[2000\] is larger than',
            ),
            (tensor(""), '"distance" has the dtype DT_INVALID'),
            (predict_request("toy", "", examples=strings(b"\xff" * 50)), "Could not parse example"),
            (
                predict_request("toy", "", examples=strings(b"\n\xff\xff")),
                "Could not parse example",
            ),
            (predict_request("toy", "", **{100_000 * "é": strings(b"")}), "éééé.*Missing but|éééé"),
        ],
    )
    def test_tensors_that_do_not_fit_the_signature_are_named(
        self, server: RunningServer, request_: predict_pb2.PredictRequest, message: str
    ) -> None:
        code, found = refusal(server.predictions.Predict, request_)
        assert code is (EXHAUSTED if "allowed" in message else INVALID)
        assert re.search(message, found), found

    @pytest.mark.parametrize(
        ("spec", "code", "message"),
        [
            ("name: 'tyo'", NOT_FOUND, r"Latest\(tyo\).* being served are the models toy"),
            ("name: 'toy' version {value: 9}", NOT_FOUND, r"Specific\(toy, 9\).* versions 1, 2"),
            ("name: 'toy' version {value: -9}", NOT_FOUND, r"Specific\(toy, -9\)"),
            ("name: 'toy' version_label: 'canary'", INVALID, "label: canary; model toy has stable"),
            ("name: 'toy' signature_name: 'raw'", PRECONDITION, '"raw" not found.*raw_features'),
            ("", INVALID, "ModelSpec has no name specified"),
            (f"name: '{100_000 * 'x'}'", NOT_FOUND, "Servable not found"),
        ],
    )
    def test_missing_model_is_refused(
        self, server: RunningServer, spec: str, code: grpc.StatusCode, message: str
    ) -> None:
        request = changed()
        request.ClearField("model_spec")
        text_format.Merge(f"model_spec {{{spec}}}", request)
        found = refusal(server.predictions.Predict, request)
        assert found[0] is code
        assert re.search(message, found[1])

    @pytest.mark.parametrize(
        ("spec", "code", "message"),
        [
            ("name: 'tyo'", NOT_FOUND, "Could not find any versions of model tyo"),
            ("name: 'toy' version {value: 9}", NOT_FOUND, "Could not find version 9 of model toy"),
            ("", INVALID, "ModelSpec"),
        ],
    )
    def test_status_of_a_missing_model_is_refused(
        self, server: RunningServer, spec: str, code: grpc.StatusCode, message: str
    ) -> None:
        request = get_model_status_pb2.GetModelStatusRequest()
        text_format.Merge(f"model_spec {{{spec}}}", request)
        found = refusal(server.models.GetModelStatus, request)
        assert found[0] is code
        assert message in found[1]

    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            ("model_spec {name: 'toy'}", "must specify at least one metadata_field"),
            ("model_spec {name: 'toy'} metadata_field: 'graph'", "graph is not supported"),
            ("metadata_field: 'signature_def'", "ModelSpec"),
        ],
    )
    def test_metadata_of_a_missing_model_are_refused(
        self, server: RunningServer, request_: str, message: str
    ) -> None:
        request = text_format.Parse(request_, get_model_metadata_pb2.GetModelMetadataRequest())
        code, found = refusal(server.predictions.GetModelMetadata, request)
        assert code is INVALID
        assert message in found

    def test_examples_that_do_not_fit_are_refused(self, server: RunningServer) -> None:
        classify, regress = server.predictions.Classify, server.predictions.Regress
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name, request.model_spec.signature_name = "toy", "classify"
        assert refusal(classify, request) == (INVALID, "Input is empty.")
        request.input.example_list.examples.append(example_of(hour="delayed"))
        code, message = refusal(classify, request)
        assert code is INVALID
        assert re.search("hour.*Data types don't match", message)
        other = regression_pb2.RegressionRequest()
        other.model_spec.name, other.model_spec.signature_name = "toy", "many"
        other.input.example_list.examples.append(example_of(hour=1))
        assert refusal(regress, other) == (INVALID, "Expected one input Tensor.")

    def test_multi_inference_is_unimplemented(self, server: RunningServer) -> None:
        request = inference_pb2.MultiInferenceRequest()
        code, _ = refusal(server.predictions.MultiInference, request)
        assert code is grpc.StatusCode.UNIMPLEMENTED

    @pytest.mark.parametrize("method", ["Predict", "Classify", "Regress", "GetModelMetadata"])
    @pytest.mark.parametrize("content", [b"\xff", b"\n\x05abc", changed().SerializeToString()[:-1]])
    def test_truncated_message_is_refused(
        self, server: RunningServer, method: str, content: bytes
    ) -> None:
        call = server.channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
        code, _ = refusal(call, content)
        assert code is grpc.StatusCode.INTERNAL  # So says TensorFlow Serving's library.


def peak_memory(server: RunningServer) -> int:
    """The most memory the server ever had, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kilobytes) * 1024


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def drip(port: int, head: bytes, piece: bytes, times: int) -> bytes:
    """Sends a piece again and again, and returns the beginning of the response, if any."""
    with connect(port) as client:
        try:
            client.sendall(head)
            for _ in range(times):
                client.sendall(piece)
            return client.recv(1000)
        except ConnectionError:
            return b""


class TestSize:
    """A request that is too large is refused before it is all in memory."""

    @pytest.fixture(autouse=True)
    def _memory_is_flat(self, server: RunningServer) -> Iterator[None]:
        before = peak_memory(server)
        yield
        assert peak_memory(server) < before + 60 * MB

    def test_body_of_exactly_the_limit_is_read(self, server: RunningServer) -> None:
        body = json.dumps(raw({})).encode()
        body += (LIMIT - len(body)) * b" "
        url = "/v1/models/toy:predict"
        assert server.http.post(url, content=body).status_code == 200
        status, message = post(server, "toy:predict", body + b" ")
        assert status == 413
        assert f"larger than the {LIMIT:,} bytes" in message

    def test_body_with_a_large_announced_length_is_refused(self, server: RunningServer) -> None:
        head = (
            b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            % BIG
        )
        response = drip(server.rest_port, head, MB * b" ", 100)
        assert response.startswith(b"HTTP/1.1 413 ")

    def test_chunked_body_that_is_too_large_is_refused(self, server: RunningServer) -> None:
        head = (
            b"POST /v1/models/toy:predict HTTP/1.1\r\n"
            b"Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"%x\r\n%s\r\n" % (MB, MB * b" ")
        assert drip(server.rest_port, head, chunk, 100).startswith(b"HTTP/1.1 413 ")

    @pytest.mark.parametrize("piece", [b"X-Long: %s\r\n" % (1000 * b"x"), 1000 * b"x"])
    def test_endless_headers_are_refused(self, server: RunningServer, piece: bytes) -> None:
        head = b"GET /v1/models/toy HTTP/1.1\r\nHost: localhost\r\nX-Long: "
        response = drip(server.rest_port, head, piece, BIG // len(piece))
        assert response.startswith((b"HTTP/1.1 431 ", b""))

    def test_endless_path_is_refused(self, server: RunningServer) -> None:
        drip(server.rest_port, b"GET /v1/models/", MB * b"x", 100)

    def test_tensor_that_expands_too_far_is_refused(self, server: RunningServer) -> None:
        """One string stands for a whole batch."""
        value = strings(50_000 * b"x")
        request = predict_request("toy", "", examples=value)
        request.inputs["examples"].tensor_shape.dim[0].size = 9000
        code, message = refusal(server.predictions.Predict, request)
        assert code is INVALID
        assert '"examples" of shape [9000] is larger than' in message


def test_grpc_message_that_is_too_large_is_refused(server: RunningServer) -> None:
    # gRPC has it in memory before it looks at its size.
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    code, message = refusal(call, bytes(BIG))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(LIMIT) in message


class TestConnections:
    @pytest.mark.parametrize("port", ["rest_port", "grpc_port"])
    @pytest.mark.parametrize(
        "content",
        [
            random.Random(1).randbytes(10_000),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # as TLS begins
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(range(256)),
            b"GET / HTTP/9.9\r\n\r\n",
            b"\r\n" * 1000,
            b"",
        ],
    )
    def test_garbage_ends_at_most_its_connection(
        self, server: RunningServer, port: str, content: bytes
    ) -> None:
        # The server may close it before all is sent.
        with connect(getattr(server, port)) as client, suppress(OSError):
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass

    @pytest.mark.parametrize(
        "header",
        [
            b"Content-Type: \xff",
            b"Authorization: \xff",
            b"Connection: Upgrade\r\nUpgrade: websocket",
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
        ],
    )
    def test_unknown_headers_are_ignored(self, server: RunningServer, header: bytes) -> None:
        with connect(server.rest_port) as client:
            lines = b"Host: localhost\r\n" + header
            client.sendall(b"GET /v1/models/toy HTTP/1.1\r\n%s\r\n\r\n" % lines)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")

    @pytest.mark.parametrize("host", [b"[", b"\xff\xfe", b"x", b"localhost.evil.example", b"[::1"])
    def test_host_that_the_server_is_not_is_refused(
        self, server: RunningServer, host: bytes
    ) -> None:
        with connect(server.rest_port) as client:
            client.sendall(b"GET /v1/models/toy HTTP/1.1\r\nHost: %s\r\n\r\n" % host)
            assert client.recv(1000).startswith(b"HTTP/1.1 403 ")

    @pytest.mark.parametrize("query", [b"?", b"?a=%ff", b"?%", b"#x"])
    def test_query_string_is_ignored(self, server: RunningServer, query: bytes) -> None:
        with connect(server.rest_port) as client:
            client.sendall(b"GET /v1/models/toy%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % query)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")

    def test_client_may_disconnect_in_the_middle_of_its_request(
        self, server: RunningServer
    ) -> None:
        with connect(server.rest_port) as client:
            client.sendall(
                b"POST /v1/models/toy:predict HTTP/1.1\r\n"
                b"Host: localhost\r\nContent-Length: 100\r\n\r\n{"
            )

    def test_client_may_disconnect_before_the_response(self, server: RunningServer) -> None:
        body = json.dumps(
            {"signature_name": "raw_features", "instances": [GOOD_ROW] * 10_000}
        ).encode()
        with connect(server.rest_port) as client:
            client.sendall(
                b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
        call = server.predictions.Predict.future(changed())
        call.cancel()
