"""Adds to a schema what nodes need and TFDV's inference leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorflow_metadata.proto.v0 import path_pb2, schema_pb2

from storage.errors import UserError

TRAINING, SERVING = "TRAINING", "SERVING"
_KINDS = {
    schema_pb2.INT: "an integer",
    schema_pb2.FLOAT: "a floating point number",
    schema_pb2.BYTES: "a string",
}


def complete_schema(
    schema: schema_pb2.Schema,
    label: str,
    features: Sequence[str],
    time_column: str,
    example_weight: str,
) -> schema_pb2.Schema:
    """Completes a schema; what it says already stays.

    Added are the environments TRAINING and SERVING, the absence of label and weight in SERVING, and
    a dense representation of the model's columns. An absent number is NaN, an absent string is "".

    Example:
      >>> from google.protobuf import text_format
      >>> text = 'feature { name: "x" type: FLOAT } feature { name: "y" type: INT }'
      >>> schema = text_format.Parse(text, schema_pb2.Schema())
      >>> whole = complete_schema(schema, "y", ["x"], "", "")
      >>> whole.feature[1].not_in_environment
      ['SERVING']
      >>> sorted(whole.tensor_representation_group[""].tensor_representation)
      ['x', 'y']

    Args:
      schema: The schema.
      label: The feature that the model predicts.
      features: The features of a request.
      time_column: The time of a row; "" for none.
      example_weight: The weight of a row; "" for none.

    Returns:
      The complete schema; the schema itself stays as it is.

    Raises:
      UserError: If a column of the model is not in the schema, or cannot be a dense tensor.
    """
    whole = schema_pb2.Schema()
    whole.CopyFrom(schema)
    by_name = {feature.name: feature for feature in whole.feature}
    roles = {**dict.fromkeys(features, "a feature"), label: "the label"}
    if example_weight:
        roles[example_weight] = "the example weight"
    for name, role in roles.items():
        if name not in by_name:
            raise UserError(
                f"the schema has no feature {name!r}, which is {role} of the model; it has "
                f"{', '.join(by_name)}"
            )
    for environment in (TRAINING, SERVING):
        if environment not in whole.default_environment:
            whole.default_environment.append(environment)
    for name in {label, example_weight or label}:
        target = by_name[name]
        if not target.in_environment and SERVING not in target.not_in_environment:
            target.not_in_environment.append(SERVING)
    dense = whole.tensor_representation_group[""].tensor_representation
    represented = _columns(dense)
    for name in dict.fromkeys((*features, label, time_column, example_weight)):
        if name in by_name and name not in represented:
            required = name in (label, example_weight)
            _represent(by_name[name], dense[name].dense_tensor, required)
    return whole


def _columns(representations: object) -> set[str]:
    """The columns that representations read."""
    found: set[str] = set()
    for representation in representations.values():  # type: ignore[attr-defined]
        for _, kind in representation.ListFields():
            for field, value in kind.ListFields():
                if field.name.endswith("column_name") or field.name == "feature_path":
                    found |= _names(value)
    return found


def _names(value: object) -> set[str]:
    if isinstance(value, str):
        return {value}
    if isinstance(value, path_pb2.Path):
        return {".".join(value.step)}
    return set(value)  # type: ignore[call-overload]


def _represent(
    feature: schema_pb2.Feature, tensor: schema_pb2.TensorRepresentation.DenseTensor, required: bool
) -> None:
    """Describes the dense tensor of a feature."""
    if feature.type not in _KINDS:
        kind = schema_pb2.FeatureType.Name(feature.type)
        raise UserError(
            f"feature {feature.name!r} of the schema has the type {kind}; INT, FLOAT or BYTES is "
            "expected"
        )
    if feature.value_count.max > 1 and not feature.HasField("shape"):
        raise UserError(
            f"feature {feature.name!r} of the schema has {feature.value_count.min} to "
            f"{feature.value_count.max} values; one is expected, or a vector, which has its length "
            "as `shape`"
        )
    tensor.column_name = feature.name
    tensor.shape.CopyFrom(feature.shape)
    if not tensor.shape.dim:
        tensor.shape.dim.add(size=1)
    if feature.presence.min_fraction == 1 or required:
        return
    if feature.type == schema_pb2.INT:
        raise UserError(
            f"feature {feature.name!r} of the schema is INT and may be absent: make it FLOAT, "
            "where an absent value is NaN, or say `presence { min_fraction: 1 min_count: 1 }`"
        )
    if math.prod(dim.size for dim in tensor.shape.dim) > 1:
        raise UserError(
            f"feature {feature.name!r} of the schema is a vector and may be absent: leave such "
            "rows out, and say `presence { min_fraction: 1 min_count: 1 }`"
        )
    if feature.type == schema_pb2.FLOAT:
        tensor.default_value.float_value = math.nan
    else:
        tensor.default_value.bytes_value = b""
