"""The settings of fairness: what is refused, and in which words."""

from __future__ import annotations

import pytest

from ml.fairness.report import FairnessSettings
from pipeline.config import ConfigError, load_config
from pipeline.schema_checks import check_schema

COLUMNS = 'fairness.columns=["company", "origin"]'


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (['fairness.columns=["delayed"]'], "fairness.columns: 'delayed' is the label"),
        (['fairness.columns=["origin", "origin"]'], "each column once is expected"),
        (
            [COLUMNS, "fairness.max_difference.recall=0.1"],
            "fairness.max_difference.recall: a binary task has false_positive_rate, "
            "false_negative_rate, selection_rate",
        ),
        (["fairness.min_ratio.selection_rate=0.8"], "a limit needs fairness.columns"),
        ([COLUMNS, "fairness.min_ratio.selection_rate=1.2"], "fairness.min_ratio"),
        ([COLUMNS, "fairness.max_difference.selection_rate=nan"], "fairness.max_difference"),
        ([COLUMNS, "fairness.thresholds=[1.0]"], "fairness.thresholds"),
        ([COLUMNS, "fairness.thresholds=[]"], "fairness.thresholds"),
        ([COLUMNS, "fairness.min_slice_examples=0"], "fairness.min_slice_examples"),
    ],
)
def test_fairness_config_refuses(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(settings=settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["temp", "nowhere"])
def test_check_schema_refuses_a_column_of_fairness_that_is_no_group(column: str) -> None:
    config = load_config(settings=[f'fairness.columns=["{column}"]'])
    with pytest.raises(ConfigError, match=f"fairness.columns: '{column}': the schema .* must have"):
        check_schema(config)


def test_fairness_config_reaches_the_component() -> None:
    config = load_config(settings=[COLUMNS, "fairness.max_difference.selection_rate=0.1"])
    check_schema(config)
    settings = FairnessSettings.from_json(config.fairness.to_json(), 0.9)
    assert settings.columns == ("company", "origin")
    assert settings.thresholds == (0.5,)
    assert settings.max_difference == {"selection_rate": 0.1}
    assert settings.confidence == 0.9
    assert load_config().fairness.to_json() == ""
