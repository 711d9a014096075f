"""Tests of the records of runs, and of the tree that a version is traced back by."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from rich.console import Console

import local_runner
from orchestration.local.history import NodeNote, RunRecord, list_runs, read_run
from orchestration.local.lineage import lineage
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.provenance import lost_files, pushed_files, read_provenance
from orchestration.outcome import Outcome
from report.run import Setting
from storage.directory import ModelDirectory
from storage.encrypted_versions import encrypt_tree
from storage.encryption_keys import Keys
from storage.names import SAVED_MODEL
from storage.reencryption import reencrypt_versions

PROVENANCE: dict[str, Any] = {
    "model_name": "toy",
    "model_digest": "d1g35t",
    "run_key": "k3y",
    "created": "2026-03-02T12:00:00+00:00",
    "spans": {"train": [201301, 201302], "test": [201303]},
    "rows": {"train": 4000, "test": 2000},
    "metrics": {"auc": 0.71234567},
    "libraries": {"tfx": "1.16.0"},
    "compression": "int8",
    "artifacts": {"Model": {"artifact_id": 2, "uri": "/artifacts/Trainer/model/2"}},
}
STATES = metadata_store_pb2.Execution


@pytest.fixture
def output(tmp_path: Path) -> OutputDirectory:
    return OutputDirectory(tmp_path / "output")


def test_run_record_is_read_back_unchanged(output: OutputDirectory) -> None:
    record = RunRecord(
        "20260302-120000-000",
        started="2026-03-02T12:00:00+00:00",
        ended="2026-03-02T12:03:00+00:00",
        outcome=Outcome.NOT_BLESSED,
        reasons=("größer", "kleiner"),
        months={"train": (201301, 201302), "test": (201303,)},
        run_key="k3y",
        log="runner.log",
        nodes={"Trainer": NodeNote("complete", "eval AUC 0.7", ("one", "two"))},
        settings=(Setting("training.epochs", "3", "5", of_run=True),),
    )
    record.write(output)
    assert read_run(output, record.run_id) == record
    assert list_runs(output) == [record]


def test_list_runs_lists_runs_newest_first_with_those_that_left_only_logs(
    output: OutputDirectory,
) -> None:
    for day in (2, 4):
        RunRecord(f"2026030{day}", started="", outcome=Outcome.PUSHED, version=day).write(output)
    (output.logs("20260303")).mkdir(parents=True)
    (output.logs("20260303") / "runner.log").touch()
    found = [(record.run_id, record.outcome) for record in list_runs(output)]
    assert found == [("20260304", "pushed"), ("20260303", "unknown"), ("20260302", "pushed")]


def test_list_runs_calls_an_open_record_killed_unless_a_run_is_going_on(
    output: OutputDirectory,
) -> None:
    RunRecord("20260302", started="").write(output)
    assert [record.outcome for record in list_runs(output)] == ["killed"]
    with output.locked():
        assert [record.outcome for record in list_runs(output)] == ["running"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run_id": 5}', "\0\xff"])
def test_list_runs_calls_the_outcome_of_a_damaged_record_unknown(
    output: OutputDirectory, content: str
) -> None:
    output.runs.mkdir(parents=True)
    (output.runs / "20260302.json").write_text(content, encoding="latin-1")
    assert [record.outcome for record in list_runs(output)] == ["unknown"]


@pytest.mark.parametrize(
    "record",
    [
        {"started": "x", "ended": "y"},
        {"started": "2026-03-02T12:00:00", "ended": "2026-03-02T12:00:00+00:00"},
        {"started": "", "ended": "", "outcome": "[/red]", "reasons": ["[/bold] :smile:"]},
    ],
)
def test_runs_command_shows_records_unchanged(
    output: OutputDirectory, record: dict[str, Any]
) -> None:
    output.runs.mkdir(parents=True)
    (output.runs / "[a].json").write_text(json.dumps({"run_id": "[a]", **record}))
    result = CliRunner().invoke(local_runner.main, ["runs", "--output", str(output.root)])
    assert result.exit_code == 0, result.exception
    assert "[a]" in result.output
    assert all(line in result.output for line in record.get("reasons", []))


def test_list_runs_calls_the_outcome_of_a_folder_unknown(output: OutputDirectory) -> None:
    (output.runs / "20260302.json").mkdir(parents=True)
    assert [record.outcome for record in list_runs(output)] == ["unknown"]


@pytest.mark.parametrize(
    "record",
    [
        '{"spans": [201301]}',
        '{"metrics": 5}',
        '{"rows": {"train": "many"}}',
        '{"artifacts": {"Model": {"uri": ["a"]}}}',
        "[" * 100_000,
        "[]",
    ],
)
def test_read_provenance_refuses_a_wrong_record_by_name(tmp_path: Path, record: str) -> None:
    models = ModelDirectory(str(tmp_path), "toy")
    provenance = Path(models.provenance_uri(7), "provenance.json")
    provenance.parent.mkdir(parents=True)
    provenance.write_text(record)
    with pytest.raises(ValueError, match=f"{provenance} ") as raised:
        read_provenance(models, 7)
    assert "\n" not in str(raised.value)
    provenance.write_text(json.dumps({**PROVENANCE, "more": [1]}))
    assert read_provenance(models, 7) == {**PROVENANCE, "more": [1]}


@pytest.fixture
def models(output: OutputDirectory, tmp_path: Path) -> ModelDirectory:
    """Version 7 of a model, as the record of the run that pushed it says."""
    model, provenance = tmp_path / "model", tmp_path / "provenance"
    (model / "variables").mkdir(parents=True)
    provenance.mkdir()
    (model / SAVED_MODEL).write_text("graph")
    (model / "variables" / "variables.index").write_text("index")
    (provenance / "provenance.json").write_text("{}")
    (provenance / "training_statistics.pb").write_text("statistics")
    models = ModelDirectory(str(output.serving), "toy")

    def sign(private: ModelDirectory, version: int) -> None:
        Path(private.signature_uri(version)).touch()

    models.publish(7, str(model), str(provenance), sign)
    files = pushed_files(models, 7)
    RunRecord("20260302", started="", outcome=Outcome.PUSHED, version=7, files=files).write(output)
    return models


def test_lost_files_of_a_whole_version_is_empty(
    output: OutputDirectory, models: ModelDirectory
) -> None:
    assert lost_files(output, models, 7) == []
    Path(models.signature_uri(7)).unlink()  # It may be signed again.
    (Path(models.version_uri(7)) / "more").touch()
    assert lost_files(output, models, 7) == []
    assert lost_files(output, models, 8) == []  # Nobody knows what it had.
    other = ModelDirectory(str(output.serving), "other")
    assert lost_files(output, other, 7) == []


@pytest.mark.parametrize(
    "name",
    [
        "7/variables/variables.index",
        ".flightdeck/7/training_statistics.pb",
        ".flightdeck/7/provenance.json",
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_lost_files_names_missing_and_truncated_files(
    output: OutputDirectory, models: ModelDirectory, name: str, cut: bool
) -> None:
    path = output.serving / "toy" / name
    if cut:
        path.write_bytes(b"")
    else:
        path.unlink()
    assert lost_files(output, models, 7) == [f"toy/{name}"]


def test_lost_files_of_a_reencrypted_version_is_empty(
    output: OutputDirectory, models: ModelDirectory
) -> None:
    content = {"a-long-name-of-a-key": b"a" * 32, "b": b"b" * 32}
    encrypt_tree(str(output.serving), Keys(content))
    files = pushed_files(models, 7)
    RunRecord("20260303", started="", outcome=Outcome.PUSHED, version=7, files=files).write(output)
    assert reencrypt_versions(models, Keys(dict(reversed(content.items())))) > 0
    assert lost_files(output, models, 7) == []


def test_lost_files_names_the_files_of_a_missing_provenance_folder(
    output: OutputDirectory, models: ModelDirectory
) -> None:
    shutil.rmtree(models.provenance_uri(7))
    assert len(lost_files(output, models, 7)) == 2


def test_list_runs_is_empty_without_a_directory(output: OutputDirectory) -> None:
    assert list_runs(output) == []


class Book:
    """Writes ML Metadata as TFX does."""

    def __init__(self, path: Path):
        connection = metadata_store_pb2.ConnectionConfig()
        connection.sqlite.filename_uri = str(path)
        connection.sqlite.connection_mode = 3  # READWRITE_OPENCREATE
        self.store = MetadataStore(connection)

    def artifact(self, kind: str, uri: str, **facts: str) -> int:
        type_id = self.store.put_artifact_type(
            metadata_store_pb2.ArtifactType(name=kind), can_add_fields=True
        )
        artifact = metadata_store_pb2.Artifact(type_id=type_id, uri=uri)
        for name, value in facts.items():
            artifact.custom_properties[name].string_value = value
        return int(self.store.put_artifacts([artifact])[0])

    def execution(
        self,
        node: str,
        inputs: dict[str, int],
        outputs: dict[str, int],
        state: int = STATES.COMPLETE,
        **parameters: str | int | float,
    ) -> int:
        type_id = self.store.put_execution_type(
            metadata_store_pb2.ExecutionType(name=f"components.{node}"), can_add_fields=True
        )
        execution = metadata_store_pb2.Execution(type_id=type_id, last_known_state=state)
        for name, value in parameters.items():
            kind = {str: "string", int: "int", float: "double"}[type(value)]
            setattr(execution.custom_properties[name], f"{kind}_value", value)
        (number,) = self.store.put_executions([execution])
        for kind, ends in (("INPUT", inputs), ("OUTPUT", outputs)):
            for key, artifact in ends.items():
                event = metadata_store_pb2.Event(
                    artifact_id=artifact,
                    execution_id=number,
                    type=metadata_store_pb2.Event.Type.Value(kind),
                )
                event.path.steps.add().key = key
                self.store.put_events([event])
        return int(number)


@pytest.fixture
def book(output: OutputDirectory) -> Book:
    """ML Metadata of a run, and of another with all but the Pusher cached."""
    output.root.mkdir(parents=True)
    book = Book(output.metadata)
    spans = '{"train": [201301, 201302], "test": [201303]}'
    examples = book.artifact("Examples", "/artifacts/SpanExampleGen/examples/1", spans=spans)
    model = book.artifact("Model", "/artifacts/Trainer/model/2")
    book.execution("SpanExampleGen", {}, {"examples": examples}, code_version="c1", window=6)
    config = '{"epochs": 3, "dropout": 0.1}'
    trainer: dict[str, Any] = {
        "code_version": "c2",
        "custom_config": config,
        "absent": "null",
        "rate": 1e-3,
    }
    book.execution("Trainer", {"examples": examples}, {"model": model}, **trainer)
    again = {**trainer, "code_version": "not this one"}
    taken = {"examples": examples}
    book.execution("Trainer", taken, {"model": model}, state=STATES.CACHED, **again)
    push(book, 7, {"model": model, "examples": examples})
    return book


def push(book: Book, version: int, inputs: dict[str, int]) -> None:
    pushed = book.artifact(
        "PushedModel",
        f"/artifacts/Pusher/{version}",
        pushed_version=str(version),
        pushed_destination=f"/serving/toy/{version}",
    )
    book.execution("Pusher", inputs, {"pushed_model": pushed}, code_version="c1")


def show(output: OutputDirectory, version: int = 7, provenance: Any = PROVENANCE) -> str:
    text = io.StringIO()
    tree = lineage(output, version, provenance, ["signature valid"])
    Console(file=text, width=200).print(tree)
    return text.getvalue()


def depth(text: str, line: str) -> int:
    """How far a line of a tree is from its trunk."""
    (found,) = (row for row in text.splitlines() if line in row)
    return found.index(line)


def test_lineage_traces_a_version_to_spans_parameters_and_code(
    output: OutputDirectory, book: Book
) -> None:
    text = show(output)
    for fact in (
        "version 7 of toy",
        "signature valid",
        "model digest d1g35t",
        "auc 0.712346",
        "train: span-201301, span-201302 (4,000 rows)",
        "libraries: tfx 1.16.0",
        "Pusher #4, code c1",
        "model ◄ Trainer #2, code c2",
        "custom_config.epochs=3, custom_config.dropout=0.1, rate=0.001",
        "examples ◄ SpanExampleGen #1, code c1",
        "window=6",
        "test: span-201303\n",
    ):
        assert fact in text, (fact, text)
    assert "not this one" not in text  # The run that took it from the cache.
    assert "absent" not in text
    order = ["Pusher #4, ", "Trainer #2, ", "SpanExampleGen #1, code", "test: span-201303\n"]
    depths = [depth(text + "\n", line.rstrip("\n")) for line in order[:-1]]
    assert depths == sorted(set(depths))
    assert text.count("SpanExampleGen #1, see above") == 1


def test_lineage_of_another_version_has_its_own_tree(output: OutputDirectory, book: Book) -> None:
    push(book, 77, {})
    text = show(output, 77)
    assert "Pusher #5, code c1" in text
    assert "Trainer" not in text.partition("Pusher")[2]


def test_lineage_traces_a_push_killed_before_its_record_by_provenance(
    output: OutputDirectory, book: Book
) -> None:
    text = show(output, 8)
    assert "Pusher" not in text
    assert "Model ◄ Trainer #2, code c2" in text
    assert "examples ◄ SpanExampleGen #1" in text


def test_lineage_does_not_mistake_new_metadata_for_the_old(
    output: OutputDirectory, book: Book
) -> None:
    other = {"Model": {"artifact_id": 2, "uri": "/artifacts/older/Trainer/model/2"}}
    text = show(output, 8, {**PROVENANCE, "artifacts": other})
    assert "ML Metadata does not know this version; the provenance alone knows:" in text
    assert "Model: /artifacts/older/Trainer/model/2" in text
    assert "Trainer #2" not in text


@pytest.mark.parametrize("content", [None, b"", b"not a database at all" * 100])
def test_lineage_without_metadata_shows_the_provenance(
    output: OutputDirectory, content: bytes | None
) -> None:
    output.root.mkdir()
    if content is not None:
        output.metadata.write_bytes(content)
    text = show(output)
    assert "ML Metadata" in text
    assert "the provenance alone knows:" in text
    assert "model digest d1g35t" in text
    assert "Model: /artifacts/Trainer/model/2" in text


def test_lineage_of_a_version_without_provenance_says_so(output: OutputDirectory) -> None:
    text = show(output, 5, {})
    assert "version 5 of an unknown model" in text
    assert "no provenance" in text


def test_lineage_leaves_the_metadata_unchanged(output: OutputDirectory, book: Book) -> None:
    before = output.metadata.read_bytes()
    show(output)
    assert output.metadata.read_bytes() == before


@pytest.mark.parametrize(
    "module", ["orchestration.local.history", "orchestration.schedule.schedule"]
)
def test_history_modules_import_no_heavy_library(module: str) -> None:
    script = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    project = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=project, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not {"tensorflow", "tfx", "apache_beam", "ml_metadata", "cronsim"} & loaded
