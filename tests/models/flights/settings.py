"""Settings for tests of the network."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml.learning import Learning
from pipeline.config import TrainingConfig


def learning(**changes: Any) -> Learning:
    """How the network learns by default, but for some settings."""
    return Learning(**{**dataclasses.asdict(TrainingConfig()), **changes})
