"""Tests that a model server sees whole versions only, whatever happens while versions change."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pyarrow import fs

from storage import atomic_write, private_copy, uris, versions
from storage import directory as serving_directory
from storage.directory import Change, ModelDirectory
from storage.names import LABELS_FILE, PROVENANCE_FILE, SAVED_MODEL, SIGNATURE_FILE
from storage.uris import NotAFileError, copy_tree, file_sizes, local_path, model_digest, read_file
from storage.versions import find_models

PROJECT = Path(__file__).parents[2]

Tree = Mapping[str, bytes]

MODEL = {
    SAVED_MODEL: b"graph",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": b"weights",
    "assets/vocabulary": b"AA\nUA\n",
    "assets.extra/tf_serving_warmup_requests": b"requests",
}
BETTER_MODEL = {SAVED_MODEL: b"better graph", "variables/better.index": b"better index"}
PROVENANCE = {PROVENANCE_FILE: b'{"model_digest": "abc"}', "metrics.json": b"{}"}
FILES_TO_COPY = 2 * (len(MODEL) + len(PROVENANCE))  # Into a private folder, and from there.


def write(root: Path, tree: Tree) -> Path:
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def read(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write(tmp_path / "model", MODEL))


@pytest.fixture
def better_model(tmp_path: Path) -> str:
    return str(write(tmp_path / "better", BETTER_MODEL))


@pytest.fixture
def provenance(tmp_path: Path) -> str:
    return str(write(tmp_path / "provenance", PROVENANCE))


@pytest.fixture
def directory(tmp_path: Path) -> ModelDirectory:
    return ModelDirectory(str(tmp_path / "serving"), "model_name")


class ObjectStore(fs.FileSystemHandler):
    """Keeps objects below `/`, each written and deleted by itself; none can be renamed.

    Args:
      crash_before: How many objects are written or deleted before the process ends; None: it lives.
    """

    def __init__(self, crash_before: int | None = None) -> None:
        self.files = fs.SubTreeFileSystem("/", fs.LocalFileSystem())
        self.left = crash_before

    def changes(self) -> None:
        if self.left is not None:
            if self.left == 0:
                raise Crash
            self.left -= 1

    def get_type_name(self) -> str:
        return "objects"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> Any:
        return self.files.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> Any:
        return self.files.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self.files.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        found = self.files.get_file_info(fs.FileSelector(path, recursive=True))
        for name in sorted(info.path for info in found if info.type == fs.FileType.File):
            self.delete_file(name)
        self.files.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        raise NotImplementedError

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        self.changes()
        self.files.delete_file(path)

    def move(self, source: str, target: str) -> None:
        raise NotImplementedError

    def copy_file(self, source: str, target: str) -> None:
        self.changes()
        self.files.copy_file(source, target)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.files.open_input_stream(path, compression=None)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self.files.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Mapping[str, str]) -> pa.NativeFile:
        self.changes()
        return self.files.open_output_stream(path, compression=None)

    def open_append_stream(self, path: str, metadata: Mapping[str, str]) -> pa.NativeFile:
        raise NotImplementedError


@contextmanager
def as_object_store(crash_before: int | None = None) -> Iterator[None]:
    """Makes local paths pass for those of an object store."""
    store = fs.PyFileSystem(ObjectStore(crash_before))
    with pytest.MonkeyPatch.context() as patch:
        for module in (atomic_write, serving_directory, private_copy, uris, versions):
            patch.setattr(module, "open_uri", lambda uri: (store, os.path.abspath(uri).lstrip("/")))
        yield


@pytest.fixture
def object_store() -> Iterator[None]:
    with as_object_store():
        yield


class Crash(Exception):
    """The process ends here."""


@contextmanager
def crash_after(files: int, torn: bool = True) -> Iterator[None]:
    """Copies so many files, the next one by half if `torn`, and then nothing happens any more."""
    copied = 0
    copy_files = fs.copy_files

    def copy(source: str, target: str, **filesystems: fs.FileSystem) -> None:
        nonlocal copied
        if copied == files:
            if torn:
                with filesystems["destination_filesystem"].open_output_stream(target) as stream:
                    stream.write(b"ha")
            raise Crash
        copied += 1
        copy_files(source, target, **filesystems)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs, "copy_files", copy)
        yield


# Publishing


def test_nothing_is_served_before_the_first_version(directory: ModelDirectory) -> None:
    assert directory.versions() == []
    assert directory.served() is None


def test_a_published_version_is_visible_with_every_file_and_its_provenance(
    directory: ModelDirectory, model: str, provenance: str
) -> None:
    directory.publish(7, model, provenance)
    assert directory.versions() == [7]
    assert read(Path(directory.serving_dir) / "model_name" / "7") == MODEL
    assert read(Path(directory.serving_dir) / "model_name" / ".flightdeck" / "7") == PROVENANCE


def test_publishing_leaves_nothing_else_behind(
    directory: ModelDirectory, model: str, provenance: str
) -> None:
    directory.publish(7, model, provenance)
    assert sorted(os.listdir(directory.uri)) == [".flightdeck", "7"]
    assert sorted(os.listdir(f"{directory.uri}/.flightdeck")) == ["7", "lock"]


def test_publishing_leaves_the_model_where_it_was(
    directory: ModelDirectory, model: str, provenance: str
) -> None:
    directory.publish(7, model, provenance)
    assert read(Path(model)) == MODEL
    assert read(Path(provenance)) == PROVENANCE


def test_the_newest_version_is_served_and_older_ones_stay(
    directory: ModelDirectory, model: str, better_model: str, provenance: str
) -> None:
    directory.publish(10, model, provenance)
    directory.publish(9, better_model, provenance)
    assert directory.versions() == [9, 10]
    assert directory.served() == 10
    assert read(Path(directory.version_uri(9))) == BETTER_MODEL


def test_a_uri_publishes_where_its_path_does(tmp_path: Path, model: str, provenance: str) -> None:
    by_uri = ModelDirectory((tmp_path / "serving").as_uri(), "model_name")
    by_uri.publish(7, Path(model).as_uri(), Path(provenance).as_uri() + "/")
    by_path = ModelDirectory(str(tmp_path / "serving"), "model_name")
    assert by_path.versions() == by_uri.versions() == [7]
    assert read(Path(by_path.version_uri(7))) == MODEL


def test_models_of_one_serving_directory_do_not_mix(
    directory: ModelDirectory, model: str, provenance: str
) -> None:
    directory.publish(7, model, provenance)
    assert ModelDirectory(directory.serving_dir, "other").versions() == []


def test_a_version_is_not_published_twice(
    directory: ModelDirectory, model: str, better_model: str, provenance: str
) -> None:
    directory.publish(7, model, provenance)
    with pytest.raises(FileExistsError, match="version 7 exists in"):
        directory.publish(7, better_model, better_model)
    assert read(Path(directory.version_uri(7))) == MODEL
    assert read(Path(directory.provenance_uri(7))) == PROVENANCE


def test_a_folder_without_a_saved_model_is_not_published(
    directory: ModelDirectory, tmp_path: Path, provenance: str
) -> None:
    no_model = write(tmp_path / "no_model", {"variables/variables.index": b"index"})
    with pytest.raises(FileNotFoundError, match=SAVED_MODEL):
        directory.publish(7, str(no_model), provenance)
    assert not Path(directory.version_uri(7)).exists()


# A crash


@pytest.mark.parametrize("files", range(FILES_TO_COPY))
def test_a_crash_while_copying_changes_nothing_that_is_served(
    directory: ModelDirectory, model: str, better_model: str, provenance: str, files: int
) -> None:
    directory.publish(3, better_model, provenance)
    with crash_after(files), pytest.raises(Crash):
        directory.publish(7, model, provenance)
    assert directory.versions() == [3]
    assert not Path(directory.version_uri(7)).exists()
    assert read(Path(directory.version_uri(3))) == BETTER_MODEL
    assert read(Path(directory.provenance_uri(3))) == PROVENANCE


@pytest.mark.usefixtures("object_store")
@pytest.mark.parametrize("files", range(FILES_TO_COPY))
def test_a_crash_while_copying_to_an_object_store_changes_nothing_that_is_served(
    directory: ModelDirectory, model: str, better_model: str, provenance: str, files: int
) -> None:
    directory.publish(3, better_model, provenance)
    with crash_after(files, torn=False), pytest.raises(Crash):  # objects are written whole
        directory.publish(7, model, provenance)
    assert directory.versions() == [3]
    assert read(Path(directory.version_uri(3))) == BETTER_MODEL


@pytest.mark.usefixtures("object_store")
def test_a_version_in_an_object_store_is_visible_with_every_file(
    directory: ModelDirectory, model: str, provenance: str
) -> None:
    directory.publish(7, model, provenance)
    assert directory.versions() == [7]
    assert read(Path(directory.version_uri(7))) == MODEL


@pytest.mark.parametrize("files", range(FILES_TO_COPY))
def test_after_a_crash_the_next_version_is_published_whole(
    directory: ModelDirectory, model: str, provenance: str, files: int
) -> None:
    crashed = directory.next_version()
    with crash_after(files), pytest.raises(Crash):
        directory.publish(crashed, model, provenance)
    version = directory.next_version()
    directory.publish(version, model, provenance)
    assert directory.versions() == [version]
    assert read(Path(directory.version_uri(version))) == MODEL
    assert read(Path(directory.provenance_uri(version))) == PROVENANCE


@pytest.mark.parametrize("files", range(FILES_TO_COPY))
def test_after_a_crash_the_same_number_may_be_published_and_has_its_own_files_only(
    directory: ModelDirectory, model: str, better_model: str, provenance: str, files: int
) -> None:
    with crash_after(files), pytest.raises(Crash):
        directory.publish(7, model, provenance)
    directory.publish(7, better_model, better_model)
    assert directory.versions() == [7]
    assert read(Path(directory.version_uri(7))) == BETTER_MODEL
    assert read(Path(directory.provenance_uri(7))) == BETTER_MODEL


@pytest.mark.usefixtures("object_store")
def test_the_number_of_a_version_that_was_not_published_whole_is_not_used_again(
    directory: ModelDirectory, model: str, provenance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_387_000_000.0)
    with crash_after(FILES_TO_COPY - 1), pytest.raises(Crash):
        directory.publish(directory.next_version(), model, provenance)
    assert directory.next_version() == 1_387_000_001


def test_a_model_that_was_not_published_whole_is_not_found_by_its_digest(
    directory: ModelDirectory, model: str, provenance: str
) -> None:
    with crash_after(FILES_TO_COPY - 1), pytest.raises(Crash):
        directory.publish(7, model, provenance)
    assert directory.find("model_digest", "abc") is None


@pytest.mark.parametrize("last", [SAVED_MODEL, "variables/variables.index", "assets/vocabulary"])
def test_the_file_named_last_is_copied_last(model: str, tmp_path: Path, last: str) -> None:
    with crash_after(len(MODEL) - 1), pytest.raises(Crash):
        copy_tree(model, str(tmp_path / "copy"), last=last)
    assert read(tmp_path / "copy") == {**MODEL, last: b"ha"}


@pytest.mark.parametrize("name", ["a b", "50%20", "#1", "é", "+"])
def test_names_are_copied_as_they_are(tmp_path: Path, name: str) -> None:
    tree = {f"{name}/{name}": b"content"}
    copy_tree(str(write(tmp_path / "source", tree)), str(tmp_path / name))
    assert read(tmp_path / name) == tree


# What counts as a version


def a_model(folder: Path) -> None:
    write(folder, {SAVED_MODEL: b"graph"})


def a_folder(folder: Path) -> None:
    folder.mkdir()


def a_file(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize("name", [".flightdeck", "tmp-7", "7.tmp", "-7", "1e3", "v7", "٧", "²"])  # noqa: RUF001
def test_names_that_are_not_numbers_are_no_versions(directory: ModelDirectory, name: str) -> None:
    a_model(Path(directory.uri) / "6")
    a_model(Path(directory.uri) / name)
    assert directory.versions() == [6]


def test_names_that_are_no_utf_8_are_no_models_and_no_versions(
    directory: ModelDirectory, model: str, provenance: str
) -> None:
    directory.publish(7, model, provenance)
    for folder in (directory.serving_dir, directory.uri, directory.rolled_back_uri(1)):
        os.makedirs(os.path.join(os.fsencode(folder), b"\xff"))
    assert find_models(directory.serving_dir) == [directory.model_name]
    assert directory.versions() == [7]
    assert directory.ignored() == []
    directory.publish(8, model, provenance)
    os.makedirs(os.path.join(os.fsencode(directory.version_uri(8)), b"\xff"))
    with pytest.raises(NotAFileError, match=f"{directory.version_uri(8)} holds a name"):
        file_sizes(directory.version_uri(8))


def test_a_number_without_a_saved_model_is_no_version(directory: ModelDirectory) -> None:
    a_model(Path(directory.uri) / "6")
    a_folder(Path(directory.uri) / "7")
    a_file(Path(directory.uri) / "8")
    assert directory.versions() == [6]


numbers = st.integers(0, 10**10)  # the time is near the first fifth of them
names = st.one_of(
    numbers.map(str),
    numbers.map("{:012d}".format),
    st.from_regex(r"[a-z0-9._-]{1,8}", fullmatch=True),
).filter(lambda name: name not in (".", ".."))
folders = st.dictionaries(names, st.sampled_from([a_model, a_folder, a_file]), max_size=8)


@given(folders)
@example({"7": a_model, "007": a_model})
@example({"007": a_model})
def test_versions_are_the_numbered_folders_that_hold_a_model_oldest_first(
    content: dict[str, object],
) -> None:
    with tempfile.TemporaryDirectory() as root:
        directory = fill(root, content)
        expected = {
            int(name)
            for name, make in content.items()
            if make is a_model and name.isdigit() and name == str(int(name))
        }
        assert directory.versions() == sorted(expected)
        assert directory.served() == max(expected, default=None)


@given(content=folders, provenance=st.sets(numbers, max_size=3))
def test_the_next_version_is_later_than_every_number_there_is_and_not_before_now(
    content: dict[str, object], provenance: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as root:
        directory = fill(root, content)
        for number in provenance:
            Path(directory.provenance_uri(number)).mkdir(parents=True)
        taken = {int(name) for name in content if name.isdigit()} | provenance
        before = int(time.time())
        following = directory.next_version()
        assert all(number < following for number in taken)
        assert before <= following <= max(int(time.time()), 1 + max(taken, default=0))


def fill(root: str, content: Mapping[str, object]) -> ModelDirectory:
    directory = ModelDirectory(root, "model_name")
    Path(directory.uri).mkdir()
    for name, make in content.items():
        assert callable(make)
        make(Path(directory.uri) / name)
    return directory


@pytest.mark.parametrize("name", ["20261126153000123456", "9" * 200, "007", "٧", str(2**63)])  # noqa: RUF001
def test_a_number_that_no_server_can_load_is_no_version_and_is_named(
    directory: ModelDirectory, name: str
) -> None:
    for folder in ("6", name, f".flightdeck/{name}", f".flightdeck/rolled_back/{name}"):
        a_model(Path(directory.uri, folder))
    assert directory.versions() == [6]
    assert directory.rolled_back() == []
    assert directory.ignored() == [name]
    assert directory.next_version() < 2**63
    version = directory.next_version()
    publish(directory, version)
    assert directory.versions() == [6, version]


@pytest.mark.parametrize("version", [-1, 2**63])
def test_a_number_that_no_server_can_load_is_not_published(
    directory: ModelDirectory, model: str, provenance: str, version: int
) -> None:
    with pytest.raises(ValueError, match=f"{version} is no number of a version"):
        directory.publish(version, model, provenance)
    assert not Path(directory.uri).exists()


def test_after_the_highest_number_there_is_no_other(directory: ModelDirectory) -> None:
    a_model(Path(directory.uri) / str(2**63 - 1))
    with pytest.raises(ValueError, match="leaves no higher number for a new version: move it away"):
        directory.next_version()


def test_versions_published_within_a_second_have_numbers_in_order(
    directory: ModelDirectory, model: str, provenance: str
) -> None:
    published = []
    for _ in range(3):
        published.append(directory.next_version())
        directory.publish(published[-1], model, provenance)
    assert published == sorted(set(published)) == directory.versions()


def test_the_next_version_is_the_time_in_seconds(
    directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_387_000_000.9)
    assert directory.next_version() == 1_387_000_000


def test_the_next_version_grows_when_the_clock_goes_back(
    directory: ModelDirectory, model: str, provenance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.publish(2_000_000_000, model, provenance)
    monkeypatch.setattr(time, "time", lambda: 1_387_000_000.0)
    assert directory.next_version() == 2_000_000_001


# Rolling back and promoting


def publish(
    directory: ModelDirectory,
    *versions: int,
    sign: Callable[[ModelDirectory, int], None] | None = None,
) -> None:
    """Publishes versions whose content and digest say which they are."""
    with tempfile.TemporaryDirectory() as folder:
        for version in versions:
            model = write(Path(folder) / f"model{version}", content_of(version))
            record = {"model_digest": model_digest(str(model))}
            provenance = {PROVENANCE_FILE: json.dumps(record).encode()}
            source = write(Path(folder) / f"provenance{version}", provenance)
            directory.publish(version, str(model), str(source), sign)


def sign_with_nothing(private: ModelDirectory, version: int) -> None:
    Path(private.signature_uri(version)).touch()


def content_of(version: int) -> dict[str, bytes]:
    return {SAVED_MODEL: b"graph", "variables/index": str(version).encode(), "assets/a": b"a"}


@pytest.fixture(params=["local", "object store"])
def either(directory: ModelDirectory, request: pytest.FixtureRequest) -> Iterator[ModelDirectory]:
    """A model's directory, local and in an object store."""
    if request.param == "local":
        yield directory
    else:
        with as_object_store():
            yield directory


def test_what_is_rolled_back_is_moved_aside_whole_and_the_version_before_is_served(
    either: ModelDirectory,
) -> None:
    publish(either, 7, 8, 9)
    assert either.rollback() == Change(version=9, served=8)
    assert either.versions() == [7, 8]
    assert either.rolled_back() == [9]
    assert not Path(either.version_uri(9)).exists()
    assert read(Path(either.rolled_back_uri(9))) == content_of(9)
    assert either.provenance(9)["model_digest"]


def test_what_is_promoted_is_served_again_as_it_was(either: ModelDirectory) -> None:
    publish(either, 7, 8, 9)
    either.rollback()
    either.rollback()
    assert either.rolled_back() == [8, 9]
    assert either.promote() == Change(version=9, served=9)
    assert either.versions() == [7, 9]
    assert either.rolled_back() == [8]
    assert read(Path(either.version_uri(9))) == content_of(9)
    assert not Path(either.rolled_back_uri(9)).exists()


def test_a_version_that_is_not_the_newest_is_rolled_back_and_promoted_without_being_served(
    either: ModelDirectory,
) -> None:
    publish(either, 7, 8, 9)
    assert either.rollback(8) == Change(version=8, served=9)
    assert either.versions() == [7, 9]
    assert either.promote(8) == Change(version=8, served=9)
    assert either.versions() == [7, 8, 9]


def test_the_last_version_that_loads_is_not_rolled_back(either: ModelDirectory) -> None:
    publish(either, 7, 8)
    either.rollback()
    (Path(either.uri) / "6" / "variables").mkdir(parents=True)
    for version in (None, 7):
        with pytest.raises(ValueError, match="version 7 is the only one"):
            either.rollback(version)
    assert either.versions() == [7]


def test_the_last_version_is_withdrawn_on_purpose_and_comes_back(either: ModelDirectory) -> None:
    publish(either, 7)
    assert not either.withdrawn()
    assert either.rollback(withdraw=True) == Change(7, None)
    assert (either.versions(), either.rolled_back()) == ([], [7])
    assert either.withdrawn()
    assert either.promote() == Change(7, 7)
    assert not either.withdrawn()
    assert read(Path(either.version_uri(7))) == content_of(7)
    either.rollback(withdraw=True)
    publish(either, 8)
    assert not either.withdrawn()
    assert either.served() == 8


def test_what_is_gone_without_a_word_was_not_withdrawn(either: ModelDirectory) -> None:
    publish(either, 7, 8)
    assert either.rollback(withdraw=True) == Change(8, 7)
    shutil.rmtree(either.version_uri(7))
    assert not either.withdrawn()
    shutil.rmtree(either.uri)
    assert not either.withdrawn()


def test_a_withdrawal_that_a_crash_left_undone_withdraws_nothing(
    directory: ModelDirectory,
) -> None:
    publish(directory, 7)
    note = write(Path(directory.uri, ".flightdeck"), {"withdrawn": b"7\n"}) / "withdrawn"
    assert not directory.withdrawn()
    directory.pin(7, "stable")
    assert not note.exists()


def test_a_version_with_a_label_is_not_rolled_back_before_the_label_is_taken_away(
    either: ModelDirectory,
) -> None:
    publish(either, 7, 8)
    either.pin(8, "stable")
    with pytest.raises(ValueError, match="version 8 is pinned by the label 'stable'"):
        either.rollback()
    assert either.versions() == [7, 8]
    assert either.unpin("stable") == 8
    assert either.rollback() == Change(version=8, served=7)


@pytest.mark.parametrize("version", [6, 8])
def test_what_is_not_there_is_not_rolled_back_and_the_message_says_what_is(
    either: ModelDirectory, version: int
) -> None:
    publish(either, 7, 8, 9)
    either.rollback(8)
    with pytest.raises(LookupError, match=f"no version {version} .* has 7, 9 and rolled back 8"):
        either.rollback(version)


@pytest.mark.parametrize("version", [7, 8])
def test_what_was_not_rolled_back_is_not_promoted(either: ModelDirectory, version: int) -> None:
    publish(either, 7)
    with pytest.raises(LookupError, match=r"no version to promote .*, which has 7"):
        either.promote()
    with pytest.raises(LookupError, match=f"no version {version} to promote"):
        either.promote(version)


def test_of_a_model_without_versions_nothing_is_rolled_back(either: ModelDirectory) -> None:
    with pytest.raises(LookupError, match=r"no version to roll back .*, which has none"):
        either.rollback()


def test_a_version_that_was_rolled_back_is_not_published_again_nor_is_its_number_used(
    either: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(either, 7, 8)
    either.rollback()
    with pytest.raises(FileExistsError, match=r"version 8 exists in .*, rolled back"):
        publish(either, 8)
    monkeypatch.setattr(time, "time", lambda: 1.0)
    for name in PROVENANCE:
        Path(either.provenance_uri(8), name).unlink(missing_ok=True)
    Path(either.provenance_uri(8)).rmdir()
    assert either.next_version() == 9


def test_a_digest_finds_a_version_that_was_rolled_back_after_those_that_load(
    either: ModelDirectory, model: str, provenance: str
) -> None:
    for version in (7, 8, 9):
        either.publish(version, model, provenance)
    either.rollback()
    assert either.find("model_digest", "abc") == 8
    publish(either, 10)
    either.rollback(7)
    either.rollback(8)
    assert either.find("model_digest", "abc") == 9


def test_a_local_version_that_is_in_the_way_is_left_alone(directory: ModelDirectory) -> None:
    publish(directory, 7, 8)
    in_the_way = write(Path(directory.rolled_back_uri(8)), {"saved_model.pb": b"other"})
    with pytest.raises(FileExistsError, match="is in the way"):
        directory.rollback()
    assert read(in_the_way) == {"saved_model.pb": b"other"}
    assert directory.served() == 8


# Labels


def test_a_label_pins_a_version_and_moves_to_another(either: ModelDirectory) -> None:
    publish(either, 7, 8)
    assert either.labels() == {}
    either.pin(7, "stable")
    either.pin(8, "canary")
    assert either.labels() == {"canary": 8, "stable": 7}
    either.pin(8, "stable")
    assert either.labels() == {"canary": 8, "stable": 8}
    assert json.loads(Path(either.uri, ".flightdeck", LABELS_FILE).read_text()) == either.labels()


@pytest.mark.parametrize("version", [6, 8])
def test_only_a_version_that_loads_gets_a_label(either: ModelDirectory, version: int) -> None:
    publish(either, 7, 8)
    either.rollback()
    with pytest.raises(LookupError, match=f"no version {version} to pin"):
        either.pin(version, "stable")
    assert either.labels() == {}


@pytest.mark.parametrize("label", ["", "a b", "a/b", ".hidden", "é", "a\n", "x" * 64])
def test_a_label_is_a_name_that_a_url_can_hold(directory: ModelDirectory, label: str) -> None:
    publish(directory, 7)
    with pytest.raises(ValueError, match="letters, digits"):
        directory.pin(7, label)
    assert directory.labels() == {}


def test_nothing_is_written_through_a_link(directory: ModelDirectory, tmp_path: Path) -> None:
    publish(directory, 7)
    home, target = Path(directory.uri, ".flightdeck"), tmp_path / "target"
    target.write_text("precious")
    (home / f"{LABELS_FILE}.new").symlink_to(target)
    with directory.locked():  # Put there after what was left behind is deleted.
        (home / f"{LABELS_FILE}.new").symlink_to(target)
        directory.pin(7, "stable")
    assert directory.labels() == {"stable": 7}
    (home / LABELS_FILE).unlink()
    (home / LABELS_FILE).symlink_to(target)
    with pytest.raises(ValueError, match="is not JSON"):
        directory.pin(7, "stable")
    (home / LABELS_FILE).unlink()
    (home / "lock").unlink()
    (home / "lock").symlink_to(tmp_path / "made")
    with pytest.raises(OSError, match="symbolic links"):
        directory.pin(7, "stable")
    assert target.read_text() == "precious"
    assert not (tmp_path / "made").exists()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def an_endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_large_file(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def a_deep_file(path: Path) -> None:
    path.write_text("[" * 10**5)


@pytest.mark.parametrize("make", [a_pipe, an_endless_device, a_large_file, a_deep_file, a_folder])
def test_what_would_never_end_is_not_read(
    directory: ModelDirectory, make: Callable[[Path], None]
) -> None:
    publish(directory, 7)
    home = Path(directory.uri, ".flightdeck")
    Path(home, "7", PROVENANCE_FILE).unlink()
    for path in (home / LABELS_FILE, home / "7" / PROVENANCE_FILE, home / "7" / SIGNATURE_FILE):
        make(path)
    with pytest.raises(ValueError, match=LABELS_FILE):
        directory.labels()
    with pytest.raises(ValueError, match=PROVENANCE_FILE):
        directory.provenance(7)
    if make is not a_deep_file:
        with pytest.raises(NotAFileError, match=SIGNATURE_FILE):
            read_file(directory.signature_uri(7), 1000)


def test_a_label_that_is_not_there_is_not_taken_away(directory: ModelDirectory) -> None:
    publish(directory, 7)
    with pytest.raises(LookupError, match=r"no label 'stable' .*, which has none"):
        directory.unpin("stable")
    directory.pin(7, "canary")
    with pytest.raises(LookupError, match=r"no label 'stable' .*, which has canary"):
        directory.unpin("stable")


@pytest.mark.parametrize("content", ["{", "[]", '{"stable": "7"}', '{"stable": true}', "\xff"])
def test_a_file_of_labels_that_somebody_spoilt_is_named(
    directory: ModelDirectory, content: str
) -> None:
    publish(directory, 7, 8)
    Path(directory.uri, ".flightdeck", LABELS_FILE).write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=LABELS_FILE):
        directory.labels()
    with pytest.raises(ValueError, match=LABELS_FILE):
        directory.retain(1)
    assert directory.versions() == [7, 8]


# Retention


def test_the_newest_versions_and_those_with_a_label_are_kept(either: ModelDirectory) -> None:
    publish(either, *range(1, 9))
    either.pin(2, "stable")
    for version in (3, 5, 6):
        either.rollback(version)
    assert either.retain(2) == [1, 3, 4]
    assert either.versions() == [2, 7, 8]
    assert either.rolled_back() == [5, 6]
    home = Path(either.uri, ".flightdeck")
    others = {"lock", LABELS_FILE, "rolled_back"}
    assert {p.name for p in home.iterdir()} - others == {"2", "5", "6", "7", "8"}
    assert {p.name for p in Path(either.uri).iterdir()} == {".flightdeck", "2", "7", "8"}
    assert either.retain(2) == []


@pytest.mark.parametrize("keep", [0, -1])
def test_at_least_one_version_is_kept(directory: ModelDirectory, keep: int) -> None:
    publish(directory, 7)
    with pytest.raises(ValueError, match="at least 1"):
        directory.retain(keep)
    assert directory.versions() == [7]


def test_the_served_version_is_kept_whatever_is_newer_among_those_rolled_back(
    either: ModelDirectory,
) -> None:
    publish(either, 7, 8, 9)
    either.rollback()
    either.rollback()
    assert either.retain(1) == [8]
    assert either.versions() == [7]
    assert either.rolled_back() == [9]


# Who may read


@pytest.mark.parametrize("umask", [0o077, 0o027, 0])
@pytest.mark.parametrize("file_mode", [0o644, 0o640, 0o600])
def test_modes_are_those_that_are_set_whatever_the_umask(
    tmp_path: Path, model: str, provenance: str, umask: int, file_mode: int
) -> None:
    directory = ModelDirectory(str(tmp_path / "serving"), "model_name", file_mode)
    before = os.umask(umask)
    try:
        for version in (7, 8):
            directory.publish(version, model, provenance)
        directory.pin(7, "stable")
        directory.rollback(8)
    finally:
        os.umask(before)
    modes = {
        path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "serving", *(tmp_path / "serving").rglob("*"))
        if path.name != "lock"
    }
    folder_mode = file_mode | (file_mode & 0o444) >> 2
    assert {modes[path] for path in modes if (tmp_path / path).is_dir()} == {folder_mode}
    assert {modes[path] for path in modes if (tmp_path / path).is_file()} == {file_mode}
    assert {path.partition(".flightdeck/")[2] for path in modes} >= {
        *("labels.json", "rolled_back/8/saved_model.pb", "7/provenance.json")
    }


def test_nobody_else_reads_a_version_before_it_is_published(
    directory: ModelDirectory, model: str, provenance: str
) -> None:
    before = os.umask(0)
    try:
        with crash_after(FILES_TO_COPY - 1), pytest.raises(Crash):
            directory.publish(7, model, provenance)
    finally:
        os.umask(before)
    staging = Path(directory.uri, ".flightdeck", "staging-7")
    assert stat.S_IMODE(staging.stat().st_mode) == 0o700


# Signing


def test_what_is_signed_is_the_copy_before_a_server_sees_it(
    either: ModelDirectory, model: str, provenance: str
) -> None:
    seen = []

    def sign(private: ModelDirectory, version: int) -> None:
        model, provenance = Path(private.version_uri(7)), Path(private.provenance_uri(7))
        seen.append((version, private.model_name, read(model), read(provenance), either.versions()))
        assert stat.S_IMODE(os.stat(private.serving_dir).st_mode) == 0o700
        assert not Path(private.serving_dir).is_relative_to(either.serving_dir)
        (provenance / SIGNATURE_FILE).write_bytes(b"signature")

    either.publish(7, model, provenance, sign)
    assert seen == [(7, "model_name", MODEL, PROVENANCE, [])]
    assert Path(either.signature_uri(7)).read_bytes() == b"signature"
    assert read(Path(either.provenance_uri(7))) == {**PROVENANCE, SIGNATURE_FILE: b"signature"}
    assert read(Path(either.version_uri(7))) == MODEL


def test_what_cannot_be_signed_is_not_published(
    either: ModelDirectory, model: str, provenance: str
) -> None:
    def sign(private: ModelDirectory, version: int) -> None:
        raise OSError("no key")

    with pytest.raises(OSError, match="no key"):
        either.publish(7, model, provenance, sign)
    assert either.versions() == []
    either.publish(7, model, provenance)
    assert not Path(either.signature_uri(7)).exists()


# Sequences


class Changes(RuleBasedStateMachine):
    """Compares the directory with what a few sets say of it, whatever is done in whatever order."""

    store = False

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.as_store = as_object_store()
        if self.store:
            self.as_store.__enter__()
        self.directory = ModelDirectory(self.folder.name, "model_name")
        self.live: set[int] = set()
        self.aside: set[int] = set()
        self.labels: dict[str, int] = {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            if self.store:
                self.as_store.__exit__(None, None, None)
            self.folder.cleanup()

    @rule(version=st.integers(1, 12))
    def publish(self, version: int) -> None:
        if version in self.live | self.aside:
            with pytest.raises(FileExistsError):
                publish(self.directory, version)
        else:
            publish(self.directory, version)
            self.live.add(version)

    @rule(version=st.none() | st.integers(1, 12), withdraw=st.booleans())
    def rollback(self, version: int | None, withdraw: bool) -> None:
        chosen = max(self.live, default=0) if version is None else version
        if chosen not in self.live:
            with pytest.raises(LookupError):
                self.directory.rollback(version, withdraw=withdraw)
        elif (len(self.live) == 1 and not withdraw) or chosen in self.labels.values():
            with pytest.raises(ValueError, match=f"version {chosen}"):
                self.directory.rollback(version, withdraw=withdraw)
        else:
            self.live.remove(chosen)
            self.aside.add(chosen)
            change = self.directory.rollback(version, withdraw=withdraw)
            assert change == Change(chosen, max(self.live, default=None))

    @rule(version=st.none() | st.integers(1, 12))
    def promote(self, version: int | None) -> None:
        chosen = max(self.aside, default=0) if version is None else version
        if chosen not in self.aside:
            with pytest.raises(LookupError):
                self.directory.promote(version)
        else:
            self.aside.remove(chosen)
            self.live.add(chosen)
            assert self.directory.promote(version) == Change(chosen, max(self.live))

    @rule(version=st.integers(1, 12), label=st.sampled_from(["stable", "canary"]))
    def pin(self, version: int, label: str) -> None:
        if version not in self.live:
            with pytest.raises(LookupError):
                self.directory.pin(version, label)
        else:
            self.directory.pin(version, label)
            self.labels[label] = version

    @precondition(lambda self: self.labels)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        label = data.draw(st.sampled_from(sorted(self.labels)))
        assert self.directory.unpin(label) == self.labels.pop(label)

    @rule(keep=st.integers(1, 4))
    def retain(self, keep: int) -> None:
        kept = set(sorted(self.live)[-keep:]) | set(sorted(self.aside)[-keep:])
        kept |= set(self.labels.values())
        assert set(self.directory.retain(keep)) == (self.live | self.aside) - kept
        self.live &= kept
        self.aside &= kept

    @invariant()
    def everything_is_in_its_place(self) -> None:
        if not hasattr(self, "directory"):
            return
        assert self.directory.versions() == sorted(self.live)
        assert self.directory.rolled_back() == sorted(self.aside)
        assert self.directory.labels() == self.labels
        assert self.directory.withdrawn() == (not self.live and bool(self.aside))
        for version in self.live:
            assert read(Path(self.directory.version_uri(version))) == content_of(version)
        for version in self.aside:
            assert read(Path(self.directory.rolled_back_uri(version))) == content_of(version)
        assert provenance_of(self.directory) == sorted(self.live | self.aside)
        assert self.directory.next_version() > max(self.live | self.aside, default=0)


class ChangesInAStore(Changes):
    store = True


def provenance_of(directory: ModelDirectory) -> list[int]:
    home = Path(directory.uri, ".flightdeck")
    return sorted(int(path.name) for path in home.glob("*") if path.name.isdigit())


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=25, stateful_step_count=25)
TestChangesInAStore = ChangesInAStore.TestCase
TestChangesInAStore.settings = TestChanges.settings


# Crashes and other processes


def assert_sound(directory: ModelDirectory) -> None:
    """Each version is whole and in one place, and one at least can be served."""
    live, aside = directory.versions(), directory.rolled_back()
    assert live
    assert not set(live) & set(aside)
    uris = {version: directory.version_uri(version) for version in live}
    uris |= {version: directory.rolled_back_uri(version) for version in aside}
    for version, uri in uris.items():
        assert model_digest(uri) == directory.provenance(version)["model_digest"]
    assert set(directory.labels().values()) <= set(live)


def assert_still_works(directory: ModelDirectory) -> None:
    """After the next change nothing half-made is left, and every operation does what it says."""
    version = directory.next_version()
    publish(directory, version)
    home = Path(directory.uri, ".flightdeck")
    assert {p.name for p in home.iterdir() if not p.name.isdigit()} <= {
        *("lock", "rolled_back", LABELS_FILE)
    }
    assert {p.name for p in Path(directory.uri).iterdir()} == {
        *(".flightdeck", *map(str, directory.versions()))
    }
    assert directory.rollback().version == version
    assert directory.promote() == Change(version, version)
    directory.pin(version, "after")
    assert directory.unpin("after") == version
    assert_sound(directory)


# Changes the directory at random, for so many steps, and says what it has published. Whatever is
# refused (the last version, nothing to promote) is passed over.
CHANGES = """
import random, sys
from storage.directory import ModelDirectory
serving_dir, sources, seed, steps, operations = sys.argv[1:]
directory, chance = ModelDirectory(serving_dir, "model_name"), random.Random(int(seed))
print("ready", flush=True)
for _ in range(int(steps)):
    operation = chance.choice(operations.split(","))
    try:
        if operation == "publish":
            source = f"{sources}/{chance.randrange(3)}"
            with directory.locked():
                version = directory.next_version()
                directory.publish(version, f"{source}/model", f"{source}/provenance")
            print(version, flush=True)
        elif operation == "pin":
            directory.pin(chance.choice(directory.versions()), chance.choice("ab"))
        elif operation == "unpin":
            directory.unpin(chance.choice("ab"))
        elif operation == "retain":
            directory.retain(3)
        else:
            versions = {"rollback": directory.versions, "promote": directory.rolled_back}
            getattr(directory, operation)(chance.choice([None, *versions[operation]()]))
    except (LookupError, ValueError):
        pass
"""


@pytest.fixture
def change(
    directory: ModelDirectory, tmp_path: Path
) -> Callable[[int, int, str], subprocess.Popen[str]]:
    """Starts a process that changes the directory, in which version 1 is."""
    for name in range(3):
        tree = {**content_of(name), "variables/data": random.Random(name).randbytes(1 << 20)}
        source = tmp_path / "sources" / str(name)
        record = {"model_digest": model_digest(str(write(source / "model", tree)))}
        write(source / "provenance", {PROVENANCE_FILE: json.dumps(record).encode()})
    publish(directory, 1)

    def start(seed: int, steps: int, operations: str) -> subprocess.Popen[str]:
        arguments = (directory.serving_dir, tmp_path / "sources", seed, steps, operations)
        command = [sys.executable, "-c", CHANGES, *map(str, arguments)]
        process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    return start


@pytest.mark.parametrize("operations", ["publish,rollback,promote,pin,unpin", "all"])
def test_a_process_may_be_killed_at_any_moment(
    directory: ModelDirectory,
    change: Callable[[int, int, str], subprocess.Popen[str]],
    operations: str,
) -> None:
    may_delete = operations == "all"
    if may_delete:
        operations = "publish,rollback,promote,pin,unpin,retain"
    published = {1}
    for seed in range(20):
        process = change(seed, 10**6, operations)
        time.sleep(random.uniform(0, 0.1))
        process.kill()
        published |= {int(line) for line in process.communicate()[0].splitlines()}
        assert_sound(directory)
        if not may_delete:
            assert published <= {*directory.versions(), *directory.rolled_back()}
    assert_still_works(directory)


def test_processes_may_change_the_directory_at_the_same_time(
    directory: ModelDirectory, change: Callable[[int, int, str], subprocess.Popen[str]]
) -> None:
    processes = [change(seed, 40, "publish,rollback,promote,pin,unpin") for seed in range(3)]
    while any(process.poll() is None for process in processes):
        with directory.locked():
            assert_sound(directory)
        directory.versions(), directory.rolled_back(), directory.labels()  # As a server looks.
        time.sleep(0.01)
    outputs = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    published = [1, *(int(version) for output in outputs for version in output)]
    assert len(published) == len(set(published))
    assert sorted(published) == sorted([*directory.versions(), *directory.rolled_back()])
    assert_still_works(directory)


def test_whoever_finds_the_directory_locked_says_so_after_a_while(
    directory: ModelDirectory,
) -> None:
    publish(directory, 7, 8)
    refused = []

    def wait() -> None:
        try:
            with directory.locked(wait_seconds=0.05):
                pass
        except TimeoutError as error:
            refused.append(str(error))

    with directory.locked():
        directory.rollback()  # The thread that holds it goes on.
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join()
    assert refused == [f"another process has been changing {directory.uri} for 0.05 seconds"]
    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join()
    assert len(refused) == 1


def test_a_lock_ends_with_its_process(directory: ModelDirectory) -> None:
    publish(directory, 7, 8)
    script = (
        "import sys, time; from storage.directory import ModelDirectory\n"
        "with ModelDirectory(sys.argv[1], 'model_name').locked(): print(flush=True); time.sleep(99)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, directory.serving_dir], cwd=PROJECT, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(TimeoutError), directory.locked(wait_seconds=0):
        pass
    holder.kill()
    holder.communicate()
    assert directory.rollback() == Change(version=8, served=7)


@pytest.mark.parametrize("change", ["pin(8, 'stable')", "publish(9, *sys.argv[2:])"])
def test_a_disk_that_is_full_leaves_everything_as_it_was(
    directory: ModelDirectory, model: str, provenance: str, change: str
) -> None:
    publish(directory, 7, 8)
    directory.pin(7, "stable")
    script = (
        "import resource, sys; from storage.directory import ModelDirectory\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))\n"
        f"ModelDirectory(sys.argv[1], 'model_name').{change}"
    )
    command = [sys.executable, "-B", "-c", script, directory.serving_dir, model, provenance]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert directory.labels() == {"stable": 7}
    assert directory.versions() == [7, 8]
    assert_still_works(directory)


OPERATIONS: dict[str, Callable[[ModelDirectory], object]] = {
    "rollback": lambda directory: directory.rollback(9),
    "promote": lambda directory: directory.promote(6),
    "retain": lambda directory: directory.retain(1),
    "publish": lambda directory: publish(directory, 10),
    "sign": lambda directory: publish(directory, 10, sign=sign_with_nothing),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("objects", range(12))
def test_a_crash_in_an_object_store_loses_no_version_and_shows_no_half_one(
    directory: ModelDirectory, operation: str, objects: int
) -> None:
    with as_object_store():
        publish(directory, 6, 7, 8, 9)
        directory.rollback(6)
    with as_object_store(crash_before=objects), suppress(Crash):
        OPERATIONS[operation](directory)
    with as_object_store():
        live, aside = set(directory.versions()), set(directory.rolled_back())
        assert_sound(directory)
        if operation != "retain":
            assert {6, 7, 8, 9} <= live | aside
        else:
            assert 9 in live
        # What was interrupted can be done again, and so can everything else.
        if operation == "rollback" and 9 in live:
            directory.rollback(9)
        if operation == "promote" and 6 in aside:
            directory.promote(6)
        if operation == "retain":
            directory.retain(1)
            assert directory.versions() == [9]
        version = directory.next_version()
        publish(directory, version)
        assert directory.rollback().version == version
        assert directory.promote() == Change(version, version)
        assert_sound(directory)


def test_a_deletion_that_was_interrupted_is_finished_by_the_next_change(
    directory: ModelDirectory,
) -> None:
    publish(directory, 7, 8)
    home = Path(directory.uri, ".flightdeck")
    os.rename(directory.version_uri(7), home / "deleted-7")
    (home / "labels.json.new").write_text("{")
    for name in ("deleted-", "deleted-rolled_back", "notes.new"):  # None of its own making.
        write(home / name, {"file": b""})
    assert directory.versions() == [8]
    publish(directory, 9)
    others = {"deleted-", "deleted-rolled_back", "notes.new"}
    assert {path.name for path in home.iterdir()} == {"8", "9", "lock", *others}
    assert provenance_of(directory) == [8, 9]


# Provenance


def test_a_version_without_provenance_has_an_empty_record(directory: ModelDirectory) -> None:
    a_model(Path(directory.uri) / "6")
    assert directory.provenance(6) == {}


def test_the_provenance_of_a_version_is_what_was_published_with_it(
    directory: ModelDirectory, model: str, provenance: str
) -> None:
    directory.publish(7, model, provenance)
    assert directory.provenance(7) == {"model_digest": "abc"}


def test_a_digest_finds_the_newest_version_that_was_published_with_it(
    directory: ModelDirectory, model: str, provenance: str, tmp_path: Path
) -> None:
    other = write(tmp_path / "other", {PROVENANCE_FILE: b'{"model_digest": "def"}'})
    a_model(Path(directory.uri) / "6")
    for version, source in ((7, provenance), (8, provenance), (9, str(other))):
        directory.publish(version, model, source)
    assert directory.find("model_digest", "abc") == 8
    assert directory.find("model_digest", "def") == 9
    assert directory.find("model_digest", "123") is None


def test_a_digest_of_a_version_that_was_deleted_is_not_found(
    directory: ModelDirectory, model: str, provenance: str
) -> None:
    directory.publish(7, model, provenance)
    for name in MODEL:
        os.remove(os.path.join(directory.version_uri(7), name))
    assert directory.find("model_digest", "abc") is None


# Digests

trees = st.dictionaries(
    st.lists(st.sampled_from(["a", "b", "a b", "é"]), min_size=1, max_size=3).map("/".join),
    st.binary(max_size=3),
    min_size=1,
    max_size=4,
).filter(lambda tree: not any(name.startswith(f"{other}/") for name in tree for other in tree))


@given(one=trees, other=trees)
def test_models_that_differ_in_a_byte_or_a_name_have_other_digests(
    one: dict[str, bytes], other: dict[str, bytes]
) -> None:
    with tempfile.TemporaryDirectory() as root:
        digests = [
            model_digest(str(write(Path(root) / str(index), tree)))
            for index, tree in enumerate((one, other))
        ]
        assert (digests[0] == digests[1]) == (one == other)


@given(tree=trees, data=st.data())
def test_a_digest_changes_with_any_byte_and_with_any_name(
    tree: dict[str, bytes], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(tree)))
    changed = dict(tree)
    if data.draw(st.booleans()):
        assume(tree[name])
        content = bytearray(tree[name])
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        changed[name] = bytes(content)
    else:
        changed[name + "2"] = changed.pop(name)
    with tempfile.TemporaryDirectory() as root:
        before = model_digest(str(write(Path(root) / "before", tree)))
        assert model_digest(str(write(Path(root) / "after", changed))) != before


def test_bytes_that_move_from_one_file_to_another_change_the_digest(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"a": b"xy", "b": b"z"})
    other = write(tmp_path / "other", {"a": b"x", "b": b"yz"})
    assert model_digest(str(one)) != model_digest(str(other))


def test_a_digest_is_64_hexadecimal_digits(model: str) -> None:
    digest = model_digest(model)
    assert len(digest) == 64
    assert set(digest) <= set("0123456789abcdef")


def test_a_digest_does_not_depend_on_place_order_times_or_empty_folders(
    tmp_path: Path, model: str
) -> None:
    elsewhere = write(tmp_path / "elsewhere", dict(reversed(MODEL.items())))
    (elsewhere / "empty").mkdir()
    for path in elsewhere.rglob("*"):
        os.utime(path, (0, 0))
        path.chmod(0o700)
    assert model_digest(str(elsewhere)) == model_digest(model)
    assert model_digest(elsewhere.as_uri() + "/") == model_digest(model)


def test_a_published_version_has_the_digest_of_its_model(
    directory: ModelDirectory, model: str, provenance: str
) -> None:
    directory.publish(7, model, provenance)
    assert model_digest(directory.version_uri(7)) == model_digest(model)


def test_a_name_does_not_decide_how_a_file_is_read(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"vocabulary.gz": b"not compressed"})
    other = write(tmp_path / "other", {"vocabulary.gz": b"something else"})
    assert model_digest(str(one)) != model_digest(str(other))


# Models and files


def test_models_are_found_by_their_versions(tmp_path: Path) -> None:
    assert find_models(str(tmp_path / "nowhere")) == []
    for name in ("b", "a", "rolled_back"):
        publish(ModelDirectory(str(tmp_path), name), 7, 8)
    ModelDirectory(str(tmp_path), "rolled_back").rollback()
    (tmp_path / "keys").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "empty" / "7").mkdir(parents=True)
    assert find_models(str(tmp_path)) == ["a", "b", "rolled_back"]


def test_sizes_are_those_of_each_file(model: str) -> None:
    assert file_sizes(model) == {name: len(content) for name, content in MODEL.items()}


def test_a_local_path_is_told_from_an_object_store(tmp_path: Path) -> None:
    assert local_path(str(tmp_path)) == local_path(tmp_path.as_uri()) == str(tmp_path)
    with as_object_store():
        assert local_path(str(tmp_path)) is None
