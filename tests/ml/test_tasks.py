"""Tests of the task object: labels, classes, and the comparison of metrics."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.metrics import ACCURACY, AUC, BIAS, CALIBRATION, R2, RMSE, Metric
from ml.tasks import MOST_CLASSES, TITLES, Task
from storage.errors import DataError

KINDS = ("binary", "multiclass", "regression")
TASKS = {
    "binary": Task("binary", "tip"),
    "multiclass": Task("multiclass", "kind", ("a", "b", "c")),
    "regression": Task("regression", "fare"),
}


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        (("no", "yes"), ["yes", "no", "maybe"], [1, 0, None]),
        (("no", "yes"), [b"yes", b"no", b"\xff"], [1, 0, None]),
        (("no", "yes"), np.array(["yes", None, math.nan], object), [1, None, None]),
        (("None", "nan"), [None, math.nan], [None, None]),
        (("0", "1"), [1, 0, 2, -1], [1, 0, None, None]),
        (("0", "1"), np.array([1, 0, 255], np.uint8), [1, 0, None]),
        (("0", "1"), [True, False], [1, 0]),
        (("0", "1"), np.array([True, None], object), [1, None]),
        (("0", "1"), [1.0, math.nan, 0.5, math.inf], [1, None, None, None]),
        (("0", "1"), np.array([1.0, 0.0], np.float32), [1, 0]),
        (("0", "1"), np.array([1, None, 0.0, "1", "x"], object), [1, None, 0, 1, None]),
        (("false", "true"), [True, False], [1, 0]),
        (("False", "True"), [True, False], [1, 0]),
        (("false", "true"), [0, 1, 2], [0, 1, None]),
        (("false", "true"), ["true", "false", "True"], [1, 0, None]),
        (("2", "1"), [1, 2], [1, 0]),
        (("-1", "300"), np.array([-1, 1], np.int8), [0, None]),
        (("0.0", "1.0"), [1, 0], [1, 0]),
        (("0.1", "0.5"), [0.5, 0.1, 0.3], [1, 0, None]),
        (("0.1", "0.5"), np.array([0.5, 0.1], np.float32), [1, 0]),
        (("0", "1.5"), [0, 1], [0, None]),
        (("1", "01"), ["01", "1"], [1, 0]),
        (("1", "01"), [1], [None]),
        (("no", "yes"), [0, 1], [None, None]),
        (("no", "yes"), [], []),
    ],
)
def test_encode_gives_the_id_of_the_class_or_nan(
    classes: tuple[str, str], labels: Any, expected: list[int | None]
) -> None:
    found = Task("binary", "tip", classes).encode(labels)
    assert found.dtype == np.float64
    wanted = [math.nan if value is None else value for value in expected]
    np.testing.assert_array_equal(found, wanted)


def test_encode_takes_a_column_of_single_values() -> None:
    assert TASKS["binary"].encode(np.array([[1], [0]])).tolist() == [1, 0]
    assert TASKS["multiclass"].encode(np.array([[b"c"], [b"a"]])).tolist() == [2, 0]


@given(
    names=st.lists(st.text(max_size=4), min_size=2, max_size=9, unique=True),
    rows=st.lists(st.integers(0, 8), max_size=20),
    as_bytes=st.booleans(),
)
def test_encode_of_text_finds_the_place_in_the_list_of_classes(
    names: list[str], rows: list[int], as_bytes: bool
) -> None:
    ids = [row % len(names) for row in rows]
    texts = [names[class_id] for class_id in ids]
    labels = np.array([text.encode() if as_bytes else text for text in texts], object)
    assert Task("multiclass", "kind", tuple(names)).encode(labels).tolist() == ids


@given(
    numbers=st.lists(st.integers(-(2**53), 2**53), min_size=2, max_size=9, unique=True),
    rows=st.lists(st.integers(0, 8), min_size=1, max_size=20),
)
def test_encode_of_integers_finds_the_place_in_the_list_of_classes(
    numbers: list[int], rows: list[int]
) -> None:
    ids = [row % len(numbers) for row in rows]
    task = Task("multiclass", "kind", tuple(map(str, numbers)))
    assert task.encode(np.array(numbers)[ids]).tolist() == ids


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 2], [1, 2]),
        ([1.5, math.nan], [1.5, math.nan]),
        ([True, False], [1, 0]),
        (np.array([1, None, 2.5], object), [1, math.nan, 2.5]),
        (np.array([Decimal("1.25"), np.float32(2)], object), [1.25, 2]),
        ([], []),
    ],
)
def test_encode_of_a_regression_gives_the_numbers(labels: Any, expected: list[float]) -> None:
    np.testing.assert_array_equal(TASKS["regression"].encode(labels), expected)


@pytest.mark.parametrize(
    "labels", [["1.5", "2"], [b"1.5"], np.array([1, "2"], object), np.array(["2020"], "M8[D]")]
)
def test_encode_of_a_regression_refuses_what_is_not_a_number(labels: Any) -> None:
    with pytest.raises(DataError, match="label 'fare': numbers are needed for a regression, not "):
        TASKS["regression"].encode(labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "ranking"}, "task: 'ranking' is none of binary, multiclass, regression"),
        ({"kind": "binary", "classes": ("a",)}, "a binary task has two, the positive one last, no"),
        ({"kind": "binary", "classes": ("a", "b", "c")}, "a binary task has two"),
        ({"kind": "multiclass"}, "a multiclass task lists 2 to 1,000 values of the label, not 0"),
        (
            {"kind": "multiclass", "classes": tuple(map(str, range(MOST_CLASSES + 1)))},
            "not 1,001",
        ),
        ({"kind": "multiclass", "classes": ("a", "b", "a")}, "classes: a value occurs twice"),
        ({"kind": "regression", "classes": ("a", "b")}, "classes: a regression has none"),
        ({"kind": "regression", "class_names": ("a", "b")}, "classes: a regression has none"),
        ({"kind": "binary", "class_names": ("a",)}, "one name for each of the 2 classes"),
        ({"kind": "binary", "weight": "y"}, "weight: 'y' is the label"),
        ({"kind": "binary", "example_weight": "y"}, "weight: 'y' is the label"),
    ],
)
def test_task_refuses_what_no_task_is(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task(**({"label": "y"} | arguments))


@given(
    kind=st.sampled_from(KINDS),
    classes=st.lists(st.text(max_size=5), min_size=2, max_size=2, unique=True),
    texts=st.tuples(*[st.text(max_size=5)] * 3),
)
def test_task_is_the_same_after_json(kind: Any, classes: list[str], texts: tuple[str, ...]) -> None:
    label, weight, example_weight = texts
    chosen = () if kind == "regression" else tuple(classes)
    others = {"weight": f"w{weight}{label}", "example_weight": f"e{example_weight}{label}"}
    task = Task(kind, label, chosen, tuple(reversed(chosen)), **others)
    assert Task.from_json(task.to_json()) == task


@pytest.mark.parametrize(
    ("classes", "numbers"),
    [
        (("0", "1"), {0: 0, 1: 1}),
        (("true", "false"), {1: 0, 0: 1}),
        (("7", "-3"), {7: 0, -3: 1}),
        (("1.5", "2"), {1.5: 0, 2: 1}),
        (("yes", "1"), {}),
        (("1", "1.0"), {}),
        (("false", "0"), {}),
        (("nan", "1"), {}),
        (("inf", "1"), {}),
        (("", "1"), {}),
    ],
)
def test_class_numbers_are_those_of_classes_that_are_different_numbers(
    classes: tuple[str, str], numbers: dict[float, int]
) -> None:
    assert Task("binary", "tip", classes).class_numbers() == numbers


@pytest.mark.parametrize("kind", KINDS)
def test_task_has_thresholds_of_its_own_metrics_with_the_headline_first(kind: str) -> None:
    task = TASKS[kind]
    names = {metric.name for metric in task.metrics}
    assert set(task.thresholds) <= names
    assert set(task.slice_thresholds) <= names
    assert task.headline is task.metrics[0]
    assert task.headline.direction
    assert all(task.metric(name).title == TITLES[name] for name in names)
    assert task.max_loss > 0
    with pytest.raises(KeyError):
        task.metric("f1")


def test_initial_bias_of_a_binary_task_is_the_logit_of_the_positive_share() -> None:
    (bias,) = TASKS["binary"].initial_bias(np.array([[1], [0], [0], [0]]))
    assert 1 / (1 + math.exp(-bias)) == pytest.approx(0.25, abs=1e-3)


def test_initial_bias_of_a_multiclass_task_gives_the_shares_after_softmax() -> None:
    bias = TASKS["multiclass"].initial_bias(np.array([0, 0, 0, 1]))
    assert np.isfinite(bias).all()
    np.testing.assert_allclose(np.exp(bias) / np.exp(bias).sum(), [0.75, 0.25, 0], atol=1e-3)


def test_initial_bias_of_a_regression_is_zero() -> None:
    assert TASKS["regression"].initial_bias(np.array([5.0, 7.0])).tolist() == [0.0]


@pytest.mark.parametrize(
    ("metric", "value", "baseline", "loss"),
    [
        (AUC, 0.70, 0.72, 0.02),
        (ACCURACY, 0.9, 0.8, -0.1),
        (R2, -0.5, 0.5, 1.0),
        (RMSE, 510.0, 500.0, 0.02),
        (RMSE, 250.0, 500.0, -0.5),
        (RMSE, 0.0, 0.0, 0.0),
        (RMSE, 1.0, 0.0, math.inf),
        (CALIBRATION, 0.8, 1.1, 0.1),
        (CALIBRATION, 1.1, 0.8, -0.1),
        (BIAS, -3.0, 1.0, 2.0),
    ],
)
def test_metric_loss_is_how_much_worse_a_value_is(
    metric: Metric, value: float, baseline: float, loss: float
) -> None:
    assert metric.loss(value, baseline) == pytest.approx(loss)


@given(
    metric=st.sampled_from([m for t in TASKS.values() for m in t.metrics]), value=st.floats(0, 9)
)
def test_metric_loss_of_the_same_value_is_zero(metric: Metric, value: float) -> None:
    assert metric.loss(value, value) == 0
