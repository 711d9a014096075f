"""What a network needs to know to train; Trainer hands it over as `custom_config`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Learning:
    """The settings of a model's `run_fn`; `pipeline.config` says what they mean."""

    label: str
    weight: str
    prediction: str
    time_column: str
    epochs: int
    batch_size: int
    learning_rate: float
    dropout: float
    l2: float
    patience: int
    seed: int
    warm_start: float
