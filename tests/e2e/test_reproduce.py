"""The command `reproduce`: the same bytes in other surroundings, or a refusal that says why."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from rich.console import Console

from orchestration.local import compilation, reproduction
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.reproduction import Request, reproduce
from orchestration.outcome import Outcome
from storage.directory import ModelDirectory
from storage.errors import UserError
from storage.private_copy import private_copy
from storage.signing import sign
from tests import forked
from tests.conftest import PROJECT, PushedRun, make_artifacts


def test_reproduce_builds_the_same_bytes_in_other_surroundings(
    pushed: PushedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other folders, ages of files, temporary files, time zone and outer hash seed; no cache."""
    data = Path(shutil.copytree(pushed.cli.data, tmp_path / "data", copy_function=shutil.copyfile))
    for place, path in enumerate(sorted(data.rglob("*.parquet"))):
        os.utime(path, (place, place))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    before = {path: path.stat() for path in pushed.cli.output.rglob("*")}
    command = ["reproduce", pushed.version.name, "--output", str(pushed.cli.output)]
    done = forked.run([str(PROJECT / "local_runner.py"), *command, "--data", str(data)])
    assert done.returncode == 0, done.stdout
    shown = [line.split() for line in done.stdout.splitlines()]
    same = {words[0] for words in shown if words and words[-1] == "same"}
    files = [str(p.relative_to(pushed.version)) for p in pushed.version.rglob("*") if p.is_file()]
    expected = {file for file in files if not file.startswith("assets.extra/")}
    assert same == expected | {"schema.pbtxt"}
    assert {"model.tflite", "saved_model.pb", "assets/company"} < same
    assert f"All {len(same)} files are those of version" in done.stdout
    assert {path: path.stat() for path in pushed.cli.output.rglob("*")}.keys() == before.keys()
    assert list(temporary.glob("reproduce-*")) == []


Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def served(pushed: PushedRun, tmp_path: Path) -> ModelDirectory:
    """A copy of the Serving directory and the keys of a run."""
    for name in ("serving_model", "keys"):
        shutil.copytree(pushed.cli.output / name, tmp_path / "output" / name)
    return ModelDirectory(str(tmp_path / "output" / "serving_model"), "trip_delay")


def request_of(served: ModelDirectory, data: str = "") -> Request:
    version = served.served()
    assert version
    return Request(Path(served.serving_dir).parent, version, data=data)


def change_record(served: ModelDirectory, change: Change, signed: bool = True) -> None:
    """Changes the provenance record, and signs the version again."""
    version = served.served()
    assert version
    path = Path(served.provenance_uri(version), "provenance.json")
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    if signed:
        key = Path(served.serving_dir).parent / "keys" / "signing.key"
        with private_copy(served, version, None) as copy:
            sign(copy.directory, version, str(key))
            served.put_signature(version, copy.directory)


def refusal(request: Request) -> str:
    with pytest.raises(UserError) as caught:
        reproduce(request, Console(file=io.StringIO()))
    return str(caught.value)


def test_reproduce_lists_the_versions_if_there_is_no_such_one(served: ModelDirectory) -> None:
    request = dataclasses.replace(request_of(served), version=12)
    assert refusal(request).startswith("there is no version 12 of trip_delay")


def test_reproduce_refuses_a_version_of_an_earlier_release(served: ModelDirectory) -> None:
    change_record(served, lambda record: (record.pop("origin"), record.pop("data")))
    assert "has no record of what it was made from" in refusal(request_of(served))


def test_reproduce_refuses_a_version_that_kubeflow_pushed(served: ModelDirectory) -> None:
    change_record(served, lambda record: record.update(origin={}))
    assert ": Kubeflow, an earlier release or another program pushed it." in refusal(
        request_of(served)
    )


def start_warm_from(served: ModelDirectory, base: int) -> None:
    def change(record: dict[str, Any]) -> None:
        record["origin"]["base_version"] = base
        record["origin"]["configuration"]["training"]["warm_start"] = 0.5

    change_record(served, change)


def test_reproduce_refuses_a_warm_start_from_a_version_that_is_gone(served: ModelDirectory) -> None:
    start_warm_from(served, 5)
    *_, line = refusal(request_of(served)).splitlines()
    assert line == (
        "  data: it was trained from the weights of version 5 (training.warm_start 0.5), which is "
        f"not in {served.serving_dir}"
    )


def test_reproduce_refuses_a_warm_start_from_a_version_that_nobody_signed(
    served: ModelDirectory,
) -> None:
    request = request_of(served)
    for uri in (served.version_uri, served.provenance_uri):
        shutil.copytree(uri(request.version), uri(5))  # The signature names another version.
    start_warm_from(served, 5)
    *_, line = refusal(request).splitlines()
    assert "from the weights of version 5 (training.warm_start 0.5), version 5 of" in line
    assert "signature not valid" in line


def test_reproduce_starts_a_warm_training_from_the_version_that_was_served_then(
    served: ModelDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(served)
    start_warm_from(served, request.version)
    nodes: dict[str, Any] = {}

    def keep_nodes(pipeline: Any, *_: object) -> NoReturn:
        nodes.update({node.id: node for node in pipeline.components})
        raise UserError("enough")

    monkeypatch.setattr(reproduction, "begin", lambda *_: None)
    monkeypatch.setattr(compilation, "compile_nodes", keep_nodes)
    assert refusal(request) == "enough"
    base_model = nodes["Trainer"].inputs["base_model"]
    assert (base_model.producer_component_id, base_model.output_key) == ("ServedModel", "model")
    node = nodes["ServedModel"]
    inputs, outputs = make_artifacts(type(node), {}, tmp_path / "made")
    node.executor_spec.executor_class().Do(inputs, outputs, node.exec_properties)
    (found,) = tmp_path.glob("made/model/**/saved_model.pb")
    version = Path(served.version_uri(request.version))
    assert found.read_bytes() == (version / "saved_model.pb").read_bytes()
    # With the keys of the version: what is verified is what is started from.
    assert node.exec_properties["public_keys"] == json.dumps([str(tmp_path / "output" / "keys")])


def test_reproduce_refuses_a_record_that_was_changed(served: ModelDirectory) -> None:
    change_record(served, lambda record: record["data"].clear(), signed=False)
    assert "signature not valid: files differ from what was signed" in refusal(request_of(served))


def test_reproduce_refuses_an_unsigned_version_where_there_are_keys(served: ModelDirectory) -> None:
    request = request_of(served)
    Path(served.signature_uri(request.version)).unlink()
    assert "is not signed, but there are keys to verify it with" in refusal(request)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda record: record["origin"]["code"].update({"ml/fit.py": "0123456789abcdef"}),
            "code: ml/fit.py: expected 0123456789abcdef, found ",
        ),
        (
            lambda record: record["origin"]["code"].update({"ml/gone.py": "0123456789abcdef"}),
            "code: ml/gone.py: expected 0123456789abcdef, found none",
        ),
        (
            lambda record: record["libraries"].update(tensorflow="1.15.0"),
            "libraries: tensorflow: expected 1.15.0, found 2.",
        ),
        (
            lambda record: record["origin"].update(schema="0" * 64),
            "schema: tests/trips/schema/schema.pbtxt: expected 0000000000000000, found ",
        ),
        (
            lambda record: record["origin"]["configuration"].update(no_such="1"),
            "no_such: no such key",
        ),
        (
            lambda record: record["origin"]["configuration"]["training"].pop("epochs"),
            "configuration: training.epochs: expected none, found ",
        ),
        (
            lambda record: record["data"].update({"201302": "f" * 64}),
            "data: span-201302 in ",
        ),
        (
            lambda record: record["origin"].update(code="all of it"),
            "is no provenance: origin.code: Input should be a valid dictionary",
        ),
    ],
)
def test_reproduce_says_what_a_version_was_made_from_instead(
    served: ModelDirectory, change: Change, expected: str
) -> None:
    change_record(served, change)
    assert expected in refusal(request_of(served))


def test_reproduce_says_that_the_data_are_gone(served: ModelDirectory, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    refused = refusal(request_of(served, data=gone))
    assert f"data: data directory '{gone}' does not exist" in refused


def test_reproduce_shows_which_file_differs_and_keeps_what_was_built(
    pushed: PushedRun, served: ModelDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def build(
        models: object,
        config: object,
        origin: object,
        keys: object,
        directory: OutputDirectory,
        *_: object,
    ) -> bool:
        for node in (
            "Quantizer/quantized_model",
            "StatisticsGen/statistics",
            "ImportSchemaGen/schema",
        ):
            (source,) = pushed.cli.directory.glob(f"artifacts/*/{node}")
            shutil.copytree(source, directory.artifacts / "run" / node)
        (assets,) = directory.artifacts.glob("run/Quantizer/quantized_model/*/*/assets")
        (assets / "origin").write_text("somewhere else\n")
        (assets / "dest").unlink()
        return True

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(reproduction, "_build", build)
    screen = io.StringIO()
    outcome = reproduce(request_of(served), Console(file=screen, width=160))
    assert outcome is Outcome.DIFFERENT
    assert outcome.exit_status == 6
    verdicts = {
        line.split()[0]: line.split()[-1] for line in screen.getvalue().splitlines() if line
    }
    assert verdicts["assets/origin"] == "different"
    assert verdicts["assets/dest"] == "missing"
    assert verdicts["model.tflite"] == "same"
    assert "2 of " in screen.getvalue()
    (kept,) = tmp_path.glob("reproduce-*")
    assert f"are in {kept}" in screen.getvalue()
