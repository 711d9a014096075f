"""Reads files of artifacts, which may have been deleted, and may hold anything."""

from __future__ import annotations

import base64
import json
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from ml.file_names import STATISTICS_FILE
from report.run import Artifact, Run
from storage.uris import NotAFileError, exists, read_file

_MOST_BYTES = 32 << 20
_MOST_PICTURE_BYTES = 200 << 10

_M = TypeVar("_M", bound=Message)


class Absent(Exception):
    """What a section shows is not there; the message says why."""


def find(run: Run, node: str, key: str) -> Artifact:
    """An output artifact of a run.

    Raises:
      Absent: If the node did not run, or its files were deleted.
    """
    artifact = run.output(node, key)
    if artifact is None:
        raise Absent(f"Not made: the run has no {key} of {node}.")
    if not exists(artifact.uri):
        raise Absent(f"The files were deleted since: {artifact.uri}")
    return artifact


def read_json(artifact: Artifact, name: str) -> dict[str, Any]:
    """The JSON object in a file of an artifact.

    Raises:
      Absent: If there is no such file, or it is not a JSON object.
    """
    try:
        content = json.loads(_read(artifact, name))
    except (ValueError, RecursionError) as error:
        raise Absent(f"{artifact.uri}/{name} is not JSON.") from error
    if not isinstance(content, dict):
        raise Absent(f"{artifact.uri}/{name} is not a JSON object.")
    return content


def read_message(artifact: Artifact, name: str, kind: type[_M]) -> _M:
    """The protocol buffer in a file of an artifact.

    Raises:
      Absent: If there is no such file, or it is none.
    """
    try:
        return kind.FromString(_read(artifact, name))
    except DecodeError as error:
        raise Absent(f"{artifact.uri}/{name} is damaged.") from error


def read_picture(artifact: Artifact, name: str) -> str:
    """An SVG file of an artifact as a `data:` URI, in which no script can run.

    Raises:
      Absent: If there is no such file.
    """
    content = _read(artifact, name, _MOST_PICTURE_BYTES)
    return "data:image/svg+xml;base64," + base64.b64encode(content).decode()


def statistics_file(split: str) -> str:
    """Path of the statistics of a split in an `ExampleStatistics` artifact."""
    return f"Split-{split}/{STATISTICS_FILE}"


def _read(artifact: Artifact, name: str, at_most: int = _MOST_BYTES) -> bytes:
    uri = f"{artifact.uri}/{name}"
    try:
        return read_file(uri, at_most)
    except FileNotFoundError as error:
        raise Absent(f"Not made: there is no {uri}.") from error
    except NotAFileError as error:
        raise Absent(f"{error}.") from error
    except OSError as error:
        raise Absent(f"{uri} cannot be read: {error.strerror or error}.") from error
