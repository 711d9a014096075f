"""Evaluation by columns gives what stock TFMA gives."""

from __future__ import annotations

import math
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
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tensorflow_model_analysis import extractors as stock_extractors

from components.evaluator import columns

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
    """Hands predictions that stand beside the features on, as an extractor of models does."""

    def process(self, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
        made = item[tfma.PREDICTIONS_KEY]
        yield {**item, tfma.PREDICTIONS_KEY: made[""] if set(made) == {""} else made}


def evaluate(
    config: tfma.EvalConfig,
    batches: list[tuple[pa.RecordBatch, dict[str, np.ndarray]]],
    folder: str,
    stock: bool,
) -> dict[tuple[Any, ...], dict[Any, Any]]:
    """Evaluates batches of rows and predictions; returns metrics by slice and key."""
    extracts = [
        {
            tfma.INPUT_KEY: np.array([b"%d-%d" % (n, i) for i in range(len(batch))], object),
            tfma.PREDICTIONS_KEY: predictions,
            columns.COLUMNS: batch,
            **({tfma.ARROW_RECORD_BATCH_KEY: batch} if stock else {}),
        }
        for n, (batch, predictions) in enumerate(batches)
    ]
    predict = stock_extractors.Extractor(STAGE, beam.ParDo(Take()) if stock else beam.Map(dict))
    if stock:
        for item in extracts:
            del item[columns.COLUMNS], item[tfma.INPUT_KEY]
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


def validation(folder: str) -> tuple[Any, ...]:
    """What was validated, whatever its order."""
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
    details = {
        (d.slicing_spec.SerializeToString(deterministic=True), d.num_matching_slices)
        for d in result.validation_details.slicing_details
    }
    missing = {spec.SerializeToString(deterministic=True) for spec in result.missing_slices}
    return result.validation_ok, failures, details, missing, result.missing_thresholds


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
                    value = pytest.approx(value, abs=1e-6, rel=1e-6, nan_ok=True)
                assert own[name] == value, (key, name)
        assert validation(f"{folder}/ours") == validation(f"{folder}/stock")


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
def test_columns_give_what_stock_tfma_gives(
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
    assert_equal_to_stock(config, batches)


assert math, Path
