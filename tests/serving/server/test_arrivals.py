"""Tests that memory for what arrives is bounded, and that what is slow makes room."""

from __future__ import annotations

import asyncio

import pytest

from serving.server import arrivals as module
from serving.server.arrivals import Arrivals
from serving.server.errors import ServingError

SIZE = 1 << 20


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.05)


async def hold(arrivals: Arrivals, size: int, until: asyncio.Event) -> int:
    async with arrivals.room(size):
        await until.wait()
        return arrivals.free


def test_arrivals_grant_no_more_memory_than_there_is() -> None:
    async def run() -> None:
        arrivals, done = Arrivals(8 * SIZE), asyncio.Event()
        tasks = [asyncio.create_task(hold(arrivals, SIZE, done)) for _ in range(20)]
        await asyncio.sleep(0)
        assert arrivals.free == SIZE  # kept for small ones
        small = asyncio.create_task(hold(arrivals, 1000, done))
        await asyncio.sleep(0)
        assert arrivals.free == SIZE - 1000
        done.set()
        assert min(await asyncio.gather(*tasks, small)) >= 0
        assert arrivals.free == arrivals.bytes

    asyncio.run(run())


def test_arrivals_that_are_slow_make_room_for_waiting_ones() -> None:
    async def run() -> None:
        arrivals, never = Arrivals(4 * SIZE), asyncio.Event()
        slow = [asyncio.create_task(hold(arrivals, SIZE, never)) for _ in range(30)]
        await asyncio.sleep(0)
        async with asyncio.timeout(60), arrivals.room(SIZE):
            # Who comes does not wait behind all who only hold memory.
            assert len([task for task in slow if task.done()]) <= 6
        async with asyncio.timeout(60):  # Nor is who came first forgotten.
            while len(evicted := [task for task in slow if task.done()]) < 27:
                await asyncio.sleep(0.01)
        error = evicted[0].exception()
        assert isinstance(error, ServingError)
        assert error.http_status == 408
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert arrivals.free == arrivals.bytes

    asyncio.run(run())


def test_arrivals_are_not_evicted_while_there_is_room() -> None:
    async def run() -> None:
        arrivals, never = Arrivals(4 * SIZE), asyncio.Event()
        slow = asyncio.create_task(hold(arrivals, SIZE, never))
        await asyncio.sleep(0.2)
        async with arrivals.room(SIZE):
            pass
        assert not slow.done()
        never.set()
        await slow

    asyncio.run(run())


def test_arrivals_cancelled_while_waiting_leave_nothing() -> None:
    async def run() -> None:
        arrivals, done = Arrivals(2 * SIZE), asyncio.Event()
        first = asyncio.create_task(hold(arrivals, 2 * SIZE, done))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(hold(arrivals, SIZE, done))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        done.set()
        await first
        assert arrivals.free == arrivals.bytes

    asyncio.run(run())


def test_arrivals_let_a_request_larger_than_the_limit_in_alone() -> None:
    async def run() -> None:
        arrivals = Arrivals(SIZE)
        async with arrivals.room(5 * SIZE):
            assert arrivals.free == 0
        assert arrivals.free == SIZE

    asyncio.run(run())
