"""Evaluation by columns gives what stock TFMA gives."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from tensorflow.core.example import example_pb2
from tensorflow_model_analysis import extractors as stock_extractors

from components.evaluator import columns, regression_metrics
from components.evaluator.verdict import judge
from ml.bootstrap import poisson_counts
from ml.sample import Sample
from ml.tallies import Counter, Problem
from ml.task_metrics import METRICS
from ml.tasks import Task
from storage.errors import DataError

STAGE = "ExtractPredictions"
BINARY = ("AUC", "AUCPrecisionRecall", "Calibration", "MeanLabel", "MeanPrediction", "ExampleCount")


def make_config(
    metrics: list[dict[str, Any]],
    models: tuple[str, ...] = ("candidate", "served"),
    weight: str = "",
    slices: tuple[dict[str, Any], ...] = ({}, {"feature_keys": ["place"]}),
    spec: dict[str, Any] | None = None,
    **options: Any,
) -> tfma.EvalConfig:
    config = json_format.ParseDict(
        {
            "model_specs": [
                {
                    "name": name,
                    "label_key": "label",
                    "example_weight_key": weight,
                    "is_baseline": bool(number),
                    "model_type": "tf_generic",
                }
                for number, name in enumerate(models)
            ],
            "slicing_specs": list(slices),
            "metrics_specs": [{"metrics": metrics, **(spec or {})}],
            "options": {"include_default_metrics": False, **options},
        },
        tfma.EvalConfig(),
    )
    return tfma.utils.update_eval_config_with_defaults(config, has_baseline=len(models) > 1)


class Take(beam.DoFn):
    """Passes on predictions that stand with the features, as an extractor of models does."""

    def process(self, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
        made = item[tfma.PREDICTIONS_KEY]
        yield {**item, tfma.PREDICTIONS_KEY: made[""] if set(made) == {""} else made}


def evaluate(
    config: tfma.EvalConfig,
    batches: list[tuple[pa.RecordBatch, dict[str, np.ndarray]]],
    folder: str,
    stock: bool,
    numbers: list[int] | None = None,
) -> dict[tuple[Any, ...], dict[Any, Any]]:
    """Evaluates batches of rows and predictions; returns metrics by slice and key."""
    extracts = [
        {
            tfma.INPUT_KEY: np.array([_example(batch=n, row=i) for i in range(len(batch))], object),
            tfma.PREDICTIONS_KEY: predictions,
            columns.COLUMNS: batch,
            tfma.LABELS_KEY: columns.numbers(batch, "label"),
            **({tfma.ARROW_RECORD_BATCH_KEY: batch} if stock else {}),
        }
        for n, (batch, predictions) in zip(numbers or range(len(batches)), batches, strict=True)
    ]
    predict = stock_extractors.Extractor(STAGE, beam.ParDo(Take()) if stock else beam.Map(dict))
    if stock:
        for item in extracts:
            del item[columns.COLUMNS], item[tfma.INPUT_KEY], item[tfma.LABELS_KEY]
        steps = [
            stock_extractors.FeaturesExtractor(config),
            stock_extractors.LabelsExtractor(config),
            stock_extractors.ExampleWeightsExtractor(config),
            predict,
            stock_extractors.UnbatchExtractor(),
            stock_extractors.SliceKeyExtractor(eval_config=config, materialize=False),
        ]
        evaluators = [tfma.evaluators.MetricsPlotsAndValidationsEvaluator(config)]
    else:
        assert columns.supports(config)
        steps, evaluators = [predict], [columns.make_evaluator(config, run_after=STAGE)]
    shared = [
        tfma.default_eval_shared_model("/nowhere", model_name=spec.name, eval_config=config)
        for spec in config.model_specs
    ]
    runner = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
    with beam.Pipeline(runner=runner) as pipeline:
        _ = (
            pipeline
            | beam.Create(extracts, reshuffle=False)
            | tfma.ExtractEvaluateAndWriteResults(
                eval_shared_model=shared if len(shared) > 1 else shared[0],
                eval_config=config,
                extractors=steps,
                evaluators=evaluators,
                output_path=folder,
            )
        )
    metrics: dict[tuple[Any, ...], dict[Any, Any]] = {}
    for record in tfma.load_metrics(folder):
        key = tuple(
            (part.column, getattr(part, part.WhichOneof("kind")))
            for part in record.slice_key.single_slice_keys
        )
        assert key not in metrics
        metrics[key] = {
            item.key.SerializeToString(deterministic=True): item.value.double_value.value
            for item in record.metric_keys_and_values
        }
        for name, value in record.metrics.items():
            metrics[key][name] = value.debug_message
    return metrics


def validation(folder: str, undefined: set[tuple[bytes, bytes]]) -> tuple[Any, ...]:
    """What was validated, whatever its order; without what is undefined by columns."""
    result = tfma.load_validation_result(folder)
    failures = {
        (
            by_slice.slice_key.SerializeToString(deterministic=True),
            failure.metric_key.SerializeToString(deterministic=True),
            failure.metric_threshold.SerializeToString(deterministic=True),
            failure.message,
        )
        for by_slice in result.metric_validations_per_slice
        for failure in by_slice.failures
    }
    failures = {failure for failure in failures if failure[:2] not in undefined}
    details = {
        (d.slicing_spec.SerializeToString(deterministic=True), d.num_matching_slices)
        for d in result.validation_details.slicing_details
    }
    missing = {spec.SerializeToString(deterministic=True) for spec in result.missing_slices}
    ok = result.validation_ok or bool(undefined)
    return ok, failures, details, missing, result.missing_thresholds


def assert_equal_to_stock(config: tfma.EvalConfig, batches: list[Any]) -> None:
    with TemporaryDirectory() as folder:
        ours = evaluate(config, batches, f"{folder}/ours", stock=False)
        stock = evaluate(config, batches, f"{folder}/stock", stock=True)
        assert ours.keys() == stock.keys()
        for key, metrics in stock.items():
            own = ours[key]
            assert own.keys() == metrics.keys(), key
            for name, value in metrics.items():
                if isinstance(value, float):
                    if value == 0 and np.isnan(own[name]):
                        continue  # Stock TFMA takes 0 for the AUC of one class.
                    value = pytest.approx(value, abs=1e-6, rel=1e-6, nan_ok=True)
                assert own[name] == value, (key, name)
        undefined = {
            (record.slice_key.SerializeToString(deterministic=True), name)
            for record in tfma.load_metrics(f"{folder}/ours")
            for item in record.metric_keys_and_values
            if np.isnan(item.value.double_value.value)
            for name in [item.key.SerializeToString(deterministic=True)]
        }
        found = [validation(f"{folder}/{way}", undefined) for way in ("ours", "stock")]
        assert found[0] == found[1]


def make_batch(
    rng: np.random.Generator, rows: int, models: tuple[str, ...], edges: bool, fractions: bool
) -> tuple[pa.RecordBatch, dict[str, np.ndarray]]:
    labels = rng.random(rows).round(1) if fractions else rng.integers(0, 2, rows)
    places = [
        None if rng.random() < 0.1 else [b"north", b"south", "höhe".encode()][: rng.integers(0, 4)]
        for _ in range(rows)
    ]
    batch = pa.RecordBatch.from_pydict(
        {
            "label": pa.array(
                [[v] for v in labels],
                pa.large_list(pa.float32() if fractions else pa.int64()),
            ),
            "weight": pa.array(
                [[w] for w in rng.choice([0.0, 0.25, 1.0, 3.5], rows)], pa.large_list(pa.float32())
            ),
            "place": pa.array(places, pa.large_list(pa.large_binary())),
            "size": pa.array([[v] for v in rng.integers(1, 3, rows)], pa.large_list(pa.int64())),
            "length": pa.array(
                [[v] for v in rng.choice([0.5, 1.25], rows)], pa.large_list(pa.float32())
            ),
        }
    )
    predictions = {}
    for name in models:
        scores = rng.random(rows)
        if edges:  # At thresholds, at the ends, beyond them.
            scores = rng.choice(
                [0.0, 1.0, 0.5, 1 / 9999, 5000 / 9999, 0.9999, 1.5, -0.5, -5e-5, 1e-9], rows
            )
        predictions[name] = scores.astype(np.float32)[:, None]
    return batch, predictions


@settings(
    max_examples=5, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.lists(st.integers(1, 120), min_size=1, max_size=3),
    baseline=st.booleans(),
    weight=st.sampled_from(["", "weight"]),
    edges=st.booleans(),
    fractions=st.booleans(),
    min_rows=st.integers(0, 60),
    bound=st.floats(0, 1),
    change=st.floats(-0.2, 0.2),
)
def test_evaluator_columns_give_what_stock_tfma_gives(
    seed: int,
    rows: list[int],
    baseline: bool,
    weight: str,
    edges: bool,
    fractions: bool,
    min_rows: int,
    bound: float,
    change: float,
) -> None:
    rng = np.random.default_rng(seed)
    by_place: list[dict[str, Any]] = [{"feature_keys": ["place"]}]
    limits = [
        {"slicing_specs": [{}], "threshold": {"value_threshold": {"lower_bound": bound}}},
        {"slicing_specs": by_place, "threshold": {"value_threshold": {"upper_bound": bound}}},
        {
            "slicing_specs": [{"feature_values": {"place": "moon"}}],
            "threshold": {"value_threshold": {"upper_bound": bound}},
        },
    ]
    if baseline:
        direction = {"direction": "HIGHER_IS_BETTER"}
        limits += [
            {
                "slicing_specs": [{}],
                "threshold": {"change_threshold": {"absolute": change, **direction}},
            },
            {
                "slicing_specs": by_place,
                "threshold": {
                    "change_threshold": {"absolute": -1.0, "relative": change, **direction}
                },
            },
        ]
    metrics = [
        {"class_name": name, "config": f'{{"name": "{name.lower()}"}}'}
        | ({"per_slice_thresholds": limits} if name in ("AUC", "Calibration") else {})
        for name in BINARY
    ]
    models = ("candidate", "served") if baseline else ("",)
    config = make_config(
        metrics,
        models,
        weight,
        slices=(
            {},
            *by_place,
            {"feature_keys": ["place", "size"]},
            {"feature_keys": ["length"], "feature_values": {"place": "north", "size": "2"}},
            {"feature_values": {"place": "north"}},
            {"feature_keys": ["absent"]},
        ),
        min_slice_size=min_rows,
    )
    batches = [make_batch(rng, n, models, edges, fractions) for n in rows]
    # Stock TFMA makes a slice of None, and fails, where no row of a batch has the column.
    assume(all(batch["place"].null_count < len(batch) for batch, _ in batches))
    assert_equal_to_stock(config, batches)


def test_evaluator_columns_slice_rows_alike_whatever_else_is_in_their_batch(tmp_path: Path) -> None:
    config = make_config([{"class_name": "MeanPrediction"}, {"class_name": "ExampleCount"}])
    models = ("candidate", "served")
    batch, predictions = make_batch(np.random.default_rng(1), 40, models, False, False)
    single = [
        (batch.slice(row, 1), {name: made[row : row + 1] for name, made in predictions.items()})
        for row in range(len(batch))
    ]
    assert any(one["place"].null_count for one, _ in single)
    found = evaluate(config, single, str(tmp_path / "single"), stock=False)
    whole = evaluate(config, [(batch, predictions)], str(tmp_path / "whole"), stock=False)
    assert found.keys() == whole.keys()
    assert len(found) == 4  # Overall and three places.
    for key, metrics in whole.items():
        assert found[key] == pytest.approx(metrics)


def histogram_metrics(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray, name: str
) -> tuple[float, float]:
    """A metric by columns, and as TFMA's combiner and its derived computations give it."""
    problem = Problem("")
    counter = Counter({problem: METRICS[name].needs})
    ((_, tally),) = counter.count(
        labels, {"": scores}, weights[:, None], {(): np.arange(len(labels))}
    )
    metric = getattr(tfma.metrics, name)()
    first, *derived = metric.computations(example_weighted=True)
    rows = [
        tfma.metrics.StandardMetricInputs(
            label=np.array([label]), prediction=np.array([score]), example_weight=np.array([weight])
        )
        for label, score, weight in zip(labels, scores, weights, strict=True)
    ]
    accumulator = first.combiner.create_accumulator()
    for row in rows:
        accumulator = first.combiner.add_input(accumulator, row)
    results = first.combiner.extract_output(accumulator)
    for computation in derived:
        results.update(computation.result(results))
    return float(METRICS[name].value(counter, tally, problem)[0]), results[
        [first, *derived][-1].keys[0]
    ]


@settings(max_examples=40, deadline=None, phases=[Phase.generate])
@given(
    rows=st.lists(
        st.tuples(
            st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)),
            st.one_of(
                st.floats(-0.25, 1.25, width=32),
                st.integers(0, 10_000).map(lambda n: n / 10_000),
                st.integers(0, 9_999).map(lambda n: n / 9_999),
            ),
            st.sampled_from([0.0, 0.5, 1.0, 1000.0]),
        ),
        min_size=1,
        max_size=30,
    ),
    name=st.sampled_from(["AUC", "AUCPrecisionRecall", "BinaryCrossEntropy", "Calibration"]),
)
def test_evaluator_columns_metric_of_any_scores_is_that_of_stock_tfma(
    rows: list[tuple[float, float, float]], name: str
) -> None:
    labels, scores, weights = np.array(rows).T
    if name == "BinaryCrossEntropy":
        scores = np.clip(scores, 1e-6, 1 - 1e-6)
    ours, stock = histogram_metrics(labels, scores, weights, name)
    if name.startswith("AUC") and np.isnan(ours):
        # No curve of one class, where stock TFMA gives 0.
        positive = float(weights @ labels)
        assert stock == 0
        assert 0 in (positive, weights.sum() - positive)
        return
    assert ours == pytest.approx(stock, abs=1e-6, rel=1e-6, nan_ok=True)


def test_evaluator_columns_fail_for_nan_as_stock_tfma() -> None:
    with pytest.raises(DataError, match="'' predicts NaN for 1 of 2 rows"):
        histogram_metrics(np.array([0, 1]), np.array([0.5, np.nan]), np.ones(2), "AUC")


def test_evaluator_columns_fail_for_a_label_outside_0_and_1_as_stock_tfma() -> None:
    with pytest.raises(DataError, match="1 of 2 labels are not between 0 and 1, such as 2"):
        histogram_metrics(np.array([0, 2]), np.array([0.5, 0.5]), np.ones(2), "AUC")


def two_batches(rng: np.random.Generator) -> list[Any]:
    return [make_batch(rng, 300, ("candidate", "served"), False, False) for _ in range(2)]


def test_evaluator_columns_hold_one_tally_of_a_slice_however_many_batches() -> None:
    random = np.random.default_rng(1)
    counter = Counter({Problem("model"): METRICS["AUC"].needs})
    adding, weights = columns.AddTallies(), np.ones((500, 3))
    total = adding.create_accumulator()
    for _ in range(30):
        scores = random.integers(0, 50, 500) / 50
        labels = random.integers(0, 2, 500).astype(float)
        ((_, tally),) = counter.count(labels, {"model": scores}, weights, {(): np.arange(500)})
        total = adding.add_input(total, tally)
        assert total.counts.shape <= (2 * 50, 3)
    total = adding.extract_output(adding.merge_accumulators([None, total, total]))
    assert total is not None
    assert total.rows == total.counts[:, 0].sum() == 2 * 30 * 500


def test_evaluator_columns_intervals_hold_the_value_in_any_order_of_batches() -> None:
    config = make_config(
        [{"class_name": name} for name in BINARY],
        compute_confidence_intervals=True,
        confidence_intervals={"method": "POISSON_BOOTSTRAP"},
    )
    batches = list(enumerate(two_batches(np.random.default_rng(1))))
    found = []
    for order in (batches, batches[::-1]):
        with TemporaryDirectory() as folder:
            evaluate(config, [batch for _, batch in order], folder, False, [n for n, _ in order])
            found.append(intervals(folder))
    assert found[0].keys() == found[1].keys()
    for key, bounds in found[0].items():
        assert bounds == pytest.approx(found[1][key], abs=1e-12)
        lower, value, upper = bounds
        assert lower < value < upper
    assert {name for _, name, *_ in found[0]} == {*NAMES} - {"example_count"}


NAMES = ("auc", "auc_precision_recall", "calibration", "mean_label", "mean_prediction")


def intervals(folder: str) -> dict[tuple[Any, ...], tuple[float, float, float]]:
    """Lower bound, value and upper bound of every metric with an interval."""
    return {
        (
            record.slice_key.SerializeToString(deterministic=True),
            item.key.name,
            item.key.model_name,
            item.key.is_diff,
        ): (
            item.confidence_interval.lower_bound.double_value.value,
            item.value.double_value.value,
            item.confidence_interval.upper_bound.double_value.value,
        )
        for record in tfma.load_metrics(folder)
        for item in record.metric_keys_and_values
        if item.HasField("confidence_interval")
        # The label is the same for both models.
        and not (item.key.is_diff and item.key.name == "mean_label")
    }


def _example(**features: int) -> bytes:
    """A serialized example; those of two of them, one after the other, are one example."""
    example = example_pb2.Example()
    for name, value in features.items():
        example.features.feature[name].int64_list.value.append(value)
    return example.SerializeToString()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3))
def test_evaluator_columns_bootstrap_does_not_see_the_order_of_features(values: list[int]) -> None:
    parts = [_example(**{name: value}) for name, value in zip("abc", values, strict=True)]
    orders = [b"".join(parts[i] for i in order) for order in itertools.permutations(range(3))]
    assert len(set(orders)) == 6
    counts = poisson_counts(np.array(orders, object), 20)
    assert (counts == counts[0]).all()


def test_evaluator_columns_bootstrap_deviation_is_that_of_theory() -> None:
    rows, replicates = 20_000, 40
    examples = np.array([_example(row=row) for row in range(rows)], object)
    counts = poisson_counts(examples, replicates)
    assert counts.shape == (rows, replicates)
    assert counts.mean() == pytest.approx(1, abs=0.01)
    assert counts.var() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(counts[:, :8], rowvar=False) - np.eye(8)).max() < 0.04
    assert (poisson_counts(examples[::-1], replicates) == counts[::-1]).all()
    labels = np.random.default_rng(2).random(rows) < 0.3
    means = (counts * labels[:, None]).sum(axis=0) / counts.sum(axis=0)
    assert means.std(ddof=1) == pytest.approx((0.3 * 0.7 / rows) ** 0.5, rel=0.3)


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"query_key": "place"}},
        {"spec": {"binarize": {"top_k_list": {"values": [2]}}}},
        {"include_default_metrics": True},
        {"compute_confidence_intervals": True, "confidence_intervals": {"method": "JACKKNIFE"}},
        {"metrics": [{"class_name": "AUC", "config": '{"num_thresholds": 100}'}]},
        {"metrics": [{"class_name": "F1Score"}]},
    ],
)
def test_evaluator_columns_leave_other_metrics_to_stock_tfma(change: dict[str, Any]) -> None:
    metrics = [{"class_name": "AUC"}]
    assert columns.supports(make_config(metrics))
    assert not columns.supports(make_config(**{"metrics": metrics, **change}))


def test_evaluator_columns_multiclass_metrics_are_those_of_stock_tfma() -> None:
    rng = np.random.default_rng(3)
    batches = []
    for rows in (60, 5):
        batch, _ = make_batch(rng, rows, (), False, False)
        labels = pa.array([[v] for v in rng.integers(0, 3, rows)], pa.large_list(pa.int64()))
        batch = pa.RecordBatch.from_arrays([labels, *batch.columns[1:]], batch.schema.names)
        predictions = {
            name: rng.dirichlet([1, 1, 1], rows).astype(np.float32)
            for name in ("candidate", "served")
        }
        batches.append((batch, predictions))
    classes = {"binarize": {"class_ids": {"values": [0, 1, 2]}}}
    weights = {str(number): 1.0 for number in range(3)}
    config = make_config([], weight="weight")
    for metrics, spec in (
        (("SparseCategoricalAccuracy", "SparseCategoricalCrossentropy", "ExampleCount"), {}),
        (("Calibration",), classes),
        (("AUC",), {"aggregate": {"macro_average": True, "class_weights": weights}}),
    ):
        listed = [{"class_name": name, "config": f'{{"name": "{name}"}}'} for name in metrics]
        config.metrics_specs.append(
            make_config(listed, weight="weight", spec=spec).metrics_specs[0]
        )
    del config.metrics_specs[0]
    assert_equal_to_stock(config, batches)


def test_evaluator_columns_regression_metrics_are_those_of_stock_tfma() -> None:
    rng = np.random.default_rng(4)
    batches = []
    for rows in (60, 5):
        batch, predictions = make_batch(rng, rows, ("candidate", "served"), False, True)
        labels = pa.array([[v] for v in rng.normal(3, 2, rows)], pa.large_list(pa.float32()))
        batch = pa.RecordBatch.from_arrays(
            [labels, *batch.columns[1:]], ["label", *batch.schema.names[1:]]
        )
        batches.append((batch, predictions))
    names = ("MeanAbsoluteError", "MeanSquaredError", "RootMeanSquaredError", "MeanLabel")
    metrics = [
        {"class_name": name, "config": f'{{"name": "{name}"}}'}
        for name in (*names, "MeanPrediction", "Calibration")
    ]
    metrics += [
        {"class_name": name, "module": regression_metrics.__name__}
        for name in ("MeanError", "R2Score")
    ]
    assert_equal_to_stock(make_config(metrics, weight="weight"), batches)


@pytest.mark.parametrize(("noise", "refused"), [(0.01, False), (1.0, True)])
def test_evaluator_columns_count_only_a_significant_loss_with_a_confidence(
    noise: float, refused: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    batch, predictions = make_batch(rng, 400, ("candidate", "served"), False, False)
    labels = batch.column(0).flatten().to_numpy()
    served = np.clip(labels * 0.2 + rng.random(400) * 0.8, 0, 1)
    predictions["served"] = served.astype(np.float32)[:, None]
    predictions["candidate"] = np.clip(served + noise * rng.normal(size=400), 0, 1)[:, None]
    change = {"absolute": 0.0, "direction": "HIGHER_IS_BETTER"}
    limit = {"slicing_specs": [{}], "threshold": {"change_threshold": change}}
    config = make_config(
        [
            {
                "class_name": "AUC",
                "config": '{"name": "auc"}',
                "per_slice_thresholds": [limit],
            }
        ],
        compute_confidence_intervals=True,
        confidence_intervals={"method": "POISSON_BOOTSTRAP"},
    )
    evaluate(config, [(batch, predictions)], str(tmp_path), stock=False)
    task, sample = Task("binary", "label"), Sample(400, (200.0, 200.0))
    (line,) = judge(str(tmp_path), task, sample, 0.0).failures
    assert re.fullmatch(
        r"Overall: AUC 0\.\d{4}, 0\.\d{4} worse than the served model's 0\.\d{4}: at most 0 is "
        "allowed",
        line,
    )
    assert bool(judge(str(tmp_path), task, sample, 0.95).failures) == refused
