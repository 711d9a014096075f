"""Fuzzing: whatever a client sends, it gets a status of TensorFlow Serving's and no other suffers.

Inputs that once broke the server are kept as examples.
"""

from __future__ import annotations

import base64
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server import inference
from serving.server.errors import ServingError
from serving.server.estimate import is_compressed
from serving.server.models import load_model
from serving.server.signatures import PROTO_DTYPES
from tests.serving.server.running import RunningServer, example_of, predict_request, strings
from tests.serving.server.tensor_strategies import arrays, tensors
from tests.serving.server.toys import f32, i64

Json: TypeAlias = Any

FUZZ = settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
HTTP_REFUSALS = {400, 403, 404, 405, 413}
GRPC_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

ROW = {"distance": 1.0, "hour": 2, "company": "AA"}
COLUMNS = {"distance": f32([1]), "hour": i64([2]), "company": strings(b"AA")}
EXAMPLE = example_of(**ROW)
SERIALIZED = EXAMPLE.SerializeToString()
DOCUMENTS: list[tuple[str, Json]] = [
    ("predict", {"signature_name": "raw_features", "instances": [ROW, ROW]}),
    ("predict", {"signature_name": "raw_features", "inputs": {k: [v] for k, v in ROW.items()}}),
    ("predict", {"instances": [{"b64": base64.b64encode(SERIALIZED).decode()}]}),
    (
        "predict",
        {
            "signature_name": "many",
            "inputs": {
                "matrix": [[1.5, 2]],
                "double": [1e300],
                "byte": [255],
                "flag": [True],
                "text": [""],
            },
        },
    ),
    ("classify", {"signature_name": "classify", "examples": [ROW], "context": {"hour": 3}}),
    ("regress", {"signature_name": "regress", "examples": [{"distance": [1.0], "hour": []}]}),
]
NAMES = st.sampled_from(
    ["instances", "inputs", "examples", "context", "signature_name", "b64", *ROW, "matrix", "text"]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400, 1e39]),
    st.floats(),
    st.text(st.characters(exclude_categories=()), max_size=10),
    st.binary(max_size=10).map(lambda value: base64.b64encode(value).decode()),
    NAMES,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def _lives_on(server: RunningServer) -> Any:
    yield
    check(server)


def check(server: RunningServer) -> None:
    """Sends good requests, which must succeed."""
    assert server.predictions.Predict(predict_request("toy", "raw_features", **COLUMNS))
    assert server.rest(f"toy:{DOCUMENTS[0][0]}", DOCUMENTS[0][1]).status_code == 200


@st.composite
def near(draw: st.DrawFn, document: Json) -> Json:
    """A JSON value that differs from another in one place."""
    if isinstance(document, dict) and document and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(document)))
        change = draw(st.sampled_from(["inside", "inside", "inside", "remove", "rename", "add"]))
        changed = dict(document)
        if change == "inside":
            changed[key] = draw(near(document[key]))
        if change in ("remove", "rename"):
            value = changed.pop(key)
            if change == "rename":
                changed[draw(NAMES)] = value
        if change == "add":
            changed[draw(NAMES)] = draw(VALUES)
        return changed
    if isinstance(document, list) and document and draw(st.integers(0, 5)):
        index = draw(st.integers(0, len(document) - 1))
        items = list(document)
        match draw(st.sampled_from(["inside", "inside", "remove", "repeat"])):
            case "inside":
                items[index] = draw(near(document[index]))
            case "remove":
                del items[index]
            case "repeat":
                items *= draw(st.integers(2, 50))
        return items
    return draw(VALUES)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of which a piece is lost, replaced or there twice."""
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(len(content), start + draw(st.sampled_from([1, 8, 1000])))))
    piece = draw(st.one_of(st.binary(max_size=8), st.just(content[start:end] * 2), st.just(b"")))
    return content[:start] + piece + content[end:]


class TestRest:
    @FUZZ
    @given(data=st.data())
    def test_rest_accepts_or_refuses_nearly_valid_documents(
        self, server: RunningServer, data: st.DataObject
    ) -> None:
        method, document = data.draw(st.sampled_from(DOCUMENTS))
        body = json.dumps(data.draw(near(document))).encode()
        if data.draw(st.integers(0, 3)) == 0:
            body = data.draw(damaged(body))
        self.post(server, method, body)

    @FUZZ
    @given(method=st.sampled_from(["predict", "classify", "regress"]), body=st.binary())
    @example("predict", b'{"instances": [{"b64": "/////w=="}]}')
    @example("predict", b'{"signature_name": "\\udcff", "instances": [1]}')
    @example("predict", b'{"instances": ["\\udcff"]}')
    @example("regress", b'{"signature_name": "\xc3\xa9", "examples": [{}]}')
    @example("classify", b'{"examples": [{"\\udcff": 1}]}')
    @example("predict", b"[" * 10_000)
    @example("predict", b'{"instances": [' + b"9" * 10_000 + b"]}")
    def test_rest_survives_random_bytes(
        self, server: RunningServer, method: str, body: bytes
    ) -> None:
        self.post(server, method, body)

    def post(self, server: RunningServer, method: str, body: bytes) -> None:
        response = server.http.post(f"/v1/models/toy:{method}", content=body)
        found = response.json()
        if response.status_code == 200:
            assert found.keys() <= {"predictions", "outputs", "results"}
        else:
            assert response.status_code == 400, response.text
            assert list(found) == ["error"]
            assert found["error"]

    GOOD = (
        b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
        b"Content-Length: 73\r\n\r\n"
        b'{"signature_name": "raw_features", "instances": [{"distance": 1, "hour": 1}]}'
    )

    @FUZZ
    @given(st.one_of(damaged(GOOD), damaged(GOOD[:60] + b"\r\n\r\n"), st.binary()))
    @example(b"GET /v1/models/toy/versions/" + 5000 * b"9" + b" HTTP/1.1\r\n\r\n")
    @example(b"GET /v1/models/toy HTTP/1.1\r\nHost: [\r\n\r\n")
    @example(b"GET //v1/models/toy?%ff#%ff HTTP/1.1\r\nHost: localhost\r\n\r\n")
    @example(b"GET /v1/models/%ff%00%0a%2f HTTP/1.1\r\nHost: localhost\r\n\r\n")
    @example(b"OPTIONS * HTTP/1.1\r\n\r\n")
    @example(b"CONNECT x:1 HTTP/1.1\r\n\r\n")
    @example(b"POST /v1/models/toy:predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n")
    @example(
        b"POST /v1/models/toy:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n"
    )
    def test_rest_survives_random_http(self, server: RunningServer, content: bytes) -> None:
        response = b""
        with (
            socket.create_connection(("127.0.0.1", server.rest_port), timeout=60) as client,
            suppress(ConnectionError),
        ):
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65536):
                response += piece
        if response:
            version, status, *_ = response.split(b" ", 2)
            assert version == b"HTTP/1.1"
            assert int(status) in HTTP_REFUSALS | {100, 200}, response

    PIECES = st.one_of(
        st.sampled_from(
            [
                "models",
                "toy",
                "versions",
                "labels",
                "stable",
                "1",
                "metadata",
                ":predict",
                "/",
                "%2f",
            ]
        ),
        st.text(max_size=4),
    )

    @FUZZ
    @given(
        method=st.sampled_from(["GET", "POST", "PUT", "HEAD"]), pieces=st.lists(PIECES, max_size=8)
    )
    @example("GET", ["monitoring/prometheus/metrics/"])
    @example("GET", ["models/toy/versions/", 5000 * "9"])
    def test_rest_survives_random_paths(
        self, server: RunningServer, method: str, pieces: list[str]
    ) -> None:
        path = "/".join(["v1", *pieces])
        response = server.http.request(method, "/" + quote(path, safe="/:%"))
        assert response.status_code in {200, *HTTP_REFUSALS}, response.text
        if response.status_code != 200 and method != "HEAD":
            assert response.json()["error"]


METHODS: dict[str, tuple[Any, Any]] = {
    "PredictionService/Predict": (
        predict_pb2.PredictRequest,
        predict_request("toy", "raw_features", **COLUMNS),
    ),
    "PredictionService/Classify": (
        classification_pb2.ClassificationRequest,
        classification_pb2.ClassificationRequest(
            model_spec=model_pb2.ModelSpec(name="toy", signature_name="classify"),
            input=input_pb2.Input(example_list=input_pb2.ExampleList(examples=[EXAMPLE])),
        ),
    ),
    "PredictionService/Regress": (
        regression_pb2.RegressionRequest,
        regression_pb2.RegressionRequest(
            model_spec=model_pb2.ModelSpec(name="toy", signature_name="regress"),
            input=input_pb2.Input(
                example_list_with_context=input_pb2.ExampleListWithContext(
                    examples=[EXAMPLE], context=EXAMPLE
                )
            ),
        ),
    ),
    "PredictionService/GetModelMetadata": (
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=model_pb2.ModelSpec(name="toy"), metadata_field=["signature_def"]
        ),
    ),
    "ModelService/GetModelStatus": (
        get_model_status_pb2.GetModelStatusRequest,
        get_model_status_pb2.GetModelStatusRequest(model_spec=model_pb2.ModelSpec(name="toy")),
    ),
}


def send(server: RunningServer, method: str, content: bytes) -> None:
    """Sends bytes to a method of gRPC, and checks the status of the response."""
    kind, _ = METHODS[method]
    try:
        kind.FromString(content)
        allowed = GRPC_REFUSALS
    except DecodeError:
        allowed = {grpc.StatusCode.INTERNAL}
    if is_compressed(content):
        allowed = {grpc.StatusCode.INVALID_ARGUMENT}
    call = server.channel.unary_unary(f"/tensorflow.serving.{method}")
    try:
        call(content, timeout=60)
    except grpc.RpcError as error:
        refusal = error
    else:
        return
    assert refusal.code() in allowed, refusal
    assert refusal.details()


class TestGrpc:
    @FUZZ
    @given(method=st.sampled_from(sorted(METHODS)), content=st.binary())
    @example("PredictionService/Predict", b"\n\x05abc")
    @example("PredictionService/Predict", b"")
    @example("PredictionService/Predict", b"\x1f\x8b")
    def test_grpc_survives_random_bytes(
        self, server: RunningServer, method: str, content: bytes
    ) -> None:
        send(server, method, content)

    @FUZZ
    @given(data=st.data())
    def test_grpc_accepts_or_refuses_nearly_valid_messages(
        self, server: RunningServer, data: st.DataObject
    ) -> None:
        method = data.draw(st.sampled_from(sorted(METHODS)))
        good: bytes = METHODS[method][1].SerializeToString()
        send(server, method, data.draw(damaged(good)))

    @FUZZ
    @given(
        signature=st.sampled_from(["", "raw_features", "many", "classify", "regress"]),
        inputs=st.dictionaries(
            st.sampled_from(["examples", "inputs", *ROW, "matrix", "text", "é"]),
            tensors(),
            max_size=3,
        ),
        filters=st.lists(st.sampled_from(["probability", "sum", ""]), max_size=2),
    )
    def test_grpc_accepts_or_refuses_random_tensors(
        self, server: RunningServer, signature: str, inputs: Any, filters: list[str]
    ) -> None:
        request = METHODS["PredictionService/Predict"][1]
        request = predict_pb2.PredictRequest(model_spec=request.model_spec, output_filter=filters)
        request.model_spec.signature_name = signature
        if signature == "raw_features":  # A good request but for some inputs.
            base = predict_request("toy", signature, **COLUMNS)
            request.MergeFrom(predict_pb2.PredictRequest(inputs=base.inputs))
        for name, proto in inputs.items():
            request.inputs[name].CopyFrom(proto)
        send(server, "PredictionService/Predict", request.SerializeToString())

    @FUZZ
    @given(content=st.one_of(st.binary(max_size=60), damaged(SERIALIZED)))
    @example(b"\xff" * 50)
    @example(b"\n\xff\xff")
    def test_grpc_accepts_or_refuses_random_examples(
        self, server: RunningServer, content: bytes
    ) -> None:
        request = predict_request("toy", "", examples=strings(content))
        send(server, "PredictionService/Predict", request.SerializeToString())
        with suppress(DecodeError):
            classify = METHODS["PredictionService/Classify"][1]
            request = classification_pb2.ClassificationRequest()
            request.CopyFrom(classify)
            parsed = example_pb2.Example.FromString(content)
            request.input.example_list.examples.append(parsed)
            send(server, "PredictionService/Classify", request.SerializeToString())

    @settings(FUZZ, max_examples=30)
    @given(
        content=st.one_of(
            st.binary(), st.binary().map(lambda b: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b)
        )
    )
    def test_grpc_port_survives_random_bytes(self, server: RunningServer, content: bytes) -> None:
        with (
            socket.create_connection(("127.0.0.1", server.grpc_port), timeout=60) as client,
            suppress(ConnectionError),
        ):
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass


@pytest.fixture(scope="module")
def tflite(toys: Path) -> Any:
    return load_model(str(toys / "toy" / "2"), prefer_tflite=True, concurrency=1)


@FUZZ
@given(
    st.fixed_dictionaries(
        {name: st.one_of(st.just(array), arrays()) for name, array in COLUMNS.items()}
    )
)
def test_tflite_model_survives_random_arrays(tflite: Any, columns: dict[str, np.ndarray]) -> None:
    try:
        outputs = inference.predict(tflite, "raw_features", columns, (), 60)
        found = outputs["probability"]
    except ServingError as error:
        refusal, found = error, None
    if found is None:
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    else:
        # An input with one row goes with any number of rows of the others.
        assert found.shape == (*np.broadcast_shapes(*(c.shape for c in columns.values())), 1)
        assert found.dtype in PROTO_DTYPES
    good = inference.predict(tflite, "raw_features", COLUMNS, (), 60)
    assert 0 < good["probability"][0, 0] < 1
