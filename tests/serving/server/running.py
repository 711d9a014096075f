"""Runs the model server as a process that has TensorFlow imported, and asks it as clients do."""

from __future__ import annotations

import json
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.server.tensors import to_proto
from tests import forked

# Long enough for a busy machine; nothing is asserted about time.
PATIENCE = 90.0


def command(serving_dir: Path, *arguments: str) -> list[str]:
    """The command line of a server on ports that are free."""
    return [
        *(sys.executable, "-m", "serving", "serve", str(serving_dir)),
        *("--grpc-port", "0", "--rest-port", "0", *arguments),
    ]


class RunningServer:
    """A server that listens, and what it prints.

    Attributes:
      process: Its process.
      lines: What it printed so far, as the objects that the lines are.
      noise: What it printed that is no such object.
      rest_url: Where its REST interface is.
      http: A client of it.
      grpc_address: Where its gRPC interface is.
      predictions: Stub of its PredictionService.
      models: Stub of its ModelService.
    """

    def __init__(
        self,
        serving_dir: Path,
        *arguments: str,
        verify: bool = False,
        tls: bytes | None = None,
        wait_for_ports: bool = True,
    ):
        _, *words = command(serving_dir, *arguments, *([] if verify else ["--no-verify"]))
        self.process = forked.Program(words)
        self.lines: list[dict[str, Any]] = []
        self.noise: list[str] = []
        self._news = threading.Condition()
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=read, daemon=True) for read in (self._read, self._read_errors)
        ]
        for reader in self._readers:
            reader.start()
        self._tls = tls
        if wait_for_ports:
            self.connect()

    def connect(self) -> None:
        """Waits until it listens, and makes the clients."""
        try:
            listening = self.wait_for("listening")
        except AssertionError:
            self.process.kill()
            raise
        tls = self._tls
        scheme = "https" if tls else "http"
        host = "localhost" if tls else "127.0.0.1"
        self.rest_port: int = listening["rest_port"]
        self.grpc_port: int = listening["grpc_port"]
        self.rest_url = f"{scheme}://{host}:{self.rest_port}"
        self.grpc_address = f"{host}:{self.grpc_port}"
        self.channel = (
            grpc.secure_channel(self.grpc_address, grpc.ssl_channel_credentials(tls))
            if tls
            else grpc.insecure_channel(self.grpc_address)
        )
        # Without a context of its own, httpx reads all certificates of the system for each client.
        trusted = ssl.create_default_context(cadata=tls.decode()) if tls else False
        self.http = httpx.Client(base_url=self.rest_url, timeout=PATIENCE, verify=trusted)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def _read(self) -> None:
        for text in self.process.stdout:
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            with self._news:
                if isinstance(line, dict):
                    self.lines.append(line)
                else:
                    self.noise.append(text)
                self._news.notify_all()

    def _read_errors(self) -> None:
        for text in self.process.stderr:
            self._errors.append(text)

    @property
    def errors(self) -> str:
        """What it wrote to the standard error; libraries in C++ may say something there."""
        return "".join(self._errors)

    def find(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The lines of an event in which all of the fields are as given."""
        return [
            line for line in self.lines if line["event"] == event and fields.items() <= line.items()
        ]

    def wait_for(self, event: str, times: int = 1, **fields: Any) -> dict[str, Any]:
        """Waits for a line, or for the so-manieth of its kind, and returns it."""
        end = time.monotonic() + PATIENCE
        with self._news:
            while len(found := self.find(event, **fields)) < times:
                over = not any(reader.is_alive() for reader in self._readers)
                if over or time.monotonic() > end:
                    raise AssertionError(
                        f"no line {event} {fields} came: {self.lines} {self.noise} {self.errors}"
                    )
                self._news.wait(0.5)
        return found[times - 1]

    def rest(self, path: str, document: Any = None, **options: Any) -> httpx.Response:
        """POSTs a JSON value to a path below /v1/models/, or GETs it if there is none."""
        if document is None:
            return self.http.get(f"/v1/models/{path}", **options)
        return self.http.post(f"/v1/models/{path}", content=json.dumps(document), **options)

    def metrics(self) -> str:
        """The page for Prometheus."""
        return self.http.get("/monitoring/prometheus/metrics").text

    def stop(self) -> int:
        """Asks it to stop, and returns its exit status."""
        if hasattr(self, "channel"):
            self.channel.close()
            self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(PATIENCE)
        finally:
            self.process.kill()
        for reader in self._readers:
            reader.join()
        return status


@contextmanager
def running(
    serving_dir: Path,
    *arguments: str,
    wait_for_model: bool = True,
    status: int = 0,
    **options: Any,
) -> Iterator[RunningServer]:
    """A server that is stopped at the end, and has then to exit with a status."""
    server = RunningServer(serving_dir, *arguments, **options)
    try:
        if wait_for_model and options.get("wait_for_ports", True):
            server.wait_for("serving")
        yield server
    finally:
        found = server.stop()
    assert found == status, server.errors
    assert server.noise == []
    assert "Traceback" not in server.errors


def example_of(**features: Any) -> example_pb2.Example:
    """A tf.Example of single values: bytes or str, int or float."""
    example = example_pb2.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        if isinstance(value, bytes | str):
            feature.bytes_list.value.append(value.encode() if isinstance(value, str) else value)
        elif isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.float_list.value.append(value)
    return example


def predict_request(
    model: str = "toy", signature: str = "", **inputs: np.ndarray
) -> predict_pb2.PredictRequest:
    """A request to Predict."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(to_proto(array))
    return request


def strings(*values: bytes) -> np.ndarray:
    """An array of bytes objects, shape [n]."""
    return np.array([*values, None], object)[:-1]


def refusal(call: Callable[..., Any], request: Any, **options: Any) -> tuple[grpc.StatusCode, str]:
    """Status and message with which a gRPC call is refused."""
    with pytest.raises(grpc.RpcError) as refused:
        call(request, timeout=PATIENCE, **options)
    return refused.value.code(), refused.value.details()
