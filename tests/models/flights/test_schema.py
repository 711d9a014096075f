"""Tests that the curated schema holds of every real month, and of how far months drift."""

from __future__ import annotations

from functools import cache
from typing import Any

import pandas as pd
import pytest
import tensorflow_data_validation as tfdv

from tests.conftest import PROJECT, thin
from tests.models.flights.settings import CONFIG, read_month

MONTHS = range(201301, 201313)


@cache
def frame(number: int) -> pd.DataFrame:
    rows = thin(read_month(number), 5000).to_pandas()
    return rows.assign(time_hour=rows["time_hour"].astype("int64") // 10**9)


def anomalies(rows: pd.DataFrame, before: pd.DataFrame | None = None) -> dict[str, Any]:
    """What TFDV finds, by feature; `before` is what a served model was trained on."""
    made = tfdv.generate_statistics_from_dataframe
    found = tfdv.validate_statistics(
        made(rows),
        tfdv.load_schema_text(str(PROJECT / CONFIG.gate.schema)),
        environment="TRAINING",
        previous_statistics=None if before is None else made(before),
    )
    return {name: info.description for name, info in found.anomaly_info.items()}


def test_configured_schema_and_data_are_in_the_repository() -> None:
    assert (PROJECT / CONFIG.gate.schema).is_file()
    assert all((PROJECT / CONFIG.data.uri / f"span-{number}").is_dir() for number in MONTHS)


@pytest.mark.parametrize("number", MONTHS)
def test_schema_accepts_a_real_month(number: int) -> None:
    assert anomalies(frame(number)) == {}


@pytest.mark.parametrize("number", MONTHS[1:])
def test_schema_accepts_the_drift_of_a_real_month_from_the_window_before(number: int) -> None:
    window = range(max(201301, number - 6), number)
    before = pd.concat([frame(month).iloc[:: len(window)] for month in window])
    assert anomalies(frame(number), before) == {}
