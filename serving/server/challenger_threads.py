"""Threads that compute for a challenger, so that one that hangs keeps none of the server's own."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from serving.server.logs import log_event

# Bytes of the requests that wait for a challenger.
_MOST_BYTES = 32 << 20


class ChallengerThreads:
    """Threads that compute what there is room for.

    Args:
      name: Name of the threads.
      threads: Their number.
      most: Pieces of work that may wait.
      pause: Seconds to wait before each.
    """

    def __init__(self, name: str, threads: int, most: int, pause: float = 0.0):
        self._most = most
        self._pause = pause
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()
        self._bytes = 0
        self._since: dict[int, float] = {}
        self._closing = False
        self._came = threading.Condition()
        for number in range(threads):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def offer(self, work: Callable[[], None], size: int) -> bool:
        """Has some work done, of so many bytes; False if there is no room for it."""
        with self._came:
            full = len(self._waiting) >= self._most
            # A single one that is too large is taken alone.
            if full or self._closing or (self._bytes and self._bytes + size > _MOST_BYTES):
                return False
            self._waiting.append((work, size))
            self._bytes += size
            self._came.notify()
            return True

    def longest(self) -> float:
        """Seconds for which the oldest work has been going on."""
        now = time.monotonic()
        return max((now - since for since in list(self._since.values())), default=0.0)

    def close(self) -> None:
        """Ends the threads, when they have done what they are at and what waits."""
        with self._came:
            self._closing = True
            self._came.notify_all()

    def _work(self) -> None:
        me = threading.get_ident()
        while True:
            with self._came:
                while not self._waiting:
                    if self._closing:
                        return
                    self._came.wait()
                work, size = self._waiting.popleft()
            if self._pause:
                time.sleep(self._pause)
            self._since[me] = time.monotonic()
            try:
                work()
            except Exception as error:  # The thread has other work to do.
                log_event("unforeseen error", logging.ERROR, error=type(error).__name__)
            finally:
                del self._since[me], work
                with self._came:
                    self._bytes -= size
