"""TFRecord files of examples: one way to compress, write and read them.

The files of servers (request logs, warm-up requests) have other formats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_COMPRESSION = "GZIP"
# Level 1, since each file is written once and read a few times by the nodes of one run.
_OPTIONS = tf.io.TFRecordOptions(compression_type=_COMPRESSION, compression_level=1)


def open_records(path: str) -> tf.io.TFRecordWriter:
    """Opens a file to write records to; its block ends the file."""
    return tf.io.TFRecordWriter(path, _OPTIONS)


def read_records(paths: str | Sequence[str]) -> tf.data.Dataset:
    """The records of files, one after the other."""
    return without_tuning(tf.data.TFRecordDataset(paths, _COMPRESSION))


def without_tuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """A dataset whose iterators end at once.

    The thread in which TensorFlow tunes a dataset now and then misses that an iterator ends, and
    then holds up the program for up to as long as the iterator was there before.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def count_records(paths: Sequence[str]) -> int:
    """The number of records in files."""
    return int(read_records(paths).reduce(np.int64(0), lambda count, _: count + 1))
