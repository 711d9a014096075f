"""Tries a candidate in one format on a model server: does it load and predict as it should?"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from components.serving_validator.clients import (
    CLASSIFY,
    REGRESS,
    Client,
    Disconnected,
    GrpcClient,
    Method,
    Refused,
    RestClient,
    Result,
    State,
    TimedOut,
)
from components.serving_validator.rows import Inputs, make_inputs
from components.serving_validator.server import (
    ServerProcess,
    free_ports,
    run_server,
    server_command,
)
from components.serving_validator.verdict import (
    Limits,
    Protocol,
    Trial,
    compare,
    non_finite_predictions,
    unmet_limits,
)
from ml import progress
from ml.predictors import load_predictor
from ml.tasks import BINARY, Task
from storage.names import DEFAULT_SIGNATURE

SAVED_MODEL_FORMAT, TFLITE_FORMAT = "SavedModel", "TFLite"

_POLL_SECONDS = 0.05
_NAMED = 5
# The server gives up a request this much later than this module.
_LATER_SECONDS = 10.0
# Time to wait for the end of a server whose connection broke.
_ENDING_SECONDS = 2.0


@dataclass(frozen=True)
class Rows:
    """The rows that a candidate gets requests for.

    Attributes:
      examples: Serialized tf.Examples, bytes [rows].
      numbers: What to call each row in a message.
      task: What the candidate predicts.
      scale: What a difference of two predictions is divided by: 1 of probabilities; of a regression
        the standard deviation of the rows' labels.
      features: Names of the features that their schema has.
    """

    examples: np.ndarray
    numbers: list[int]
    task: Task
    scale: float
    features: list[str]


class Unfit(Exception):
    """A candidate is not fit to be served, and its server takes no more requests."""


def try_formats(
    formats: Sequence[str],
    serving_dir: str,
    version_dir: str,
    model_name: str,
    rows: Rows,
    limits: Limits,
) -> dict[str, Trial]:
    """Serves a candidate in some formats and requests every row, over gRPC and over REST.

    Each format has a server. All start at once, because most of that time is imports; then one
    after the other gets requests, so that none slows another one down.

    Args:
      formats: Of `SAVED_MODEL_FORMAT` and `TFLITE_FORMAT`.
      serving_dir: Local folder that holds the candidate as the one version of the one model, and
        takes the servers' logs; see `log_path`.
      version_dir: Folder of that version.
      model_name: Name of the model.
      rows: What to request.
      limits: Its limits.

    Returns:
      By format the measurements, and the reasons against it.
    """
    progress.report(f"{' and '.join(formats)}: starting the server")
    with contextlib.ExitStack() as stack:
        requesters = {
            model_format: stack.enter_context(
                _serve(model_format, serving_dir, model_name, limits.timeout_seconds)
            )
            for model_format in formats
        }
        loading = list(requesters.values())
        while loading := [requester for requester in loading if requester.is_loading()]:
            time.sleep(_POLL_SECONDS)
        for model_format, requester in requesters.items():
            requester.run(model_format, rows)
    for model_format, requester in requesters.items():
        _compare_with_model(model_format, requester, version_dir, rows, limits)
    return {model_format: requester.trial for model_format, requester in requesters.items()}


@contextlib.contextmanager
def _serve(
    model_format: str, serving_dir: str, model_name: str, timeout_seconds: float
) -> Iterator[_Requester]:
    """Runs a server for a format."""
    grpc_port, rest_port = free_ports(2)
    command = server_command(
        serving_dir,
        model_name,
        grpc_port,
        rest_port,
        prefer_tflite=model_format == TFLITE_FORMAT,
        deadline_seconds=timeout_seconds + _LATER_SECONDS,
    )
    with (
        run_server(command, log_path(serving_dir, model_format)) as server,
        contextlib.closing(GrpcClient(grpc_port, model_name)) as grpc_client,
        contextlib.closing(RestClient(rest_port, model_name)) as rest_client,
    ):
        yield _Requester(server, grpc_client, rest_client, timeout_seconds)


def _compare_with_model(
    model_format: str, requester: _Requester, version_dir: str, rows: Rows, limits: Limits
) -> None:
    """Compares what a server predicted with what the model predicts here, and checks the limits."""
    trial = requester.trial
    for request, predictions in requester.predictions.items():
        trial.reasons += non_finite_predictions(request, predictions, rows.numbers)
    if not trial.reasons:
        # Row by row, like the requests: rounding may depend on the size of a batch. Last, because a
        # model that crashes or hangs would do so here too.
        model = load_predictor(version_dir, prefer_tflite=model_format == TFLITE_FORMAT)
        own = [model.predict(rows.examples[i : i + 1]) for i in range(len(rows.examples))]
        tolerance = limits.tolerance * rows.scale
        for request, predictions in requester.predictions.items():
            expected = own
            if CLASSIFY.name in request and rows.task.kind == BINARY:
                expected = [np.array([1 - p, p]) for p in (float(one.ravel()[0]) for one in own)]
            difference, lines = compare(request, predictions, expected, rows.numbers, tolerance)
            if request in trial.protocols:
                trial.protocols[request].largest_difference = difference
            trial.reasons += lines
    trial.reasons += unmet_limits(trial, limits)
    trial.reasons = [f"{model_format}: {reason}" for reason in trial.reasons]


def log_path(serving_dir: str, model_format: str) -> str:
    """Path of the log of the server that ran one format."""
    return os.path.join(serving_dir, f"{model_format}.log")


class _Requester:
    """Sends requests to a starting server, and keeps `trial` and `predictions`."""

    def __init__(
        self,
        server: ServerProcess,
        grpc_client: GrpcClient,
        rest_client: RestClient,
        timeout_seconds: float,
    ):
        self.trial = Trial()
        self.predictions: dict[str, list[np.ndarray]] = {}
        self._server = server
        self._grpc = grpc_client
        self._rest = rest_client
        self._timeout = timeout_seconds
        self._started = time.monotonic()

    def is_loading(self) -> bool:
        """Whether the model is still loading; if not, keeps its time, or why it failed."""
        try:
            seconds = time.monotonic() - self._started
            if not self._is_available():
                if seconds <= self._timeout:
                    return True
                self._server.kill()
                raise Unfit(f"the server did not load the model within {self._timeout:g} s")
            self.trial.startup_seconds = seconds
        except (Refused, Unfit) as error:
            self.trial.reasons.append(str(error))
        return False

    def run(self, model_format: str, rows: Rows) -> None:
        """Requests every row over each protocol until one fails; nothing if there is no server."""
        if self.trial.reasons:
            return
        try:
            with self._explain("its signatures"):
                signatures = self._grpc.signatures(self._timeout)
            inputs = make_inputs(signatures[DEFAULT_SIGNATURE], rows.examples, rows.features)
            methods = [method for method in (CLASSIFY, REGRESS) if method.name in signatures]
            self.trial.methods = ["predict", *(method.name for method in methods)]
            for protocol, client in (("gRPC", self._grpc), ("REST", self._rest)):
                progress.report(f"{model_format}: {len(rows.numbers)} rows over {protocol}")
                try:
                    self._request(protocol, client, inputs, rows.numbers)
                    for method in methods:
                        self._request_method(protocol, client, method, rows)
                except Refused as error:
                    self.trial.reasons.append(str(error))
            if ending := self._server.ending():
                raise Unfit(f"after the last request: {ending}")
            self.trial.memory_mb = self._server.peak_memory_mb()
        except (Refused, Unfit) as error:
            self.trial.reasons.append(str(error))

    def _is_available(self) -> bool:
        state, message = self._grpc.status()
        if state == State.AVAILABLE and self._rest.is_up():
            return True
        if state == State.END:
            raise Unfit(f"the server did not load the model: {message}")
        if ending := self._server.ending():
            raise Unfit(f"while the model was loading: {ending}")
        return False

    def _request(self, protocol: str, client: Client, inputs: Inputs, numbers: list[int]) -> None:
        requests = [client.prepare(inputs, row) for row in range(len(numbers))]
        predictions, seconds = [], []
        for send, number in zip(requests, numbers, strict=True):
            with self._explain(f"row {number} over {protocol}"):
                start = time.perf_counter()
                predictions.append(send(self._timeout))
                seconds.append(time.perf_counter() - start)
        p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
        self.trial.protocols[protocol] = Protocol(float(p50), float(p99))
        self.predictions[protocol] = predictions

    def _request_method(self, protocol: str, client: Client, method: Method, rows: Rows) -> None:
        """Classifies or regresses every row; how long that takes is not measured."""
        request = f"{protocol} ({method.name})"
        results: list[Result] = []
        for example, number in zip(rows.examples, rows.numbers, strict=True):
            send = client.prepare_example(method, example)
            with self._explain(f"row {number} over {request}"):
                results.append(send(self._timeout))
        expected = rows.task.class_names if method is CLASSIFY else ()
        for result, number in zip(results, rows.numbers, strict=True):
            if result.classes != expected:
                raise Refused(
                    f"row {number} over {request}: the classes are {_show(result.classes)}; "
                    f"{_show(expected)} are expected"
                )
        self.predictions[request] = [result.values for result in results]

    @contextlib.contextmanager
    def _explain(self, request: str) -> Iterator[None]:
        """Names the request that failed, and how the server ended if it did."""
        try:
            yield
        except Refused as error:
            raise Refused(f"{request}: the server responded with {error}") from error
        except TimedOut as error:
            self._server.kill()
            raise Unfit(f"{request}: no response within {self._timeout:g} s") from error
        except Disconnected as error:
            ending = self._server.ending(_ENDING_SECONDS)
            reason = ending or f"the server broke the connection: {error}"
            raise Unfit(f"{request}: {reason}") from error


def _show(classes: Sequence[str]) -> str:
    return ", ".join(classes[:_NAMED]) + (", …" if len(classes) > _NAMED else "")
