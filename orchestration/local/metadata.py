"""ML Metadata of an output directory, opened without TFX."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestration.local.output_directory import OutputDirectory
from storage.errors import UserError

if TYPE_CHECKING:
    from ml_metadata.metadata_store import MetadataStore


class MetadataGone(UserError):
    """ML Metadata cannot be read, or does not know a version."""


@contextmanager
def open_metadata(directory: OutputDirectory, writable: bool = False) -> Iterator[MetadataStore]:
    """ML Metadata, which no other process is connected to meanwhile.

    Args:
      directory: Where it is.
      writable: Whether it is to be changed.

    Raises:
      MetadataGone: If it cannot be read.
    """
    if not directory.metadata.exists():
        raise MetadataGone(f"there is no ML Metadata ({directory.metadata})")
    # Here, because what only lists runs has to start at once.
    from ml_metadata import errors
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2

    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(directory.metadata)
    mode = metadata_store_pb2.SqliteMetadataSourceConfig
    connection.sqlite.connection_mode = mode.READWRITE if writable else mode.READONLY
    try:
        with directory.metadata_locked():
            yield MetadataStore(connection)
    except (errors.StatusError, RuntimeError) as error:  # The latter when it is opened.
        raise MetadataGone(f"ML Metadata ({directory.metadata}) cannot be read: {error}") from error
