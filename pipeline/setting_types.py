"""Types of settings, with error messages that say what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
)

from ml.names import check_column, check_features
from pipeline import quantities

# Pydantic's configuration of the dataclasses.
CHECKED = ConfigDict(extra="forbid", validate_default=True)

_T = TypeVar("_T")
# Marks a field that a run on Kubeflow may override; see `pipeline.parameters`.
RUN_PARAMETER = "run parameter"
RunParameter = Annotated[_T, RUN_PARAMETER]


def _as_texts(values: Any) -> Any:
    """Labels as text: TOML and `--set` have numbers too."""
    if not isinstance(values, list | tuple):
        raise ValueError("a list of values is expected")
    return tuple(str(v) if isinstance(v, int | float) else v for v in values)


def _check_switch(value: Any) -> Any:
    if not isinstance(value, bool) and value not in ("true", "false"):
        raise ValueError("true or false is expected")
    return value


def _check_secret_place(place: str) -> str:
    if place.startswith("fd:"):
        raise ValueError("fd: does not work across processes: env:NAME or a file is expected")
    return place


def _check_optional_column(name: str) -> str:
    return check_column(name) if name else ""


def match(pattern: str, expected: str) -> AfterValidator:
    """Checks that a text is empty or matches a whole pattern."""

    def check(text: str) -> str:
        if text and not re.fullmatch(pattern, text):
            raise ValueError(f"{expected} is expected, or nothing")
        return text

    return AfterValidator(check)


def _as_bound(bound: Any) -> Any:
    """A threshold: a number, or a list of two."""
    try:
        if not isinstance(bound, list | tuple):
            return float(bound)
        lowest, highest = bound
        return float(lowest), float(highest)
    except (TypeError, ValueError):
        raise ValueError(
            "a number is expected, or the lowest and the highest, as in [0.5, 2.0]"
        ) from None


def _check_sparsity(value: Any) -> Any:
    """A share below 1 as text, or "auto"."""
    return _check_auto(value, lambda share: 0 <= share < 1, "0 to below 1")


def _check_units(value: Any) -> Any:
    """A share above 0 as text, or "auto"."""
    return _check_auto(value, lambda share: 0 < share <= 1, "above 0, to 1,")


def _check_auto(value: Any, allowed: Callable[[float], bool], expected: str) -> Any:
    if value == "auto":
        return value
    try:
        if isinstance(value, bool) or not allowed(float(value)):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f'{expected} is expected, or "auto"') from None
    return str(float(value))


# Only `true` or `false`, in TOML and on the command line.
Switch = Annotated[bool, BeforeValidator(_check_switch)]
# A text, because a component's parameter has one type.
Sparsity = Annotated[str, BeforeValidator(_check_sparsity)]
UnitShare = Annotated[str, BeforeValidator(_check_units)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Epochs = Annotated[int, Field(ge=1, le=1000)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Limit = Annotated[float, Field(ge=0)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Growth = Annotated[float, Field(gt=1)]
Minutes = Annotated[float, Field(ge=0, le=60 * 24 * 365)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
# Settings of a model's own network; `pipeline.free_tables` checks their types.
NetworkSettings = dict[Name, int | float | str]
# Names of columns of the data.
Column = Annotated[str, AfterValidator(check_column)]
OptionalColumn = Annotated[str, AfterValidator(_check_optional_column)]
Features = Annotated[tuple[Column, ...], AfterValidator(check_features)]
Mode = Literal["none", "float16", "dynamic_range", "int8", "qat", "pqat"]
FileMode = Literal["0600", "0640", "0644", "0660", "0664"]
SecretPlace = Annotated[str, AfterValidator(_check_secret_place)]

_DNS_NAME = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
Cpu = Annotated[str, AfterValidator(quantities.check_cpu)]
Memory = Annotated[str, AfterValidator(quantities.check_memory)]
LabelKey = Annotated[
    str,
    Field(min_length=1, max_length=317),
    match(
        rf"({_DNS_NAME}/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?",
        'a key such as "example.com/team"',
    ),
]
LabelValue = Annotated[
    str,
    Field(max_length=63),
    match(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?", "letters, digits, '-', '_' and '.'"),
]
Accelerator = Annotated[
    str, match(rf"{_DNS_NAME}/[A-Za-z0-9][\w.-]*", 'a resource such as "nvidia.com/gpu"')
]
Image = Annotated[
    str, match(r"[^\s@]+@sha256:[0-9a-f]{64}", "an image by digest, name@sha256:...,")
]
ServiceAccount = Annotated[str, match(_DNS_NAME, "the name of a ServiceAccount")]
VolumeClaim = Annotated[str, match(_DNS_NAME, "the name of a PersistentVolumeClaim")]
MountPath = Annotated[str, Field(min_length=2), match(r"/\S+", "an absolute path")]
VolumePath = Annotated[str, match(r"/?[^\s/:](?!.*://).*", "a path on the volume")]
# Without a password, which packages would show.
WebAddress = Annotated[
    str, match(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", "http://... or https://... without a password")
]
BucketUri = Annotated[
    str,
    match(
        r"(gs|s3|minio)://[^\s/*?[\\]+(/[^\s*?[\\]*)?",
        "gs://..., s3://... or minio://... (without * ? [ \\)",
    ),
]
EnvName = Annotated[str, match(r"[A-Za-z_]\w*", "the name of an environment variable")]
SecretKey = Annotated[str, Field(pattern=rf"^{_DNS_NAME}/[\w.-]+$")]
# Thresholds by metric; `Task.check_thresholds` checks the names and the form of the bounds.
Thresholds = dict[str, Annotated[float | tuple[float, float], BeforeValidator(_as_bound)]]
# Values of a label.
Classes = Annotated[tuple[Text, ...], BeforeValidator(_as_texts)]
