"""Tests of the server that node processes are forked from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]

PROGRAM = """
import sys
from pathlib import Path
import psutil
from orchestration.local import fork_server

def servers():
    found = psutil.Process().children()
    return [process for process in found if "forkserver" in " ".join(process.cmdline())]

sys.path.append(".")  # The server's too.
fork_server.PRELOAD[:] = ["slow"]
log = Path("logs", "imports.log")
with fork_server.fork_server(log):
    first = servers()
    with fork_server.fork_server(log):
        pass
    print(len(first), servers() == first, log.exists())
psutil.wait_procs(first, 20)
print(servers())
"""


def test_fork_server_is_started_once_and_ends_while_it_still_imports(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT)},
    )
    assert done.stdout == "1 True True\n[]\n", done.stderr


def test_process_of_a_run_imports_no_tfx_which_its_fork_server_does() -> None:
    code = "import sys, orchestration.local.run; print({'tfx', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    assert done.stdout == "set()\n"
