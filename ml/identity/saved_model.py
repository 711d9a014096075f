"""Tells a SavedModel by what its signatures compute."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

from ml.identity.digests import array_digest, digest, proto_bytes
from storage.names import SAVED_MODEL
from storage.uris import read_file

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
# Says where and how a function runs, not what it computes.
_IDLE_ATTRIBUTES = frozenset({"config", "config_proto", "executor_type"})
_TableTypes: TypeAlias = tuple[int, int]


def saved_model_digest(uri: str) -> str:
    """Of all that the signatures of a SavedModel compute, and of their inputs and outputs."""
    loaded = tf.saved_model.load(uri)
    content = read_file(os.path.join(uri, SAVED_MODEL))
    (graph,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    found = []
    for name, function in sorted(loaded.signatures.items()):
        definition = graph.signature_def[name]
        ends = [
            sorted((key, info.dtype, proto_bytes(info.tensor_shape)) for key, info in side.items())
            for side in (definition.inputs, definition.outputs)
        ]
        defaults = [
            (key, array_digest(tf.make_ndarray(value)))
            for key, value in sorted(definition.defaults.items())
        ]
        found.append((name, definition.method_name, ends, defaults, _signature(function)))
    return digest(found)


def _signature(function: Any) -> list[tuple[str, str]]:
    """What each output of a signature is computed by."""
    graph = function.graph
    # Both are flattened as TensorFlow flattens dicts, by their keys.
    keys = sorted(function.structured_input_signature[1])
    names = sorted(function.structured_outputs)
    given = [digest(("input", key)) for key in keys]
    captured = [digest(("captured", index)) for index in range(len(function.captured_inputs))]
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
    return [*outputs, ("", digest(effects))]


def _contents(function: Any, types: list[_TableTypes | None]) -> list[str]:
    """What is in all that a function reads besides its inputs: variables, tables, constants."""
    variables = {id(variable.handle): variable for variable in function.variables}
    found = []
    for capture, types_of_table in zip(function.captured_inputs, types, strict=True):
        if id(capture) in variables:
            found.append(array_digest(variables[id(capture)].numpy()))
        elif types_of_table:
            found.append(_table(capture, *types_of_table))
        elif capture.dtype == tf.resource:
            raise ValueError("a resource is neither a variable nor a table that is looked up")
        else:
            found.append(array_digest(capture.numpy()))
    return found


def _table(handle: tf.Tensor, key_type: int, value_type: int) -> str:
    keys, values = tf.raw_ops.LookupTableExportV2(
        table_handle=handle, Tkeys=tf.as_dtype(key_type), Tvalues=tf.as_dtype(value_type)
    )
    rows = sorted(zip(keys.numpy().tolist(), values.numpy().tolist(), strict=True))
    return digest((key_type, value_type, rows))


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
        return self._outputs[index] if self._outputs else digest((self.hash, name, index))


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
        return _Value(digest((node.op, attributes, inputs, before)))

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
            self._called[key] = _Value(digest((outputs, effects)), outputs)
        return self._called[key]

    def _attribute(self, value: attr_value_pb2.AttrValue) -> Any:
        kind = value.WhichOneof("value")
        if kind == "func":
            return self._body(value.func.name)
        if kind == "list" and value.list.func:
            return [self._body(function.name) for function in value.list.func]
        if kind == "tensor":
            return array_digest(tf.make_ndarray(value.tensor))
        return proto_bytes(value)

    def _body(self, name: str) -> str:
        """A function that is a branch or a step of another, whatever it is called with."""
        count = len(self._functions[name].signature.input_arg)
        return self._call(name, [digest(("argument", index)) for index in range(count)]).hash


def _source(text: str) -> str:
    """Name of the node, or the argument, that an input comes from."""
    return text.removeprefix("^").partition(":")[0]


def _look_up(text: str, values: Mapping[str, _Value]) -> str:
    """An input of the form `node`, `node:2` (graphs) or `node:output:2` (functions)."""
    name, *rest = text.split(":")
    return values[name].output(rest[0] if len(rest) == 2 else "", int(rest[-1]) if rest else 0)
