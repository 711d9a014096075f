"""Measures small requests that unpack to much: their memory, and the delay of other requests.

For benchmarks/serving.py.
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2

from benchmarks.bad_requests import PREDICTION_SERVICE

_HOST = "127.0.0.1"
_MEGABYTE = 1 << 20
_BODY = 15 * _MEGABYTE
_SECONDS = 60.0
_AT_A_TIME, _UNFINISHED = 8, 60

Ask = Callable[[bytes], bytes]


def measure_bombs(
    process: int, grpc_port: int, rest_port: int, model: str, good: Ask, request: bytes, count: int
) -> dict[str, dict[str, float]]:
    """Sends each kind of bomb, while a good client keeps sending requests.

    Args:
      process: Number of the server's process.
      grpc_port: Port of its gRPC interface.
      rest_port: Port of its REST interface.
      model: Name of the model.
      good: The good client.
      request: Its request.
      count: How many of each kind are sent at a time.

    Returns:
      By kind: growth of the most memory that the server had, in bytes, and the longest time for a
      good answer meanwhile, in seconds.
    """
    results = {}
    for name, send in _bombs(grpc_port, rest_port, model).items():
        memory = Path(f"/proc/{process}")
        (memory / "clear_refs").write_text("5")
        before = _peak(memory)
        stopping = threading.Event()
        with ThreadPoolExecutor(count + 1) as pool:
            slowest = pool.submit(_keep_requesting, good, request, stopping)
            try:
                for sent in [pool.submit(send) for _ in range(count)]:
                    sent.result()
            finally:
                stopping.set()
            results[name] = {
                "bytes": _peak(memory) - before,
                "slowest_seconds": slowest.result(),
            }
    return results


def _bombs(grpc_port: int, rest_port: int, model: str) -> Mapping[str, Callable[[], None]]:
    huge = predict_pb2.PredictRequest(model_spec={"name": model})
    for number in range(16):
        tensor = huge.inputs[f"input {number}"]
        tensor.dtype = types_pb2.DT_FLOAT
        tensor.tensor_shape.dim.add(size=2_000_000)
        tensor.float_val.append(1)
    rpc = partial(_call, grpc_port)
    post = partial(_post, rest_port, model)
    compressed = gzip.compress(bytes(800 * _MEGABYTE), 1)

    def json_of(piece: bytes) -> bytes:
        return b'{"instances": [' + piece * (_BODY // len(piece)) + b"0]}"

    nested = b"[" * 1000 + b"]" * 1000 + b","
    return {
        # As gRPC sends it; to have it compressed by gRPC would take this process seconds.
        "gRPC: 800 MB compressed": partial(rpc, compressed),
        "gRPC: huge shapes": partial(rpc, huge.SerializeToString()),
        "gRPC: empty entries of a map": partial(rpc, b"\x12\x00" * (_BODY // 2)),
        "REST: 800 MB compressed": partial(post, compressed, "Content-Encoding: gzip\r\n"),
        "REST: empty lists": partial(post, json_of(b"[],")),
        "REST: lists in lists": partial(post, json_of(nested)),
        "REST: objects": partial(post, json_of(b'{"":0},')),
        "REST: unfinished bodies": partial(_leave_unfinished, rest_port, model),
    }


def _keep_requesting(good: Ask, request: bytes, stopping: threading.Event) -> float:
    """The longest time that an answer took."""
    slowest = 0.0
    while True:
        start = time.perf_counter()
        good(request)
        slowest = max(slowest, time.perf_counter() - start)
        if stopping.is_set():
            return slowest


def _call(port: int, content: bytes) -> None:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    with (
        grpc.insecure_channel(f"{_HOST}:{port}", options=options) as channel,
        contextlib.suppress(grpc.RpcError),
    ):
        channel.unary_unary(f"{PREDICTION_SERVICE}Predict")(content, timeout=_SECONDS)


def _post(port: int, model: str, body: bytes, headers: str = "") -> None:
    with (
        socket.create_connection((_HOST, port), _SECONDS) as connection,
        contextlib.suppress(OSError),
    ):
        connection.sendall(_head(model, len(body), headers) + body)
        connection.recv(65536)


def _leave_unfinished(port: int, model: str) -> None:
    """Sends bodies but for their last byte, and waits for a while."""
    with contextlib.ExitStack() as stack:
        for _ in range(_UNFINISHED // _AT_A_TIME):
            connection = stack.enter_context(socket.create_connection((_HOST, port), _SECONDS))
            connection.settimeout(1)
            with contextlib.suppress(OSError):
                connection.sendall(_head(model, _BODY, "") + b" " * (_BODY - 1))
        time.sleep(1)


def _head(model: str, length: int, headers: str) -> bytes:
    return (
        f"POST /v1/models/{model}:predict HTTP/1.1\r\nHost: {_HOST}\r\n{headers}"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def _peak(memory: Path) -> int:
    """The most memory that a process had, in bytes, since that was last forgotten."""
    for line in (memory / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{memory} has no peak")


def figures(measured: Mapping[str, Any], budget: int) -> list[tuple[str, str, str, bool]]:
    """Lines of a table: what, target, value, whether it is met."""
    peak = max(one["bytes"] for one in measured.values())
    slowest = max(one["slowest_seconds"] for one in measured.values())
    lines = [
        (
            "bombs: growth of memory, MB",
            f"{1.2 * budget / 1e6:,.0f} or less",
            f"{peak / 1e6:,.0f}",
            peak <= 1.2 * budget,
        ),
        ("bombs: slowest good answer, s", "1 or less", f"{slowest:.2f}", slowest <= 1),
    ]
    for name, one in measured.items():
        value = f"{one['bytes'] / 1e6:,.0f} MB, {one['slowest_seconds']:.2f} s"
        lines.append((f"  {name}", "", value, True))
    return lines
