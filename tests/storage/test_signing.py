"""Tests that a version verifies exactly as long as every file of it is what was signed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from storage.directory import ModelDirectory
from storage.encryption import key_of
from storage.keys import KeyPair, SignatureError, TrustStore, ensure_key_pair, short_id
from storage.names import PROVENANCE_FILE, SAVED_MODEL
from storage.private_copy import private_copy
from storage.signing import Signed, sign
from tests.storage.test_directory import as_object_store

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
PROVENANCE = (PROVENANCE_FILE, "training_statistics.pb", "schema.pbtxt")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return ensure_key_pair(str(tmp_path_factory.mktemp("keys") / "signing.key"))


@pytest.fixture
def directory(tmp_path: Path, keys: KeyPair) -> ModelDirectory:
    """A Serving directory with version 7, signed."""
    directory = ModelDirectory(str(tmp_path / "serving"), "model_name")
    publish(directory, 7, keys)
    return directory


def publish(directory: ModelDirectory, version: int, keys: KeyPair) -> None:
    with tempfile.TemporaryDirectory() as work:
        for folder, names in (("model", FILES), ("provenance", PROVENANCE)):
            for name in names:
                path = Path(work, folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(name.encode() * 10)
        directory.publish(
            version,
            f"{work}/model",
            f"{work}/provenance",
            lambda private, number: sign(private, number, keys.private),
        )


@pytest.fixture
def model(directory: ModelDirectory) -> Path:
    return Path(directory.version_uri(7))


@pytest.fixture
def signature(directory: ModelDirectory) -> Path:
    return Path(directory.signature_uri(7))


def check(directory: ModelDirectory, *public_keys: str, version: int = 7) -> Signed:
    with private_copy(directory, version, TrustStore(public_keys)) as copy:
        assert copy.signed is not None
        return copy.signed


def why_not(directory: ModelDirectory, *public_keys: str, version: int = 7) -> str:
    with pytest.raises(SignatureError) as caught:
        check(directory, *public_keys, version=version)
    return str(caught.value)


# Models


def test_a_version_verifies_and_says_by_which_key_and_when_it_was_signed(
    directory: ModelDirectory, keys: KeyPair
) -> None:
    signed = check(directory, keys.public)
    assert [signed.key_id] == TrustStore([keys.public]).key_ids
    assert signed.time[:2] == "20"
    assert signed.time.endswith("+00:00")
    root = Path(directory.serving_dir)
    check(ModelDirectory(root.as_uri(), "model_name"), keys.public)
    shutil.copytree(root, root.with_name("elsewhere"))
    check(ModelDirectory(str(root.with_name("elsewhere")), "model_name"), keys.public)


@pytest.mark.parametrize("name", [*FILES, *(f"../.flightdeck/7/{name}" for name in PROVENANCE)])
def test_a_byte_that_changes_is_found_and_its_file_named(
    directory: ModelDirectory, model: Path, keys: KeyPair, name: str
) -> None:
    content = bytearray((model / name).read_bytes())
    content[3] ^= 1
    (model / name).write_bytes(content)
    path = os.path.normpath(f"7/{name}")
    assert why_not(directory, keys.public) == f"files differ from what was signed; changed: {path}"


@pytest.mark.parametrize("name", [*FILES, "../.flightdeck/7/training_statistics.pb"])
def test_a_file_that_is_removed_is_named(
    directory: ModelDirectory, model: Path, keys: KeyPair, name: str
) -> None:
    (model / name).unlink()
    removed = os.path.normpath(f"7/{name}")
    assert why_not(directory, keys.public).endswith(f"; removed: {removed}")


@pytest.mark.parametrize(
    "name",
    [
        *("more", ".git/hooks/hook", ".gitignore", ".github/a", "assets.extra/b", "model.sig"),
        "../.flightdeck/7/more",
    ],
)
def test_a_file_that_is_added_is_named(
    directory: ModelDirectory, model: Path, keys: KeyPair, name: str
) -> None:
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).touch()
    added = os.path.normpath(f"7/{name}")
    assert why_not(directory, keys.public).endswith(f"; added: {added}")


def test_of_many_files_the_first_are_named_and_none_can_steer_a_terminal(
    directory: ModelDirectory, model: Path, keys: KeyPair
) -> None:
    (model / "model.tflite").unlink()
    for index in range(9):
        (model / f"n{index}\x1b[2J\n").touch()
    (model / os.fsdecode(b"\xff")).touch()
    reason = why_not(directory, keys.public)
    assert "removed: 7/model.tflite" in reason
    assert r"'7/n0\x1b[2J\n', " in reason
    assert " and 5 more; " in reason
    assert reason.isprintable()


def test_a_version_without_signature_does_not_verify(
    directory: ModelDirectory, signature: Path, keys: KeyPair
) -> None:
    signature.unlink()
    assert why_not(directory, keys.public) == f"there is no signature {signature}"


def test_a_version_verifies_also_from_an_object_store(
    directory: ModelDirectory, keys: KeyPair
) -> None:
    with as_object_store():
        publish(directory, 8, keys)
        check(directory, keys.public, version=8)
        Path(directory.version_uri(8), "model.tflite").write_bytes(b"changed")
        assert why_not(directory, keys.public, version=8).endswith("changed: 8/model.tflite")


# Which version a signature is good for


def copy_version(source: ModelDirectory, target: ModelDirectory, version: int) -> None:
    """Copies version 7 with its provenance, as whoever may write the folder can."""
    shutil.copytree(source.version_uri(7), target.version_uri(version))
    shutil.copytree(source.provenance_uri(7), target.provenance_uri(version))


@pytest.mark.parametrize(("name", "version"), [("model_name", 8), ("other", 7), ("other", 8)])
def test_a_signature_is_good_for_one_version_of_one_model(
    directory: ModelDirectory, keys: KeyPair, name: str, version: int
) -> None:
    other = ModelDirectory(directory.serving_dir, name)
    copy_version(directory, other, version)
    assert why_not(other, keys.public, version=version) == (
        f"{other.signature_uri(version)} is that of version 7 of model_name, "
        f"not of version {version} of {name}; to move a version on purpose, sign it again: "
        "python -m serving sign"
    )


@pytest.mark.parametrize("forged", [{"model_name": "other", "version": 8}, {"version": "7"}, {}])
def test_what_a_statement_says_cannot_be_changed(
    directory: ModelDirectory, keys: KeyPair, forged: dict[str, object]
) -> None:
    other = ModelDirectory(directory.serving_dir, "other")
    copy_version(directory, other, 8)
    Path(other.provenance_uri(8), "signed.json").write_text(json.dumps(forged))
    why_not(other, keys.public, version=8)


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "[]",
        "{}",
        '{"model_name": "model_name", "version": "7", "signed": ""}',
        "[" * 10**5,
        '{"model_name": "model_name", "version": 7}',
        '{"version": 7, "signed": "2026"}',
    ],
)
def test_a_statement_that_names_no_version_is_refused_although_it_is_signed(
    directory: ModelDirectory, signature: Path, keys: KeyPair, statement: str
) -> None:
    from model_signing import hashing, signing

    Path(directory.provenance_uri(7), "signed.json").write_text(statement)
    signature.unlink()
    os.remove(Path(directory.uri, ".flightdeck", "lock"))
    config = signing.Config().use_elliptic_key_signer(private_key=keys.private)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False))
    config.sign(directory.uri, signature)
    assert why_not(directory, keys.public) == (
        f"{signature} names no version; to move a version on purpose, sign it again: "
        "python -m serving sign"
    )


def test_a_version_that_was_moved_on_purpose_verifies_when_it_is_signed_again(
    directory: ModelDirectory, keys: KeyPair
) -> None:
    other = ModelDirectory(directory.serving_dir, "other")
    copy_version(directory, other, 8)
    with private_copy(other, 8, None) as copy:
        sign(copy.directory, 8, keys.private)
        other.put_signature(8, copy.directory)
    check(other, keys.public, version=8)
    check(directory, keys.public)


def test_a_signature_that_names_no_version_is_refused(
    directory: ModelDirectory, model: Path, signature: Path, keys: KeyPair
) -> None:
    from model_signing import hashing, signing

    config = signing.Config().use_elliptic_key_signer(private_key=keys.private)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False))
    config.sign(model, signature)
    assert why_not(directory, keys.public) == (
        f"{signature} does not say of which version it was made, as older releases signed; to move "
        "a version on purpose, sign it again: python -m serving sign"
    )


# Several keys


def test_a_key_is_replaced_without_signing_every_version_again(
    directory: ModelDirectory, keys: KeyPair, tmp_path: Path
) -> None:
    new = ensure_key_pair(str(tmp_path / "new" / "signing.key"))
    publish(directory, 8, new)
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    shutil.copy(keys.public, trusted / "old.pub")
    shutil.copy(new.public, trusted / "new.pub")
    ids = [check(directory, str(trusted), version=version).key_id for version in (7, 8)]
    assert [TrustStore([pair.public]).key_ids for pair in (keys, new)] == [[id_] for id_ in ids]
    assert check(directory, keys.public, new.public, version=8).key_id == ids[1]
    (trusted / "old.pub").unlink()  # Now the old key is trusted no longer.
    check(directory, str(trusted), version=8)
    assert "is none of those that are trusted" in why_not(directory, str(trusted))


def test_a_signature_of_another_key_is_told_from_a_changed_model(
    directory: ModelDirectory, signature: Path, keys: KeyPair, tmp_path: Path
) -> None:
    other = ensure_key_pair(str(tmp_path / "other.key"))
    theirs, ours = (short_id(TrustStore([k.public]).key_ids[0]) for k in (keys, other))
    assert why_not(directory, other.public) == (
        f"{signature} was made with the key {theirs}, which is none of those that are trusted: "
        f"{ours}"
    )


# Signatures


def test_what_a_signature_says_cannot_be_changed(
    directory: ModelDirectory, signature: Path, keys: KeyPair
) -> None:
    publish(directory, 8, keys)
    bundle = json.loads(signature.read_text())
    other = json.loads(Path(directory.signature_uri(8)).read_text())
    bundle["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"]
    signature.write_text(json.dumps(bundle))
    assert "was itself changed" in why_not(directory, keys.public)


def test_a_signature_that_leaves_files_out_is_refused(
    directory: ModelDirectory, signature: Path, keys: KeyPair
) -> None:
    from model_signing import hashing, signing

    config = signing.Config().use_elliptic_key_signer(private_key=keys.private)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=["7/model.tflite"]))
    config.sign(directory.uri, signature)
    assert "leaves files unsigned: " in why_not(directory, keys.public)
    assert "7/model.tflite" in why_not(directory, keys.public)


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
    directory: ModelDirectory,
    signature: Path,
    keys: KeyPair,
    spoil: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    signature.write_text(spoil(signature.read_text()))
    assert f"{signature} is not the signature of a model" in why_not(directory, keys.public)
    assert capsys.readouterr() == ("", "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.text(), values, max_size=2),
    max_leaves=4,
)


@given(data=st.data(), value=json_values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_changed_in_a_signature_it_verifies_nothing_or_the_same(
    directory: ModelDirectory,
    model: Path,
    signature: Path,
    keys: KeyPair,
    data: st.DataObject,
    value: object,
) -> None:
    whole = signature.read_text()
    bundle = json.loads(whole)
    place = bundle
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else [0]))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    try:
        signature.write_text(json.dumps(bundle))
        try:
            check(directory, keys.public)
        except SignatureError:
            return
        # Only what the key does not confirm may differ: the model is still the one that was signed.
        (model / "model.tflite").rename(model.parent / "aside")
        try:
            assert "model.tflite" in why_not(directory, keys.public)
        finally:
            (model.parent / "aside").rename(model / "model.tflite")
    finally:
        signature.write_text(whole)


names = st.text(st.characters(exclude_characters="/\x00", codec="utf-8"), min_size=1, max_size=8)
trees = st.dictionaries(
    names.filter(lambda name: name not in (".", "..")), st.binary(max_size=20), min_size=1
)


@given(before=trees, after=trees, same=st.booleans())
@example(before={".git": b"1"}, after={".git": b"2"}, same=False)
@example(before={".gitignore": b""}, after={".gitignore": b"", ".github": b""}, same=False)
@settings(max_examples=60)
def test_a_folder_verifies_if_and_only_if_it_holds_what_was_signed(
    before: dict[str, bytes], after: dict[str, bytes], same: bool, keys: KeyPair
) -> None:
    after = before if same else after
    assume(all(len(name.encode()) < 256 for name in (*before, *after)))
    # What begins like a file that is encrypted cannot be read without a key.
    assume(not any(key_of(content) for content in (*before.values(), *after.values())))
    with tempfile.TemporaryDirectory() as root:
        directory = ModelDirectory(root, "model_name")
        folder = Path(directory.version_uri(7))
        fill(folder, before)
        sign(directory, 7, keys.private)
        shutil.rmtree(folder)
        fill(folder, after)
        try:
            check(directory, keys.public)
            verified = True
        except SignatureError:
            verified = False
    assert verified == (before == after)


def fill(folder: Path, tree: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in tree.items():
        (folder / name).write_bytes(content)


# Imports


def test_what_signs_is_imported_when_it_is_needed_and_says_nothing(tmp_path: Path) -> None:
    script = f"""
import sys, warnings, storage.signing as signing, storage.private_copy
from storage.directory import ModelDirectory
from storage.keys import ensure_key_pair
assert not {{"model_signing", "cryptography", "google.auth"}} & set(sys.modules), "too early"
warnings.simplefilter("error", FutureWarning)
keys = ensure_key_pair({str(tmp_path / "signing.key")!r})
signing.sign(ModelDirectory({str(tmp_path)!r}, "model_name"), 7, keys.private)
assert "model_signing" in sys.modules
warnings.warn("other", FutureWarning)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "FutureWarning: other"
    assert "grpc" not in done.stderr
