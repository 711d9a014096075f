"""Checks a model's schema against its configuration before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx

from ml.tasks import REGRESSION
from pipeline.config import Config
from pipeline.layers import ConfigError

_NUMBERS = (schema_pb2.INT, schema_pb2.FLOAT)


def check_schema(config: Config) -> None:
    """Checks that the schema has features and slices, a label of the task, and numbers as weights.

    A schema that cannot be read is left to ImportSchemaGen.

    Args:
      config: The configuration; `gate.schema` names the schema.

    Raises:
      ConfigError: If the schema does not fit; the message says what is expected.
    """
    path = config.gate.schema
    if not tfx.dsl.io.fileio.exists(path):
        return
    with tfx.dsl.io.fileio.open(path, "r") as file:
        try:
            schema = text_format.Parse(file.read(), schema_pb2.Schema())
        except text_format.ParseError:
            return
    known = {feature.name: feature for feature in schema.feature}
    if unknown := [name for name in config.features if name not in known]:
        raise ConfigError(f"features: the schema {path} has no feature {', '.join(unknown)}")
    if unknown := [name for name in config.slices if name not in known]:
        raise ConfigError(f"slices: the schema {path} has no feature {', '.join(unknown)}")
    for name in config.fairness.columns:
        column = known.get(name)
        if column is None or column.type == schema_pb2.FLOAT:
            raise ConfigError(
                f"fairness.columns: {name!r}: the schema {path} must have it, as BYTES or INT: its "
                "values are the groups that are compared"
            )
    if problem := _problem_of_label(config, known.get(config.label)):
        raise ConfigError(f"label = {config.label!r}: {problem} ({path})")
    if config.example_weight:
        weight = known.get(config.example_weight)
        if weight is None or weight.type not in _NUMBERS or not _is_scalar(weight):
            raise ConfigError(
                f"example_weight = {config.example_weight!r}: the schema {path} must have it, as "
                "one INT or FLOAT a row"
            )


def _problem_of_label(config: Config, label: schema_pb2.Feature | None) -> str:
    """What is wrong with the label's feature; "" for nothing."""
    task = config.make_task()
    if label is None:
        return "the schema has no such feature"
    kind = schema_pb2.FeatureType.Name(label.type)
    if not _is_scalar(label):
        return "the schema says that a row has several values; a label is one"
    if task.kind == REGRESSION:
        if label.type not in _NUMBERS:
            return f"the schema says {kind}; a regression needs FLOAT or INT"
    elif label.type in _NUMBERS and not task.class_numbers():
        shown = ", ".join(task.classes[:3])
        return f"the schema says {kind}, the classes are text ({shown}); BYTES is expected"
    elif label.type == schema_pb2.FLOAT:
        return _problem_of_floats(task.class_numbers())
    return ""


def _problem_of_floats(numbers: Iterable[float]) -> str:
    """What is wrong with classes that are 32-bit floats; "" for nothing."""
    ids: dict[float, float] = {}
    for number in numbers:
        other = ids.setdefault(float(np.float32(number)), number)
        if other != number:
            return (
                f"the schema says FLOAT, whose 32 bits do not tell the classes {other}, {number} "
                "apart; INT or BYTES is expected"
            )
    return ""


def _is_scalar(feature: schema_pb2.Feature) -> bool:
    return math.prod(dim.size for dim in feature.shape.dim) == 1
