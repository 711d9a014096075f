"""One training of a trial, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import tensorflow as tf
from tfx import v1 as tfx

from components.tuner.results import Result, Training
from ml import hyperparameters
from ml.file_names import TRAINING_FILE
from ml.parameters import load_function
from ml.training import TRIAL_ROWS
from storage.errors import UserError

# What a process prints, in its folder.
LOG = "log.txt"
# Where the kernel reads whom to end first when memory runs out.
_OOM_SCORE = Path("/proc/self/oom_score_adj")


@dataclass(frozen=True)
class Subject:
    """The model that is trained.

    Attributes:
      run_fn: Import path of the function that trains it.
      train_files: Patterns of the transformed examples to train on.
      eval_files: Those to evaluate on.
      transform_graph: Folder of the transformation.
      schema: Path of the schema.
      custom_config: What `run_fn` gets, with the configured settings.
    """

    run_fn: str
    train_files: tuple[str, ...]
    eval_files: tuple[str, ...]
    transform_graph: str
    schema: str
    custom_config: Mapping[str, Any]

    def config(self, training: Training) -> dict[str, Any]:
        """What `run_fn` gets in a training."""
        config = hyperparameters.apply(self.custom_config, training.settings)
        return config | {"seed": training.seed, TRIAL_ROWS: training.rows}


def train(subject: Subject, training: Training, folder: str, answer: Connection) -> None:
    """Trains, and sends a `Result`; the target of a process.

    Args:
      subject: What is trained.
      training: How.
      folder: Empty folder for temporary files, and for what the process prints (`LOG`).
      answer: Takes the result.
    """
    threading.Thread(target=_end_with_node, daemon=True).start()
    _redirect_output(os.path.join(folder, LOG))
    with contextlib.suppress(OSError):  # Only Linux has it.
        _OOM_SCORE.write_text("1000")
    # One core for each: trainings run side by side, and no result depends on the number of cores.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    began = time.monotonic()
    try:
        record = _run(subject, training, folder)
        result = Result(record["metrics"], record["epochs"], time.monotonic() - began)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        lines = str(error).strip().splitlines() or [type(error).__name__]
        result = Result(
            seconds=time.monotonic() - began,
            why=f"{kind}{lines[0]}"[:500],
            lasting=isinstance(error, UserError),
        )
    answer.send(result)
    answer.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # Threads of libraries must not hold up the search.


def _run(subject: Subject, training: Training, folder: str) -> dict[str, Any]:
    """Calls `run_fn`, and returns its record of the training: `metrics` and `epochs`."""
    arguments = tfx.components.FnArgs(
        train_files=list(subject.train_files),
        eval_files=list(subject.eval_files),
        schema_path=subject.schema,
        schema_file=subject.schema,
        transform_graph_path=subject.transform_graph,
        transform_output=subject.transform_graph,
        serving_model_dir=os.path.join(folder, "model"),
        model_run_dir=os.path.join(folder, "run"),
        custom_config=subject.config(training),
    )
    os.mkdir(arguments.model_run_dir)
    load_function(subject.run_fn)(arguments)
    record = Path(arguments.model_run_dir, TRAINING_FILE)
    if not record.exists():
        raise UserError(
            f"{subject.run_fn} left no {TRAINING_FILE} in model_run_dir; ml.training.fit_and_save "
            "writes it"
        )
    content: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return content


def _redirect_output(log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _end_with_node() -> None:
    """Ends this process when the node has ended, however it did."""
    node = multiprocessing.parent_process()
    assert node is not None
    node.join()
    os._exit(1)
