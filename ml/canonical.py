"""Writes `saved_model.pb` in one form, so that the same model has the same bytes.

TensorFlow numbers functions and what they capture in the order in which a process makes them, puts
the nodes of a function in the order of addresses in memory, names lookup tables after the files
they were read from, and draws a random id for each model. None of that has a meaning.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from storage.names import SAVED_MODEL
from storage.uris import file_sizes, read_file

# Holds checksums of what is changed here, and a random id; nothing needs it.
_FINGERPRINT = "fingerprint.pb"
_NUMBERED = re.compile(r"(.*)_\d+", re.DOTALL)
# An attribute of arguments; the number of what is captured, where nobody named it.
_NAME = "_user_specified_name"
_TABLES = ("HashTable", "HashTableV2")


def write_canonical(path: str, assets_of: str = "") -> None:
    """Rewrites `saved_model.pb` of a SavedModel in its canonical form; see `canonical_form`.

    Args:
      path: Folder of the SavedModel.
      assets_of: Folder of the SavedModel whose assets name the lookup tables, if it is another one.
    """
    file = os.path.join(path, SAVED_MODEL)
    source = assets_of or path
    assets = sorted(name for name in file_sizes(source) if name.startswith("assets/"))
    digests = [hashlib.sha256(read_file(os.path.join(source, name))).hexdigest() for name in assets]
    content = canonical_form(read_file(file), "".join(digests))
    with tf.io.gfile.GFile(file, "wb") as out:
        out.write(content)
    fingerprint = os.path.join(path, _FINGERPRINT)
    if tf.io.gfile.exists(fingerprint):
        tf.io.gfile.remove(fingerprint)


def canonical_form(content: bytes, assets: str = "") -> bytes:
    """The canonical form of a `saved_model.pb`: equal for two that differ in names and order alone.

    Functions are numbered, and sorted, by what they compute; the nodes of a function are sorted by
    their names. What a user of the model sees stays as it is: signatures, the names of their inputs
    and outputs, variables.

    Args:
      content: The bytes of `saved_model.pb`.
      assets: Digest of the model's assets, by which the names of its lookup tables differ from
        those of other models: programs may share tables of one name.

    Returns:
      The canonical bytes. Those of a canonical form are the same.
    """
    model = saved_model_pb2.SavedModel.FromString(content)
    for graph in model.meta_graphs:
        _order_functions(graph)
        _name_tables(graph, assets)
    return bytes(model.SerializeToString(deterministic=True))


def _order_functions(graph: meta_graph_pb2.MetaGraphDef) -> None:
    """Numbers and sorts the functions of a graph by what they compute."""
    library = graph.graph_def.library
    for function in library.function:
        _rename_arguments(function)
        nodes = sorted(function.node_def, key=lambda node: node.name)
        del function.node_def[:]
        function.node_def.extend(nodes)
    by_name = {function.signature.name: function for function in library.function}
    digests: dict[str, str] = {}
    for name in by_name:
        _digest(name, by_name, digests)
    # The last is for functions that compute the same.
    places = _places(graph, by_name)
    order = sorted(by_name, key=lambda name: (_base(name), digests[name], places[name]))
    names = {name: _renamed(name, place) for place, name in enumerate(order)}
    for function in by_name.values():
        _replace_in_function(function, names)
    functions = [by_name[name] for name in order]
    copies = [function_pb2.FunctionDef.FromString(f.SerializeToString()) for f in functions]
    del library.function[:]
    library.function.extend(copies)
    for gradient in library.gradient:
        gradient.function_name = names.get(gradient.function_name, gradient.function_name)
        gradient.gradient_func = names.get(gradient.gradient_func, gradient.gradient_func)
    _replace_in_nodes(graph.graph_def.node, names)
    _replace_in_objects(graph, names)


def _rename_arguments(function: function_pb2.FunctionDef) -> None:
    """Numbers arguments by their places, as far as their names end in a number."""
    taken = {node.name for node in function.node_def}
    taken |= {a.name for a in function.signature.input_arg if not _NUMBERED.fullmatch(a.name)}
    names: dict[str, str] = {}
    for place, argument in enumerate(function.signature.input_arg):
        if match := _NUMBERED.fullmatch(argument.name):
            new = f"{match[1]}_{place}"
            while new in taken:
                new = f"{new}_{place}"
            names[argument.name] = new
            taken.add(new)
            argument.name = new
        attributes = function.arg_attr[place].attr if place in function.arg_attr else {}
        if _NAME in attributes and attributes[_NAME].s.isdigit():
            attributes[_NAME].s = str(place).encode()
    for node in function.node_def:
        for index, text in enumerate(node.input):
            node.input[index] = names.get(text, text)
    for output, text in list(function.ret.items()):
        function.ret[output] = names.get(text, text)


def _digest(
    name: str, functions: Mapping[str, function_pb2.FunctionDef], digests: dict[str, str]
) -> str:
    """Digest of a function, with those of the functions that it calls in place of their names."""
    if name not in digests:
        digests[name] = ""  # For one that calls itself.
        copy = function_pb2.FunctionDef()
        copy.CopyFrom(functions[name])
        called = {
            other: f"{_base(other)} {_digest(other, functions, digests)}"
            for other in sorted(_called(copy) & functions.keys())
        }
        _replace_in_function(copy, called | {name: _base(name)})
        for table in _tables(copy.node_def):
            table.attr["shared_name"].s = b""
        content = copy.SerializeToString(deterministic=True)
        digests[name] = hashlib.sha256(content).hexdigest()
    return digests[name]


def _places(
    graph: meta_graph_pb2.MetaGraphDef, functions: Mapping[str, function_pb2.FunctionDef]
) -> dict[str, int]:
    """Where each function is first met on the way from the objects of Python through all calls."""
    places: dict[str, int] = {}

    def visit(names: Iterable[str]) -> None:
        for name in names:
            if name in functions and name not in places:
                places[name] = len(places)
                visit(_calls(functions[name]))

    for node in graph.object_graph_def.nodes:
        visit(node.function.concrete_functions)
        visit([node.bare_concrete_function.concrete_function_name])
    visit(
        each.name
        for value in _attributes(graph.graph_def.node, {})
        for each in _functions_of(value)
    )
    visit(sorted(functions, key=_base))
    return places


def _calls(function: function_pb2.FunctionDef) -> Iterator[str]:
    """Names of the functions that a function calls, in the order of its nodes' names."""
    for node in function.node_def:
        yield node.op
        for _, value in sorted(node.attr.items()):
            yield from (each.name for each in _functions_of(value))


def _called(function: function_pb2.FunctionDef) -> set[str]:
    """Names in a function that may be those of functions."""
    found = {node.op for node in function.node_def}
    for value in _attributes(function.node_def, function.attr):
        found |= {each.name for each in _functions_of(value)}
        if value.WhichOneof("value") == "s":
            found.add(value.s.decode(errors="replace"))
    return found


def _replace_in_function(function: function_pb2.FunctionDef, names: Mapping[str, str]) -> None:
    function.signature.name = names.get(function.signature.name, function.signature.name)
    _replace_in_nodes(function.node_def, names, function.attr)


def _replace_in_nodes(
    nodes: Iterable[node_def_pb2.NodeDef],
    names: Mapping[str, str],
    more: Mapping[str, attr_value_pb2.AttrValue] | None = None,
) -> None:
    """Renames functions in nodes and attributes."""
    for node in nodes:
        node.op = names.get(node.op, node.op)
        node.ClearField("experimental_debug_info")
    for value in _attributes(nodes, more or {}):
        for each in _functions_of(value):
            each.name = names.get(each.name, each.name)
        if value.WhichOneof("value") == "s":  # The gradient of a function is named so.
            text = value.s.decode(errors="replace")
            value.s = names[text].encode() if text in names else value.s


def _attributes(
    nodes: Iterable[node_def_pb2.NodeDef], more: Mapping[str, attr_value_pb2.AttrValue]
) -> Iterator[attr_value_pb2.AttrValue]:
    for node in nodes:
        yield from node.attr.values()
    yield from more.values()


def _functions_of(value: attr_value_pb2.AttrValue) -> Iterator[attr_value_pb2.NameAttrList]:
    kind = value.WhichOneof("value")
    if kind == "func":
        yield value.func
    elif kind == "list":
        yield from value.list.func


def _replace_in_objects(graph: meta_graph_pb2.MetaGraphDef, names: Mapping[str, str]) -> None:
    """Renames functions where the objects of Python refer to them."""
    objects = graph.object_graph_def
    for node in objects.nodes:
        kind = node.WhichOneof("kind")
        if kind == "function":
            known = [names.get(name, name) for name in node.function.concrete_functions]
            node.function.concrete_functions[:] = known
        elif kind == "bare_concrete_function":
            function = node.bare_concrete_function
            old = function.concrete_function_name
            function.concrete_function_name = names.get(old, old)
    for table in (objects.concrete_functions, graph.meta_info_def.function_aliases):
        _rename_keys(table, names)


def _rename_keys(table: Any, names: Mapping[str, str]) -> None:
    """Renames the keys of a map, whose values are texts or messages."""
    plain = {
        name: value if isinstance(value, str) else value.SerializeToString()
        for name, value in table.items()
    }
    table.clear()
    for name, value in plain.items():
        if isinstance(value, str):
            table[names.get(name, name)] = value
        else:
            table[names.get(name, name)].ParseFromString(value)


def _name_tables(graph: meta_graph_pb2.MetaGraphDef, assets: str) -> None:
    """Names lookup tables by number; those of one name, which are one table, keep one name."""
    model = hashlib.sha256(assets.encode()).hexdigest()[:16]
    functions = graph.graph_def.library.function
    names: dict[bytes, bytes] = {}
    for nodes in (graph.graph_def.node, *(function.node_def for function in functions)):
        for node in _tables(nodes):
            shared = node.attr["shared_name"]
            shared.s = names.setdefault(shared.s, f"table_{model}_{len(names)}".encode())


def _tables(nodes: Iterable[node_def_pb2.NodeDef]) -> Iterator[node_def_pb2.NodeDef]:
    """The nodes that make a lookup table which has a name."""
    for node in nodes:
        if node.op in _TABLES and "shared_name" in node.attr and node.attr["shared_name"].s:
            yield node


def _base(name: str) -> str:
    match = _NUMBERED.fullmatch(name)
    return match[1] if match else name


def _renamed(name: str, place: int) -> str:
    """A function's new name; TensorFlow looks for a number at its end."""
    return f"{_base(name)}_{place}" if _NUMBERED.fullmatch(name) else name
