"""What TFT alone learns of examples, in a process without our Transform; with many analyzers.

python -m tests.components.stock_analysis SCHEMA EXAMPLES OUTPUT
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from tfx_bsl.public import tfxio

Tensors = dict[str, tf.Tensor]


def learn_broadly(inputs: Tensors) -> Tensors:
    """A `preprocessing_fn` with analyzers of all kinds that can be kept."""
    distance, dest, origin = (inputs[name] for name in ("distance", "dest", "origin"))
    temp = tf.where(tf.math.is_nan(inputs["temp"]), 0.0, inputs["temp"])
    both = tf.concat([distance, temp], axis=1)
    vocabulary = tft.compute_and_apply_vocabulary
    names, counts = tft.count_per_key(origin[:, 0])
    return {
        "z": tft.scale_to_z_score(both, elementwise=True),
        "z_per_key": tft.scale_to_z_score_per_key(distance[:, 0], origin[:, 0]),
        "min_max": tft.scale_by_min_max(temp),
        "share": distance / (tft.max(distance) + tft.sum(distance)),
        "variance": distance - tft.var(distance),
        "size": tf.cast(tft.size(distance), tf.float32) - distance,
        "buckets": tft.bucketize(distance, 5),
        "buckets_per_key": tft.bucketize_per_key(distance[:, 0], origin[:, 0], 3),
        "covariance": tf.matmul(both, tft.covariance(both, tf.float32)),
        "components": tf.abs(tf.matmul(both, tft.pca(both, 1, tf.float32))),
        "counted": tf.where(origin == names, counts, tf.zeros_like(counts)),
        "top": vocabulary(dest, top_k=5, num_oov_buckets=1, vocab_filename="top"),
        "frequent": vocabulary(inputs["company"], frequency_threshold=20, vocab_filename="often"),
        "weighted": vocabulary(dest, weights=distance, top_k=7, vocab_filename="weighted"),
        "labels": vocabulary(dest, labels=inputs["delayed"], top_k=9, vocab_filename="labels"),
        "adjusted": vocabulary(
            dest,
            labels=inputs["delayed"],
            use_adjusted_mutual_info=True,
            min_diff_from_avg=0.5,
            vocab_filename="adjusted",
        ),
        "numbers": vocabulary(inputs["sched_dep_time"], vocab_filename="numbers"),
        "shuffled": vocabulary(
            dest, fingerprint_shuffle=True, store_frequency=True, vocab_filename="shuffled"
        ),
        "approximate": tft.experimental.compute_and_apply_approximate_vocabulary(origin, top_k=3),
    }


class _Longest(beam.PTransform):
    """An analyzer of one's own."""

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return batches | beam.Map(lambda batch: batch[0].max()) | beam.CombineGlobally(max_or_zero)


def max_or_zero(found: Iterator[float]) -> np.float32:
    return np.float32(max([0.0, *found]))


def learn_from_what_was_learned(inputs: Tensors) -> Tensors:
    """One with analyzers that TFT keeps nothing of."""
    distance = inputs["distance"]
    scaled = tft.scale_to_z_score(distance)
    words = tft.compute_and_apply_vocabulary(inputs["dest"], top_k=4, vocab_filename="first")
    (longest,) = tft.experimental.ptransform_analyzer([distance], _Longest(), [tf.float32], [[]])
    counts, _ = tft.histogram(distance, boundaries=4)
    return {
        "above": scaled - tft.mean(tf.maximum(scaled, 0.0)),
        "words": tft.compute_and_apply_vocabulary(
            tf.strings.as_string(words), vocab_filename="second"
        ),
        "gaussian": tft.scale_to_gaussian(distance),
        "own": distance / longest * math.pi,
        "histogram": tf.cast(counts, tf.float32)[tf.newaxis, :] + distance,
    }


def main(schema: str, examples: str, output: str) -> None:
    """Writes a transform graph of each function into the folder `output`."""
    raw = tfdv.load_schema_text(schema)
    sources = [
        tfxio.TFExampleRecord(str(path), schema=raw) for path in sorted(Path(examples).iterdir())
    ]
    with beam.Pipeline(FnApiRunner()) as pipeline:
        # A batch of each file, since the result of some analyzers depends on the batches.
        files = [pipeline | f"{i}" >> s.BeamSource(10_000) for i, s in enumerate(sources)]
        data = files | beam.Flatten(), sources[0].TensorAdapterConfig()
        for function in (learn_broadly, learn_from_what_was_learned):
            name = function.__name__
            folder = f"{output}/{name}"
            with tft_beam.Context(f"{folder}.temp", use_deep_copy_optimization=False):
                learned = data | name >> tft_beam.AnalyzeDataset(function)
                _ = learned | f"Write {name}" >> tft_beam.WriteTransformFn(folder)
            metadata = tft.DatasetMetadata(raw)
            folder = f"{folder}/{tft.TFTransformOutput.RAW_METADATA_DIR}"
            _ = metadata | f"Raw {name}" >> tft_beam.WriteMetadata(folder, pipeline)


if __name__ == "__main__":
    main(*sys.argv[1:])
