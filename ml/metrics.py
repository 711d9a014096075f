"""The metrics of tasks: names, directions, and what is worse than what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

# The worst value of a metric, or the lowest and the highest.
Bound = float | tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """A metric of a task.

    Attributes:
      name: Its name in settings, reports and TFMA's results.
      title: Its name on the screen.
      tfma_class: Its class in TFMA, or in Keras.
      direction: 1 if higher is better, -1 if lower is better, 0 if it is best near `best`.
      best: The value of a perfect model; None if the direction says it.
      relative: Whether two values are compared by their ratio, because the unit is the label's.
      lowest: Smallest value that it can have.
      highest: Largest value.
    """

    name: str
    title: str
    tfma_class: str
    direction: Literal[1, -1, 0]
    best: float | None = None
    relative: bool = False
    lowest: float = 0.0
    highest: float = np.inf

    def check_bound(self, bound: Bound) -> str:
        """What is wrong with a threshold of this metric; "" for nothing.

        Example:
          >>> AUC.check_bound(1.2)
          'the lowest AUC is expected, 0 to 1'
        """
        ends = bound if isinstance(bound, tuple) else (bound,)
        fits = all(np.isfinite(end) and self.lowest <= end <= self.highest for end in ends)
        if fits and len(ends) == (1 if self.direction else 2) and list(ends) == sorted(ends):
            return ""
        what = {1: f"the lowest {self.title}", -1: f"the highest {self.title}"}.get(
            self.direction, f"the lowest and the highest {self.title}, as in [0.5, 2.0],"
        )
        ranges = {
            (0.0, 1.0): ", 0 to 1",
            (0.0, np.inf): ", 0 or more",
            (-np.inf, 1.0): ", at most 1",
        }
        return f"{what} is expected{ranges.get((self.lowest, self.highest), '')}"

    def show(self, value: float | None, margin: float | None = None) -> str:
        """A value for people, with half the width of its interval.

        Example:
          >>> RMSE.show(1512.34, 9.06), AUC.show(0.69288, 0.0066), AUC.show(None)
          ('1,512 ±9.1', '0.6929 ±0.0066', 'undefined')
        """
        if value is None:
            return "undefined"
        in_units = self.relative or self.best == 0  # Of the label.
        text = _digits(value, 4) if in_units else f"{value:.4f}"
        if margin is None:
            return text
        return f"{text} ±{_digits(margin, 2) if in_units else f'{margin:.4f}'}"

    def format_loss(self, loss: float) -> str:
        """A loss as it is shown: a difference, or a percentage if `relative`."""
        return f"{loss:.1%}" if self.relative else f"{loss:.4f}"

    def loss(self, value: float, baseline: float) -> float:
        """How much worse a value is than a baseline; negative if it is better.

        Example:
          >>> AUC.loss(0.70, 0.72), RMSE.loss(510.0, 500.0)  # doctest: +ELLIPSIS
          (0.02..., 0.02...)

        Returns:
          The difference, or, if `relative`, the share of the baseline; of a metric without a
          direction, how much further it is from the best value.
        """
        if self.best is not None:
            return abs(value - self.best) - abs(baseline - self.best)
        worse = self.direction * (baseline - value)
        if not self.relative or not worse:
            return worse
        return worse / abs(baseline) if baseline else float(np.sign(worse)) * np.inf


AUC = Metric("auc", "AUC", "AUC", 1, highest=1.0)
AUC_PR = Metric("auc_pr", "AUC-PR", "AUCPrecisionRecall", 1, highest=1.0)
LOG_LOSS = Metric("log_loss", "log loss", "BinaryCrossEntropy", -1)
CALIBRATION = Metric("calibration", "calibration", "Calibration", 0, best=1.0)
ACCURACY = Metric("accuracy", "accuracy", "SparseCategoricalAccuracy", 1, highest=1.0)
MACRO_AUC = Metric("macro_auc", "macro AUC", "AUC", 1, highest=1.0)
CLASS_LOG_LOSS = Metric("log_loss", "log loss", "SparseCategoricalCrossentropy", -1)
RMSE = Metric("rmse", "RMSE", "RootMeanSquaredError", -1, relative=True)
MAE = Metric("mae", "MAE", "MeanAbsoluteError", -1, relative=True)
R2 = Metric("r2", "R²", "R2Score", 1, lowest=-np.inf, highest=1.0)
BIAS = Metric("bias", "bias", "MeanError", 0, best=0.0, lowest=-np.inf)


def _digits(value: float, digits: int) -> str:
    """A number with this many significant digits, and no exponent unless it is very small."""
    if value == 0 or not np.isfinite(value) or abs(value) < 1e-4:
        return f"{value:.{digits}g}"
    places = digits - 1 - int(np.floor(np.log10(abs(value))))
    return f"{value:,.{max(places, 0)}f}"
