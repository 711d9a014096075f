"""The JSON of the REST interface: requests to arrays or tf.Examples, and answers to JSON.

It follows TensorFlow Serving's `json_tensor.cc` and `http_rest_api_util.cc`, which say more than
the document on its REST interface. It is stricter where a wrong value would go in or out unnoticed:
a key that occurs twice in an object, an integer that the dtype cannot hold and a string that is not
UTF-8 are refused. So is anything behind the object. In answers, numbers have as many digits as they
need, and each array and each base64 object is on one line.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import inspect
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import grpc
import numpy as np
import orjson
from google.protobuf import json_format
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    regression_pb2,
)

from serving.server.errors import ServingError, invalid
from serving.server.signatures import NUMPY_DTYPES, PROTO_DTYPES, Signature, TensorInfo
from serving.server.tensors import check_context, check_rows

_INSTANCES = "instances"
_INPUTS = "inputs"
_EXAMPLES = "examples"
_BASE64 = "b64"
_BYTES_SUFFIX = "_bytes"
_METADATA_FIELD = "signature_def"

_MAX_RANK = 32  # of an array in numpy 1

# Python types that the JSON values of an input may have, by the kind of its numpy dtype.
_ALLOWED_TYPES = {
    "f": frozenset((float, int)),
    "i": frozenset((int,)),
    "u": frozenset((int,)),
    "b": frozenset((bool,)),
    "O": frozenset((str, dict)),
}
# Dtypes that TensorFlow Serving reads and writes as JSON.
JSON_DTYPES = frozenset(
    number
    for number, dtype in NUMPY_DTYPES.items()
    if dtype.kind in _ALLOWED_TYPES and dtype != np.float16
)
_INTEGER_LIMITS = {
    dtype: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    for dtype in NUMPY_DTYPES.values()
    if dtype.kind in "iu"
}
_INT64_LIMITS = _INTEGER_LIMITS[np.dtype(np.int64)]

# TensorFlow Serving's decoder takes a dot for padding too, skips white space, and needs no padding.
_BASE64_LENIENCY = str.maketrans(".", "=", " \t\n\v\f\r")

# Numbers that stand for what JSON has not while it is parsed; by chance, so that nobody sends them.
_INFINITY = random.SystemRandom().uniform(1e300, 1e301)
_NAN = random.SystemRandom().uniform(1e302, 1e303)
_CONSTANTS = {
    b"-Infinity": -_INFINITY,
    b"-Inf": -_INFINITY,
    b"Infinity": _INFINITY,
    b"Inf": _INFINITY,
    b"NaN": _NAN,
}
_MEANT = {_INFINITY: math.inf, -_INFINITY: -math.inf, _NAN: math.nan}
_BACKSLASH, _QUOTE = b"\0\0", b"\0\1"

_NON_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

_quote = json.JSONEncoder(ensure_ascii=False).encode

# protobuf 5.26 renamed the option.
_PRINT_DEFAULTS = next(
    {name: True}
    for name in ("always_print_fields_with_no_presence", "including_default_value_fields")
    if name in inspect.signature(json_format.MessageToJson).parameters
)


@dataclass(frozen=True)
class PredictRequest:
    """The body of a `:predict` request.

    Attributes:
      signature_name: Name of the signature; empty for the default one.
      inputs: One array for each input of the signature, of its dtype; strings are bytes objects.
        In row form all have the number of rows as their first size.
      row_format: Whether it came in row form ("instances"), in which the answer goes back then,
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
    document = _parse(body)
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
            f"JSON Value: {_show(document)} Not formatted correctly expecting only one of "
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
    document = _parse(body)
    signature_name = _signature_name(document)
    context = _example(document["context"], "context") if "context" in document else b""
    shown = f"JSON Value: {_show(document)}"
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


def format_predict(outputs: Mapping[str, np.ndarray], row_format: bool) -> bytes:
    """Writes the answer to a `:predict` request.

    A single output is written without its name. Strings of outputs whose names end in `_bytes` are
    written as base64 objects. Numbers have the fewest digits that read back as the same number of
    their dtype, whole ones of a floating-point dtype end in ".0" or have an exponent, and
    NaN, Infinity and -Infinity stand for themselves, which JSON does not know but this interface
    does.

    Args:
      outputs: Arrays by name, of the dtypes in `signatures.NUMPY_DTYPES`; strings are bytes
        objects.
      row_format: "predictions", a list with an element for each row; otherwise "outputs".

    Raises:
      ServingError: INVALID_ARGUMENT, naming the output, where there is none, its dtype cannot be
        written, its strings are not UTF-8, or, in row form, where it has no rows or not as many as
        the outputs before it.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    if not row_format:
        columns = {name: _tokens(name, array[np.newaxis])[0] for name, array in outputs.items()}
        if len(columns) == 1:
            return _document("outputs", *columns.values())
        members = ",".join(f"\n        {_quote(name)}: {text}" for name, text in columns.items())
        return _document("outputs", f"{{{members}\n    }}")
    batch_size = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information")
        if batch_size not in (None, len(array)):
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} "
                f"expecting: {batch_size}"
            )
        batch_size = len(array)
    rows = [_tokens(name, array) for name, array in outputs.items()]
    if len(rows) == 1:
        return _list_document("predictions", rows[0])
    keys = [_quote(name) for name in outputs]
    items = (
        ",".join(f"\n            {key}: {text}" for key, text in zip(keys, row, strict=True))
        for row in zip(*rows, strict=True)
    )
    return _list_document("predictions", [f"\n        {{{item}\n        }}" for item in items], ",")


def format_classifications(result: classification_pb2.ClassificationResult) -> bytes:
    """Writes the answer to a `:classify` request: for each example its [label, score] pairs.

    Raises:
      ServingError: INVALID_ARGUMENT, if there are none.
    """
    if not result.classifications:
        raise invalid("Cannot convert empty ClassificationResults to JSON")
    classes = [item.classes for item in result.classifications]
    scores = iter(_decimals(np.array([c.score for c in chain(*classes)], np.float32)))
    items = [", ".join(f"[{_quote(c.label)}, {next(scores)}]" for c in item) for item in classes]
    return _list_document("results", [f"[{item}]" for item in items])


def format_regressions(result: regression_pb2.RegressionResult) -> bytes:
    """Writes the answer to a `:regress` request: for each example its value.

    Raises:
      ServingError: INVALID_ARGUMENT, if there are none.
    """
    if not result.regressions:
        raise invalid("Cannot convert empty RegressionResults to JSON")
    values = _decimals(np.array([item.value for item in result.regressions], np.float32))
    return _document("results", f"[{', '.join(values)}]")


def format_error(message: str) -> bytes:
    """Writes the body of an answer that is an error."""
    return _document("error", _quote(message))


def format_status(response: get_model_status_pb2.GetModelStatusResponse) -> bytes:
    """Writes the answer to a request for the status of a model."""
    return f"{json_format.MessageToJson(response, indent=1, **_PRINT_DEFAULTS)}\n".encode()


def format_metadata(response: get_model_metadata_pb2.GetModelMetadataResponse) -> bytes:
    """Writes the answer to a request for the metadata of a model: its name, version, signatures.

    Raises:
      ServingError: INTERNAL, if the response has no signatures.
    """
    signatures = get_model_metadata_pb2.SignatureDefMap()
    packed = response.metadata.get(_METADATA_FIELD)
    if packed is None or not packed.Unpack(signatures):
        raise ServingError(
            grpc.StatusCode.INTERNAL,
            "Failed to find 'signature_def' key in the GetModelMetadataResponse metadata map.",
        )
    spec, signature_map = (
        json_format.MessageToJson(
            message, indent=1, preserving_proto_field_name=True, **_PRINT_DEFAULTS
        )
        for message in (response.model_spec, signatures)
    )
    return (
        f'{{\n"model_spec":{spec},\n"metadata": {{"{_METADATA_FIELD}": {signature_map}}}\n}}\n'
    ).encode()


def _parse(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is, with the numbers of `_CONSTANTS` for what JSON has not."""
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body.strip():
        raise invalid("JSON Parse error: The document is empty.", quotes=False)
    text = body
    try:
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            text = _replace_constants(body)
            if text == body:
                raise
            document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {_reason(error, text == body)}", quotes=False) from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_show(document)} Is not object")
    # Of a key that is there twice, the parser takes the last without a word.
    members = body.count(b":")
    if _count_members(document, members) < members:
        members = sum(part.count(b":") for part in _split_strings(body)[::2])
        if _count_members(document, members) < members:
            raise invalid("JSON Parse error: a key occurs more than once in an object")
    return document


def _reason(error: orjson.JSONDecodeError, as_sent: bool) -> str:
    """What a parser's error says, and where if it parsed what was sent."""
    if "infinity" in error.msg:
        reason = "Number too big to be stored in double."
    elif "depth" in error.msg:
        reason = "lists or objects are nested too deeply"
    else:
        reason = error.msg
    offset = f" at offset: {len(error.doc[: error.pos].encode())}" if as_sent else ""
    return reason + offset


def _replace_constants(body: bytes) -> bytes:
    """Writes the numbers of `_CONSTANTS` where they are meant."""
    if b"NaN" not in body and b"Inf" not in body:
        return body
    parts = _split_strings(body)
    outside = b'"'.join(parts[::2])
    for name, number in _CONSTANTS.items():
        outside = outside.replace(name, b" %r " % number)
    parts[::2] = outside.split(b'"')
    return b'"'.join(parts).replace(_QUOTE, b'\\"').replace(_BACKSLASH, b"\\\\")


def _split_strings(body: bytes) -> list[bytes]:
    """What is outside of strings and what is inside, in turns."""
    if b"\\" in body:
        # There are no zero bytes in JSON, so they can mark what is escaped.
        body = body.replace(b"\0", b"?").replace(b"\\\\", _BACKSLASH).replace(b'\\"', _QUOTE)
    return body.split(b'"')


def _count_members(document: dict[str, Any], most: int) -> int:
    """Members of all objects in a document, as far as they are needed to reach a number."""
    count = 0
    level: list[Any] = [document]
    while level and count < most:
        objects = [value for value in level if type(value) is dict]
        lists = [value for value in level if type(value) is list]
        count += sum(map(len, objects))
        level = list(chain(*lists, *map(dict.values, objects)))
    return count


def _signature_name(document: dict[str, Any]) -> str:
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_show(name)} not formatted correctly. 'signature_name' key must be a "
            "string value."
        )
    return name


def _read_rows(
    instances: Any, inputs: Mapping[str, TensorInfo], max_rows: int
) -> dict[str, np.ndarray]:
    """The arrays of a list of values or of objects, one for each row."""
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {_show(instances)} Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid("JSON Value: [] No values in 'instances' array")
    check_rows(_INSTANCES, len(instances), max_rows)
    if _is_object(instances[0]):
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
                if _is_object(item):
                    raise invalid(
                        f"Expecting value/list but got object at item {index} of input list"
                    )
        columns = dict.fromkeys(inputs, instances)
        label = " of 'instances' list"
    arrays = {}
    for name, values in columns.items():
        array = _to_array(values, inputs[name])
        if array is None:
            (index, *path), reason = _fault(values, inputs[name])
            raise invalid(
                f"Failed to process element: {index}{label.format(name=name)}. "
                f"Error: {reason}{_at(path)}"
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
                f"{_show(row)} keys must be equal to: {','.join(sorted(inputs))}."
                f"{_difference(row, inputs)}"
            )


def _read_columns(
    value: Any, inputs: Mapping[str, TensorInfo], max_rows: int
) -> dict[str, np.ndarray]:
    """The arrays of an object with a value for each input, or of the value of the only one."""
    if not _is_object(value):
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
        array = _to_array([value[name]], info)
        if array is None:
            (_, *path), reason = _fault([value[name]], info)
            raise invalid(
                f"Failed to process input: {name} of 'inputs'. Error: {reason}{_at(path)}"
            )
        arrays[name] = array[0] if array.ndim > 1 else array.reshape(())
    return arrays


def _to_array(values: list[Any], info: TensorInfo) -> np.ndarray | None:
    """An array of JSON values, shape [len(values), ...], or None if they do not make one."""
    shape = [len(values)]
    kinds = set(map(type, values))
    while kinds == {list}:
        sizes = set(map(len, values))
        if len(sizes) > 1 or len(shape) == _MAX_RANK:
            return None
        shape.append(sizes.pop())
        values = list(chain.from_iterable(values))
        kinds = set(map(type, values))
    dtype = info.numpy_dtype
    if not kinds <= _ALLOWED_TYPES[dtype.kind]:
        return None
    try:
        if dtype.kind == "O":
            values = list(map(str.encode if dict not in kinds else _to_bytes, values))
        elif dtype.kind in "iu":
            smallest, largest = _INTEGER_LIMITS[dtype]
            if values and (min(values) < smallest or max(values) > largest):
                return None
        if dtype.kind == "f":
            array = np.array(values, np.float64)
            if np.any(np.abs(array) >= _INFINITY):
                for number, meant in _MEANT.items():
                    array[array == number] = meant
            array = array.astype(dtype)
        else:
            array = np.array(values, dtype)
    except ValueError:  # no base64
        return None
    return array.reshape(shape) if len(shape) > 1 else array


def _fault(values: list[Any], info: TensorInfo) -> tuple[list[int], str]:
    """Where and why values do not make an array, given that they don't.

    Args:
      values: JSON values of which `_to_array` makes None.
      info: The input they are meant for.

    Returns:
      The index of the first value that does not fit those before it, followed by the indices
      inside it as far as there are any, and what is wrong there.
    """
    # Halving costs no more than twice what the failed attempt did, however long the list is.
    fitting, failing = 0, len(values)
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        if _to_array([values[0], *values[fitting:middle]], info) is None:
            failing = middle
        else:
            fitting = middle
    value = values[fitting]
    shape, expected = _shape(value), _shape(values[0])
    if len(shape) >= _MAX_RANK:
        return [fitting], f"lists are nested more than {_MAX_RANK - 1} levels deep"
    if math.prod(shape) != math.prod(expected):
        reason = f"Expecting tensor size: {math.prod(expected)} but got: {math.prod(shape)}"
        return [fitting], f"{reason}, shape {shape} instead of {expected}"
    if shape != expected:
        return [fitting], f"Expecting shape {expected} but got: {shape}"
    if isinstance(value, list):
        path, reason = _fault(value, info)
        return [fitting, *path], reason
    return [fitting], _fault_of_value(value, info)


def _fault_of_value(value: Any, info: TensorInfo) -> str:
    kind = info.numpy_dtype.kind
    shown = f"JSON Value: {_show(value)}"
    if kind == "O" and isinstance(value, dict):
        return f"{shown} not formatted correctly for base64 data"
    if type(value) not in _ALLOWED_TYPES[kind]:
        name = _type_name(value)
        return f"{shown} Type: {name} is not of expected type: {info.dtype_name}"
    smallest, largest = _INTEGER_LIMITS[info.numpy_dtype]
    return (
        f"{shown} Type: Number is not of expected type: {info.dtype_name}, "
        f"which holds {smallest} to {largest}"
    )


def _shape(value: Any) -> list[int]:
    """The shape of a tensor, as the first list of each level says it."""
    shape: list[int] = []
    while isinstance(value, list) and len(shape) < _MAX_RANK:
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _to_bytes(value: str | dict[str, Any]) -> bytes:
    """A string, or what a base64 object holds.

    Raises:
      ValueError: If the object is none of base64.
    """
    if isinstance(value, str):
        return value.encode()
    if not _is_base64(value):
        raise ValueError(f"{value.keys()} is not the key of a base64 object")
    text: str = value[_BASE64].translate(_BASE64_LENIENCY)
    data = text.rstrip("=")
    padding = -len(data) % 4
    if len(text) - len(data) not in (0, padding):
        raise ValueError("wrong padding")
    return binascii.a2b_base64(data + padding * "=", strict_mode=True)


def _is_base64(value: dict[str, Any]) -> bool:
    return len(value) == 1 and isinstance(value.get(_BASE64), str)


def _is_object(value: Any) -> bool:
    """Whether a value is an object of named values, not one that stands for a binary string."""
    return isinstance(value, dict) and not _is_base64(value)


def _example(value: Any, where: str) -> bytes:
    """A serialized tf.Example of an object of features."""
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {_type_name(value)} at {where}")
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
        feature.float_list.value.extend(_MEANT.get(value, value) for value in values)
    elif kinds <= {str, dict}:
        try:
            feature.bytes_list.value.extend(map(_to_bytes, values))
        except ValueError:
            return False
    else:
        return False
    return True


def _faults_of_feature(name: str, values: list[Any]) -> Iterator[tuple[int, str]]:
    expected = None
    for index, value in enumerate(values):
        if value is None or isinstance(value, list) or _is_object(value):
            yield (
                index,
                f"Feature: {name} has element with unexpected JSON type: {_type_name(value)}",
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
            yield index, f"Feature: {name} has {problem[kind]}: {_show(value)}"


def _tokens(name: str, array: np.ndarray) -> list[str]:
    """The JSON of each element along the first axis of an output."""
    if PROTO_DTYPES.get(array.dtype) not in JSON_DTYPES:
        raise invalid(
            f"Failed to write JSON value for tensor type: {array.dtype} of output: {name}"
        )
    values = array.ravel()
    if array.dtype.kind == "f":
        tokens = _decimals(values)
    elif array.dtype.kind == "b":
        tokens = ["true" if value else "false" for value in values]
    elif array.dtype.kind in "iu":
        tokens = list(map(str, values))
    elif name.endswith(_BYTES_SUFFIX):
        tokens = [f'{{"{_BASE64}": "{base64.b64encode(value).decode()}"}}' for value in values]
    else:
        try:
            tokens = [_quote(value.decode()) for value in values]
        except UnicodeDecodeError:
            raise invalid(
                f"Failed to write JSON value for output: {name}, a string is not valid UTF-8; "
                f"a model names an output of binary strings so that it ends in '{_BYTES_SUFFIX}'"
            ) from None
    for axis in range(array.ndim - 1, 0, -1):
        size = array.shape[axis]
        tokens = [
            f"[{', '.join(tokens[index * size : (index + 1) * size])}]"
            for index in range(math.prod(array.shape[:axis]))
        ]
    return tokens


def _decimals(array: np.ndarray) -> list[str]:
    """The JSON of floating-point numbers, shape [n]."""
    return [_NON_FINITE.get(token, token) for token in map(str, array)]


def _document(key: str, text: str) -> bytes:
    # A message may quote a name that is not UTF-8: `\udcff`, as Python escapes it, is JSON too.
    return f'{{\n    "{key}": {text}\n}}'.encode(errors="backslashreplace")


def _list_document(key: str, items: list[str], separator: str = ", ") -> bytes:
    return _document(key, f"[{separator.join(items)}\n    ]" if items else "[]")


def _at(path: list[int]) -> str:
    return f" at {''.join(f'[{index}]' for index in path)}" if path else ""


def _difference(found: Mapping[str, Any], inputs: Mapping[str, TensorInfo]) -> str:
    """Which inputs are missing and which keys are no inputs, as sentences."""
    missing = [name for name in inputs if name not in found]
    unknown = [name for name in found if name not in inputs]
    return (f" Missing: {_names(missing)}." if missing else "") + (
        f" Not in the signature: {_names(unknown)}." if unknown else ""
    )


def _names(names: Iterable[str]) -> str:
    shown = list(islice(map(_show, names), 17))
    return ", ".join(shown[:16]) + (", ..." if len(shown) > 16 else "")


def _type_name(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    if isinstance(value, list | dict):
        return "Array" if isinstance(value, list) else "Object"
    return "String" if isinstance(value, str) else "Number"


def _show(value: Any, depth: int = 2) -> str:
    """The beginning of a JSON value, for messages."""
    if isinstance(value, list | dict) and depth == 0:
        text = "[...]" if isinstance(value, list) else "{...}"
    elif isinstance(value, list):
        items = [_show(item, depth - 1) for item in value[:8]]
        text = f"[{', '.join(items + ['...'] * (len(value) > 8))}]"
    elif isinstance(value, dict):
        pairs = islice(value.items(), 8)
        items = [f"{_show(name)}: {_show(item, depth - 1)}" for name, item in pairs]
        text = f"{{{', '.join(items + ['...'] * (len(value) > 8))}}}"
    elif isinstance(value, str) and len(value) > 64:
        text = f"{json.dumps(value[:64])}..."
    else:
        # Of a number that stands for one of JavaScript's, json writes the latter.
        text = json.dumps(_MEANT.get(value, value) if isinstance(value, float) else value)
    return text if len(text) <= 256 else f"{text[:256]}..."
