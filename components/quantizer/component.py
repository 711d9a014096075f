"""Quantizer: adds a TFLite model to the SavedModel, quantized in the cheapest mode."""

import dataclasses
import functools
import os
import tempfile

import numpy as np
import tensorflow_transform as tft
from tfx import v1 as tfx

from components.quantizer.absent_values import check_absent_values
from components.quantizer.candidates import (
    EMULATED,
    FINE_TUNED,
    Candidate,
    CandidateMaker,
)
from components.quantizer.choice import check_modes, explain_choice, measure_loss
from components.quantizer.conversion import count_weights
from components.quantizer.fake_quant import (
    NotQuantizable,
    check_quantizable,
    check_representative,
)
from components.quantizer.measurement import Measurement, measure, read_rows
from components.quantizer.trade_off import plot_trade_off
from ml import progress
from ml.artifacts import CompressionReport, serving_model_uri
from ml.custom_config import bind_custom_config
from ml.distillation import teach, without_regularization
from ml.effort import Stopwatch
from ml.examples import Columns, read_columns
from ml.fit import FitSettings, check_columns, select_inputs
from ml.keras_setup import skip_autograph_of_libraries
from ml.networks import load_network
from ml.parameters import load_function, require
from ml.tasks import Task
from storage.names import TFLITE_MODEL
from storage.uris import copy_tree


@tfx.dsl.components.component
def Quantizer(
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    float_model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    transformed_examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    transform_graph: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.TransformGraph],
    quantized_model: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Model],
    report: tfx.dsl.components.OutputArtifact[CompressionReport],
    save_fn: tfx.dsl.components.Parameter[str],
    custom_config: tfx.dsl.components.Parameter[str],
    task: tfx.dsl.components.Parameter[str],
    loss: tfx.dsl.components.Parameter[str],
    class_weights: tfx.dsl.components.Parameter[str],
    signature: tfx.dsl.components.Parameter[str],
    mode: tfx.dsl.components.Parameter[str],
    auto_modes: tfx.dsl.components.Parameter[str],
    max_loss: tfx.dsl.components.Parameter[float],
    weight_bits: tfx.dsl.components.Parameter[int],
    representative_rows: tfx.dsl.components.Parameter[int],
    epochs: tfx.dsl.components.Parameter[int],
    batch_size: tfx.dsl.components.Parameter[int],
    learning_rate: tfx.dsl.components.Parameter[float],
    distillation: tfx.dsl.components.Parameter[float],
    seed: tfx.dsl.components.Parameter[int],
    rows_in_memory: tfx.dsl.components.Parameter[int],
) -> None:
    """Converts a `tf_keras` model to TFLite, quantized in one mode or in the best of several.

    Its output is evaluated and pushed, byte for byte. The TFLite model is converted from the
    SavedModel, so both predict alike: in the modes `int8`, `qat` and `pqat` the network in the
    SavedModel emulates the int8 kernels. The TFLite model has the inputs of `signature` and needs
    only TFLite's built-in operators.

    Modes:
      - `none`: float32.
      - `float16`: weights in 16 bits.
      - `dynamic_range`: weights in 8 bits, activations float between operators.
      - `int8`: weights and activations of dense and convolution layers in 8 bits; the ranges of
        activations come from a representative dataset of training examples.
      - `qat`: like `int8`, after fine-tuning with emulated rounding.
      - `pqat`: like `qat`, and weights that are zero stay zero.
      - `auto`: the first of `auto_modes` that the network can have, and that loses at most
        `max_loss` of the task's headline metric on `eval` against `float_model`; float if there is
        none.

    Example:
      quantizer = Quantizer(
          model=pruner.outputs["pruned_model"],
          float_model=trainer.outputs["model"],
          examples=example_gen.outputs["examples"],
          transformed_examples=transform.outputs["transformed_examples"],
          transform_graph=transform.outputs["transform_graph"],
          save_fn="ml.export.save_model",
          custom_config=json.dumps(model.custom_config),
          task=model.task.to_json(),
          loss="",
          class_weights="",
          signature="raw_features",
          mode="auto",
          auto_modes='["int8", "dynamic_range"]',
          max_loss=0.002,
          weight_bits=8,
          representative_rows=1000,
          epochs=2,
          batch_size=512,
          learning_rate=1e-4,
          distillation=1.0,
          seed=7,
          rows_in_memory=1_000_000,
      )

    Args:
      model: The model to quantize: a pruned one, or a trained one.
      float_model: The trained model, to compare with.
      examples: Raw examples with the split `eval`.
      transformed_examples: Transformed examples with the split `train`.
      transform_graph: The transformation between them.
      quantized_model: Component `outputs` contains: the SavedModel and, in its folder,
        `model.tflite`.
      report: Component `outputs` contains: the chosen mode, the reason, and the measurements of
        each mode, also as `trade_off.png`.
      save_fn: Import path of the function `(network, transform graph, path)` that saves a network
        with its serving signatures.
      custom_config: JSON object that `save_fn` gets, if it has a parameter of this name.
      task: The task, as JSON.
      loss: Name of the Keras loss to fine-tune with; "" for the task's.
      class_weights: "balanced", a JSON list of a weight for each class, or "".
      signature: Signature of the SavedModel that the TFLite model has.
      mode: One of the modes.
      auto_modes: JSON list of the modes that `auto` tries, in this order.
      max_loss: Largest loss of the headline metric on `eval` that `auto` accepts, as
        `ml.metrics.Metric.loss` defines it.
      weight_bits: Bits of the 8 that a weight uses in the modes `int8`, `qat` and `pqat`, 5 to 8;
        with fewer the file compresses better.
      representative_rows: Training examples in the representative dataset.
      epochs: Passes over `train` in `qat` and `pqat`.
      batch_size: Rows per step.
      learning_rate: Adam's learning rate at the start, from which it falls along a cosine to 0.
      distillation: Share of the predictions of `float_model` in what `qat` and `pqat` learn; the
        rest are labels. With 1 they learn without dropout, noise and penalties.
      seed: Seed of all random choices.
      rows_in_memory: Largest number of rows that are held in memory; see `read_columns`.

    Raises:
      UserError: If a parameter is not allowed, a layer cannot be quantized, the model is not
        `tf_keras`, the representative dataset is unusable, TFLite lacks an operator, or the TFLite
        model has an input that is no feature of the raw examples, or predicts otherwise than the
        SavedModel where a feature is absent.
    """
    stopwatch = Stopwatch("Quantizer")
    skip_autograph_of_libraries()
    learned = Task.from_json(task)
    settings = FitSettings(learned, loss, class_weights, epochs, batch_size, learning_rate, seed)
    settings.check()
    modes = check_modes(mode, auto_modes, max_loss)
    require(0 <= distillation <= 1, "distillation", distillation, "0 to 1")
    require(5 <= weight_bits <= 8, "weight_bits", weight_bits, "5 to 8")
    save = bind_custom_config(load_function(save_fn), custom_config)
    network = load_network(model)
    graph = tft.TFTransformOutput(transform_graph.uri)
    unusable = ""
    if any(name in EMULATED for name in modes):
        try:
            check_quantizable(network)
        except NotQuantizable as error:
            if mode != "auto":
                raise
            unusable = f"; {error}"
            modes = [name for name in modes if name not in EMULATED]
    train: Columns = {}
    if any(name in EMULATED for name in modes):
        train = read_columns(
            *(transformed_examples, "train", graph.transformed_metadata.schema, rows_in_memory)
        )
        check_columns(train, learned)
    order = np.random.default_rng(seed).permutation(len(next(iter(train.values()), ())))
    representative = {
        name: column[order[:representative_rows]]
        for name, column in (select_inputs(network, train) if train else {}).items()
    }
    check_representative(select_inputs(network, train) if train else {})
    rows = read_rows(examples, learned, graph.raw_feature_spec())
    if any(name in FINE_TUNED for name in modes) and distillation == 1:
        network = without_regularization(network)

    @functools.cache
    def targets() -> np.ndarray | None:
        return teach(load_network(float_model), train, learned, distillation)

    with tempfile.TemporaryDirectory() as folder:
        maker = CandidateMaker(
            folder=folder,
            graph_uri=transform_graph.uri,
            save=save,
            signature=signature,
            settings=settings,
            targets=targets,
            weight_bits=weight_bits,
        )
        progress.report("float model")
        trained = maker.convert_float(float_model)
        check_absent_values(trained, rows, graph.raw_feature_spec())
        baseline = measure(trained.tflite, rows)
        weights, _ = count_weights(trained.tflite)
        candidates: dict[str, Candidate] = {}
        measured: dict[str, Measurement] = {}
        losses: dict[str, float] = {}
        for chosen in modes:
            if unusable and chosen in EMULATED:
                continue
            progress.report(f"mode {chosen}")
            try:
                candidates[chosen] = maker.make(chosen, network, representative, train)
            except NotQuantizable as error:
                if mode != "auto":
                    raise
                unusable = f"; {error}"
                continue
            measured[chosen] = measure(candidates[chosen].tflite, rows, weights)
            losses[chosen] = measure_loss(measured[chosen], baseline, learned.headline)
            if losses[chosen] <= max_loss:
                break
        why = explain_choice(mode, chosen, losses, max_loss, learned.headline)
        _write(quantized_model, candidates[chosen])
    report.write(
        {
            "mode": chosen,
            "why": why + unusable,
            "float": dataclasses.asdict(baseline),
            "modes": {name: dataclasses.asdict(result) for name, result in measured.items()},
        }
    )
    picture = os.path.join(report.uri, "trade_off.png")
    plot_trade_off(picture, baseline, measured, chosen, learned.headline)
    stopwatch.stop(report)


def _write(model: tfx.dsl.Artifact, candidate: Candidate) -> None:
    """Writes both formats to a `Model` artifact."""
    copy_tree(candidate.saved_model, serving_model_uri(model))
    path = os.path.join(serving_model_uri(model), TFLITE_MODEL)
    with tfx.dsl.io.fileio.open(path, "wb") as file:
        file.write(candidate.tflite)
