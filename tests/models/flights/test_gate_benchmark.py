"""The measurement of DataGate, on few samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import common, gate


def test_gate_writes_what_is_blocked_of_samples_faults_and_months(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(common.PAGE_VARIABLE, str(tmp_path / "results.md"))
    results = common.PROJECT / "output" / "benchmarks" / "test"
    monkeypatch.setattr(common, "RESULTS", results)
    monkeypatch.setattr(gate, "FAULTS", {"UA renamed to U2": gate.FAULTS["UA renamed to U2"]})
    arguments = ["--month", "201302", "--rows", "100", "--seeds", "1", "--fault-seeds", "1"]
    CliRunner().invoke(gate.main, arguments, catch_exceptions=False)
    samples, faults, months = (
        json.loads((results / f"gate-{name}.json").read_text())
        for name in ("samples", "faults", "months")
    )
    assert samples == [{"rows": 100, "month": 201302, "blocked": 0, "of": 1}]
    assert faults == [{"fault": "UA renamed to U2", "month": 201302, "blocked": 1, "of": 1}]
    assert [month["verdict"] for month in months] == ["passes"]
    assert "| UA renamed to U2 | 1 of 1 | 1 of 1 |" in (tmp_path / "results.md").read_text()
