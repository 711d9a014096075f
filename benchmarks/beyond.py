"""Compares what the Pruner and the Quantizer do with other ways to compress the same network.

All start from the float network of a finished run, get as many steps as the Pruner, learn from the
float network's predictions, and keep as many weights or units. `ai-edge-quantizer` is tried if it
is installed: `uv pip install ai-edge-quantizer`.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import tensorflow_transform as tft
import tf_keras

from benchmarks.common import report
from benchmarks.finished_run import FinishedRun, run_options
from components.pruner.dead_units import rebuild
from components.quantizer.candidates import CandidateMaker
from components.quantizer.measurement import time_invocations
from ml import networks, tflite
from ml.custom_config import bind_custom_config
from ml.distillation import teach, without_regularization
from ml.examples import read_columns
from ml.fit import FitSettings, fine_tune, select_inputs
from ml.keras_setup import skip_autograph_of_libraries
from ml.parameters import load_function
from ml.predictors import TFLitePredictor
from ml.scores import headline
from ml.tasks import Task

_OURS, _INT8, _FLOAT = "units and zeros, int8", "int8", "none"
_NOT_POSSIBLE = "not with features of text"
_ROWS, _BATCHES, _BATCH = 300, 20, 256
# What the makers of each method publish.
_PUBLISHED = {
    _OURS: "zeros alone: 10x smaller by gzip at 80% [1]",
    "zeros alone, int8": "10x smaller by gzip at 80% [1]",
    "low rank, int8": "2-3x faster, within 1% [2]",
    "smaller network, int8": "as good as an ensemble of 10 [3]",
    "int8 activations, ai-edge-quantizer": "4x smaller [4]",
    "int8 weights, ai-edge-quantizer": "4x smaller [4]",
    "int4 weights, ai-edge-quantizer": "8x smaller [4]",
}
_SOURCES = (
    "https://www.tensorflow.org/model_optimization/guide/pruning/pruning_with_keras",
    "Denton et al. 2014, https://arxiv.org/abs/1404.0736",
    "Hinton et al. 2015, https://arxiv.org/abs/1503.02531 (of a large network)",
    "https://ai.google.dev/edge/litert/conversion/tensorflow/quantization: bits alone",
)


@click.command()
@run_options
@click.option("--seed", default=7, show_default=True)
def main(output: Path, model: str, seed: int) -> None:
    """Compresses the network of a run in each way; prints losses, sizes and times."""
    skip_autograph_of_libraries()
    run = FinishedRun(output, [f"model={model}"])
    examples, labels, _ = run.test_rows()
    task = run.config.make_task()
    metric = task.headline
    table: list[list[str]] = []
    data: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in Ways(run, Path(folder), task, seed).all():
            if content is None:
                table.append([name, _NOT_POSSIBLE, *("" for _ in range(4)), ""])
                continue
            data[name] = found = _measure(content, task, examples, labels)
            first = next(iter(data.values()))
            found["loss"] = metric.loss(found["value"], first["value"]) + 0.0  # No -0.0.
            sizes = (
                f"{found[size]:,} ({first[size] / found[size]:.1f}x)"
                for size in ("bytes", "gzip_bytes")
            )
            times = (f"{found[time]:.2f}" for time in ("row_us", "batch_us"))
            loss = metric.format_loss(found["loss"])
            table.append([name, loss, *sizes, *times, _PUBLISHED.get(name, "")])
            print(table[-1], flush=True)
    notes = (
        f"{model}, seed {seed}, {len(labels):,} rows of test, which none has seen. Losses are of "
        f"{metric.title} against the float model. Published:\n"
    ) + "\n".join(f"[{number}] {source}" for number, source in enumerate(_SOURCES, 1))
    columns = ["way", "loss", "bytes", "gzip", "1 row, µs", "of 256, µs a row", "published"]
    report(f"beyond {model}", columns, table, data, notes)


def _measure(
    content: bytes, task: Task, examples: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """The headline metric, sizes in bytes, and times of a row in µs."""
    value = headline(task, labels, TFLitePredictor(content).predict(examples))
    if value is None:
        raise click.ClickException(f"{task.headline.title} is undefined on test")
    single = time_invocations(content, examples[:_ROWS, np.newaxis])
    batches = time_invocations(content, np.resize(examples, (_BATCHES, _BATCH)))
    return {
        "value": value,
        "bytes": len(content),
        "gzip_bytes": len(gzip.compress(content, 9)),
        "row_us": float(np.median(single)) * 1e6,
        "batch_us": float(np.median(batches)) / _BATCH * 1e6,
    }


class Ways:
    """The network of a run, compressed in every way.

    Args:
      run: The run.
      folder: Where to work.
      task: The task.
      seed: Seed of all random choices.
    """

    def __init__(self, run: FinishedRun, folder: Path, task: Task, seed: int):
        self._run, self._folder, self._task, self._seed = run, folder, task, seed
        self._network = networks.load_network(run.artifact("Trainer", "model"))
        self._pruned = networks.load_network(run.artifact("Pruner", "pruned_model"))
        graph = run.artifact("Transform", "transform_graph").uri
        schema = tft.TFTransformOutput(graph).transformed_metadata.schema
        self._train = read_columns(
            run.artifact("Transform", "transformed_examples"), "train", schema
        )
        settings = run.parameters("Pruner")
        self._settings = FitSettings(
            task,
            settings["loss"],
            settings["class_weights"],
            settings["epochs"],
            settings["batch_size"],
            settings["learning_rate"],
            seed,
        )
        self._targets = teach(self._network, self._train, task, 1.0)
        quantizer = run.parameters("Quantizer")
        self._maker = CandidateMaker(
            folder=str(folder),
            graph_uri=graph,
            save=bind_custom_config(
                load_function(quantizer["save_fn"]), quantizer["custom_config"]
            ),
            signature=quantizer["signature"],
            settings=self._settings,
            targets=lambda: self._targets,
            weight_bits=quantizer["weight_bits"],
        )
        count = len(self._train[task.label])
        chosen = np.random.default_rng(seed).permutation(count)[: quantizer["representative_rows"]]
        self._rows = {
            name: column[chosen]
            for name, column in select_inputs(self._network, self._train).items()
        }

    def all(self) -> Iterator[tuple[str, bytes | None]]:
        """Each way and its TFLite model, if it can be made; float first, then what we do."""
        yield "float", self._make(self._network, _FLOAT)
        yield _OURS, self._make(self._pruned, _INT8)
        yield "zeros alone, int8", self._make(self._prune_weights(), _INT8)
        yield "low rank, int8", self._make(self._factorize(), _INT8)
        yield "smaller network, int8", self._make(self._distill(), _INT8)
        if find_spec("ai_edge_quantizer"):
            pruned = self._make(self._pruned, _FLOAT)
            for name, recipe in (
                ("int8 activations", "static_wi8_ai8"),
                ("int8 weights", "dynamic_wi8_afp32"),
                ("int4 weights", "dynamic_wi4_afp32"),
            ):
                yield f"{name}, ai-edge-quantizer", self._requantize(pruned, recipe)

    def _make(self, network: tf_keras.Model, mode: str) -> bytes:
        return self._maker.make(mode, network, self._rows, self._train).tflite

    def _fit(self, network: tf_keras.Model) -> tf_keras.Model:
        tf_keras.utils.set_random_seed(self._seed)
        fine_tune(network, self._train, self._settings, self._targets)
        return network

    def _prune_weights(self) -> tf_keras.Model:
        """The Pruner with all units, and the sparsity that it had."""
        sparsity = self._run.artifact("Pruner", "report").read()["sparsity"]
        done = self._run.execute(
            *("Pruner", self._folder / "zeros"),
            seed=self._seed,
            target_sparsity=str(sparsity),
            keep_units="1.0",
        )
        return networks.load_network(done["pruned_model"])

    def _distill(self) -> tf_keras.Model:
        """A network of the pruned one's units, from random weights."""
        units = {layer.name: layer.units for layer in networks.kernel_layers(self._pruned)}
        tf_keras.utils.set_random_seed(self._seed)
        return self._fit(rebuild(without_regularization(self._network), units, {}))

    def _factorize(self) -> tf_keras.Model:
        """Each kernel as a product of two, with as many weights as the pruned network stores."""
        network = without_regularization(self._network)
        stored = {layer.name: layer.kernel.shape for layer in networks.kernel_layers(self._pruned)}
        ranks, weights = {}, {layer.name: layer.get_weights() for layer in network.layers}
        for layer in networks.kernel_layers(network):
            kernel, *bias = layer.get_weights()
            rank = max(1, round(np.prod(stored[layer.name]) / sum(kernel.shape)))
            left, values, right = np.linalg.svd(kernel, full_matrices=False)
            root = np.sqrt(values[:rank])
            ranks[layer.name] = rank
            weights[f"{layer.name}_in"] = [left[:, :rank] * root]
            weights[layer.name] = [root[:, None] * right[:rank], *bias]
        split = _insert_layers(network, ranks)
        for layer in split.layers:
            if layer.weights:
                layer.set_weights(weights[layer.name])
        return self._fit(split)

    def _requantize(self, content: bytes, recipe: str) -> bytes | None:
        """A float TFLite model, quantized by ai-edge-quantizer; None if it cannot be calibrated."""
        import_module("numpy.typing")  # It takes this for imported.
        quantizer_module = import_module("ai_edge_quantizer.quantizer")
        rules = getattr(import_module("ai_edge_quantizer.recipe"), recipe)()
        quantizer = quantizer_module.Quantizer(bytearray(_name_tensors(content)), rules)
        calibration = None
        if quantizer.need_calibration:
            predictor = TFLitePredictor(content)
            examples = self._run.test_rows()[0][:500]
            (signature,) = predictor.interpreter.get_signature_list()
            rows = [predictor.parse(row) for row in examples[:, np.newaxis]]
            try:
                calibration = quantizer.calibrate({signature: rows})
            except ValueError:  # It reads all tensors as arrays, also those of texts.
                return None
        return bytes(quantizer.quantize(calibration).quantized_model)


def _name_tensors(content: bytes) -> bytes:
    """The model with a name for each tensor, which ai-edge-quantizer needs and we leave out."""
    model = tflite.parse(content)
    for graph in model.subgraphs:
        for number, tensor in enumerate(graph.tensors):
            tensor.name = tensor.name or f"tensor_{number}".encode()
    return tflite.pack(model)


def _insert_layers(network: tf_keras.Model, widths: dict[str, int]) -> tf_keras.Model:
    """Puts a dense layer without bias and activation before some dense layers, by their names."""
    config = network.get_config()
    layers: list[dict[str, Any]] = []
    for layer in config["layers"]:
        name = layer["config"]["name"]
        if name in widths:
            inner = tf_keras.layers.Dense(widths[name], use_bias=False, name=f"{name}_in")
            added = {**layer, "class_name": "Dense", "config": inner.get_config()}
            if "inbound_nodes" in layer:
                added |= {"name": inner.name, "inbound_nodes": layer["inbound_nodes"]}
                layer["inbound_nodes"] = [[[inner.name, 0, 0, {}]]]
            added.pop("build_config", None)
            layer.pop("build_config", None)
            layers.append(added)
        layers.append(layer)
    return type(network).from_config({**config, "layers": layers})


if __name__ == "__main__":
    main()
