"""Tests of `python -m serving`: what it prints, what it changes, and how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from serving.__main__ import main
from serving.commands.versions import print_versions
from storage.directory import ModelDirectory
from storage.keys import TrustStore, ensure_key_pair, short_id
from storage.names import CARD_FILE, CARD_TEXT, PROVENANCE_FILE, SAVED_MODEL
from storage.signing import sign
from terminal import tables

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def directory(tmp_path: Path) -> ModelDirectory:
    return ModelDirectory(str(tmp_path / "serving_model"), "model_name")


def publish(directory: ModelDirectory, *versions: int, signed: bool = True) -> None:
    """Publishes small versions with what the Pusher records of them."""
    root = Path(directory.serving_dir).parent
    keys = ensure_key_pair(str(root / "keys" / "signing.key"))
    for version in versions:
        model, provenance = root / "made" / "model", root / "made" / "provenance"
        (model / "variables").mkdir(parents=True, exist_ok=True)
        provenance.mkdir(exist_ok=True)
        (model / SAVED_MODEL).write_bytes(bytes(300_000 + version))
        (model / "model.tflite").write_bytes(bytes(40_784))
        record = {
            "version": version,
            "created": f"2014-01-{version:02}T08:30:00+00:00",
            "metrics": {"auc": 0.69 + version / 10_000, "auc_pr": 0.5},
            "spans": {"train": [201306, 201307, 201308], "test": [201309]},
        }
        (provenance / PROVENANCE_FILE).write_text(json.dumps(record))
        (provenance / CARD_TEXT).write_text(f"# Card of version {version}\n\nß\n")
        (provenance / CARD_FILE).write_text(json.dumps({"version": version}))

        def sign_it(private: ModelDirectory, version: int) -> None:
            sign(private, version, keys.private)

        directory.publish(version, str(model), str(provenance), sign_it if signed else None)


def key_of(directory: ModelDirectory) -> str:
    (key_id,) = TrustStore([str(Path(directory.serving_dir).parent / "keys")]).key_ids
    return key_id


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def rows(directory: ModelDirectory, *arguments: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(
        done("versions", directory.serving_dir, "--json", *arguments)
    )
    return listed


# versions


def test_versions_lists_versions_newest_first_with_their_record(
    directory: ModelDirectory,
) -> None:
    publish(directory, 7)
    publish(directory, 8, signed=False)
    publish(directory, 9, 10)
    directory.rollback()
    directory.pin(8, "stable")
    directory.pin(8, "canary")
    listed = rows(directory)
    assert [row["version"] for row in listed] == [10, 9, 8, 7]
    assert [row["state"] for row in listed] == ["rolled back", "live", "older", "older"]
    assert [row["signed"] for row in listed] == [True, True, False, True]
    assert listed[2] == {
        "model": "model_name",
        "version": 8,
        "state": "older",
        "labels": ["canary", "stable"],
        "created": "2014-01-08T08:30:00+00:00",
        "metric": {
            **{"name": "auc", "title": "AUC", "value": 0.6908, "margin": None, "text": "0.6908"}
        },
        "trained_on": [201306, 201307, 201308],
        "evaluated_on": [201309],
        "bytes": 300_008 + 40_784,
        "tflite_bytes": 40_784,
        "signed": False,
        "key_id": None,
    }
    assert [row["key_id"] for row in listed if row["signed"]] == [key_of(directory)] * 3


def test_versions_tells_which_verify_on_demand(directory: ModelDirectory) -> None:
    publish(directory, 7, 8, 10)
    publish(directory, 9, signed=False)
    Path(directory.version_uri(8), "model.tflite").write_bytes(b"changed")
    directory.rollback(10)
    assert [(row["version"], row["verified"]) for row in rows(directory, "--verify")] == [
        *((10, True), (9, False), (8, False), (7, True))
    ]
    _, header, *lines = done("versions", directory.serving_dir, "--verify").rstrip().splitlines()
    assert header.split()[-1] == "verified"
    assert [line.split()[-1] for line in lines] == ["yes", "NO", "NO", "yes"]


def test_versions_prints_no_terminal_codes_of_a_forged_signature(directory: ModelDirectory) -> None:
    publish(directory, 7)
    signature = Path(directory.signature_uri(7))
    bundle = json.loads(signature.read_text())
    bundle["verificationMaterial"]["publicKey"]["hint"] = "\x1b[2J"
    signature.write_text(json.dumps(bundle))
    assert "\x1b" not in done("versions", directory.serving_dir)


def test_versions_is_not_blocked_by_a_pipe_in_place_of_a_signature(
    directory: ModelDirectory,
) -> None:
    publish(directory, 7)
    os.remove(directory.signature_uri(7))
    os.mkfifo(directory.signature_uri(7))
    (row,) = rows(directory, "--verify")
    assert (row["signed"], row["key_id"], row["verified"]) == (True, None, False)


def test_versions_names_folders_that_no_server_can_load(directory: ModelDirectory) -> None:
    publish(directory, 7)
    for name in ("20261126153000123456", "007", "٧"):  # noqa: RUF001
        Path(directory.uri, name).mkdir()
    assert "No server can load the folders 007, 20261126153000123456, ٧ of model_name." in (  # noqa: RUF001
        done("versions", directory.serving_dir)
    )


def test_versions_prints_each_version_in_a_line(directory: ModelDirectory) -> None:
    publish(directory, 7, 8, 9)
    directory.rollback()
    directory.pin(8, "stable")
    title, header, *lines = done("versions", directory.serving_dir).rstrip().splitlines()
    assert f"model_name in {directory.serving_dir}" in title
    assert re.split(r"\s{2,}", header.strip()) == [
        *("version", "state", "made, UTC", "AUC", "trained on", "evaluated on", "size", "TFLite"),
        "signed by",
    ]
    spans, sizes = (
        ("201306 to 201308", "201309"),
        ("341 kB", "40.8 kB", short_id(key_of(directory))),
    )
    assert [re.split(r"\s{2,}", line.strip()) for line in lines] == [
        ["9", "rolled back", "2014-01-09 08:30", "0.6909", *spans, *sizes],
        ["8", "live, stable", "2014-01-08 08:30", "0.6908", *spans, *sizes],
        ["7", "older", "2014-01-07 08:30", "0.6907", *spans, *sizes],
    ]


@pytest.mark.parametrize("width", [10, 40, 80, 200])
def test_versions_cuts_off_nothing_however_narrow_the_terminal_is(
    directory: ModelDirectory, width: int
) -> None:
    publish(directory, 7, 8)
    directory.pin(8, "canary")
    table_rows = rows(directory)
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "standard_output", lambda: console)
        print_versions(directory, table_rows)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for part in ("canary", "201306", "201308", "341", "40.8", "0.6908", "2014-01-08", "08:30"):
        assert part in text
    assert "…" not in text


def test_versions_lists_a_version_without_a_record(directory: ModelDirectory) -> None:
    folder = Path(directory.version_uri(7))
    folder.mkdir(parents=True)
    (folder / SAVED_MODEL).write_bytes(b"graph")
    (row,) = rows(directory)
    assert (row["created"], row["metric"], row["trained_on"]) == (None, None, [])
    assert (row["bytes"], row["tflite_bytes"], row["signed"]) == (5, None, False)
    assert "7 live 5 bytes none no" in " ".join(done("versions", directory.serving_dir).split())


def test_versions_and_verify_change_nothing(directory: ModelDirectory, tmp_path: Path) -> None:
    folder = Path(directory.version_uri(7))
    folder.mkdir(parents=True)
    (folder / SAVED_MODEL).write_bytes(b"graph")
    before = sorted(tmp_path.rglob("*"))
    done("versions", directory.serving_dir)
    run("verify", directory.serving_dir)
    assert sorted(tmp_path.rglob("*")) == before


# rollback, promote, pin, unpin


def test_rollback_and_promote_tell_what_is_live_now(directory: ModelDirectory) -> None:
    publish(directory, 7, 8, 9)
    where = directory.serving_dir
    assert (
        done("rollback", where) == "Rolled back version 9 of model_name; live is now version 8.\n"
    )
    assert done("promote", where) == "Promoted version 9 of model_name; it is live now.\n"
    assert done("rollback", where, 8) == (
        "Rolled back version 8 of model_name; live is still version 9.\n"
    )
    assert done("promote", where, 8) == (
        "Promoted version 8 of model_name; live is still version 9, which is newer: roll that back "
        "to have the older one live.\n"
    )
    assert directory.versions() == [7, 8, 9]


def test_rollback_withdraws_the_last_version_only_on_request(directory: ModelDirectory) -> None:
    publish(directory, 7)
    where = directory.serving_dir
    refused = run("rollback", where)
    assert refused.exit_code == 1
    assert "--withdraw to serve nothing" in refused.output
    assert done("rollback", where, "--withdraw") == (
        "Withdrew version 7 of model_name; nothing is live until a version is promoted or pushed.\n"
    )
    assert "Nothing of model_name is live: the last version was withdrawn." in done(
        "versions", where
    )
    assert done("promote", where) == "Promoted version 7 of model_name; it is live now.\n"
    assert "is live: " not in done("versions", where)


def test_pin_and_unpin_tell_what_is_live_now(directory: ModelDirectory) -> None:
    publish(directory, 7, 8)
    where = directory.serving_dir
    assert done("pin", where, 7, "--label", "stable") == (
        "Version 7 of model_name has the label stable; live is version 8.\n"
    )
    assert directory.labels() == {"stable": 7}
    assert done("unpin", where, "stable") == (
        "Version 7 of model_name no longer has the label stable; live is version 8.\n"
    )
    assert directory.labels() == {}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("rollback",), "version 7 is the only one"),
        (("rollback", "9"), "no version 9 to roll back"),
        (("promote",), "no version to promote"),
        (("promote", "7"), "no version 7 to promote"),
        (("pin", "9", "--label", "stable"), "no version 9 to pin"),
        (("pin", "7", "--label", "a/b"), "'a/b' is not a label"),
        (("unpin", "stable"), "no label 'stable'"),
    ],
)
def test_cli_refusal_has_status_1_and_a_reason(
    directory: ModelDirectory, arguments: tuple[str, ...], reason: str
) -> None:
    publish(directory, 7)
    command, *rest = arguments
    result = run(command, directory.serving_dir, *rest)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert reason in result.output
    assert directory.versions() == [7]


def test_cli_error_of_the_file_system_is_a_message(directory: ModelDirectory) -> None:
    publish(directory, 7, 8)
    lock = Path(directory.uri, ".flightdeck", "lock")
    lock.unlink()
    lock.mkdir()
    result = run("rollback", directory.serving_dir)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert str(lock) in result.output
    assert directory.versions() == [7, 8]


# verify


def test_verify_accepts_signed_versions(directory: ModelDirectory) -> None:
    publish(directory, 7, 8)
    lines = done("verify", directory.serving_dir).splitlines()
    key = short_id(key_of(directory))
    for version, line in zip((7, 8), lines, strict=True):
        assert re.fullmatch(rf"version {version}: ok, signed 20[-:+T0-9]+ by the key {key}", line)
    assert done("verify", directory.serving_dir, 8).splitlines() == lines[1:]


def test_verify_prints_a_line_for_each_failure_and_exits_with_1(
    directory: ModelDirectory,
) -> None:
    publish(directory, 7)
    publish(directory, 8, signed=False)
    publish(directory, 9, 10)
    Path(directory.version_uri(9), "model.tflite").write_bytes(b"changed")
    directory.rollback(10)
    result = run("verify", directory.serving_dir)
    assert result.exit_code == 1
    first, *others = result.output.splitlines()
    assert first.startswith("version 7: ok, signed ")
    assert others == [
        f"version 8: FAILED, there is no signature {directory.signature_uri(8)}",
        "version 9: FAILED, files differ from what was signed; changed: 9/model.tflite",
    ]
    assert run("verify", directory.serving_dir, 7, 10).exit_code == 0
    missing = run("verify", directory.serving_dir, 7, 11)
    assert missing.exit_code == 1
    assert missing.output.splitlines() == [
        first,
        f"version 11: FAILED, version 11 is not, or no longer, in {directory.uri}",
    ]


def test_card_prints_what_was_signed(directory: ModelDirectory) -> None:
    publish(directory, 7, 8, 9)
    directory.rollback()
    assert done("card", directory.serving_dir) == "# Card of version 8\n\nß\n"
    assert done("card", directory.serving_dir, 9) == "# Card of version 9\n\nß\n"
    assert json.loads(done("card", directory.serving_dir, 7, "--json")) == {"version": 7}
    card = Path(directory.provenance_uri(8), CARD_TEXT)
    card.write_text("# Card\x1b[2J\n")
    result = run("card", directory.serving_dir)
    assert result.exit_code == 1
    assert f"changed: .flightdeck/8/{CARD_TEXT}" in result.output
    assert "Card" not in result.output
    # Nor does what is not verified reach the terminal as it is.
    assert done("card", directory.serving_dir, "--no-verify") == "# Card\\x1b[2J\n"


def test_card_says_what_is_missing(directory: ModelDirectory) -> None:
    publish(directory, 7, signed=False)
    for arguments, status, message in (
        ((), 1, "there is no signature"),
        (("6", "--no-verify"), 1, "version 6 is not, or no longer, in"),
        (("7", "8"), 2, "unexpected extra argument (8)"),
        (("--no-verify", "--public-key", "x"), 2, "exclude each other"),
    ):
        result = run("card", directory.serving_dir, *arguments)
        assert result.exit_code == status, result.output
        assert message in result.output
    Path(directory.provenance_uri(7), CARD_TEXT).unlink()
    result = run("card", directory.serving_dir, "--no-verify")
    assert (result.exit_code, result.output) == (
        1,
        "Error: version 7 of model_name has no model card: an earlier release, or another "
        "program, pushed it\n",
    )
    directory.rollback(withdraw=True)
    result = run("card", directory.serving_dir)
    assert "no version of model_name is live" in result.output


def test_verify_accepts_another_public_key(directory: ModelDirectory, tmp_path: Path) -> None:
    publish(directory, 7)
    other = ensure_key_pair(str(tmp_path / "other.key"))
    result = run("verify", directory.serving_dir, "--public-key", other.public)
    assert result.exit_code == 1
    assert (
        f"was made with the key {short_id(key_of(directory))}, which is not trusted"
        in result.output
    )
    both = ("--public-key", other.public, "--public-key", tmp_path / "keys")
    assert run("verify", directory.serving_dir, *both).exit_code == 0
    missing = run("verify", directory.serving_dir, "--public-key", tmp_path / "missing.pub")
    assert missing.exit_code == 1
    assert missing.output == (
        f"Error: the public key {tmp_path}/missing.pub cannot be read: No such file or directory\n"
    )


# sign


def test_sign_signs_a_moved_version_again(directory: ModelDirectory, tmp_path: Path) -> None:
    publish(directory, 7)
    other = ModelDirectory(directory.serving_dir, "other")
    shutil.copytree(directory.version_uri(7), other.version_uri(8))
    shutil.copytree(directory.provenance_uri(7), other.provenance_uri(8))
    model = ("--model", "other")
    refused = run("verify", directory.serving_dir, *model)
    assert refused.exit_code == 1
    assert "is that of version 7 of model_name, not of version 8 of other" in refused.output
    assert "sign it again: python -m serving sign" in refused.output
    key = ("--signing-key", tmp_path / "keys" / "signing.key")
    assert done("sign", directory.serving_dir, 8, *key, *model) == "Signed version 8 of other.\n"
    assert run("verify", directory.serving_dir, *model).exit_code == 0
    assert run("verify", directory.serving_dir, "--model", "model_name").exit_code == 0


def test_sign_signs_a_rolled_back_version_in_place(
    directory: ModelDirectory, tmp_path: Path
) -> None:
    publish(directory, 7, 8, signed=False)
    directory.rollback()
    done("sign", directory.serving_dir, 8, "--signing-key", tmp_path / "keys" / "signing.key")
    assert directory.versions() == [7]
    assert run("verify", directory.serving_dir, 8).exit_code == 0
    directory.promote()
    assert run("verify", directory.serving_dir, 8).exit_code == 0


def test_sign_changes_nothing_with_a_bad_key(directory: ModelDirectory, tmp_path: Path) -> None:
    publish(directory, 7, signed=False)
    result = run("sign", directory.serving_dir, 7, "--signing-key", "env:MISSING")
    assert result.exit_code == 1
    assert result.output == "Error: the environment variable MISSING is not set\n"
    assert not Path(directory.signature_uri(7)).exists()


# Arguments


def test_cli_default_is_the_output_of_local_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = ModelDirectory(str(tmp_path / "output" / "serving_model"), "model_name")
    monkeypatch.chdir(tmp_path)
    publish(directory, 7, 8, 9)
    assert "output/serving_model" in done("versions")
    assert done("verify", "8").startswith("version 8: ok")
    assert "version 9" in done("rollback")
    assert "version 8" in done("rollback", "8")
    assert "version 8" in done("promote", "8")
    assert "version 8" in done("pin", "8", "--label", "stable")
    assert "version 8" in done("unpin", "stable").lower()


def test_cli_takes_a_folder_named_like_a_number_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ModelDirectory(str(tmp_path / "2013"), "model_name"), 7, 8)
    monkeypatch.chdir(tmp_path)
    assert "version 8" in done("rollback", "./2013")


def test_cli_needs_a_model_name_when_there_are_several(directory: ModelDirectory) -> None:
    publish(directory, 7, 8)
    other = ModelDirectory(directory.serving_dir, "another")
    publish(other, 9, 10)
    result = run("rollback", directory.serving_dir)
    assert result.exit_code == 2
    assert "choose one with --model: another, model_name." in result.output
    assert "version 9" in done("rollback", directory.serving_dir, "--model", "another")
    assert directory.versions() == [7, 8]
    assert [row["version"] for row in rows(directory, "--model", "model_name")] == [8, 7]


def test_versions_lists_those_of_all_models_and_names_them(directory: ModelDirectory) -> None:
    publish(directory, 7, 8)
    other = ModelDirectory(directory.serving_dir, "another")
    publish(other, 8)
    listed = [(row["model"], row["version"], row["state"]) for row in rows(directory)]
    assert listed == [
        ("another", 8, "live"),
        ("model_name", 8, "live"),
        ("model_name", 7, "older"),
    ]
    screen = done("versions", directory.serving_dir).splitlines()
    titles = [line.split()[0] for line in screen if " in /" in line]
    assert titles == ["another", "model_name"]
    other.rollback(withdraw=True)
    withdrawn = "Nothing of another is live: the last version was withdrawn."
    assert withdrawn in done("versions", directory.serving_dir).splitlines()


@pytest.mark.parametrize("command", ["versions", "rollback", "promote", "verify"])
def test_cli_refuses_a_missing_model_and_makes_no_file(
    directory: ModelDirectory, tmp_path: Path, command: str
) -> None:
    nowhere = tmp_path / "nowhere"
    result = run(command, nowhere)
    assert (result.exit_code, nowhere.exists()) == (2, False)
    assert f"There is no model in {nowhere}." in result.output
    publish(directory, 7)
    result = run(command, directory.serving_dir, "--model", "other")
    assert (result.exit_code, Path(directory.serving_dir, "other").exists()) == (2, False)
    assert "There is no model 'other'" in result.output
    assert "it has model_name." in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("versions", "a", "b"),
        ("rollback", "7", "8"),
        ("rollback", "a", "b"),
        ("rollback", "a", "7", "8"),
        ("rollback", "a", "-7"),
        ("promote", "7", "a"),
        ("verify", "a", "7", "b"),
        ("pin", "--label", "stable"),
        ("pin", "a", "--label", "stable"),
        ("pin", "7"),
        ("sign", "--signing-key", "env:KEY"),
        ("sign", "7"),
        ("unpin",),
        ("unpin", "a", "b", "c"),
    ],
)
def test_cli_exits_with_status_2_on_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.output.startswith("Usage: ")


@pytest.mark.parametrize("command", [None, *main.commands])
def test_cli_help_opens_with_examples(command: str | None) -> None:
    text = done(*([command] if command else []), "--help")
    examples = text[text.index("Examples:") : text.index("Options:")]
    assert examples.count("python -m serving") >= 2
    assert text.index("Examples:") < 600


def test_cli_help_imports_no_heavy_library() -> None:
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    command = [sys.executable, "-m", "serving", "versions", "--help"]
    result = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )
    assert "Usage: python -m serving versions" in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "storage.directory" in imported
    heavy = {"tensorflow", "pandas", "grpc", "model_signing", "cryptography", "uvicorn", "rich"}
    assert not heavy & imported


def test_serve_imports_tensorflow_without_keras(tmp_path: Path) -> None:
    program = """
import runpy, sys
sys.addaudithook(lambda name, facts: name == "import" and print(facts[0], flush=True))
runpy.run_module("serving", run_name="__main__", alter_sys=True)
"""
    # The server is ready to start but for its log.
    options = ["--no-verify", "--request-log", "/proc/none"]
    command = [sys.executable, "-c", program, "serve", str(tmp_path), *options]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert "No such file or directory: '/proc/none'" in result.stderr
    imported = set(result.stdout.splitlines())
    assert "serving.server.models" in imported
    assert not {name for name in imported if name.partition(".")[0] in ("keras", "tf_keras")}


def test_serve_of_tflite_models_does_not_import_tensorflow(toys: Path) -> None:
    program = """
import runpy, sys
sys.addaudithook(lambda name, facts: name == "import" and print(facts[0], flush=True))
runpy.run_module("serving", run_name="__main__", alter_sys=True)
"""
    options = ["--no-verify", "--prefer-tflite", "--grpc-port", "0", "--rest-port", "0"]
    command = [sys.executable, "-c", program, "serve", str(toys), *options]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        imported = set()
        for line in server.stdout:
            imported.add(line.strip())
            if '"listening"' in line:
                server.terminate()
    assert server.returncode == 0
    assert "serving.server.models" in imported
    assert not {name for name in imported if name.startswith("tensorflow.python")}


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (b"\xff\xfe", 0o600, "There is no token in token: it is not one word of printable ASCII."),
        (b"two words", 0o600, "There is no token in token: it is not one word of printable ASCII."),
        (b" \n", 0o600, "There is no token in token: it is empty."),
        (b"secret", 0o644, "token has mode 0644, so that others can read or change it: chmod 640"),
        (b"secret", 0o660, "token has mode 0660, so that others can read or change it: chmod 640"),
    ],
)
def test_predict_refuses_a_file_without_a_secret_token(
    content: bytes, mode: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("a\n1\n")
    Path("token").write_bytes(content)
    Path("token").chmod(mode)
    result = run("predict", "rows.csv", "--model", "m", "--token-file", "token")
    assert result.exit_code == 1, result.output
    assert message in result.output
