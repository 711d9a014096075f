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

sys.path.append(".")  # The server's too.
fork_server.PRELOAD[:] = ["slow"]
log = Path("logs", "imports.log")
print(fork_server.start_fork_server(log), fork_server.start_fork_server(log))
servers = psutil.Process().children()
fork_server.stop_fork_server()
gone, alive = psutil.wait_procs(servers, 20)
print(len(servers) > 0, [p for p in alive if "forkserver" in " ".join(p.cmdline())])
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
    assert done.stdout == "True False\nTrue []\n", done.stderr


def test_process_of_a_run_imports_no_tfx_which_its_fork_server_does() -> None:
    code = "import sys, orchestration.local.run; print({'tfx', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    assert done.stdout == "set()\n"
