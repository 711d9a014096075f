"""Tests that the scale benchmark multiplies the rows of the data, and sees the memory of nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from benchmarks import common, scale
from benchmarks.common import PAGE_VARIABLE
from pipeline.config import load_config


def test_multiplied_rows_differ_by_noise_within_the_range_of_each_column(tmp_path: Path) -> None:
    config = load_config(settings=["model=flights", "data.window=1", "data.as_of=201302"])
    rows = scale.multiply_rows(config, 2, tmp_path)
    source = Path(config.data.source.uri)
    total = 0
    for month in (201301, 201302):
        name = f"span-{month}/flights.parquet"
        before, after = pq.read_table(source / name), pq.read_table(tmp_path / name)
        assert after.slice(0, len(before)).equals(before)
        copy = after.slice(len(before))
        assert copy.schema == before.schema
        total += len(after)
        measured, jittered = (table["pressure"].to_numpy() for table in (before, copy))
        assert np.nanmax(np.abs(measured - jittered)) > 0
        assert np.array_equal(np.isnan(measured), np.isnan(jittered))
        assert np.nanmin(jittered) >= np.nanmin(measured)
        assert np.nanmax(jittered) <= np.nanmax(measured)
        assert copy["late"].equals(before["late"])
    assert rows == total


def test_sampled_memory_is_that_of_a_node_and_what_it_started(tmp_path: Path) -> None:
    child = "import time; held = bytearray(60 << 20); time.sleep(2)"
    cost = _sample(
        tmp_path,
        "import subprocess, sys; held = bytearray(60 << 20); "
        f"subprocess.run([sys.executable, '-c', {child!r}], stdout=subprocess.DEVNULL)",
    )
    assert 120e6 < cost.peak_bytes < 400e6
    assert cost.seconds > 1


def test_sampled_memory_includes_what_was_held_between_two_samples(tmp_path: Path) -> None:
    cost = _sample(tmp_path, "import time; bytearray(300 << 20); time.sleep(1)")
    assert 300e6 < cost.peak_bytes < 500e6


def _sample(folder: Path, node: str) -> scale.NodeCost:
    """The cost of a node that is a program, started by a runner that writes elsewhere."""
    log = folder / "logs" / "run" / "Trainer.log"
    log.parent.mkdir(parents=True)
    runner = (
        "import subprocess, sys; "
        f"subprocess.run([sys.executable, '-c', {node!r}], stdout=open({str(log)!r}, 'w'))"
    )
    process = subprocess.Popen([sys.executable, "-c", runner])
    costs: dict[str, scale.NodeCost] = {}
    scale.sample_nodes(process.pid, costs.__setitem__)
    process.wait()
    assert set(costs) == {"Trainer"}
    return costs["Trainer"]


def test_sampling_that_is_interrupted_has_the_costs_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scale, "_held_by_nodes", lambda pid: {"Transform": 7})
    monkeypatch.setattr(scale.time, "sleep", interrupt)
    costs: dict[str, scale.NodeCost] = {}
    with pytest.raises(KeyboardInterrupt):
        scale.sample_nodes(os.getpid(), costs.__setitem__)
    assert costs["Transform"].peak_bytes == 7


def test_scale_benchmark_keeps_the_nodes_of_a_run_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "results.md"
    monkeypatch.setenv(PAGE_VARIABLE, str(page))
    for module in (common, scale):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(common, "PROJECT", tmp_path)
    monkeypatch.setattr(scale, "multiply_rows", lambda config, times, root: 100 * times)

    def succeed(root: Path, config: object, settings: object, ended: Any) -> None:
        ended("Transform", scale.NodeCost(3.0, 1_200_000_000))
        assert "1200000000" in (tmp_path / "scale.json").read_text()

    def fail(root: Path, config: object, settings: object, ended: Any) -> None:
        ended("Transform", scale.NodeCost(9.0, 3_000_000_000))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(scale, "run_pipeline", succeed)
    assert CliRunner().invoke(scale.main, ["--times=1"]).exit_code == 0
    monkeypatch.setattr(scale, "run_pipeline", fail)
    failed = CliRunner().invoke(scale.main, ["--times=10", "--add"])
    assert str(failed.exception) == "out of memory"
    text = page.read_text()
    assert "| Transform | 3.0 | 1.20 | 9.0 | 3.00 (2.5 x) |" in text
    assert "| most |  | 1.20 |  | 3.00, above 2.5 |" in text
    assert "The run of 10 x did not end" in text
