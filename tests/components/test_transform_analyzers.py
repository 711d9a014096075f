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


@pytest.fixture(scope="session")
def examples(
    run_component: Callable[..., dict[str, Any]], curated_schema: Path, tiny_spans: Path
) -> Any:
    inputs = {"schema": curated_schema}
    found = run_component(SpanExampleGen, inputs, data_uri=str(tiny_spans), as_of=201303, window=2)
    return found["examples"]


@pytest.fixture(scope="session")
def stock(examples: Any, curated_schema: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What TFT alone learned: a folder of transform graphs by the name of the function."""
    folder = tmp_path_factory.mktemp("stock")
    arguments = [curated_schema / "schema.pbtxt", Path(examples.uri, "Split-train"), folder]
    command = [sys.executable, "-m", stock_analysis.__name__, *map(str, arguments)]
    subprocess.run(command, check=True, cwd=PROJECT)
    return folder


@pytest.fixture
def learn(
    run_component: Callable[..., dict[str, Any]], examples: Any, curated_schema: Path
) -> Callable[[str], dict[str, np.ndarray]]:
    """Transforms `train` by a function, and returns the columns."""

    def learn(function: str) -> dict[str, np.ndarray]:
        outputs = run_component(
            Transform,
            {"examples": examples, "schema": curated_schema},
            preprocessing_fn=f"{stock_analysis.__name__}.{function}",
            transform='["train"]',
        )
        graph = tft.TFTransformOutput(outputs["transform_graph"].uri)
        schema = graph.transformed_metadata.schema
        return read_columns(outputs["transformed_examples"], "train", schema)

    return learn


def assert_same_as_stock(found: dict[str, np.ndarray], graph: Path, examples: Any) -> None:
    learned = tft.TFTransformOutput(str(graph))
    files = sorted(map(str, Path(examples.uri, "Split-train").iterdir()))
    records = list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())
    raw = tf.io.parse_example(records, learned.raw_feature_spec())
    expected = learned.transform_features_layer()(raw)
    assert found.keys() == expected.keys()
    for name, column in found.items():
        same = column.reshape(expected[name].shape)
        np.testing.assert_allclose(same, expected[name].numpy(), 1e-4, 1e-4, err_msg=name)


def test_transform_learns_with_all_that_can_be_kept_what_tft_alone_learns(
    learn: Callable[[str], dict[str, np.ndarray]], stock: Path, examples: Any, store: Path
) -> None:
    new = learn("learn_broadly")
    assert len(list(store.rglob("analysis-*"))) == 2
    assert_same_as_stock(new, stock / "learn_broadly", examples)
    for path in list(store.rglob("analysis-*"))[:1]:  # A month is new, the other is not.
        path.unlink()
    kept = learn("learn_broadly")
    assert new.keys() == kept.keys()
    for name, column in new.items():
        np.testing.assert_array_equal(column, kept[name], name)


def test_transform_learns_with_what_cannot_be_kept_what_tft_alone_learns(
    learn: Callable[[str], dict[str, np.ndarray]], stock: Path, examples: Any, store: Path
) -> None:
    function = "learn_from_what_was_learned"
    assert_same_as_stock(learn(function), stock / function, examples)
    assert_same_as_stock(learn(function), stock / function, examples)
