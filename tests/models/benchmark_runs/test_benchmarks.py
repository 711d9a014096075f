"""Runs every benchmark on a tiny setting; `make test-benchmarks`, in about ten minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common import PAGE_VARIABLE, PROJECT
from pipeline.model_folders import MODEL_VARIABLE
from tests.models.tiny_benchmarks import TINY

_SECONDS = 1800


def run(command: list[str], page: Path) -> str:
    """Runs a command of the worked example, and returns what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != MODEL_VARIABLE}
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env={**environment, PAGE_VARIABLE: str(page)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    # A model that is not blessed is a finished run too.
    assert done.returncode in (0, 4), done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a run on the last two months."""
    output = tmp_path_factory.mktemp("finished") / "output"
    words = ["run", f"--output={output}", "--window=1", "--set", "evaluation.thresholds.auc=0.5"]
    words += ["--set", "compression.max_loss=0.5", "--set", "compression.max_slice_loss=1"]
    run([sys.executable, "local_runner.py", *words], output.parent / "page.md")
    return output


@pytest.mark.parametrize("name", TINY)
def test_benchmark_writes_its_figures(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    page = tmp_path / "results.md"
    tiny = TINY[name]
    directory = request.getfixturevalue("finished") if tiny.needs_run else None
    screen = run(tiny.command(name, directory), page)
    if name != "kubeflow":  # Its tiny setting prints alone.
        assert page.read_text(encoding="utf-8").count("\n| ") > 2, screen
