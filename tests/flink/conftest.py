"""Flink as nodes are given it: inside a job server of their own, and as a cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Cli, PushedRun
from tests.flink.cluster import Cluster


@pytest.fixture(scope="session")
def jar() -> Path:
    """The jar of the job server, as `make flink-jar` makes it."""
    path = Path(os.environ.get("FLINK_JAR", "build/flink/flink-job-server.jar")).resolve()
    assert path.is_file(), f"{path} is missing: make flink-jar"
    return path


@pytest.fixture(scope="session")
def cluster(jar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One JobManager, two TaskManagers with a slot each, and one job server for all jobs."""
    cluster = Cluster(jar, tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start(task_managers=2)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def on_cluster(
    cluster: Cluster, pushed: PushedRun, tmp_path_factory: pytest.TempPathFactory
) -> PushedRun:
    """The run of `pushed`, with all Beam nodes on the cluster."""
    cli = Cli(pushed.cli.data, tmp_path_factory.mktemp("pushed") / "output")
    done = cli.run("--as-of", "201303", *beam_args(cluster.beam_args))
    assert done.returncode == 0, done.stdout + cluster.last_lines()
    return PushedRun(cli, done.stdout)


def beam_args(arguments: tuple[str, ...]) -> tuple[str, str]:
    """Options of the command line that give all nodes these arguments of Beam."""
    return "--set", f"beam_args={json.dumps(arguments)}"
