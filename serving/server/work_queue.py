"""Requests that wait for a worker or are being computed, small and large ones apart."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from dataclasses import dataclass

import grpc

from serving.server.calls import Call
from serving.server.errors import ServingError, exhausted
from serving.server.model_request import Read

# A request with more bytes, as it came, is large.
_SMALL_BODY = 256 << 10
_MOST_AT_ONCE = 64


@dataclass(eq=False)
class Task:
    """A request that waits for a worker or is being computed."""

    call: Call
    read: Read
    size: int
    limit: float
    end: float
    future: asyncio.Future
    loop: asyncio.AbstractEventLoop
    started: bool = False
    gone: bool = False

    def left(self) -> float:
        """Seconds in which the response is of use.

        Raises:
          ServingError: If there are none.
        """
        left = self.end - time.monotonic()
        if left <= 0:
            raise deadline_exceeded(self.limit)
        return left


class WorkQueue:
    """Tasks in the order in which they came, for workers of small ones and for one of large ones.

    Args:
      workers: Workers that take small tasks.
      max_queue: Tasks that may wait besides those that are being computed.
      max_bytes: Bytes that tasks may have together, as they came; a single one may have more.

    Attributes:
      size: Tasks that wait or are being computed.
    """

    def __init__(self, workers: int, max_queue: int, max_bytes: int):
        self.size = 0
        self._workers = workers
        self._most = workers + max_queue
        self._max_bytes = max_bytes
        self._bytes = 0
        self._small: deque[Task] = deque()
        self._large: deque[Task] = deque()
        self._lock = threading.Lock()
        self._small_came, self._large_came = (threading.Condition(self._lock) for _ in range(2))
        self._closing = False

    def put(self, task: Task) -> None:
        """Adds a task.

        Raises:
          ServingError: If there are too many, or they have too many bytes.
        """
        with self._lock:
            if self.size >= self._most:
                raise ServingError(
                    grpc.StatusCode.UNAVAILABLE,
                    f"the queue is full: {self.size} requests are waiting or being computed",
                )
            if self._bytes and self._bytes + task.size > self._max_bytes:
                raise exhausted(
                    f"the queue is full: {self._bytes:,} bytes are waiting or being "
                    f"computed, {self._max_bytes:,} are allowed"
                )
            self.size += 1
            self._bytes += task.size
            self._append(task, task.size > _SMALL_BODY)

    def put_back(self, task: Task, *, large: bool) -> None:
        """Adds a task again that turned out to be large, or that another version failed over."""
        with self._lock:
            task.started = False
            self._append(task, large)

    def take_small(self) -> list[Task]:
        """Waits for small tasks, and takes what there is for each worker; nothing at the end."""
        with self._lock:
            while not self._small:
                if self._closing:
                    return []
                self._small_came.wait()
            number = min(1 + len(self._small) // self._workers, _MOST_AT_ONCE)
            return [self._small.popleft() for _ in range(min(number, len(self._small)))]

    def take_large(self) -> Task | None:
        """Waits for a large task, and takes it; None at the end."""
        with self._lock:
            while not self._large:
                if self._closing:
                    return None
                self._large_came.wait()
            return self._large.popleft()

    def start(self, task: Task) -> bool:
        """Whether a task is to be computed now."""
        with self._lock:
            task.started = not task.gone
            return task.started

    def give_up(self, task: Task) -> None:
        """Gives the place of a task to others, unless it is being computed."""
        with self._lock:
            if not task.started and not task.gone:
                self._leave(task)
                for queue in (self._small, self._large):
                    with contextlib.suppress(ValueError):
                        queue.remove(task)

    def finish(self, task: Task) -> None:
        """Gives the place of a task that was computed to others."""
        with self._lock:
            self._leave(task)

    def close(self) -> None:
        """Ends the waiting of all workers."""
        with self._lock:
            self._closing = True
            self._small_came.notify_all()
            self._large_came.notify_all()

    def _append(self, task: Task, large: bool) -> None:
        queue, came = (self._large, self._large_came) if large else (self._small, self._small_came)
        queue.append(task)
        came.notify()

    def _leave(self, task: Task) -> None:
        if not task.gone:
            task.gone = True
            self.size -= 1
            self._bytes -= task.size


def deadline_exceeded(seconds: float) -> ServingError:
    """The error of a request whose time is over."""
    return ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {seconds:g} seconds")
