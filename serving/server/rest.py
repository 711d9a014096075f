"""TensorFlow Serving's REST interface."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import get_model_metadata_pb2

from serving.server import inference, json_format
from serving.server.authentication import Authenticator, Grant, UnauthenticatedError
from serving.server.errors import ServingError, invalid
from serving.server.manager import Served
from serving.server.rpc import SIGNATURE_DEF, read_metadata
from serving.server.service import Call, Service
from serving.server.settings import METRICS_PATH

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_ASK = re.compile(_MODEL + r":(?P<method>classify|regress|predict)", re.IGNORECASE | re.ASCII)
_LOOK = re.compile(_MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE | re.ASCII)

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_HIGHEST_VERSION = 2**63 - 1
_MOST_DIGITS = 100  # Python refuses to read more than some thousands.


class RestInterface:
    """Answers requests over HTTP.

    Args:
      service: What answers.
      max_bytes: Largest body.
      deadline_seconds: Longest time for a client to send its request.
      authenticator: Knows the tokens that requests have to bring.
      cors_origins: Origins whose pages may ask from a browser; "*" for any.
    """

    def __init__(
        self,
        service: Service,
        *,
        max_bytes: int,
        deadline_seconds: float,
        authenticator: Authenticator,
        cors_origins: Sequence[str] = (),
    ):
        self._service = service
        self._max_bytes = max_bytes
        self._deadline_seconds = deadline_seconds
        self._authenticator = authenticator
        self._cors_origins = cors_origins

    def make_app(self) -> Starlette:
        """The application that a server runs."""
        app = Starlette(
            routes=[
                Route(METRICS_PATH, self._guarded(self._metrics), methods=["GET"]),
                Route("/v1/{path:path}", self._guarded(self._answer), methods=_METHODS),
            ],
            exception_handlers={404: _not_found},
            middleware=[_cors(self._cors_origins)] if self._cors_origins else [],
        )
        app.router.redirect_slashes = False
        return app

    def _guarded(
        self, endpoint: Callable[[Request, Grant], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                grant = self._authenticator.authenticate(request.headers.getlist("authorization"))
                return await endpoint(request, grant)
            except UnauthenticatedError as error:
                self._authenticator.record(error, "rest", _peer(request))
                response = _error_response(error.http_status, error.message)
                response.headers["WWW-Authenticate"] = "Bearer"
                return response
            except ServingError as error:
                response = _error_response(error.http_status, error.message)
                if isinstance(error, _TooSlow):
                    response.headers["Connection"] = "close"
                return response

        return guarded

    async def _metrics(self, request: Request, grant: Grant) -> Response:
        grant.check("metrics")
        page = generate_latest(self._service.metrics.registry)
        return Response(page, media_type=CONTENT_TYPE_LATEST)

    async def _answer(self, request: Request, grant: Grant) -> Response:
        path = request.scope["path"]
        if request.method == "POST" and (match := _ASK.fullmatch(path)):
            method = match["method"].lower()
            call = _call(method, match, request, grant)
            try:
                grant.check(method, call.name)  # Before anything is read.
                body = await self._read(request)
            except ServingError as error:
                self._service.refuse(call, error)
            work = getattr(self, f"_{method}")
            content = await self._service.compute(
                call, lambda served, left: work(call, served, body, left)
            )
        elif request.method == "GET" and (match := _LOOK.fullmatch(path)):
            method = "metadata" if match["metadata"] else "status"
            call = _call(method, match, request, grant)
            content = self._service.look_up(call, lambda: getattr(self, f"_{method}")(call))
        else:
            raise invalid(f"Malformed request: {request.method} {path}")
        return Response(content, media_type="application/json")

    async def _read(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
          ServingError: If it is too large or too slow.
        """
        size = 0
        chunks = []
        try:
            async with asyncio.timeout(self._deadline_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise _TooLarge(self._max_bytes)
                    chunks.append(chunk)
        except TimeoutError:
            raise _TooSlow(self._deadline_seconds) from None
        except ClientDisconnect:
            raise invalid("the client went before it had sent its request") from None
        return b"".join(chunks)

    def _predict(self, call: Call, served: Served, body: bytes, seconds: float) -> bytes:
        request = json_format.parse_predict(
            body, lambda name: inference.find_signature(served.model, name).inputs
        )
        outputs = self._service.predict(
            call, served, request.signature_name, request.inputs, (), seconds
        )
        return json_format.format_predict(outputs, request.row_format)

    def _classify(self, call: Call, served: Served, body: bytes, seconds: float) -> bytes:
        signature, examples = json_format.parse_examples(body)
        rows = np.array(examples, object)
        result = self._service.classify(call, served, signature, rows, seconds)
        return json_format.format_classifications(result)

    def _regress(self, call: Call, served: Served, body: bytes, seconds: float) -> bytes:
        signature, examples = json_format.parse_examples(body)
        rows = np.array(examples, object)
        result = self._service.regress(call, served, signature, rows, seconds)
        return json_format.format_regressions(result)

    def _status(self, call: Call) -> bytes:
        # Of all versions if a label is given, as TensorFlow Serving answers.
        return json_format.format_status(self._service.manager.status(call.name, call.version))

    def _metadata(self, call: Call) -> bytes:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=[SIGNATURE_DEF])
        return json_format.format_metadata(read_metadata(self._service, call, request))


class _TooLarge(ServingError):
    http_status = 413

    def __init__(self, max_bytes: int):
        super().__init__(
            invalid("").code, f"the request is larger than the {max_bytes:,} bytes allowed"
        )


class _TooSlow(ServingError):
    http_status = 408

    def __init__(self, seconds: float):
        super().__init__(invalid("").code, f"the request did not arrive within {seconds:g} seconds")


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
    if digits and (len(digits) > _MOST_DIGITS or int(digits) > _HIGHEST_VERSION):
        raise invalid(f"Failed to convert version: {digits[:_MOST_DIGITS]} to numeric.")
    version = int(digits) if digits else None
    label = match["label"]
    return Call("rest", method, _peer(request), match["name"], version, label, grant=grant)


def _error_response(status: int, message: str) -> Response:
    return Response(
        json_format.format_error(message), status_code=status, media_type="application/json"
    )


async def _not_found(request: Request, error: Exception) -> Response:
    return _error_response(404, f"there is nothing at {request.url.path}")
