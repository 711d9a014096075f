"""Clients of a model server over gRPC and REST, whose errors say why a request failed."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from components.serving_validator.rows import (
    Inputs,
    examples_request,
    predict_request,
    rest_body,
    rest_examples_body,
)
from components.serving_validator.server import HOST
from storage.names import DEFAULT_SIGNATURE

State = get_model_status_pb2.ModelVersionStatus.State

_CHANNEL_OPTIONS = [("grpc.enable_http_proxy", 0)]
_CONNECT_SECONDS = 1.0
_Response = TypeVar("_Response")


class TimedOut(Exception):
    """The server did not respond in time."""


class Disconnected(Exception):
    """The server cannot be reached, or broke the connection."""


class Refused(Exception):
    """The server responded with an error, or with something that is no prediction."""


@dataclass(frozen=True)
class Method:
    """A method that takes tf.Examples: classify or regress.

    Attributes:
      name: Name of the method in the REST interface, and of the model's signature for it.
      request: Its request over gRPC.
    """

    name: str
    request: Any


CLASSIFY = Method("classify", classification_pb2.ClassificationRequest)
REGRESS = Method("regress", regression_pb2.RegressionRequest)


@dataclass(frozen=True)
class Result:
    """The response to a request to classify or to regress one row.

    Attributes:
      values: The score of each class, or the number, float64 [values].
      classes: Name of each class; none of a number.
    """

    values: np.ndarray
    classes: tuple[str, ...] = ()


class Client(Protocol):
    """One of the interfaces of a model server."""

    def prepare(self, inputs: Inputs, row: int) -> Callable[[float], np.ndarray]:
        """Makes a request to `serving_default` for one row.

        Args:
          inputs: Inputs of the signature by name, each [batch, ...].
          row: Which row.

        Returns:
          A function that takes the seconds to wait, sends the request, and returns the one output,
          float64 [values]. It raises `TimedOut`, `Disconnected` or `Refused`.
        """
        ...

    def prepare_example(self, method: Method, example: bytes) -> Callable[[float], Result]:
        """Makes a request to classify or to regress a serialized tf.Example; see `prepare`."""
        ...


class GrpcClient:
    """TensorFlow Serving's gRPC interface; see `Client`.

    Args:
      port: Port of the loopback interface.
      model_name: Name of the model.
    """

    def __init__(self, port: int, model_name: str):
        self._port = port
        self._channel = grpc.insecure_channel(f"{HOST}:{port}", options=_CHANNEL_OPTIONS)
        self._model_name = model_name
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def status(self) -> tuple[int, str]:
        """State of the model's one version, `State.UNKNOWN` if there is none yet, and its error."""
        if not _listens(self._port):  # A call now would keep the next one waiting for a second.
            return State.UNKNOWN, ""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self._model_name
        try:
            response = self._models.GetModelStatus(request, timeout=_CONNECT_SECONDS)
        except grpc.RpcError:
            return State.UNKNOWN, ""
        for version in response.model_version_status:
            return version.state, version.status.error_message
        return State.UNKNOWN, ""

    def signatures(self, seconds: float) -> Mapping[str, meta_graph_pb2.SignatureDef]:
        """Requests the signatures by name; see `Client.prepare` for the errors."""
        request = get_model_metadata_pb2.GetModelMetadataRequest()
        request.model_spec.name = self._model_name
        request.metadata_field.append("signature_def")
        try:
            response = self._predict.GetModelMetadata(request, timeout=seconds)
        except grpc.RpcError as error:
            raise _explain(error) from error
        found = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        if DEFAULT_SIGNATURE not in found.signature_def:
            raise Refused(
                f"no signature {DEFAULT_SIGNATURE}; it has {', '.join(sorted(found.signature_def))}"
            )
        return dict(found.signature_def)

    def prepare(self, inputs: Inputs, row: int) -> Callable[[float], np.ndarray]:
        """See `Client`."""
        request = predict_request(self._model_name, DEFAULT_SIGNATURE, inputs, row)

        def send(seconds: float) -> np.ndarray:
            try:
                response = self._predict.Predict(request, timeout=seconds)
            except grpc.RpcError as error:
                raise _explain(error) from error
            return _one_output([tf.make_ndarray(proto) for proto in response.outputs.values()])

        return send

    def prepare_example(self, method: Method, example: bytes) -> Callable[[float], Result]:
        """See `Client`."""
        request = examples_request(method.request, self._model_name, method.name, example)
        call = self._predict.Classify if method is CLASSIFY else self._predict.Regress

        def send(seconds: float) -> Result:
            try:
                result = call(request, timeout=seconds).result
            except grpc.RpcError as error:
                raise _explain(error) from error
            if method is REGRESS:
                return Result(np.array([one.value for one in result.regressions]))
            classes = [one for row in result.classifications for one in row.classes]
            scores = np.array([one.score for one in classes], float)
            return Result(scores, tuple(one.label for one in classes))

        return send


class RestClient:
    """TensorFlow Serving's REST interface; see `Client`.

    Args:
      port: Port of the loopback interface.
      model_name: Name of the model.
    """

    def __init__(self, port: int, model_name: str):
        self._port = port
        self._connection = http.client.HTTPConnection(HOST, port)
        self._path = f"/v1/models/{quote(model_name)}"

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def is_up(self) -> bool:
        """Whether the server listens."""
        return _listens(self._port)

    def prepare(self, inputs: Inputs, row: int) -> Callable[[float], np.ndarray]:
        """See `Client`."""
        body = rest_body(DEFAULT_SIGNATURE, inputs, row)

        def read(content: Any) -> np.ndarray:
            return _one_output([np.asarray(content["predictions"])])

        return self._prepare("predict", body, read)

    def prepare_example(self, method: Method, example: bytes) -> Callable[[float], Result]:
        """See `Client`."""
        body = rest_examples_body(method.name, example)

        def read(content: Any) -> Result:
            (result,) = content["results"]
            if method is REGRESS:
                return Result(np.array([float(result)]))
            names, scores = zip(*result, strict=True)
            return Result(np.array(scores, float), tuple(map(str, names)))

        return self._prepare(method.name, body, read)

    def _prepare(
        self, method: str, body: bytes, read: Callable[[Any], _Response]
    ) -> Callable[[float], _Response]:
        def send(seconds: float) -> _Response:
            status, answer = self._post(f"{self._path}:{method}", body, seconds)
            try:
                content = json.loads(answer)
                if status != http.client.OK:
                    raise Refused(f"{status}: {content['error']}")
                return read(content)
            except (ValueError, KeyError, TypeError) as error:
                raise Refused(f"{status}: {answer[:300].decode(errors='replace')}") from error

        return send

    def _post(self, path: str, body: bytes, seconds: float) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        try:
            if self._connection.sock is None:
                self._connection.timeout = seconds
                self._connection.connect()
            self._connection.sock.settimeout(seconds)
            self._connection.request("POST", path, body, headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except TimeoutError as error:
            raise TimedOut from error
        except (OSError, http.client.HTTPException) as error:
            raise Disconnected(str(error) or type(error).__name__) from error


def _listens(port: int) -> bool:
    """Whether something listens on a port of the loopback interface."""
    try:
        socket.create_connection((HOST, port), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _explain(error: grpc.RpcError) -> Exception:
    code, message = error.code(), error.details()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut()
    if code == grpc.StatusCode.UNAVAILABLE:
        return Disconnected(message)
    return Refused(f"{code.name}: {message}")


def _one_output(outputs: list[np.ndarray]) -> np.ndarray:
    if len(outputs) != 1 or outputs[0].dtype.kind not in "fiub":
        raise Refused(f"{len(outputs)} outputs; exactly one is needed, of numbers")
    return outputs[0].astype(np.float64).ravel()
