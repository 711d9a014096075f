"""Tests that a model server sees whole versions only, whatever happens while one is published."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from serving import directory as serving_directory
from serving.directory import (
    PROVENANCE_FILE,
    SAVED_MODEL,
    ModelDirectory,
    copy_tree,
    model_digest,
)

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
FILES_TO_COPY = len(MODEL) + len(PROVENANCE)


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


@pytest.fixture
def object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes local paths pass for those of a store that cannot rename a folder."""

    def open_as_store(uri: str) -> tuple[fs.FileSystem, str]:
        store = fs.SubTreeFileSystem("/", fs.LocalFileSystem())
        return store, os.path.abspath(uri).lstrip("/")

    monkeypatch.setattr(serving_directory, "_open", open_as_store)


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
    assert os.listdir(f"{directory.uri}/.flightdeck") == ["7"]


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
    directory.publish(7, better_model, provenance)
    assert directory.versions() == [7]
    assert read(Path(directory.version_uri(7))) == BETTER_MODEL


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
    assert directory.find_digest("abc") is None


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
@settings(deadline=None)
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
@settings(deadline=None)
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
    assert directory.find_digest("abc") == 8
    assert directory.find_digest("def") == 9
    assert directory.find_digest("123") is None


def test_a_digest_of_a_version_that_was_deleted_is_not_found(
    directory: ModelDirectory, model: str, provenance: str
) -> None:
    directory.publish(7, model, provenance)
    for name in MODEL:
        os.remove(os.path.join(directory.version_uri(7), name))
    assert directory.find_digest("abc") is None


# Digests

trees = st.dictionaries(
    st.lists(st.sampled_from(["a", "b", "a b", "é"]), min_size=1, max_size=3).map("/".join),
    st.binary(max_size=3),
    min_size=1,
    max_size=4,
).filter(lambda tree: not any(name.startswith(f"{other}/") for name in tree for other in tree))


@given(one=trees, other=trees)
@settings(deadline=None)
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
@settings(deadline=None)
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
