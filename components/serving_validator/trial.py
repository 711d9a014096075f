"""Tries a candidate in one format on a model server: does it load and predict as it should?"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from components.serving_validator.clients import (
    Client,
    Disconnected,
    GrpcClient,
    NoAnswer,
    Refused,
    RestClient,
    State,
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
    non_finite_answers,
    unmet_limits,
)
from ml import progress
from ml.predictors import load_predictor

SAVED_MODEL_FORM, TFLITE_FORM = "SavedModel", "TFLite"

_POLL_SECONDS = 0.05
# How much later than this module the server gives up a request.
_LATER_SECONDS = 10.0
# A server whose connection broke is given so long to be seen ending.
_ENDING_SECONDS = 2.0


@dataclass(frozen=True)
class Rows:
    """The rows that a candidate gets requests for.

    Attributes:
      examples: Serialized tf.Examples, bytes [rows].
      numbers: What to call each row in a message.
    """

    examples: np.ndarray
    numbers: list[int]


class Unfit(Exception):
    """Why a candidate is not fit to be served; its server can take no more requests."""


def try_form(
    form: str, serving_dir: str, version_dir: str, model_name: str, rows: Rows, limits: Limits
) -> Trial:
    """Serves a candidate in one format and requests every row, over gRPC and over REST.

    Args:
      form: `SAVED_MODEL_FORM` or `TFLITE_FORM`.
      serving_dir: Local folder that holds the candidate as the one version of the one model, and
        takes the server's log; see `log_path`.
      version_dir: Folder of that version.
      model_name: Name of the model.
      rows: What to request.
      limits: What it has to keep to.

    Returns:
      How it did.
    """
    grpc_port, rest_port = free_ports(2)
    command = server_command(
        serving_dir,
        model_name,
        grpc_port,
        rest_port,
        prefer_tflite=form == TFLITE_FORM,
        deadline_seconds=limits.timeout_seconds + _LATER_SECONDS,
    )
    progress.report(f"{form}: starting the server")
    with (
        run_server(command, log_path(serving_dir, form)) as server,
        contextlib.closing(GrpcClient(grpc_port, model_name)) as grpc_client,
        contextlib.closing(RestClient(rest_port, model_name)) as rest_client,
    ):
        interview = _Interview(server, grpc_client, rest_client, limits.timeout_seconds)
        interview.run(form, rows)
    trial = interview.trial
    for protocol, answers in interview.answers.items():
        trial.reasons += non_finite_answers(protocol, answers, rows.numbers)
    if not trial.reasons:
        # One by one, as the server was asked: rounding may depend on the size of a batch. Only now,
        # since a model that crashes or hangs would do so here.
        model = load_predictor(version_dir, prefer_tflite=form == TFLITE_FORM)
        own = [model.predict(rows.examples[i : i + 1]) for i in range(len(rows.examples))]
        for protocol, answers in interview.answers.items():
            difference, lines = compare(protocol, answers, own, rows.numbers, limits.tolerance)
            trial.protocols[protocol].largest_difference = difference
            trial.reasons += lines
    trial.reasons += unmet_limits(trial, limits)
    trial.reasons = [f"{form}: {reason}" for reason in trial.reasons]
    return trial


def log_path(serving_dir: str, form: str) -> str:
    """Path of the log of the server that a form was tried on."""
    return os.path.join(serving_dir, f"{form}.log")


class _Interview:
    """Sends requests to a server that is being started; keeps `trial` and `answers`."""

    def __init__(
        self,
        server: ServerProcess,
        grpc_client: GrpcClient,
        rest_client: RestClient,
        timeout_seconds: float,
    ):
        self.trial = Trial()
        self.answers: dict[str, list[np.ndarray]] = {}
        self._server = server
        self._grpc = grpc_client
        self._rest = rest_client
        self._timeout = timeout_seconds

    def run(self, form: str, rows: Rows) -> None:
        """Waits for the model, then requests every row over each protocol, as far as it gets."""
        try:
            self.trial.startup_seconds = self._wait_until_ready()
            with self._watch("asked for its signatures"):
                signature = self._grpc.signature(self._timeout)
            inputs = make_inputs(signature, rows.examples)
            for protocol, client in (("gRPC", self._grpc), ("REST", self._rest)):
                progress.report(f"{form}: {len(rows.numbers)} rows over {protocol}")
                try:
                    self._ask(protocol, client, inputs, rows.numbers)
                except Refused as error:
                    self.trial.reasons.append(str(error))
            if ending := self._server.ending():
                raise Unfit(f"after its last answer {ending}")
            self.trial.memory_mb = self._server.peak_memory_mb()
        except (Refused, Unfit) as error:
            self.trial.reasons.append(str(error))

    def _wait_until_ready(self) -> float:
        start = time.monotonic()
        while True:
            state, message = self._grpc.status()
            seconds = time.monotonic() - start
            if state == State.AVAILABLE and self._rest.is_up():
                return seconds
            if state == State.END:
                raise Unfit(f"the server did not load the model: {message}")
            if ending := self._server.ending():
                raise Unfit(f"while it was being loaded {ending}")
            if seconds > self._timeout:
                self._server.kill()
                raise Unfit(f"the server did not have it loaded within {self._timeout:g} s")
            time.sleep(_POLL_SECONDS)

    def _ask(self, protocol: str, client: Client, inputs: Inputs, numbers: list[int]) -> None:
        requests = [client.prepare(inputs, row) for row in range(len(numbers))]
        answers, seconds = [], []
        for send, number in zip(requests, numbers, strict=True):
            with self._watch(f"asked for row {number} over {protocol}"):
                start = time.perf_counter()
                answers.append(send(self._timeout))
                seconds.append(time.perf_counter() - start)
        p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
        self.trial.protocols[protocol] = Protocol(float(p50), float(p99))
        self.answers[protocol] = answers

    @contextlib.contextmanager
    def _watch(self, asked: str) -> Iterator[None]:
        """Says how the server ended that did not answer."""
        try:
            yield
        except Refused as error:
            raise Refused(f"{asked} the server answered with {error}") from error
        except NoAnswer as error:
            self._server.kill()
            raise Unfit(f"{asked} the server did not answer within {self._timeout:g} s") from error
        except Disconnected as error:
            ending = self._server.ending(_ENDING_SECONDS)
            became = ending or f"the server broke the connection: {error}"
            raise Unfit(f"{asked} {became}") from error
