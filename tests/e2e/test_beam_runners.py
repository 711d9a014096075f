"""Tests that the Beam nodes make the same artifacts in workers of a pool as in one process."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
from google.protobuf import json_format
from tfx import v1 as tfx
from tfx.orchestration.pipeline import RunOptions

from pipeline.config import Config, load_config
from pipeline.pipeline import create_pipeline
from storage.errors import DataError
from tests import forked
from tests.conftest import PROJECT, PushedRun

NODES = ("SpanExampleGen", "StatisticsGen", "Transform")
PRISM = PROJECT / "build" / "prism" / "prism"
SPLITS = ("train", "eval", "test")

Row = tuple[tuple[str, bytes], ...]


@pytest.fixture(scope="module")
def worker_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a pool of Beam workers: a process of its own, as next to a Flink TaskManager."""
    port = free_port()
    log = tmp_path_factory.mktemp("pool") / "log"
    pool = forked.start(["tests/e2e/worker_pool.py", str(port)], log)
    try:
        wait_until_open(port, lambda: pool.exitcode is None, log)
        yield f"localhost:{port}"
    finally:
        pool.terminate()
        pool.join()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
    return port


def wait_until_open(port: int, runs: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and runs():
        with socket.socket() as client:
            if client.connect_ex(("localhost", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"nobody listens: {log.read_text()}")


def submitted(pool: str, job_server: str) -> list[str]:
    """Settings for a job server, with its workers in a pool; "embed" is Beam's own, in Python."""
    arguments = [
        *("--runner=PortableRunner", f"--job_endpoint={job_server}"),
        *("--environment_type=EXTERNAL", f"--environment_config={pool}"),
        # The image is named for TFX, which else packages itself for the workers.
        "--sdk_container_image=flightdeck",
    ]
    return [f"beam_args={json.dumps(arguments)}"]


@pytest.fixture(scope="module")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of Prism, Beam's runner in Go."""
    port = free_port()
    log = tmp_path_factory.mktemp("prism") / "log"
    command = [str(PRISM), f"--job_port={port}", "--serve_http=false"]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            wait_until_open(port, lambda: server.poll() is None, log)
            yield f"localhost:{port}"
        finally:
            server.kill()


# Several processes of this machine are in test_odd_surroundings.py, Flink in tests/flink, Spark in
# tests/spark.
@pytest.fixture(scope="module", params=["prism" if PRISM.exists() else "embed"])
def elsewhere(
    request: pytest.FixtureRequest,
    pushed: PushedRun,
    worker_pool: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Artifacts of a run of the data of `pushed` up to Transform, with Beam running elsewhere.

    On Prism where it was built, and else on Beam's own job server: one of them in each run of the
    tests, for the sake of time.
    """
    root = tmp_path_factory.mktemp("elsewhere")
    job_server = "embed" if request.param == "embed" else request.getfixturevalue(request.param)
    run(configure(pushed.cli.data, submitted(worker_pool, job_server)), root, NODES[1:])
    return root


def configure(data: Path, settings: list[str]) -> Config:
    return load_config(None, [f"data.uri={data}", "data.as_of=201303", *settings])


def run(config: Config, root: Path, to_nodes: tuple[str, ...]) -> None:
    """Runs the pipeline up to some of its nodes with TFX's own runner."""
    pipeline = create_pipeline(
        config,
        pipeline_root=str(root),
        serving_dir=str(root / "serving"),
        metadata_path=str(root / "metadata.sqlite"),
    )
    with pytest.MonkeyPatch.context() as patch:
        # TFX has absl read it for flags of Beam, and absl takes pytest's `-v` for its own.
        patch.setattr(sys, "argv", sys.argv[:1])
        tfx.orchestration.LocalDagRunner().run(
            pipeline, run_options=RunOptions(to_nodes=list(to_nodes))
        )


def artifact(root: Path, node: str, key: str) -> Path:
    (folder,) = root.glob(f"{node}/{key}/*")
    return folder


def records(examples: Path, split: str) -> list[bytes]:
    files = sorted(map(str, (examples / f"Split-{split}").iterdir()))
    return list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())


def rows_of(examples: Path, split: str) -> Counter[Row]:
    """Rows with their features in order, which protobuf varies."""
    rows: Counter[Row] = Counter()
    for record in records(examples, split):
        features = tf.train.Example.FromString(record).features.feature
        rows[tuple(sorted((n, f.SerializeToString()) for n, f in features.items()))] += 1
    return rows


def test_beam_runner_writes_the_same_rows_in_every_split(
    elsewhere: Path, pushed: PushedRun
) -> None:
    found = artifact(elsewhere, "SpanExampleGen", "examples")
    for split in SPLITS:
        expected = rows_of(pushed.artifact("SpanExampleGen", "examples"), split)
        assert expected
        assert rows_of(found, split) == expected


def test_beam_runner_gives_the_same_statistics_but_for_rounding(
    elsewhere: Path, pushed: PushedRun
) -> None:
    assert_same_statistics(artifact(elsewhere, "StatisticsGen", "statistics"), pushed)


def assert_same_statistics(found: Path, pushed: PushedRun) -> None:
    for split in SPLITS:
        numbers, others = read_statistics(found, split)
        expected = read_statistics(pushed.artifact("StatisticsGen", "statistics"), split)
        assert expected[0]
        assert numbers == pytest.approx(expected[0], rel=1e-9)
        assert others == expected[1]


def read_statistics(statistics: Path, split: str) -> tuple[dict[str, float], dict[str, Any]]:
    """The floating point values in the statistics of a split, and all others, by where they are."""
    file = statistics / f"Split-{split}" / "FeatureStats.pb"
    (dataset,) = tfdv.load_stats_binary(str(file)).datasets
    numbers: dict[str, float] = {}
    others: dict[str, Any] = {"rows": dataset.num_examples}
    for feature in dataset.features:
        name = feature.path.step[0]
        for place, value in flatten(json_format.MessageToDict(feature), name):
            if not re.search(r"(rankHistogram|topValues)\..*\.(label|value)$", place):
                (numbers if isinstance(value, float) else others)[place] = value
        # Of values equally frequent any may come first, and be the last of the thousand counted.
        buckets = feature.string_stats.rank_histogram.buckets
        if len(buckets) < 1000:
            others[f"{name} by value"] = {b.label: b.sample_count for b in buckets}
    return numbers, others


def flatten(tree: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict | list):
        for key, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from flatten(branch, f"{place}.{key}")
    else:
        yield place, tree


def test_beam_runner_gives_the_same_transform_graph(elsewhere: Path, pushed: PushedRun) -> None:
    found, expected = (
        artifact(elsewhere, "Transform", "transform_graph"),
        pushed.artifact("Transform", "transform_graph"),
    )
    assert vocabularies(found)
    assert vocabularies(found) == vocabularies(expected)
    sample = records(pushed.artifact("SpanExampleGen", "examples"), "test")[:200]
    made, as_before = transform(found, sample), transform(expected, sample)
    assert made.keys() == as_before.keys()
    for name, values in made.items():
        # Means and deviations are sums of float32, here taken in another order.
        np.testing.assert_allclose(values, as_before[name], rtol=0, atol=1e-3, err_msg=name)


def vocabularies(graph: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in graph.glob("transform_fn/assets/*")}


def transform(graph: Path, serialized: list[bytes]) -> dict[str, np.ndarray]:
    """What a transform graph makes of raw examples; all of it numbers, NaN where absent."""
    output = tft.TFTransformOutput(str(graph))
    raw = tf.io.parse_example(serialized, output.raw_feature_spec())
    made = output.transform_features_layer()(raw)
    return {name: values.numpy() for name, values in made.items()}


def test_beam_runner_transforms_every_row(elsewhere: Path, pushed: PushedRun) -> None:
    found = artifact(elsewhere, "Transform", "transformed_examples")
    for split in ("train", "eval"):
        expected = records(pushed.artifact("Transform", "transformed_examples"), split)
        assert len(records(found, split)) == len(expected) > 0


def test_beam_runner_reports_bad_data_of_a_worker_in_one_line(
    worker_pool: str, small_spans: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(small_spans, tmp_path / "spans"))
    file = data / "span-201302" / "trips.parquet"
    corrupt(file, 2, "company")
    with pytest.raises(DataError) as failure:
        run(configure(data, submitted(worker_pool, "embed")), tmp_path / "run", NODES[:1])
    message = str(failure.value)
    assert message.startswith(f"{file}: row group 2 cannot be read: ")
    assert message == " ".join(message.split())
    assert "while running" not in message


def corrupt(path: Path, group: int, column: str) -> None:
    """Overwrites the bytes of one column of one row group."""
    metadata = pq.read_metadata(path)
    chunk = metadata.row_group(group).column(metadata.schema.names.index(column))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "before"),
    [
        ("flink/pom.xml", "<beam.version>"),
        ("spark/pom.xml", "<beam.version>"),
        ("prism/go.mod", "github.com/apache/beam/sdks/v2 v"),
    ],
)
def test_job_server_is_of_the_beam_of_the_default_stack(file: str, before: str) -> None:
    required = (PROJECT / "requirements" / "tfx-1.16.txt").read_text()
    (beam,) = re.findall(r"^apache-beam(?:\[.*\])?==([\d.]+)", required, re.MULTILINE)
    text = (PROJECT / "orchestration" / file).read_text()
    assert re.findall(rf"{re.escape(before)}([\d.]+)", text) == [beam]


def test_setup_file_packages_every_module(tmp_path: Path) -> None:
    command = ["setup.py", "-q", "egg_info", f"--egg-base={tmp_path}"]
    subprocess.run(
        [sys.executable, *command, "sdist", f"--dist-dir={tmp_path}"], cwd=PROJECT, check=True
    )
    (package,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(package, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for folder in ("components", "orchestration", "pipeline", "serving"):
        modules = {path.relative_to(PROJECT) for path in (PROJECT / folder).rglob("*.py")}
        packaged = {path.relative_to(unpacked) for path in (unpacked / folder).rglob("*.py")}
        assert packaged == modules
