"""What the tests of this model share: settings of its network, and real months."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa

from ml.learning import Learning
from pipeline.config import load_config
from pipeline.model import Model
from storage.parquet import open_file
from tests.conftest import PROJECT

CONFIG = load_config(settings=["model=flights"])
MODEL = Model.load(CONFIG)
TASK = MODEL.task


def read_month(month: int) -> pa.Table:
    """A whole real month."""
    return open_file(str(PROJECT / CONFIG.data.uri / f"span-{month}" / "flights.parquet")).read()


def learning(**changes: Any) -> Learning:
    """How the network is trained by default, but for some settings."""
    return Learning.from_config(dataclasses.asdict(CONFIG.training) | MODEL.custom_config | changes)
