"""The pages of runs: written when a run ends, found again, and never in the way of an outcome."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

import local_runner
from orchestration.local import reports, run_artifacts
from orchestration.local.changed_settings import changed_settings
from orchestration.local.history import NodeNote, RunRecord, list_runs
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.reports import page_of, report_run, write_report
from orchestration.outcome import Outcome
from pipeline.config import load_config
from report.run import Setting
from tests.conftest import PushedRun
from tests.orchestration.test_cleaning import CACHED, COMPLETE, FAILED, World

RECORD = RunRecord(
    "20260302-120000-000",
    started="2026-03-02T12:00:00+00:00",
    seconds=3.0,
    outcome=Outcome.FAILED,
    reasons=("<b>the data</b> cannot be read",),
    nodes={"DataGate": NodeNote("failed", "1 blocking anomaly", ("test: distance",))},
)


@pytest.fixture
def output(tmp_path: Path) -> OutputDirectory:
    """The directory of a model in an output directory, with a run that failed."""
    directory = OutputDirectory(tmp_path / "models" / "toy", tmp_path, "toy")
    RECORD.write(directory)
    return directory


def report(directory: OutputDirectory) -> str:
    """What is shown of a report."""
    screen = io.StringIO()
    report_run(directory, RECORD, Console(file=screen, width=500))
    return screen.getvalue()


def command(output: Path, *arguments: str) -> Result:
    arguments = ("report", f"--output={output}", *arguments)
    return CliRunner().invoke(local_runner.main, arguments)


def test_report_of_a_run_without_metadata_is_made_of_its_record(output: OutputDirectory) -> None:
    page = page_of(output, RECORD.run_id)
    assert report(output) == f"Report: {page}\n"
    text = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;the data&lt;/b&gt; cannot be read" in text
    assert "1 blocking anomaly" in text
    assert "there is no ML Metadata" in text
    assert 'href="../../../../index.html"' in text
    index = output.index.read_text(encoding="utf-8")
    assert f'href="models/toy/reports/{RECORD.run_id}/report.html"' in index
    facts = json.loads(page.with_name("report.json").read_text())
    assert facts["outcome"] == "failed"


@pytest.mark.parametrize("blocked", ["reports", "run", "index"])
def test_report_that_cannot_be_written_is_a_warning(output: OutputDirectory, blocked: str) -> None:
    path = {
        "reports": output.reports,
        "run": output.reports / RECORD.run_id,
        "index": output.index,
    }[blocked]
    path.parent.mkdir(parents=True, exist_ok=True)
    if blocked == "index":
        path.mkdir()
    else:
        path.touch()
    (line,) = report(output).splitlines()
    assert line.startswith(f"warning: no report: {path}")
    assert "cannot be written: " in line
    done = command(output.index.parent, "--again")
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {path}")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ValueError("odd")])
def test_report_that_fails_or_is_stopped_is_a_warning(
    output: OutputDirectory, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(reports, "write_report", fail)
    assert report(output) == f"warning: no report: {str(error) or type(error).__name__}\n"


def test_report_command_makes_a_page_once_and_again_when_asked(output: OutputDirectory) -> None:
    page, root = page_of(output, RECORD.run_id), output.index.parent
    assert command(root).output == f"{page}\n"
    page.write_text("made when everything was there")
    assert command(root, RECORD.run_id, "--model=toy").output == f"{page}\n"
    assert page.read_text() == "made when everything was there"
    assert command(root, "--again").exit_code == 0
    assert "cannot be read" in page.read_text()


def test_report_command_names_the_newest_runs_if_there_is_no_such_run(
    output: OutputDirectory,
) -> None:
    root = output.index.parent
    (root / "secret.json").write_text("{}")
    for name in ("2025", "../../../secret", "", "/etc/passwd"):
        done = command(root, name)
        assert (done.exit_code, done.output) == (
            1,
            f"Error: there is no run {name} in {root}; the newest of 1 are {RECORD.run_id}\n",
        )
    assert "there are no runs of other in" in command(root, "--model=other").output
    assert "there are no runs in" in command(root / "nowhere").output


def test_report_of_a_run_shows_what_metadata_knows_of_its_nodes(tmp_path: Path) -> None:
    world = World(OutputDirectory(tmp_path / "output"))
    first = world.run()
    run_id = world.run({"ExampleGen": CACHED, "Pusher": FAILED})
    record = dataclasses.replace(RECORD, run_id=run_id, nodes={})
    nodes, note = run_artifacts.read_nodes(world.directory, record)
    assert note == ""
    assert {node.name: node.state for node in nodes} == {
        **{"ExampleGen": CACHED, "Trainer": COMPLETE, "Pusher": FAILED}
    }
    found = {node.name: node for node in nodes}
    assert found["Pusher"].outputs == {}
    assert first in found["ExampleGen"].outputs["output"].uri
    assert all(node.seconds is not None for node in nodes)
    page = write_report(world.directory, record).read_text(encoding="utf-8")
    assert f"made by {first}" in page
    damaged = world.directory.metadata
    damaged.write_bytes(b"no database" * 1000)
    nodes, note = run_artifacts.read_nodes(world.directory, RECORD)
    assert note.startswith("Without artifacts: ML Metadata")
    assert [node.name for node in nodes] == ["DataGate"]


def test_changed_settings_are_those_of_the_model_and_of_the_run() -> None:
    config = load_config(
        settings=["training.epochs=3", 'node_beam_args.Transform=["--token=secret"]']
    )
    found = {setting.key: setting for setting in changed_settings(config)}
    epochs = found["training.epochs"]
    assert (epochs.value, epochs.of_run) == ("3", True)
    assert epochs.default == str(type(config.training)().epochs)
    assert found["label"] == Setting("label", '"delayed"', "", of_run=False)
    assert found["node_beam_args.Transform"].value == '["--token"]'
    assert found["node_beam_args.Transform"].of_run
    assert not [key for key in found if key.startswith(("kubeflow", "monitor", "beam_args"))]
    assert "training.dropout" not in found


def test_nodes_of_a_real_run_have_times_and_artifacts(pushed: PushedRun) -> None:
    directory = OutputDirectory(pushed.cli.directory, pushed.cli.output, "tests.trips")
    (record,) = list_runs(directory)
    nodes, note = run_artifacts.read_nodes(directory, record)
    assert note == ""
    assert [node.name for node in nodes if not node.outputs] == []
    assert {node.state for node in nodes} == {COMPLETE}
    assert all(node.seconds is not None and node.seconds < 600 for node in nodes)
    began = [node.began for node in nodes if node.began is not None]
    assert len(began) == len(nodes)
    assert began == sorted(began)
