"""Text files of spans become Parquet first, in the folder of the examples, while these are made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import tensorflow as tf

from ml import progress
from ml.example_columns import Columns
from storage.spans import DataSource, Window, filesystem
from storage.table_formats import Format
from storage.tables import as_parquet

_FOLDER = ".staged"


@dataclass(frozen=True)
class Staged:
    """Where the files of a window are read.

    Attributes:
      source: The data.
      folder: Folder of those that were text.
      paths: Path in it of each of these.
    """

    source: DataSource
    folder: str
    paths: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> pa.fs.FileSystem:
        """The file system of all paths."""
        files, _ = filesystem(self.folder if self.paths else self.source.uri)
        return files

    def path(self, path: str) -> str:
        """Where a file of the data is read."""
        return self.paths.get(path, path)


@contextmanager
def stage(source: DataSource, window: Window, columns: Columns, uri: str) -> Iterator[Staged]:
    """Writes the text files of a window as Parquet, and deletes them in the end.

    Args:
      source: The data.
      window: The spans that are read.
      columns: Their types.
      uri: Folder of the examples, which all workers can read.

    Raises:
      DataError: If a file is not what its ending says.
    """
    folder = os.path.join(uri, _FOLDER)
    paths = list(dict.fromkeys(path for span in window.spans for path in span.files))
    texts = [path for path in paths if Format.of(path) is not Format.PARQUET]
    staged = Staged(source, folder)
    try:
        if texts:
            tf.io.gfile.makedirs(folder)
            files, _ = filesystem(source.uri)
            targets, root = filesystem(folder)
            types = columns.text_types
            for number, path in enumerate(texts):
                progress.report(f"reading {os.path.basename(path)}")
                target = f"{root}/{number:06d}.parquet"
                as_parquet(path, files, targets, target, types, source.text)
                staged.paths[path] = target
        yield staged
    finally:
        if texts and tf.io.gfile.exists(folder):
            tf.io.gfile.rmtree(folder)
