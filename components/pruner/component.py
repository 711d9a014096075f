"""Pruner: sets the small weights of a trained network to zero while fine-tuning the others."""

import functools
from typing import Any

import tensorflow_transform as tft
import tf_keras
from tfx import v1 as tfx

from components.pruner.dead_units import remove_dead_units
from components.pruner.least_units import remove_least_units, split_sparsity
from components.pruner.pruning import (
    Pruning,
    check_prunable,
    count_weights,
    measure_sparsity,
)
from components.pruner.search import Judge, measure_sensitivity, search_sparsity
from components.pruner.spec import check_pruning, limit_sparsity, read_units
from ml.artifacts import CompressionReport, serving_model_uri
from ml.custom_config import bind_custom_config
from ml.distillation import teach
from ml.effort import Stopwatch
from ml.examples import read_columns
from ml.fit import FitSettings, check_columns, evaluate
from ml.keras_setup import skip_autograph_of_libraries
from ml.networks import choose_layers, load_network
from ml.parameters import load_function, parse_names, require
from ml.tasks import Task


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
    target_sparsity: tfx.dsl.components.Parameter[str],
    max_loss: tfx.dsl.components.Parameter[float],
    schedule: tfx.dsl.components.Parameter[str],
    frequency: tfx.dsl.components.Parameter[int],
    block_size: tfx.dsl.components.Parameter[str],
    m_by_n: tfx.dsl.components.Parameter[str],
    layers: tfx.dsl.components.Parameter[str],
    epochs: tfx.dsl.components.Parameter[int],
    batch_size: tfx.dsl.components.Parameter[int],
    learning_rate: tfx.dsl.components.Parameter[float],
    distillation: tfx.dsl.components.Parameter[float],
    keep_units: tfx.dsl.components.Parameter[str],
    seed: tfx.dsl.components.Parameter[int],
    rows_in_memory: tfx.dsl.components.Parameter[int],
) -> None:
    """Prunes a `tf_keras` model by magnitude while fine-tuning it.

    Starts from the trained weights, learns from the trained network's predictions, and removes
    units that have become constant or unread (see `remove_dead_units`; not in blocks or patterns,
    which would move). It does not change the artifact `model`. Zhu and Gupta 2017,
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
          target_sparsity="0.8",
          max_loss=0.005,
          schedule="polynomial",
          frequency=100,
          block_size="[1, 1]",
          m_by_n="[]",
          layers="[]",
          epochs=4,
          batch_size=512,
          learning_rate=1e-3,
          distillation=1.0,
          keep_units="auto",
          seed=7,
          rows_in_memory=1_000_000,
      )

    Args:
      model: A Sequential or Functional `tf_keras` model.
      examples: Transformed examples with the splits `train`, to train on, and `eval`, to measure
        on.
      transform_graph: The transformation that made them.
      pruned_model: Component `outputs` contains: the pruned model, with the signatures of `model`.
      report: Component `outputs` contains: the sparsity of each layer and overall; `units`, by
        layer how many units there were and how many were removed; loss and metrics on `eval`
        before and after; `why`, if there are too few steps for the sparsity that was asked for; and
        with "auto" why it is no higher, the `trials`, and the `sensitivity` of each layer.
      save_fn: Import path of the function `(network, transform graph, path)` that saves a network
        with its serving signatures.
      custom_config: JSON object that `save_fn` gets, if it has a parameter of this name.
      task: The task, as JSON.
      loss: Name of the Keras loss to fine-tune with; "" for the task's.
      class_weights: "balanced", a JSON list of a weight for each class, or "".
      target_sparsity: Share of the weights that become zero or go with their unit, 0 to below 1; 0
        passes the network on unchanged. It becomes less if there are too few steps for it. "auto"
        for the highest that `eval` allows, see `search_sparsity`.
      max_loss: Largest loss of the headline metric on `eval` by the whole compression, as
        `ml.metrics.Metric.loss` defines it, for "auto".
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
      distillation: Share of the trained network's predictions in what the pruned one learns; the
        rest are labels. With 1 it learns without dropout, noise and penalties.
      keep_units: Share of the units of hidden dense layers that are kept, above 0 to 1; the others
        are removed before the weights are pruned, see `remove_least_units`, and `target_sparsity`
        is that of the weights that are left. "auto" for as many units as `split_sparsity` keeps.
      seed: Seed of all random choices.
      rows_in_memory: Largest number of rows that are held in memory; see `read_columns`.

    Raises:
      UserError: If a parameter is not allowed, a layer cannot be pruned, or the model is not
        `tf_keras`, before any work is done; or if fine-tuning diverges.
    """
    stopwatch = Stopwatch("Pruner")
    skip_autograph_of_libraries()
    settings = FitSettings(
        Task.from_json(task), loss, class_weights, epochs, batch_size, learning_rate, seed
    )
    settings.check()
    require(max_loss >= 0, "max_loss", max_loss, "0 or more")
    units = read_units(keep_units)
    require(0 <= distillation <= 1, "distillation", distillation, "0 to 1")
    spec = check_pruning(target_sparsity, schedule, frequency, block_size, m_by_n, epochs)
    wanted = parse_names("layers", layers)
    save = bind_custom_config(load_function(save_fn), custom_config)
    network = load_network(model)
    chosen = choose_layers(network, wanted)
    check_prunable(chosen, spec)
    names = [layer.name for layer in chosen]
    graph = tft.TFTransformOutput(transform_graph.uri)
    schema = graph.transformed_metadata.schema
    evaluation = read_columns(examples, "eval", schema, rows_in_memory)
    check_columns(evaluation, settings.task)
    before, why = evaluate(network, evaluation, settings), ""
    weights, target = count_weights(network, names), spec["sparsity"]
    trials: list[dict[str, Any]] = []
    sensitivity: dict[str, float] = {}
    removed: dict[str, dict[str, int]] = {}
    if target != 0:
        train = read_columns(examples, "train", schema, rows_in_memory)
        check_columns(train, settings.task)
        steps = settings.steps(len(train[settings.task.label]))
        # Blocks and patterns stay where they are.
        by_unit = spec["block_size"] == (1, 1) and not spec["m_by_n"]
        targets = teach(network, train, settings.task, distillation)

        @functools.cache
        def pruning(share: float) -> Pruning:
            """The pruning of a share of the units."""
            smaller = remove_least_units(network, train, share)
            return Pruning(smaller, names, spec, train, settings, distillation, targets)

        def prune(sparsity: float, steps: int = 0) -> tf_keras.Model:
            share = (units or 1.0) if by_unit else 1.0
            if by_unit and units is None:
                share, sparsity = split_sparsity(network, names, sparsity)
            return pruning(share).run(sparsity, steps)

        if target is None:
            judge = Judge(network, evaluation, settings.task)
            found, why, trials = search_sparsity(prune, judge, steps, max_loss)
            spec, target = spec | {"sparsity": found}, found
            sensitivity = measure_sensitivity(network, names, found, judge)
        else:
            spec, why = limit_sparsity(spec, settings, steps)
        if spec["sparsity"] > 0:
            pruned = prune(spec["sparsity"])
            if by_unit:
                pruned, removed = remove_dead_units(pruned)
            for name, counts in removed.items():
                least = network.get_layer(name).units - counts["units"]
                removed[name] = {key: count + least for key, count in counts.items()}
            network = pruned
    save(network, graph, serving_model_uri(pruned_model))
    report.write(
        {
            **measure_sparsity(network, weights),
            "units": removed,
            "before": before,
            "after": evaluate(network, evaluation, settings),
            "pruning": spec,
            "target_sparsity": target,
            "why": why,
            "trials": trials,
            "sensitivity": sensitivity,
        }
    )
    stopwatch.stop(report)
