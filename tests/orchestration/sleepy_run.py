"""Runs one node, whose process writes its id to a file and sleeps; without TFX, to start at once.

Usage: sleepy_run.py [what the fork server is to import]...
"""

import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from orchestration.local import dag_runner as local_dag_runner
from orchestration.local import fork_server, node_process
from orchestration.local.node_process import NodeResult, NodeTask
from orchestration.local.output_directory import OutputDirectory


class Silent:
    """A `RunObserver` that says nothing."""

    def started(self, node_id: str) -> None: ...

    def progressed(self, node_id: str, text: str) -> None: ...

    def finished(self, node_id: str, result: NodeResult) -> None: ...

    def tick(self) -> None: ...


def sleep(task: NodeTask, answer: Connection) -> NodeResult:
    """Takes the place of launching a TFX component."""
    Path("node.pid").write_text(str(os.getpid()))
    time.sleep(60)
    raise TimeoutError


# The node process imports this file too, as processes of `multiprocessing` do.
node_process._launch = sleep

if __name__ == "__main__":
    fork_server.PRELOAD[:] = sys.argv[1:]
    fork_server.start_fork_server(Path("imports.log"))
    output = OutputDirectory(Path.cwd())
    output.logs("run").mkdir(parents=True)
    runner = local_dag_runner.ConcurrentDagRunner(output, "", Silent())
    runner.run({"Sleep": local_dag_runner.Node("Sleep", b"", "run")})
