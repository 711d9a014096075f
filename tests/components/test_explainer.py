"""Explainer on small models whose Shapley values are known, and on real trips."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tensorflow as tf
from tfx.v1.types import standard_artifacts as standard

from components.explainer.component import Explainer
from components.explainer.explanation import MOST_CELLS, Explanation, explain
from components.explainer.groups import OTHERS, Columns, make_groups
from components.explainer.masking import MaskedModel
from components.explainer.plots import beeswarm, dependence
from components.explainer.sample import choose_rows, sample_examples
from components.explainer.shapley import interactions, shap_values
from ml.predictors import SavedModelFeaturePredictor, TFLitePredictor, load_feature_predictor
from ml.tasks import Task
from storage.errors import DataError
from storage.tfrecords import open_records
from tests.components import task_models

COLOURS = (b"red", b"blue", b"")
SETTINGS: dict[str, Any] = {"configured": {}, "max_features": 64, "permutations": 1, "seed": 1}


class Stand:
    """A model of arrays: rows are the numbers of rows of columns."""

    def __init__(self, columns: Mapping[str, Any], function: Callable[..., np.ndarray]):
        self.columns = {name: np.asarray(column) for name, column in columns.items()}
        self.function = function
        self.seen: list[Columns] = []

    def parse(self, examples: np.ndarray) -> Columns:
        places = examples.astype(int)
        return {name: column[places] for name, column in self.columns.items()}

    def predict_features(self, features: Columns) -> np.ndarray:
        self.seen.append(features)
        return np.asarray(self.function(**features), np.float32)


def numbers(*names: str, rows: int = 40) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(5)
    return {name: chance.normal(size=rows).astype(np.float32) for name in names}


def explained(model: Stand, rows: int = 10, **settings: Any) -> Explanation:
    every = np.arange(len(next(iter(model.columns.values()))))
    examples, background = every[:rows].astype(object), every[rows:].astype(object)
    return explain(model, examples, background, **(SETTINGS | settings))


def check_additive(found: Explanation) -> None:
    sums = found.shap.values.sum(axis=1) + found.shap.base
    np.testing.assert_allclose(sums, found.rows.predictions, atol=1e-4)


# SHAP values.


def test_explainer_gives_the_shapley_values_of_a_linear_model() -> None:
    model = Stand(numbers("a", "b", "c"), lambda a, b, c: 2 * a - b)
    found = explained(model)
    background = found.model.background
    rows = found.rows.columns
    expected = [2 * (rows["a"] - background["a"].mean()), background["b"].mean() - rows["b"]]
    values = found.shap.values[:, :, 0]
    np.testing.assert_allclose(values[:, :2], np.transpose(expected), atol=1e-5)
    np.testing.assert_allclose(values[:, 2], 0, atol=1e-6)
    assert [one["feature"] for one in found.importance] == ["a", "b", "c"]
    check_additive(found)


def test_explainer_gives_the_same_values_as_shap_computes_for_all_coalitions() -> None:
    """Over all orders, which a permutation and its reverse are for three features of two orders."""
    model = Stand(numbers("a", "b"), lambda a, b: a * b + np.maximum(a, b))
    found = explained(model)
    for row in range(len(found.rows)):
        masks = np.array([[False, False], [True, False], [False, True], [True, True]])
        none, a, b, both = found.model.values(found.rows.columns, row, masks)[:, 0]
        exact = [(a - none + both - b) / 2, (b - none + both - a) / 2]
        np.testing.assert_allclose(found.shap.values[row, :, 0], exact, atol=1e-6)


def test_explainer_is_the_same_in_each_run_and_leaves_the_generator_of_all_alone() -> None:
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    model = Stand(numbers("a", "b", "c"), lambda a, b, c: a * b * c)
    first, second = explained(model), explained(model)
    assert np.random.random() == expected
    assert np.array_equal(first.shap.values, second.shap.values)
    assert first.stability is not None


def test_explainer_replaces_a_group_as_a_whole_and_no_value_is_invented() -> None:
    columns = {
        "city": np.array([b"A", b"B", b"", b"A"] * 10, object),
        "code": np.array([1, 2, 0, 1] * 10),
        "wind": np.array([1.5, np.nan, 3.0, np.nan] * 10, np.float32),
    }
    model = Stand(columns, lambda city, code, wind: np.nan_to_num(wind) + code)
    found = explained(model, configured={"place": ["city", "code"]})
    assert [group.name for group in found.groups] == ["place", "wind"]
    assert [one["columns"] for one in found.importance if one["feature"] == "place"] == [
        ["city", "code"]
    ]
    pairs = {pair for seen in model.seen for pair in zip(seen["city"], seen["code"], strict=True)}
    assert pairs == {(b"A", 1), (b"B", 2), (b"", 0)}
    winds = np.unique(np.concatenate([seen["wind"] for seen in model.seen]))
    assert winds[:2].tolist() == [1.5, 3.0]
    assert np.isnan(winds[2:]).all()
    check_additive(found)


def test_explainer_divides_a_vector_unless_it_may_be_absent() -> None:
    whole = np.random.default_rng(1).normal(size=(6, 2, 2)).astype(np.float32)
    absent = whole.copy()
    absent[3] = np.nan
    rows = {"picture": whole, "sound": absent}
    groups, constant = make_groups(rows, rows, {})
    names = ["picture[0, 0]", "picture[0, 1]", "picture[1, 0]", "picture[1, 1]", "sound"]
    assert [group.name for group in groups] == names
    assert constant == []
    model = Stand(rows, lambda picture, sound: picture.sum(axis=(1, 2)))
    masked = MaskedModel(model, rows, groups)
    values = shap_values(masked, {n: c[:2] for n, c in rows.items()}, 1, 1).values
    np.testing.assert_allclose(
        values[:, :4, 0], (whole[:2] - whole.mean(axis=0)).reshape(2, 4), atol=1e-5
    )


def test_explainer_leaves_out_what_is_constant_and_says_so() -> None:
    columns = numbers("a") | {"b": np.full(40, np.nan, np.float32), "c": np.full(40, b"x", object)}
    found = explained(Stand(columns, lambda a, b, c: a))
    assert [group.name for group in found.groups] == ["a"]
    assert [one["feature"] for one in found.left_out] == ["b", "c"]
    check_additive(found)


def test_explainer_of_rows_that_are_all_the_same_explains_nothing() -> None:
    found = explained(Stand({"a": np.ones(40, np.float32)}, lambda a: a))
    assert found.groups == []
    assert found.importance == []
    check_additive(found)


@pytest.mark.parametrize("background", [1, 2])
def test_explainer_works_with_hardly_any_background_rows(background: int) -> None:
    model = Stand(numbers("a", "b", rows=2 + background), lambda a, b: a * b)
    check_additive(explained(model, rows=2))


def test_explainer_leaves_out_rows_that_have_no_finite_masked_prediction() -> None:
    columns = numbers("a", "b") | {"c": np.arange(40) % 4}

    def ratio(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        # Without a number if values are mixed that no row has together.
        return np.where((c == 0) & (a < 0.8), np.nan, a + b)

    columns["a"] = np.where(columns["c"] == 0, 1.0, columns["a"]).astype(np.float32)
    found = explained(Stand(columns, ratio), rows=20)
    left_out = found.rows_left_out["a masked prediction is not finite"]
    assert 0 < left_out == 20 - len(found.rows)
    assert np.isfinite(found.shap.values).all()
    check_additive(found)


def test_explainer_of_a_model_that_gives_no_number_at_all_explains_nothing() -> None:
    found = explained(Stand(numbers("a", "b"), lambda a, b: a * np.nan))
    assert found.rows_left_out == {"the prediction is not finite": 10}
    assert found.importance == []


def test_explainer_of_2000_features_takes_bounded_work_and_says_what_is_left_out() -> None:
    columns = numbers(*(f"f{i}" for i in range(2000)), rows=30)
    work = 0

    def predict(**features: np.ndarray) -> np.ndarray:
        nonlocal work
        work += len(features["f7"]) * len(features)
        return features["f7"] * 3 + features["f1500"]

    found = explained(Stand(columns, predict), rows=20, max_features=8)
    assert {"f7", "f1500", OTHERS} < {group.name for group in found.groups}
    assert len(found.groups) == 9
    assert len(found.left_out) == 1992
    assert "8 of 2000 features are explained one by one" in found.left_out[0]["why"]
    check_additive(found)
    assert work < 2 * MOST_CELLS


def test_interactions_are_strongest_for_features_that_are_multiplied() -> None:
    model = Stand(numbers("a", "b", "c"), lambda a, b, c: a * b + c)
    found = explained(model)
    ranked = interactions(found.model, found.rows.columns, 10, [0, 1, 2])
    assert ranked[0][0] == (0, 1)
    assert [strength for _, strength in ranked][1:] == pytest.approx([0, 0], abs=1e-6)


# The rows.


def test_choose_rows_takes_each_row_once_and_copes_with_one_class_and_without_labels() -> None:
    task = Task("binary", "tip")
    predictions = np.linspace(0, 1, 11)[:, None]
    chosen = choose_rows(predictions, np.ones(11), task, 2, 1)
    assert chosen[:4] == [
        *((0, "most wrong"), (1, "most wrong")),
        *((5, "most uncertain"), (4, "most uncertain")),
    ]
    assert len({place for place, _ in chosen}) == len(chosen) == 6
    unlabelled = choose_rows(predictions, np.full(11, np.nan), task, 2, 1)
    assert "most wrong" not in {why for _, why in unlabelled}
    numbers = choose_rows(predictions, np.zeros(11), Task("regression", "fare"), 1, 1)
    assert [why for _, why in numbers] == ["most wrong", "random"]
    classes = choose_rows(
        np.eye(3)[[0, 1, 1]], np.array([0, 1, 2.0]), Task("multiclass", "x", ("a", "b", "c")), 1, 1
    )
    assert classes[0] == (2, "most wrong")


def test_sample_examples_takes_the_same_rows_from_the_whole_split(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{part}.gz") for part in range(2)]
    for part, file in enumerate(files):
        with open_records(file) as out:
            for row in range(9000):
                out.write(str(part * 9000 + row).encode())
    found = sample_examples(files, 300, 1).astype(int)
    assert np.array_equal(found, sample_examples(files, 300, 1).astype(int))
    assert (np.diff(found) > 0).all()
    assert 60 < (found < 9000).sum() < 240
    assert len(sample_examples(files, 100_000, 1)) == 18_000
    with open_records(files[0]):
        pass
    with pytest.raises(DataError, match="has no rows"):
        sample_examples(files[:1], 3, 1)


# The component.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples of a vector and a colour, with a label for each task, and a model for each."""
    root = tmp_path_factory.mktemp("explained")
    chance = np.random.default_rng(2)
    for split, rows in (("train", 120), ("test", 60)):
        (root / "examples" / f"Split-{split}").mkdir(parents=True)
        with open_records(str(root / "examples" / f"Split-{split}" / "data.gz")) as out:
            for _ in range(rows):
                vector = chance.normal(size=3).round(2).tolist()
                colour = COLOURS[chance.integers(3)]
                kind = b"abc"[(place := int(np.argmax(vector))) : place + 1]
                out.write(task_models.example(vector, colour, kind=kind, price=sum(vector)))
    for task in (task_models.KINDS, task_models.TIPS, task_models.PRICE):
        task_models.save(root / task.kind / "Format-Serving", task)
    task_models.save(root / "plain" / "Format-Serving", task_models.TIPS, tflite=False)
    return root


Run = Callable[..., dict[str, Any]]


def run(folder: Path, run_component: Run, kind: str, task: Task, **given: Any) -> dict[str, Any]:
    examples = standard.Examples()
    examples.uri = str(folder / "examples")
    examples.split_names = json.dumps(["train", "test"])
    inputs = {"examples": examples, "model": folder / kind}
    for name in [name for name in given if name == "served_model"]:
        inputs[name] = given.pop(name)
    parameters = {"rows": 40, "background_rows": 20, "slices": '["colour"]', "lime_rows": 2}
    return run_component(Explainer, inputs, task=task.to_json(), **(parameters | given))


def blessed(outputs: dict[str, Any]) -> bool:
    return bool(outputs["blessing"].get_int_custom_property("blessed"))


TASKS = {
    "binary": Task("binary", "kind", ("b", "a"), ("other", "A")),
    "multiclass": task_models.KINDS,
    "regression": task_models.PRICE,
}


@pytest.mark.parametrize("kind", sorted(TASKS))
def test_explainer_writes_explanations_plots_and_background_of_each_task(
    folder: Path, run_component: Run, kind: str
) -> None:
    outputs = run(folder, run_component, kind, TASKS[kind])
    content = outputs["explanations"].read()
    json.dumps(content, allow_nan=False)
    assert blessed(outputs)
    assert content["rows"] == 40
    assert content["background_rows"] == 20
    assert len(content["base_values"]) == len(content["outputs"]) == TASKS[kind].outputs
    names = {"vector[0]", "vector[1]", "vector[2]", "colour"}
    assert {one["feature"] for one in content["importance"]} == names
    for one in content["importance"]:
        assert one["low"] <= one["mean_abs"] <= one["high"]
    # An absent colour is no slice, and few rows are none.
    slices = [one["slice"]["colour"] for one in content["importance_by_slice"]]
    assert set(slices) <= {"red", "blue"}
    whys = [one["why"] for one in content["rows_explained"]]
    expected = ["most wrong", "most uncertain", "random"]
    expected = [why for why in expected if kind != "regression" or why != "most uncertain"]
    assert whys == [why for why in expected for _ in range(2)]
    for one in content["rows_explained"]:
        base = content["base_values"][content["outputs"].index(one["output"])]
        assert base + sum(one["shap"].values()) == pytest.approx(
            one["prediction"], rel=1e-5, abs=1e-4
        )
        assert set(one["lime"]) == names
    assert content["agreement"]["rank_correlation"] > 0.5
    assert 0 < content["agreement"]["top5_shared"] <= 1
    files = {path.name: path.read_bytes() for path in Path(outputs["explanations"].uri).iterdir()}
    assert {"beeswarm.svg", "dependence-1.svg", "dependence-2.svg"} < set(files)
    for name in files:
        if name.endswith(".svg"):
            ElementTree.fromstring(files[name])
            assert len(files[name]) < 500_000
    inputs = json.loads(files["background.json"])["inputs"]
    assert set(inputs) == {"vector", "colour"}  # And no label.
    assert np.shape(inputs["vector"]) == (20, 3)


def test_explainer_explains_a_saved_model_as_it_does_its_tflite_form(
    folder: Path, run_component: Run
) -> None:
    predictors = [
        load_feature_predictor(str(folder / n / "Format-Serving")) for n in ("binary", "plain")
    ]
    assert [type(p) for p in predictors] == [TFLitePredictor, SavedModelFeaturePredictor]
    contents = [
        run(folder, run_component, name, TASKS["binary"])["explanations"].read()
        for name in ("binary", "plain")
    ]
    for one, other in zip(*(c["importance"] for c in contents), strict=True):
        assert one["feature"] == other["feature"]
        assert one["mean_abs"] == pytest.approx(other["mean_abs"], abs=1e-5)


def test_explainer_limits_the_share_of_a_feature(folder: Path, run_component: Run) -> None:
    outputs = run(folder, run_component, "binary", TASKS["binary"], max_share=0.2)
    assert not blessed(outputs)
    (first, *_) = outputs["explanations"].read()["reasons"]
    assert first.startswith("max_share: vector[")
    assert "more than the 20.0% allowed" in first
    grouped = run(
        *(folder, run_component, "binary", TASKS["binary"]),
        max_share=0.9,
        groups='{"everything": ["vector", "colour"]}',
    )
    assert "everything has 100.0%" in grouped["explanations"].read()["reasons"][0]


def test_explainer_limits_the_move_from_the_served_model(folder: Path, run_component: Run) -> None:
    given = {"max_move": 0.01, "served_model": folder / "multiclass"}
    outputs = run(folder, run_component, "binary", TASKS["binary"], **given)
    assert not blessed(outputs)
    (reason,) = outputs["explanations"].read()["reasons"]
    assert "away from the served model's, more than the 0.01 allowed" in reason
    same = given | {"served_model": folder / "plain"}
    outputs = run(folder, run_component, "binary", TASKS["binary"], **same)
    assert blessed(outputs)
    assert outputs["explanations"].read()["move"]["distance"] < 0.01
    nothing = given | {"served_model": folder / "nothing"}
    assert blessed(run(folder, run_component, "binary", TASKS["binary"], **nothing))


def test_explainer_writes_no_background_rows_where_that_is_set(
    folder: Path, run_component: Run
) -> None:
    outputs = run(
        folder, run_component, "regression", TASKS["regression"], publish_background=False
    )
    assert not Path(outputs["explanations"].uri, "background.json").exists()


def test_explainer_of_constant_rows_of_one_class_explains_nothing_and_blesses(
    folder: Path, run_component: Run, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        (tmp_path / "examples" / f"Split-{split}").mkdir(parents=True)
        with open_records(str(tmp_path / "examples" / f"Split-{split}" / "data.gz")) as out:
            for _ in range(30):
                out.write(task_models.example([1.0, 2.0, 3.0], b"red", kind=b"a"))
    (tmp_path / "binary").symlink_to(folder / "binary")
    outputs = run(tmp_path, run_component, "binary", TASKS["binary"])
    content = outputs["explanations"].read()
    assert blessed(outputs)
    assert content["importance"] == content["rows_explained"] == content["interactions"] == []
    assert {one["feature"] for one in content["left_out"]} >= {"colour"}
    limited = run(tmp_path, run_component, "binary", TASKS["binary"], max_share=0.5)
    assert blessed(limited)


def test_explainer_passes_over_a_served_model_that_takes_no_raw_features(
    folder: Path, run_component: Run, tmp_path: Path
) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path / "old" / "Format-Serving"))
    given = {"max_move": 0.1, "served_model": tmp_path / "old"}
    outputs = run(folder, run_component, "binary", TASKS["binary"], **given)
    assert blessed(outputs)
    assert "no signature raw_features" in outputs["explanations"].read()["why_no_move"]


# Plots.


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "$\\frac", "a & b", "\x00x", "é" * 99]
)
def test_plots_show_names_and_categories_as_text(name: str) -> None:
    column = np.array([name.encode(), b"\xff<b>", b"$x$"] * 4, object)
    rows = {name: column}
    groups, _ = make_groups(rows, rows, {})
    values = np.linspace(-1, 1, 12)
    for svg in (
        beeswarm(groups, [0], values[:, None], rows, name),
        dependence(name, column, values, name),
        dependence(name, np.array([np.nan, 1.0] * 6), values, name),
    ):
        tree = ElementTree.fromstring(svg)
        tags = {element.tag.rpartition("}")[2] for element in tree.iter()}
        assert not tags & {"script", "b", "a"}
