"""Tests of the steps of a `preprocessing_fn`, as TensorFlow Transform learns them."""

from __future__ import annotations

import math
from pathlib import Path

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from ml.transforms import of_known, quantile_ranks, shares

ROWS = 500


def preprocess(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {
        "ranks": quantile_ranks(inputs["numbers"]),
        "shares": shares(inputs["counts"], 255),
    }


def test_quantile_ranks_are_those_of_each_column_and_shares_are_bounded(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    numbers = np.stack([random.lognormal(0, 3, ROWS), -random.lognormal(0, 1, ROWS)], axis=1)
    numbers[random.random(ROWS) < 0.2, 1] = np.nan
    counts = random.integers(-5, 300, (ROWS, 3))
    columns = {"numbers": numbers.astype(np.float32), "counts": counts}
    spec = {
        "numbers": tf.io.FixedLenFeature([2], tf.float32),
        "counts": tf.io.FixedLenFeature([3], tf.int64),
    }
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    records = [{name: column[row] for name, column in columns.items()} for row in range(ROWS)]
    with beam.Pipeline() as pipeline, tft_beam.Context(temp_dir=str(tmp_path)):
        rows = pipeline | beam.Create(records)
        (made, _), _ = (rows, metadata) | tft_beam.AnalyzeAndTransformDataset(preprocess)
        _ = (
            made
            | beam.Map(
                lambda row: " ".join(
                    str(value) for value in np.ravel([*row["ranks"], *row["shares"]])
                )
            )
            | beam.io.WriteToText(str(tmp_path / "made"), shard_name_template="")
        )
    found = np.loadtxt(tmp_path / "made")
    present = np.isfinite(columns["numbers"])
    # Beam keeps no order of rows.
    for column in range(2):
        values = columns["numbers"][present[:, column], column]
        ranks = (values[:, None] > values).mean(axis=1)
        expected = np.append((ranks - 0.5) * np.sqrt(12), np.zeros((~present[:, column]).sum()))
        np.testing.assert_allclose(np.sort(found[:, column]), np.sort(expected), atol=0.06)
    expected = np.clip(counts / 255, 0, 1)
    np.testing.assert_allclose(np.sort(found[:, 2:].ravel()), np.sort(expected.ravel()), atol=1e-6)


def test_of_known_keeps_absent_numbers_from_a_function() -> None:
    seen = []

    def logarithm(values: tf.Tensor) -> tf.Tensor:
        seen.append(values.numpy())
        return tf.math.log(values)

    found = of_known(logarithm, tf.constant([[math.e], [math.nan], [math.inf]]))
    np.testing.assert_allclose(found, np.array([[1], [math.nan], [math.inf]]), rtol=1e-6)
    assert not np.isnan(seen).any()
