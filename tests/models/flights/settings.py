"""Settings for tests of the network."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml.learning import Learning
from pipeline.config import load_config
from pipeline.model import Model

CONFIG = load_config(settings=["model=flights"])
MODEL = Model.load(CONFIG)


def learning(**changes: Any) -> Learning:
    """How the network is trained by default, but for some settings."""
    return Learning(**{**dataclasses.asdict(CONFIG.training), **MODEL.custom_config, **changes})
