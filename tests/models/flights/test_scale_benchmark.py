"""Tests that the scale benchmark multiplies the rows of the data, and sees the memory of nodes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks import scale
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
    log = tmp_path / "logs" / "run" / "Trainer.log"
    log.parent.mkdir(parents=True)
    child = "import time; held = bytearray(60 << 20); time.sleep(2)"
    node = (
        "import subprocess, sys, time; held = bytearray(60 << 20); "
        f"subprocess.run([sys.executable, '-c', {child!r}], stdout=subprocess.DEVNULL)"
    )
    # The runner, which writes elsewhere, starts the node.
    runner = (
        "import subprocess, sys; "
        f"subprocess.run([sys.executable, '-c', {node!r}], stdout=open({str(log)!r}, 'w'))"
    )
    process = subprocess.Popen([sys.executable, "-c", runner])
    peaks: dict[str, int] = Counter()
    scale._sample(process.pid, peaks)
    process.wait()
    assert set(peaks) == {"Trainer"}
    assert 120e6 < peaks["Trainer"] < 400e6
