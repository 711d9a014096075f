"""Runs a compiled package by `kfp.local`, each task in a subprocess, and says how long each took.

    python tests/e2e/run_package.py PACKAGE PIPELINE_ROOT PARAMETERS

`SubprocessRunner` turns down whatever is no Python function, by two checks; what it does after them
is what is wanted here: the command of a task, its placeholders filled in, its answer read.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from kfp import components, local
from kfp.local import subprocess_task_handler


class _Timed(subprocess_task_handler.SubprocessTaskHandler):
    def validate_image(self, image: str) -> None:
        pass

    def validate_not_container_component(self, full_command: list[str]) -> None:
        pass

    def validate_not_containerized_python_component(self, full_command: list[str]) -> None:
        pass

    def run(self) -> Any:
        started = time.monotonic()
        status = super().run()
        node = self.full_command[self.full_command.index("--node_id") + 1]
        print(f"seconds {node} {time.monotonic() - started:.1f}", flush=True)
        return status


def main(package: str, pipeline_root: str, parameters: str) -> None:
    subprocess_task_handler.SubprocessTaskHandler = _Timed
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=pipeline_root,
        raise_on_error=True,
    )
    components.load_component_from_file(package)(**json.loads(parameters))


if __name__ == "__main__":
    main(*sys.argv[1:])
