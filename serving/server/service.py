"""Processes requests: waits for a worker, finds the version, responds in time, counts and logs.

What is small never waits for what is large: `workers` threads compute the small requests, and one
more the large ones, one at a time. So memory for requests that are unfolded is bounded too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar
from weakref import WeakKeyDictionary

import grpc

from serving.server import batching
from serving.server.arrivals import Arrivals
from serving.server.calls import Call, CallRecorder, Recorded
from serving.server.errors import ServingError, exhausted
from serving.server.logs import log_event
from serving.server.manager import ModelManager
from serving.server.metrics import ServerMetrics
from serving.server.model_request import LargeRequest, ModelRequest, Read, count_rows, unfolded
from serving.server.models import Arrays, LoadedModel, Served
from serving.server.request_log import RequestLog
from serving.server.settings import ServerSettings
from serving.server.traffic import Assignment
from serving.server.trials import TrialRunner
from serving.server.work_queue import Task, WorkQueue, deadline_exceeded

Response = TypeVar("Response")

# Above these a request is large: bytes that it takes unfolded, its rows.
_SMALL_BYTES, _SMALL_ROWS = 4 << 20, 1024
_BATCH_ROWS = 256

# A request up to this size, of a model that has computed so many of its kind in less time than it
# takes to wake a worker, is computed in the event loop.
_TINY_BODY, _TINY_BYTES, _TINY_ROWS = 8 << 10, 64 << 10, 8
_QUICK_SECONDS, _QUICK_RUNS = 0.0002, 20


class Service:
    """Computes the responses to requests with the models of a manager.

    Args:
      manager: The models.
      metrics: Where requests are counted.
      workers: Small requests that are computed at a time.
      max_queue: Requests that may wait for a worker.
      request_memory: Memory for all requests: a quarter for those that arrive, a quarter for
        those that wait, and half for those that are unfolded.
      deadline_seconds: Longest time from a request to its response.
      access_log: Whether each request is a line in the log.
      request_log: Where requests and predictions are written, if anywhere.
      challenger_seconds: See `ServerSettings`, as the next two.
      challenger_failures: See there.
      challenger_queue: See there.

    Attributes:
      arrivals: Memory for requests that are still arriving, by protocol: over gRPC, none says how
        large it is.
      deadline_seconds: Longest time from a request to its response.
    """

    def __init__(
        self,
        manager: ModelManager,
        metrics: ServerMetrics,
        *,
        workers: int,
        max_queue: int,
        request_memory: int,
        deadline_seconds: float,
        access_log: bool,
        request_log: RequestLog | None = None,
        challenger_seconds: float = ServerSettings.challenger_seconds,
        challenger_failures: int = ServerSettings.challenger_failures,
        challenger_queue: int = ServerSettings.challenger_queue,
    ):
        self.manager = manager
        self.metrics = metrics
        self.arrivals = {name: Arrivals(request_memory // 8) for name in ("grpc", "rest")}
        self._most_unfolded = max(0, request_memory // 2 - workers * _SMALL_BYTES)
        self._queue = WorkQueue(workers, max_queue, request_memory // 4)
        self._quick_runs: WeakKeyDictionary[LoadedModel, dict[str, int]] = WeakKeyDictionary()
        self.deadline_seconds = deadline_seconds
        self._recorder = CallRecorder(metrics, manager.knows, access_log)
        self._trials = TrialRunner(
            metrics,
            request_log,
            lambda challenger, reason: manager.take_out(
                challenger.served.name, challenger.number, challenger.served.version, reason
            ),
            lambda task, response: self._finish(task, response, None),
            lambda task, large: self._queue.put_back(task, large=large),
            seconds=challenger_seconds,
            failures=challenger_failures,
            most_waiting=challenger_queue,
            threads=workers,
        )
        metrics.waiting.set_function(lambda: self._queue.size)
        for number in range(workers):
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True).start()
        threading.Thread(target=self._work_on_large, name="worker-large", daemon=True).start()

    async def compute(
        self,
        call: Call,
        read: Read,
        size: int,
        seconds: float | None = None,
        plain: bool = True,
    ) -> Any:
        """Computes the response to a request, in a worker unless that would take longer.

        Args:
          call: The request.
          read: Unfolds it, to as many bytes as it is told at most, or raises `LargeRequest`.
          size: Bytes of it as it came.
          seconds: Time that the client gives, if it says so.
          plain: Whether it is not compressed.

        Returns:
          The response.

        Raises:
          ServingError: If the version is not being served, too many requests wait, time is over,
            or `read` raises it.
        """
        with Recorded(self._recorder, call):
            limit = min(self.deadline_seconds, seconds or self.deadline_seconds)
            if size <= _TINY_BODY and plain and not self._queue.size:
                request = self._guarded(lambda: read(_SMALL_BYTES))
                if self._is_quick(request) and not self._trials.is_for_challenger(call, request):
                    return self._guarded(lambda: self._write(call, request, None, limit))
                read = unfolded(request)
            loop = asyncio.get_running_loop()
            task = Task(
                call, read, size, limit, time.monotonic() + limit, loop.create_future(), loop
            )
            self._queue.put(task)
            timer = loop.call_later(limit, _settle, task.future, None, deadline_exceeded(limit))
            try:
                return await task.future
            finally:
                timer.cancel()
                self._queue.give_up(task)

    def find(self, call: Call) -> Served:
        """The version that a request is for; it is noted in the call.

        Raises:
          ServingError: If the client may not use it, or it is not being served.
        """
        call.grant.check(call.method, call.name)
        if call.assignment is None and call.version is None and call.label is None:
            traffic = self.manager.traffic(call.name)
            call.assignment = Assignment(traffic) if traffic is not None else None
        if call.assignment is not None:
            served = call.assignment.traffic.champion
        else:
            served = self.manager.find(call.name, call.version, call.label, call.grant.models)
        call.version = served.version
        return served

    def look_up(self, call: Call, work: Callable[[], Response]) -> Response:
        """Responds to a request that needs no worker; see `compute`."""
        with Recorded(self._recorder, call):
            return work()

    def refuse(self, call: Call, error: ServingError) -> NoReturn:
        """Refuses a request that does not come as far as a worker; see `compute`."""
        with Recorded(self._recorder, call):
            raise error

    def close(self) -> None:
        """Ends the workers; what waits gets no response."""
        self._queue.close()
        self._trials.close()

    def _work(self) -> None:
        """Computes small requests, as many together as there are for each worker."""
        while tasks := self._queue.take_small():
            self._compute_small(tasks)
            del tasks

    def _compute_small(self, tasks: Iterable[Task]) -> None:
        """Computes requests that should be small, as many at a time as there is memory for."""
        batches: dict[object, list[tuple[Task, ModelRequest]]] = {}
        taken = 0
        for task in filter(self._queue.start, tasks):
            try:
                request = self._read(task, _SMALL_BYTES)
                size = request.bytes
                if request.rows > _SMALL_ROWS or size > _SMALL_BYTES:
                    raise LargeRequest
                if taken + size > _SMALL_BYTES:
                    self._compute_batches(batches)
                    taken = 0
                if self._trials.hand_over(task, request) is not None:
                    continue
                taken += size
                batches.setdefault(request.batch, []).append((task, request))
            except LargeRequest:
                self._queue.put_back(task, large=True)
            except Exception as error:
                self._finish(task, None, error)
        self._compute_batches(batches)

    def _compute_batches(self, batches: dict[object, list[tuple[Task, ModelRequest]]]) -> None:
        for batch in batches.values():
            self._compute(batch)
        batches.clear()

    def _work_on_large(self) -> None:
        while task := self._queue.take_large():
            if self._queue.start(task):
                try:
                    request = self._read(task, self._most_unfolded)
                    if trial := self._trials.hand_over(task, request, large=True):
                        trial.settled.wait()  # Its time is limited.
                        del trial
                    else:
                        self._compute([(task, request)])
                    del request
                except LargeRequest:
                    most = f"{self._most_unfolded:,} bytes, which is all that a request may"
                    error = exhausted(f"the request takes more than {most}", http_status=413)
                    self._finish(task, None, error)
                except Exception as error:
                    self._finish(task, None, error)
            del task  # Its memory goes before the next one's comes.

    def _read(self, task: Task, most: int) -> ModelRequest:
        task.left()
        return task.read(most)

    def _compute(self, group: list[tuple[Task, ModelRequest]]) -> None:
        """Computes requests that may be one batch."""
        while group:
            first, rows = group[0][1], 0
            batch: list[tuple[Task, ModelRequest]] = []
            while group and (not batch or rows + group[0][1].rows <= _BATCH_ROWS):
                rows += group[0][1].rows
                batch.append(group.pop(0))
            batch_outputs: Iterable[Arrays | None] = [None] * len(batch)
            start = time.perf_counter()
            if len(batch) > 1:
                # If it fails, each of them gets its own error, or response, below.
                with contextlib.suppress(Exception):
                    batch_outputs = batching.run(
                        first.served.model,
                        first.signature,
                        [request.inputs for _, request in batch],
                        first.outputs,
                        max(task.left() for task, _ in batch),
                    )
            took = time.perf_counter() - start
            for (task, request), outputs in zip(batch, batch_outputs, strict=True):
                try:
                    response = self._write(task.call, request, outputs, task.left(), took)
                    self._finish(task, response, None)
                except Exception as error:
                    self._finish(task, None, error)

    def _is_quick(self, request: ModelRequest) -> bool:
        runs = self._quick_runs.get(request.served.model, {}).get(request.signature, 0)
        return (
            runs >= _QUICK_RUNS
            and request.served.model.ends_by_itself
            and request.rows <= _TINY_ROWS
            and request.bytes <= _TINY_BYTES
        )

    def _write(
        self,
        call: Call,
        request: ModelRequest,
        outputs: Arrays | None,
        seconds: float,
        took: float = 0.0,
    ) -> Any:
        served, inputs = request.served, request.inputs
        if outputs is None:
            start = time.perf_counter()
            outputs = served.model.run(request.signature, inputs, request.outputs, seconds)
            took = time.perf_counter() - start
            if request.rows <= _TINY_ROWS:
                runs = self._quick_runs.setdefault(served.model, {})
                quick = took < _QUICK_SECONDS
                count = runs.get(request.signature, 0)
                # Twice in a row is slow; once may be another process's affair.
                runs[request.signature] = min(count + 1, 3 * _QUICK_RUNS) if quick else count // 2
        call.version, call.rows = served.version, count_rows(outputs)
        response = request.write(outputs)
        self._trials.predicted(call, request, outputs, took)
        return response

    def _guarded(self, work: Callable[[], Response]) -> Response:
        """Does some work, of which every error is a `ServingError`."""
        try:
            return work()
        except Exception as error:
            raise _explained(error) from None

    def _finish(self, task: Task, response: Any, error: Exception | None) -> None:
        if error is not None:
            error = _explained(error)
        self._queue.finish(task)
        with contextlib.suppress(RuntimeError):  # The server has stopped.
            task.loop.call_soon_threadsafe(_settle, task.future, response, error)


def _explained(error: Exception) -> ServingError:
    """An error as a client gets it; one that nobody foresaw is logged."""
    if isinstance(error, ServingError):
        return error
    # Without the message, which may quote the request.
    frames = traceback.extract_tb(error.__traceback__)
    log_event(
        "unforeseen error",
        logging.ERROR,
        error=type(error).__name__,
        at=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    )
    reason = f"{type(error).__name__}: {error}"
    return ServingError(grpc.StatusCode.INTERNAL, reason, quotes=True)


def _settle(future: asyncio.Future, response: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(response)
