"""Tests that thresholds are of the task's metrics, and have the form that each needs."""

from __future__ import annotations

import json

import pytest

from pipeline.config import ConfigError, load_config
from pipeline.model import Model
from pipeline.monitoring import monitor_settings


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "monitor.thresholds.rmse=3",
            "monitor.thresholds.rmse: no such metric; those of a binary task are auc, auc_pr, "
            "log_loss, calibration (--set)",
        ),
        ("monitor.slice_thresholds.auc=[0.5,2]", "[0.5, 2.0]: the lowest AUC is expected, 0 to 1"),
        ("monitor.thresholds.auc=1.5", "auc = 1.5: the lowest AUC is expected, 0 to 1 (--set)"),
        ("monitor.thresholds.log_loss=[0.5,2]", "[0.5, 2.0]: the highest log loss is expected"),
        ("monitor.thresholds.calibration=3", "calibration = 3.0: the lowest and the highest"),
        ("monitor.thresholds.calibration=[2,0.5]", "the lowest and the highest calibration"),
        ("monitor.thresholds.calibration=[NaN,1]", "the lowest and the highest calibration"),
        ("monitor.thresholds.auc=nan", "the lowest AUC is expected"),
        ("monitor.thresholds.auc=high", "monitor.thresholds.auc = 'high': a number is expected"),
        ("monitor.thresholds.auc=[1,2,3]", "a number is expected, or the lowest and the highest"),
        ("monitor.thresholds=3", "monitor.thresholds = '3': a table is expected"),
        (
            "monitor.min_auc=0.6",
            "monitor.min_auc: no such key; did you mean monitor.thresholds.auc",
        ),
    ],
)
def test_load_config_refuses_a_threshold_that_is_not_the_tasks(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_config(settings=[setting])
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
