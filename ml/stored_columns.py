"""Columns of more rows than memory should hold: arrays in files, read and shuffled in parts."""

from __future__ import annotations

import mmap
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np
import tensorflow as tf
import tf_keras

from ml.batches import ordered_batches
from storage.tfrecords import without_tuning

Columns = dict[str, np.ndarray]

# Rows that are read one after the other; so many that a disk reads them at once.
_CHUNK_ROWS = 256
# Rows that are shuffled at once: chunks from everywhere in the files.
_SHUFFLED_ROWS = 1 << 16
# Rows of a part in a pass over all rows: a multiple of the batches in which networks predict.
_PART_ROWS = 1 << 16


class ColumnWriter:
    """Writes batches of columns to temporary files, which go with the arrays that map them."""

    def __init__(self) -> None:
        self._files: dict[str, IO[bytes]] = {}
        self._texts: dict[str, list[np.ndarray]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, np.dtype] = {}
        self._rows = 0

    def add(self, batch: Mapping[str, np.ndarray]) -> None:
        """Adds rows.

        Raises:
          ValueError: If they have other columns, shapes or types than the first ones.
        """
        if not self._dtypes:
            self._shapes = {name: column.shape[1:] for name, column in batch.items()}
            self._dtypes = {name: column.dtype for name, column in batch.items()}
            # Texts, which no network reads, stay in memory. The files have no name: their space is
            # free when nothing maps them any more.
            self._texts = {name: [] for name, column in batch.items() if column.dtype.hasobject}
            self._files = {n: tempfile.TemporaryFile() for n in batch if n not in self._texts}  # noqa: SIM115
        for name, column in batch.items():
            if column.shape[1:] != self._shapes[name] or column.dtype != self._dtypes[name]:
                raise ValueError(
                    f"{name} is {column.dtype} {column.shape[1:]} in some rows, and "
                    f"{self._dtypes[name]} {self._shapes[name]} in others"
                )
            if name in self._texts:
                self._texts[name].append(column)
            else:
                self._files[name].write(np.ascontiguousarray(column).data)
        self._rows += len(next(iter(batch.values())))

    def close(self) -> Columns:
        """Ends the files, and returns arrays that read them, [rows, ...] each."""
        columns = {name: np.concatenate(batches) for name, batches in self._texts.items()}
        for name, file in self._files.items():
            file.flush()
            columns[name] = np.memmap(
                file, self._dtypes[name], "r", shape=(self._rows, *self._shapes[name])
            )
            file.close()
        return columns


def is_stored(columns: Mapping[str, np.ndarray]) -> bool:
    """Whether columns are in files."""
    return any(_mapping(column) is not None for column in columns.values())


def parts(columns: Mapping[str, np.ndarray], rows: int = 0) -> Iterator[Columns]:
    """Columns of some rows after the other; what was read of files leaves memory again."""
    total = len(next(iter(columns.values()), ()))
    step = rows or _PART_ROWS
    for start in range(0, total, step):
        yield {name: column[start : start + step] for name, column in columns.items()}
        release(columns)


def take(columns: Columns, places: np.ndarray, rows_in_memory: int) -> Columns:
    """Some rows: arrays in memory, or in files if they are more than memory should hold.

    Args:
      columns: Arrays, in memory or in files.
      places: The rows, int64.
      rows_in_memory: Largest number of rows that are held in memory.
    """
    if not is_stored(columns) or len(places) <= rows_in_memory:
        return {name: column[places] for name, column in columns.items()}
    writer = ColumnWriter()
    for start in range(0, len(places), _PART_ROWS):
        part = places[start : start + _PART_ROWS]
        writer.add({name: column[part] for name, column in columns.items()})
        release(columns)
    return writer.close()


def release(columns: Mapping[str, np.ndarray]) -> None:
    """Has what was read of files leave this process's memory."""
    for column in columns.values():
        mapping = _mapping(column)
        if mapping is not None:
            mapping.madvise(mmap.MADV_DONTNEED)


def count_not_finite(column: np.ndarray) -> int:
    """The number of rows with NaN or infinity."""
    if column.dtype.kind != "f":
        return 0
    return sum(
        int((~np.isfinite(part["column"])).any(axis=-1).sum()) for part in parts({"column": column})
    )


def predict(network: tf_keras.Model, inputs: Mapping[str, np.ndarray], batch: int) -> np.ndarray:
    """The predictions of a network, [rows, outputs], in parts.

    Args:
      network: The network.
      inputs: Its inputs by name.
      batch: Rows that it predicts at once.
    """
    found = [network.predict(ordered_batches(part, batch), verbose=0) for part in parts(inputs)]
    return np.asarray(found[0] if len(found) == 1 else np.concatenate(found))


class Batches:
    """Batches of rows for Keras, as a `tf.data.Dataset`: shuffled in each pass, or in order.

    A pass takes chunks of consecutive rows in random order, a number of them at a time, and
    shuffles the rows of these. The order depends on the seed and the number of the pass alone.

    Args:
      inputs: Inputs of the network by name.
      labels: What it learns, [rows, ...].
      weights: Weights of the rows, [rows, 1]; None if all are equal.
      batch_size: Rows of a batch.
      seed: Seed of the order; None for that of the files.
    """

    def __init__(
        self,
        inputs: Mapping[str, np.ndarray],
        labels: np.ndarray,
        weights: np.ndarray | None,
        batch_size: int,
        seed: int | None,
    ):
        self._columns = dict(inputs)
        # Names that no feature has.
        self._others = {"labels\n": labels}
        if weights is not None:
            self._others["weights\n"] = weights.astype(np.float32)
        self._size, self._seed, self._passes = batch_size, seed, 0

    def dataset(self) -> tf.data.Dataset:
        """Batches of inputs, labels, and weights if there are any."""
        rows = {
            name: tf.TensorSpec([None, *column.shape[1:]], column.dtype)
            for name, column in (self._columns | self._others).items()
        }
        # TensorFlow never frees the functions of a dataset. So the dataset itself holds the rows:
        # in the functions, the labels and weights of each training would stay in memory.
        own, inputs, others = weakref.ref(self), list(self._columns), list(self._others)

        def generate() -> Iterator[Columns]:
            batches = own()
            assert batches is not None
            return batches._batches()

        def split(rows: dict[str, tf.Tensor]) -> tuple[object, ...]:
            return {name: rows[name] for name in inputs}, *(rows[name] for name in others)

        batches = tf.data.Dataset.from_generator(generate, output_signature=rows)
        dataset = without_tuning(batches.map(split).prefetch(2))
        dataset.rows = self
        return dataset

    def _batches(self) -> Iterator[Columns]:
        self._passes += 1
        columns = self._columns | self._others
        left: Columns = {}
        for part in self._shuffled(columns) if self._seed is not None else parts(columns):
            if left:
                part = {name: np.concatenate([left[name], part[name]]) for name in part}
            count = len(next(iter(part.values())))
            whole = count // self._size * self._size
            for start in range(0, whole, self._size):
                yield {name: column[start : start + self._size] for name, column in part.items()}
            left = {name: np.array(column[whole:]) for name, column in part.items()}
        if len(next(iter(left.values()), ())):
            yield left

    def _shuffled(self, columns: Columns) -> Iterator[Columns]:
        random = np.random.default_rng([self._seed or 0, self._passes])
        total = len(next(iter(columns.values())))
        chunks = random.permutation(-(-total // _CHUNK_ROWS))
        at_once = _SHUFFLED_ROWS // _CHUNK_ROWS
        for start in range(0, len(chunks), at_once):
            some = chunks[start : start + at_once]
            places = (some[:, None] * _CHUNK_ROWS + np.arange(_CHUNK_ROWS)).ravel()
            places = random.permutation(places[places < total])
            yield {name: column[places] for name, column in columns.items()}
            release(columns)


def _mapping(column: np.ndarray) -> mmap.mmap | None:
    """The mapped file that an array, or what it is a part of, reads; None if it is in memory."""
    base: object = column
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
