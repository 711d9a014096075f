"""Evaluates what a model server answered: a line for each thing that is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Limits:
    """What a candidate has to keep to on a server; 0 where there is no limit.

    Attributes:
      tolerance: Largest absolute difference from the model's own answer.
      max_p50_ms: Highest median time of a request, in milliseconds.
      max_p99_ms: Highest 99th percentile of that.
      max_startup_seconds: Longest time from the start of the server to its being ready.
      max_memory_mb: Highest peak of the server's resident memory, in MB (10^6 bytes).
      timeout_seconds: Longest time to wait for the server to be ready, and for each answer.
    """

    tolerance: float
    max_p50_ms: float
    max_p99_ms: float
    max_startup_seconds: float
    max_memory_mb: float
    timeout_seconds: float


@dataclass
class Protocol:
    """How a candidate answered over one protocol.

    Attributes:
      p50_ms: Median time of a request about one row, in milliseconds.
      p99_ms: 99th percentile of that.
      largest_difference: From the model's own answers; None if they were not compared.
    """

    p50_ms: float
    p99_ms: float
    largest_difference: float | None = None


@dataclass
class Trial:
    """How a candidate did in one form.

    Attributes:
      reasons: Why it is not fit to be served; none if it is.
      startup_seconds: From the start of the server to its being ready; None if it never was.
      memory_mb: Peak of the server's resident memory, in MB; None if it did not live to the end.
      protocols: How it answered, by protocol; those over which it answered every row.
    """

    reasons: list[str] = field(default_factory=list)
    startup_seconds: float | None = None
    memory_mb: float | None = None
    protocols: dict[str, Protocol] = field(default_factory=dict)


def non_finite_answers(protocol: str, answers: list[np.ndarray], numbers: list[int]) -> list[str]:
    """A line if there are answers that are NaN or infinite.

    Args:
      protocol: How they were requested.
      answers: An array of values a row.
      numbers: What to call each row.

    Returns:
      The line, or nothing.
    """
    wrong = [place for place, answer in enumerate(answers) if not np.isfinite(answer).all()]
    if not wrong:
        return []
    return [
        f"answered {_show(answers[wrong[0]])} to row {numbers[wrong[0]]} over {protocol}; "
        f"{len(wrong)} of {len(answers)} answers are NaN or infinite"
    ]


def compare(
    protocol: str,
    answers: list[np.ndarray],
    expected: list[np.ndarray],
    numbers: list[int],
    tolerance: float,
) -> tuple[float | None, list[str]]:
    """Compares a server's answers with the model's own.

    Args:
      protocol: How they were requested.
      answers: An array of values a row; finite.
      expected: The model's own answers.
      numbers: What to call each row.
      tolerance: Largest absolute difference that is allowed.

    Returns:
      The largest difference, None where the answers are not of the same size, and a line if it is
      too large.
    """
    for answer, own, number in zip(answers, expected, numbers, strict=True):
        if answer.size != own.size:
            return None, [
                f"answered row {number} over {protocol} with {answer.size} values, where the model "
                f"itself gives {own.size}"
            ]
    differences = [
        float(np.abs(answer.ravel() - own.ravel()).max(initial=0.0))
        for answer, own in zip(answers, expected, strict=True)
    ]
    # A model whose own answer is NaN has no difference to measure.
    wrong = [place for place, difference in enumerate(differences) if not difference <= tolerance]
    worst = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
    if not wrong:
        return differences[worst], []
    return differences[worst], [
        f"answered {_show(answers[worst])} to row {numbers[worst]} over {protocol}, where the "
        f"model itself gives {_show(expected[worst])}: {differences[worst]:.3g} apart, "
        f"{tolerance:g} allowed; {len(wrong)} of {len(answers)} answers are too far off"
    ]


def unmet_limits(trial: Trial, limits: Limits) -> list[str]:
    """A line for each limit of time and memory that a candidate does not keep to."""
    measured = [
        ("max_startup_seconds", "was ready after", trial.startup_seconds, "s"),
        ("max_memory_mb", "took", trial.memory_mb, "MB"),
    ]
    for name, protocol in trial.protocols.items():
        took = f"answered a row over {name} in"
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
