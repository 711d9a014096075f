"""Measures what Kubeflow costs: compiling, `status`, a run by task, and the entrypoint of a task.

The run is by `kfp.local`: once each task in a process that imports TFX, as on a cluster, which adds
pods and images, and once in a process forked from one that has TFX imported. For comparison, the
local runner, whose nodes are forked as well, runs the same two small spans with the same settings.
Targets: `compile` 8 s, `status` 1 s, the run in forked processes 150 s.
"""

from __future__ import annotations

import os

# Before TensorFlow is imported, to silence its messages on the standard error.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import argparse
import contextlib
import importlib
import io
import json
import logging
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import yaml

from benchmarks.common import PROJECT, node_seconds, report, run_measured
from orchestration.local.model_directories import list_directories
from tests.conftest import thin, write_span
from tests.models.flights.settings import read_month
from tests.orchestration.kubeflow_stub import PACKAGE, KubeflowStub

_MONTHS = (201301, 201302)
_ROWS = 2500
_TASKS = 14
_IMAGE = "flightdeck@sha256:" + "0" * 64
# It does next to nothing, as often as one likes: nothing is served.
_NODE = "ServedModel"
_SETTINGS = (
    *("data.window=1", "data.as_of=201302", "training.epochs=2", "training.batch_size=256"),
    *("evaluation.thresholds.auc=0.5", "evaluation.slice_thresholds.auc=0.4"),
    *("compression.max_loss=0.5", "compression.max_slice_loss=1"),
)


@click.command()
@click.option("--calls", type=click.IntRange(3), default=30, show_default=True)
@click.option("--commands", is_flag=True, help="Measure `compile` and `status` alone.")
def main(calls: int, commands: bool) -> None:
    """Prints what compiling takes, each task of a run, and the entrypoint of one of them."""
    if commands:
        with tempfile.TemporaryDirectory() as folder:
            seconds = compile_package(Path(folder), ["kubeflow.volume_claim=flightdeck"])[1]
        click.echo(f"compile: {seconds:.1f} s; status of {_TASKS} tasks: {status_seconds():.2f} s")
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for month in _MONTHS:
            write_span(root / "spans", month, thin(read_month(month), _ROWS))
        settings = [*_SETTINGS, f"data.uri={root / 'spans'}"]
        package, compile_seconds = compile_package(root, settings)
        overhead = entrypoint_overhead(root, package, calls)
        local = local_run(root, settings)
        kubeflow = kubeflow_run(root, package)
        forked = kubeflow_run(root, package, "forked")
    columns = (kubeflow, forked, local)
    nodes = [name for name in kubeflow if name != "whole"]
    rows = [[name, *(f"{column.get(name, 0):.1f}" for column in columns)] for name in nodes]
    rows.append(["whole command", *(f"{column['whole']:.1f}" for column in columns)])
    rows.append(["compile, whole command", f"{compile_seconds:.1f}", "", ""])
    status = status_seconds()
    rows.append([f"status of {_TASKS} tasks, whole command", f"{status:.2f}", "", ""])
    rows += [[f"{_NODE}, {name}", f"{seconds:.4f}", "", ""] for name, seconds in overhead.items()]
    data = {
        **{"compile": compile_seconds, "status": status, "kubeflow": kubeflow},
        **{"forked": forked, "local": local, "entry": overhead},
    }
    heads = ["seconds", "kfp.local", "kfp.local, forked", "local runner"]
    report("kubeflow", heads, rows, data)


def compile_package(root: Path, settings: list[str]) -> tuple[Path, float]:
    """Compiles, and returns the package and the seconds the whole command took."""
    package = root / "pipeline.yaml"
    places = (
        f"kubeflow.image={_IMAGE}",
        f"kubeflow.serving_dir={root / 'serving'}",
        f"serving.signing_key={root / 'signing.key'}",
    )
    sets = [argument for setting in (*settings, *places) for argument in ("--set", setting)]
    done = run_measured(["kubeflow_runner.py", "compile", "--output", str(package), *sets])
    return package, done.seconds


def status_seconds() -> float:
    """Median seconds of `status` of a finished run, whole command, against the tests' server."""
    from orchestration.kubeflow.client import KubeflowPipelines
    from orchestration.kubeflow.package import read_package

    tasks = {f"Task{number}": "SUCCEEDED" for number in range(_TASKS)}
    with KubeflowStub(compressed=True, planned=tuple(tasks)) as stub:
        stub.script = [{"state": "SUCCEEDED", "tasks": tasks}]
        run = KubeflowPipelines(stub.host).submit(read_package(PACKAGE.encode()), {"epochs": 1})
        command = ["kubeflow_runner.py", "status", run.run_id, "--host", stub.host]
        return statistics.median(run_measured(command).seconds for _ in range(5))


def local_run(root: Path, settings: list[str]) -> dict[str, float]:
    """Seconds of each node in the local runner."""
    output = root / "output"
    sets = [argument for setting in settings for argument in ("--set", setting)]
    done = run_measured(["local_runner.py", "run", "--output", str(output), *sets])
    (directory,) = list_directories(output)
    return node_seconds(directory.metadata) | {"whole": done.seconds}


def kubeflow_run(root: Path, package: Path, *how: str) -> dict[str, float]:
    """Seconds of each task, process and imports included; `how` is that of the runner."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    runner = "tests/e2e/run_package.py"
    place = root / "-".join(["run", *how])
    parameters = json.dumps({"serving_dir": str(place / "serving")})
    done = run_measured([runner, str(package), str(place / "artifacts"), parameters, *how])
    found = re.findall(r"^ *seconds (\w+) ([0-9.]+)$", done.output, re.MULTILINE)
    return {name: float(seconds) for name, seconds in found} | {"whole": done.seconds}


def entrypoint_overhead(root: Path, package: Path, calls: int) -> dict[str, float]:
    """Median seconds of a task in one process: its executor alone, TFX's entrypoint, and ours."""
    # TFX logs each artifact; nobody reads it here.
    warnings.simplefilter("ignore")
    logging.disable()
    from tfx import v1 as tfx
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    from orchestration.kubeflow import entrypoint as kfp_entrypoint

    task = _task(root, package)
    invocation, _ = kfp_entrypoint.prepare(task)
    arguments = argparse.Namespace(
        executor_class_path=task.executor,
        json_serialized_invocation_args=json.dumps(invocation),
        json_serialized_inputs_spec_args=json.dumps(task.inputs_spec),
    )

    module, _, name = task.executor.rpartition(".")
    executor = getattr(importlib.import_module(module), name)()
    model = tfx.types.standard_artifacts.Model()
    statistics = tfx.types.standard_artifacts.ExampleStatistics()
    model.uri, statistics.uri = str(root / "model"), str(root / "statistics")
    parameters = {**task.invocation["inputs"]["parameterValues"], "version": 0}

    def bare() -> None:
        executor.Do({}, {"model": [model], "statistics": [statistics]}, parameters)

    return {
        "executor alone": _median(bare, calls),
        "TFX's entrypoint": _median(lambda: kubeflow_v2_run_executor.main((arguments, [])), calls),
        "this project's entrypoint": _median(lambda: kfp_entrypoint.run(task), calls),
    }


def _task(root: Path, package: Path) -> Any:
    """The task of a node as `kfp.local` would call it."""
    from orchestration.kubeflow.entrypoint import parse_task

    spec = next(yaml.safe_load_all(package.read_text(encoding="utf-8")))
    container = spec["deploymentSpec"]["executors"][f"exec-{_NODE}"]["container"]
    given = spec["root"]["dag"]["tasks"][_NODE]["inputs"]["parameters"]
    outputs = spec["components"][f"comp-{_NODE}"]["outputDefinitions"]["artifacts"]
    defaults = spec["root"]["inputDefinitions"]["parameters"]
    values = {
        name: each["runtimeValue"]["constant"]
        if "runtimeValue" in each
        else defaults[each["componentInputParameter"]]["defaultValue"]
        for name, each in given.items()
    }
    invocation = {
        "inputs": {"parameterValues": values},
        "outputs": {
            "artifacts": {
                name: {
                    "artifacts": [{"type": kind["artifactType"], "uri": str(root / "task" / name)}]
                }
                for name, kind in outputs.items()
            },
            "outputFile": str(root / "task" / "executor_output.json"),
        },
    }
    arguments = container["command"][3:] + container["args"]
    return parse_task([json.dumps(invocation) if a == "{{$}}" else a for a in arguments])


def _median(call: Callable[[], object], calls: int) -> float:
    seconds = []
    with contextlib.redirect_stdout(io.StringIO()):
        for _ in range(calls + 1):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])  # The first imports.


if __name__ == "__main__":
    os.chdir(PROJECT)
    main()
