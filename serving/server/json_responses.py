"""Writes the responses of the REST interface: predictions, results, status and errors as JSON.

It follows TensorFlow Serving's `json_tensor.cc` and `http_rest_api_util.cc`, which say more than
the document on its REST interface. Numbers have as many digits as they need, and each
array and each base64 object is on one line. A string that is not UTF-8 is refused.
"""

from __future__ import annotations

import base64
import inspect
import json
import math
from collections.abc import Mapping
from itertools import chain

import grpc
import numpy as np
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    regression_pb2,
)

from ml.permutation_shap import Explained
from serving.server.errors import ServingError, invalid
from serving.server.json_arrays import JSON_DTYPES
from serving.server.json_document import BASE64
from serving.server.signatures import PROTO_DTYPES, SIGNATURE_DEF

_NON_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

_quote = json.JSONEncoder(ensure_ascii=False).encode

_BYTES_SUFFIX = "_bytes"

# protobuf 5.26 renamed the option.
_PRINT_DEFAULTS = next(
    {name: True}
    for name in ("always_print_fields_with_no_presence", "including_default_value_fields")
    if name in inspect.signature(json_format.MessageToJson).parameters
)


def format_predict(outputs: Mapping[str, np.ndarray], row_format: bool) -> bytes:
    """Writes the response to a `:predict` request.

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
        columns = {name: tokens(name, array[np.newaxis])[0] for name, array in outputs.items()}
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
    rows = [tokens(name, array) for name, array in outputs.items()]
    if len(rows) == 1:
        return _list_document("predictions", rows[0])
    keys = [_quote(name) for name in outputs]
    items = (
        ",".join(f"\n            {key}: {text}" for key, text in zip(keys, row, strict=True))
        for row in zip(*rows, strict=True)
    )
    return _list_document("predictions", [f"\n        {{{item}\n        }}" for item in items], ",")


def format_explain(
    outputs: Mapping[str, np.ndarray], explained: Explained, row_format: bool
) -> bytes:
    """Writes the response to an `:explain` request, as KServe's V1 protocol has it.

    It is the response to a `:predict` request with "explanations" besides: for each row an object
    of `base_values` and, by the names of features and groups, `shap_values`, each a list with a
    number for each output.

    Raises:
      ServingError: See `format_predict`.
    """
    base = _list(explained.base)
    rows = []
    for values in explained.values:
        members = ", ".join(
            f"{_quote(name)}: {_list(one)}"
            for name, one in zip(explained.names, values, strict=True)
        )
        rows.append(f'{{"base_values": {base}, "shap_values": {{{members}}}}}')
    items = ",\n        ".join(rows)
    predictions = format_predict(outputs, row_format).decode().removesuffix("\n}")
    document = f'{predictions},\n    "explanations": [\n        {items}\n    ]\n}}'
    return document.encode(errors="backslashreplace")


def _list(values: np.ndarray) -> str:
    return f"[{', '.join(_decimals(values))}]"


def format_classifications(result: classification_pb2.ClassificationResult) -> bytes:
    """Writes the response to a `:classify` request: for each example its [label, score] pairs.

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
    """Writes the response to a `:regress` request: for each example its value.

    Raises:
      ServingError: INVALID_ARGUMENT, if there are none.
    """
    if not result.regressions:
        raise invalid("Cannot convert empty RegressionResults to JSON")
    values = _decimals(np.array([item.value for item in result.regressions], np.float32))
    return _document("results", f"[{', '.join(values)}]")


def format_error(message: str) -> bytes:
    """Writes the body of a response that is an error."""
    return _document("error", _quote(message))


def format_status(response: get_model_status_pb2.GetModelStatusResponse) -> bytes:
    """Writes the response to a request for the status of a model."""
    return f"{json_format.MessageToJson(response, indent=1, **_PRINT_DEFAULTS)}\n".encode()


def format_metadata(response: get_model_metadata_pb2.GetModelMetadataResponse) -> bytes:
    """Writes the response to a request for the metadata of a model: its name, version, signatures.

    Raises:
      ServingError: INTERNAL, if the response has no signatures.
    """
    signatures = get_model_metadata_pb2.SignatureDefMap()
    packed = response.metadata.get(SIGNATURE_DEF)
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
        f'{{\n"model_spec":{spec},\n"metadata": {{"{SIGNATURE_DEF}": {signature_map}}}\n}}\n'
    ).encode()


def tokens(name: str, array: np.ndarray) -> list[str]:
    """The JSON of each element along the first axis of an array.

    Args:
      name: Name of the output that it is.
      array: The array, shape [n, ...], of the dtypes in `signatures.NUMPY_DTYPES`.

    Raises:
      ServingError: INVALID_ARGUMENT, if JSON has nothing for its dtype or strings.
    """
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
        tokens = [f'{{"{BASE64}": "{base64.b64encode(value).decode()}"}}' for value in values]
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
