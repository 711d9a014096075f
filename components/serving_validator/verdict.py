"""Checks the predictions of a model server: one line for each fault."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Limits:
    """The limits of a candidate on a server; 0 for no limit.

    Attributes:
      tolerance: Largest absolute difference from the model's own predictions; of a regression in
        standard deviations of the label.
      max_p50_ms: Highest median time of a request, in milliseconds.
      max_p99_ms: Highest 99th percentile of that.
      max_startup_seconds: Longest time until the server is ready.
      max_memory_mb: Highest peak of the server's resident memory, in MB (10^6 bytes).
      timeout_seconds: Longest time to wait until the server is ready, and for each prediction.
    """

    tolerance: float
    max_p50_ms: float
    max_p99_ms: float
    max_startup_seconds: float
    max_memory_mb: float
    timeout_seconds: float


@dataclass
class Protocol:
    """Measurements of a candidate over one protocol.

    Attributes:
      p50_ms: Median time of a request for one row, in milliseconds.
      p99_ms: 99th percentile of that.
      largest_difference: Largest difference from the model's own predictions; None if they were
        not compared.
    """

    p50_ms: float
    p99_ms: float
    largest_difference: float | None = None


@dataclass
class Trial:
    """Measurements of a candidate in one format.

    Attributes:
      reasons: Why it is not fit to be served; empty if it is.
      startup_seconds: Time until the server was ready; None if it never was.
      memory_mb: Peak of the server's resident memory, in MB; None if the server ended early.
      protocols: Measurements of each protocol over which every row got a prediction.
      methods: The methods that were requested: predict, and of classify and regress those that the
        format has.
    """

    reasons: list[str] = field(default_factory=list)
    startup_seconds: float | None = None
    memory_mb: float | None = None
    protocols: dict[str, Protocol] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)


def non_finite_predictions(
    protocol: str, predictions: list[np.ndarray], numbers: list[int]
) -> list[str]:
    """Finds predictions that are NaN or infinite.

    Args:
      protocol: Protocol of the requests.
      predictions: An array of values per row.
      numbers: Number of each row, for the message.

    Returns:
      A line that counts them, or nothing.
    """
    wrong = [
        place for place, prediction in enumerate(predictions) if not np.isfinite(prediction).all()
    ]
    if not wrong:
        return []
    return [
        f"predicted {_show(predictions[wrong[0]])} for row {numbers[wrong[0]]} over {protocol}; "
        f"{len(wrong)} of {len(predictions)} predictions are NaN or infinite"
    ]


def compare(
    protocol: str,
    predictions: list[np.ndarray],
    expected: list[np.ndarray],
    numbers: list[int],
    tolerance: float,
) -> tuple[float | None, list[str]]:
    """Compares a server's predictions with the model's own.

    Args:
      protocol: Protocol of the requests.
      predictions: An array of values per row; finite.
      expected: The model's own predictions.
      numbers: Number of each row, for the message.
      tolerance: Largest absolute difference that is allowed.

    Returns:
      The largest difference, or None if the predictions differ in size, and a line if it is too
      large.
    """
    for prediction, own, number in zip(predictions, expected, numbers, strict=True):
        if prediction.size != own.size:
            return None, [
                f"predicted {prediction.size} values for row {number} over {protocol}, but the "
                f"model itself predicts {own.size}"
            ]
    differences = [
        float(np.abs(prediction.ravel() - own.ravel()).max(initial=0.0))
        for prediction, own in zip(predictions, expected, strict=True)
    ]
    # "not <=" also finds NaN, the difference from a prediction that is NaN.
    wrong = [place for place, difference in enumerate(differences) if not difference <= tolerance]
    worst = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
    if not wrong:
        return differences[worst], []
    return differences[worst], [
        f"predicted {_show(predictions[worst])} for row {numbers[worst]} over {protocol}, but the "
        f"model itself predicts {_show(expected[worst])}: a difference of "
        f"{differences[worst]:.3g}, {tolerance:g} allowed; {len(wrong)} of {len(predictions)} "
        "predictions differ too much"
    ]


def unmet_limits(trial: Trial, limits: Limits) -> list[str]:
    """A line for each limit of time and memory that a candidate exceeds."""
    measured = [
        ("max_startup_seconds", "the server was ready after", trial.startup_seconds, "s"),
        ("max_memory_mb", "the server took", trial.memory_mb, "MB"),
    ]
    for name, protocol in trial.protocols.items():
        took = f"a request over {name} took"
        measured.append(("max_p50_ms", took, protocol.p50_ms, "ms (median)"))
        measured.append(("max_p99_ms", took, protocol.p99_ms, "ms (99th percentile)"))
    lines = []
    for limit, what, value, unit in measured:
        allowed = getattr(limits, limit)
        if value is not None and 0 < allowed < value:
            lines.append(
                f"{what} {value:.2f} {unit}, {value - allowed:.2f} more than the {allowed:g} that "
                f"{limit} allows"
            )
    return lines


def _show(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:.6g}" for value in values.ravel()[:4])
    return f"{shown}, …" if values.size > 4 else shown
