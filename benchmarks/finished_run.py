"""What a finished run left, and its nodes, which can be run again with other parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import tensorflow as tf
import tf_keras

from ml.artifacts import split_files
from orchestration.local.model_directories import list_directories
from pipeline.config import load_config
from pipeline.pipeline import create_pipeline
from storage.tfrecords import read_records


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options `--output` and `--model` of a finished run to a command."""
    output = click.option(
        "--output",
        required=True,
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Output directory of a finished run of the model.",
    )
    model = click.option("--model", default="flights", show_default=True, help="Name of the model.")
    return output(model(command))


class FinishedRun:
    """A run of one model in an output directory.

    Args:
      output: The output directory.
      settings: `key=value` each, over the model's configuration.
      artifacts: Folder of the run's artifacts. What is not in it came from the cache, and is the
        newest before it. Default: the newest of all runs.
    """

    def __init__(self, output: Path, settings: Sequence[str] = (), artifacts: Path | None = None):
        self._output, self.config = output, load_config(settings=settings)
        self._artifacts = artifacts
        pipeline = create_pipeline(self.config, pipeline_root="", serving_dir="")
        self._nodes = {node.id: node for node in pipeline.components}

    @property
    def folder(self) -> Path:
        """Folder of the artifacts of the run that read the data."""
        return Path(self.artifact("SpanExampleGen", "examples").uri).parents[2]

    def artifact(self, node: str, key: str) -> Any:
        """The newest artifact of an output of a node."""
        (directory,) = list_directories(self._output)
        last = self._artifacts.name if self._artifacts else ""
        folders = [
            folder
            for folder in directory.artifacts.glob(f"*/{node}/{key}/*")
            if not last or folder.parents[2].name <= last
        ]
        folder = max(folders, key=lambda folder: int(folder.name), default=None)
        if folder is None:
            raise click.UsageError(f"{self._output} is not of a finished run: no {key} of {node}")
        artifact = self._nodes[node].outputs[key].type()
        artifact.uri = str(folder)
        if splits := [path.name.removeprefix("Split-") for path in folder.glob("Split-*")]:
            artifact.split_names = json.dumps(splits)
        return artifact

    def parameters(self, name: str) -> dict[str, Any]:
        """The parameters of a node, by their names."""
        return dict(self._nodes[name].exec_properties)

    def execute(
        self, name: str, folder: Path, others: Mapping[str, Any] | None = None, **parameters: Any
    ) -> dict[str, Any]:
        """Runs a node again.

        Args:
          name: The node.
          folder: Folder of its outputs.
          others: Inputs, by key, that are not those of the run.
          parameters: Parameters that are not those of the configuration.

        Returns:
          The outputs by key.
        """
        tf_keras.backend.clear_session()  # A node has a process of its own.
        node = self._nodes[name]
        inputs = {
            key: [(others or {}).get(key) or self.artifact(c.producer_component_id, c.output_key)]
            for key, c in node.inputs.items()
        }
        outputs = {key: channel.type() for key, channel in node.outputs.items()}
        for key, artifact in outputs.items():
            artifact.uri = str(folder / key)
        node.executor_spec.executor_class().Do(
            inputs,
            {key: [artifact] for key, artifact in outputs.items()},
            {**node.exec_properties, **parameters},
        )
        return outputs

    def test_rows(self, column: str = "") -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """The rows of `test`.

        Args:
          column: A feature of texts to make slices of.

        Returns:
          Serialized examples, encoded labels, and masks: "" of all rows, and by value those of the
          slices that are evaluated.
        """
        files = split_files(self.artifact("SpanExampleGen", "examples"), "test")
        examples = np.array(list(read_records(files).as_numpy_iterator()), object)
        task = self.config.make_task()
        columns = self._column(examples, task.label)
        labels = task.encode(columns)
        masks = {"": np.ones(len(labels), bool)}
        if column:
            values = self._column(examples, column).astype(str)
            names, counts = np.unique(values, return_counts=True)
            large = names[counts >= self.config.evaluation.min_slice_examples]
            masks |= {str(name): values == name for name in large}
        return examples, labels, masks

    def _column(self, examples: np.ndarray, name: str) -> np.ndarray:
        for kind in (tf.int64, tf.float32, tf.string):
            try:
                parsed = tf.io.parse_example(examples, {name: tf.io.FixedLenFeature([], kind)})
            except tf.errors.InvalidArgumentError:
                continue
            return np.asarray(parsed[name])
        raise click.UsageError(f"{name} is not one value in each row of test")
