"""Pruner: sets the small weights of a trained network to zero while fine-tuning the others."""

import json
import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tensorflow_transform as tft
import tf_keras
from tfx import v1 as tfx

from ml.artifacts import CompressionReport, serving_model_uri
from ml.custom_config import bind_custom_config
from ml.examples import read_columns
from ml.fit import FitSettings, check_columns, evaluate, fine_tune
from ml.keras_setup import skip_autograph_of_keras
from ml.networks import choose_layers, clone, load_network
from ml.parameters import load_function, parse_names, require
from ml.tasks import Task
from storage.errors import UserError

_SCHEDULES = ("polynomial", "constant")
# A polynomial schedule reaches its target in this share of the steps; the rest recovers.
_RAMP = 0.7
# With few steps, weights are chosen more often than `frequency`, to reach the target.
_MIN_CHOICES = 10
# To keep a share k of the weights without loss takes (2 / k)² steps, as measured on small data (see
# docs/compression.md): 16 for a half, 100 for a fifth, 400 for a tenth.
_STEP_FACTOR = 2.0


@tfx.dsl.components.component
def Pruner(
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    transform_graph: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.TransformGraph],
    pruned_model: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Model],
    report: tfx.dsl.components.OutputArtifact[CompressionReport],
    save_fn: tfx.dsl.components.Parameter[str],
    custom_config: tfx.dsl.components.Parameter[str],
    task: tfx.dsl.components.Parameter[str],
    loss: tfx.dsl.components.Parameter[str],
    class_weights: tfx.dsl.components.Parameter[str],
    target_sparsity: tfx.dsl.components.Parameter[float],
    schedule: tfx.dsl.components.Parameter[str],
    frequency: tfx.dsl.components.Parameter[int],
    block_size: tfx.dsl.components.Parameter[str],
    m_by_n: tfx.dsl.components.Parameter[str],
    layers: tfx.dsl.components.Parameter[str],
    epochs: tfx.dsl.components.Parameter[int],
    batch_size: tfx.dsl.components.Parameter[int],
    learning_rate: tfx.dsl.components.Parameter[float],
    seed: tfx.dsl.components.Parameter[int],
) -> None:
    """Prunes a `tf_keras` model by magnitude while fine-tuning it.

    Starts from the trained weights and does not change the artifact `model`. Zhu and Gupta 2017,
    https://arxiv.org/abs/1710.01878, as implemented by the TensorFlow Model Optimization Toolkit.

    Example:
      pruner = Pruner(
          model=trainer.outputs["model"],
          examples=transform.outputs["transformed_examples"],
          transform_graph=transform.outputs["transform_graph"],
          save_fn="ml.export.save_model",
          custom_config=json.dumps(model.custom_config),
          task=model.task.to_json(),
          loss="",
          class_weights="",
          target_sparsity=0.8,
          schedule="polynomial",
          frequency=100,
          block_size="[1, 1]",
          m_by_n="[]",
          layers="[]",
          epochs=4,
          batch_size=512,
          learning_rate=1e-3,
          seed=7,
      )

    Args:
      model: A Sequential or Functional `tf_keras` model.
      examples: Transformed examples with the splits `train`, to train on, and `eval`, to measure
        on.
      transform_graph: The transformation that made them.
      pruned_model: Component `outputs` contains: the pruned model, with the signatures of `model`.
      report: Component `outputs` contains: the sparsity of each layer and overall, and loss and
        metrics on `eval` before and after; and `why`, if there are too few steps for
        the sparsity that was asked for.
      save_fn: Import path of the function `(network, transform graph, path)` that saves a network
        with its serving signatures.
      custom_config: JSON object that `save_fn` gets, if it has a parameter of this name.
      task: The task, as JSON.
      loss: Name of the Keras loss to fine-tune with; "" for the task's.
      class_weights: "balanced", a JSON list of a weight for each class, or "".
      target_sparsity: Share of the weights that become zero, 0 to below 1; 0 passes the network on
        unchanged. It becomes less if there are too few steps for it.
      schedule: "polynomial": from none to the target in the first 70% of the steps; "constant": the
        target from the start.
      frequency: Largest number of steps between two choices of the zero weights; there are at least
        ten choices.
      block_size: JSON pair of rows and columns of a kernel (inputs and outputs) that become zero
        together.
      m_by_n: JSON pair [m, n]: of every n consecutive weights m become zero, as in [2, 4];
        `target_sparsity` is then m / n.
      layers: JSON list of names or types of layers; an empty list means every dense and convolution
        layer but those whose output is the network's.
      epochs: Passes over `train`.
      batch_size: Rows per step.
      learning_rate: Adam's learning rate at the start, from which it falls along a cosine to 0.
      seed: Seed of all random choices.

    Raises:
      UserError: If a parameter is not allowed, a layer cannot be pruned, or the model is not
        `tf_keras`, before any work is done; or if fine-tuning diverges.
    """
    skip_autograph_of_keras()
    settings = FitSettings(
        Task.from_json(task), loss, class_weights, epochs, batch_size, learning_rate, seed
    )
    settings.check()
    spec = check_pruning(target_sparsity, schedule, frequency, block_size, m_by_n, epochs)
    wanted = parse_names("layers", layers)
    save = bind_custom_config(load_function(save_fn), custom_config)
    network = load_network(model)
    chosen = choose_layers(network, wanted)
    _check_prunable(chosen, spec)
    names = [layer.name for layer in chosen]
    graph = tft.TFTransformOutput(transform_graph.uri)
    schema = graph.transformed_metadata.schema
    evaluation = read_columns(examples, "eval", schema)
    check_columns(evaluation, settings.task)
    before, why, target = evaluate(network, evaluation, settings), "", spec["sparsity"]
    if spec["sparsity"] > 0:
        train = read_columns(examples, "train", schema)
        check_columns(train, settings.task)
        spec, why = limit_sparsity(spec, settings, len(train[settings.task.label]))
    if spec["sparsity"] > 0:
        network = prune(network, names, spec, train, settings)
    save(network, graph, serving_model_uri(pruned_model))
    report.write(
        {
            **measure_sparsity(network, names),
            "before": before,
            "after": evaluate(network, evaluation, settings),
            "pruning": spec,
            "target_sparsity": target,
            "why": why,
        }
    )


def check_pruning(
    target_sparsity: float,
    schedule: str,
    frequency: int,
    block_size: str,
    m_by_n: str,
    epochs: int,
) -> dict[str, Any]:
    """Checks the parameters of `Pruner`, and returns them as a pruning spec.

    Returns:
      `sparsity`, `schedule`, `frequency`, `block_size`, and `m_by_n` or None.

    Raises:
      UserError: If a parameter is not allowed; the message has name, value and what is allowed.
    """
    require(0 <= target_sparsity < 1, "target_sparsity", target_sparsity, "0 to below 1")
    require(schedule in _SCHEDULES, "schedule", schedule, " or ".join(_SCHEDULES))
    require(frequency >= 1, "frequency", frequency, "1 or more")
    block = _read_pair("block_size", block_size)
    require(block is not None and min(block) >= 1, "block_size", block_size, "a pair as in [4, 1]")
    pattern = _read_pair("m_by_n", m_by_n)
    if pattern:
        require(0 < pattern[0] < pattern[1], "m_by_n", m_by_n, "a pair as in [2, 4], or []")
        require(block == (1, 1), "block_size", block_size, "[1, 1] together with m_by_n")
    sparsity = pattern[0] / pattern[1] if pattern else target_sparsity
    require(epochs >= 1 or sparsity == 0, "epochs", epochs, "1 or more, in order to prune")
    return {
        "sparsity": sparsity,
        "schedule": "constant" if pattern else schedule,
        "frequency": frequency,
        "block_size": block,
        "m_by_n": pattern,
    }


def _read_pair(name: str, text: str) -> tuple[int, int] | None:
    """A JSON pair of whole numbers, or None for an empty list."""
    try:
        pair = json.loads(text)
    except ValueError:
        pair = text
    if pair == []:
        return None
    right = isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)
    require(right, name, text, "a JSON pair of whole numbers, as in [4, 1]")
    return pair[0], pair[1]


def limit_sparsity(
    spec: dict[str, Any], settings: FitSettings, rows: int
) -> tuple[dict[str, Any], str]:
    """Lowers the sparsity of a pruning spec to what the training steps suffice for.

    Example:
      >>> task = Task("binary", "tip")
      >>> settings = FitSettings(task, "", "", epochs=4, batch_size=64, learning_rate=0.01, seed=7)
      >>> limit_sparsity({"sparsity": 0.84, "m_by_n": None}, settings, rows=344)[0]["sparsity"]
      0.59

    Args:
      spec: See `check_pruning`.
      settings: How to fine-tune.
      rows: Rows to train on.

    Returns:
      The spec, and in words why its sparsity is less than it was, or too much for the steps, which
      a pattern `m_by_n` may be; "" if it is neither.
    """
    steps = settings.epochs * math.ceil(rows / settings.batch_size)
    largest = max(0.0, math.floor(100 * (1 - _STEP_FACTOR / math.sqrt(steps))) / 100)
    wanted = spec["sparsity"]
    if wanted <= largest:
        return spec, ""
    needed = math.ceil((_STEP_FACTOR / (1 - wanted)) ** 2)
    pruned = wanted if spec["m_by_n"] else largest
    return spec | {"sparsity": pruned}, (
        f"{steps:,} steps are too few for a sparsity of {wanted:.0%}, which takes {needed:,}: "
        f"{pruned:.0%} {'is pruned all the same' if spec['m_by_n'] else 'is pruned'}. Raise "
        f"pruning.epochs (now {settings.epochs:,}) or lower training.batch_size "
        f"(now {settings.batch_size:,})"
    )


def _check_prunable(layers: list[tf_keras.layers.Layer], spec: dict[str, Any]) -> None:
    """Raises a `UserError` if a layer cannot be pruned to a spec."""
    for layer in layers:
        name = f"layer {layer.name} ({type(layer).__name__})"
        kernels = _prunable_weights(layer)
        if not kernels:
            raise UserError(f"{name} cannot be pruned: tfmot finds no kernel in it")
        for kernel in kernels:
            if spec["block_size"] != (1, 1):
                sides = zip(kernel.shape, spec["block_size"], strict=False)
                fits = len(kernel.shape) == 2 and all(side > block for side, block in sides)
                allowed = f"a block smaller than the kernel {tuple(kernel.shape)} of a dense layer"
                require(fits, "block_size", list(spec["block_size"]), f"for {name}, {allowed}")
            if spec["m_by_n"]:
                inputs = kernel.shape[-2] if len(kernel.shape) > 1 else 0
                fits = len(kernel.shape) in (2, 4) and inputs % spec["m_by_n"][1] == 0
                allowed = "dense layers and 2D convolutions whose inputs are a multiple of n"
                require(fits, "m_by_n", list(spec["m_by_n"]), f"{allowed}, which {name} is not")


def _prunable_weights(layer: tf_keras.layers.Layer) -> list[tf.Variable]:
    """The kernels of a layer that tfmot can prune; none if it does not support the layer."""
    try:
        tfmot.sparsity.keras.prune_low_magnitude(layer)
    except ValueError:
        return []
    # tfmot has just added this method to the layer.
    return list(layer.get_prunable_weights())


def _arguments(spec: dict[str, Any], steps: int) -> dict[str, Any]:
    """Arguments of tfmot's `prune_low_magnitude` for a number of training steps."""
    sparsity, frequency = spec["sparsity"], spec["frequency"]
    schedules = tfmot.sparsity.keras
    if spec["schedule"] == "constant":
        schedule = schedules.ConstantSparsity(sparsity, begin_step=1, frequency=frequency)
    else:
        # The last choice is at a multiple of the frequency, and has to reach the target.
        frequency = min(frequency, max(1, int(_RAMP * steps) // _MIN_CHOICES))
        end_step = max(1, int(_RAMP * steps) // frequency) * frequency
        schedule = schedules.PolynomialDecay(
            0.0, sparsity, begin_step=0, end_step=end_step, frequency=frequency
        )
    arguments: dict[str, Any] = {"pruning_schedule": schedule}
    if spec["m_by_n"]:
        return arguments | {"sparsity_m_by_n": spec["m_by_n"]}
    return arguments | {"block_size": spec["block_size"]}


def prune(
    network: tf_keras.Model,
    names: list[str],
    spec: dict[str, Any],
    train: dict[str, np.ndarray],
    settings: FitSettings,
) -> tf_keras.Model:
    """Prunes some layers of a network.

    Args:
      network: The network; it is not changed.
      names: Names of the layers.
      spec: See `check_pruning`.
      train: Columns to train on.
      settings: How to fine-tune.

    Returns:
      A network of the same layers, without tfmot's wrappers.

    Raises:
      UserError: If fine-tuning diverges.
    """
    steps = settings.epochs * math.ceil(len(train[settings.task.label]) / settings.batch_size)
    arguments = _arguments(spec, steps)

    def wrap(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        if layer.name not in names:
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, **arguments)

    # A copy, because the wrappers prune layers in place.
    wrapped = tf_keras.models.clone_model(clone(network), clone_function=wrap)
    fine_tune(wrapped, train, settings, [tfmot.sparsity.keras.UpdatePruningStep()])
    return clone(tfmot.sparsity.keras.strip_pruning(wrapped))


def measure_sparsity(network: tf_keras.Model, names: list[str]) -> dict[str, Any]:
    """Measures how many of the weights of some layers are zero.

    Returns:
      `sparsity`, the overall share, and `layers`: by name, `sparsity` and `weights`, their number.
    """
    zeros = {
        name: np.concatenate(
            [kernel.numpy().ravel() == 0 for kernel in _prunable_weights(network.get_layer(name))]
        )
        for name in names
    }
    layers = {
        name: {"sparsity": float(np.mean(kernel)), "weights": int(kernel.size)}
        for name, kernel in zeros.items()
    }
    total = sum(layer["weights"] for layer in layers.values())
    pruned = sum(layer["weights"] * layer["sparsity"] for layer in layers.values())
    return {"sparsity": pruned / total, "layers": layers}
