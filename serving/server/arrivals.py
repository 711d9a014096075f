"""Memory for requests that are still arriving.

A client may promise much and send it slowly, or never. So that no number of such clients keeps
others out, what has been arriving for too long makes room when somebody waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from serving.server.errors import exhausted

# Time to arrive that everybody has, in seconds.
_GRACE_SECONDS = 0.25
# What is this small does not wait for what is large.
_SMALL, _KEPT_FOR_SMALL = 64 << 10, 1 / 8


@dataclass(eq=False)
class _Arrival:
    size: int
    task: asyncio.Task | None
    start: float
    evicted: bool = False


@dataclass
class Arrivals:
    """Grants memory for requests that arrive. Belongs to one event loop.

    Attributes:
      bytes: Memory for all of them.
      free: Bytes of it that are not granted.
    """

    bytes: int
    free: int = field(init=False)
    _arriving: dict[_Arrival, None] = field(init=False, default_factory=dict)
    _waiting: deque[tuple[int, asyncio.Future]] = field(init=False, default_factory=deque)
    _last_is_next: bool = field(init=False, default=True)
    _timer: asyncio.TimerHandle | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.free = self.bytes

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Memory for one request, while it arrives.

        Args:
          size: Most bytes that it can have.

        Raises:
          ServingError: If it took long and others needed the memory.
        """
        size = min(size, self.bytes)
        if not self._fits(size) or (self._waiting and size > _SMALL):
            granted = asyncio.get_running_loop().create_future()
            self._waiting.append((size, granted))
            self._make_room()
            try:
                await granted
            except BaseException:
                if granted.done() and not granted.cancelled():
                    self._give_back(size)
                raise
        else:
            self.free -= size
        loop = asyncio.get_running_loop()
        arrival = _Arrival(size, asyncio.current_task(), loop.time())
        self._arriving[arrival] = None
        try:
            yield
        except asyncio.CancelledError:
            if not arrival.evicted:
                raise
            assert arrival.task is not None
            arrival.task.uncancel()
            raise exhausted(
                "the request arrived too slowly while others waited for the memory that it held",
                http_status=408,
            ) from None
        finally:
            self._arriving.pop(arrival, None)
            self._give_back(size)

    def _fits(self, size: int) -> bool:
        kept = 0 if size <= _SMALL else self.bytes * _KEPT_FOR_SMALL
        # A single one always fits.
        return size <= self.free - kept or self.free == self.bytes

    def _give_back(self, size: int) -> None:
        self.free += size
        self._grant()

    def _grant(self) -> None:
        """Grants memory in turns to who came last and who came first.

        Who came last does not wait behind all who only hold memory, and who came first is not
        forgotten.
        """
        while self._waiting:
            size, granted = self._waiting[-1 if self._last_is_next else 0]
            if not granted.done():
                if not self._fits(size):
                    break
                self.free -= size
                granted.set_result(None)
            if self._last_is_next:
                self._waiting.pop()
            else:
                self._waiting.popleft()
            self._last_is_next = not self._last_is_next

    def _make_room(self) -> None:
        """Evicts what has been arriving for too long, as long as somebody waits."""
        if self._timer is not None or not self._waiting:
            return
        loop = asyncio.get_running_loop()
        first = next((arrival for arrival in self._arriving if not arrival.evicted), None)
        since = loop.time() if first is None else first.start
        self._timer = loop.call_at(since + _GRACE_SECONDS, self._evict)

    def _evict(self) -> None:
        self._timer = None
        self._grant()
        if not self._waiting:
            return
        latest = asyncio.get_running_loop().time() - _GRACE_SECONDS
        needed = sum(size for size, granted in self._waiting if not granted.done())
        for arrival in self._arriving:
            if needed <= 0 or arrival.start > latest:
                break
            needed -= arrival.size
            if not arrival.evicted and arrival.task is not None:
                arrival.evicted = True
                arrival.task.cancel()
        self._make_room()
