"""Files and folders by URI: a local path, `gs://...` or `s3://...`.

Imports neither TFX nor TensorFlow.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

from pyarrow import fs

_MAX_JSON_BYTES = 16 << 20
# How long a request to Google's storage is tried again while it fails.
_RETRY = datetime.timedelta(seconds=60)


class NotAFileError(OSError):
    """A path is not a regular file, or is too large."""


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI, and the path in it.

    Args:
      uri: A path, `gs://...` or `s3://...`. As in Amazon's own tools, the environment says where an
        S3 server is that is not Amazon's (`AWS_ENDPOINT_URL`), and with whose credentials. As in
        Google's, it says where an emulator of their storage is (`STORAGE_EMULATOR_HOST`).

    Raises:
      OSError, ValueError: If there is no such file system.
    """
    scheme, separator, rest = uri.partition("://")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if scheme == "s3" and endpoint and "?" not in uri:
        # pyarrow reads the variable itself from version 17 on.
        files = fs.S3FileSystem(
            endpoint_override=endpoint, region=os.environ.get("AWS_REGION", "us-east-1")
        )
        return files, rest.rstrip("/")
    if scheme == "gs" and "?" not in uri:
        return _google(), rest.rstrip("/")
    files, path = fs.FileSystem.from_uri(uri if separator else os.path.abspath(uri))
    return files, path.rstrip("/")


def _google() -> fs.FileSystem:
    """Google's storage, or the emulator that Google's tools find by the same variable."""
    options: dict[str, Any] = {"retry_time_limit": _RETRY}  # By itself it tries for 15 minutes.
    if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
        scheme, _, host = emulator.partition("://")
        options |= {"anonymous": True, "scheme": scheme, "endpoint_override": host}
    return fs.GcsFileSystem(**options)


def local_path(uri: str) -> str | None:
    """Path of a local file or folder, or None if it is in an object store."""
    files, path = open_uri(uri)
    return path if isinstance(files, fs.LocalFileSystem) else None


def exists(uri: str) -> bool:
    """Whether there is a file or folder."""
    files, path = open_uri(uri)
    return bool(files.get_file_info(path).type != fs.FileType.NotFound)


def read_file(uri: str, at_most: int | None = None) -> bytes:
    """The bytes of a file.

    Args:
      uri: The file.
      at_most: How many bytes it may have; None for any number.

    Raises:
      FileNotFoundError: If there is none.
      NotAFileError: If it is a pipe, a device or a folder, which would never end, or is too large.
    """
    files, path = open_uri(uri)
    info = files.get_file_info(path)
    if info.type in (fs.FileType.Unknown, fs.FileType.Directory):
        raise NotAFileError(f"{uri} is not a file")
    if at_most is not None and (info.size or 0) > at_most:
        raise NotAFileError(f"{uri} has {info.size} bytes; {at_most} are allowed")
    return _read(files, path)


def read_json(uri: str) -> dict[str, Any]:
    """The JSON object in a file; an empty one if there is no file."""
    try:
        content = json.loads(read_file(uri, _MAX_JSON_BYTES))
    except FileNotFoundError:
        return {}
    except NotAFileError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError(f"{uri} is not JSON: it is too deep") from error
    except ValueError as error:
        raise ValueError(f"{uri} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{uri} must hold a JSON object")
    return content


def _read(files: fs.FileSystem, path: str) -> bytes:
    # By default the file name would decide about decompression.
    with files.open_input_stream(path, compression=None) as stream:
        content: bytes = stream.read()
    return content


def file_sizes(uri: str) -> dict[str, int]:
    """Size in bytes of each file below a folder, by its path relative to it."""
    return dict(_sizes(*open_uri(uri)))


def _sizes(files: fs.FileSystem, root: str) -> Iterator[tuple[str, int]]:
    """Path relative to a folder and size in bytes of each file below it."""
    for info in files.get_file_info(fs.FileSelector(root, recursive=True)):
        try:
            name = info.path[len(root) + 1 :]
        except UnicodeDecodeError as error:
            raise NotAFileError(f"{root} holds a name that is no UTF-8, as no model has") from error
        if info.type == fs.FileType.File:
            yield name, info.size


def list_folder(files: fs.FileSystem, folder: str) -> Iterator[fs.FileInfo]:
    """The content of a folder, without names that are not UTF-8."""
    if files.type_name == "gcs":
        yield from _list_google_folder(files, folder)
        return
    for info in files.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        with contextlib.suppress(UnicodeDecodeError):
            _ = info.base_name
            yield info


def _list_google_folder(files: fs.FileSystem, folder: str) -> Iterator[fs.FileInfo]:
    """The content of a folder, also of one without an object of its own, as other tools make it."""
    below = fs.FileSelector(folder, allow_not_found=True, recursive=True)
    found: dict[str, fs.FileInfo] = {}
    for info in files.get_file_info(below):
        name, deeper, _ = info.path[len(folder) + 1 :].rstrip("/").partition("/")
        path = f"{folder}/{name}"
        found[name] = fs.FileInfo(path, fs.FileType.Directory) if deeper else info
    yield from found.values()


def model_digest(model_uri: str) -> str:
    """SHA-256 over the names and contents of a model's files, as 64 hexadecimal digits."""
    files, root = open_uri(model_uri)
    digest = hashlib.sha256()
    for name in sorted(file_sizes(model_uri)):
        content = hashlib.sha256(_read(files, f"{root}/{name}")).hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def copy_tree(source: str, target: str, last: str = "") -> None:
    """Copies the files below `source` to `target`, the one named `last` after all others."""
    copy_between(open_uri(source), open_uri(target), last)


def copy_between(
    source: tuple[fs.FileSystem, str], target: tuple[fs.FileSystem, str], last: str = ""
) -> None:
    """Like `copy_tree`, of folders that `open_uri` found."""
    source_files, source_root = source
    target_files, target_root = target
    names = (name for name, _ in _sizes(source_files, source_root))
    for name in sorted(names, key=lambda name: (name == last, name)):
        path = f"{target_root}/{name}"
        target_files.create_dir(os.path.dirname(path), recursive=True)
        fs.copy_files(
            f"{source_root}/{name}",
            path,
            source_filesystem=source_files,
            destination_filesystem=target_files,
        )


def delete_tree(uri: str) -> None:
    """Deletes a folder, if there is one."""
    files, path = open_uri(uri)
    if exists(uri):
        files.delete_dir(path)
