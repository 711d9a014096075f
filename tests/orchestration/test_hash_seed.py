"""Tests that no process that makes a part of a model draws the seed of its hashes by chance."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.conftest import PROJECT

# Starts the server without libraries, and prints hashes of a process that is forked from it, and of
# one that this process starts, as Beam starts workers.
_PROGRAM = """
import multiprocessing, os, subprocess, sys
from pathlib import Path
from orchestration.local import fork_server

def show(end):
    there = subprocess.run(
        [sys.executable, "-c", "print(hash('a'))"], capture_output=True, text=True, check=True
    )
    end.send((hash("a"), int(there.stdout)))

if __name__ == "__main__":
    fork_server.PRELOAD[:] = []
    fork_server.start_fork_server(Path(os.devnull))
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("forkserver").Process(target=show, args=(theirs,))
    process.start()
    print(*ours.recv())
    process.join()
"""


def test_fork_server_gives_all_processes_one_hash_seed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    shown = set()
    for seed in ("random", "7"):
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, str(program)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        shown |= set(done.stdout.split())
    assert len(shown) == 1


def test_compiled_package_gives_all_containers_one_hash_seed() -> None:
    text = (PROJECT / "tests" / "golden" / "pipeline.yaml").read_text()
    spec, *_ = yaml.safe_load_all(text)
    executors = spec["deploymentSpec"]["executors"].values()
    seeds = [
        {pair["name"]: pair["value"] for pair in executor["container"]["env"]}["PYTHONHASHSEED"]
        for executor in executors
    ]
    assert len(seeds) == 16
    assert set(seeds) == {"0"}
