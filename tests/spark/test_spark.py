"""Tests that the data nodes make on Spark, inside the job server, what they make in one process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import PROJECT, PushedRun
from tests.e2e.test_beam_runners import (  # The tests run again, on the artifacts of Spark.
    NODES,
    configure,
    run,
    test_beam_runner_gives_the_same_statistics_but_for_rounding,  # noqa: F401
    test_beam_runner_gives_the_same_transform_graph,  # noqa: F401
    test_beam_runner_transforms_every_row,  # noqa: F401
    test_beam_runner_writes_the_same_rows_in_every_split,  # noqa: F401
)


@pytest.fixture(scope="module")
def elsewhere(pushed: PushedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of the data nodes with Spark inside the job server; the nodes are the workers."""
    default = PROJECT / "build" / "spark" / "spark-job-server.jar"
    jar = Path(os.environ.get("SPARK_JAR", default)).resolve()
    assert jar.is_file(), f"{jar} is missing: make spark-jar"
    arguments = [
        *("--runner=SparkRunner", "--spark_master_url=local[2]", f"--spark_job_server_jar={jar}"),
        *("--environment_type=LOOPBACK", "--sdk_container_image=flightdeck"),
    ]
    root = tmp_path_factory.mktemp("spark")
    run(configure(pushed.cli.data, [f"beam_args={json.dumps(arguments)}"]), root, NODES[1:])
    return root
