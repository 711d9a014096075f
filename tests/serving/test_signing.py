"""Tests that a model verifies exactly as long as every file of it is what was signed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from serving.directory import SAVED_MODEL, ModelDirectory
from serving.signing import (
    KeyFileError,
    KeyPair,
    SignatureError,
    default_public_key,
    ensure_key_pair,
    sign,
    verify,
)
from tests.serving.test_directory import as_object_store

PROJECT = Path(__file__).parents[2]
FILES = (
    SAVED_MODEL,
    "model.tflite",
    "variables/variables.index",
    "assets/vocabulary",
    "assets.extra/tf_serving_warmup_requests",
    ".git/config",
    ".gitattributes",
    "a name, with: signs",
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return ensure_key_pair(str(tmp_path_factory.mktemp("keys") / "signing.key"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "7"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 10)
    return folder


@pytest.fixture
def signature(model: Path, keys: KeyPair) -> Path:
    path = model.parent / "model.sig"
    sign(str(model), str(path), keys.private)
    return path


def why_not(model: Path, signature: Path, public_key: str) -> str:
    with pytest.raises(SignatureError) as caught:
        verify(str(model), str(signature), public_key)
    return str(caught.value)


# Models


def test_a_model_verifies_with_the_public_key_wherever_it_is(
    model: Path, signature: Path, keys: KeyPair, tmp_path: Path
) -> None:
    verify(str(model), str(signature), keys.public)
    verify(model.as_uri(), signature.as_uri(), keys.public)
    verify(str(shutil.copytree(model, tmp_path / "elsewhere")), str(signature), keys.public)


@pytest.mark.parametrize("name", FILES)
def test_a_byte_that_changes_is_found_and_its_file_named(
    model: Path, signature: Path, keys: KeyPair, name: str
) -> None:
    content = bytearray((model / name).read_bytes())
    content[3] ^= 1
    (model / name).write_bytes(content)
    assert why_not(model, signature, keys.public) == (
        f"files differ from what was signed; changed: {name}"
    )


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_removed_is_named(
    model: Path, signature: Path, keys: KeyPair, name: str
) -> None:
    (model / name).unlink()
    assert why_not(model, signature, keys.public).endswith(f"; removed: {name}")


@pytest.mark.parametrize(
    "name", ["more", ".git/hooks/hook", ".gitignore", ".github/a", "assets.extra/b", "model.sig"]
)
def test_a_file_that_is_added_is_named(
    model: Path, signature: Path, keys: KeyPair, name: str
) -> None:
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).touch()
    assert why_not(model, signature, keys.public).endswith(f"; added: {name}")


def test_of_many_files_the_first_are_named_and_none_can_steer_a_terminal(
    model: Path, signature: Path, keys: KeyPair
) -> None:
    (model / "model.tflite").unlink()
    for index in range(9):
        (model / f"n{index}\x1b[2J\n").touch()
    (model / os.fsdecode(b"\xff")).touch()
    reason = why_not(model, signature, keys.public)
    assert "removed: model.tflite" in reason
    assert r"'n0\x1b[2J\n', " in reason
    assert " and 5 more; " in reason
    assert reason.isprintable()


def test_a_link_in_place_of_a_file_is_refused_by_name(
    model: Path, signature: Path, keys: KeyPair
) -> None:
    (model / SAVED_MODEL).rename(model.parent / "elsewhere.pb")
    (model / SAVED_MODEL).symlink_to(model.parent / "elsewhere.pb")
    assert SAVED_MODEL in why_not(model, signature, keys.public)
    with pytest.raises(SignatureError, match=SAVED_MODEL):
        sign(str(model), str(signature), keys.private)


def test_a_model_that_is_gone_does_not_verify(model: Path, signature: Path, keys: KeyPair) -> None:
    shutil.rmtree(model)
    assert str(model) in why_not(model, signature, keys.public)


def test_a_model_without_signature_does_not_verify(model: Path, keys: KeyPair) -> None:
    missing = model.parent / "model.sig"
    assert why_not(model, missing, keys.public) == f"there is no signature {missing}"


def test_a_signature_of_another_key_is_told_from_a_changed_model(
    model: Path, signature: Path, keys: KeyPair, tmp_path: Path
) -> None:
    other = ensure_key_pair(str(tmp_path / "other.key"))
    reason = why_not(model, signature, other.public)
    assert reason == f"{signature} was made with another key than that of {other.public}"
    sign(str(model), str(signature), other.private)
    verify(str(model), str(signature), other.public)
    assert "another key" in why_not(model, signature, keys.public)


def test_a_version_published_with_a_signature_verifies_also_from_an_object_store(
    model: Path, keys: KeyPair, tmp_path: Path
) -> None:
    directory = ModelDirectory(str(tmp_path / "serving"), "model_name")
    provenance = tmp_path / "provenance"
    provenance.mkdir()
    (provenance / "provenance.json").write_text("{}")

    def signed(model_path: str, signature_path: str) -> None:
        sign(model_path, signature_path, keys.private)

    directory.publish(7, str(model), str(provenance), signed)
    verify(directory.version_uri(7), directory.signature_uri(7), keys.public)
    with as_object_store():
        directory.publish(8, str(model), str(provenance), signed)
        verify(directory.version_uri(8), directory.signature_uri(8), keys.public)
        Path(directory.version_uri(8), "model.tflite").write_bytes(b"changed")
        with pytest.raises(SignatureError, match=r"changed: model\.tflite"):
            verify(directory.version_uri(8), directory.signature_uri(8), keys.public)


# Signatures


def test_what_a_signature_says_cannot_be_changed(
    model: Path, signature: Path, keys: KeyPair
) -> None:
    (model / "model.tflite").write_bytes(b"changed")
    sign(str(model), str(model.parent / "other.sig"), ensure_key_pair(keys.private).private)
    bundle = json.loads(signature.read_text())
    other = json.loads((model.parent / "other.sig").read_text())
    bundle["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"]
    signature.write_text(json.dumps(bundle))
    assert "was itself changed" in why_not(model, signature, keys.public)


def test_a_signature_that_leaves_files_out_is_refused(
    model: Path, signature: Path, keys: KeyPair
) -> None:
    from model_signing import hashing, signing

    config = signing.Config().use_elliptic_key_signer(private_key=keys.private)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.tflite"]))
    config.sign(model, signature)
    assert "leaves files unsigned: " in why_not(model, signature, keys.public)
    assert "model.tflite" in why_not(model, signature, keys.public)


def with_key_hash(value: object) -> Callable[[str], str]:
    def change(text: str) -> str:
        bundle = json.loads(text)
        bundle["verificationMaterial"]["publicKey"]["hint"] = value
        return json.dumps(bundle)

    return change


def with_payload(payload: bytes) -> Callable[[str], str]:
    def change(text: str) -> str:
        bundle = json.loads(text)
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        return json.dumps(bundle)

    return change


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: "{}",
        lambda text: "[]",
        lambda text: text[:-1],
        lambda text: "[" * 10**5,
        lambda text: text.replace("payload", "load"),
        with_payload(b""),
        with_payload(b"{}"),
        with_payload(b'{"predicate": {"resources": 1, "serialization": {}}}'),
        with_payload(b'{"predicate": {"resources": [], "serialization": {"ignore_paths": 5}}}'),
        lambda text: text.replace("hint", "print"),
        with_key_hash(None),
        with_key_hash(""),
        with_key_hash(["a"]),
    ],
)
def test_a_spoilt_signature_is_named(
    model: Path,
    signature: Path,
    keys: KeyPair,
    spoil: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    signature.write_text(spoil(signature.read_text()))
    assert f"{signature} is not the signature of a model" in why_not(model, signature, keys.public)
    assert capsys.readouterr() == ("", "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.text(), values, max_size=2),
    max_leaves=4,
)


@given(data=st.data(), value=json_values)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_changed_in_a_signature_it_verifies_nothing_or_the_same(
    model: Path, signature: Path, keys: KeyPair, data: st.DataObject, value: object
) -> None:
    bundle = json.loads(signature.read_text())
    place = bundle
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else [0]))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    with tempfile.TemporaryDirectory() as folder:
        spoilt = Path(folder) / "model.sig"
        spoilt.write_text(json.dumps(bundle))
        try:
            verify(str(model), str(spoilt), keys.public)
        except SignatureError:
            return
        # Only what the key does not confirm may differ: the model is still the one that was signed.
        (model / "model.tflite").rename(Path(folder) / "aside")
        try:
            assert "model.tflite" in why_not(model, spoilt, keys.public)
        finally:
            (Path(folder) / "aside").rename(model / "model.tflite")


names = st.text(st.characters(exclude_characters="/\x00", codec="utf-8"), min_size=1, max_size=8)
trees = st.dictionaries(
    names.filter(lambda name: name not in (".", "..")), st.binary(max_size=20), min_size=1
)


@given(before=trees, after=trees, same=st.booleans())
@example(before={".git": b"1"}, after={".git": b"2"}, same=False)
@example(before={".gitignore": b""}, after={".gitignore": b"", ".github": b""}, same=False)
@settings(deadline=None, max_examples=60)
def test_a_folder_verifies_if_and_only_if_it_holds_what_was_signed(
    before: dict[str, bytes], after: dict[str, bytes], same: bool, keys: KeyPair
) -> None:
    after = before if same else after
    assume(all(len(name.encode()) < 256 for name in (*before, *after)))
    with tempfile.TemporaryDirectory() as root:
        folders = Path(root, "before"), Path(root, "after")
        for folder, tree in zip(folders, (before, after), strict=True):
            folder.mkdir()
            for name, content in tree.items():
                (folder / name).write_bytes(content)
        sign(str(folders[0]), f"{root}/model.sig", keys.private)
        try:
            verify(str(folders[1]), f"{root}/model.sig", keys.public)
            verified = True
        except SignatureError:
            verified = False
    assert verified == (before == after)


# Keys


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
        "import sys; from serving.signing import ensure_key_pair; import cryptography.hazmat."
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
    model: Path, tmp_path: Path, mode: int
) -> None:
    keys = ensure_key_pair(str(tmp_path / "signing.key"))
    os.chmod(keys.private, mode)
    for use in (
        lambda: ensure_key_pair(keys.private),
        lambda: sign(str(model), str(tmp_path / "model.sig"), keys.private),
    ):
        with pytest.raises(KeyFileError, match=f"mode {mode:04o}.*chmod 600 {keys.private}"):
            use()
    assert not (tmp_path / "model.sig").exists()


def test_a_private_key_that_its_owner_can_only_read_is_used(model: Path, tmp_path: Path) -> None:
    keys = ensure_key_pair(str(tmp_path / "signing.key"))
    os.chmod(keys.private, 0o400)
    sign(str(model), str(tmp_path / "model.sig"), ensure_key_pair(keys.private).private)
    verify(str(model), str(tmp_path / "model.sig"), keys.public)


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
    model: Path, tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "signing.key"
    path.touch(0o600)
    path.write_bytes(content)
    for use in (
        lambda: ensure_key_pair(str(path)),
        lambda: sign(str(model), str(tmp_path / "model.sig"), str(path)),
    ):
        with pytest.raises(KeyFileError, match=f"{path} .*{reason}"):
            use()


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_keys_that_somebody_else_made_may_be_used(
    model: Path, tmp_path: Path, curve: ec.EllipticCurve
) -> None:
    path = tmp_path / "signing.key"
    path.touch(0o600)
    path.write_bytes(pem_of(ec.generate_private_key(curve)))
    keys = ensure_key_pair(str(path))
    sign(str(model), str(tmp_path / "model.sig"), keys.private)
    verify(str(model), str(tmp_path / "model.sig"), keys.public)


def test_a_public_key_that_cannot_be_read_is_no_fault_of_the_model(
    model: Path, signature: Path, keys: KeyPair, tmp_path: Path
) -> None:
    (tmp_path / "spoilt.pub").write_bytes(b"spoilt")
    for path in (tmp_path / "missing.pub", tmp_path / "spoilt.pub", tmp_path, Path(keys.private)):
        with pytest.raises(KeyFileError, match=str(path)):
            verify(str(model), str(signature), str(path))


def test_a_key_in_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KeyFileError, match=f"{tmp_path}/file/signing.key cannot be written"):
        ensure_key_pair(str(tmp_path / "file" / "signing.key"))


def test_keys_lie_beside_the_serving_directory_by_default(tmp_path: Path) -> None:
    for serving_dir in ("output/serving_model", "output/serving_model/"):
        assert default_public_key(serving_dir) == os.path.abspath("output/keys/signing.pub")
    with as_object_store():
        assert default_public_key("s3://bucket/models/") == "s3://bucket/keys/signing.pub"


# Imports


def test_what_signs_is_imported_when_it_is_needed_and_says_nothing(tmp_path: Path) -> None:
    script = f"""
import sys, warnings, serving.signing as signing
assert not {{"model_signing", "cryptography", "google.auth"}} & set(sys.modules), "too early"
warnings.simplefilter("error", FutureWarning)
keys = signing.ensure_key_pair({str(tmp_path / "signing.key")!r})
signing.sign({str(tmp_path)!r}, {str(tmp_path / "model.sig")!r}, keys.private)
assert "model_signing" in sys.modules
warnings.warn("other", FutureWarning)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "FutureWarning: other"
    assert "grpc" not in done.stderr
