"""Tests of the settings of champion and challenger."""

from __future__ import annotations

import pytest

from components.serving_monitor.comparison import Rules
from ml.sequential_test import BETTER, NOT_YET, UNDECIDED, WORSE
from orchestration.local.origin import settings_of
from pipeline.config import ConfigError, load_config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("challenger.metric=calibration", "of a binary task it is one of log_loss, auc"),
        ("challenger.metric=rmse", "of a binary task it is one of log_loss, auc"),
        ("challenger.max_blocks=3", "challenger.max_blocks = 3: it is below min_blocks, 7"),
        ("challenger.alpha=0", "challenger.alpha"),
        ("challenger.alpha=nan", "challenger.alpha"),
        ("challenger.when_better=roll back", "challenger.when_better"),
        ("challenger.when_worse=promote", "challenger.when_worse"),
        ("challenger.start=now", "challenger.start"),
        ("challenger.percent=100", "challenger.percent"),
        ("challenger.max_p99_ratio=nan", "challenger.max_p99_ratio"),
    ],
)
def test_challenger_config_refuses_what_is_not_allowed(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(settings=[setting])


def test_challenger_config_gives_the_comparison_its_rules() -> None:
    settings = load_config(settings=["challenger.block_hours=6"]).challenger.comparison
    assert settings.pop("block_seconds") == 6 * 3600
    assert Rules(**settings).alpha == 0.05


def test_challenger_config_says_what_follows_from_each_verdict() -> None:
    actions = load_config(settings=["challenger.when_undecided=promote"]).challenger.actions
    assert actions == {
        **{BETTER: "promote", WORSE: "roll back"},
        **{UNDECIDED: "promote", NOT_YET: "wait"},
    }


def test_challenger_config_is_no_part_of_what_a_model_is_made_of() -> None:
    changed = load_config(settings=["challenger.alpha=0.01", "challenger.start=shadow"])
    assert settings_of(changed) == settings_of(load_config())
