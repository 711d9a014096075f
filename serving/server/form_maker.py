"""Makes the form of a version from its signatures, warm-up requests and vocabularies."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from tensorflow.core.framework import types_pb2

from serving.server import inference
from serving.server.errors import ServingError
from serving.server.form import Field, Form
from serving.server.json_arrays import JSON_DTYPES
from serving.server.json_responses import tokens
from serving.server.models import Arrays, LoadedModel
from serving.server.signatures import Signature, TensorInfo
from serving.server.tensors import check_inputs
from serving.server.warmup import make_inputs, read_requests
from storage.names import DEFAULT_SIGNATURE, RAW_SIGNATURE

_KINDS = {"f": "float", "i": "integer", "u": "integer", "b": "boolean", "O": "text"}
_EXAMPLE_INPUTS = ("examples", "inputs")  # The names that signatures of tf.Examples use.
_MAX_VALUES = 10_000  # of a row
_MAX_TEXT = 100_000  # characters of an example
_MAX_CHOICES, _MAX_VOCABULARY_BYTES = 1000, 64 << 10
_MAX_BYTES = 1 << 26
_SECONDS = 10.0


def make_form(model: LoadedModel, folder: str, *, with_example: bool) -> Form:
    """Makes the form of a version.

    Args:
      model: The version, loaded.
      folder: Its folder, which nobody else can change: its vocabularies and warm-up requests are
        read. A vocabulary is known by its name, which is that of the input.
      with_example: Whether to take the example from the warm-up requests, which hold rows of the
        data.

    Returns:
      The form. What cannot be found out is left out of it.
    """
    signature_name = _choose(model)
    if not signature_name:
        return Form()
    signature = model.signatures[signature_name]
    zeros = make_inputs(signature, {})
    row = _read_row(model, signature_name, folder) if with_example else {}
    fields = tuple(
        Field(
            name=name,
            kind=_kind(info),
            dtype=info.dtype_name,
            shape=None if info.shape is None else info.shape[1:],
            optional=name in signature.defaults,
            zero=_to_text(zeros[name]) or "",
            example=_to_text(row[name]) if name in row else None,
            choices=_read_vocabulary(folder, name) if _kind(info) == "text" else (),
        )
        for name, info in signature.inputs.items()
    )
    return Form(signature_name, fields, _task(model), _classes(model, row or zeros))


def _choose(model: LoadedModel) -> str:
    """Name of the signature that takes rows as a form can have them."""
    for name in dict.fromkeys((RAW_SIGNATURE, DEFAULT_SIGNATURE, *sorted(model.signatures))):
        if name in model.signatures and _fits(model.signatures[name]):
            return name
    return ""


def _fits(signature: Signature) -> bool:
    inputs = signature.inputs
    takes_examples = len(inputs) == 1 and any(
        name in _EXAMPLE_INPUTS and info.dtype == types_pb2.DT_STRING
        for name, info in inputs.items()
    )
    return (
        bool(inputs)
        and not takes_examples
        and all(
            info.dtype in JSON_DTYPES for info in (*inputs.values(), *signature.outputs.values())
        )
        and all(info.shape is None or info.shape[:1] in ((None,), (1,)) for info in inputs.values())
        and sum(map(_count_values, inputs.values())) <= _MAX_VALUES
    )


def _count_values(info: TensorInfo) -> int:
    """Values of an input in one row; of a size that varies, one."""
    return math.prod(size or 1 for size in (info.shape or ())[1:])


def _kind(info: TensorInfo) -> str:
    if info.shape is None or len(info.shape) > 1:
        return "list"
    return _KINDS[info.numpy_dtype.kind]


def _read_row(model: LoadedModel, signature_name: str, folder: str) -> Arrays:
    """The first row of the warm-up requests for a signature; nothing if there is none."""
    for request in read_requests(folder):
        if (request.model_spec.signature_name or DEFAULT_SIGNATURE) != signature_name:
            continue
        try:
            inputs = inference.read_inputs(request, _MAX_BYTES)
            check_inputs(model.signatures[signature_name], inputs)
        except ServingError:
            continue
        if all(array.ndim and len(array) for array in inputs.values()):
            return {name: array[:1].copy() for name, array in inputs.items()}
    return {}


def _to_text(array: np.ndarray) -> str | None:
    """The first row of an input as it stands in a form; None if it cannot be written there."""
    text = _write(array)
    return None if text is None or len(text) > _MAX_TEXT else text


def _write(array: np.ndarray) -> str | None:
    if array.ndim == 1 and array.dtype == object:
        try:
            return str(array[0].decode())
        except UnicodeDecodeError:
            return None
    if array.ndim == 1 and array.dtype.kind == "f" and np.isnan(array[0]):
        return ""
    try:
        return tokens("", array[:1])[0].removesuffix(".0")
    except ServingError:
        return None


def _read_vocabulary(folder: str, name: str) -> tuple[str, ...]:
    """The first lines of the asset that has the name of an input; none if there is none."""
    path = Path(folder) / "assets" / name
    if Path(name).name != name:
        return ()
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_VOCABULARY_BYTES + 1)
    except (OSError, ValueError):  # There is none, or no file can have such a name.
        return ()
    lines = content.split(b"\n")[:-1]  # What is behind the last end of a line may be cut.
    try:
        return tuple(dict.fromkeys(line.decode() for line in lines if line))[:_MAX_CHOICES]
    except UnicodeDecodeError:  # It is no vocabulary.
        return ()


def _task(model: LoadedModel) -> str:
    has_classes, has_number = (name in model.signatures for name in ("classify", "regress"))
    if has_classes:
        return "binary" if has_number else "multiclass"
    return "regression" if has_number else ""


def _classes(model: LoadedModel, row: Arrays) -> tuple[str, ...]:
    """Names of the classes, as the signature `classify` returns them for a row."""
    signature = model.signatures.get("classify")
    if signature is None or inference.CLASSES not in signature.outputs:
        return ()
    try:
        inputs = make_inputs(signature, row)
        # All outputs: the session would prepare another choice of them first.
        outputs = inference.predict(model, "classify", inputs, (), _SECONDS)
    except (ServingError, KeyError, ValueError):  # As in a warm-up, it refuses no version.
        return ()
    names = outputs[inference.CLASSES]
    if names.dtype != object or names.ndim != 2 or len(names) != 1:
        return ()
    return tuple(name.decode(errors="replace") for name in names[0])
