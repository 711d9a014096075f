"""Tests that a mirror holds what was verified and nothing else, for servers that check nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from serving import mirror as mirror_module
from serving.commands.mirror import mirror as mirror_command
from serving.mirror import Mirror
from serving.server.logs import start_logging
from storage.directory import ModelDirectory
from storage.keys import ensure_key_pair
from storage.private_copy import private_copy
from storage.signing import sign as sign_version
from tests.conftest import PROJECT
from tests.serving.conftest import MODEL_FILES, Sealed


@pytest.fixture
def target(tmp_path: Path) -> ModelDirectory:
    return ModelDirectory(str(tmp_path / "target"), "toy")


@pytest.fixture
def mirror(
    sealed: Sealed, target: ModelDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Mirror:
    monkeypatch.setattr(mirror_module, "_RETRY_SECONDS", 0.0)
    (tmp_path / "target").mkdir()
    return Mirror(
        sealed.directory.serving_dir,
        target.serving_dir,
        (),
        sealed.trust,
        lambda: sealed.keys,
    )


def files_of(folder: str) -> dict[str, bytes]:
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_mirror_holds_the_newest_version_decrypted_and_nothing_unfinished(
    sealed: Sealed, target: ModelDirectory, mirror: Mirror, tmp_path: Path
) -> None:
    sealed.publish(1)
    sealed.publish(2)
    assert mirror.look()
    assert target.versions() == [2]
    assert files_of(target.version_uri(2)) == MODEL_FILES
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["toy"]


def test_mirror_follows_pushes_labels_rollbacks_and_promotions(
    sealed: Sealed, target: ModelDirectory, mirror: Mirror
) -> None:
    sealed.publish(1)
    mirror.look()
    sealed.publish(2)
    mirror.look()
    assert target.versions() == [2]
    sealed.directory.rollback()
    mirror.look()
    assert target.versions() == [1]
    sealed.directory.promote()
    sealed.directory.pin(1, "stable")
    mirror.look()
    assert target.versions() == [1, 2]
    sealed.directory.unpin("stable")
    mirror.look()
    assert target.versions() == [2]


def test_mirror_refuses_a_changed_version_and_keeps_the_one_before(
    sealed: Sealed, target: ModelDirectory, mirror: Mirror
) -> None:
    sealed.publish(1, encrypt=False)
    mirror.look()
    sealed.publish(2, encrypt=False)
    path = Path(sealed.directory.version_uri(2), "saved_model.pb")
    good = path.read_bytes()
    path.write_bytes(b"malicious")
    assert not mirror.look()
    assert target.versions() == [1]
    path.write_bytes(good)
    assert mirror.look()
    assert target.versions() == [2]


def test_mirror_keeps_its_version_when_none_verifies_or_storage_is_away(
    sealed: Sealed, target: ModelDirectory, mirror: Mirror, tmp_path: Path
) -> None:
    sealed.publish(1)
    mirror.look()
    shutil.move(tmp_path / "serving", tmp_path / "away")
    assert not mirror.look()
    (tmp_path / "serving").mkdir()  # An empty mount point.
    assert not mirror.look()
    (tmp_path / "serving" / "toy" / ".flightdeck").mkdir(parents=True)
    assert not mirror.look()
    assert target.versions() == [1]


def test_mirror_copies_a_new_version_when_labels_cannot_be_read(
    sealed: Sealed, target: ModelDirectory, mirror: Mirror
) -> None:
    for version in (1, 2):
        sealed.publish(version)
    sealed.directory.pin(1, "stable")
    mirror.look()
    sealed.publish(3)
    Path(sealed.directory.uri, ".flightdeck", "labels.json").write_text("[]")
    assert not mirror.look()
    assert target.versions() == [1, 2, 3]


def test_mirror_removes_a_withdrawn_version(
    sealed: Sealed, target: ModelDirectory, mirror: Mirror
) -> None:
    sealed.publish(1)
    mirror.look()
    sealed.directory.rollback(withdraw=True)
    assert not mirror.look()
    assert target.versions() == []


@pytest.mark.parametrize("name", ["..", "wrong", "$(MODEL_NAME)"])
def test_mirror_says_once_that_a_model_has_no_version(
    name: str,
    sealed: Sealed,
    target: ModelDirectory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sealed.publish(1)
    root = sealed.directory.serving_dir
    mirror = Mirror(root, target.serving_dir, (name,), sealed.trust, lambda: sealed.keys)
    start_logging()
    assert not mirror.look()
    assert not mirror.look()
    reason = f"there is no version of {name!r} in {root}"
    assert mirror.missing == [f"{name}: {reason}"]
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["reason"] == reason


def test_mirror_refuses_empty_name(sealed: Sealed, target: ModelDirectory) -> None:
    done = CliRunner().invoke(
        mirror_command, [sealed.directory.serving_dir, target.serving_dir, "--model="]
    )
    assert done.exit_code == 2
    assert "--model is empty" in done.output


def test_mirror_says_that_there_is_no_model_or_that_its_last_version_was_withdrawn(
    sealed: Sealed, mirror: Mirror
) -> None:
    os.makedirs(sealed.directory.serving_dir)
    assert not mirror.look()
    assert mirror.missing == [f"there is no model in {sealed.directory.serving_dir}"]
    sealed.publish(1)
    assert mirror.look()
    assert mirror.missing == []
    sealed.directory.rollback(withdraw=True)
    assert not mirror.look()
    assert mirror.missing == ["toy: its last version was withdrawn"]


@pytest.mark.parametrize("storage", ["there", "away"])
def test_mirror_removes_a_version_no_longer_trusted(
    sealed: Sealed, target: ModelDirectory, mirror: Mirror, tmp_path: Path, storage: str
) -> None:
    sealed.publish(1)
    mirror.look()
    os.rename(sealed.public_key, tmp_path / "taken away")
    sealed.private_key = ensure_key_pair(str(tmp_path / "keys" / "new.key")).private
    os.rename(tmp_path / "keys" / "new.pub", sealed.public_key)
    sealed.trust.reload()
    if storage == "away":
        shutil.move(tmp_path / "serving", tmp_path / "away")
    assert not mirror.look()
    assert target.versions() == []


def test_mirror_keeps_a_version_signed_again_before_its_key_was_removed(
    sealed: Sealed, target: ModelDirectory, mirror: Mirror, tmp_path: Path
) -> None:
    sealed.publish(1)
    mirror.look()
    new = ensure_key_pair(str(tmp_path / "keys" / "new.key"))
    with private_copy(sealed.directory, 1, None, keys=sealed.keys) as copy:
        sign_version(copy.directory, 1, new.private)
        sealed.directory.put_signature(1, copy.directory)
    os.replace(new.public, sealed.public_key)
    sealed.trust.reload()
    assert mirror.look()
    assert files_of(target.version_uri(1)) == MODEL_FILES


def run(sealed: Sealed, target: ModelDirectory, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "serving", "mirror"),
            *(sealed.directory.serving_dir, target.serving_dir),
            *("--public-key", str(sealed.public_key), *more),
        ],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def followed(
    sealed: Sealed, target: ModelDirectory
) -> Iterator[tuple[subprocess.Popen[str], Callable[[list[int]], None]]]:
    """A mirror that follows, and a function that waits until it has some versions."""
    keys = ("--encryption-keys", str(sealed.key_file), "--decrypt-to-disk")
    process = run(sealed, target, *keys, "--follow", "--poll-seconds", "0.05")

    def until(versions: list[int]) -> None:
        end = time.monotonic() + 90
        while target.versions() != versions:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)

    yield process, until
    process.kill()
    process.communicate()


def test_mirror_follow_copies_new_versions_until_sigterm(
    sealed: Sealed,
    target: ModelDirectory,
    followed: tuple[subprocess.Popen[str], Callable[[list[int]], None]],
) -> None:
    process, until = followed
    sealed.publish(1)
    until([1])
    process.send_signal(signal.SIGHUP)
    sealed.publish(2)
    until([2])
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate(timeout=90)
    assert (process.returncode, error) == (0, "")
    copied = [line for line in map(json.loads, output.splitlines()) if line["event"] == "copied"]
    assert [line["version"] for line in copied] == [1, 2]
    assert os.listdir(target.serving_dir) == ["toy"]


def test_mirror_once_fails_if_a_version_does_not_verify_and_prints_no_key(
    sealed: Sealed, target: ModelDirectory
) -> None:
    sealed.publish(1)
    process = run(sealed, target, "--decrypt-to-disk")
    output, error = process.communicate(timeout=90)
    assert process.returncode == 1
    assert sealed.keys.first in output
    assert sealed.key_file.read_text().split()[1] not in output + error
    assert target.versions() == []


def test_mirror_once_copies_what_verifies_and_names_the_rest(
    sealed: Sealed, target: ModelDirectory
) -> None:
    for version in (1, 2, 3):
        sealed.publish(version, encrypt=False)
    sealed.directory.pin(1, "stable")
    for version in (1, 3):
        Path(sealed.directory.version_uri(version), "saved_model.pb").write_bytes(b"malicious")
    process = run(sealed, target)
    error = process.communicate(timeout=90)[1]
    assert process.returncode == 1
    assert target.versions() == [2]
    assert error.count("files differ from what was signed; changed: 1/saved_model.pb") == 1
    assert error.startswith(f"Error: {target.serving_dir} lacks toy 3: ")
    assert "; toy 1: " in error


def test_mirror_of_a_label_holds_its_version_alone_and_follows_it(
    sealed: Sealed, target: ModelDirectory, tmp_path: Path
) -> None:
    for version in (1, 2, 3):
        sealed.publish(version)
    (tmp_path / "target").mkdir()
    mirror = Mirror(
        sealed.directory.serving_dir,
        target.serving_dir,
        (),
        sealed.trust,
        lambda: sealed.keys,
        label="champion",
    )
    assert not mirror.look()
    assert "no version of 'toy' that is there has this label" in mirror.missing[0]
    for version in (1, 2):
        sealed.directory.pin(version, "champion")
        assert mirror.look()
        assert target.versions() == [version]
    sealed.directory.unpin("champion")
    assert not mirror.look()
    assert target.versions() == [2]
