"""A run where much is odd at once: proxies, no terminal, a long TMPDIR, a name in Greek."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from orchestration.local.history import list_runs
from orchestration.local.output_directory import OutputDirectory
from orchestration.outcome import Outcome
from tests.conftest import PROJECT, Cli, PushedRun, read_month, thin, write_span
from tests.e2e.test_beam_runners import rows_of

PROXIES = {
    name: "http://127.0.0.1:9"  # Nobody is there.
    for lower in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
    for name in (lower, lower.upper())
}
SEVERAL_PROCESSES = json.dumps(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])


@pytest.fixture
def blocked(pushed: PushedRun, tmp_path: Path) -> Path:
    """The months of `pushed`; DataGate stops the last one, which has each row twice."""
    spans = Path(shutil.copytree(pushed.cli.data, tmp_path / "spans"))
    month = thin(read_month(201303), 1000)
    write_span(spans, 201303, pa.concat_tables([month, month]))
    return spans


def test_local_run_in_odd_surroundings_uses_several_processes(
    pushed: PushedRun, blocked: Path, tmp_path: Path
) -> None:
    cli = Cli(blocked, tmp_path / "Ausgabe mit Leerzeichen und λ")
    temporary = tmp_path / "/".join(["temporary"] * 12)
    temporary.mkdir(parents=True)
    beam = f"node_beam_args.SpanExampleGen={SEVERAL_PROCESSES}"
    odd = {"TMPDIR": str(temporary), "TZ": "Mars/North", "LC_ALL": "C", **PROXIES}
    command = cli.command("--as-of", "201303", "--set", beam)
    done = subprocess.run(
        # Nobody reads what it shows.
        ["bash", "-c", '"$@" <&- 2>&- | true; exit "${PIPESTATUS[0]}"', "bash", *command],
        cwd=PROJECT,
        env={**{name: text for name, text in os.environ.items() if name != "HOME"}, **odd},
        timeout=600,
        check=False,
    )
    (record,) = list_runs(OutputDirectory(cli.directory))
    assert (done.returncode, record.outcome) == (3, Outcome.STOPPED_BY_GATE), record
    assert record.reasons[0].startswith("DataGate: ")
    assert record.seconds is not None
    assert record.seconds > 0
    assert Path(record.log).exists()
    (made,) = cli.directory.glob("artifacts/*/SpanExampleGen/examples/*")
    for split in ("train", "eval"):
        expected = rows_of(pushed.artifact("SpanExampleGen", "examples"), split)
        assert rows_of(made, split) == expected
