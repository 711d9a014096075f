"""TensorFlow Serving's gRPC services, and the standard health service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server import inference
from serving.server.authentication import Authenticator, UnauthenticatedError
from serving.server.calls import LONGEST_NAME, Call
from serving.server.connections import HANDSHAKE_SECONDS
from serving.server.errors import ServingError, invalid
from serving.server.estimate import WORST_MESSAGE, inflate, is_compressed, too_large, weigh_message
from serving.server.health import HealthService
from serving.server.model_request import LargeRequest, ModelRequest, examples_request
from serving.server.models import Arrays
from serving.server.service import Service
from serving.server.signatures import SIGNATURE_DEF
from serving.server.work_queue import deadline_exceeded

Context: TypeAlias = grpc.aio.ServicerContext

_LARGEST_LOOK_UP = 64 << 10
_IDENTITY_AND_GZIP = 0b101
_IDLE_SECONDS = 300


class RpcInterface:
    """Serves `tensorflow.serving.PredictionService` and `ModelService`.

    MultiInference is not implemented, and the configuration cannot be reloaded.

    Args:
      service: What computes the responses.
      max_bytes: Largest request, also decompressed and unfolded.
      max_rows: Most rows of a request.
      authenticator: Knows the tokens that requests have to bring.
    """

    def __init__(
        self, service: Service, max_bytes: int, max_rows: int, authenticator: Authenticator
    ):
        self._authenticator = authenticator
        self._service = service
        self._max_bytes = max_bytes
        self._max_rows = max_rows

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """What a gRPC server is given, once for each service."""
        return [
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.PredictionService",
                {
                    "Predict": self._computed("predict", predict_pb2.PredictRequest, self._predict),
                    "Classify": self._computed(
                        "classify", classification_pb2.ClassificationRequest, self._classify
                    ),
                    "Regress": self._computed(
                        "regress", regression_pb2.RegressionRequest, self._regress
                    ),
                    "GetModelMetadata": self._looked_up(
                        "metadata",
                        get_model_metadata_pb2.GetModelMetadataRequest,
                        lambda call, request: read_metadata(self._service, call, request),
                    ),
                },
            ),
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.ModelService",
                {
                    "GetModelStatus": self._looked_up(
                        "status",
                        get_model_status_pb2.GetModelStatusRequest,
                        lambda call, request: self._service.manager.status(call.name, call.version),
                    )
                },
            ),
        ]

    def _predict(self, call: Call, request: predict_pb2.PredictRequest) -> ModelRequest:
        served = self._service.find(call)
        signature = request.model_spec.signature_name

        def write(outputs: Arrays) -> bytes:
            response = inference.to_response(outputs)
            _fill_model_spec(response.model_spec, call, signature)
            return _serialize(response)

        inputs = inference.read_inputs(request, self._max_bytes, self._max_rows)
        return ModelRequest(served, signature, inputs, write, request.output_filter)

    def _classify(
        self, call: Call, request: classification_pb2.ClassificationRequest
    ) -> ModelRequest:
        return self._examples(call, request, classification_pb2.ClassificationResponse)

    def _regress(self, call: Call, request: regression_pb2.RegressionRequest) -> ModelRequest:
        return self._examples(call, request, regression_pb2.RegressionResponse)

    def _examples(self, call: Call, request: Any, kind: type[Message]) -> ModelRequest:
        served = self._service.find(call)
        signature = request.model_spec.signature_name
        examples = inference.serialized_examples(request.input, self._max_bytes, self._max_rows)

        def write(result: Message) -> bytes:
            response: Any = kind(result=result)
            _fill_model_spec(response.model_spec, call, signature)
            return _serialize(response)

        return examples_request(call.method, served, signature, examples, write)

    def _computed(
        self, method: str, kind: type[Message], to_request: Callable[[Call, Any], ModelRequest]
    ) -> grpc.RpcMethodHandler:
        """Computes requests of a kind in a worker."""

        async def respond(call: Call, content: bytes, context: Context) -> bytes:
            def read(most: int) -> ModelRequest:
                message = inflate(content, self._max_bytes)
                if (
                    len(message) * WORST_MESSAGE > most
                    and weigh_message(message, kind.DESCRIPTOR, most) > most
                ):
                    raise LargeRequest
                return to_request(call, _parse(call, message, kind))

            seconds = context.time_remaining()
            plain = not is_compressed(content)
            return await self._service.compute(call, read, len(content), seconds, plain)

        return self._handler(method, respond)

    def _looked_up(
        self, method: str, kind: type[Message], look: Callable[[Call, Any], Message]
    ) -> grpc.RpcMethodHandler:
        """Responds to small requests of a kind at once."""

        async def respond(call: Call, content: bytes, context: Context) -> bytes:
            def work() -> bytes:
                if len(content) > _LARGEST_LOOK_UP:
                    raise too_large(_LARGEST_LOOK_UP)
                message = inflate(content, _LARGEST_LOOK_UP)
                request = _parse(call, message, kind)
                call.grant.check(call.method, call.name)
                return _serialize(look(call, request))

            return self._service.look_up(call, work)

        return self._handler(method, respond)

    def _handler(
        self, method: str, respond: Callable[[Call, bytes, Context], Awaitable[bytes]]
    ) -> grpc.RpcMethodHandler:
        """Reads requests when there is room for them, and says the status of those refused.

        As a stream, since the only message of another request is read before anything else is done.
        """

        async def handle(requests: object, context: Context) -> Any:
            try:
                given = _authorization(context.invocation_metadata())
                grant = self._authenticator.authenticate(given)
                header = partial(_metadata_value, context)
                call = Call("grpc", method, context.peer(), grant=grant, header=header)
                try:
                    grant.check(method)  # Before anything is read.
                    seconds = self._service.deadline_seconds
                    async with asyncio.timeout(seconds):
                        async with self._service.arrivals["grpc"].room(self._max_bytes):
                            content = await context.read()
                except TimeoutError:
                    self._service.refuse(call, deadline_exceeded(seconds))
                except ServingError as error:
                    self._service.refuse(call, error)
                if content is grpc.aio.EOF:
                    content = b""
                return await respond(call, content, context)
            except ServingError as error:
                await context.abort(error.code, error.message)

        return grpc.stream_unary_rpc_method_handler(handle)


def _parse(call: Call, content: bytes, kind: type[Message]) -> Any:
    """A request of a kind; what it is for is noted in the call."""
    try:
        request: Any = kind.FromString(content)
    except DecodeError as error:
        # As gRPC says in C++.
        reason = f"no {kind.__name__}: {error}"
        raise ServingError(grpc.StatusCode.INTERNAL, reason, quotes=True) from None
    spec: model_pb2.ModelSpec = request.model_spec
    call.name = spec.name[:LONGEST_NAME]
    call.version = spec.version.value if spec.HasField("version") else None
    call.label = spec.version_label[:LONGEST_NAME] or None
    return request


def _fill_model_spec(spec: model_pb2.ModelSpec, call: Call, signature: str) -> None:
    """Says in a response which version predicted."""
    assert call.version is not None
    inference.fill_model_spec(spec, call.name, call.version, signature)


def _serialize(message: Message) -> bytes:
    return bytes(message.SerializeToString())


def read_metadata(
    service: Service, call: Call, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The response to a request for metadata.

    Raises:
      ServingError: If something other than the signatures is wanted, or the version is not being
        served.
    """
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != SIGNATURE_DEF:
            raise invalid(f"Metadata field {name} is not supported; {SIGNATURE_DEF} is")
    served = service.find(call)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = served.name
    response.model_spec.version.value = served.version
    signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=served.model.signature_defs)
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response


def make_server(
    service: Service,
    health_service: HealthService,
    *,
    max_bytes: int,
    max_rows: int,
    max_connections: int,
    authenticator: Authenticator,
) -> grpc.aio.Server:
    """A gRPC server, not started.

    Args:
      service: What computes the responses.
      health_service: The health service, which needs no token.
      max_bytes: Largest request.
      max_rows: Most rows of a request.
      max_connections: Most connections at a time.
      authenticator: Knows the tokens that requests have to bring.

    Returns:
      The server.
    """
    server = grpc.aio.server(
        interceptors=[_TokenInterceptor(authenticator)] if authenticator.is_needed else [],
        options=[
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            # gRPC would decompress a message before it looks at its size; `inflate` is careful.
            ("grpc.per_message_decompression", 0),
            ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_AND_GZIP),
            ("grpc.max_allowed_incoming_connections", max_connections),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
            ("grpc.max_connection_idle_ms", _IDLE_SECONDS * 1000),
        ],
    )
    interface = RpcInterface(service, max_bytes, max_rows, authenticator)
    server.add_generic_rpc_handlers(interface.handlers())
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    return server


class _TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses requests without a token that is known, before their message is read."""

    def __init__(self, authenticator: Authenticator):
        self._authenticator = authenticator

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """See `grpc.aio.ServerInterceptor`."""
        if details.method.startswith(f"/{health.SERVICE_NAME}/"):
            return await continuation(details)
        try:
            self._authenticator.authenticate(_authorization(details.invocation_metadata))
        except UnauthenticatedError as error:
            return self._refusal(error)
        return await continuation(details)

    def _refusal(self, error: UnauthenticatedError) -> grpc.RpcMethodHandler:
        async def refuse(messages: AsyncIterator[bytes], context: Context) -> None:
            self._authenticator.record(error, "grpc", context.peer())
            await context.abort(error.code, error.message)

        # Of a stream nothing is read unless it is read.
        return grpc.stream_unary_rpc_method_handler(refuse)


def _metadata_value(context: Context, name: str) -> str | None:
    """The value of an entry of the metadata; several are one, separated by commas."""
    values = [value for key, value in context.invocation_metadata() or () if key == name]
    texts = [one if isinstance(one, str) else one.hex() for one in values]
    return ",".join(texts) if texts else None


def _authorization(metadata: Any) -> list[str | bytes]:
    """The values of all authorization headers."""
    return [value for key, value in metadata or () if key == "authorization"]
