"""Tests that merged statistics are those of all rows, and that a file is counted once."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx import v1 as tfx

from components.span_example_gen.component import SpanExampleGen
from components.span_example_gen.plan import SPLITS
from components.statistics_gen import StatisticsGen
from ml import accumulators
from ml.artifacts import load_schema, load_statistics
from tests.conftest import HostileFile

TIME = "time_hour"
Count = Callable[[Any], Any]


@pytest.fixture(scope="session")
def examples_of(
    run_component: Callable[..., dict[str, Any]], curated_schema: Path, tiny_spans: Path
) -> Callable[[int], Any]:
    def run(as_of: int) -> Any:
        parameters = {"as_of": as_of, "window": 2, "data_uri": str(tiny_spans)}
        return run_component(SpanExampleGen, {"schema": curated_schema}, **parameters)["examples"]

    return run


@pytest.fixture(scope="session")
def examples(examples_of: Callable[[int], Any]) -> Any:
    return examples_of(201303)


@pytest.fixture(scope="session")
def count(run_component: Callable[..., dict[str, Any]], curated_schema: Path) -> Count:
    def run(examples: Any) -> Any:
        inputs = {"examples": examples, "schema": curated_schema}
        return run_component(StatisticsGen, inputs)["statistics"]

    return run


def by_feature(
    statistics: statistics_pb2.DatasetFeatureStatisticsList | None,
) -> dict[str, statistics_pb2.FeatureNameStatistics]:
    assert statistics is not None
    return {feature.path.step[0]: feature for feature in statistics.datasets[0].features}


def test_statistics_gen_gives_what_the_stock_component_gives(
    count: Count, examples: Any, curated_schema: Path
) -> None:
    schema_artifact = tfx.types.standard_artifacts.Schema()
    schema_artifact.uri = str(curated_schema)
    schema = load_schema(schema_artifact)
    ours = count(examples)
    assert ours.split_names == examples.split_names
    for split in SPLITS:
        stock = tfdv.generate_statistics_from_tfrecord(
            os.path.join(examples.uri, f"Split-{split}", "*"),
            stats_options=tfdv.StatsOptions(schema=schema),
        )
        found = load_statistics(ours, split)
        assert found is not None
        assert found.datasets[0].num_examples == stock.datasets[0].num_examples
        expected = by_feature(stock)
        assert by_feature(found).keys() == expected.keys()
        for name, feature in by_feature(found).items():
            kind = feature.WhichOneof("stats")
            assert kind == expected[name].WhichOneof("stats")
            mine, other = getattr(feature, kind), getattr(expected[name], kind)
            for field in ("num_non_missing", "num_missing", "tot_num_values"):
                assert getattr(mine.common_stats, field) == getattr(other.common_stats, field)
            if kind == "num_stats":
                for field in ("mean", "std_dev", "min", "max", "num_zeros"):
                    assert getattr(mine, field) == pytest.approx(getattr(other, field))
                assert mine.median == pytest.approx(other.median, rel=0.02, abs=0.02)
            else:
                assert categories(mine) == categories(other)
                assert mine.unique == other.unique
        assert not tfdv.validate_statistics(
            found, schema, environment="TRAINING", previous_statistics=stock
        ).anomaly_info


def categories(stats: statistics_pb2.StringStatistics) -> dict[str, float]:
    return {bucket.label: bucket.sample_count for bucket in stats.rank_histogram.buckets}


def test_statistics_gen_does_not_read_a_counted_file_again(
    count: Count, examples_of: Callable[[int], Any], store: Path
) -> None:
    """The files of a month are the same when it moves on in the window."""
    examples = examples_of(201303)
    first = count(examples)
    for path in Path(examples.uri).rglob("*.gz"):
        path.write_bytes(b"")
    again = count(examples)
    for split in SPLITS:
        assert load_statistics(again, split) == load_statistics(first, split)


def counts(statistics: Any) -> dict[str, dict[str, int]]:
    return {
        split: {
            name: getattr(feature, feature.WhichOneof("stats")).common_stats.num_non_missing
            for name, feature in by_feature(load_statistics(statistics, split)).items()
        }
        for split in SPLITS
    }


def through_numpy(path: Path) -> bytes:
    """A pickle that calls nothing outside numpy, whose test helpers run any text."""
    code = f"open({str(path)!r}, 'w')".encode()
    return b"cnumpy.testing._private.utils\nrunstring\n(S%s\n(dtR." % repr(code.decode()).encode()


def through_dots(path: Path) -> bytes:
    """One that reaches another module by the dots of a name, which protocol 4 allows."""
    parts = [b"\x8c" + bytes([len(t)]) + t for t in (b"numpy", b"f2py.os.mkdir")]
    argument = b"\x8c" + bytes([len(str(path))]) + str(path).encode()
    return b"\x80\x04" + b"".join(parts) + b"\x93" + argument + b"\x85R."


def test_statistics_gen_replaces_what_it_cannot_read_and_runs_no_code_of_it(
    count: Count, examples: Any, store: Path, hostile_file: HostileFile
) -> None:
    first = count(examples)
    kept = sorted(store.rglob("statistics-*"))
    whole = [path.read_bytes() for path in kept]
    called = hostile_file.folder / "ran"
    damaged = [
        whole[0][:-20],
        b"",
        hostile_file.pickle(),
        through_numpy(called),
        through_dots(called),
        zlib.compress(hostile_file.pickle()),
    ]
    assert len(kept) >= len(damaged)
    for path, content in zip(kept, damaged, strict=False):
        path.write_bytes(content)
    assert counts(count(examples)) == counts(first)
    assert not hostile_file.has_run()
    again = [path.read_bytes() for path in kept]
    assert all(accumulators.decode(content) for content in again)


def test_statistics_gen_counts_all_files_again_where_kept_ones_do_not_fit(
    count: Count, examples: Any, store: Path
) -> None:
    """What is read without an error may still be no accumulators of this data."""
    first = count(examples)
    path, other, *_ = sorted(store.rglob("statistics-*"))
    path.write_bytes(accumulators.encode([1, None]))
    other.write_bytes(accumulators.encode(accumulators.decode(other.read_bytes())[:1]))
    assert counts(count(examples)) == counts(first)


def test_statistics_gen_counts_again_for_another_schema(
    run_component: Callable[..., dict[str, Any]],
    count: Count,
    examples: Any,
    store: Path,
    curated_schema: Path,
    tmp_path: Path,
) -> None:
    count(examples)
    kept = len(list(store.rglob("statistics-*")))
    other = shutil.copytree(curated_schema, tmp_path / "schema")
    text = (other / "schema.pbtxt").read_text()
    (other / "schema.pbtxt").write_text(text + '\nfeature { name: "other" type: INT }\n')
    run_component(StatisticsGen, {"examples": examples, "schema": other})
    assert len(list(store.rglob("statistics-*"))) == 2 * kept
