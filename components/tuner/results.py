"""What is trained in a trial, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ml.hyperparameters import Value


@dataclass(frozen=True)
class Training:
    """A training to run.

    Attributes:
      trial: Number of the trial.
      settings: The settings that it changes, by key.
      rows: Rows of `train`; 0 for all.
      seed: Seed of all random choices.
    """

    trial: int
    settings: Mapping[str, Value]
    rows: int
    seed: int


@dataclass(frozen=True)
class Result:
    """The result of a training.

    Attributes:
      metrics: The metrics on `eval`; empty if it failed.
      epochs: Number of epochs.
      seconds: Time that it took.
      why: Why it failed; "" if it did not.
      lasting: Whether it would fail again.
      kept: Whether it is from an earlier search.
    """

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    epochs: int = 0
    seconds: float = 0.0
    why: str = ""
    lasting: bool = False
    kept: bool = False
