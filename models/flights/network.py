"""The wide-and-deep network and its training (Cheng et al. 2016, https://arxiv.org/abs/1606.07792)."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras
from tfx import v1 as tfx

from ml.learning import Learning
from ml.task_layers import output_layer
from ml.training import TrainingData, fit_and_save

from .features import CROSSES, IDS, NUMERIC, VOCABULARIES
from .warm_start import start_from

_TRUNK = (256, 128, 64)
_EMBEDDING = 8
# Bins of a numeric feature. Edges are rounded, so that no bin is narrower than 0.01 standard
# deviations: rounding of 32-bit numbers is nothing to that.
_BINS, _DECIMALS = 8, 2
_SAMPLE = 50_000


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains and saves the network: the `run_fn` of Trainer.

    Args:
      fn_args: Supplied by Trainer; `base_model` is the folder of the served model if `warm_start`
        is not 0.

    Raises:
      DataError: If the labels of a split are not 0 and 1.
      UserError: If training diverges.
    """
    data = TrainingData.load(fn_args)
    config = data.learning
    sizes = vocabulary_sizes(data.graph)
    model = build_model(config, sizes, data.train[NUMERIC], data.labels)
    facts = {}
    if config.warm_start and fn_args.base_model:
        known = {name: data.graph.vocabulary_by_name(name) for name in VOCABULARIES}
        facts["warm_start"] = start_from(model, fn_args.base_model, known, config.warm_start)
    fit_and_save(model, data, fn_args, facts)


def vocabulary_sizes(graph: tft.TFTransformOutput) -> dict[str, int]:
    """Number of ids of each string feature, including that of unknown values."""
    return {name: graph.vocabulary_size_by_name(name) + 1 for name in VOCABULARIES}


def build_model(
    config: Learning, vocabularies: dict[str, int], numeric: np.ndarray, labels: np.ndarray
) -> tf_keras.Model:
    """Builds the network.

    The deep part reads embeddings and numeric features, as they are and in bins, through three
    dense layers. The wide part adds one weight per id and per pair of ids in `CROSSES`.

    Args:
      config: Regularization, and the name of the prediction. `dropout` is that of the inputs:
        between the layers it made every month worse.
      vocabularies: Number of ids of each string feature.
      numeric: The feature `numeric` of `train`, float32 [rows, width], whose quantiles are the
        edges of the bins.
      labels: Encoded labels of `train`, whose distribution sets the initial bias of the output.

    Returns:
      A model from the transformed features, each of shape [batch, 1] or [batch, width], to the
      probability of the label, shape [batch, 1].
    """
    layers = tf_keras.layers
    l2 = tf_keras.regularizers.l2(config.l2)
    sizes = vocabularies | IDS
    inputs = {name: tf_keras.Input((1,), dtype=tf.int64, name=name) for name in sizes}
    inputs[NUMERIC] = tf_keras.Input(numeric.shape[1:], name=NUMERIC)
    crossed = [inputs[left] * sizes[right] + inputs[right] for left, right in CROSSES]
    counts = [sizes[left] * sizes[right] for left, right in CROSSES]
    ids = [inputs[name] for name in sizes]
    embedded = _embed(
        "embedding",
        ids,
        list(sizes.values()),
        _EMBEDDING,
        tf_keras.initializers.RandomNormal(stddev=0.05),
    )
    numbers = [inputs[NUMERIC], _in_bins(inputs[NUMERIC], numeric)]
    hidden = layers.Concatenate()([layers.Flatten()(embedded), *numbers])
    hidden = layers.Dropout(config.dropout)(hidden)
    for number, units in enumerate(_TRUNK, 1):
        hidden = layers.Dense(
            units,
            "relu",
            kernel_initializer="he_normal",
            kernel_regularizer=l2,
            name=f"hidden_{number}",
        )(hidden)
    bias = tf_keras.initializers.Constant(config.task.initial_bias(labels))
    deep = layers.Dense(1, bias_initializer=bias, kernel_regularizer=l2, name="deep")(hidden)
    wide = _embed("wide", ids + crossed, [*sizes.values(), *counts], 1, "zeros")
    logit = deep + tf.reduce_sum(wide, axis=1)
    return tf_keras.Model(inputs, output_layer(config.task, logit, config.prediction, labels))


def _in_bins(values: tf.Tensor, numeric: np.ndarray) -> tf.Tensor:
    """How far each value has come through each bin of its column, from 0 to 1, [batch, bins].

    The piecewise linear encoding of Gorishniy et al. 2022, https://arxiv.org/abs/2203.05556: a
    dense layer can give each bin a slope of its own, as a tree gives each its own value.
    """
    sample = numeric[:: len(numeric) // _SAMPLE + 1]
    quantiles = np.quantile(sample, np.linspace(0, 1, _BINS + 1), axis=0)
    edges = [np.unique(column) for column in np.round(quantiles, _DECIMALS).T.astype(np.float32)]
    numbers = np.arange(len(edges), dtype=np.int32)
    columns = np.repeat(numbers, [len(column) - 1 for column in edges])
    starts = np.concatenate([column[:-1] for column in edges])
    widths = np.concatenate([np.diff(column) for column in edges])
    return tf.clip_by_value((tf.gather(values, columns, axis=1) - starts) / widths, 0.0, 1.0)


def _embed(
    name: str, ids: list[tf.Tensor], counts: list[int], length: int, initializer: Any
) -> tf.Tensor:
    """Embeds several ids, each [batch, 1], in one table; returns [batch, ids, length].

    One lookup in one table is much faster than one per id.
    """
    starts = np.cumsum([0, *counts[:-1]])
    table = tf_keras.layers.Embedding(
        sum(counts), length, embeddings_initializer=initializer, name=name
    )
    return table(tf_keras.layers.Concatenate()(ids) + starts)
