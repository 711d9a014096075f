"""Copies the files of a version to a bucket of Google's, from where Vertex AI takes them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cloud.errors import CloudError, missing_library
from cloud.vertex import HOW_TO_LOG_IN
from storage.errors import one_line
from storage.names import SAVED_MODEL

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_TIMEOUT = 60.0  # seconds, for a response
_AGAIN = "run the command again, and it goes on"
_ADVICE = {
    401: f": {HOW_TO_LOG_IN}",
    403: ": the account needs the role roles/storage.objectAdmin on the bucket",
    404: ": is there such a bucket? Make it in the region of the model",
    429: f": a quota is used up; wait, then {_AGAIN}",
}


def file_digests(folder: str) -> dict[str, str]:
    """SHA-256 of each file below a folder, by its path relative to it."""
    return {name: _sha256(os.path.join(folder, name)) for name in _names(folder)}


class Staging:
    """A folder in a bucket.

    Args:
      uri: `gs://bucket/folder`.
      project: Project that requests are counted for.
      credentials: Whose they are.

    Raises:
      CloudError: If the library is not installed.
    """

    def __init__(self, uri: str, project: str, credentials: Credentials) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from google.cloud import storage
        except ImportError as error:
            raise missing_library(error) from error
        self.uri = uri.rstrip("/")
        bucket, _, folder = self.uri.removeprefix("gs://").partition("/")
        self._client = storage.Client(project=project, credentials=credentials)
        self._bucket = self._client.bucket(bucket)
        self._prefix = f"{folder}/" if folder else ""

    def put(self, folder: str) -> int:
        """Makes the folder in the bucket hold what a local one does, and nothing else.

        What is there with the right content stays, so a copy that was interrupted goes on. The file
        that servers watch for comes last.

        Args:
          folder: A folder that nobody else can change.

        Returns:
          How many files were copied.

        Raises:
          CloudError: If the bucket cannot be written, or holds something else afterwards.
        """
        wanted = {name: _crc32c(os.path.join(folder, name)) for name in _names(folder)}
        with self._errors("write"):
            there = self._list()
            for name in sorted(set(there) - set(wanted)):
                self._delete(name)
            missing = [name for name, check in wanted.items() if there.get(name) != check]
            for name in sorted(
                missing, key=lambda one: (os.path.basename(one) == SAVED_MODEL, one)
            ):
                self._bucket.blob(self._prefix + name).upload_from_filename(
                    os.path.join(folder, name),
                    content_type="application/octet-stream",
                    timeout=_TIMEOUT,
                    retry=None,
                    checksum="crc32c",
                )
            if self._list() != wanted:
                raise CloudError(
                    f"{self.uri} does not hold what was copied there: does somebody else write to "
                    "it? Run the command again."
                )
        return len(missing)

    def delete(self) -> int:
        """Deletes the files in the folder; returns how many there were."""
        with self._errors("delete"):
            names = list(self._list())
            for name in names:
                self._delete(name)
        return len(names)

    def _list(self) -> dict[str, str]:
        """The CRC32C of each object, in base64, by its name below the folder."""
        found = self._client.list_blobs(
            self._bucket, prefix=self._prefix, timeout=_TIMEOUT, retry=None
        )
        return {blob.name.removeprefix(self._prefix): str(blob.crc32c) for blob in found}

    def _delete(self, name: str) -> None:
        self._bucket.blob(self._prefix + name).delete(timeout=_TIMEOUT, retry=None)

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Turns errors of the storage's client into one line."""
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        what = f"Cannot {doing} {self.uri}"
        try:
            yield
        except GoogleAuthError as error:
            reason = one_line(str(error.args[0] if error.args else error))[:160]
            raise CloudError(
                f"{what}: the credentials are expired, or were withdrawn ({reason}): "
                f"{HOW_TO_LOG_IN}.",
                status=401,
            ) from error
        except GoogleAPICallError as error:
            status = int(error.code or 0)
            advice = _ADVICE.get(status, f": {_AGAIN}" if status >= 500 else "")
            raise CloudError(
                f"{what}: {one_line(str(error.message))[:200]} (HTTP {status}){advice}.",
                status=status,
                passing=status >= 500 or status == 429,
            ) from error
        except (RequestException, ConnectionError, TimeoutError) as error:
            raise CloudError(
                f"{what}: the storage gave no answer ({one_line(error)[:160]}): {_AGAIN}.",
                passing=True,
            ) from error


def _names(folder: str) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        for name in names:
            yield os.path.relpath(os.path.join(root, name), folder)


def _saved_model_last(name: str) -> tuple[bool, str]:
    return os.path.basename(name) == SAVED_MODEL, name


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _crc32c(path: str) -> str:
    import google_crc32c

    check = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            check.update(chunk)
    return base64.b64encode(check.digest()).decode()
