"""What a model learns: a probability, a class, or a number.

A task knows everything that depends on this: the values that the label may have, the output layer
and the loss, the metrics with their directions, and the thresholds without which no model is
blessed. It imports neither TensorFlow nor TFX; `ml.scores` computes its metrics.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, Final, Literal

import numpy as np

from ml.metrics import (
    ACCURACY,
    AUC,
    AUC_PR,
    BIAS,
    CALIBRATION,
    CLASS_LOG_LOSS,
    LOG_LOSS,
    MACRO_AUC,
    MAE,
    R2,
    RMSE,
    Bound,
    Metric,
)
from storage.errors import DataError

Kind = Literal["binary", "multiclass", "regression"]
BINARY: Final = "binary"
MULTICLASS: Final = "multiclass"
REGRESSION: Final = "regression"

# Class weights by which all classes are worth the same in sum.
BALANCED = "balanced"
# More are an id, or a number.
MOST_CLASSES = 1000
_BOOLEANS = {"false": 0, "true": 1}


@dataclass(frozen=True)
class _Facts:
    """What all tasks of a kind have in common."""

    losses: tuple[str, ...]
    activation: str
    metrics: tuple[Metric, ...]
    thresholds: Mapping[str, Bound]
    slice_thresholds: Mapping[str, Bound]
    max_loss: float
    max_slice_loss: float
    max_baseline_loss: float


# The first loss is the default. The first metric is the headline: training, compression and
# retraining are judged by it.
_FACTS = {
    BINARY: _Facts(
        losses=("binary_crossentropy", "binary_focal_crossentropy", "mean_squared_error"),
        activation="sigmoid",
        metrics=(AUC, AUC_PR, LOG_LOSS, CALIBRATION),
        thresholds={"auc": 0.5, "calibration": (0.5, 2.0)},
        slice_thresholds={"auc": 0.5},
        max_loss=0.005,
        max_slice_loss=0.02,
        max_baseline_loss=0.02,
    ),
    MULTICLASS: _Facts(
        losses=("sparse_categorical_crossentropy",),
        activation="softmax",
        metrics=(ACCURACY, MACRO_AUC, CLASS_LOG_LOSS, CALIBRATION),
        thresholds={"macro_auc": 0.5, "calibration": (0.5, 2.0)},
        slice_thresholds={},
        max_loss=0.01,
        max_slice_loss=0.04,
        max_baseline_loss=0.02,
    ),
    REGRESSION: _Facts(
        losses=(
            "mean_squared_error",
            "mean_absolute_error",
            "mean_squared_logarithmic_error",
            "mean_absolute_percentage_error",
            "huber",
            "log_cosh",
            "poisson",
        ),
        activation="linear",
        metrics=(RMSE, MAE, R2, BIAS),
        thresholds={"r2": 0.0},
        slice_thresholds={},
        max_loss=0.02,
        max_slice_loss=0.05,
        max_baseline_loss=0.1,
    ),
}


# Names of metrics on the screen.
TITLES = {metric.name: metric.title for facts in _FACTS.values() for metric in facts.metrics}


@dataclass(frozen=True)
class Task:
    """The task of a model.

    Attributes:
      kind: "binary", "multiclass" or "regression".
      label: Feature that the model predicts.
      classes: The label's values in the order of their ids, as text; the second of a binary task is
        the positive one. Booleans are "false" and "true". None for a regression.
      class_names: What the classes are called in answers; the values themselves if none.
      weight: Transformed feature with the training weight of a row; "" for the feature
        `example_weight`, if that has a name.
      example_weight: Raw feature with the weight of a row in evaluation; "" if all weigh the same.
    """

    kind: Kind
    label: str
    classes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    weight: str = ""
    example_weight: str = ""

    def __post_init__(self) -> None:
        classes = self.classes or (("0", "1") if self.kind == BINARY else ())
        object.__setattr__(self, "classes", tuple(classes))
        object.__setattr__(self, "class_names", tuple(self.class_names or classes))
        object.__setattr__(self, "weight", self.weight or self.example_weight)
        if problem := self._problem():
            raise ValueError(problem)

    def _problem(self) -> str:
        """What is wrong with the task; "" for nothing."""
        if self.kind not in _FACTS:
            return f"task: {self.kind!r} is none of {', '.join(_FACTS)}"
        for name in ("example_weight", "weight"):
            if getattr(self, name) == self.label:
                return f"{name}: {self.label!r} is the label"
        if self.kind == REGRESSION:
            return "classes: a regression has none" if self.classes or self.class_names else ""
        if self.kind == BINARY and len(self.classes) != 2:
            return f"classes: a binary task has two, the positive one last, not {len(self.classes)}"
        if self.kind == MULTICLASS and not 2 <= len(self.classes) <= MOST_CLASSES:
            return (
                f"classes: a multiclass task lists 2 to {MOST_CLASSES:,} values of the label, "
                f"not {len(self.classes):,}"
            )
        if len(set(self.classes)) < len(self.classes):
            return "classes: a value occurs twice"
        if len(self.class_names) != len(self.classes):
            return (
                f"class_names: one name for each of the {len(self.classes)} classes is expected, "
                f"not {len(self.class_names)}"
            )
        return ""

    @classmethod
    def from_config(cls, custom_config: Mapping[str, Any]) -> Task:
        """Reads the task of a model's `custom_config`; other keys are ignored.

        Example:
          >>> Task.from_config({"kind": "regression", "label": "fare", "epochs": 3}).headline.title
          'RMSE'
        """
        names = cls.__dataclass_fields__
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in custom_config.items()
            if name in names
        }
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Reads a task that `to_json` wrote."""
        return cls.from_config(json.loads(text))

    def to_json(self) -> str:
        """The task as a JSON object, for a component's parameter."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @property
    def loss(self) -> str:
        """Name of the Keras loss that is used by default."""
        return self.losses[0]

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the Keras losses that fit the output and the labels."""
        return _FACTS[self.kind].losses

    def check_training(self, loss: str, class_weights: str | Sequence[float]) -> None:
        """Checks the settings of training that depend on the task.

        Args:
          loss: One of `losses`; "" for the default.
          class_weights: "balanced", a weight for each class, or nothing.

        Raises:
          ValueError: If a setting does not fit the task; the message has name and what is allowed.
        """
        if loss and loss not in self.losses:
            raise ValueError(
                f"loss = {loss!r}: of a {self.kind} task it is one of {', '.join(self.losses)}"
            )
        if not class_weights:
            return
        if self.kind == REGRESSION:
            raise ValueError("class_weights: a regression has no classes")
        if class_weights == BALANCED:
            return
        if isinstance(class_weights, str) or len(class_weights) != len(self.classes):
            raise ValueError(
                f"class_weights = {class_weights!r}: {BALANCED!r}, or a weight for each of the "
                f"{len(self.classes)} classes, is expected"
            )
        if not all(isinstance(weight, Real) and 0 < weight < np.inf for weight in class_weights):
            raise ValueError(f"class_weights = {class_weights!r}: weights above 0 are expected")

    @property
    def outputs(self) -> int:
        """Width of the network's output: 1, or the number of classes of a multiclass task."""
        return len(self.classes) if self.kind == MULTICLASS else 1

    @property
    def activation(self) -> str:
        """Name of the Keras activation of the output layer."""
        return _FACTS[self.kind].activation

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics; the first is the headline."""
        return _FACTS[self.kind].metrics

    @property
    def headline(self) -> Metric:
        """The metric by which models are compared."""
        return self.metrics[0]

    def metric(self, name: str) -> Metric:
        """A metric by its name.

        Raises:
          KeyError: If the task has no such metric.
        """
        return {metric.name: metric for metric in self.metrics}[name]

    def check_thresholds(self, key: str, thresholds: Mapping[str, Bound]) -> None:
        """Checks settings of thresholds by metric.

        Args:
          key: The key of the setting, for messages.
          thresholds: As `thresholds`.

        Raises:
          ValueError: If the task has no such metric, or the bound is not of the metric's form.
        """
        for name, bound in thresholds.items():
            if name not in (known := [metric.name for metric in self.metrics]):
                raise ValueError(
                    f"{key}.{name}: no such metric; those of a {self.kind} task are "
                    f"{', '.join(known)}"
                )
            if problem := self.metric(name).check_bound(bound):
                shown = list(bound) if isinstance(bound, tuple) else bound
                raise ValueError(f"{key}.{name} = {shown}: {problem}")

    @property
    def thresholds(self) -> Mapping[str, Bound]:
        """Default thresholds by metric: the worst value, or the lowest and the highest."""
        return _FACTS[self.kind].thresholds

    @property
    def slice_thresholds(self) -> Mapping[str, Bound]:
        """The same for every slice."""
        return _FACTS[self.kind].slice_thresholds

    @property
    def max_loss(self) -> float:
        """Default of the largest loss of the headline metric; see `Metric.loss`."""
        return _FACTS[self.kind].max_loss

    @property
    def max_slice_loss(self) -> float:
        """The same in a slice."""
        return _FACTS[self.kind].max_slice_loss

    @property
    def max_baseline_loss(self) -> float:
        """The same against gradient boosting."""
        return _FACTS[self.kind].max_baseline_loss

    def encode(self, labels: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Encodes raw labels: class ids, or numbers.

        Example:
          >>> Task("binary", "tip", ("no", "yes")).encode([b"yes", b"no"]).tolist()
          [1.0, 0.0]

        Args:
          labels: The label of each row, [rows] or [rows, 1]: text, bytes, booleans, integers or
            floats, or a mixture of them.

        Returns:
          float64 [rows]; NaN for an absent label, and for one that is none of the classes.

        Raises:
          DataError: If labels of a regression are not numbers.
        """
        values = np.ravel(np.asarray(labels))
        if self.kind == REGRESSION:
            return self._as_numbers(values)
        numbers = self.class_numbers()
        if values.dtype.kind in "biuf":
            found = np.full(len(values), np.nan)
            rounded = values.dtype.kind == "f"  # Examples hold floats of 32 bits.
            values = values.astype(np.float32) if rounded else values
            for number, class_id in numbers.items():
                found[values == (np.float32(number) if rounded else number)] = class_id
            return found
        known = numbers | {name: class_id for class_id, name in enumerate(self.classes)}
        found_ids = (float(known.get(_plain(value), np.nan)) for value in values)
        return np.fromiter(found_ids, float, len(values))

    def _as_numbers(self, values: np.ndarray) -> np.ndarray:
        if values.dtype.kind not in "biuf":
            strange = [v for v in values if not isinstance(v, Real | Decimal | None)]
            if strange:
                raise DataError(
                    f"label {self.label!r}: numbers are needed for a regression, not "
                    f"{', '.join(repr(_plain(value)) for value in strange[:3])}"
                )
        return np.asarray(values, float)

    def class_numbers(self) -> dict[float, int]:
        """Class ids by the label's number; empty if the classes are not different numbers.

        Example:
          >>> Task("binary", "tip", ("false", "true")).class_numbers()
          {0: 0, 1: 1}
        """
        numbers = [_number(name) for name in self.classes]
        if None in numbers or len(set(numbers)) < len(numbers):
            return {}
        return {number: class_id for class_id, number in enumerate(numbers) if number is not None}

    def initial_bias(self, labels: np.ndarray) -> np.ndarray:
        """The bias with which untrained logits predict the distribution of the labels.

        Args:
          labels: Encoded labels, [rows] or [rows, 1].

        Returns:
          float64 [outputs]: the logits of the shares of the classes; 0 for a regression, whose
          output layer adds the mean (see `ml.task_layers.output_layer`).
        """
        if self.kind == REGRESSION:
            return np.zeros(1)
        counts = np.bincount(np.ravel(labels).astype(int), minlength=len(self.classes)) + 1e-3
        shares = np.log(counts / counts.sum())
        return shares[1:] - shares[0] if self.kind == BINARY else shares


def _plain(value: Any) -> Any:
    """A text as `str`, and any other value as it is."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _number(name: str) -> float | None:
    """The number that a class is written as; None for other text."""
    if name.lower() in _BOOLEANS:
        return _BOOLEANS[name.lower()]
    for read in (int, float):
        try:
            number = read(name)
        except ValueError:
            continue
        return number if np.isfinite(number) else None
    return None
