"""A whole run where much is odd at once: proxies, no terminal, a long TMPDIR, a name in Greek."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from orchestration.history import RunRecord, list_runs
from orchestration.output_directory import OutputDirectory
from tests.conftest import PROJECT, Cli

PROXIES = {
    name: "http://127.0.0.1:9"  # Nobody is there.
    for lower in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
    for name in (lower, lower.upper())
}
SEVERAL_PROCESSES = json.dumps(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])


@pytest.fixture(scope="module")
def record(small_spans: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """The record of a run, one of whose nodes has several Beam processes, and another takes too long."""
    root = tmp_path_factory.mktemp("odd")
    cli = Cli(small_spans, root / "Ausgabe mit Leerzeichen und λ")
    temporary = root / "/".join(["temporary"] * 12)
    temporary.mkdir(parents=True)
    command = cli.command(
        *("--as-of", "201303", "--window", "1"),
        *("--set", f"node_beam_args.SpanExampleGen={SEVERAL_PROCESSES}"),
        *("--set", "node_timeouts.StatisticsGen=0.005"),
    )
    odd = {"TMPDIR": str(temporary), "TZ": "Mars/North", "LC_ALL": "C"}
    environment = {name: text for name, text in os.environ.items() if name != "HOME"}
    done = subprocess.run(
        ["bash", "-c", '"$@" <&- 2>&- | true; exit "${PIPESTATUS[0]}"', "bash", *command],
        cwd=PROJECT,
        env={**environment, **PROXIES, **odd},
        timeout=300,
        check=False,
    )
    directory = OutputDirectory(cli.output)
    (record,) = list_runs(directory)
    assert done.returncode == 1, record
    return record


def test_run_behind_a_proxy_runs_beam_in_several_processes(record: RunRecord) -> None:
    assert not any(line.startswith("SpanExampleGen") for line in record.reasons)


def test_run_says_which_node_took_longer_than_its_limit(record: RunRecord) -> None:
    (reason,) = record.reasons
    assert reason == "StatisticsGen: it was stopped because it took longer than 0.3 s"
    assert Path(record.log).name == "StatisticsGen.log"
    assert Path(record.log).exists()


def test_run_takes_down_its_outcome_although_nobody_sees_it(record: RunRecord) -> None:
    assert (record.outcome, record.version) == ("failed", None)
    assert record.seconds is not None
    assert record.seconds > 0
