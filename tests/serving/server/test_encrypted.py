"""Tests that a server takes encrypted versions from memory alone, and encrypts its request log."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from storage.encryption import key_of
from storage.encryption_keys import KEYS_VARIABLE, add_key
from storage.memory import MEMORY
from storage.private_copy import PREFIX
from tests.serving.conftest import LIVE, Sealed
from tests.serving.server.running import predict_request, running, strings
from tests.serving.server.toys import f32, i64

REQUEST = predict_request(
    "toy", "raw_features", distance=f32([1.5]), hour=i64([7]), company=strings(b"AA")
)


@pytest.fixture
def published(sealed: Sealed, toys: Path, monkeypatch: pytest.MonkeyPatch) -> Sealed:
    """Version 1 of a real model, signed and encrypted; no key is in the environment."""
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    sealed.publish(1, toys / "toy" / str(LIVE))
    return sealed


def in_memory() -> set[str]:
    return {name for name in os.listdir(MEMORY) if name.startswith(PREFIX)}


def arguments(sealed: Sealed) -> tuple[Path, str, str]:
    return Path(sealed.directory.serving_dir), "--public-key", str(sealed.public_key)


def test_an_encrypted_version_is_verified_and_served_and_leaves_nothing_in_memory(
    published: Sealed, tmp_path: Path
) -> None:
    before = in_memory()
    log = str(tmp_path / "log")
    with running(
        *arguments(published),
        *("--encryption-keys", str(published.key_file)),
        *("--request-log", log, "--request-log-sampling", "1"),
        verify=True,
    ) as server:
        (loaded,) = server.find("loaded")
        assert (loaded["encrypted"], loaded["verified"]) == (True, True)
        answer = server.predictions.Predict(REQUEST).outputs["probability"].float_val[0]
        assert 0 < answer < 1
        (own,) = in_memory() - before
        # Rotation: what is encrypted with a new key is served without a restart.
        new = add_key(str(published.key_file))
        published.publish(2)
        path = Path(published.directory.version_uri(2), "saved_model.pb")
        assert key_of(path.read_bytes()) == new
        refused = server.wait_for("refused", version=2)
        assert "encrypted" not in refused["reason"]  # It is no model, but was decrypted.
        said = str(server.lines)
    assert own not in in_memory()
    for line in published.key_file.read_text().splitlines():
        assert line.split()[1] not in said
    (file,) = (tmp_path / "log" / "toy").iterdir()
    assert key_of(file.read_bytes()) is not None


def test_what_a_killed_server_decrypted_is_removed_by_the_next_one(published: Sealed) -> None:
    before = in_memory()
    options = ("--encryption-keys", str(published.key_file))
    with running(*arguments(published), *options, verify=True, status=-signal.SIGKILL) as server:
        server.process.kill()
        server.process.wait()
    (left,) = in_memory() - before
    os.utime(Path(MEMORY) / left, (0, 0))
    with running(*arguments(published), *options, verify=True):
        assert left not in in_memory()


def test_without_the_key_a_version_is_refused_and_the_key_is_named(published: Sealed) -> None:
    with running(*arguments(published), verify=True, wait_for_model=False) as server:
        reason = server.wait_for("refused")["reason"]
        assert f"is encrypted with the key {published.keys.first}" in reason
        assert server.rest("toy").json()["model_version_status"][0]["state"] == "END"


def test_a_folder_on_a_disk_keeps_a_server_from_starting(published: Sealed) -> None:
    options = ("--encryption-keys", str(published.key_file), "--decrypt-to", "/proc")
    with (
        pytest.raises(AssertionError, match="/proc is on a file system of kind proc"),
        running(*arguments(published), *options, verify=True),
    ):
        pass
