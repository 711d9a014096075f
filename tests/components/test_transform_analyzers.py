"""Tests that Transform learns with each kind of analyzer what TFT alone learns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from components.span_example_gen.component import SpanExampleGen
from components.transform.component import Transform
from ml.examples import read_columns
from tests.components import stock_analysis
from tests.conftest import PROJECT

FUNCTIONS = ["learn_broadly", "learn_from_what_was_learned"]


@pytest.fixture(scope="session")
def examples(
    run_component: Callable[..., dict[str, Any]], curated_schema: Path, tiny_spans: Path
) -> Any:
    inputs = {"schema": curated_schema}
    found = run_component(SpanExampleGen, inputs, data_uri=str(tiny_spans), as_of=201303, window=2)
    return found["examples"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_transform_learns_what_tft_alone_learns(
    run_component: Callable[..., dict[str, Any]],
    examples: Any,
    curated_schema: Path,
    store: Path,
    tmp_path: Path,
    function: str,
) -> None:
    def columns() -> dict[str, np.ndarray]:
        outputs = run_component(
            Transform,
            {"examples": examples, "schema": curated_schema},
            preprocessing_fn=f"{stock_analysis.__name__}.{function}",
            transform='["train"]',
        )
        graph = tft.TFTransformOutput(outputs["transform_graph"].uri)
        schema = graph.transformed_metadata.schema
        return read_columns(outputs["transformed_examples"], "train", schema)

    new = columns()
    assert len(list(store.rglob("analysis-*"))) == 2
    kept = columns()
    assert new.keys() == kept.keys()
    for name, column in new.items():
        np.testing.assert_array_equal(column, kept[name], name)

    train, stock = Path(examples.uri, "Split-train"), tmp_path / "stock"
    arguments = [function, curated_schema / "schema.pbtxt", train, stock]
    command = [sys.executable, "-m", stock_analysis.__name__, *map(str, arguments)]
    subprocess.run(command, check=True, cwd=PROJECT)
    graph = tft.TFTransformOutput(str(stock))
    files = sorted(map(str, train.iterdir()))
    records = list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())
    raw = tf.io.parse_example(records, graph.raw_feature_spec())
    expected = graph.transform_features_layer()(raw)
    assert new.keys() == expected.keys()
    for name, column in new.items():
        found = column.reshape(expected[name].shape)
        np.testing.assert_allclose(found, expected[name].numpy(), 1e-4, 1e-4, err_msg=name)
