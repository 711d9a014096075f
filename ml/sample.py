"""How closely a metric is known on the labelled rows that there are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ml.chance import auc_deviation
from ml.metrics import ACCURACY, AUC, MACRO_AUC, Metric
from ml.tasks import BINARY, REGRESSION, Task

# Half the width of the largest 95% interval of the headline metric from which a verdict is given.
_LARGEST_MARGIN = 0.25
_NORMAL = 1.96  # Its quantile for 95%.


@dataclass(frozen=True)
class Sample:
    """The rows of a split.

    Attributes:
      rows: Their number.
      classes: Rows of each class; of a regression, all rows. Of weighted rows, how many rows of
        equal weights vary as much (Kish, Survey Sampling, 1965): the squared sum of the weights
        over the sum of their squares.
    """

    rows: int
    classes: tuple[float, ...]

    def shortage(self, task: Task) -> str:
        """Why the rows are too few for any verdict; "" if they are not.

        They are where the interval of the headline metric is wider than 0.25 either way: of the AUC
        of random predictions (Mann and Whitney, 1947), of an accuracy of one half, or of the RMSE
        of normal errors, as a share of it. A bootstrap of fewer rows means nothing: that of three
        rows without an error has no width.
        """
        if task.kind == BINARY:
            rarest, others = sorted(self.classes)
            needed = 1
            while _NORMAL * auc_deviation(needed, max(round(others), needed)) > _LARGEST_MARGIN:
                needed += 1
            if rarest >= needed:
                return ""
            return (
                f"{self.rows:,} rows, {rarest:,.0f} of the rarer class: at least {needed} rows "
                "of each class are needed to tell"
            )
        # The deviation of one row.
        deviation = math.sqrt(0.5) if task.kind == REGRESSION else 0.5
        needed = math.ceil((_NORMAL * deviation / _LARGEST_MARGIN) ** 2)
        if sum(self.classes) >= needed:
            return ""
        return f"{self.rows:,} rows: at least {needed} are needed to tell"

    def deviation(self, metric: Metric, value: float) -> float:
        """The least standard deviation of a metric that theory allows on so many rows.

        A bootstrap finds none where no row is wrong. Of an accuracy it is Agresti and Coull's
        (1998), of an AUC Hanley and McNeil's (1982), both with two more rows that are right and two
        that are wrong; of other metrics it is 0.
        """
        if metric == ACCURACY:
            return share_deviation(value, sum(self.classes))
        if metric == AUC:
            return _hanley_mcneil(value, *self.classes)
        if metric == MACRO_AUC:
            rows = sum(self.classes)
            known = [n for n in self.classes if 0 < n < rows]
            found = [_hanley_mcneil(value, n, rows - n) for n in known]
            return sum(found) / len(found) if found else 0.0
        return 0.0


def share_deviation(share: float, rows: float) -> float:
    """The standard deviation of a share of so many rows (Agresti and Coull, 1998)."""
    share = (share * rows + 2) / (rows + 4)
    return math.sqrt(share * (1 - share) / (rows + 4))


def _hanley_mcneil(auc: float, negative: float, positive: float) -> float:
    """The standard deviation of an AUC (Radiology 143, 1982, equation 1)."""
    fewer = min(negative, positive)
    auc = (auc * fewer + 2) / (fewer + 4)
    two_positive, two_negative = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (
        auc * (1 - auc)
        + (positive - 1) * (two_positive - auc**2)
        + (negative - 1) * (two_negative - auc**2)
    ) / max(negative * positive, 1)
    return math.sqrt(max(variance, 0.0))
