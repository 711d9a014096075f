"""Tells a TFLite model by what its signatures compute."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ml import tflite
from ml.identity.digests import digest

_CODES = {code: name for name, code in vars(schema.BuiltinOperator).items()}


def tflite_digest(content: bytes) -> str:
    """Of all that a TFLite model computes, and of its inputs and outputs."""
    return digest(_TfliteModel(tflite.parse(content)).signatures())


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
                constant = None if data is None else digest(np.asarray(data, np.uint8).tobytes())
                values[number] = digest((self._kind(tensor), constant, tensor.isVariable))
            for place, number in enumerate(graph.inputs):
                values[number] = digest(("input", place, self._kind(graph.tensors[number])))
            effects = []
            for operator in graph.operators:  # They are in an order in which they can be run.
                hashed = self._operator(operator, values)
                for place, number in enumerate(operator.outputs):
                    values[number] = digest((hashed, place, self._kind(graph.tensors[number])))
                if not len(operator.outputs):
                    effects.append(hashed)
            outputs = [values[number] for number in graph.outputs]
            self._followed[index] = digest((outputs, sorted(effects)))
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
        return digest((name, _text(code.customCode), code.version, options, custom, inputs))

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
                    tables[options.tableId] = digest(("table", kind, rows))
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
