"""Measures what a challenger costs the champion's clients, and whether changes lose requests.

A copy of the live version is served as champion and challenger by a process of its own. Its own
warm-up requests, real rows, are sent over gRPC at a steady rate that leaves the machine's cores
some room: with a saturated machine every other thread would cost. Rounds without a challenger and
with it in the shadow take turns, so that both see the same machine.
"""

from __future__ import annotations

import os

# Before TensorFlow is imported, to silence its messages on the standard error.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import click
import grpc
import numpy as np

from benchmarks.common import PROJECT, report
from serving.server.warmup import read_requests
from storage.directory import ModelDirectory
from storage.names import CHALLENGER, CHAMPION
from storage.traffic import OFF, SHADOW, SPLIT, set_traffic
from storage.versions import ModelVersions, find_models

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.05
_CONNECTIONS = 4


class Arena:
    """A server of one version as champion and challenger.

    Args:
      source: The version, with its model and Serving directory.
      folder: An empty folder.
    """

    def __init__(self, source: ModelVersions, folder: str):
        version = source.served()
        assert version is not None
        self.directory = ModelDirectory(folder, source.model_name)
        model, provenance = source.version_uri(version), source.provenance_uri(version)
        for number, label in ((1, CHAMPION), (2, CHALLENGER)):
            self.directory.publish(number, model, provenance)
            self.directory.pin(number, label)
        self.requests = []
        for request in read_requests(model):
            request.model_spec.name = source.model_name
            self.requests.append(request.SerializeToString())
        self.policy = 0
        self.port = 0
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "serving", "serve", folder, "--no-verify", "--no-ui"),
                *("--no-access-log", "--grpc-port", "0", "--rest-port", "0"),
                *("--poll-seconds", str(_POLL_SECONDS)),
            ],
            cwd=PROJECT,
            text=True,
            stdout=subprocess.PIPE,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._wait(lambda: self.port)
        self.change(SHADOW)

    def change(self, mode: str, percent: float = 0.0) -> None:
        """Changes the traffic, and waits until the server has."""
        policy = set_traffic(self.directory, mode, challenger_percent=percent, by="benchmark")
        self._wait(lambda: self.policy == policy.number)

    def stop(self) -> None:
        """Ends the server."""
        self._process.terminate()
        self._process.wait(_PATIENCE_SECONDS)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            line = json.loads(text)
            with self._news:
                if line["event"] == "listening":
                    self.port = line["grpc_port"]
                elif line["event"] == "traffic":
                    self.policy = line["number"]
                elif line["event"] == "challenger taken out":
                    raise RuntimeError(text)
                self._news.notify_all()

    def _wait(self, happened: object) -> None:
        with self._news:
            assert callable(happened)
            if not self._news.wait_for(happened, _PATIENCE_SECONDS):
                raise TimeoutError("the server does not say what it should")


@contextlib.contextmanager
def _served(serving_dir: Path) -> Iterator[Arena]:
    source = ModelVersions(str(serving_dir), find_models(str(serving_dir))[0])
    with tempfile.TemporaryDirectory() as folder:
        arena = Arena(source, folder)
        try:
            yield arena
        finally:
            arena.stop()


class Load:
    """Requests at a steady rate, whether those before them are finished or not.

    Attributes:
      seconds: Time from when each was due to its response.
      errors: How often each error came.
    """

    def __init__(self, arena: Arena, rate: float):
        self.seconds: list[float] = []
        self.errors: Counter[str] = Counter()
        self._arena = arena
        self._rate = rate
        self._random = Random(1)

    async def run(self, until: asyncio.Event) -> None:
        """Sends requests until an event is set, and waits for the last responses."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        async with contextlib.AsyncExitStack() as stack:
            asks = []
            for _ in range(_CONNECTIONS):
                channel = grpc.aio.insecure_channel(f"127.0.0.1:{self._arena.port}", options)
                asks.append((await stack.enter_async_context(channel)).unary_unary(_PREDICT))
            tasks = set()
            due = time.perf_counter()
            while not until.is_set():
                # As independent clients come.
                due += self._random.expovariate(self._rate)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                task = asyncio.create_task(self._ask(self._random.choice(asks), due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    async def _ask(self, ask: grpc.aio.UnaryUnaryMultiCallable, due: float) -> None:
        try:
            await ask(self._random.choice(self._arena.requests), timeout=_PATIENCE_SECONDS)
        except grpc.RpcError as error:
            self.errors[error.code().name] += 1
        else:
            self.seconds.append(time.perf_counter() - due)


async def _for_seconds(load: Load, seconds: float) -> None:
    until = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, until.set)
    await load.run(until)


async def _while_changing(load: Load, arena: Arena, changes: int) -> None:
    until = asyncio.Event()
    running = asyncio.create_task(load.run(until))
    random = Random(2)

    def change() -> None:
        for _ in range(changes):
            mode = random.choice((SPLIT, SPLIT, SPLIT, SHADOW, OFF))
            arena.change(mode, random.randint(0, 100) if mode == SPLIT else 0.0)

    try:
        await asyncio.to_thread(change)
    finally:
        until.set()
        await running


@click.command()
@click.argument(
    "serving_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="output/serving_model",
)
@click.option("--rate", default=200.0, show_default=True, help="Requests a second.")
@click.option("--rounds", default=10, show_default=True, help="Rounds with and without a shadow.")
@click.option("--seconds", default=6.0, show_default=True, help="Length of a round.")
@click.option("--changes", default=1000, show_default=True, help="Changes of the split.")
def main(serving_dir: Path, rate: float, rounds: int, seconds: float, changes: int) -> None:
    """Serves the live version of SERVING_DIR, which stays as it is, and prints what that does."""
    data: dict[str, dict[str, float]] = {}
    with _served(serving_dir) as arena:
        asyncio.run(_for_seconds(Load(arena, rate), seconds))  # So that both are warm.
        loads = {OFF: Load(arena, rate), SHADOW: Load(arena, rate)}
        tails: dict[str, list[float]] = {OFF: [], SHADOW: []}
        for number in range(rounds):
            for mode in (OFF, SHADOW) if number % 2 else (SHADOW, OFF):
                arena.change(mode)
                before = len(loads[mode].seconds)
                asyncio.run(_for_seconds(loads[mode], seconds))
                tails[mode].append(float(np.percentile(loads[mode].seconds[before:], 99)))
        changing = Load(arena, rate)
        start = time.perf_counter()
        asyncio.run(_while_changing(changing, arena, changes))
        took = time.perf_counter() - start
    for name, load in (("alone", loads[OFF]), ("shadow", loads[SHADOW]), ("changes", changing)):
        p50, p99 = np.percentile(load.seconds, [50, 99]) * 1000
        failed = sum(load.errors.values())
        data[name] = {"requests": len(load.seconds) + failed, "p50": p50, "p99": p99}
        data[name]["failed"] = failed
    # A pause of the machine falls into one round; the median of the rounds does not have it.
    for name, mode in (("alone", OFF), ("shadow", SHADOW)):
        data[name]["p99"] = float(np.median(tails[mode])) * 1000
    cost = data["shadow"]["p99"] / data["alone"]["p99"] - 1
    titles = {
        "alone": "champion alone",
        "shadow": "with a shadow",
        "changes": f"{changes:,} changes of the traffic in {took:.0f} s",
    }
    report(
        "Champion and challenger",
        ["", "requests", "failed", "p50, ms", "p99, ms"],
        [
            [
                title,
                f"{data[name]['requests']:,.0f}",
                f"{data[name]['failed']:.0f}",
                f"{data[name]['p50']:.2f}",
                f"{data[name]['p99']:.2f}",
            ]
            for name, title in titles.items()
        ],
        {**data, "shadow_cost_of_p99": cost},
        f"{rate:g} requests a second over gRPC, one row each, of independent clients; p99 of the "
        f"first two rows is the median of {rounds} rounds of {seconds:g} s, in turns. The shadow "
        f"costs {cost:+.1%} of p99 (allowed: 5%). The server had seen each change before the next.",
    )


if __name__ == "__main__":
    main()
