"""Tells a model by what it computes, whatever the bytes of its files are.

Two exports of the same network differ in bytes: in the names and the order of nodes and functions,
in the order of the keys of hash tables. TensorFlow's own fingerprint (`fingerprint.pb`) of two such
exports is equal, but leaves out the functions, where all of a Keras model is.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from tensorflow.core.framework import attr_value_pb2, function_pb2, node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

from storage.names import SAVED_MODEL, TFLITE_MODEL
from storage.uris import file_sizes, model_digest, read_file

# Changes with what is looked at: identities of other forms are never equal.
_FORM = "computes-1"
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
# Says where and how a function runs, not what it computes.
_IDLE_ATTRIBUTES = frozenset({"config", "config_proto", "executor_type"})

_TableTypes: TypeAlias = tuple[int, int]
_CODES = {code: name for name, code in vars(schema.BuiltinOperator).items()}


def model_identity(model_uri: str) -> str:
    """Identifies a model: equal for two exports of one network, different for any other network.

    It covers each signature (names, types, shapes and defaults of its inputs and outputs, and the
    operators, weights, constants and tables between them), the files in `assets/`, and the same of
    `model.tflite`. It leaves out requests for warming up, and what no signature reads.

    Args:
      model_uri: Folder of a SavedModel, with or without `model.tflite`.

    Returns:
      `computes-1:` and 64 hexadecimal digits; `bytes:` and the digest of the files where TensorFlow
      cannot load the model, or it has what this module cannot tell (a loop of TensorFlow 1).
    """
    try:
        files = file_sizes(model_uri)
        parts = {
            name: _hash(read_file(os.path.join(model_uri, name)))
            for name in files
            if name.startswith("assets/")
        }
        parts["signatures"] = _saved_model(model_uri)
        if TFLITE_MODEL in files:
            parts[TFLITE_MODEL] = _tflite(read_file(os.path.join(model_uri, TFLITE_MODEL)))
    except Exception as error:  # Whatever there is in a model, it can be pushed.
        logging.warning("The model %s is told by its bytes: %r", model_uri, error)
        return f"bytes:{model_digest(model_uri)}"
    return f"{_FORM}:{_hash(sorted(parts.items()))}"


def _hash(value: Any) -> str:
    """Of bytes, or of lists and tuples of what has a `repr` that tells it."""
    content = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.sha256(content).hexdigest()


def _array(value: np.ndarray) -> str:
    content = repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
    return _hash((str(value.dtype), value.shape, _hash(content)))


# SavedModels


def _saved_model(uri: str) -> str:
    loaded = tf.saved_model.load(uri)
    content = read_file(os.path.join(uri, SAVED_MODEL))
    (graph,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    found = []
    for name, function in sorted(loaded.signatures.items()):
        definition = graph.signature_def[name]
        ends = [
            sorted((key, info.dtype, _proto(info.tensor_shape)) for key, info in side.items())
            for side in (definition.inputs, definition.outputs)
        ]
        defaults = [
            (key, _array(tf.make_ndarray(value)))
            for key, value in sorted(definition.defaults.items())
        ]
        found.append((name, definition.method_name, ends, defaults, _signature(function)))
    return _hash(found)


def _signature(function: Any) -> list[tuple[str, str]]:
    """What each output of a signature is computed by."""
    graph = function.graph
    # Both are flattened as TensorFlow flattens dicts, by their keys.
    keys = sorted(function.structured_input_signature[1])
    names = sorted(function.structured_outputs)
    given = [_hash(("input", key)) for key in keys]
    captured = [_hash(("captured", index)) for index in range(len(function.captured_inputs))]
    definition = graph.as_graph_def()

    def follow(contents: list[str]) -> tuple[dict[str, _Value], dict[str, _TableTypes]]:
        known = {
            tensor.op.name: _Value(value, [value])
            for tensor, value in zip(graph.inputs, [*given, *contents], strict=True)
        }
        functions = _Functions(definition.library.function)
        return functions.follow(definition.node, known), functions.tables

    # What a table holds can only be read by who knows its types, which those who read it do.
    types = follow(captured)[1]
    contents = _contents(function, [types.get(name) for name in captured])
    values = follow(contents)[0]
    outputs = [
        (name, values[tensor.op.name].output("", tensor.value_index))
        for name, tensor in zip(names, function.outputs, strict=True)
    ]
    effects = sorted(values[operator.name].hash for operator in graph.control_outputs)
    return [*outputs, ("", _hash(effects))]


def _contents(function: Any, types: list[_TableTypes | None]) -> list[str]:
    """What is in all that a function reads besides its inputs: variables, tables, constants."""
    variables = {id(variable.handle): variable for variable in function.variables}
    found = []
    for capture, types_of_table in zip(function.captured_inputs, types, strict=True):
        if id(capture) in variables:
            found.append(_array(variables[id(capture)].numpy()))
        elif types_of_table:
            found.append(_table(capture, *types_of_table))
        elif capture.dtype == tf.resource:
            raise ValueError("a resource is neither a variable nor a table that is looked up")
        else:
            found.append(_array(capture.numpy()))
    return found


def _table(handle: tf.Tensor, key_type: int, value_type: int) -> str:
    keys, values = tf.raw_ops.LookupTableExportV2(
        table_handle=handle, Tkeys=tf.as_dtype(key_type), Tvalues=tf.as_dtype(value_type)
    )
    rows = sorted(zip(keys.numpy().tolist(), values.numpy().tolist(), strict=True))
    return _hash((key_type, value_type, rows))


class _Value:
    """What a node computes.

    Attributes:
      hash: Identifies the node: its operator, its settings, and all that it is computed from.
      outputs: Identify its outputs, where they are those of other nodes.
    """

    def __init__(self, hash_of_node: str, outputs: Sequence[str] | None = None):
        self.hash = hash_of_node
        self._outputs = outputs

    def output(self, name: str, index: int) -> str:
        """Identifies one output: of the name that its operator gives it, or "", and number."""
        return self._outputs[index] if self._outputs else _hash((self.hash, name, index))


class _Functions:
    """Follows graphs and the functions that they call, from inputs to outputs.

    A node is told by its operator and by what its inputs are told by (a Merkle tree), so that
    neither names nor order nor the cut into functions matter.

    Args:
      functions: The library of a graph.

    Attributes:
      tables: Types of keys and values of each table that is looked up, by what it is told by.
    """

    def __init__(self, functions: Iterable[function_pb2.FunctionDef]):
        self._functions = {function.signature.name: function for function in functions}
        self._called: dict[tuple[str, ...], _Value] = {}
        self.tables: dict[str, _TableTypes] = {}

    def follow(
        self, nodes: Iterable[node_def_pb2.NodeDef], known: Mapping[str, _Value]
    ) -> dict[str, _Value]:
        """What each node computes.

        Args:
          nodes: Nodes of a graph or of a function.
          known: What some of them, or the arguments of the function, are known to be.

        Raises:
          graphlib.CycleError: If the nodes go round, as loops of TensorFlow 1 do.
        """
        by_name = {node.name: node for node in nodes if node.name not in known}
        order = TopologicalSorter(
            {name: {_source(i) for i in node.input} - set(known) for name, node in by_name.items()}
        )
        values = dict(known)
        for name in order.static_order():
            values[name] = self._node(by_name[name], values)
        return values

    def _node(self, node: node_def_pb2.NodeDef, values: Mapping[str, _Value]) -> _Value:
        inputs = [_look_up(text, values) for text in node.input if not text.startswith("^")]
        before = sorted(values[_source(t)].hash for t in node.input if t.startswith("^"))
        if node.op in _CALLS:
            return self._call(node.attr["f"].func.name, inputs)
        if node.op in self._functions:
            return self._call(node.op, inputs)
        if node.op == "Identity" and not before:
            return _Value(inputs[0], inputs)
        if node.op == "LookupTableFindV2":
            self.tables[inputs[0]] = (node.attr["Tin"].type, node.attr["Tout"].type)
        attributes = [
            (name, self._attribute(value))
            for name, value in sorted(node.attr.items())
            if not name.startswith("_") and name not in _IDLE_ATTRIBUTES
        ]
        return _Value(_hash((node.op, attributes, inputs, before)))

    def _call(self, name: str, arguments: Sequence[str]) -> _Value:
        key = (name, *arguments)
        if key not in self._called:
            function = self._functions[name]
            known = {
                argument.name: _Value(value, [value])
                for argument, value in zip(function.signature.input_arg, arguments, strict=True)
            }
            values = self.follow(function.node_def, known)
            outputs = [
                _look_up(function.ret[output.name], values)
                for output in function.signature.output_arg
            ]
            effects = sorted(values[source].hash for source in function.control_ret.values())
            self._called[key] = _Value(_hash((outputs, effects)), outputs)
        return self._called[key]

    def _attribute(self, value: attr_value_pb2.AttrValue) -> Any:
        kind = value.WhichOneof("value")
        if kind == "func":
            return self._body(value.func.name)
        if kind == "list" and value.list.func:
            return [self._body(function.name) for function in value.list.func]
        if kind == "tensor":
            return _array(tf.make_ndarray(value.tensor))
        return _proto(value)

    def _body(self, name: str) -> str:
        """A function that is a branch or a step of another, whatever it is called with."""
        count = len(self._functions[name].signature.input_arg)
        return self._call(name, [_hash(("argument", index)) for index in range(count)]).hash


def _source(text: str) -> str:
    """Name of the node, or the argument, that an input comes from."""
    return text.removeprefix("^").partition(":")[0]


def _look_up(text: str, values: Mapping[str, _Value]) -> str:
    """An input of the form `node`, `node:2` (graphs) or `node:output:2` (functions)."""
    name, *rest = text.split(":")
    return values[name].output(rest[0] if len(rest) == 2 else "", int(rest[-1]) if rest else 0)


def _proto(message: Any) -> bytes:
    content: bytes = message.SerializeToString(deterministic=True)
    return content


# TFLite


def _tflite(content: bytes) -> str:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    return _hash(_TfliteModel(model).signatures())


class _TfliteModel:
    """Follows the subgraphs of a TFLite model as `_Functions` does those of a SavedModel."""

    def __init__(self, model: Any):
        self._model = model
        self._tables = self._read_tables()
        self._followed: dict[int, str] = {}

    def signatures(self) -> list[Any]:
        """What each subgraph is named by, reads and computes."""
        names = {s.subgraphIndex: s for s in self._model.signatureDefs or ()}
        found = []
        for index in range(len(self._model.subgraphs)):
            signature = names.get(index)
            ends = [
                sorted((_text(entry.name), side.index(entry.tensorIndex)) for entry in entries)
                for entries, side in self._ends(signature, index)
            ]
            key = _text(signature.signatureKey) if signature else ""
            found.append((key, ends, self._subgraph(index)))
        return sorted(found)

    def _ends(self, signature: Any, index: int) -> list[tuple[Any, list[int]]]:
        graph = self._model.subgraphs[index]
        sides = [list(graph.inputs), list(graph.outputs)]
        given = (signature.inputs, signature.outputs) if signature else ((), ())
        return list(zip(given, sides, strict=True))

    def _subgraph(self, index: int) -> str:
        if index not in self._followed:
            graph = self._model.subgraphs[index]
            values = {}
            for number, tensor in enumerate(graph.tensors):
                data = self._model.buffers[tensor.buffer].data
                constant = None if data is None else _hash(np.asarray(data, np.uint8).tobytes())
                values[number] = _hash((self._kind(tensor), constant, tensor.isVariable))
            for place, number in enumerate(graph.inputs):
                values[number] = _hash(("input", place, self._kind(graph.tensors[number])))
            effects = []
            for operator in graph.operators:  # They are in an order in which they can be run.
                hashed = self._operator(operator, values)
                for place, number in enumerate(operator.outputs):
                    values[number] = _hash((hashed, place, self._kind(graph.tensors[number])))
                if not len(operator.outputs):
                    effects.append(hashed)
            outputs = [values[number] for number in graph.outputs]
            self._followed[index] = _hash((outputs, sorted(effects)))
        return self._followed[index]

    def _operator(self, operator: Any, values: Mapping[int, str]) -> str:
        name = self._name(operator)
        if name == "HASHTABLE":
            return self._tables[operator.builtinOptions.tableId]
        options = self._plain(operator.builtinOptions)
        custom = self._plain(operator.customOptions)
        if operator.largeCustomOptionsSize:
            raise ValueError("a TFLite model has options outside of its graph")
        code = self._model.operatorCodes[operator.opcodeIndex]
        inputs = [values.get(number, "") for number in operator.inputs]  # -1 is none.
        if name == "HASHTABLE_IMPORT":
            inputs = inputs[:1]  # That of a table, which tells its content.
        return _hash((name, _text(code.customCode), code.version, options, custom, inputs))

    def _name(self, operator: Any) -> str:
        code = self._model.operatorCodes[operator.opcodeIndex]
        return str(_CODES[max(code.builtinCode, code.deprecatedBuiltinCode)])

    def _plain(self, value: Any) -> Any:
        """The options of an operator, with subgraphs in the place of their numbers."""
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return value
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, (list, tuple)):
            return [self._plain(item) for item in value]
        plain = {name: self._plain(item) for name, item in vars(value).items()}
        for name in plain:
            if name.lower().endswith("subgraphindex"):
                plain[name] = self._subgraph(plain[name])
        return type(value).__name__, sorted(plain.items())

    def _kind(self, tensor: Any) -> Any:
        return (
            *(tensor.type, self._plain(tensor.shape), self._plain(tensor.shapeSignature)),
            *(self._plain(tensor.quantization), self._plain(tensor.sparsity)),
        )

    def _read_tables(self) -> dict[int, str]:
        """What each hash table holds, by its number."""
        tables = {}
        for graph in self._model.subgraphs:
            made = {
                operator.outputs[0]: operator.builtinOptions
                for operator in graph.operators
                if self._name(operator) == "HASHTABLE"
            }
            for operator in graph.operators:
                if self._name(operator) == "HASHTABLE_IMPORT":
                    options = made[operator.inputs[0]]
                    keys, values = (
                        self._entries(graph.tensors[number]) for number in operator.inputs[1:]
                    )
                    rows = sorted(zip(keys, values, strict=True))
                    kind = (options.keyDtype, options.valueDtype)
                    tables[options.tableId] = _hash(("table", kind, rows))
        return tables

    def _entries(self, tensor: Any) -> list[bytes]:
        """The elements of a constant, as they are stored."""
        data = np.asarray(self._model.buffers[tensor.buffer].data, np.uint8).tobytes()
        if tensor.type == schema.TensorType.STRING:
            (count,) = np.frombuffer(data, "<i4", 1)
            starts = np.frombuffer(data, "<i4", count + 1, 4)
            if starts[-1] > len(data) or (np.diff(starts) < 0).any():
                raise ValueError("the texts of a TFLite model are not where it says")
            return [data[a:b] for a, b in itertools.pairwise(starts.tolist())]
        size = len(data) // int(np.prod(tensor.shape))
        return [data[start : start + size] for start in range(0, len(data), size)]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
