"""Tests that the server loads what was verified, and keeps of it what the model reads."""

from __future__ import annotations

import gc
import stat
import tempfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from serving.server import loading
from serving.server.loading import load_version
from serving.server.settings import ServerSettings
from storage.directory import ModelDirectory
from storage.keys import KeyPair, SignatureError, TrustStore, ensure_key_pair
from storage.names import SAVED_MODEL
from storage.signing import sign


class Words(tf.Module):
    """Looks words up in a vocabulary, and reads that file again with each request."""

    def __init__(self, vocabulary: str):
        super().__init__()
        self.offset = tf.Variable(10, dtype=tf.int64)
        self.file = tf.saved_model.Asset(vocabulary)
        self.table = tf.lookup.StaticVocabularyTable(
            tf.lookup.TextFileInitializer(
                vocabulary,
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            1,
        )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "words")])
    def __call__(self, words: tf.Tensor) -> dict[str, tf.Tensor]:
        content = tf.io.read_file(self.file)
        return {
            "index": self.table.lookup(words) + self.offset,
            "bytes": tf.fill(tf.shape(words), tf.strings.length(content)),
        }


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return ensure_key_pair(str(tmp_path_factory.mktemp("keys") / "signing.key"))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("words")
    (root / "vocabulary.txt").write_text("a\nb\nc\n")
    module = Words(str(root / "vocabulary.txt"))
    tf.saved_model.save(module, str(root / "model"), {"serving_default": module.__call__})
    (root / "provenance").mkdir()
    (root / "provenance" / "provenance.json").write_text("{}")
    return root


@pytest.fixture
def directory(tmp_path: Path, words: Path, keys: KeyPair) -> ModelDirectory:
    directory = ModelDirectory(str(tmp_path / "serving"), "words")
    make = partial(sign, private_key=keys.private)
    directory.publish(7, str(words / "model"), str(words / "provenance"), make)
    return directory


@pytest.fixture(autouse=True)
def private_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def settings(directory: ModelDirectory, keys: KeyPair) -> ServerSettings:
    return ServerSettings(directory.serving_dir, trust=TrustStore([keys.public]))


def test_a_version_swapped_after_it_was_verified_is_not_loaded(
    directory: ModelDirectory, keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = Path(directory.version_uri(7))
    graph = Path(version, SAVED_MODEL).read_bytes()
    loaded_from: list[Path] = []
    load_model = loading.load_model

    def load_after_swap(folder: str, **options: object) -> object:
        version.rename(version.with_name("aside"))
        version.mkdir()
        (version / SAVED_MODEL).write_bytes(b"evil")
        loaded_from.append(Path(folder))
        assert Path(folder, SAVED_MODEL).read_bytes() == graph
        return load_model(folder, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "load_model", load_after_swap)
    model = load_version(settings(directory, keys), directory, 7, threading.Event())
    (folder,) = loaded_from
    assert not folder.is_relative_to(directory.serving_dir)
    assert stat.S_IMODE(folder.parents[1].stat().st_mode) == 0o700
    answer = model.run(
        "serving_default", {"words": np.array([b"b"], object)}, ["index"], seconds=10
    )
    assert answer["index"].tolist() == [11]
    monkeypatch.setattr(loading, "load_model", load_model)
    with pytest.raises(SignatureError, match="files differ"):
        load_version(settings(directory, keys), directory, 7, threading.Event())


def test_what_a_model_reads_with_each_request_stays_and_goes_with_the_model(
    directory: ModelDirectory, keys: KeyPair, private_parent: Path
) -> None:
    model = load_version(settings(directory, keys), directory, 7, threading.Event())
    left = [path.name for path in private_parent.rglob("*") if path.is_file()]
    assert left == ["vocabulary.txt"]
    rows = {"words": np.array([b"a", b"c", b"?"], object)}
    answer = model.run("serving_default", rows, ["index", "bytes"], seconds=10)
    assert answer["index"].tolist() == [10, 12, 13]
    assert answer["bytes"].tolist() == [6, 6, 6]
    del model
    gc.collect()
    assert list(private_parent.iterdir()) == []


def test_what_is_refused_leaves_nothing_behind(
    directory: ModelDirectory, keys: KeyPair, private_parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("no warm-up")

    monkeypatch.setattr(loading, "warm_up", fail)
    with pytest.raises(ValueError, match="no warm-up"):
        load_version(settings(directory, keys), directory, 7, threading.Event())
    gc.collect()
    assert list(private_parent.iterdir()) == []


def test_a_load_that_is_given_up_ends_and_leaves_nothing_behind(
    directory: ModelDirectory, keys: KeyPair, private_parent: Path
) -> None:
    given_up = threading.Event()
    given_up.set()
    with pytest.raises(InterruptedError):
        load_version(settings(directory, keys), directory, 7, given_up)
    assert list(private_parent.iterdir()) == []
