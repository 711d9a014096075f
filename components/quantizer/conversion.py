"""Converts a signature of a SavedModel to a TFLite model of built-in operators."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from tensorflow.lite.python.conversion_metadata_schema_py_generated import ModelType

# The converter's error, and the converter without the loading, have no public names in TensorFlow.
from tensorflow.lite.python.convert import ConverterError
from tensorflow.lite.python.lite import TFLiteConverterBase, TFLiteSavedModelConverterV2

from components.quantizer.signatures import name_signatures
from ml import tflite
from ml.canonical import write_canonical
from ml.names import graph_names
from ml.signature_inputs import read_input_names
from storage.errors import UserError

_OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items()}
# As the converter itself leaves constants of fewer elements in float32 when it quantizes weights.
_LARGE = 1024
_WEIGHTED = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")


def convert(
    saved_model: str, signature: str, *, float16: bool, quantize: bool, loaded: Any = None
) -> bytes:
    """Converts one signature to TFLite.

    Args:
      saved_model: Path of the SavedModel.
      signature: Name of the signature; that of the TFLite model has the same name, inputs and
        outputs.
      float16: Store weights in 16 bits; small constants, and numbers that 16 bits cannot hold, stay
        in 32.
      quantize: Store large constants in 8 bits, and compute in int8 between fake-quant nodes.
      loaded: What `tf.saved_model.load` made of the SavedModel, if it is loaded already.

    Returns:
      The TFLite model, ready to serve: its signature is where TensorFlow Serving looks for it, and
      nothing unneeded is left.

    Raises:
      UserError: If there is no such signature, or it needs operators that TFLite lacks.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model")
        if loaded is None:
            loaded = tf.saved_model.load(saved_model)
        names = _save_with_tables(saved_model, loaded, signature, path)
        # The converter takes operators in the order of the file.
        write_canonical(path, assets_of=saved_model)
        optimizations = [tf.lite.Optimize.DEFAULT] if quantize or float16 else []
        types = [tf.float16] if float16 else []
        model = _convert_folder(path, loaded, signature, optimizations, types)
        if float16:
            restore_constants(model, _convert_folder(path, loaded, signature, [], []))
    for part in model.signatureDefs:
        for entry in part.inputs:
            entry.name = names[entry.name.decode()].encode()
    _slim(model)
    name_signatures(model)
    return tflite.pack(model)


def _convert_folder(
    path: str, loaded: Any, signature: str, optimizations: list[Any], types: list[tf.DType]
) -> schema.ModelT:
    # `TFLiteConverter.from_saved_model` loads the SavedModel, which takes as long as converting it,
    # to check that it has the signature and to keep the debug information, which none here has.
    TFLiteConverterBase._set_original_model_type(ModelType.TF_SAVED_MODEL)
    converter = TFLiteSavedModelConverterV2(
        path, {tf.saved_model.SERVING}, [signature], trackable_obj=loaded
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.target_spec.supported_types = types
    converter.optimizations = optimizations
    try:
        return tflite.parse(converter.convert())
    except ConverterError as error:
        raise UserError(_explain(signature, str(error))) from error


def restore_constants(model: schema.ModelT, exact: schema.ModelT) -> None:
    """Puts constants of a float16 model back into 32 bits that save nothing or do not fit.

    The converter also stores means, deviations and offsets in 16 bits, which have no number above
    65,504 and three digits: a price of 150,000 would become 65,504.

    Args:
      model: The float16 model; it is changed.
      exact: The same model in float32.
    """
    for graph, original in zip(model.subgraphs, exact.subgraphs, strict=True):
        # The float32 tensors that operators make of constants in 16 bits.
        made = {o.outputs[0]: o for o in graph.operators if _name(model, o) == "DEQUANTIZE"}
        widened = {i: o for i, o in made.items() if _size_of(model, graph, o.inputs[0])}
        computing, same_ones = _computing(model, graph), _computing(exact, original)
        if [_name(model, o) for o in computing] != [_name(exact, o) for o in same_ones]:
            logging.warning("the float16 model has other operators; its constants have 16 bits")
            return
        for operator, same in zip(computing, same_ones, strict=True):
            for index, exact_index in zip(operator.inputs, same.inputs, strict=True):
                if index not in widened or not _size_of(exact, original, exact_index):
                    continue
                data = exact.buffers[original.tensors[exact_index].buffer].data
                values = np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.float32)
                if len(values) < _LARGE or np.abs(values).max() > np.finfo(np.float16).max:
                    model.buffers.append(schema.BufferT())
                    model.buffers[-1].data = data
                    graph.tensors[index].buffer = len(model.buffers) - 1
                    graph.operators.remove(widened.pop(index))


def _computing(model: schema.ModelT, graph: schema.SubGraphT) -> list[schema.OperatorT]:
    """The operators but those that unpack constants."""
    return [o for o in graph.operators if _name(model, o) != "DEQUANTIZE"]


def _name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    return _OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _size_of(model: schema.ModelT, graph: schema.SubGraphT, index: int) -> int:
    """Bytes of a constant; 0 for any other tensor."""
    return _size(model.buffers[graph.tensors[index].buffer]) if index >= 0 else 0


def _explain(signature: str, message: str) -> str:
    missing = re.findall(r"(?:TF Select|Custom) ops: (.+)", message)
    missing += re.findall(r"operation 'tf\.(\w+)'", message)
    reason = f"has no operators {', '.join(missing)}" if missing else message.strip()[-500:]
    return f"the signature {signature!r} cannot become a TFLite model: TFLite {reason}"


class _Bundle(tf.Module):
    """Objects that a function refers to, so that they are saved with it."""

    def __init__(self, *parts: Any):
        super().__init__()
        self.parts = parts


def _save_with_tables(saved_model: str, loaded: Any, signature: str, path: str) -> dict[str, str]:
    """Saves one signature of a SavedModel with its lookup tables as constants.

    TFLite cannot read vocabulary files, and changes names of inputs that are not valid in a graph.

    Returns:
      By name of an input in the new SavedModel, its name for model servers in the old one.
    """
    if signature not in loaded.signatures:
        raise UserError(
            f"the model has no signature {signature!r}; it has {', '.join(loaded.signatures)}"
        )
    function = loaded.signatures[signature]
    tables = []
    captures = []
    before = list(function.captured_inputs)
    variables = {id(variable.handle) for variable in function.variables}
    for capture in before:
        if capture.dtype == tf.resource and id(capture) not in variables:
            tables.append(_copy_table(capture))
            capture = tables[-1].resource_handle
        captures.append(capture)
    function.set_external_captures(captures)
    inputs = function.structured_input_signature[1]
    valid = graph_names(inputs)

    @tf.function(
        autograph=False,
        input_signature=[
            {
                valid[name]: tf.TensorSpec(spec.shape, spec.dtype, valid[name])
                for name, spec in inputs.items()
            }
        ],
    )
    def serve(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return function(**{name: features[valid[name]] for name in inputs})

    # Not all that was loaded: it would be traced, saved and converted too.
    bundle = _Bundle(function.variables, tables)
    bundle.serve = serve
    tf.saved_model.save(bundle, path, signatures={signature: serve})
    function.set_external_captures(before)
    served = read_input_names(saved_model, signature, inputs)
    return {valid[name]: served[name] for name in inputs}


def _copy_table(handle: tf.Tensor) -> tf.lookup.StaticHashTable:
    """An in-memory copy of a table from strings to integers."""
    keys, values = tf.raw_ops.LookupTableExportV2(
        table_handle=handle, Tkeys=tf.string, Tvalues=tf.int64
    )
    order = np.argsort(keys.numpy())  # The table exports them by a hash that is seeded by chance.
    # The graph, not the table, sets the value of keys that are not found.
    return tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(keys.numpy()[order], values.numpy()[order]), -1
    )


def _slim(model: schema.ModelT) -> None:
    """Removes what a model does not need to run: names of inner tensors, empty buffers.

    Inputs and outputs get their names in the signature: TensorFlow Serving uses them if it finds no
    signature.
    """
    for signature in model.signatureDefs or ():
        for entry in (*signature.inputs, *signature.outputs):
            model.subgraphs[signature.subgraphIndex].tensors[entry.tensorIndex].name = entry.name
    filled = [0]
    filled += [index for index, buffer in enumerate(model.buffers) if index and _size(buffer)]
    places = {index: place for place, index in enumerate(filled)}
    for graph in model.subgraphs:
        outer = {*graph.inputs, *graph.outputs}
        for index, tensor in enumerate(graph.tensors):
            tensor.buffer = places.get(tensor.buffer, 0)  # Buffer 0 is the empty one.
            if index not in outer:
                tensor.name = tensor.shapeSignature = None
            if tensor.quantization is not None and tensor.quantization.scale is None:
                tensor.quantization = None
    for entry in model.metadata or ():
        entry.buffer = places.get(entry.buffer, 0)
    model.buffers = [model.buffers[index] for index in filled]


def _size(buffer: Any) -> int:
    return 0 if buffer.data is None else len(buffer.data)


def weight_sparsity(content: bytes, total: int = 0) -> float:
    """The share of zeros in the weights of a TFLite model's dense and convolution operators.

    Args:
      content: The model.
      total: Number of weights before some were removed, which count as zero; 0 if none were.
    """
    weights, left = count_weights(content)
    total = total or weights
    return 1 - left / total if total else 0.0


def count_weights(content: bytes) -> tuple[int, int]:
    """Counts the weights of a TFLite model's dense and convolution operators: all, and not zero."""
    model = tflite.parse(content)
    left = total = 0
    for graph in model.subgraphs:
        widened: dict[int, int] = {}
        for operator in graph.operators:
            name = _name(model, operator)
            if name == "DEQUANTIZE":
                widened[operator.outputs[0]] = operator.inputs[0]
            if name in _WEIGHTED:
                index = operator.inputs[1]
                tensor = graph.tensors[widened.get(index, index)]
                size = int(np.prod(tensor.shape))
                values = np.frombuffer(
                    np.asarray(model.buffers[tensor.buffer].data, np.uint8).tobytes(),
                    tflite.DTYPES[tensor.type].as_numpy_dtype,
                )
                left += np.count_nonzero(values)
                total += size
    return total, left
