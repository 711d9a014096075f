"""Calls of the server: what a request is for and who sends it; counted, timed and logged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import grpc
from prometheus_client import Counter, Histogram

from serving.server.authentication import NOTHING, Grant
from serving.server.errors import ServingError
from serving.server.logs import log_event
from serving.server.metrics import ServerMetrics

if TYPE_CHECKING:
    from serving.server.traffic import Assignment

LONGEST_NAME = 256  # more than the name of a folder can have
# Metrics have no label for each name that somebody made up.
_UNKNOWN_MODEL = "(unknown)"


@dataclass
class Call:
    """A request as the log and the metrics see it.

    Attributes:
      protocol: "grpc" or "rest".
      method: "predict", "explain", "classify", "regress", "status" or "metadata".
      peer: Address of the client.
      name: Name of the model.
      version: Number of the version that is wanted; None for the newest.
      label: Label of the version that is wanted.
      rows: Rows that got a prediction.
      grant: What the client may use; nothing unless it is said.
      header: The value of an HTTP header, or of an entry of gRPC's metadata; None if it is absent.
      assignment: Which version predicts; None where no traffic policy decides.
    """

    protocol: str
    method: str
    peer: str
    name: str = ""
    version: int | None = None
    label: str | None = None
    rows: int = 0
    grant: Grant = NOTHING
    header: Callable[[str], str | None] = field(default=lambda name: None, repr=False)
    assignment: Assignment | None = None


class CallRecorder:
    """Counts calls in the metrics, and logs them.

    Args:
      metrics: Where they are counted.
      knows: Whether a model of a name is or was there.
      access_log: Whether each call is a line in the log.
    """

    def __init__(self, metrics: ServerMetrics, knows: Callable[[str], bool], access_log: bool):
        self._knows = knows
        self._access_log = access_log
        self._count = lru_cache(maxsize=1024)(metrics.requests.labels)
        self._latency = lru_cache(maxsize=1024)(metrics.latency.labels)
        self._rows = lru_cache(maxsize=1024)(metrics.rows.labels)

    def record(self, call: Call, seconds: float, error: BaseException | None) -> None:
        """Records a call that got its response, or was refused with an error."""
        code = grpc.StatusCode.OK
        if error is not None:
            code = error.code if isinstance(error, ServingError) else grpc.StatusCode.INTERNAL
            if isinstance(error, asyncio.CancelledError):
                code = grpc.StatusCode.CANCELLED
        known = call.name if self._knows(call.name) else _UNKNOWN_MODEL
        counter: Counter = self._count(known, call.method, call.protocol, code.name)
        counter.inc()
        histogram: Histogram = self._latency(known, call.method, call.protocol)
        histogram.observe(seconds)
        if call.rows:
            self._rows(known, str(call.version)).inc(call.rows)
        if self._access_log:
            more: dict[str, Any] = {}
            if call.grant.client:
                more["client"] = call.grant.client
            if error is not None and not getattr(error, "quotes", False):
                more["reason"] = str(error) or type(error).__name__
            log_event(
                "request",
                protocol=call.protocol,
                method=call.method,
                peer=call.peer,
                model=call.name[:LONGEST_NAME],
                version=call.version,
                rows=call.rows,
                status=code.name,
                ms=round(seconds * 1000, 3),
                **more,
            )


class Recorded:
    """Records a call when the block that computes its response ends."""

    def __init__(self, recorder: CallRecorder, call: Call):
        self._recorder = recorder
        self._call = call
        self._start = time.perf_counter()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._recorder.record(self._call, time.perf_counter() - self._start, error)
