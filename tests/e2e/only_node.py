"""Runs `local_runner.py` with one of its nodes alone; its inputs are those that a run has made.

python tests/e2e/only_node.py NODE run --run-id THAT_RUN ...
"""

from __future__ import annotations

import runpy
import sys

from orchestration.local import tfx_internals


def main() -> None:
    node = sys.argv.pop(1)
    tfx_internals.node_ids = lambda compiled: {node: ()}
    runpy.run_path("local_runner.py", run_name="__main__")


if __name__ == "__main__":
    main()
