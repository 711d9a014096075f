"""TensorFlow Serving's gRPC services, and the standard health service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
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
from serving.server.errors import ServingError, invalid
from serving.server.health import HealthService
from serving.server.manager import Served
from serving.server.service import Call, Service

Context: TypeAlias = grpc.aio.ServicerContext

SIGNATURE_DEF = "signature_def"


class RpcInterface:
    """Answers `tensorflow.serving.PredictionService` and `ModelService`.

    MultiInference is not implemented, and the configuration cannot be reloaded.

    Args:
      service: What answers.
      max_bytes: Largest tensor of a request, unfolded.
      authenticator: Knows the tokens that requests have to bring.
    """

    def __init__(self, service: Service, max_bytes: int, authenticator: Authenticator):
        self._service = service
        self._authenticator = authenticator
        self._max_bytes = max_bytes

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """What a gRPC server is given, once for each service."""
        predict, classify = predict_pb2.PredictRequest, classification_pb2.ClassificationRequest
        regress, metadata = (
            regression_pb2.RegressionRequest,
            get_model_metadata_pb2.GetModelMetadataRequest,
        )
        return [
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.PredictionService",
                {
                    "Predict": _handler(self._predict, predict),
                    "Classify": _handler(self._classify, classify),
                    "Regress": _handler(self._regress, regress),
                    "GetModelMetadata": _handler(self._metadata, metadata),
                },
            ),
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.ModelService",
                {
                    "GetModelStatus": _handler(
                        self._status, get_model_status_pb2.GetModelStatusRequest
                    )
                },
            ),
        ]

    async def _predict(
        self, request: predict_pb2.PredictRequest, context: Context
    ) -> predict_pb2.PredictResponse:
        call = self._call("predict", request, context)
        signature = request.model_spec.signature_name

        def work(served: Served, left: float) -> predict_pb2.PredictResponse:
            inputs = inference.read_inputs(request, self._max_bytes)
            outputs = self._service.predict(
                call, served, signature, inputs, request.output_filter, left
            )
            response = inference.to_response(outputs)
            inference.fill_model_spec(response.model_spec, served.name, served.version, signature)
            return response

        return await self._service.compute(call, work, context.time_remaining())

    async def _classify(
        self, request: classification_pb2.ClassificationRequest, context: Context
    ) -> classification_pb2.ClassificationResponse:
        call = self._call("classify", request, context)
        signature = request.model_spec.signature_name

        def work(served: Served, left: float) -> classification_pb2.ClassificationResponse:
            examples = inference.serialized_examples(request.input)
            result = self._service.classify(call, served, signature, examples, left)
            response = classification_pb2.ClassificationResponse(result=result)
            inference.fill_model_spec(response.model_spec, served.name, served.version, signature)
            return response

        return await self._service.compute(call, work, context.time_remaining())

    async def _regress(
        self, request: regression_pb2.RegressionRequest, context: Context
    ) -> regression_pb2.RegressionResponse:
        call = self._call("regress", request, context)
        signature = request.model_spec.signature_name

        def work(served: Served, left: float) -> regression_pb2.RegressionResponse:
            examples = inference.serialized_examples(request.input)
            result = self._service.regress(call, served, signature, examples, left)
            response = regression_pb2.RegressionResponse(result=result)
            inference.fill_model_spec(response.model_spec, served.name, served.version, signature)
            return response

        return await self._service.compute(call, work, context.time_remaining())

    async def _metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: Context
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        call = self._call("metadata", request, context)
        return self._service.look_up(call, lambda: read_metadata(self._service, call, request))

    async def _status(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: Context
    ) -> get_model_status_pb2.GetModelStatusResponse:
        call = self._call("status", request, context)
        return self._service.look_up(
            call, lambda: self._service.manager.status(call.name, call.version)
        )

    def _call(self, method: str, request: Any, context: Context) -> Call:
        spec: model_pb2.ModelSpec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        label = spec.version_label or None
        grant = self._authenticator.authenticate(_authorization(context.invocation_metadata()))
        return Call("grpc", method, context.peer(), spec.name, version, label, grant=grant)


def _handler(
    answer: Callable[[Any, Context], Awaitable[Any]], kind: type[Message]
) -> grpc.RpcMethodHandler:
    """Parses requests of a kind, and ends those that are refused with their status."""

    async def handle(content: bytes, context: Context) -> Any:
        try:
            request = kind.FromString(content)
        except DecodeError as error:
            # As gRPC says in C++; here it would be UNKNOWN.
            await context.abort(grpc.StatusCode.INTERNAL, f"no {kind.__name__}: {error}")
        try:
            return await answer(request, context)
        except ServingError as error:
            await context.abort(error.code, error.message)

    return grpc.unary_unary_rpc_method_handler(
        handle, response_serializer=lambda response: response.SerializeToString()
    )


def read_metadata(
    service: Service, call: Call, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Answers a request for metadata.

    Raises:
      ServingError: If something other than the signatures is asked for, or the version is not being
        served.
    """
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != SIGNATURE_DEF:
            raise invalid(f"Metadata field {name} is not supported; {SIGNATURE_DEF} is")
    served = service.manager.find(call.name, call.version, call.label)
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
    authenticator: Authenticator,
) -> grpc.aio.Server:
    """A gRPC server, not started.

    Args:
      service: What answers.
      health_service: The health service, which needs no token.
      max_bytes: Largest request.
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
        ],
    )
    server.add_generic_rpc_handlers(RpcInterface(service, max_bytes, authenticator).handlers())
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

        # Of a stream nothing is read unless it is asked for.
        return grpc.stream_unary_rpc_method_handler(refuse)


def _authorization(metadata: Any) -> list[str | bytes]:
    """The values of all authorization headers."""
    return [value for key, value in metadata or () if key == "authorization"]
