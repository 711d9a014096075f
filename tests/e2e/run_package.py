"""Runs a compiled package by `kfp.local`, each task in a process, and says how long each took.

    python tests/e2e/run_package.py PACKAGE PIPELINE_ROOT PARAMETERS [forked]

`SubprocessRunner` turns down whatever is no Python function, by two checks; what it does after them
is what is wanted here: the command of a task, its placeholders filled in, its outputs read. With
"forked" the processes come from one that has TFX imported, which takes each of them 12 s otherwise.

`kfp.local` refuses tasks with a condition. Here they run in any case: the one condition of a
package holds unless a schedule finds nothing new. Nor does it set the environment variables that a
package gives to a task: that is done here.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

# The package's tasks find the project in their working directory, which is on the path of `-m`.
sys.path.insert(0, str(Path(__file__).parents[2]))

import yaml
from kfp import components, local
from kfp.local import status, subprocess_task_handler

from orchestration.local.fork_server import PRELOAD

_ENTRYPOINT = ["python", "-m", "orchestration.kubeflow.entrypoint"]
# Environment variables of a task, by node.
_ENVIRONMENTS: dict[str, dict[str, str]] = {}
_TFX_ENTRYPOINT = "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"


class _Timed(subprocess_task_handler.SubprocessTaskHandler):
    def validate_image(self, image: str) -> None:
        pass

    def validate_not_container_component(self, full_command: list[str]) -> None:
        pass

    def validate_not_containerized_python_component(self, full_command: list[str]) -> None:
        pass

    def run(self) -> status.Status:
        started = time.monotonic()
        node = self.full_command[self.full_command.index("--node_id") + 1]
        os.environ.update(_ENVIRONMENTS[node])
        result = self._run()
        print(f"seconds {node} {time.monotonic() - started:.1f}", flush=True)
        return result

    def _run(self) -> status.Status:
        return super().run()


class _Forked(_Timed):
    def _run(self) -> status.Status:
        words = len(_ENTRYPOINT)
        assert self.full_command[:words] == _ENTRYPOINT
        # The server that it is forked from may print elsewhere.
        output = Connection(os.dup(1), readable=False)
        process = multiprocessing.get_context("forkserver").Process(
            target=_run_task, args=(self.full_command[words:], dict(os.environ), output)
        )
        process.start()
        process.join()
        return status.Status.FAILURE if process.exitcode else status.Status.SUCCESS


def _run_task(arguments: list[str], environment: dict[str, str], output: Connection) -> None:
    os.environ.update(environment)
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    from orchestration.kubeflow import entrypoint as kfp_entrypoint

    sys.exit(kfp_entrypoint.main(arguments))


def _run_whatever_conditions_say() -> None:
    try:
        from kfp.local import dag_orchestrator  # kfp 2.13
    except ImportError:  # kfp 2.16, which would evaluate the expression in its own way
        from kfp.local.orchestrator import dag_orchestrator, enhanced_dag_orchestrator

        enhanced_dag_orchestrator.run_enhanced_dag = dag_orchestrator.run_dag
    else:
        dag_orchestrator.validate_task_spec_not_loop_or_condition = lambda task_spec: None


def main(package: str, pipeline_root: str, parameters: str, how: str = "") -> None:
    preload = ["__main__", *PRELOAD, "orchestration.kubeflow.entrypoint", _TFX_ENTRYPOINT]
    multiprocessing.get_context("forkserver").set_forkserver_preload(preload)
    subprocess_task_handler.SubprocessTaskHandler = _Forked if how == "forked" else _Timed
    executors = next(yaml.safe_load_all(Path(package).read_text()))["deploymentSpec"]["executors"]
    for label, executor in executors.items():
        variables = executor["container"].get("env", [])
        values = {variable["name"]: variable["value"] for variable in variables}
        _ENVIRONMENTS[label.removeprefix("exec-")] = values
    _run_whatever_conditions_say()
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=pipeline_root,
        raise_on_error=True,
    )
    components.load_component_from_file(package)(**json.loads(parameters))


if __name__ == "__main__":
    main(*sys.argv[1:])
