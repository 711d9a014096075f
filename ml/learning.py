"""What a network needs to know to learn; the Trainer hands it over as `custom_config`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Learning:
    """How a network learns; `pipeline.config.TrainingConfig` has meaning, range and defaults."""

    epochs: int
    batch_size: int
    learning_rate: float
    dropout: float
    l2: float
    patience: int
    seed: int
    warm_start: float
