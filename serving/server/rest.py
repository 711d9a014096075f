"""TensorFlow Serving's REST interface, and `:explain` of KServe's V1 protocol."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import get_model_metadata_pb2

from serving.server import explaining, inference, json_requests, json_responses
from serving.server.authentication import Authenticator, Grant, UnauthenticatedError
from serving.server.browsers import BrowserRules
from serving.server.calls import Call
from serving.server.errors import ServingError, invalid
from serving.server.estimate import WORST_JSON, inflate, too_large, weigh_json
from serving.server.model_request import LargeRequest, ModelRequest, examples_request
from serving.server.models import Arrays
from serving.server.playground import Playground
from serving.server.rpc import read_metadata
from serving.server.service import Service
from serving.server.settings import METRICS_PATH
from serving.server.signatures import SIGNATURE_DEF
from storage.names import RAW_SIGNATURE
from storage.versions import MAX_VERSION

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_METHOD = r":(?P<method>classify|explain|regress|predict)"
_ASK = re.compile(_MODEL + _METHOD, re.IGNORECASE | re.ASCII)
_LOOK = re.compile(_MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE | re.ASCII)

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_TOO_SLOW = 408
_MOST_DIGITS = 100  # Python refuses to read more than some thousands.


class RestInterface:
    """Takes requests over HTTP.

    Args:
      service: What computes the responses.
      max_bytes: Largest body, also decompressed.
      max_rows: Most rows of a request.
      deadline_seconds: Longest time for a client to send its request.
      authenticator: Knows the tokens that requests have to bring.
      cors_origins: Origins whose pages may send requests from a browser; "*" for any.
      rules: Which requests of browsers are refused.
      ui: Whether there is a page at `/` on which people try the models.
    """

    def __init__(
        self,
        service: Service,
        *,
        max_bytes: int,
        max_rows: int,
        deadline_seconds: float,
        authenticator: Authenticator,
        cors_origins: Sequence[str] = (),
        rules: BrowserRules | None = None,
        ui: bool = False,
    ):
        self._service = service
        self._max_bytes = max_bytes
        self._max_rows = max_rows
        self._deadline_seconds = deadline_seconds
        self._authenticator = authenticator
        self._cors_origins = cors_origins
        self._rules = rules or BrowserRules()
        self._playground = Playground(service, self._rules, _peer) if ui else None
        self._readers: Mapping[str, Callable[[Call, bytes], ModelRequest]] = {
            "predict": self._predict,
            "explain": self._explain,
        }

    def make_app(self) -> Starlette:
        """The application that a server runs."""
        routes = [
            Route(METRICS_PATH, self._guarded(self._metrics), methods=["GET"]),
            Route("/v1/{path:path}", self._guarded(self._respond), methods=_METHODS),
        ]
        if self._playground is not None:
            routes += self._playground.routes(self._guarded, self._explained)
        app = Starlette(
            routes=routes,
            exception_handlers={404: _not_found},
            middleware=[_cors(self._cors_origins)] if self._cors_origins else [],
        )
        app.router.redirect_slashes = False
        return app

    def _guarded(
        self, endpoint: Callable[[Request, Grant], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def authenticated(request: Request) -> Response:
            grant = self._authenticator.authenticate(request.headers.getlist("authorization"))
            return await endpoint(request, grant)

        return self._explained(authenticated)

    def _explained(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def explained(request: Request) -> Response:
            try:
                return await endpoint(request)
            except UnauthenticatedError as error:
                self._authenticator.record(error, "rest", _peer(request))
                response = _error_response(error.http_status, error.message)
                response.headers["WWW-Authenticate"] = "Bearer"
                return response
            except ServingError as error:
                response = _error_response(error.http_status, error.message)
                if error.http_status == _TOO_SLOW:
                    response.headers["Connection"] = "close"
                return response

        return explained

    async def _metrics(self, request: Request, grant: Grant) -> Response:
        self._rules.check_api(request)
        grant.check("metrics")
        page = generate_latest(self._service.metrics.registry)
        return Response(page, media_type=CONTENT_TYPE_LATEST)

    async def _respond(self, request: Request, grant: Grant) -> Response:
        self._rules.check_api(request)
        path = request.scope["path"]
        if request.method == "POST" and (match := _ASK.fullmatch(path)):
            method = match["method"].lower()
            compressed = _is_compressed(request)
            call = _call(method, match, request, grant)
            try:
                grant.check(method, call.name)  # Before anything is read.
                body = await self._read(request)
            except ServingError as error:
                self._service.refuse(call, error)
            to_request = self._readers.get(method, self._examples)

            def read(most: int) -> ModelRequest:
                document = inflate(body, self._max_bytes) if compressed else body
                if len(document) * WORST_JSON > most and weigh_json(document) > most:
                    raise LargeRequest
                return to_request(call, document)

            content = await self._service.compute(call, read, len(body), plain=not compressed)
        elif request.method == "GET" and (match := _LOOK.fullmatch(path)):
            method = "metadata" if match["metadata"] else "status"
            call = _call(method, match, request, grant)

            def look() -> bytes:
                grant.check(method, call.name)
                return self._metadata(call) if match["metadata"] else self._status(call)

            content = self._service.look_up(call, look)
        else:
            raise invalid(f"Malformed request: {request.method} {path}")
        return Response(content, media_type="application/json")

    async def _read(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
          ServingError: If it is too large or too slow.
        """
        announced = request.headers.get("content-length", "")
        promised = int(announced) if announced else self._max_bytes
        if promised > self._max_bytes:
            raise too_large(self._max_bytes)
        size = 0
        chunks = []
        try:
            async with (
                asyncio.timeout(self._deadline_seconds),
                self._service.arrivals["rest"].room(promised),
            ):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise too_large(self._max_bytes)
                    chunks.append(chunk)
        except TimeoutError:
            raise ServingError(
                invalid("").code,
                f"the request did not arrive within {self._deadline_seconds:g} seconds",
                http_status=_TOO_SLOW,
            ) from None
        except ClientDisconnect:
            raise invalid("the client went before it had sent its request", quotes=False) from None
        return b"".join(chunks)

    def _predict(self, call: Call, document: bytes) -> ModelRequest:
        served = self._service.find(call)
        request = json_requests.parse_predict(
            document, lambda name: inference.find_signature(served.model, name), self._max_rows
        )

        def write(outputs: Arrays) -> bytes:
            return json_responses.format_predict(outputs, request.row_format)

        return ModelRequest(served, request.signature_name, request.inputs, write)

    def _explain(self, call: Call, document: bytes) -> ModelRequest:
        end = time.monotonic() + self._deadline_seconds
        served = self._service.find(call)
        background = explaining.find_background(served)
        request = json_requests.parse_predict(
            document,
            lambda name: inference.find_signature(served.model, name),
            min(self._max_rows, explaining.MOST_ROWS),
        )
        inputs = explaining.raw_inputs(request.inputs, background.signature)

        def write(outputs: Arrays) -> bytes:
            explained = background.explain(served.model, inputs, end)
            return json_responses.format_explain(outputs, explained, request.row_format)

        return explaining.ExplainRequest(served, RAW_SIGNATURE, inputs, write)

    def _examples(self, call: Call, document: bytes) -> ModelRequest:
        served = self._service.find(call)
        signature, examples = json_requests.parse_examples(
            document, self._max_bytes, self._max_rows
        )
        if call.method == "classify":
            write: Callable[..., bytes] = json_responses.format_classifications
        else:
            write = json_responses.format_regressions
        return examples_request(call.method, served, signature, np.array(examples, object), write)

    def _status(self, call: Call) -> bytes:
        # Of all versions if a label is given, as TensorFlow Serving does.
        return json_responses.format_status(self._service.manager.status(call.name, call.version))

    def _metadata(self, call: Call) -> bytes:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=[SIGNATURE_DEF])
        return json_responses.format_metadata(read_metadata(self._service, call, request))


def _is_compressed(request: Request) -> bool:
    """Whether a body is compressed with gzip.

    Raises:
      ServingError: If it is compressed otherwise.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("gzip", "x-gzip", "identity", ""):
        raise invalid(f"the Content-Encoding {encoding} is not supported; gzip is", quotes=False)
    return "gzip" in encoding


def _cors(origins: Sequence[str]) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Encoding", "Content-Type"],
    )


def _peer(request: Request) -> str:
    return f"{request.client.host}:{request.client.port}" if request.client else ""


def _call(method: str, match: re.Match, request: Request, grant: Grant) -> Call:
    digits = match["version"]
    if digits and (len(digits) > _MOST_DIGITS or int(digits) > MAX_VERSION):
        raise invalid(f"Failed to convert version: {digits[:_MOST_DIGITS]} to numeric.")
    version = int(digits) if digits else None
    label = match["label"]

    def header(name: str) -> str | None:
        return ",".join(request.headers.getlist(name)) or None

    peer = _peer(request)
    return Call("rest", method, peer, match["name"], version, label, grant=grant, header=header)


def _error_response(status: int, message: str) -> Response:
    return Response(
        json_responses.format_error(message), status_code=status, media_type="application/json"
    )


async def _not_found(request: Request, error: Exception) -> Response:
    return _error_response(404, f"there is nothing at {request.url.path}")
