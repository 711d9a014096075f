"""Tests that a transformation is TFT's own whatever was kept, and that a month is analysed once."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
from tfx import v1 as tfx

from components.import_schema_gen import ImportSchemaGen
from components.span_example_gen.component import SpanExampleGen
from components.statistics_gen import StatisticsGen
from components.transform.component import Transform
from components.transform.kept_analyses import code_version
from ml.artifacts import load_statistics
from ml.examples import read_columns
from ml.parameters import load_function
from pipeline.config import load_config
from pipeline.model import Model
from storage.errors import UserError
from storage.span_store import STORE_VARIABLE
from tests.conftest import HostileFile

Run = Callable[..., dict[str, Any]]
MONTHS = (201303, 201304)


def learn(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """A `preprocessing_fn` with several kinds of analyzers."""
    return {
        "dest": tft.compute_and_apply_vocabulary(inputs["dest"], num_oov_buckets=1),
        "distance": tft.scale_to_z_score(inputs["distance"]),
        "age": tft.max(inputs["time_hour"]) - inputs["time_hour"],
        "delayed": inputs["delayed"],
    }


def learn_sketches(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """One whose analyzers count with sketches."""
    vocabulary = tft.experimental.compute_and_apply_approximate_vocabulary
    return {
        "hour": tft.bucketize(inputs["sched_dep_time"], 4),
        "origin": vocabulary(inputs["origin"], top_k=3),
    }


def learn_in_phases(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """One that learns a mean of what it has scaled by another."""
    distance = tft.scale_to_z_score(inputs["distance"])
    return {"above": distance - tft.mean(tf.maximum(distance, 0.0))}


def learn_other(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {"company": tft.compute_and_apply_vocabulary(inputs["company"])}


def fail(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    raise UserError("this function cannot be applied")


@pytest.fixture(scope="session")
def examples(run_component: Run, curated_schema: Path, tiny_spans: Path) -> dict[int, Any]:
    """Two windows, of which the second has one month more and one less."""
    found = {}
    for as_of in MONTHS:
        parameters = {"as_of": as_of, "window": 2}
        inputs = {"schema": curated_schema}
        found[as_of] = run_component(
            SpanExampleGen, inputs, data_uri=str(tiny_spans), **parameters
        )["examples"]
    return found


@pytest.fixture(scope="session")
def transform(run_component: Run, curated_schema: Path) -> Run:
    def run(examples: Any, function: str = "learn", **parameters: Any) -> dict[str, Any]:
        inputs = {"examples": examples, "schema": curated_schema}
        name = f"{__name__}.{function}" if "." not in function else function
        return run_component(Transform, inputs, preprocessing_fn=name, **parameters)

    return run


def columns_of(outputs: dict[str, Any], split: str) -> dict[str, np.ndarray]:
    schema = tft.TFTransformOutput(outputs["transform_graph"].uri).transformed_metadata.schema
    return read_columns(outputs["transformed_examples"], split, schema)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for split in ("train", "eval"):
        left, right = columns_of(one, split), columns_of(other, split)
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


@pytest.fixture(scope="session")
def fresh(transform: Run, examples: dict[int, Any]) -> dict[int, dict[str, Any]]:
    """The outputs for both windows without a store."""
    return {as_of: transform(examples[as_of]) for as_of in MONTHS}


@pytest.fixture(scope="session")
def kept_once(
    transform: Run, examples: dict[int, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A store in which the first window was analysed, and the outputs."""
    folder = tmp_path_factory.mktemp("kept") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STORE_VARIABLE, str(folder))
        return folder, transform(examples[MONTHS[0]])


@pytest.fixture
def kept(kept_once: tuple[Path, dict[str, Any]], store: Path) -> Path:
    """A copy of it, which components that run in the test use."""
    return Path(shutil.copytree(kept_once[0], store))


def test_transform_takes_a_schema_that_tfdv_inferred(
    run_component: Run,
    examples: dict[int, Any],
    fresh: dict[int, dict[str, Any]],
    curated_schema: Path,
    tmp_path: Path,
) -> None:
    """Completed by ImportSchemaGen; numbers that may be absent are NaN as in the curated one."""
    found = examples[MONTHS[0]]
    statistics = run_component(StatisticsGen, {"examples": found, "schema": curated_schema})
    inferred = tfdv.infer_schema(load_statistics(statistics["statistics"], "train"))
    path = tmp_path / "inferred.pbtxt"
    tfdv.write_schema_text(inferred, str(path))
    config = load_config()
    schema = run_component(
        ImportSchemaGen,
        {},
        schema_file=str(path),
        label=config.label,
        features=json.dumps(Model.load(config).raw_features),
        time_column=config.data.time_column,
        example_weight="",
    )["schema"]
    outputs = run_component(
        Transform,
        {"examples": found, "schema": schema},
        preprocessing_fn=f"{__name__}.learn",
    )
    assert_same(outputs, fresh[MONTHS[0]])


def test_transform_writes_what_the_saved_graph_gives_in_the_same_order(
    fresh: dict[int, dict[str, Any]], examples: dict[int, Any], curated_schema: Path
) -> None:
    outputs = fresh[MONTHS[0]]
    graph = tft.TFTransformOutput(outputs["transform_graph"].uri)
    assert outputs["transformed_examples"].split_names == '["train", "eval"]'
    for split in ("train", "eval"):
        names = sorted(p.name for p in Path(examples[MONTHS[0]].uri, f"Split-{split}").iterdir())
        folder = Path(outputs["transformed_examples"].uri, f"Split-{split}")
        assert sorted(path.name for path in folder.iterdir()) == names
        files = [str(Path(examples[MONTHS[0]].uri, f"Split-{split}", name)) for name in names]
        records = list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())
        raw = tf.io.parse_example(records, graph.raw_feature_spec())
        expected = graph.transform_features_layer()(raw)
        found = columns_of(outputs, split)
        assert found.keys() == expected.keys()
        for name in found:
            np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=1e-5, atol=1e-6)


def test_transform_analyzes_only_the_split_to_analyze(
    fresh: dict[int, dict[str, Any]],
) -> None:
    train = columns_of(fresh[MONTHS[0]], "train")
    assert np.mean(train["distance"]) == pytest.approx(0, abs=1e-4)
    assert np.std(train["distance"]) == pytest.approx(1, abs=1e-4)
    assert set(np.unique(train["dest"])) == set(range(train["dest"].max() + 1))
    assert np.mean(columns_of(fresh[MONTHS[0]], "eval")["distance"]) != pytest.approx(0, abs=1e-4)


def test_transform_with_kept_analyses_is_the_same_transformation(
    transform: Run,
    examples: dict[int, Any],
    fresh: dict[int, dict[str, Any]],
    kept_once: tuple[Path, dict[str, Any]],
    kept: Path,
) -> None:
    assert_same(kept_once[1], fresh[MONTHS[0]])
    before = {path.name: path.stat().st_mtime_ns for path in kept.rglob("analysis-*")}
    assert {path.parent.name for path in kept.rglob("analysis-*")} == {"201301", "201302"}
    assert_same(transform(examples[MONTHS[1]]), fresh[MONTHS[1]])
    after = {path.name: path for path in kept.rglob("analysis-*")}
    # January is not in the window; of February its last days are new, and March is.
    assert sorted(path.parent.name for name, path in after.items() if name not in before) == [
        "201302",
        "201303",
    ]
    assert all(after[name].stat().st_mtime_ns == written for name, written in before.items())
    # Once more, with everything kept.
    assert_same(transform(examples[MONTHS[1]]), fresh[MONTHS[1]])
    assert len(list(kept.rglob("analysis-*"))) == len(after)


def test_transform_does_not_read_a_kept_month_to_analyze_it(
    transform: Run, examples: dict[int, Any], fresh: dict[int, dict[str, Any]], kept: Path
) -> None:
    damaged = tfx.types.standard_artifacts.Examples()
    damaged.uri = str(shutil.copytree(examples[MONTHS[0]].uri, kept.parent / "damaged"))
    damaged.split_names = examples[MONTHS[0]].split_names
    for path in Path(damaged.uri, "Split-train").iterdir():
        path.write_bytes(b"")
    found = transform(damaged, transform='["eval"]')
    for name, column in columns_of(found, "eval").items():
        np.testing.assert_allclose(column, columns_of(fresh[MONTHS[0]], "eval")[name], rtol=1e-5)


def kept_as(accumulator: bytes) -> Callable[[bytes], bytes]:
    """Damage that puts other bytes in place of each analyzer's accumulator."""

    def damage(content: bytes) -> bytes:
        planted = [base64.b64encode(accumulator).decode()]
        return gzip.compress(json.dumps(dict.fromkeys(loads(content), planted)).encode())

    return damage


def loads(content: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(gzip.decompress(content))
    return found


@pytest.mark.parametrize(
    "damages",
    [
        (lambda content: content[:-20], lambda _: gzip.compress(b'[["another", "tree"]]')),
        (kept_as(b"[1, [2]]"), kept_as(b"\xff")),
        (lambda _: gzip.compress(bytes(1 << 27), 1), lambda _: b""),
    ],
    ids=["unreadable", "does not fit", "larger than memory, or empty"],
)
def test_transform_analyzes_again_what_is_damaged(
    transform: Run,
    examples: dict[int, Any],
    fresh: dict[int, dict[str, Any]],
    kept: Path,
    damages: tuple[Callable[[bytes], bytes], ...],
) -> None:
    paths = sorted(kept.rglob("analysis-*"))
    whole = [path.read_bytes() for path in paths]
    for path, content, damage in zip(paths, whole, damages, strict=True):
        path.write_bytes(damage(content))
    assert_same(transform(examples[MONTHS[0]]), fresh[MONTHS[0]])
    for path, content in zip(paths, whole, strict=True):  # Each was replaced.
        assert loads(path.read_bytes()).keys() == loads(content).keys()
        assert loads(path.read_bytes()) == loads(content)


def test_transform_keeps_sketches_without_pickle_and_runs_none_that_it_finds(
    transform: Run, examples: dict[int, Any], store: Path, hostile_file: HostileFile
) -> None:
    first = transform(examples[MONTHS[0]], "learn_sketches")
    assert set(np.unique(columns_of(first, "train")["hour"])) == {0, 1, 2, 3}
    assert set(np.unique(columns_of(first, "train")["origin"])) == {0, 1, 2}
    assert_same(first, transform(examples[MONTHS[0]], "learn_sketches"))
    hostile = base64.b64encode(hostile_file.pickle()).decode()
    for path in store.rglob("analysis-*"):
        kept = json.loads(gzip.decompress(path.read_bytes()))
        assert not any(b"tfx_bsl" in base64.b64decode(a) for found in kept.values() for a in found)
        planted = {name: [hostile for _ in found] for name, found in kept.items()}
        path.write_bytes(gzip.compress(json.dumps(planted).encode()))
    assert_same(first, transform(examples[MONTHS[0]], "learn_sketches"))
    assert not hostile_file.has_run()
    for path in store.rglob("analysis-*"):  # It was replaced.
        assert hostile not in gzip.decompress(path.read_bytes()).decode()


def test_transform_analyzes_again_for_another_function(
    transform: Run, examples: dict[int, Any], kept: Path
) -> None:
    before = len(list(kept.rglob("analysis-*")))
    found = transform(examples[MONTHS[0]], "learn_other")
    assert len(list(kept.rglob("analysis-*"))) == 2 * before
    assert columns_of(found, "train")["company"].max() > 5


def test_code_version_depends_only_on_what_the_function_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "team"
    package.mkdir()
    for name, content in {
        "__init__": "",
        "preprocessing": "from team import features\ndef learn(inputs): ...\n",
        "features": "COLUMNS = 1\n",
        "network": "LAYERS = 1\n",
    }.items():
        (package / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    function = load_function("team.preprocessing.learn")
    first = code_version(function, "{}", b"schema")
    assert code_version(function, "{}", b"other schema") != first
    assert code_version(function, '{"label": "tip"}', b"schema") != first
    (package / "network.py").write_text("LAYERS = 2\n")
    (package / "features.py").write_text("# A comment.\nCOLUMNS = 1\n")
    assert code_version(function, "{}", b"schema") == first
    (package / "features.py").write_text("COLUMNS = 2\n")
    assert code_version(function, "{}", b"schema") != first


def test_transform_gives_all_rows_to_a_function_that_learns_in_phases(
    transform: Run, examples: dict[int, Any], store: Path
) -> None:
    """TFT keeps no second phase, for it depends on the first one of the whole window."""
    one, other = (transform(examples[MONTHS[0]], "learn_in_phases") for _ in range(2))
    assert_same(one, other)
    assert np.min(columns_of(one, "train")["above"]) < 0


def test_transform_names_a_missing_function(transform: Run, examples: dict[int, Any]) -> None:
    with pytest.raises(
        UserError, match=r"'pipeline\.nothing' is not the import path of a function"
    ):
        transform(examples[MONTHS[0]], "pipeline.nothing")


def test_transform_names_a_missing_split(transform: Run, examples: dict[int, Any]) -> None:
    with pytest.raises(UserError, match="no split 'other'; they have train, eval, test"):
        transform(examples[MONTHS[0]], analyze='["other"]')


def test_transform_shows_the_error_of_the_function(
    transform: Run, examples: dict[int, Any]
) -> None:
    with pytest.raises(UserError, match=r"^this function cannot be applied$"):
        transform(examples[MONTHS[0]], "fail")
