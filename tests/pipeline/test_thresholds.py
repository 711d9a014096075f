"""Tests that thresholds are of the task's metrics, and have the form that each needs."""

from __future__ import annotations

import json

import pytest

from ml.tasks import AUC, BIAS, RMSE
from ml.thresholds import bounds
from pipeline.config import ConfigError, load_config
from pipeline.model import Model
from pipeline.monitoring import monitor_settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["monitor.thresholds.rmse=3"],
            "monitor.thresholds.rmse: no such metric; those of a binary task are auc, auc_pr, "
            "log_loss, calibration",
        ),
        (
            ["monitor.slice_thresholds.auc=[0.5,2]"],
            "monitor.slice_thresholds.auc = [0.5, 2.0]: one number is expected, the lowest that "
            "is allowed",
        ),
        (
            ["monitor.thresholds.log_loss=[0.5,2]"],
            "monitor.thresholds.log_loss = [0.5, 2.0]: one number is expected, the highest that "
            "is allowed",
        ),
        (
            ["monitor.thresholds.calibration=3"],
            "monitor.thresholds.calibration = 3.0: a list of the lowest and the highest is "
            "expected",
        ),
        (
            ["monitor.thresholds.auc=high"],
            "monitor.thresholds.auc = 'high': a number is expected, or a list of the lowest and "
            "the highest (--set)",
        ),
        *(
            ([f"monitor.thresholds.calibration={value}"], "a number is expected, or a list of")
            for value in ("[2,0.5]", "[1]", "[1,2,3]", '["a","b"]', "[NaN,1]", "nan", "inf")
        ),
        (["monitor.thresholds=3"], "monitor.thresholds = '3': a table is expected"),
    ],
)
def test_load_config_refuses_a_threshold_that_is_not_the_tasks(
    settings: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_config(settings=settings)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_monitor_settings_put_the_settings_over_the_tasks_defaults() -> None:
    config = load_config(settings=["monitor.thresholds.log_loss=0.7"])
    given = monitor_settings(config, Model.load(config))
    assert json.loads(given["thresholds"]) == {
        "auc": 0.58,
        "calibration": [0.33, 3.0],
        "log_loss": 0.7,
    }
    assert json.loads(given["slice_thresholds"]) == {"auc": 0.5}


def test_bounds_follow_the_direction_of_the_metric() -> None:
    assert bounds(AUC, 0.6) == (0.6, None)
    assert bounds(RMSE, 500.0) == (None, 500.0)
    assert bounds(BIAS, (-3.0, 3.0)) == (-3.0, 3.0)
