"""Tests of where keys are, who may read them, and which are trusted."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from storage.directory import ModelDirectory
from storage.keys import (
    KeyFileError,
    SignatureError,
    TrustStore,
    default_trust,
    ensure_key_pair,
)
from storage.names import SAVED_MODEL
from storage.private_copy import private_copy
from storage.signing import sign
from tests.storage.test_directory import as_object_store

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def version(tmp_path: Path) -> ModelDirectory:
    """A Serving directory with version 7."""
    directory = ModelDirectory(str(tmp_path / "serving"), "model_name")
    Path(directory.version_uri(7)).mkdir(parents=True)
    Path(directory.version_uri(7), SAVED_MODEL).write_bytes(b"graph")
    return directory


def check(directory: ModelDirectory, public_key: str) -> None:
    private_copy(directory, 7, TrustStore([public_key])).close()


def test_a_key_pair_is_made_once_and_only_its_owner_can_read_the_private_key(
    tmp_path: Path,
) -> None:
    keys = ensure_key_pair(str(tmp_path / "new" / "signing.key"))
    assert keys.public == str(tmp_path / "new" / "signing.pub")
    assert stat.S_IMODE(os.stat(keys.private).st_mode) == 0o600
    assert sorted(os.listdir(tmp_path / "new")) == ["signing.key", "signing.pub"]
    before = Path(keys.private).read_bytes(), Path(keys.public).read_bytes()
    assert ensure_key_pair(keys.private) == keys
    assert (Path(keys.private).read_bytes(), Path(keys.public).read_bytes()) == before
    private = serialization.load_pem_private_key(before[0], None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.curve.name == "secp256r1"


def test_the_mode_of_a_private_key_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys = ensure_key_pair(str(tmp_path / "signing.key"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(keys.private).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(keys.public).st_mode) == 0o644


def test_processes_that_make_a_key_pair_at_once_have_the_same(tmp_path: Path) -> None:
    script = (
        "import sys; from storage.keys import ensure_key_pair; import cryptography.hazmat."
        "primitives.asymmetric.ec; print(flush=True); sys.stdin.readline()\n"
        "print(open(ensure_key_pair(sys.argv[1]).private).read())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "signing.key")],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    pems = {process.communicate()[0].strip() for process in processes}
    assert pems == {(tmp_path / "signing.key").read_text().strip()}
    assert sorted(os.listdir(tmp_path)) == ["signing.key", "signing.pub"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o622])
def test_a_private_key_that_others_can_use_is_refused(
    version: ModelDirectory, tmp_path: Path, mode: int
) -> None:
    keys = ensure_key_pair(str(tmp_path / "signing.key"))
    os.chmod(keys.private, mode)
    for use in (
        lambda: ensure_key_pair(keys.private),
        lambda: sign(version, 7, keys.private),
    ):
        with pytest.raises(KeyFileError, match=f"mode {mode:04o}.*chmod 600 {keys.private}"):
            use()
    assert not Path(version.signature_uri(7)).exists()


def test_a_private_key_that_its_owner_can_only_read_is_used(
    version: ModelDirectory, tmp_path: Path
) -> None:
    keys = ensure_key_pair(str(tmp_path / "signing.key"))
    os.chmod(keys.private, 0o400)
    sign(version, 7, ensure_key_pair(keys.private).private)
    check(version, keys.public)


def test_a_public_key_that_is_missing_is_written_again(tmp_path: Path) -> None:
    keys = ensure_key_pair(str(tmp_path / "signing.key"))
    before = Path(keys.public).read_bytes()
    os.remove(keys.public)
    ensure_key_pair(keys.private)
    assert Path(keys.public).read_bytes() == before


def test_a_lost_private_key_is_not_replaced_while_versions_are_verified_with_its_public_key(
    tmp_path: Path,
) -> None:
    keys = ensure_key_pair(str(tmp_path / "signing.key"))
    os.remove(keys.private)
    with pytest.raises(KeyFileError, match=f"{keys.private} is missing"):
        ensure_key_pair(keys.private)
    assert os.listdir(tmp_path) == ["signing.pub"]


def test_keys_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    keys = ensure_key_pair(str(tmp_path / "signing.key"))
    other = ensure_key_pair(str(tmp_path / "other.key"))
    shutil.copy(other.public, keys.public)
    with pytest.raises(KeyFileError, match=f"{keys.public} is not the public key of"):
        ensure_key_pair(keys.private)


def test_a_private_key_is_not_named_like_a_public_key(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="name of a public key"):
        ensure_key_pair(str(tmp_path / "signing.pub"))


def pem_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, secret: str = "") -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(secret.encode())
        if secret
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no private key in PEM form"),
        (b"\xff\xfe", "is no private key in PEM form"),
        (pem_of(ec.generate_private_key(ec.SECP256K1())), "on the curve secp256k1"),
        (pem_of(ed25519.Ed25519PrivateKey.generate()), "Ed25519PrivateKey"),
        (pem_of(ec.generate_private_key(ec.SECP256R1()), "secret"), "has a password"),
    ],
)
def test_a_private_key_that_cannot_sign_is_named_with_the_reason(
    version: ModelDirectory, tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "signing.key"
    path.touch(0o600)
    path.write_bytes(content)
    for use in (
        lambda: ensure_key_pair(str(path)),
        lambda: sign(version, 7, str(path)),
    ):
        with pytest.raises(KeyFileError, match=f"{path} .*{reason}"):
            use()


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_keys_that_somebody_else_made_may_be_used(
    version: ModelDirectory, tmp_path: Path, curve: ec.EllipticCurve
) -> None:
    path = tmp_path / "signing.key"
    path.touch(0o600)
    path.write_bytes(pem_of(ec.generate_private_key(curve)))
    keys = ensure_key_pair(str(path))
    sign(version, 7, keys.private)
    check(version, keys.public)


def test_public_keys_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    keys = ensure_key_pair(str(tmp_path / "signing.key"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "spoilt.pub").write_bytes(b"spoilt")
    for name in ("missing.pub", "spoilt.pub", "empty", "signing.key", ""):
        path = str(tmp_path / name)
        with pytest.raises(KeyFileError, match=path):
            TrustStore([path])
        with pytest.raises(KeyFileError, match=path):
            TrustStore([path, path])
    assert len(TrustStore([keys.public, keys.public]).key_ids) == 1


def test_a_key_in_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KeyFileError, match=f"{tmp_path}/file/signing.key cannot be written"):
        ensure_key_pair(str(tmp_path / "file" / "signing.key"))


def test_keys_lie_beside_the_serving_directory_by_default(tmp_path: Path) -> None:
    for serving_dir in ("output/serving_model", "output/serving_model/"):
        assert default_trust(serving_dir) == os.path.abspath("output/keys")
    with as_object_store():
        assert default_trust("s3://bucket/models/") == "s3://bucket/keys"


# Passwords, variables and descriptors


def test_a_key_with_a_password_is_made_and_signs(
    version: ModelDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD", "not a word")
    keys = ensure_key_pair(str(tmp_path / "signing.key"), "env:PASSWORD")
    assert b"ENCRYPTED" in Path(keys.private).read_bytes()
    sign(version, 7, keys.private, "env:PASSWORD")
    check(version, keys.public)
    monkeypatch.setenv("PASSWORD", "another")
    with pytest.raises(KeyFileError, match="or its password is another one"):
        sign(version, 7, keys.private, "env:PASSWORD")
    with pytest.raises(KeyFileError, match="has a password: say where it is"):
        sign(version, 7, keys.private)


def test_a_key_and_its_password_come_from_variables_and_descriptors(
    version: ModelDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").touch(0o600)
    (tmp_path / "password").write_text("not a word\n")
    places = ["env:PASSWORD", str(tmp_path / "password")]
    monkeypatch.setenv("PASSWORD", "not a word")
    keys = ensure_key_pair(str(tmp_path / "signing.key"), places[0])
    monkeypatch.setenv("SIGNING_KEY", Path(keys.private).read_text())
    with open(keys.private, "rb") as key, open(tmp_path / "password", "rb") as password:
        sign(version, 7, f"fd:{key.fileno()}", f"fd:{password.fileno()}")
        check(version, keys.public)
    os.remove(keys.private)
    for place in places:
        sign(version, 7, "env:SIGNING_KEY", place)
        check(version, keys.public)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("env:MISSING", "the environment variable MISSING is not set"),
        ("fd:one", "fd:NUMBER is expected"),
        ("fd:1000000", "fd:1000000 cannot be read"),
        ("missing.key", "missing.key cannot be read"),
        ("env:EMPTY", "env:EMPTY is no private key"),
        ("pkcs11:token=flightdeck;object=key", "the key pkcs11:token=flightdeck;object=key cannot"),
        ("pkcs11:object=key?pin-value=1234", "shows the PIN to everybody"),
    ],
)
def test_a_place_without_a_key_is_named(
    version: ModelDirectory, place: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(KeyFileError, match=reason):
        sign(version, 7, place)


def test_a_private_key_is_never_written_to_disk_nor_said(
    version: ModelDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNING_KEY", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n")
    with pytest.raises(KeyFileError) as caught:
        sign(version, 7, "env:SIGNING_KEY")
    assert "c2VjcmV0" not in str(caught.value)
    assert all(b"c2VjcmV0" not in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


# Trust


def test_replacing_a_public_key_swaps_no_trust_before_it_is_read_again(
    version: ModelDirectory, tmp_path: Path
) -> None:
    keys = ensure_key_pair(str(tmp_path / "ours" / "signing.key"))
    theirs = ensure_key_pair(str(tmp_path / "theirs" / "signing.key"))
    trust = TrustStore([keys.public])
    shutil.copy(theirs.public, keys.public)
    sign(version, 7, theirs.private)
    with pytest.raises(SignatureError, match="none of those that are trusted"):
        private_copy(version, 7, trust)
    trust.reload()
    private_copy(version, 7, trust).close()


def test_keys_that_cannot_be_read_again_leave_those_that_were_trusted(tmp_path: Path) -> None:
    keys = ensure_key_pair(str(tmp_path / "signing.key"))
    trust = TrustStore([keys.public])
    before = trust.key_ids
    for spoil in (lambda: Path(keys.public).write_bytes(b"spoilt"), lambda: os.remove(keys.public)):
        spoil()
        with pytest.raises(KeyFileError):
            trust.reload()
        assert trust.key_ids == before


@pytest.mark.parametrize("writable", ["folder", "folder/signing.pub"])
def test_a_public_key_that_anybody_may_replace_is_not_trusted(
    tmp_path: Path, writable: str
) -> None:
    ensure_key_pair(str(tmp_path / "folder" / "signing.key"))
    mode = os.stat(tmp_path / writable).st_mode
    os.chmod(tmp_path / writable, mode | 0o002)
    with pytest.raises(
        KeyFileError, match=f"anybody can replace a public key: chmod o-w .*{writable}"
    ):
        TrustStore([str(tmp_path / "folder")])
