"""Reads the requests of the REST interface: JSON to arrays or tf.Examples.

It follows TensorFlow Serving's `json_tensor.cc` and `http_rest_api_util.cc`, which say more than
the document on its REST interface. An integer that the dtype cannot hold is
refused, and so is a string that is not base64 where it should be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import grpc
import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2

from serving.server.errors import ServingError, invalid
from serving.server.json_arrays import INTEGER_LIMITS, JSON_DTYPES, find_fault, show_path, to_array
from serving.server.json_document import MEANT, is_object, parse, show, to_bytes, type_name
from serving.server.signatures import Signature, TensorInfo
from serving.server.tensors import check_context, check_rows

_INSTANCES = "instances"
_INPUTS = "inputs"
_EXAMPLES = "examples"

_INT64_LIMITS = INTEGER_LIMITS[np.dtype(np.int64)]


@dataclass(frozen=True)
class PredictRequest:
    """The body of a `:predict` request.

    Attributes:
      signature_name: Name of the signature; empty for the default one.
      inputs: One array for each input of the signature, of its dtype; strings are bytes objects.
        In row form all have the number of rows as their first size.
      row_format: Whether it came in row form ("instances"), in which the response goes back then,
        or in column form ("inputs").
    """

    signature_name: str
    inputs: dict[str, np.ndarray]
    row_format: bool


def parse_predict(
    body: bytes, signature_of: Callable[[str], Signature], max_rows: int
) -> PredictRequest:
    """Reads the body of a `:predict` request.

    In column form, keys that are no inputs of the signature are ignored, as TensorFlow Serving
    does. Shapes are those of the request: they are not compared with the signature's.

    Args:
      body: JSON object with "instances" or "inputs", and "signature_name" if it is not the default.
      signature_of: The signature of a name (empty: default); may raise ServingError.
      max_rows: Most rows that a request may have.

    Raises:
      ServingError: INVALID_ARGUMENT, naming the field and the element, where the body is not such
        an object or does not have the signature's inputs; UNIMPLEMENTED where an input has a
        dtype that JSON cannot say; RESOURCE_EXHAUSTED where there are too many rows.
    """
    document = parse(body)
    signature_name = _signature_name(document)
    signature = signature_of(signature_name)
    inputs = signature.inputs
    if not inputs:
        raise invalid(f"Failed to get input map for signature: {signature_name or 'DEFAULT'}")
    for name, info in inputs.items():
        if info.dtype not in JSON_DTYPES:
            raise ServingError(
                grpc.StatusCode.UNIMPLEMENTED,
                f"Conversion of JSON Value to type: {info.dtype_name} of input: {name}",
            )
    row_format = _INSTANCES in document
    if row_format and _INPUTS in document:
        raise invalid(
            f"JSON Value: {show(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist"
        )
    if not row_format and _INPUTS not in document:
        raise invalid("Missing 'inputs' or 'instances' key")
    value = document[_INSTANCES if row_format else _INPUTS]
    # What a request leaves out and has a default is none of its inputs.
    first = value[0] if row_format and isinstance(value, list) and value else value
    left_out = signature.defaults.keys() - (first if isinstance(first, dict) else {}).keys()
    inputs = {name: info for name, info in inputs.items() if name not in left_out}
    # A number too big for float32 becomes infinity without a word, as it does in a cast in C++.
    with np.errstate(over="ignore"):
        if row_format:
            arrays = _read_rows(value, inputs, max_rows)
        else:
            arrays = _read_columns(value, inputs, max_rows)
    return PredictRequest(signature_name, arrays, row_format)


def parse_examples(body: bytes, max_bytes: int, max_rows: int) -> tuple[str, list[bytes]]:
    """Reads the body of a `:classify` or `:regress` request.

    Integers and booleans become an int64_list, other numbers a float_list, strings and base64
    objects a bytes_list, an empty list a feature without a kind.

    Args:
      body: JSON object with "examples", a list of objects of features; and optionally with
        "context", features that all examples have unless they have their own of that name, and with
        "signature_name".
      max_bytes: Most bytes that the context may take in all examples.
      max_rows: Most examples that a request may have.

    Returns:
      The name of the signature, empty for the default one, and the examples as serialized
      tf.Examples.

    Raises:
      ServingError: INVALID_ARGUMENT, naming example, feature and element, where the body is not
        such an object.
    """
    document = parse(body)
    signature_name = _signature_name(document)
    context = _example(document["context"], "context") if "context" in document else b""
    shown = f"JSON Value: {show(document)}"
    if _EXAMPLES not in document:
        raise invalid(
            f"{shown} When method is classify or regress, key 'examples' is expected and was not "
            "found"
        )
    examples = document[_EXAMPLES]
    if not isinstance(examples, list):
        raise invalid(f"{shown} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid(f"{shown} 'examples' value is an empty array")
    check_rows(_EXAMPLES, len(examples), max_rows)
    check_context(context, len(examples), max_bytes)
    # Serialized messages that follow each other are one message: of a feature in both, the later
    # one, the example's, holds.
    return signature_name, [
        context + _example(example, f"{_EXAMPLES}[{index}]")
        for index, example in enumerate(examples)
    ]


def _signature_name(document: dict[str, Any]) -> str:
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {show(name)} not formatted correctly. 'signature_name' key must be a "
            "string value."
        )
    return name


def _read_rows(
    instances: Any, inputs: Mapping[str, TensorInfo], max_rows: int
) -> dict[str, np.ndarray]:
    """The arrays of a list of values or of objects, one for each row."""
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {show(instances)} Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid("JSON Value: [] No values in 'instances' array")
    check_rows(_INSTANCES, len(instances), max_rows)
    if is_object(instances[0]):
        columns = _columns(instances, inputs)
        label = " key: {name} of 'instances' list"
    else:
        if len(inputs) > 1:
            raise invalid(
                "instances is a plain list, but expecting list of objects as multiple input "
                f"tensors required as per tensorinfo_map: {_names(inputs)}"
            )
        if dict in set(map(type, instances)):
            for index, item in enumerate(instances):
                if is_object(item):
                    raise invalid(
                        f"Expecting value/list but got object at item {index} of input list"
                    )
        columns = dict.fromkeys(inputs, instances)
        label = " of 'instances' list"
    arrays = {}
    for name, values in columns.items():
        array = to_array(values, inputs[name])
        if array is None:
            (index, *path), reason = find_fault(values, inputs[name])
            raise invalid(
                f"Failed to process element: {index}{label.format(name=name)}. "
                f"Error: {reason}{show_path(path)}"
            )
        arrays[name] = array
    return arrays


def _columns(rows: list[Any], inputs: Mapping[str, TensorInfo]) -> dict[str, list[Any]]:
    """The values of each input in all rows, which are to be objects with all inputs as keys."""
    if set(map(type, rows)) == {dict} and set(map(len, rows)) == {len(inputs)}:
        try:
            return {name: [row[name] for row in rows] for name in inputs}
        except KeyError:
            pass  # said below, with its row
    raise next(_faults_of_rows(rows, inputs))


def _faults_of_rows(rows: list[Any], inputs: Mapping[str, TensorInfo]) -> Iterator[ServingError]:
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            yield invalid(f"Expecting object but got list/value at item {index} of input list")
        elif row.keys() != inputs.keys():
            yield invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object: "
                f"{show(row)} keys must be equal to: {','.join(sorted(inputs))}."
                f"{_difference(row, inputs)}"
            )


def _read_columns(
    value: Any, inputs: Mapping[str, TensorInfo], max_rows: int
) -> dict[str, np.ndarray]:
    """The arrays of an object with a value for each input, or of the value of the only one."""
    if not is_object(value):
        if len(inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                f"required as per tensorinfo_map: {_names(inputs)}"
            )
        value = dict.fromkeys(inputs, value)
    arrays = {}
    for name, info in inputs.items():
        if name not in value:
            raise invalid(
                f"Missing named input: {name} in 'inputs' object.{_difference(value, inputs)}"
            )
        if isinstance(value[name], list):
            check_rows(name, len(value[name]), max_rows)
        # A tensor is read as the only row of one that has a dimension more.
        array = to_array([value[name]], info)
        if array is None:
            (_, *path), reason = find_fault([value[name]], info)
            raise invalid(
                f"Failed to process input: {name} of 'inputs'. Error: {reason}{show_path(path)}"
            )
        arrays[name] = array[0] if array.ndim > 1 else array.reshape(())
    return arrays


def _example(value: Any, where: str) -> bytes:
    """A serialized tf.Example of an object of features."""
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {type_name(value)} at {where}")
    example = example_pb2.Example()
    features = example.features.feature
    for name, content in value.items():
        values = content if isinstance(content, list) else [content]
        if not _fill(features[name], values):
            index, reason = next(_faults_of_feature(name, values))
            element = f"element {index} of " if values is content else ""
            raise invalid(f"{reason} at {element}{where}")
    serialized: bytes = example.SerializeToString()
    return serialized


def _fill(feature: feature_pb2.Feature, values: list[Any]) -> bool:
    """Puts values into an empty feature; returns whether they are of one kind and valid."""
    kinds = set(map(type, values))
    if not kinds:
        return True
    if kinds <= {int, bool}:
        if min(values) < _INT64_LIMITS[0] or max(values) > _INT64_LIMITS[1]:
            return False
        feature.int64_list.value.extend(values)
    elif kinds == {float}:
        feature.float_list.value.extend(MEANT.get(value, value) for value in values)
    elif kinds <= {str, dict}:
        try:
            feature.bytes_list.value.extend(map(to_bytes, values))
        except ValueError:
            return False
    else:
        return False
    return True


def _faults_of_feature(name: str, values: list[Any]) -> Iterator[tuple[int, str]]:
    expected = None
    for index, value in enumerate(values):
        if value is None or isinstance(value, list) or is_object(value):
            yield (
                index,
                f"Feature: {name} has element with unexpected JSON type: {type_name(value)}",
            )
        kind = "int64" if isinstance(value, int) else "float"
        kind = "bytes" if isinstance(value, str | dict) else kind
        expected = expected or kind
        if kind != expected:
            yield index, f"Unexpected element type in feature: {name} expecting type: {expected}"
        if not _fill(feature_pb2.Feature(), [value]):
            problem = {
                "int64": "an integer that int64 cannot hold. Only int64_t is supported",
                "bytes": "a string that is not valid base64",
            }
            yield index, f"Feature: {name} has {problem[kind]}: {show(value)}"


def _difference(found: Mapping[str, Any], inputs: Mapping[str, TensorInfo]) -> str:
    """Which inputs are missing and which keys are no inputs, as sentences."""
    missing = [name for name in inputs if name not in found]
    unknown = [name for name in found if name not in inputs]
    return (f" Missing: {_names(missing)}." if missing else "") + (
        f" Not in the signature: {_names(unknown)}." if unknown else ""
    )


def _names(names: Iterable[str]) -> str:
    shown = list(islice(map(show, names), 17))
    return ", ".join(shown[:16]) + (", ..." if len(shown) > 16 else "")
