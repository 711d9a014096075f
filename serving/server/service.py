"""The way of every request: find the version, wait for a worker, answer in time, count and log."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import grpc
import numpy as np
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.server import inference
from serving.server.authentication import NOTHING, Grant
from serving.server.errors import ServingError
from serving.server.logs import log_event
from serving.server.manager import ModelManager, Served
from serving.server.metrics import ServerMetrics
from serving.server.models import Arrays
from serving.server.request_log import RequestLog

Answer = TypeVar("Answer")

_LOGGER = logging.getLogger(__name__)

# Metrics have no label for each name that somebody made up.
_UNKNOWN_MODEL = "(unknown)"


@dataclass
class Call:
    """A request as the log and the metrics see it.

    Attributes:
      protocol: "grpc" or "rest".
      method: "predict", "classify", "regress", "status" or "metadata".
      peer: Address of the client.
      name: Name of the model.
      version: Number of the version that is asked for; None for the newest.
      label: Label of the version that is asked for.
      rows: Rows that were answered.
      grant: What the client may ask for; nothing unless it is said.
    """

    protocol: str
    method: str
    peer: str
    name: str
    version: int | None = None
    label: str | None = None
    rows: int = 0
    grant: Grant = NOTHING


class Service:
    """Answers requests with the models of a manager.

    Args:
      manager: The models.
      metrics: Where requests are counted.
      workers: Requests that are computed at a time.
      max_queue: Requests that may wait for a worker.
      deadline_seconds: Longest time from a request to its answer.
      access_log: Whether each request is a line in the log.
      request_log: Where requests and answers are written, if anywhere.
    """

    def __init__(
        self,
        manager: ModelManager,
        metrics: ServerMetrics,
        *,
        workers: int,
        max_queue: int,
        deadline_seconds: float,
        access_log: bool,
        request_log: RequestLog | None = None,
    ):
        self.manager = manager
        self.metrics = metrics
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="worker")
        self._most = workers + max_queue
        self._queued = 0
        self._lock = threading.Lock()
        self._deadline_seconds = deadline_seconds
        self._access_log = access_log
        self._request_log = request_log
        metrics.waiting.set_function(lambda: self._queued)

    async def compute(
        self, call: Call, work: Callable[[Served, float], Answer], seconds: float | None = None
    ) -> Answer:
        """Computes the answer to a request in a worker, with the version that it asks for.

        Args:
          call: The request.
          work: Makes the answer from the version and the seconds that are left.
          seconds: Time that the client gives, if it says so.

        Returns:
          The answer.

        Raises:
          ServingError: If the version is not being served, too many requests wait, time is over,
            or `work` raises it.
        """
        limit = min(self._deadline_seconds, seconds or self._deadline_seconds)
        end = time.monotonic() + limit

        def run() -> Answer:
            left = end - time.monotonic()
            if left <= 0:
                raise _late(limit)
            try:
                return work(served, left)
            except ServingError:
                raise
            except Exception as error:
                _LOGGER.exception("unforeseen error")
                reason = f"{type(error).__name__}: {error}"
                raise ServingError(grpc.StatusCode.INTERNAL, reason) from error

        with _Recorded(self, call):
            call.grant.check(call.method, call.name)
            served = self.manager.find(call.name, call.version, call.label)
            call.version = served.version
            if self._queued >= self._most:
                raise ServingError(
                    grpc.StatusCode.UNAVAILABLE,
                    f"the queue is full: {self._queued} requests are waiting or being computed",
                )
            with self._lock:
                self._queued += 1
            future = self._executor.submit(run)
            # A request that is given up while it is computed keeps its worker, and so its place.
            future.add_done_callback(self._done)
            try:
                async with asyncio.timeout(limit):
                    return await asyncio.wrap_future(future)
            except TimeoutError:
                raise _late(limit) from None

    def predict(
        self,
        call: Call,
        served: Served,
        signature: str,
        inputs: Arrays,
        output_filter: Sequence[str],
        seconds: float,
    ) -> Arrays:
        """Answers inputs by name with outputs by name, and logs both; see `inference.predict`."""
        outputs = inference.predict(served.model, signature, inputs, output_filter, seconds)
        call.rows = max((len(array) for array in outputs.values() if array.ndim), default=0)
        if self._request_log is not None:
            self._request_log.offer(served.name, served.version, inputs, outputs)
        return outputs

    def classify(
        self, call: Call, served: Served, signature: str, examples: np.ndarray, seconds: float
    ) -> classification_pb2.ClassificationResult:
        """Answers serialized tf.Examples, bytes [batch], with their classes."""
        wanted = inference.classification_outputs(served.model, signature)
        inputs = {inference.EXAMPLES: examples}
        outputs = self.predict(call, served, signature, inputs, wanted, seconds)
        return inference.to_classifications(outputs, len(examples))

    def regress(
        self, call: Call, served: Served, signature: str, examples: np.ndarray, seconds: float
    ) -> regression_pb2.RegressionResult:
        """Answers serialized tf.Examples, bytes [batch], with a value for each."""
        wanted = inference.regression_outputs(served.model, signature)
        inputs = {inference.EXAMPLES: examples}
        outputs = self.predict(call, served, signature, inputs, wanted, seconds)
        return inference.to_regressions(outputs, len(examples))

    def look_up(self, call: Call, work: Callable[[], Answer]) -> Answer:
        """Answers a request that needs no worker; see `compute`."""
        with _Recorded(self, call):
            call.grant.check(call.method, call.name)
            return work()

    def refuse(self, call: Call, error: ServingError) -> NoReturn:
        """Refuses a request that does not come as far as a worker; see `compute`."""
        with _Recorded(self, call):
            raise error

    def close(self) -> None:
        """Waits for what is being computed."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _done(self, future: Future) -> None:
        with self._lock:
            self._queued -= 1


class _Recorded:
    """Counts and logs a request when it is answered or refused."""

    def __init__(self, service: Service, call: Call):
        self._service = service
        self._call = call
        self._start = time.perf_counter()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        service, call = self._service, self._call
        seconds = time.perf_counter() - self._start
        code = grpc.StatusCode.OK
        if error is not None:
            code = error.code if isinstance(error, ServingError) else grpc.StatusCode.INTERNAL
            if isinstance(error, asyncio.CancelledError):
                code = grpc.StatusCode.CANCELLED
        known = call.name if service.manager.knows(call.name) else _UNKNOWN_MODEL
        service.metrics.requests.labels(known, call.method, call.protocol, code.name).inc()
        service.metrics.latency.labels(known, call.method, call.protocol).observe(seconds)
        if call.rows:
            service.metrics.rows.labels(known, str(call.version)).inc(call.rows)
        if service._access_log:
            more: dict[str, Any] = {}
            if call.grant.client:
                more["client"] = call.grant.client
            if error is not None:
                more["reason"] = str(error) or type(error).__name__
            log_event(
                "request",
                protocol=call.protocol,
                method=call.method,
                peer=call.peer,
                model=call.name,
                version=call.version,
                rows=call.rows,
                status=code.name,
                ms=round(seconds * 1000, 3),
                **more,
            )


def _late(seconds: float) -> ServingError:
    return ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {seconds:g} seconds")
