"""Tests that a Serving directory may be in a bucket of Google's storage, by an emulator of it."""

from __future__ import annotations

import datetime
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import uris
from storage.directory import Change, ModelDirectory
from storage.keys import TrustStore, ensure_key_pair
from storage.names import SAVED_MODEL
from storage.private_copy import private_copy
from storage.signing import sign
from storage.uris import list_folder, open_uri
from storage.versions import find_models

server = pytest.importorskip("gcp_storage_emulator.server", reason="the emulator is not installed")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    emulator = server.create_server("127.0.0.1", port, in_memory=True, default_bucket="my-bucket")
    emulator.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    yield "gs://my-bucket/serving"
    emulator.stop()


def test_model_directory_in_a_google_bucket_is_changed_and_verified(
    bucket: str, tmp_path: Path
) -> None:
    for name in ("model/saved_model.pb", "model/variables/index", "provenance/provenance.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    keys = ensure_key_pair(str(tmp_path / "keys" / "signing.key"))
    directory = ModelDirectory(bucket, "toy")
    directory.publish(
        7,
        str(tmp_path / "model"),
        str(tmp_path / "provenance"),
        lambda private, version: sign(private, version, keys.private),
    )
    # Another tool makes no object for a folder.
    files, root = open_uri(directory.uri)
    with files.open_output_stream(f"{root}/6/{SAVED_MODEL}") as stream:
        stream.write(b"{}")
    assert directory.versions() == [6, 7]
    assert find_models(bucket) == ["toy"]
    assert {one.base_name for one in list_folder(files, root)} == {".flightdeck", "6", "7"}
    with private_copy(directory, 7, TrustStore([keys.public])) as copy:
        assert copy.signed is not None
    assert directory.rollback() == Change(7, 6)
    assert (directory.versions(), directory.rolled_back()) == ([6], [7])


def test_google_bucket_that_does_not_answer_is_given_up(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    monkeypatch.setattr(uris, "_RETRY", datetime.timedelta(seconds=0.5))
    started = time.monotonic()
    with pytest.raises(OSError, match="connect"):
        ModelDirectory(bucket, "toy").versions()
    assert time.monotonic() - started < 60
