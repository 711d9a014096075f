"""Measures what encryption costs when a server loads a version: copy, decrypt, verify, load."""

from __future__ import annotations

import gc
import logging
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import tensorflow as tf

from benchmarks.common import report
from serving.server.loading import load_version
from serving.server.settings import ServerSettings
from storage.directory import ModelDirectory
from storage.encrypted_versions import encrypt_tree
from storage.encryption_keys import add_key, require_keys
from storage.keys import TrustStore, ensure_key_pair
from storage.memory import MEMORY
from storage.signing import sign

PLAIN, ENCRYPTED = 1, 2
TARGET = 1.3
_FLOAT_BYTES = 4


class Weights(tf.Module):
    """A model that is little more than its weights.

    Args:
      megabytes: Their size.
    """

    def __init__(self, megabytes: float):
        super().__init__()
        values = tf.random.stateless_uniform([int(megabytes * 2**20) // _FLOAT_BYTES], (1, 2))
        self.weights = tf.Variable(values)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Looks weights up."""
        return {"y": tf.gather(self.weights, x)}


def publish(root: Path, megabytes: float) -> tuple[ModelDirectory, ServerSettings]:
    """Publishes one model twice, both signed: plain, and encrypted."""
    pair, keys = ensure_key_pair(str(root / "signing.key")), str(root / "encryption.keys")
    add_key(keys)
    module = Weights(megabytes)
    tf.saved_model.save(module, str(root / "model"), {"serving_default": module.serve})
    (root / "provenance").mkdir()
    directory = ModelDirectory(str(root / "serving"), "weights")
    for version in (PLAIN, ENCRYPTED):

        def seal(private: ModelDirectory, number: int) -> None:
            sign(private, number, pair.private)
            if number == ENCRYPTED:
                encrypt_tree(private.serving_dir, require_keys(keys))

        directory.publish(version, str(root / "model"), str(root / "provenance"), seal)
    settings = ServerSettings(
        directory.serving_dir, trust=TrustStore([pair.public]), encryption_keys=keys
    )
    return directory, settings


def seconds_to_load(directory: ModelDirectory, settings: ServerSettings, version: int) -> float:
    """Time in which a version is loaded, in a folder in memory as the server has it."""
    started = time.perf_counter()
    model = load_version(settings, directory, version, threading.Event(), MEMORY)
    seconds = time.perf_counter() - started
    del model
    gc.collect()
    return seconds


@click.command()
@click.option("--megabytes", "sizes", type=float, multiple=True, default=(0.5, 32, 256))
@click.option("--rounds", type=click.IntRange(min=2), default=20, show_default=True)
def main(sizes: tuple[float, ...], rounds: int) -> None:
    """Loads one model plain and encrypted, in turns, and prints the medians side by side."""
    rows, data = [], []
    for megabytes in sizes:
        with tempfile.TemporaryDirectory() as root:
            directory, settings = publish(Path(root), megabytes)
            taken: dict[int, list[float]] = {PLAIN: [], ENCRYPTED: []}
            for number in range(rounds + 1):
                # Neither is always the first, and the very first also imports.
                for version in (PLAIN, ENCRYPTED) if number % 2 else (ENCRYPTED, PLAIN):
                    seconds = seconds_to_load(directory, settings, version)
                    if number:
                        taken[version].append(seconds)
        plain, encrypted = (statistics.median(taken[version]) for version in (PLAIN, ENCRYPTED))
        ratio = encrypted / plain
        milliseconds = [f"{seconds * 1000:.0f} ms" for seconds in (plain, encrypted)]
        verdict = "yes" if ratio <= TARGET else "no"
        rows.append([f"{megabytes:g} MB", *milliseconds, f"{ratio:.2f}", verdict])
        data.append({"megabytes": megabytes, "seconds": taken, "ratio": ratio})
    report(
        "encryption",
        ["weights", "plain", "encrypted", "ratio", f"at most {TARGET}"],
        rows,
        data,
        f"Median of {rounds} loads each, in turns: copy, decryption, signature, TensorFlow.",
    )


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    main()
