"""Batches of arrays in memory for Keras, as a `tf.data.Dataset`.

Keras makes such datasets of arrays itself, but lets TensorFlow tune them; see
`storage.tfrecords.without_tuning`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from storage.tfrecords import without_tuning


def ordered_batches(arrays: Any, size: int) -> tf.data.Dataset:
    """Batches in the order of the rows.

    Args:
      arrays: Nested arrays, each [rows, ...]; numbers with a point become float32.
      size: Rows of a batch.
    """

    def take(start: tf.Tensor, tensors: Any) -> Any:
        return tf.nest.map_structure(lambda tensor: tensor[start : start + size], tensors)

    return _from_memory(tf.data.Dataset.range(0, _count(arrays), size), arrays, take)


def shuffled_batches(arrays: Any, size: int, passes: int) -> tf.data.Dataset:
    """Batches of some passes, each in another order, one after the other.

    The orders are those of Keras, which follow from TensorFlow's seed.

    Args:
      arrays: Nested arrays, each [rows, ...]; numbers with a point become float32.
      size: Rows of a batch.
      passes: Number of passes over all rows.
    """
    count = _count(arrays)

    def order(_: tf.Tensor) -> tf.Tensor:
        return tf.random.shuffle(tf.range(count, dtype=tf.int64))

    def split(places: tf.Tensor) -> tf.data.Dataset:
        starts = tf.data.Dataset.range(0, count, size)
        return starts.map(lambda start: places[start : start + size])

    def take(places: tf.Tensor, tensors: Any) -> Any:
        return tf.nest.map_structure(lambda tensor: tf.gather(tensor, places), tensors)

    orders = tf.data.Dataset.range(passes).map(order).prefetch(1)
    return _from_memory(orders.flat_map(split), arrays, take)


def _from_memory(places: tf.data.Dataset, arrays: Any, take: Any) -> tf.data.Dataset:
    # An element of the dataset: TensorFlow never frees what its functions hold.
    tensors = tf.data.Dataset.from_tensors(tf.nest.map_structure(_tensor, arrays)).repeat()
    batches = tf.data.Dataset.zip((places, tensors)).map(take).prefetch(2)
    options = tf.data.Options()
    # There is little to optimize, and it takes longer than a batch.
    options.experimental_optimization.apply_default_optimizations = False
    return without_tuning(batches.with_options(options))


def _tensor(array: np.ndarray) -> tf.Tensor:
    return tf.convert_to_tensor(array, tf.float32 if array.dtype.kind == "f" else None)


def _count(arrays: Any) -> int:
    return len(tf.nest.flatten(arrays)[0])
