"""Tests that the Beam nodes do on Flink what they do in one process."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import apache_beam as beam
import psutil
import pytest
import tensorflow_model_analysis as tfma

from components.compression_evaluator import CompressionEvaluator
from components.evaluator.component import Evaluator
from components.statistics_gen import StatisticsGen
from orchestration.local.history import list_runs
from orchestration.local.output_directory import OutputDirectory
from pipeline.config import load_config
from storage.errors import failure_of_job
from tests import forked
from tests.components import tiny_table_model
from tests.components.test_batch_predictor import rows, write
from tests.conftest import PROJECT, Cli, PushedRun, make_artifacts
from tests.e2e.test_beam_runners import (  # The tests run again, on the artifacts of Flink.
    NODES,
    assert_same_statistics,
    configure,
    corrupt,
    run,
    test_beam_runner_gives_the_same_statistics_but_for_rounding,  # noqa: F401
    test_beam_runner_gives_the_same_transform_graph,  # noqa: F401
    test_beam_runner_transforms_every_row,  # noqa: F401
    test_beam_runner_writes_the_same_rows_in_every_split,  # noqa: F401
)
from tests.flink.cluster import Cluster
from tests.flink.conftest import beam_args

# The artifacts that each reads: the node they come from, and their key there.
EVALUATORS = {
    Evaluator: {
        "examples": ("SpanExampleGen", "examples"),
        "schema": ("ImportSchemaGen", "schema"),
        "model": ("Quantizer", "quantized_model"),
        "baseline_model": ("ServedModel", "model"),
    },
    CompressionEvaluator: {
        "examples": ("SpanExampleGen", "examples"),
        "schema": ("ImportSchemaGen", "schema"),
        "model": ("Quantizer", "quantized_model"),
        "float_model": ("Trainer", "model"),
        "report": ("Quantizer", "report"),
    },
}


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


def test_flink_cluster_pushes_a_model(on_cluster: PushedRun, cluster: Cluster) -> None:
    assert on_cluster.version.is_dir()
    states = list(cluster.jobs().values())
    assert states.count("FINISHED") >= len(NODES) + len(EVALUATORS), states


def execute(
    node: Any,
    run: PushedRun,
    artifacts: dict[str, tuple[str, str]],
    parameters: dict[str, Any],
    beam_args: tuple[str, ...],
    work: Path,
) -> None:
    """Runs the executor of a node on artifacts of a run; `work` takes its outputs."""
    inputs = {name: run.artifact(*place) for name, place in artifacts.items()}
    given, made = make_artifacts(node, inputs, work)
    executor = node.EXECUTOR_SPEC.executor_class
    context = executor.Context(
        tmp_dir=str(work), make_beam_pipeline_fn=lambda: beam.Pipeline(argv=list(beam_args))
    )
    executor(context).Do(given, made, parameters)


@pytest.mark.parametrize("node", EVALUATORS)
def test_flink_cluster_evaluates_as_one_process(
    on_cluster: PushedRun, node: Any, tmp_path: Path
) -> None:
    parameters = parameters_of(on_cluster, node.__name__)
    # The same models and rows, in one process.
    execute(node, on_cluster, EVALUATORS[node], parameters, load_config().beam_args, tmp_path)
    found = metrics_of(on_cluster.artifact(node.__name__, "evaluation"))
    expected = metrics_of(tmp_path / "evaluation")
    assert expected
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-6, abs=1e-6, nan_ok=True), key


def parameters_of(run: PushedRun, node: str) -> dict[str, Any]:
    """The parameters that a node was run with, as ML Metadata keeps them."""
    query = """
        SELECT p.name, COALESCE(p.string_value, p.double_value, p.int_value)
        FROM Execution e JOIN Type t ON t.id = e.type_id
        JOIN ExecutionProperty p ON p.execution_id = e.id WHERE t.name LIKE ?
    """
    with closing(sqlite3.connect(OutputDirectory(run.cli.directory).metadata)) as database:
        return dict(database.execute(query, [f"%.{node}"]).fetchall())


def metrics_of(evaluation: Path) -> dict[tuple[str, ...], float]:
    """Every number of every slice and model."""
    values: dict[tuple[str, ...], float] = {}
    for record in tfma.load_metrics(str(evaluation)):
        for entry in record.metric_keys_and_values:
            kind = entry.value.WhichOneof("type")
            value = getattr(entry.value, kind)
            key = (str(record.slice_key), str(entry.key), kind)
            if kind == "double_value":
                values[key] = value.value
            elif kind == "bounded_value":
                values[key] = value.value.value
    return values


def count_statistics(run: PushedRun, beam_args: tuple[str, ...], work: Path) -> None:
    """Runs StatisticsGen on the examples of a run."""
    artifacts = {
        "examples": ("SpanExampleGen", "examples"),
        "schema": ("ImportSchemaGen", "schema"),
    }
    execute(StatisticsGen, run, artifacts, {}, beam_args, work)


def test_flink_cluster_goes_on_without_a_lost_task_manager(
    cluster: Cluster, pushed: PushedRun, tmp_path: Path
) -> None:
    known, workers = cluster.jobs().keys(), set.union(*cluster.workers())

    def lose() -> None:
        cluster.wait(lambda: bool(set.union(*cluster.workers()) - workers))
        cluster.kill_task_manager()
        cluster.add_task_manager()

    with ThreadPoolExecutor() as pool:
        lost = pool.submit(lose)
        count_statistics(pushed, (*cluster.beam_args, "--number_of_execution_retries=2"), tmp_path)
        lost.result()
    (job,) = cluster.jobs().keys() - known
    assert cluster.restarts(job) >= 1
    assert_same_statistics(tmp_path / "statistics", pushed)


# Beam reads the messages of a job in a thread of its own, which ends so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_flink_job_server_that_is_gone_is_named_in_one_line(
    cluster: Cluster, pushed: PushedRun, tmp_path: Path
) -> None:
    workers = set.union(*cluster.workers())

    def lose() -> None:
        cluster.wait(lambda: bool(set.union(*cluster.workers()) - workers))
        cluster.kill_job_server()

    with ThreadPoolExecutor() as pool:
        lost = pool.submit(lose)
        with pytest.raises(Exception) as gone:  # noqa: PT011  Of gRPC, which has no public name.
            count_statistics(pushed, cluster.beam_args, tmp_path)
        lost.result()
    line = failure_of_job(gone.value)
    assert line
    assert line.startswith("Beam's job server has gone (UNAVAILABLE: ")
    assert "\n" not in line
    cluster.start_job_server()  # At the same address, for the tests that come.


def test_flink_names_the_setting_when_network_memory_is_too_small(
    jar: Path, pushed: PushedRun, tmp_path: Path
) -> None:
    memory = "".join(f"taskmanager.memory.network.{end}: 1m\n" for end in ("min", "max"))
    (tmp_path / "config.yaml").write_text(memory)
    arguments = (*embedded_args(jar), f"--flink_conf_dir={tmp_path}")
    with pytest.raises(RuntimeError) as failed:
        count_statistics(pushed, arguments, tmp_path / "work")
    line = failure_of_job(failed.value)
    assert line
    assert "Insufficient number of network buffers" in line
    assert "'taskmanager.memory.network.max'" in line
    assert "\n" not in line


def jvms(jar: Path) -> list[psutil.Process]:
    """The job servers with Flink in them that run, but for those of this process (`embedded`)."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "ppid"])
        if {str(jar), "[local]"} <= set(process.info["cmdline"] or [])
        and process.info["ppid"] != os.getpid()
    ]


def wait_for(condition: Any, what: str, process: ForkServerProcess | None = None) -> Any:
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert process is None or process.exitcode is None, what
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


@pytest.fixture
def embedded_run(jar: Path, small_spans: Path, tmp_path: Path) -> Cli:
    """What runs nodes on Flink inside job servers of their own, of which none is there."""
    assert jvms(jar) == []
    return Cli(Path(shutil.copytree(small_spans, tmp_path / "spans")), tmp_path / "output")


def test_flink_reports_bad_data_in_one_line_and_leaves_no_job_server(
    embedded_run: Cli, jar: Path
) -> None:
    file = embedded_run.data / "span-201302" / "trips.parquet"
    corrupt(file, 2, "company")
    done = embedded_run.run("--as-of", "201303", *beam_args(embedded_args(jar)))
    (record,) = list_runs(OutputDirectory(embedded_run.directory))
    (reason,) = record.reasons
    assert reason.startswith(f"SpanExampleGen: {file}: row group 2 cannot be read: "), done.stdout
    assert "while running" not in reason
    assert record.lasting
    assert jvms(jar) == []


def test_flink_job_servers_end_with_nodes_that_end_or_are_killed(
    embedded_run: Cli, jar: Path, tmp_path: Path
) -> None:
    options = ("--as-of", "201303", *beam_args(embedded_args(jar)))
    run = forked.start(embedded_run.command(*options)[1:], tmp_path / "screen")
    (first,) = wait_for(lambda: jvms(jar), "SpanExampleGen starts no job server", run)
    second = wait_for(
        lambda: [each for each in jvms(jar) if each != first], "StatisticsGen starts none", run
    )
    wait_for(lambda: not first.is_running(), "the job server of SpanExampleGen is still there")
    node = second[0].parent()
    assert node
    node.kill()
    run.join(60)
    assert "StatisticsGen" in (tmp_path / "screen").read_text()
    assert run.exitcode == 1
    assert jvms(jar) == []


def test_flink_job_server_of_a_node_ends_with_the_run_that_is_killed(
    embedded_run: Cli, jar: Path, tmp_path: Path
) -> None:
    options = ("--as-of", "201303", *beam_args(embedded_args(jar)))
    run = forked.start(embedded_run.command(*options)[1:], tmp_path / "screen")
    wait_for(lambda: jvms(jar), "SpanExampleGen starts no job server", run)
    run.kill()
    wait_for(lambda: not jvms(jar), "the job server is still there")


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
