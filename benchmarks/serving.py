"""Measures the embedded model server: how fast it answers, swaps versions and refuses nonsense.

A copy of the live version is served twice, as `model.tflite` and as SavedModel, by a process of its
own with the settings that a user gets: versions are verified, each request is a line in a log. The
clients are in this process, share the machine's cores with the server, and are kept light: requests
are serialized once, and bytes come and go as they are.
"""

from __future__ import annotations

import os

# Before TensorFlow is imported, to silence its messages on the standard error.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import asyncio
import contextlib
import gc
import http.client
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

import click
import grpc
import numpy as np
import psutil
import pyarrow as pa
import tensorflow as tf
import uvloop
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from benchmarks import bombs
from benchmarks.bad_requests import GRPC, PREDICTION_SERVICE, REST, Kind, Sender, make_kinds
from benchmarks.bombs import measure_bombs
from benchmarks.common import report
from components.serving_validator.server import HOST, ServerProcess, run_server
from pipeline.config import load_config
from serving.server.settings import ServerSettings
from storage import spans
from storage.directory import ModelDirectory
from storage.keys import PRIVATE_KEY_FILE, default_trust, ensure_key_pair
from storage.parquet import open_file
from storage.signing import sign

_TFLITE, _SAVED_MODEL = "model.tflite", "SavedModel"
_SIGNATURES = ("serving_default", "raw_features")

_CLIENTS, _BATCH, _BATCHES, _SINGLE_ROWS = 8, 256, 16, 1000
_WARM_UP_SECONDS = 1.0
_IN_FLIGHT, _CHANNELS, _STEADY_SECONDS = 1000, 8, 2.0
_REQUESTS, _STAGE, _SENDERS = 10_000, 1000, 4
_OVERSIZED = ServerSettings.max_request_bytes + (1 << 20)
_PATIENCE_SECONDS = 60.0
_FROM_ELSEWHERE = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module('serving', run_name='__main__', alter_sys=True)"
)
# Growth of the resident memory that is noise of the allocator.
_FLAT = 0.1

# Failed calls shall be seen, and clients shall not share a connection.
_CHANNEL_OPTIONS = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]

Ask = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
      rounds: Rounds of each load.
      round_seconds: Length of one.
      swaps: Versions published and rolled back again under load.
      bombs: Bombs of a kind that are sent at a time.
      nonsense: Whether bad requests are sent, and versions swapped with a thousand in flight.
    """

    rounds: int = 3
    round_seconds: float = 3.0
    swaps: int = 50
    bombs: int = 8
    nonsense: bool = True


TINY = Scale(rounds=1, round_seconds=0.2, swaps=1, bombs=1, nonsense=False)


@click.command()
@click.argument(
    "serving_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="output/serving_model",
)
@click.option("--no-access-log", is_flag=True, help="Have no line logged for each request.")
@click.option(
    "--against",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Another checkout, whose server takes the same load in turns.",
)
@click.option("--tiny", is_flag=True, help="Measure little, to see that it works.")
def main(serving_dir: Path, no_access_log: bool, against: Path | None, tiny: bool) -> None:
    """Serves the live version of SERVING_DIR, which stays as it is, and prints what that does."""
    rows = _read_newest_month()
    data: dict[str, Any] = {}
    scale = TINY if tiny else Scale()
    with tempfile.TemporaryDirectory() as folder:
        model = ModelCopy(serving_dir, load_config().model_name, Path(folder))
        # What the imports left would be looked through again and again while requests are timed.
        gc.collect()
        gc.freeze()
        for form in (_TFLITE, _SAVED_MODEL):
            with contextlib.ExitStack() as stack:
                server = stack.enter_context(serve(model, form, access_log=not no_access_log))
                other = None
                if against is not None:
                    other = stack.enter_context(
                        serve(model, form, access_log=not no_access_log, checkout=against)
                    )
                data[form] = measure(server, model, rows, scale, other)
    names = {_TFLITE: f"{_TFLITE} ({model.compression})", _SAVED_MODEL: _SAVED_MODEL}
    _report({names[form]: measured for form, measured in data.items()}, not no_access_log, scale)


class ModelCopy:
    """The live version of a model in a Serving directory of its own, signed with a key of its own.

    Args:
      serving_dir: The Serving directory to copy from.
      name: Name of the model.
      folder: Where to make the copy.

    Attributes:
      name: Name of the model.
      folder: Where the copy is, and room for other files.
      serving_dir: The Serving directory of the copy.
      version: Number of the version.
      compression: How its `model.tflite` was compressed.

    Raises:
      click.UsageError: If there is no version, or it has no `model.tflite`.
    """

    def __init__(self, serving_dir: Path, name: str, folder: Path):
        source = ModelDirectory(str(serving_dir), name)
        served = source.served()
        if served is None or not Path(source.version_uri(served), _TFLITE).exists():
            raise click.UsageError(f"there is no version with a {_TFLITE} in {source.uri}")
        self.name, self.folder, self.version = name, folder, served
        self.serving_dir = str(folder / "serving_model")
        self.compression = source.provenance(served).get("compression", "")
        self._uris = source.version_uri(served), source.provenance_uri(served)
        key = os.path.join(default_trust(self.serving_dir), PRIVATE_KEY_FILE)
        self._key = ensure_key_pair(key).private
        self._directory = ModelDirectory(self.serving_dir, name)
        self._publish(served)

    def publish(self) -> int:
        """Publishes the same model again, and returns the number of the new version."""
        version = self._directory.next_version()
        self._publish(version)
        return version

    def roll_back(self) -> None:
        """Rolls the newest version back."""
        self._directory.rollback()

    def _publish(self, version: int) -> None:
        self._directory.publish(
            version, *self._uris, sign=lambda private, number: sign(private, number, self._key)
        )


@dataclass(frozen=True)
class Server:
    """A running model server.

    Attributes:
      running: What runs it.
      process: Its process.
      grpc_port: Port of its gRPC interface.
      rest_port: Port of its REST interface.
      model_name: Name of the model that it serves.
    """

    running: ServerProcess
    process: psutil.Process
    grpc_port: int
    rest_port: int
    model_name: str

    def cpu_seconds(self) -> float:
        """CPU time that it has taken so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> int:
        """Its resident memory in bytes."""
        return int(self.process.memory_info().rss)

    @contextlib.contextmanager
    def grpc_client(self) -> Iterator[Ask]:
        """Asks for predictions over a connection of its own; messages are bytes."""
        with grpc.insecure_channel(self.grpc_address, options=_CHANNEL_OPTIONS) as channel:
            yield channel.unary_unary(f"{PREDICTION_SERVICE}Predict")

    @contextlib.contextmanager
    def rest_client(self) -> Iterator[Ask]:
        """Asks for predictions over a connection that is kept; bodies are bytes."""
        connection = http.client.HTTPConnection(HOST, self.rest_port, timeout=_PATIENCE_SECONDS)
        headers = {"Content-Type": "application/json"}

        def ask(body: bytes) -> bytes:
            connection.request("POST", f"/v1/models/{self.model_name}:predict", body, headers)
            response = connection.getresponse()
            answer = response.read()
            if response.status != http.client.OK:
                raise RuntimeError(f"{response.status}: {answer.decode(errors='replace')}")
            return answer

        with contextlib.closing(connection):
            yield ask

    @property
    def grpc_address(self) -> str:
        """Address of its gRPC interface."""
        return f"{HOST}:{self.grpc_port}"


@contextlib.contextmanager
def serve(
    model: ModelCopy, form: str, *, access_log: bool, checkout: Path | None = None
) -> Iterator[Server]:
    """Runs the embedded server on free ports as long as the context lasts.

    Args:
      model: What to serve.
      form: `model.tflite` or `SavedModel`.
      access_log: Whether each request is a line in the log, which goes to a file.
      checkout: Where the server's code is, if not here; versions are not verified then.

    Yields:
      The server, once it serves the model.

    Raises:
      RuntimeError: If it ends, or does not serve the model in time.
    """
    log = model.folder / ("server.log" if checkout is None else "other.log")
    start = ["-m", "serving"]
    if checkout is not None:
        start = ["-c", _FROM_ELSEWHERE, str(checkout.resolve()), "--no-verify"]
    command = [
        *(sys.executable, *start[:3], "serve", model.serving_dir, *start[3:]),
        *("--grpc-port", "0", "--rest-port", "0"),
        *(["--prefer-tflite"] if form == _TFLITE else []),
        *([] if access_log else ["--no-access-log"]),
    ]
    others = set(psutil.Process().children())
    with run_server(command, str(log)) as running:
        ports = _wait_for_event(running, log, "listening")
        _wait_for_event(running, log, "serving")
        (process,) = set(psutil.Process().children()) - others
        try:
            yield Server(running, process, ports["grpc_port"], ports["rest_port"], model.name)
        finally:
            if ending := running.ending():
                raise RuntimeError(ending)


def _wait_for_event(running: ServerProcess, log: Path, event: str) -> dict[str, Any]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                record: dict[str, Any] = json.loads(line)
                if record["event"] == event:
                    return record
        if ending := running.ending(0.1):
            raise RuntimeError(ending)
    raise RuntimeError(f"the server is not {event} after {_PATIENCE_SECONDS:g} seconds")


@dataclass(frozen=True)
class Requests:
    """Requests about real rows, serialized.

    Attributes:
      first: The first request of gRPC, for one row.
      first_row: The same row as JSON has it.
      grpc: Requests of gRPC, each for one row.
      grpc_batches: Requests of gRPC, each for `_BATCH` rows.
      rest: Bodies of REST, each of one row, in row form.
      rest_batches: Bodies of REST, each of `_BATCH` rows, in column form.
    """

    first: predict_pb2.PredictRequest
    first_row: Mapping[str, Any]
    grpc: Sequence[bytes]
    grpc_batches: Sequence[bytes]
    rest: Sequence[bytes]
    rest_batches: Sequence[bytes]


def measure(
    server: Server, model: ModelCopy, rows: pa.Table, scale: Scale, other: Server | None = None
) -> dict[str, Any]:
    """Measures a server.

    Args:
      server: The server, newly started.
      model: What it serves.
      rows: Rows of raw features to ask it about.
      scale: How much is measured.
      other: Another server of the same model, which takes the same load in turns.

    Returns:
      The figures, as JSON.
    """
    requests = _make_requests(server, rows)
    with contextlib.ExitStack() as stack:
        clients = {
            asked: [
                [stack.enter_context(client()) for _ in range(_CLIENTS)]
                for client in (asked.grpc_client, asked.rest_client)
            ]
            for asked in (server, other)
            if asked is not None
        }
        by_grpc, by_rest = clients[server]
        loads = {
            "grpc_one_client": (0, 1, requests.grpc, 1),
            "rest_one_client": (1, 1, requests.rest, 1),
            "grpc_clients": (0, _CLIENTS, requests.grpc, 1),
            "grpc_batches": (0, _CLIENTS, requests.grpc_batches, _BATCH),
            "rest_batches": (1, _CLIENTS, requests.rest_batches, _BATCH),
        }
        taken: dict[tuple[Server, str], list[dict[str, float]]] = {}
        # In turns, so that a noisy machine hurts all of them alike.
        for number in range(scale.rounds + 1):
            seconds = scale.round_seconds if number else min(_WARM_UP_SECONDS, scale.round_seconds)
            for name, (protocol, count, content, size) in loads.items():
                for asked, pairs in clients.items():
                    found = _put_load(asked, pairs[protocol][:count], content, size, seconds)
                    if number:
                        taken.setdefault((asked, name), []).append(found)
        results: dict[str, Any] = {
            "loads": {name: _medians(taken[server, name]) for name in loads},
            "swaps": _time_swaps(model, by_grpc[0], requests.grpc[0], scale.swaps),
            "bombs": measure_bombs(
                *(server.process.pid, server.grpc_port, server.rest_port, server.model_name),
                *(by_grpc[0], requests.grpc[0], scale.bombs),
            ),
        }
        if other is not None:
            results["other_loads"] = {name: _medians(taken[other, name]) for name in loads}
        if scale.nonsense:
            results["in_flight"] = uvloop.run(_swap_in_flight(server, model, requests.grpc[0]))
            results["bad_requests"] = _send_nonsense(server, requests, [*by_grpc, *by_rest])
        return results


def _read_newest_month() -> pa.Table:
    """Rows from all over the newest month."""
    newest = max(spans.find_spans(load_config().data.source), key=lambda span: span.number)
    table = pa.concat_tables(open_file(path).read() for path in newest.files)
    return table.take(np.linspace(0, len(table) - 1, _BATCH * _BATCHES).astype(int))


def _make_requests(server: Server, rows: pa.Table) -> Requests:
    signature_name, signature = _find_signature(server, rows)
    columns = {name: _column(rows[name], info) for name, info in signature.inputs.items()}
    plain = {name: [_plain(value) for value in column] for name, column in columns.items()}

    def over_grpc(start: int, stop: int) -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = server.model_name
        request.model_spec.signature_name = signature_name
        for name, column in columns.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(column[start:stop]))
        return request

    def over_rest(**fields: Any) -> bytes:
        # NaN is no JSON, but TensorFlow Serving reads and writes it.
        return json.dumps({"signature_name": signature_name, **fields}).encode()

    def row(number: int) -> dict[str, Any]:
        return {name: values[number] for name, values in plain.items()}

    def batch(start: int) -> dict[str, Any]:
        return {name: values[start : start + _BATCH] for name, values in plain.items()}

    starts = range(0, _BATCH * _BATCHES, _BATCH)
    return Requests(
        first=over_grpc(0, 1),
        first_row=row(0),
        grpc=[over_grpc(n, n + 1).SerializeToString() for n in range(_SINGLE_ROWS)],
        grpc_batches=[over_grpc(n, n + _BATCH).SerializeToString() for n in starts],
        rest=[over_rest(instances=[row(n)]) for n in range(_SINGLE_ROWS)],
        rest_batches=[over_rest(inputs=batch(n)) for n in starts],
    )


def _find_signature(server: Server, rows: pa.Table) -> tuple[str, meta_graph_pb2.SignatureDef]:
    """The signature that takes columns of the rows, and its name."""
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = server.model_name
    with grpc.insecure_channel(server.grpc_address) as channel:
        ask = channel.unary_unary(f"{PREDICTION_SERVICE}GetModelMetadata")
        answer = ask(request.SerializeToString())
    found = get_model_metadata_pb2.SignatureDefMap()
    response = get_model_metadata_pb2.GetModelMetadataResponse.FromString(answer)
    response.metadata["signature_def"].Unpack(found)
    for name in _SIGNATURES:
        if found.signature_def[name].inputs.keys() <= set(rows.column_names):
            return name, found.signature_def[name]
    raise click.ClickException("no signature of the model takes the columns of the data")


def _column(column: pa.ChunkedArray, info: meta_graph_pb2.TensorInfo) -> np.ndarray:
    """The values of a feature, [rows]; an absent one is "" or NaN."""
    dtype = tf.as_dtype(info.dtype)
    if dtype == tf.string:
        return np.array([(value or "").encode() for value in column.to_pylist()], object)
    values = [np.nan if value is None else value for value in column.to_pylist()]
    return np.array(values, dtype.as_numpy_dtype)


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item()


def _put_load(
    server: Server, clients: Sequence[Ask], requests: Sequence[bytes], rows: int, seconds: float
) -> dict[str, float]:
    """Has clients ask at the same time, each as soon as it has its answer.

    Args:
      server: What they ask.
      clients: The clients.
      requests: What each asks about in turn.
      rows: Rows in a request.
      seconds: How long.

    Returns:
      Rows a second, percentiles of the time for an answer in ms, and the CPU time of server and
      clients for a request in µs.
    """
    end = time.perf_counter() + seconds

    def run(ask: Ask) -> list[float]:
        taken = []
        for request in cycle(requests):
            start = time.perf_counter()
            if start > end:
                break
            ask(request)
            taken.append(time.perf_counter() - start)
        return taken

    with ThreadPoolExecutor(len(clients)) as pool:
        start, server_start, client_start = end - seconds, server.cpu_seconds(), time.process_time()
        taken = [time for times in pool.map(run, clients) for time in times]
        elapsed = time.perf_counter() - start
        client_us = (time.process_time() - client_start) / len(taken) * 1e6
        server_us = (server.cpu_seconds() - server_start) / len(taken) * 1e6
    rate = len(taken) * rows / elapsed
    return {
        "rows_per_second": rate,
        **_percentiles(taken),
        "server_us": server_us,
        "client_us": client_us,
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "p50_ms": float(np.percentile(seconds, 50)) * 1e3,
        "p99_ms": float(np.percentile(seconds, 99)) * 1e3,
        "max_ms": max(seconds) * 1e3,
    }


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.median([taken[name] for taken in rounds])) for name in rounds[0]}


@lru_cache
def _version(answer: bytes) -> int:
    """The version that gave an answer."""
    return int(predict_pb2.PredictResponse.FromString(answer).model_spec.version.value)


def _time_swaps(model: ModelCopy, ask: Ask, request: bytes, swaps: int) -> dict[str, float]:
    """Publishes versions and rolls them back, with one client that asks all the time.

    No answer may fail: it would end the measurement.

    Returns:
      Median seconds until the first answer of the other version, and the slowest answer in ms.
    """
    published: list[float] = []
    rolled_back: list[float] = []
    slowest = []
    for _ in range(swaps):
        version = model.publish()
        for seconds, wanted in ((published, version), (rolled_back, model.version)):
            start = now = time.perf_counter()
            answered_by = 0
            while answered_by != wanted:
                if now - start > _PATIENCE_SECONDS:
                    raise RuntimeError(f"no answer of version {wanted}, only of {answered_by}")
                answered_by = _version(ask(request))
                slowest.append(time.perf_counter() - now)
                now = time.perf_counter()
            seconds.append(now - start)
            if wanted == version:
                model.roll_back()
    return {
        "publish_seconds": float(np.median(published)),
        "rollback_seconds": float(np.median(rolled_back)),
        "slowest_ms": max(slowest) * 1e3,
        "swaps": 2 * swaps,
        "answers": len(slowest),
    }


async def _swap_in_flight(server: Server, model: ModelCopy, request: bytes) -> dict[str, Any]:
    """Publishes a version and rolls it back, with `_IN_FLIGHT` requests in flight all the time.

    Returns:
      How many were answered by which version and how many failed, percentiles of the time for an
      answer in ms, and seconds until the first answer of the other version.
    """
    answers: list[tuple[float, float, int]] = []
    failures: Counter[str] = Counter()
    newest_of: dict[int, float] = {}  # when the newest request began that a version answered
    stopping = False

    async def keep_asking(call: Any) -> None:
        while not stopping:
            start = time.perf_counter()
            try:
                version = _version(await call(request, timeout=_PATIENCE_SECONDS))
            except grpc.aio.AioRpcError as error:
                failures[error.code().name] += 1
                await asyncio.sleep(0.1)
                continue
            answers.append((start, time.perf_counter(), version))
            newest_of[version] = max(newest_of.get(version, 0), start)

    async def swap(change: Callable[[], int]) -> float:
        """Seconds until a version answers to a request that began after a change."""
        wanted = await asyncio.to_thread(change)
        start = time.perf_counter()
        while newest_of.get(wanted, 0) < start:
            if time.perf_counter() > start + _PATIENCE_SECONDS:
                raise RuntimeError(f"no answer of version {wanted} under load")
            await asyncio.sleep(0.05)
        await asyncio.sleep(_STEADY_SECONDS)
        return min(end for begin, end, by in answers if by == wanted and begin > start) - start

    def roll_back() -> int:
        model.roll_back()
        return model.version

    async with contextlib.AsyncExitStack() as stack:
        calls = []
        for _ in range(_CHANNELS):
            channel = grpc.aio.insecure_channel(server.grpc_address, options=_CHANNEL_OPTIONS)
            await stack.enter_async_context(channel)
            calls.append(channel.unary_unary(f"{PREDICTION_SERVICE}Predict"))
        callers = [
            asyncio.create_task(keep_asking(call)) for call in islice(cycle(calls), _IN_FLIGHT)
        ]
        try:
            await asyncio.sleep(_STEADY_SECONDS)
            publish_seconds = await swap(model.publish)
            rollback_seconds = await swap(roll_back)
        finally:
            stopping = True
            await asyncio.gather(*callers)
    by = Counter(version for *_, version in answers)
    first = by.pop(model.version)
    return {
        "by_first_version": first,
        "by_second_version": by.total(),
        "failed": failures,
        "publish_seconds": publish_seconds,
        "rollback_seconds": rollback_seconds,
        **_percentiles([end - start for start, end, _ in answers]),
    }


def _send_nonsense(server: Server, requests: Requests, clients: Sequence[Ask]) -> dict[str, Any]:
    """Sends bad requests, then as many good ones.

    Args:
      server: Where to.
      requests: Good ones.
      clients: Clients for the good ones: first those of gRPC, then as many of REST.

    Returns:
      Statuses of the bad ones by protocol and kind, how many good ones got another answer
      afterwards than before, and resident memory in bytes.
    """
    kinds = make_kinds(requests.first, requests.first_row, _OVERSIZED)
    half = len(clients) // 2
    good = [*[requests.grpc[0]] * half, *[requests.rest[0]] * half]
    expected = [ask(request) for ask, request in zip(clients, good, strict=True)]
    before = server.memory()
    statuses: Counter[tuple[str, str, str]] = Counter()
    after = []
    for stage in range(_REQUESTS // _STAGE):
        statuses += _send_stage(server, kinds, stage)
        after.append(server.memory())

    def count_other(ask: Ask, request: bytes, answer: bytes) -> int:
        return sum(ask(request) != answer for _ in range(_REQUESTS // len(clients)))

    with ThreadPoolExecutor(len(clients)) as pool:
        other = sum(pool.map(count_other, clients, good, expected))
    after_good = server.memory()
    by_kind: dict[str, dict[str, dict[str, int]]] = {GRPC: {}, REST: {}}
    for (protocol, kind, status), count in sorted(statuses.items()):
        by_kind[protocol].setdefault(kind, {})[status] = count
    return {
        "statuses": by_kind,
        "other_answers_afterwards": other,
        "bytes_before": before,
        f"bytes_after_each_{_STAGE}": after,
        "bytes_after_good": after_good,
        "peak_bytes": int(server.running.peak_memory_mb() * 1e6),
    }


def _send_stage(server: Server, kinds: Sequence[Kind], stage: int) -> Counter[tuple[str, str, str]]:
    """Sends `_STAGE` bad requests of all kinds; counts them by protocol, kind and status.

    Those of a kind follow each other, as they do from a client that is wrong: what the server keeps
    of each of them adds up.
    """

    def send(share: range) -> Counter[tuple[str, str, str]]:
        with contextlib.closing(Sender(server.grpc_port, server.rest_port)) as sender:
            counts: Counter[tuple[str, str, str]] = Counter()
            for number in share:
                kind = kinds[number * len(kinds) // _STAGE]
                status = sender.send(kind, kind.make(Random(stage * _STAGE + number)))
                counts[kind.protocol, kind.label, status] += 1
            return counts

    with ThreadPoolExecutor(_SENDERS) as pool:
        counts = pool.map(send, [range(start, _STAGE, _SENDERS) for start in range(_SENDERS)])
        return sum(counts, Counter())


@dataclass(frozen=True)
class _Figure:
    """A line of the table for one form."""

    shown: str
    target: str = ""
    met: bool = True


def _report(data: Mapping[str, Any], access_log: bool, scale: Scale) -> None:
    figures = {form: _figures(measured) for form, measured in data.items()}
    labels = dict.fromkeys(label for lines in figures.values() for label in lines)
    table = []
    for label in labels:
        cells = [lines.get(label, _Figure("0")) for lines in figures.values()]
        shown = [cell.shown + ("" if cell.met else " *") for cell in cells]
        table.append([label, max(cell.target for cell in cells), *shown])
    notes = (
        f"* misses the target. {os.cpu_count()} cores, shared by server and clients; default "
        f"settings{'' if access_log else ', no access log'}; real rows of the newest month. "
        "In brackets: CPU time for a request, server + client, µs. Medians of "
        f"{scale.rounds} rounds of {scale.round_seconds:g} s. A swap is timed until the "
        "first answer of the other version; the server looks every second."
    )
    report("serving", ["", "target", *data], table, data, notes)


def _figures(measured: Mapping[str, Any]) -> dict[str, _Figure]:
    loads, swaps = measured["loads"], measured["swaps"]
    figures: dict[str, _Figure] = {}
    other = measured.get("other_loads", {})
    for name, load in other.items():
        before, now = load["server_us"], loads[name]["server_us"]
        figures[f"{name}: the other checkout's CPU, µs, and the share of it now"] = _Figure(
            f"{before:,.0f}, {load['rows_per_second']:,.0f} rows/s; {now / before:.2f}"
        )
    for protocol in (GRPC, REST):
        load = loads[f"{protocol.lower()}_one_client"]
        for name, limit in (("p50", 1), ("p99", 5)):
            value = load[f"{name}_ms"]
            target = f"{limit} or less" if protocol == GRPC else ""
            figures[f"one row over {protocol}, {name}, ms"] = _Figure(
                f"{value:.2f}" + (_cpu(load) if name == "p50" else ""),
                target,
                not target or value <= limit,
            )
    for name, label, limit in (
        ("grpc_clients", f"{_CLIENTS} clients, one row over gRPC, rows/s", 2000),
        ("grpc_batches", f"{_CLIENTS} clients, {_BATCH} rows over gRPC, rows/s", 50_000),
        ("rest_batches", f"{_CLIENTS} clients, {_BATCH} rows over REST, rows/s", 0),
    ):
        rate = loads[name]["rows_per_second"]
        target = f"{limit:,} or more" if limit else ""
        figures[label] = _Figure(f"{rate:,.0f}{_cpu(loads[name])}", target, rate >= limit)
    figures["publish, one client, s"] = _Figure(f"{swaps['publish_seconds']:.2f}")
    figures["rollback, one client, s"] = _Figure(f"{swaps['rollback_seconds']:.2f}")
    figures["slowest answer meanwhile, ms"] = _Figure(f"{swaps['slowest_ms']:.1f}")
    figures[f"{swaps['swaps']} of these: failed answers"] = _Figure("0", "0")
    for what, target, value, met in bombs.figures(measured["bombs"], ServerSettings.request_memory):
        figures[what] = _Figure(value, target, met)
    if "in_flight" not in measured:
        return figures
    in_flight = measured["in_flight"]
    label = f"{_IN_FLIGHT:,} in flight"
    figures[f"{label}: publish, s"] = _Figure(f"{in_flight['publish_seconds']:.2f}")
    figures[f"{label}: rollback, s"] = _Figure(f"{in_flight['rollback_seconds']:.2f}")
    for which in ("first", "second"):
        count = in_flight[f"by_{which}_version"]
        figures[f"{label}: answers of the {which} version"] = _Figure(f"{count:,}")
    failed = sum(in_flight["failed"].values())
    figures[f"{label}: failed"] = _Figure(f"{failed:,}", "0", not failed)
    figures[f"{label}: p99, ms"] = _Figure(f"{in_flight['p99_ms']:.0f}")
    figures |= _bad_request_figures(measured["bad_requests"])
    return figures


def _bad_request_figures(bad: Mapping[str, Any]) -> dict[str, _Figure]:
    figures = {}
    label = f"{_REQUESTS:,} bad requests"
    # A server that ended would have ended the measurement.
    figures[f"{label}: crashes"] = _Figure("0", "0")
    statuses: Counter[tuple[str, str]] = Counter()
    for protocol, kinds in bad["statuses"].items():
        for counts in kinds.values():
            for status, count in counts.items():
                statuses[protocol, status] += count
    accepted = statuses[GRPC, "OK"] + sum(
        count for (_, status), count in statuses.items() if status.startswith("2")
    )
    figures[f"{label}: answered as if good"] = _Figure(f"{accepted}", "0", not accepted)
    for (protocol, status), count in sorted(statuses.items()):
        if count:
            figures[f"{label}: {protocol} {status}"] = _Figure(f"{count:,}")
    other = bad["other_answers_afterwards"]
    figures["good requests answered differently afterwards"] = _Figure(f"{other}", "0", not other)
    warm, *_, last = bad[f"bytes_after_each_{_STAGE}"]
    figures["resident memory before, MB"] = _memory(bad["bytes_before"])
    figures[f"after {_STAGE:,} bad requests, MB"] = _memory(warm)
    figures[f"after {_REQUESTS:,}, MB"] = _memory(last, warm)
    figures[f"after {_REQUESTS:,} good ones, MB"] = _memory(bad["bytes_after_good"], warm)
    figures["peak, MB"] = _memory(bad["peak_bytes"])
    return figures


def _cpu(load: Mapping[str, float]) -> str:
    return f" ({load['server_us']:,.0f} + {load['client_us']:,.0f})"


def _memory(size: int, warm: int | None = None) -> _Figure:
    """A size that should be about that of a server that is warm, if one is given."""
    if warm is None:
        return _Figure(f"{size / 1e6:,.0f}")
    return _Figure(f"{size / 1e6:,.0f}", "flat", size <= warm * (1 + _FLAT))


if __name__ == "__main__":
    main()
