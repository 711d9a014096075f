"""Tests that the Beam nodes do on Flink what they do in one process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest

from orchestration.local.history import list_runs
from orchestration.local.output_directory import OutputDirectory
from tests.components import tiny_table_model
from tests.components.test_batch_predictor import rows, write
from tests.conftest import PROJECT, Cli, PushedRun
from tests.e2e.test_beam_runners import (
    NODES,
    SPLITS,
    artifact,
    configure,
    corrupt,
    read_statistics,
    records,
    rows_of,
    run,
    transform,
    vocabularies,
)
from tests.flink.cluster import FLINK, Cluster
from tests.flink.conftest import beam_args

EVALUATORS = ("Evaluator", "CompressionEvaluator")


def embedded_args(jar: Path) -> tuple[str, ...]:
    """Arguments of nodes that start a job server with Flink in it, and are workers themselves."""
    return (
        *("--runner=FlinkRunner", "--flink_master=[local]", "--parallelism=2"),
        *(f"--flink_job_server_jar={jar}", "--environment_type=LOOPBACK"),
        "--sdk_container_image=flightdeck",
    )


@pytest.fixture(scope="module")
def embedded(jar: Path, pushed: PushedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of the data nodes with Flink inside the job server."""
    root = tmp_path_factory.mktemp("embedded")
    _, setting = beam_args(embedded_args(jar))
    run(configure(pushed.cli.data, [setting]), root, NODES[1:])
    return root


@pytest.fixture(params=["embedded", "on_cluster"])
def elsewhere(request: pytest.FixtureRequest) -> Path:
    """Folder of the artifacts of a run on Flink."""
    made = request.getfixturevalue(request.param)
    if isinstance(made, PushedRun):
        (made,) = made.cli.directory.glob("artifacts/*")
    return Path(made)


def test_flink_writes_the_same_rows_in_every_split(elsewhere: Path, pushed: PushedRun) -> None:
    found = artifact(elsewhere, "SpanExampleGen", "examples")
    for split in SPLITS:
        expected = rows_of(pushed.artifact("SpanExampleGen", "examples"), split)
        assert expected
        assert rows_of(found, split) == expected


def assert_same_statistics(found: Path, pushed: PushedRun) -> None:
    for split in SPLITS:
        numbers, others = read_statistics(found, split)
        expected = read_statistics(pushed.artifact("StatisticsGen", "statistics"), split)
        assert expected[0]
        assert numbers == pytest.approx(expected[0], rel=1e-9)
        assert others == expected[1]


def test_flink_gives_the_same_statistics_but_for_rounding(
    elsewhere: Path, pushed: PushedRun
) -> None:
    assert_same_statistics(artifact(elsewhere, "StatisticsGen", "statistics"), pushed)


def test_flink_gives_the_same_transform_graph(elsewhere: Path, pushed: PushedRun) -> None:
    found = artifact(elsewhere, "Transform", "transform_graph")
    expected = pushed.artifact("Transform", "transform_graph")
    assert vocabularies(found)
    assert vocabularies(found) == vocabularies(expected)
    sample = records(pushed.artifact("SpanExampleGen", "examples"), "test")[:200]
    made, as_before = transform(found, sample), transform(expected, sample)
    assert made.keys() == as_before.keys()
    for name, values in made.items():
        # Means and deviations are sums of float32, here taken in another order.
        np.testing.assert_allclose(values, as_before[name], rtol=0, atol=1e-3, err_msg=name)


def test_flink_transforms_every_row(elsewhere: Path, pushed: PushedRun) -> None:
    found = artifact(elsewhere, "Transform", "transformed_examples")
    for split in ("train", "eval"):
        expected = records(pushed.artifact("Transform", "transformed_examples"), split)
        assert len(records(found, split)) == len(expected) > 0


def test_flink_cluster_pushes_a_model(on_cluster: PushedRun, cluster: Cluster) -> None:
    assert on_cluster.version.is_dir()
    states = list(cluster.jobs().values())
    assert states.count("FINISHED") >= len(NODES) + len(EVALUATORS), states


def test_flink_cluster_reports_bad_data_of_a_worker_in_one_line(
    cluster: Cluster, small_spans: Path, tmp_path: Path
) -> None:
    cli = Cli(Path(shutil.copytree(small_spans, tmp_path / "spans")), tmp_path / "output")
    file = cli.data / "span-201302" / "trips.parquet"
    corrupt(file, 2, "company")
    done = cli.run("--as-of", "201303", *beam_args(cluster.beam_args))
    (record,) = list_runs(OutputDirectory(cli.directory))
    (reason,) = record.reasons
    assert reason.startswith(f"SpanExampleGen: {file}: row group 2 cannot be read: "), done.stdout
    assert "while running" not in reason
    assert record.lasting


def test_flink_jar_is_of_the_project_s_beam() -> None:
    (version,) = [
        line.split("<")[1].removeprefix("beam.version>")
        for line in (FLINK / "pom.xml").read_text().splitlines()
        if "<beam.version>" in line
    ]
    assert version == beam.__version__


@pytest.mark.parametrize("where", ["embedded", "cluster"])
def test_flink_predicts_the_same_rows(
    where: str, jar: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    served = tiny_table_model.push(tmp_path, background=tiny_table_model.BACKGROUND)
    table = write(tmp_path / "in" / "a.parquet", rows(70_000), 65_536)
    write(tmp_path / "in" / "b.parquet", rows(100, 70_000))
    arguments = embedded_args(jar)
    if where == "cluster":
        arguments = request.getfixturevalue("cluster").beam_args
    outputs = {"here": (), "flink": beam_args(arguments)}
    for name, setting in outputs.items():
        command = [
            *("local_runner.py", "predict", "--runs", str(served), "--input", str(table.parent)),
            *("--output", str(tmp_path / name), "--set", f"model_name={tiny_table_model.NAME}"),
            *("--set", "prediction=score", *setting),
        ]
        done = subprocess.run(
            [sys.executable, *command], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 shard(s)" in done.stdout
    made = {
        name: {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*.parquet")
        }
        for name in outputs
    }
    assert len(made["here"]) == 6  # Three shards, each with rows that have no prediction.
    assert made["flink"] == made["here"]
