"""The standard health service of gRPC.

That of `grpcio-health-checking` forgets its watchers when one of them leaves, and keeps the server
from stopping as long as somebody watches.
"""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

# Names that clients of TensorFlow Serving check, with and without the package; each stands for
# all models, as "" does.
_SERVICES = {"PredictionService", "ModelService"}
_SERVICES |= {f"tensorflow.serving.{name}" for name in _SERVICES}

_Response = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):
    """`grpc.health.v1.Health`, by model and for all of them. Belongs to one event loop."""

    def __init__(self) -> None:
        self._models: dict[str, bool] = {}
        self._changed = asyncio.Event()
        self._stopping = False

    def set(self, name: str, available: bool) -> None:
        """Says whether a model is served."""
        self._models[name] = available
        self._notify()

    def stop(self) -> None:
        """Says, for good, that nothing is served any more, and ends the watching."""
        self._stopping = True
        self._notify()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Whether a model is served."""
        status = self._status(request.service)
        if status == _Response.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.service} is known")
        return _Response(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> None:
        """Whether a model is served, now and whenever that changes."""
        said = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != said:
                await context.write(_Response(status=status))
                said = status
            if self._stopping:
                return
            await changed.wait()

    def _status(self, name: str) -> int:
        if name in self._models:
            available = self._models[name]
        elif name == "" or name in _SERVICES:
            available = bool(self._models) and all(self._models.values())
        else:
            return int(_Response.SERVICE_UNKNOWN)
        return int(_Response.SERVING if available and not self._stopping else _Response.NOT_SERVING)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
