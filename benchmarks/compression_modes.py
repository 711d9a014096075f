"""Measures what each way to compress the flights model saves and costs, and what zeros are worth.

The first table has the whole model in every mode of the Quantizer, evaluated on the test month,
next to figures that the TensorFlow Model Optimization Toolkit and TFLite publish (`_SOURCES`). The
second has its dense layers alone, to see whether TFLite and XNNPACK turn their zeros into speed.
The third has the SavedModels, as TensorFlow Serving runs them.
"""

from __future__ import annotations

import gzip
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from benchmarks.common import report, run_measured
from benchmarks.finished_run import FinishedRun
from components.quantizer.choice import MODES
from components.quantizer.conversion import convert, weight_sparsity
from components.quantizer.fake_quant import emulate_int8
from components.quantizer.measurement import time_invocations
from ml import networks
from ml.artifacts import serving_model_uri
from ml.examples import read_columns
from ml.fit import select_inputs
from ml.predictors import SavedModelFeaturePredictor, TFLitePredictor
from ml.scores import headline
from pipeline.config import load_config
from serving.server.models import SavedModel
from storage.names import DEFAULT_SIGNATURE, RAW_SIGNATURE, TFLITE_MODEL

_MONTH = 201312
_SLICE = "carrier"
_TRAINED, _PRUNED = ("Trainer", "model"), ("Pruner", "pruned_model")
_QUANTIZED = ("Quantizer", "quantized_model")
_SAVED = {"float": _TRAINED, "pruned": _PRUNED, "pushed": _QUANTIZED}
_SAVED_ROWS = (1, 64, 256, 1024, 8192)
# Row of the first table: what it is made from, and the Quantizer's mode.
_MODELS = {
    "float": (_TRAINED, "none"),
    **{mode: (_PRUNED, mode) for mode in MODES},
    "int8, not pruned": (_TRAINED, "int8"),
}
_PUBLISHED = {
    "none": "3x smaller by gzip at 80% zeros [2]",
    "float16": "2x smaller [1]",
    "dynamic_range": "4x smaller, 2-3x faster [1]",
    "int8": "10x smaller by gzip at 80% zeros [2]",
    "qat": "4x smaller, 1.5-4x faster [3]",
    "pqat": "gzip takes off 41% at 50% zeros [4]",
    "int8, not pruned": "4x smaller, 3x+ faster [1]",
}
_SOURCES = (
    "https://www.tensorflow.org/lite/performance/post_training_quantization",
    "https://www.tensorflow.org/model_optimization/guide/pruning/pruning_with_keras",
    "https://www.tensorflow.org/model_optimization/guide/quantization/training",
    "https://www.tensorflow.org/model_optimization/guide/combine/collaborative_optimization",
)
_SINGLE_ROWS, _BATCHES, _BATCH, _INVOCATIONS = 300, 20, 256, 1000

_PARTS = ("modes", "kernels", "saved models")

Timers = dict[Any, Callable[[], np.ndarray]]


@click.command()
@click.option(
    "--output",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Output directory of a finished run to measure. Default: run the pipeline first.",
)
@click.option(
    "--part",
    "parts",
    type=click.Choice(_PARTS),
    multiple=True,
    default=_PARTS,
    show_default=True,
    help="A table; may be repeated.",
)
def main(output: Path | None, parts: tuple[str, ...]) -> None:
    """Compresses the model of a run in every mode and prints what that saves and costs."""
    with tempfile.TemporaryDirectory() as folder:
        if output is None:
            output = Path(folder, "output")
            arguments = ["local_runner.py", "run", f"--as-of={_MONTH}", f"--output={output}"]
            run_measured(arguments, allowed=(0, 4))
        run = FinishedRun(output)
        if "modes" in parts:
            compare_modes(run, Path(folder))
        if "kernels" in parts:
            compare_kernels(run)
        if "saved models" in parts:
            compare_saved_models(run)


def quantize(run: FinishedRun, model: tuple[str, str], mode: str, folder: Path) -> bytes:
    """Runs the Quantizer on a model into a folder; returns the TFLite model."""
    done = run.execute("Quantizer", folder, {"model": run.artifact(*model)}, mode=mode)
    path = Path(serving_model_uri(done["quantized_model"]), TFLITE_MODEL)
    return path.read_bytes()


def compare_modes(run: FinishedRun, folder: Path) -> None:
    """Prints the table of the whole model in every mode; the Quantizer writes to a folder."""
    examples, labels, masks = run.test_rows(_SLICE)
    single = examples[:_SINGLE_ROWS, np.newaxis]
    batches = examples[: _BATCHES * _BATCH].reshape(_BATCHES, _BATCH)
    data: dict[str, dict[str, Any]] = {}
    timers: Timers = {}
    task = load_config().make_task()
    for name, (model, mode) in _MODELS.items():
        content = quantize(run, model, mode, folder / name)
        predictor = TFLitePredictor(content)
        answers = predictor.predict(examples)
        aucs = {value: headline(task, labels[mask], answers[mask]) for value, mask in masks.items()}
        data[name] = {
            "sparsity": weight_sparsity(content),
            "bytes": len(content),
            "gzip_bytes": len(gzip.compress(content, 9)),
            "auc": aucs.pop(""),
            f"auc_by_{_SLICE}": aucs,
        }
        timers[name, "row_us"] = partial(time_invocations, content, single)
        timers[name, "batch_us"] = partial(time_invocations, content, batches)
        rows = [predictor.parse(row) for row in single]
        timers[name, "numpy_row_us"] = partial(_time, predictor.predict_features, rows)
    signatures = tf.saved_model.load(serving_model_uri(run.artifact(*_TRAINED))).signatures

    def hand_over(row: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
        return {name: tf.constant(column) for name, column in row.items()}

    def ask(tensors: Mapping[str, tf.Tensor]) -> np.ndarray:
        return signatures[RAW_SIGNATURE](**tensors)[load_config().prediction].numpy()

    timers["SavedModel", "row_us"] = partial(_time, ask, list(map(hand_over, rows)))
    timers["SavedModel", "numpy_row_us"] = partial(_time, lambda row: ask(hand_over(row)), rows)
    times: dict[str, dict[str, float]] = {}
    for (name, key), value in _interleave(timers, rounds=9).items():
        times.setdefault(name, {})[key] = value
    table = [_mode_row(name, data, times) for name in data]
    notes = (
        f"Quantized with the default settings; {len(labels):,} rows. x: times smaller or faster "
        f"than float; for one row, than the trained SavedModel called from Python: in the "
        f"interpreter against {times['SavedModel']['row_us']:.0f} µs from tensors, from numpy to "
        f"numpy against {times['SavedModel']['numpy_row_us']:.0f} µs. Published:\n"
    ) + "\n".join(f"[{number}] {source}" for number, source in enumerate(_SOURCES, 1))
    columns = ["mode", "zeros", "bytes", "gzip", "AUC", f"worst {_SLICE}"]
    columns += ["1 row, µs", "numpy to numpy, µs", "of 256, µs a row", "published"]
    report("compression_modes", columns, table, {"modes": data, "times": times}, notes)


def _mode_row(name: str, data: Mapping[str, Any], times: Mapping[str, Any]) -> list[str]:
    row, first, key = data[name], data["float"], f"auc_by_{_SLICE}"
    lost = {value: first[key][value] - auc for value, auc in row[key].items()}
    worst = max(lost, key=lambda value: lost[value])
    return [
        name,
        f"{row['sparsity']:.0%}",
        *(f"{row[size]:,} {first[size] / row[size]:.1f}x" for size in ("bytes", "gzip_bytes")),
        f"{row['auc']:.4f} {row['auc'] - first['auc']:+.4f}",
        f"{worst} {-lost[worst]:+.4f}" if row is not first else "",
        *(
            f"{times[name][kind]:.1f} {times['SavedModel'][kind] / times[name][kind]:.0f}x"
            for kind in ("row_us", "numpy_row_us")
        ),
        f"{times[name]['batch_us'] / _BATCH:.2f}",
        _PUBLISHED.get(name, ""),
    ]


def _time(call: Callable[[Any], Any], values: Iterable[Any]) -> np.ndarray:
    """Seconds that each call with one of some values takes."""
    times = []
    for value in values:
        start = time.perf_counter()
        call(value)
        times.append(time.perf_counter() - start)
    return np.array(times)


def _interleave(timers: Timers, rounds: int) -> dict[Any, float]:
    """Median times in µs; timers take turns, so that a noisy machine hurts all of them alike."""
    taken = [{key: np.median(timer()) for key, timer in timers.items()} for _ in range(rounds)]
    return {key: float(np.median([times[key] for times in taken])) * 1e6 for key in timers}


def compare_kernels(run: FinishedRun) -> None:
    """Prints the table of the dense layers alone, in every form and on every runtime."""
    trained, pruned = (networks.load_network(run.artifact(*key)) for key in (_TRAINED, _PRUNED))
    rows = _rows_of_layer(run, trained, networks.kernel_layers(trained)[0])
    models = {
        (numbers, form): _to_tflite(_stack(network, rows if numbers == "int8" else None), numbers)
        for numbers in ("float32", "int8")
        for form, network in (("trained", trained), ("pruned", pruned))
    }
    one = tf_keras.Input((1,))
    empty = _to_tflite(tf_keras.Model(one, one + 1.0), "float32")
    runtimes = _runtimes()
    timers: Timers = {}
    for runtime, make in runtimes.items():
        timers["", runtime] = _start(make, empty, rows[:1, :1])
        for key, content in models.items():
            timers[key, runtime] = _start(make, content, rows[:1])
    times = _interleave(timers, rounds=50)
    first = next(iter(models))
    table, data = [], []
    for key, content in models.items():
        cells = []
        for runtime in runtimes:
            now, then, call = (times[name, runtime] for name in (key, first, ""))
            ratios = f"{then / now:.1f}x, {(then - call) / (now - call):.1f}x"
            cells.append(f"{now:.2f} ({ratios})")
        table.append([*key, f"{len(content):,}", *cells])
        row_us = {runtime: times[key, runtime] for runtime in runtimes}
        data.append({"form": key, "bytes": len(content), "row_us": row_us})
    calls = {runtime: times["", runtime] for runtime in runtimes}
    table.append(["empty call", "", "", *(f"{call:.2f}" for call in calls.values())])
    columns = ["numbers", "units", "bytes", *runtimes]
    notes = (
        "µs for one row; in brackets how many times faster than in the first line, as measured and "
        "with the time of an empty call (one addition) taken off both"
    )
    report("compression_kernels", columns, table, {"forms": data, "empty_call_us": calls}, notes)


def compare_saved_models(run: FinishedRun) -> None:
    """Prints the table of the SavedModels, run in sessions as TensorFlow Serving runs them."""
    models = {
        name: SavedModel(serving_model_uri(run.artifact(*key))) for name, key in _SAVED.items()
    }
    predictor = SavedModelFeaturePredictor(serving_model_uri(run.artifact(*_QUANTIZED)))
    examples = run.test_rows()[0]
    timers: Timers = {}
    for rows in _SAVED_ROWS:
        features = predictor.parse(examples[:rows])
        calls = _SINGLE_ROWS // rows + 5
        for name, model in models.items():
            (only,) = model.signatures[DEFAULT_SIGNATURE].inputs
            for signature, given in (
                (RAW_SIGNATURE, features),
                (DEFAULT_SIGNATURE, {only: examples[:rows]}),
            ):
                outputs = list(model.signatures[signature].outputs)
                ask = partial(model.run, signature, outputs=outputs, seconds=60.0)
                timers[signature, rows, name] = partial(_time, ask, [given] * calls)
    times = _interleave(timers, rounds=15)
    table = []
    for signature in (RAW_SIGNATURE, DEFAULT_SIGNATURE):
        for rows in _SAVED_ROWS:
            first, *others = (times[signature, rows, name] for name in _SAVED)
            shown = (f"{one:.0f} ({first / one:.2f}x)" for one in others)
            table.append([signature, f"{rows:,}", f"{first:.0f}", *shown])
    notes = (
        f"µs for a request, in the embedded server's sessions; {RAW_SIGNATURE} takes tensors, "
        f"{DEFAULT_SIGNATURE} serialized examples, which TensorFlow has to parse."
    )
    data = [[*key, value] for key, value in times.items()]
    report("compression_saved_models", ["signature", "rows", *_SAVED], table, data, notes)


def _rows_of_layer(run: FinishedRun, network: tf_keras.Model, layer: Any) -> np.ndarray:
    """What a layer of a network reads on the split `eval`, [rows, width]."""
    graph = tft.TFTransformOutput(run.artifact("Transform", "transform_graph").uri)
    examples = run.artifact("Transform", "transformed_examples")
    columns = read_columns(examples, "eval", graph.transformed_metadata.schema)
    front = tf_keras.Model(network.inputs, layer.input)
    return front.predict(select_inputs(network, columns), batch_size=8192, verbose=0)


def _stack(network: tf_keras.Model, representative: np.ndarray | None) -> tf_keras.Model:
    """The dense layers of a network in a row; in int8 if there are representative rows."""
    layers = networks.kernel_layers(network)
    features = hidden = tf_keras.Input(layers[0].kernel.shape[:1], name="features")
    for layer in layers:
        copy = type(layer).from_config(layer.get_config())
        hidden = copy(hidden)
        copy.set_weights(layer.get_weights())
    if representative is None:
        return tf_keras.Model(features, hidden)
    # The last layer of a network stays float, so there is one more until the others are quantized.
    whole = tf_keras.Model(features, tf_keras.layers.Dense(1)(hidden))
    bits = load_config().quantization.weight_bits
    quantized = emulate_int8(whole, {"features": representative}, weight_bits=bits).layers[-1]
    return tf_keras.Model(quantized.inputs, quantized.get_layer(f"quant_{layers[-1].name}").output)


def _to_tflite(network: tf_keras.Model, numbers: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        network.save(folder, save_format="tf")
        return convert(folder, "serving_default", float16=False, quantize=numbers == "int8")


def _runtimes() -> dict[str, Callable[..., Any]]:
    """Interpreters by name; newer TensorFlows have none of their own."""
    kinds = {"LiteRT": (Interpreter, OpResolverType)}
    if hasattr(tf.lite, "Interpreter"):
        kinds["TF"] = (tf.lite.Interpreter, tf.lite.experimental.OpResolverType)
    resolvers = {"XNNPACK": "AUTO", "built-in": "BUILTIN_WITHOUT_DEFAULT_DELEGATES"}
    return {
        f"{name}, {kernels}": partial(
            kind, num_threads=1, experimental_op_resolver_type=getattr(types, resolver)
        )
        for name, (kind, types) in kinds.items()
        for kernels, resolver in resolvers.items()
    }


def _start(make: Callable[..., Any], content: bytes, row: np.ndarray) -> Callable[[], np.ndarray]:
    """Loads a model of floats; returns a timer of its answer to a row."""
    interpreter = make(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row)
    interpreter.invoke()
    return partial(_time, lambda _: interpreter.invoke(), range(_INVOCATIONS))


if __name__ == "__main__":
    main()
