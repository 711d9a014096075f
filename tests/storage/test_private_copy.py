"""Tests that what is verified is what is used, whoever else may write the Serving directory."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from storage import private_copy as module
from storage.directory import ModelDirectory
from storage.encryption import key_of
from storage.keys import KeyPair, SignatureError, TrustStore, ensure_key_pair
from storage.names import SAVED_MODEL
from storage.private_copy import UnsafeContentError, private_copy
from storage.signing import sign

PROJECT = Path(__file__).parents[2]
MODEL = {SAVED_MODEL: b"graph", "variables/variables.index": b"index", "assets/a b": b""}
PROVENANCE = {"provenance.json": b'{"run_key": "abc"}', "training_statistics.pb": b"statistics"}


def write(root: Path, tree: dict[str, bytes]) -> Path:
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def read(root: str) -> dict[str, bytes]:
    files = (path for path in Path(root).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return ensure_key_pair(str(tmp_path_factory.mktemp("keys") / "signing.key"))


@pytest.fixture
def trust(keys: KeyPair) -> TrustStore:
    return TrustStore([keys.public])


@pytest.fixture
def directory(tmp_path: Path, keys: KeyPair) -> ModelDirectory:
    """A Serving directory with version 7, signed."""
    directory = ModelDirectory(str(tmp_path / "serving"), "model_name")
    directory.publish(
        7,
        str(write(tmp_path / "model", MODEL)),
        str(write(tmp_path / "provenance", PROVENANCE)),
        lambda private, version: sign(private, version, keys.private),
    )
    return directory


@pytest.fixture(autouse=True)
def private_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the private folders of a test are made."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_a_private_copy_holds_the_version_and_its_provenance_and_nobody_else_can_enter(
    directory: ModelDirectory, trust: TrustStore, private_parent: Path
) -> None:
    with private_copy(directory, 7, trust) as copy:
        assert read(copy.directory.version_uri(7)) == MODEL
        provenance = read(copy.directory.provenance_uri(7))
        assert {**PROVENANCE, "signed.json": provenance["signed.json"]} == provenance
        assert copy.directory.provenance(7) == {"run_key": "abc"}
        assert copy.directory.versions() == [7]
        (root,) = private_parent.iterdir()
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert list(private_parent.iterdir()) == []


def test_a_version_that_takes_the_place_of_a_verified_one_is_not_used(
    directory: ModelDirectory, trust: TrustStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(directory.version_uri(7))
    verify = module.verify

    def swap() -> None:
        folder.rename(folder.parent / "aside")
        write(folder, {SAVED_MODEL: b"evil"})

    def verify_after_swap(*arguments: object) -> object:
        swap()
        return verify(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "verify", verify_after_swap)
    with private_copy(directory, 7, trust) as copy:
        assert read(copy.directory.version_uri(7)) == MODEL
    monkeypatch.setattr(module, "verify", verify)
    with pytest.raises(SignatureError, match="files differ"):
        private_copy(directory, 7, trust)


def test_a_folder_swapped_while_it_is_copied_is_refused_or_not_noticed(
    directory: ModelDirectory, trust: TrustStore
) -> None:
    """Another thread swaps the good version and an evil one as fast as it can."""
    good, aside = Path(directory.version_uri(7)), Path(directory.uri, "aside")
    write(aside, {**MODEL, SAVED_MODEL: b"evil!"})
    third, stop = Path(directory.uri, "third"), threading.Event()

    def swap() -> None:
        while not stop.is_set():
            good.rename(third)
            aside.rename(good)
            third.rename(aside)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(30):
            try:
                with private_copy(directory, 7, trust) as copy:
                    assert read(copy.directory.version_uri(7)) == MODEL
            except (SignatureError, FileNotFoundError):
                pass
    finally:
        stop.set()
        thread.join()


def test_what_is_refused_leaves_nothing_behind(
    directory: ModelDirectory, trust: TrustStore, private_parent: Path
) -> None:
    Path(directory.version_uri(7), SAVED_MODEL).write_bytes(b"evil")
    with pytest.raises(SignatureError):
        private_copy(directory, 7, trust)
    with pytest.raises(FileNotFoundError, match="version 8 is not, or no longer, in"):
        private_copy(directory, 8, trust)
    assert list(private_parent.iterdir()) == []


def test_what_a_killed_process_left_behind_is_deleted_and_what_a_living_one_uses_is_not(
    directory: ModelDirectory, trust: TrustStore, private_parent: Path
) -> None:
    script = (
        "import sys; from storage.directory import ModelDirectory; "
        "from storage.private_copy import private_copy\n"
        "copy = private_copy(ModelDirectory(sys.argv[1], 'model_name'), 7, None)\n"
        "print(copy.directory.serving_dir, flush=True); sys.stdin.read()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, directory.serving_dir],
            cwd=PROJECT,
            env={**os.environ, "TMPDIR": str(private_parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    folders = []
    for process in processes:
        assert process.stdout is not None
        folders.append(Path(process.stdout.readline().strip()))
    processes[0].kill()
    processes[0].communicate()
    (private_parent / "other").mkdir()
    for path in private_parent.iterdir():
        os.utime(path, (0, 0))
    with private_copy(directory, 7, trust) as copy:
        here = Path(copy.directory.serving_dir)
        assert set(private_parent.iterdir()) == {here, folders[1], private_parent / "other"}
    processes[1].communicate()


def test_unverified_versions_are_copied_as_they_are_without_provenance_too(
    directory: ModelDirectory,
) -> None:
    shutil.rmtree(directory.provenance_uri(7))
    with private_copy(directory, 7, None) as copy:
        assert copy.signed is None
        assert read(copy.directory.version_uri(7)) == MODEL


def test_a_version_that_was_rolled_back_is_copied_only_if_that_is_asked_for(
    directory: ModelDirectory, trust: TrustStore
) -> None:
    directory.rollback(7, withdraw=True)
    with pytest.raises(FileNotFoundError):
        private_copy(directory, 7, trust)
    with private_copy(directory, 7, trust, rolled_back=True) as copy:
        assert read(copy.directory.version_uri(7)) == MODEL


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc"])
def test_a_name_that_leads_out_of_the_private_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a model"):
        private_copy(ModelDirectory(str(tmp_path), name), 7, None)


# Hostile content


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(path.parent)  # The path of a socket may not be long.
        try:
            listener.bind(path.name)
        finally:
            os.chdir(before)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "link to a file": lambda path: path.symlink_to("/etc/passwd"),
    "link to a folder": lambda path: path.symlink_to("/etc"),
    "link to a file beside it": lambda path: path.symlink_to(SAVED_MODEL),
    "broken link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "pipe": os.mkfifo,
    "socket": a_socket,
}


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("place", ["{version}", "{version}/assets", "{provenance}"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_file_is_refused_and_not_followed(
    directory: ModelDirectory,
    trust: TrustStore,
    private_parent: Path,
    kind: str,
    place: str,
    verified: bool,
) -> None:
    folder = place.format(version=directory.version_uri(7), provenance=directory.provenance_uri(7))
    HOSTILE[kind](Path(folder, "hostile"))
    with pytest.raises(UnsafeContentError, match="hostile' is neither a file nor a folder"):
        private_copy(directory, 7, trust if verified else None)
    assert list(private_parent.iterdir()) == []


@pytest.mark.parametrize("what", ["version", "provenance"])
def test_a_link_in_place_of_the_folder_itself_is_refused(
    directory: ModelDirectory, trust: TrustStore, tmp_path: Path, what: str
) -> None:
    folder = Path(getattr(directory, f"{what}_uri")(7))
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeContentError, match="is no folder, but a link or a file"):
        private_copy(directory, 7, trust)


def test_a_file_larger_than_the_disk_is_refused_before_it_is_copied(
    directory: ModelDirectory, trust: TrustStore
) -> None:
    with open(Path(directory.version_uri(7), "variables", "large"), "wb") as file:
        file.truncate(1 << 42)  # Takes no place itself.
    with pytest.raises(UnsafeContentError, match="is more than what is left for a private copy"):
        private_copy(directory, 7, trust)


def test_folders_and_files_without_end_are_refused(
    directory: ModelDirectory, trust: TrustStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_FILES", 50)
    write(Path(directory.version_uri(7)), {f"assets/{index}": b"" for index in range(50)})
    with pytest.raises(UnsafeContentError, match="is one of more than 50 files"):
        private_copy(directory, 7, trust)
    deep = Path(directory.provenance_uri(7), *["a"] * 40)
    deep.mkdir(parents=True)
    shutil.rmtree(Path(directory.version_uri(7), "assets"))
    with pytest.raises(UnsafeContentError, match="is more than 32 folders deep"):
        private_copy(directory, 7, trust)


def test_a_signature_without_end_is_refused(directory: ModelDirectory, trust: TrustStore) -> None:
    with open(directory.signature_uri(7), "ab") as file:
        file.truncate(65 << 20)
    with pytest.raises(SignatureError, match="it is larger than 64 MiB"):
        private_copy(directory, 7, trust)


names = st.sampled_from(["a", "b", ".c", "d e", "é"])
trees = st.recursive(
    st.binary(max_size=9) | st.sampled_from(["pipe", "link"]),
    lambda inner: st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
).filter(lambda tree: isinstance(tree, dict))


def make(path: Path, tree: object) -> None:
    if isinstance(tree, dict):
        path.mkdir(parents=True)
        for name, inner in tree.items():
            make(path / name, inner)
    elif isinstance(tree, bytes):
        path.write_bytes(tree)
    elif tree == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/")


def is_plain(tree: object) -> bool:
    if isinstance(tree, dict):
        return all(map(is_plain, tree.values()))
    if isinstance(tree, bytes):
        assume(key_of(tree) is None)  # It is not what it claims to be: an encrypted file.
        return True
    return False


@given(tree=trees)
@settings(max_examples=80)
def test_a_tree_is_copied_whole_or_refused(tree: object) -> None:
    with tempfile.TemporaryDirectory() as root:
        directory = ModelDirectory(root, "model_name")
        make(Path(directory.version_uri(7)), tree)
        if is_plain(tree):
            with private_copy(directory, 7, None) as copy:
                assert read(copy.directory.version_uri(7)) == read(directory.version_uri(7))
        else:
            with pytest.raises(UnsafeContentError):
                private_copy(directory, 7, None)
