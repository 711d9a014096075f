"""A small model for the tests of Tuner, whose training can go wrong in every way."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import tf_keras
from tfx import v1 as tfx

from ml.training import TrainingData, fit_and_save


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Trains, or does what the setting `network.conduct` says."""
    conduct = json.loads(fn_args.custom_config["network"])["conduct"]
    if conduct == "exits":
        os._exit(3)
    if conduct == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if conduct == "hangs":
        time.sleep(3600)
    if conduct == "lacks memory":
        raise MemoryError("of 1 TB")
    if conduct == "leaves no record":
        return
    data = TrainingData.load(fn_args)
    inputs = tf_keras.Input((2,), name="x")
    hidden = tf_keras.layers.Dense(data.learning.network["units"], "relu")(inputs)
    network = tf_keras.Model(inputs, tf_keras.layers.Dense(1)(hidden))
    fit_and_save(network, data, fn_args)


def record_fn(fn_args: tfx.components.FnArgs) -> None:
    """Leaves what it is given in the place of a model."""
    folder = Path(fn_args.serving_model_dir)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(fn_args.custom_config))
