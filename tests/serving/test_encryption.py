"""Tests that what was encrypted comes back as it was, or not at all."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from serving.__main__ import main
from storage import encryption
from storage.encrypted_versions import CLEAR_FILES
from storage.encryption import Encryptor, decrypt, key_of
from storage.encryption_keys import (
    KEYS_VARIABLE,
    EncryptionError,
    Keys,
    add_key,
    load_keys,
    require_keys,
)
from storage.keys import SignatureError
from storage.memory import MEMORY, check_is_memory
from storage.private_copy import private_copy
from storage.reencryption import reencrypt_versions
from tests.serving.conftest import MODEL_FILES, SECRET, Sealed

SEGMENT = 16
KEYS = Keys({"new": b"n" * 32, "old": b"o" * 32})
NAME = "toy/3/saved_model.pb"
HEADER = 8 + 1 + len("new") + 32


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "SEGMENT_BYTES", SEGMENT)
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)


def encrypt(content: bytes, keys: Keys = KEYS, name: str = NAME) -> bytes:
    file = io.BytesIO()
    encryptor = Encryptor(file, keys, name)
    encryptor.write(content)
    encryptor.end()
    return file.getvalue()


def read(encrypted: bytes, keys: Keys | None = KEYS, name: str = NAME) -> bytes:
    return b"".join(decrypt(io.BytesIO(encrypted), name, keys))


def segments(encrypted: bytes) -> list[bytes]:
    """The segments of a file, each with its length."""
    found, position = [], HEADER
    while position < len(encrypted):
        size = struct.unpack_from(">I", encrypted, position)[0] & 0x7FFFFFFF
        found.append(encrypted[position : position + 4 + size])
        position += 4 + size
    return found


# Around where one segment ends and the next begins.
contents = st.one_of(
    st.sampled_from([0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 5 * SEGMENT + 1]).map(
        os.urandom
    ),
    st.binary(max_size=5 * SEGMENT),
)


class TestFile:
    @given(st.lists(st.tuples(contents, st.booleans()), max_size=4))
    def test_content_comes_back_however_it_was_written(
        self, written: list[tuple[bytes, bool]]
    ) -> None:
        file = io.BytesIO()
        encryptor = Encryptor(file, KEYS, NAME)
        for content, flush in written:
            encryptor.write(content)
            if flush:
                encryptor.flush()
        encryptor.end()
        assert read(file.getvalue()) == b"".join(content for content, _ in written)

    def test_content_is_not_there_to_be_read_and_no_two_files_are_alike(self) -> None:
        content = b"a secret of many bytes " * 9
        first, second = encrypt(content), encrypt(content)
        assert b"secret" not in first
        assert first[HEADER:] != second[HEADER:]

    @given(contents, st.data())
    def test_any_bit_that_is_flipped_is_noticed(self, content: bytes, data: st.DataObject) -> None:
        encrypted = bytearray(encrypt(content))
        bit = data.draw(st.integers(0, 8 * len(encrypted) - 1))
        encrypted[bit // 8] ^= 1 << bit % 8
        with pytest.raises(EncryptionError):
            read(bytes(encrypted))

    @given(contents, st.data())
    def test_a_file_that_was_cut_anywhere_is_refused(
        self, content: bytes, data: st.DataObject
    ) -> None:
        encrypted = encrypt(content)
        with pytest.raises(EncryptionError):
            read(encrypted[: data.draw(st.integers(0, len(encrypted) - 1))])

    @given(st.integers(2, 5), st.data())
    def test_segments_cannot_be_removed_repeated_added_or_put_in_another_order(
        self, count: int, data: st.DataObject
    ) -> None:
        encrypted = encrypt(os.urandom(count * SEGMENT))
        parts = segments(encrypted)
        assert len(parts) == count
        order = data.draw(
            st.lists(st.integers(0, count - 1), max_size=count + 2).filter(
                lambda chosen: chosen != list(range(count))
            )
        )
        with pytest.raises(EncryptionError):
            read(encrypted[:HEADER] + b"".join(parts[index] for index in order))

    def test_a_segment_of_another_file_is_refused(self) -> None:
        one, other = encrypt(b"1" * SEGMENT * 2), encrypt(b"2" * SEGMENT * 2)
        with pytest.raises(EncryptionError):
            read(one[:HEADER] + segments(other)[0] + segments(one)[1])

    def test_bytes_after_the_end_are_refused(self) -> None:
        with pytest.raises(EncryptionError, match="after its end"):
            read(encrypt(b"content") + b"\0")

    @pytest.mark.parametrize(
        "name", ["toy/2/saved_model.pb", "other/3/saved_model.pb", "toy/3/model.tflite"]
    )
    def test_a_file_under_another_name_version_or_model_is_refused(self, name: str) -> None:
        with pytest.raises(EncryptionError, match=f"^{name} .*changed or moved"):
            read(encrypt(b"content"), name=name)

    def test_a_length_from_the_file_allocates_nothing(self) -> None:
        encrypted = encrypt(b"content")
        with pytest.raises(EncryptionError, match="cut, or changed"):
            read(encrypted[:HEADER] + struct.pack(">I", 0x7FFFFFFF) + b"\0" * 100)

    @given(st.binary(max_size=80))
    def test_no_bytes_crash_it(self, content: bytes) -> None:
        for start in (b"", encrypt(b"")[:8], encrypt(b"")[:HEADER]):
            with pytest.raises(EncryptionError):
                read(start + content)

    @given(contents, contents, st.data())
    def test_of_an_unfinished_file_what_was_flushed_is_kept(
        self, flushed: bytes, lost: bytes, data: st.DataObject
    ) -> None:
        file = io.BytesIO()
        encryptor = Encryptor(file, KEYS, NAME)
        encryptor.write(flushed)
        encryptor.flush()
        size = len(file.getvalue())
        encryptor.write(lost)
        encryptor.flush()
        cut = data.draw(st.integers(size, len(file.getvalue())))
        part = io.BytesIO(file.getvalue()[:cut])
        found = b"".join(decrypt(part, NAME, KEYS, unfinished=True))
        assert found.startswith(flushed)
        assert (flushed + lost).startswith(found)


class TestKeys:
    def test_the_first_key_encrypts_and_all_decrypt(self) -> None:
        assert key_of(encrypt(b"")[:128]) == "new"
        assert read(encrypt(b"content", Keys({"old": b"o" * 32}))) == b"content"

    def test_a_plain_file_has_no_key(self) -> None:
        assert key_of(b"\x08\x01plain") is None

    def test_a_key_that_is_missing_is_named(self) -> None:
        with pytest.raises(EncryptionError, match=r"with the key new, which is not .*: other$"):
            read(encrypt(b""), Keys({"other": b"n" * 32}))
        with pytest.raises(EncryptionError, match=r"with the key new: .*--encryption-keys"):
            read(encrypt(b""), None)

    def test_another_key_under_the_same_id_is_refused_and_named(self) -> None:
        with pytest.raises(EncryptionError, match="key new"):
            read(encrypt(b""), Keys({"new": b"x" * 32}))

    def test_a_new_key_comes_first_and_older_ones_stay(self, tmp_path: Path) -> None:
        path = tmp_path / "keys" / "encryption.keys"
        ids = [add_key(str(path)) for _ in range(2)]
        keys = load_keys(str(path))
        assert keys is not None
        assert list(keys.by_id) == ids[::-1]
        assert path.stat().st_mode & 0o777 == 0o600
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]

    def test_keys_come_from_the_environment_where_no_file_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert load_keys() is None
        with pytest.raises(EncryptionError, match=f"set {KEYS_VARIABLE}"):
            require_keys()
        name = add_key(str(tmp_path / "keys"))
        monkeypatch.setenv(KEYS_VARIABLE, (tmp_path / "keys").read_text())
        assert require_keys().first == name

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
    def test_a_file_of_keys_that_others_can_use_is_refused(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / "keys"
        add_key(str(path))
        path.chmod(mode)
        with pytest.raises(EncryptionError, match=f"mode 0{mode:o}.*chmod 600"):
            load_keys(str(path))

    @pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
    def test_a_file_that_root_gives_to_a_group_as_kubernetes_does_is_taken(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "keys"
        add_key(str(path))
        os.chown(path, 12345, -1)
        path.chmod(0o440)
        assert load_keys(str(path)) is not None

    @pytest.mark.parametrize(
        "line",
        [
            "secretsecretsecretsecretsecretsecretsecret0=",
            "id secretsecret",
            "id secretsecretsecretsecretsecretsecretsecret0= more",
            "an/id c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U=",
            "id c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U=\n" * 2,
            "# no key",
        ],
    )
    def test_a_file_that_is_none_of_keys_is_refused_without_showing_it(
        self, tmp_path: Path, line: str
    ) -> None:
        path = tmp_path / "keys"
        path.write_text(line + "\n")
        path.chmod(0o600)
        with pytest.raises(EncryptionError) as refused:
            load_keys(str(path))
        assert str(path) in str(refused.value)
        assert not re.search("secret|c2Vj", str(refused.value))

    def test_keys_are_not_shown(self, tmp_path: Path) -> None:
        assert "nnn" not in repr(KEYS)
        with pytest.raises(EncryptionError, match="cannot be read"):
            load_keys(str(tmp_path / "none"))


def files_of(folder: str | Path) -> dict[str, bytes]:
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


class TestVersion:
    def test_nothing_of_a_published_version_can_be_read_without_a_key(self, sealed: Sealed) -> None:
        sealed.publish(1)
        there = files_of(sealed.directory.uri)
        assert "1/saved_model.pb" in there  # What a server looks for.
        assert [name for name, content in there.items() if SECRET in content] == []
        plain = {Path(name).name for name, content in there.items() if key_of(content) is None}
        assert plain - {"lock"} == CLEAR_FILES

    def test_a_private_copy_is_what_was_pushed_and_it_verifies(self, sealed: Sealed) -> None:
        sealed.publish(1)
        with sealed.copy(1) as copy:
            assert files_of(copy.directory.version_uri(1)) == MODEL_FILES
            assert SECRET in files_of(copy.directory.provenance_uri(1))["training_statistics.pb"]
            assert copy.encrypted
            assert copy.signed is not None

    def test_a_version_that_was_rolled_back_can_be_read(self, sealed: Sealed) -> None:
        sealed.publish(1)
        sealed.publish(2)
        sealed.directory.rollback()
        with sealed.copy(2, rolled_back=True) as copy:
            assert files_of(copy.directory.version_uri(2)) == MODEL_FILES

    def test_a_version_without_its_key_says_which_key_it_needs(
        self, sealed: Sealed, tmp_path: Path
    ) -> None:
        sealed.publish(1)
        with pytest.raises(EncryptionError, match=f"is encrypted with the key {sealed.keys.first}"):
            private_copy(sealed.directory, 1, sealed.trust)
        add_key(str(tmp_path / "other"))
        with pytest.raises(
            EncryptionError, match=f"with the key {sealed.keys.first}, which is not"
        ):
            private_copy(sealed.directory, 1, None, keys=load_keys(str(tmp_path / "other")))

    @pytest.mark.parametrize("source", ["1/model.tflite", "2/saved_model.pb"])
    def test_files_cannot_be_swapped_within_or_between_versions_even_unsigned(
        self, sealed: Sealed, source: str
    ) -> None:
        sealed.publish(1)
        sealed.publish(2)
        root = Path(sealed.directory.uri)
        shutil.copy(root / source, root / "1" / "saved_model.pb")
        with pytest.raises(EncryptionError, match=r"toy/1/saved_model\.pb was changed or moved"):
            private_copy(sealed.directory, 1, None, keys=sealed.keys)

    def test_a_plain_file_among_encrypted_ones_is_refused_even_unsigned(
        self, sealed: Sealed
    ) -> None:
        sealed.publish(1)
        Path(sealed.directory.version_uri(1), "saved_model.pb").write_bytes(b"malicious")
        with pytest.raises(EncryptionError, match=r"toy/1/saved_model\.pb is not encrypted, but"):
            private_copy(sealed.directory, 1, None, keys=sealed.keys)

    def test_an_unsigned_version_that_was_encrypted_with_the_key_is_refused(
        self, sealed: Sealed
    ) -> None:
        sealed.publish(1, sign=False)
        with pytest.raises(SignatureError, match="there is no signature"):
            sealed.copy(1)

    def test_a_plain_version_can_be_read_where_there_are_keys(self, sealed: Sealed) -> None:
        sealed.publish(1, encrypt=False)
        with sealed.copy(1) as copy:
            assert not copy.encrypted
            assert files_of(copy.directory.version_uri(1)) == MODEL_FILES

    @pytest.mark.parametrize("encrypt", [False, True])
    def test_private_copy_verifies_file_that_begins_as_an_encrypted_one(
        self, sealed: Sealed, tmp_path: Path, encrypt: bool
    ) -> None:
        asset = tmp_path / "model" / "assets" / "looks_encrypted"
        asset.parent.mkdir(parents=True)
        with open(asset, "wb") as file:
            Encryptor(file, sealed.keys, "another").end()
        content = asset.read_bytes()
        sealed.publish(1, encrypt=encrypt)
        with sealed.copy(1) as copy:
            assert copy.encrypted == encrypt
            files = files_of(copy.directory.version_uri(1))
        assert files == {**MODEL_FILES, "assets/looks_encrypted": content}
        add_key(str(sealed.key_file))
        changed = reencrypt_versions(sealed.directory, sealed.keys)
        assert changed == (len(files) + 1 if encrypt else 0)
        sealed.copy(1).close()


class TestRotation:
    def test_old_and_new_versions_are_read_and_reencrypt_leaves_the_old_key_unneeded(
        self, sealed: Sealed
    ) -> None:
        sealed.publish(1)
        sealed.publish(2)
        sealed.directory.rollback()
        old = sealed.keys
        add_key(str(sealed.key_file))
        sealed.publish(3)
        assert sealed.keys.first != old.first
        for version, aside in ((1, False), (2, True), (3, False)):
            sealed.copy(version, rolled_back=aside).close()
        done = CliRunner().invoke(
            main,
            ["reencrypt", sealed.directory.serving_dir, "--encryption-keys", str(sealed.key_file)],
        )
        assert done.exit_code == 0, done.output
        files = len(MODEL_FILES) + 1
        assert f"Encrypted {2 * files} files again, with the key {sealed.keys.first}" in done.output
        lines = sealed.key_file.read_text().splitlines(keepends=True)
        sealed.key_file.write_text(lines[0])
        for version, aside in ((1, False), (2, True), (3, False)):
            sealed.copy(version, rolled_back=aside).close()

    def test_reencrypt_that_fails_leaves_every_file_whole(self, sealed: Sealed) -> None:
        sealed.publish(1)
        before = files_of(sealed.directory.uri)
        sealed.key_file.unlink()
        add_key(str(sealed.key_file))
        done = CliRunner().invoke(
            main,
            ["reencrypt", sealed.directory.serving_dir, "--encryption-keys", str(sealed.key_file)],
        )
        assert done.exit_code == 1
        assert "is encrypted with the key" in done.output
        assert files_of(sealed.directory.uri) == before


class TestCommands:
    def verify(self, sealed: Sealed, *more: str) -> tuple[int, str]:
        public = str(sealed.public_key)
        arguments = ["verify", sealed.directory.serving_dir, "--public-key", public, *more]
        done = CliRunner().invoke(main, arguments)
        return done.exit_code, done.output

    def test_verify_decrypts_first(self, sealed: Sealed) -> None:
        sealed.publish(1)
        status, said = self.verify(sealed, "--encryption-keys", str(sealed.key_file))
        assert (status, "version 1: ok" in said) == (0, True)

    def test_verify_without_the_key_says_that_one_is_needed(self, sealed: Sealed) -> None:
        sealed.publish(1)
        status, said = self.verify(sealed)
        assert status == 1
        assert f"is encrypted with the key {sealed.keys.first}" in said

    def test_versions_and_rollback_need_no_key(self, sealed: Sealed) -> None:
        sealed.publish(1)
        sealed.publish(2)
        for command in ("versions", "rollback"):
            assert CliRunner().invoke(main, [command, sealed.directory.serving_dir]).exit_code == 0
        assert sealed.directory.versions() == [1]

    def test_an_encrypted_version_can_be_signed_again(self, sealed: Sealed) -> None:
        sealed.publish(1, sign=False)
        arguments = ["sign", sealed.directory.serving_dir, "1", "--signing-key", sealed.private_key]
        done = CliRunner().invoke(main, [*arguments, "--encryption-keys", str(sealed.key_file)])
        assert done.exit_code == 0, done.output
        sealed.copy(1).close()


class TestMemory:
    def test_a_folder_in_memory_is_told_from_one_on_a_disk(self) -> None:
        check_is_memory(MEMORY)
        with pytest.raises(EncryptionError, match=r"/proc is on .* kind proc.*--decrypt-to-disk"):
            check_is_memory("/proc")
        with pytest.raises(EncryptionError, match="no folder /nowhere"):
            check_is_memory("/nowhere")
