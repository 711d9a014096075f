"""Small models and running servers that several tests of serving share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from storage.directory import ModelDirectory
from storage.encrypted_versions import encrypt_tree
from storage.encryption_keys import Keys, add_key, require_keys
from storage.keys import TrustStore, ensure_key_pair
from storage.private_copy import PrivateCopy, private_copy
from storage.signing import sign as sign_version

if TYPE_CHECKING:  # TensorFlow takes seconds to import, and other tests here do without.
    from tests.serving.server.running import RunningServer

STABLE, LIVE = 1, 2
SECRET = b"worth stealing"
MODEL_FILES = {
    "saved_model.pb": b"graph, " + SECRET,
    "model.tflite": b"tflite, " + SECRET * 10_000,
    "variables/variables.data-00000-of-00001": b"",
    "assets/provenance.json": SECRET,
}


class Sealed:
    """A Serving directory whose versions are signed and encrypted, as the Pusher publishes them.

    Attributes:
      directory: The Serving directory of the model `toy`.
      key_file: File of the keys that encrypt.
      private_key: File of the key that signs.
      public_key: File of its public key.
      trust: That key, to verify with.
    """

    def __init__(self, root: Path):
        self._root = root
        self.directory = ModelDirectory(str(root / "serving"), "toy")
        self.key_file = root / "keys" / "encryption.keys"
        add_key(str(self.key_file))
        pair = ensure_key_pair(str(root / "keys" / "signing.key"))
        self.private_key, self.public_key = pair.private, pair.public
        self.trust = TrustStore([pair.public])

    @property
    def keys(self) -> Keys:
        return require_keys(str(self.key_file))

    def publish(
        self,
        version: int,
        model: Path | None = None,
        *,
        sign: bool = True,
        encrypt: bool = True,
    ) -> None:
        """Publishes the model in a folder, or one made of `MODEL_FILES`."""
        provenance = self._root / "provenance"
        files = {provenance / "training_statistics.pb": SECRET}
        files[provenance / "provenance.json"] = json.dumps({"version": version}).encode()
        if model is None:
            model = self._root / "model"
            files |= {model / name: content for name, content in MODEL_FILES.items()}
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

        def seal(private: ModelDirectory, number: int) -> None:
            if sign:
                sign_version(private, number, self.private_key)
            if encrypt:
                encrypt_tree(private.serving_dir, self.keys)

        self.directory.publish(version, str(model), str(provenance), seal)

    def copy(self, version: int, *, rolled_back: bool = False) -> PrivateCopy:
        """A private copy that was decrypted and verified."""
        return private_copy(
            self.directory, version, self.trust, rolled_back=rolled_back, keys=self.keys
        )


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    return Sealed(tmp_path)


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Serving directory: versions 1, labelled stable, and 2 of the model `toy`, in both forms.

    Leave it as it is.
    """
    from tests.serving.server.toys import add_tflite, save_scorer

    root = tmp_path_factory.mktemp("toys")
    for version, bias in ((STABLE, -1.0), (LIVE, 0.5)):
        add_tflite(save_scorer(root / "toy" / str(version), bias))
    ModelDirectory(str(root), "toy").pin(STABLE, "stable")
    return root


@pytest.fixture(scope="session")
def server(toys: Path) -> Iterator[RunningServer]:
    """A server of their SavedModels, which takes requests of 2 MB."""
    from tests.serving.server.running import running

    with running(toys, "--max-request-mb", "2") as server:
        yield server
