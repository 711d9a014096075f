"""Which version predicts for a request, and when a challenger is taken out of the traffic."""

from __future__ import annotations

import logging
import random
import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.example import example_pb2

from serving.server.logs import log_event
from serving.server.models import Arrays, Served
from storage.directory import ModelDirectory
from storage.traffic import SHADOW, SPLIT, TrafficPolicy, take_out
from storage.versions import ModelVersions

# So many of its last predictions are looked at.
_REMEMBERED = 100


@dataclass(frozen=True)
class Traffic:
    """A policy, with the versions that are loaded.

    Attributes:
      policy: The policy.
      champion: The version with the label `champion`.
      challenger: The version with the label `challenger`, if it is loaded and is another one.
    """

    policy: TrafficPolicy
    champion: Served
    challenger: Served | None


@dataclass(frozen=True)
class Failure:
    """What a challenger did in place of a prediction.

    Attributes:
      challenger: The challenger.
      outcome: As the metrics name it.
      reason: What happened, without values of the request.
      counts: Whether it is one towards taking the challenger out.
    """

    challenger: Challenger
    outcome: str
    reason: str
    counts: bool = True


@dataclass(eq=False)
class Assignment:
    """Which version predicts for a request of a model with a traffic policy.

    Attributes:
      traffic: The policy when the request came.
      id: Id of the request, in the request log.
      challenger: Who predicts in the champion's place, or besides it in its shadow; None for none.
      decided: Whether `challenger` is decided upon.
      failure: What the challenger did in place of a prediction.
      sampled: Whether the request log takes it; None for not yet asked.
    """

    traffic: Traffic
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    challenger: Challenger | None = None
    decided: bool = False
    failure: Failure | None = None
    sampled: bool | None = None

    def takes(self, header: Callable[[str], str | None], inputs: Arrays) -> bool:
        """Whether the challenger takes a request, by the split or as the champion's shadow.

        Args:
          header: Gives the value of a header.
          inputs: The request; the first row's feature counts.
        """
        policy, challenger = self.traffic.policy, self.traffic.challenger
        if challenger is None or policy.mode not in (SPLIT, SHADOW):
            return False
        if policy.mode == SHADOW:
            return True
        key: bytes | None = None
        if policy.header is not None:
            text = header(policy.header)
            key = text.encode(errors="surrogateescape") if text else None
        elif policy.feature is not None:
            key = feature_key(inputs, policy.feature)
        if key is None:
            return random.random() < policy.challenger_percent / 100
        return policy.gives_to_challenger(challenger.name, challenger.version, key)


def feature_key(inputs: Arrays, name: str) -> bytes | None:
    """The value of a feature in the first row, as text; None if it is absent.

    It is the same whether the row comes as raw features or as a serialized tf.Example.

    Args:
      inputs: The inputs of a request by name.
      name: Name of the feature.
    """
    values: list = []
    if name in inputs:
        values = np.atleast_1d(inputs[name])[:1].ravel().tolist()
    elif len(inputs) == 1:
        (array,) = inputs.values()
        if array.dtype != object or array.ndim != 1 or not len(array):
            return None
        try:
            features = example_pb2.Example.FromString(array[0]).features.feature
        except DecodeError:
            return None
        if name in features:
            kind = features[name].WhichOneof("kind")
            values = list(getattr(features[name], kind).value) if kind else []
    texts = [_as_text(value) for value in values]
    return b",".join(texts) if any(texts) else None


def _as_text(value: object) -> bytes:
    """A value of a feature; empty if it is absent, as raw features have it: "" or NaN."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, float):
        return b"" if value != value else repr(float(np.float32(value))).encode()
    return str(int(value)).encode() if isinstance(value, int) else str(value).encode()


class Challenger:
    """A challenger under one policy: whether it still takes part.

    Args:
      served: The version.
      number: Number of the policy.
      failures: It is taken out after so many failures within its last hundred predictions.
      on_taken_out: Called once, with it and the reason.
    """

    def __init__(
        self,
        served: Served,
        number: int,
        failures: int,
        on_taken_out: Callable[[Challenger, str], None],
    ):
        self.served = served
        self.number = number
        self.reason = ""
        self._failures = failures
        self._on_taken_out = on_taken_out
        self._last: deque[bool] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()

    @property
    def is_out(self) -> bool:
        """Whether it was taken out."""
        return bool(self.reason)

    def predicted(self) -> None:
        """Notes a prediction."""
        with self._lock:
            self._last.append(True)

    def failed(self, reason: str) -> None:
        """Notes a failure; one too many takes it out."""
        with self._lock:
            self._last.append(False)
            failures = self._last.count(False)
            if self.reason or failures < self._failures:
                return
            self.reason = f"{failures} of its last {len(self._last)} predictions failed: {reason}"
        self._on_taken_out(self, self.reason)


def is_finite(outputs: Arrays) -> bool:
    """Whether no number of a prediction is NaN or infinite."""
    for array in outputs.values():
        if array.dtype.kind in "fc":
            if not np.isfinite(array).all():
                return False
        elif array.dtype.kind == "V" and not np.isfinite(array.astype(np.float32)).all():
            return False  # bfloat16 is of no kind that numpy knows.
    return True


def record_taken_out(directory: ModelVersions, number: int, version: int, reason: str) -> None:
    """Records in the Serving directory that a challenger was taken out, in a thread of its own.

    A server that may not write there takes it out for itself alone.

    Args:
      directory: The model.
      number: Number of the policy.
      version: The challenger.
      reason: What is wrong with it.
    """

    def record() -> None:
        try:
            changed = ModelDirectory(directory.serving_dir, directory.model_name)
            take_out(changed, number, version, reason, by="server")
        except (OSError, ValueError) as error:
            log_event(
                "not recorded",
                logging.WARNING,
                model=directory.model_name,
                version=version,
                reason=f"that the challenger was taken out: {error}",
            )

    threading.Thread(target=record, name="record", daemon=True).start()
