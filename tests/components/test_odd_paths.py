"""Tests that folders may have names that read as patterns, and that no split is silently empty."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tfx import v1 as tfx

from components.span_example_gen.component import SpanExampleGen
from components.span_example_gen.plan import SPLITS
from components.statistics_gen import StatisticsGen
from components.transform.component import Transform
from ml import request_log
from ml.artifacts import load_schema, load_statistics, split_files
from ml.examples import read_rows
from storage.errors import UserError
from storage.names import REQUEST_LOG_SUFFIX

Run = Callable[..., dict[str, Any]]


def moved(artifact: Any, folder: Path) -> Any:
    """An artifact in another folder."""
    copy = type(artifact)()
    copy.uri = str(shutil.move(artifact.uri, folder))
    copy.split_names = artifact.split_names
    return copy


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name is a pattern, next to one that it would match."""
    root = tmp_path_factory.mktemp("odd")
    (root / "a1xx").mkdir()
    (root / "a[12]*?").mkdir()
    return root / "a[12]*?"


@pytest.fixture(scope="module")
def examples(run_component: Run, tiny_spans: Path, curated_schema: Path, odd: Path) -> Any:
    spans = str(shutil.copytree(tiny_spans, odd / "spans"))
    settings = {"window": 2, "data_uri": spans}
    made = run_component(SpanExampleGen, {"schema": curated_schema}, **settings)["examples"]
    found = moved(made, odd / "examples")
    for split in SPLITS:  # What a pattern would find has no rows.
        decoy = odd.parent / "a1xx" / "examples" / f"Split-{split}" / "nothing.gz"
        decoy.parent.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(decoy), "GZIP"):
            pass
    return found


def test_data_nodes_read_folders_named_like_patterns(
    run_component: Run, examples: Any, curated_schema: Path
) -> None:
    inputs = {"examples": examples, "schema": curated_schema}
    statistics = load_statistics(run_component(StatisticsGen, inputs)["statistics"], "test")
    assert statistics is not None
    schema = tfx.types.standard_artifacts.Schema()
    schema.uri = str(curated_schema)
    rows = read_rows(examples, "test", load_schema(schema))
    assert len(rows) == statistics.datasets[0].num_examples > 200
    function = "tests.components.test_transform.learn_other"
    transformed = run_component(Transform, inputs, preprocessing_fn=function, transform='["eval"]')[
        "transformed_examples"
    ]
    names = [[Path(f).name for f in split_files(a, "eval")] for a in (transformed, examples)]
    assert names[0] == names[1]


@pytest.mark.parametrize("component", [StatisticsGen, Transform])
@pytest.mark.parametrize("lost", ["folder", "files"])
def test_data_nodes_refuse_a_split_without_files(
    component: Any,
    lost: str,
    run_component: Run,
    examples: Any,
    curated_schema: Path,
    tmp_path: Path,
) -> None:
    damaged = tfx.types.standard_artifacts.Examples()
    damaged.uri = str(shutil.copytree(examples.uri, tmp_path / "damaged"))
    damaged.split_names = examples.split_names
    folder = Path(damaged.uri, "Split-train")
    shutil.rmtree(folder)
    if lost == "files":
        folder.mkdir()
    function = "tests.components.test_transform.learn_other"
    parameters = {"preprocessing_fn": function} if component is Transform else {}
    with pytest.raises(UserError, match=f"the split 'train' .* has no file in {folder}"):
        run_component(component, {"examples": damaged, "schema": curated_schema}, **parameters)


def test_request_log_is_found_in_a_folder_named_like_a_pattern(odd: Path) -> None:
    (odd / "log" / "m").mkdir(parents=True)
    file = odd / "log" / "m" / f"1{REQUEST_LOG_SUFFIX}"
    with tf.io.TFRecordWriter(str(file), "GZIP") as log:
        log.write(tf.train.Example().SerializeToString())
    assert sum(request_log.count_features(str(odd / "log"), "m").values()) == 0
