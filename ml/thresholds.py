"""Thresholds of metrics, by name of the metric.

A threshold is the worst value that is allowed, or, of a metric without a direction, the lowest and
the highest.
"""

from __future__ import annotations

from collections.abc import Mapping

from ml.tasks import Metric, Task

Threshold = float | tuple[float, float]
Thresholds = Mapping[str, Threshold]


def check_thresholds(task: Task, tables: Mapping[str, Thresholds]) -> None:
    """Checks that a task has these metrics, and that their thresholds have the right form.

    Args:
      task: The task.
      tables: Thresholds by the key of the setting, for the message.

    Raises:
      ValueError: Naming the first metric that is wrong, and the task's metrics.
    """
    metrics = {metric.name: metric for metric in task.metrics}
    for key, thresholds in tables.items():
        for name, threshold in thresholds.items():
            if name not in metrics:
                raise ValueError(
                    f"{key}.{name}: a {task.kind} task has no such metric; it has "
                    f"{', '.join(metrics)}"
                )
            is_pair = isinstance(threshold, tuple)
            if is_pair != (metrics[name].direction == 0):
                shown = list(threshold) if isinstance(threshold, tuple) else threshold
                worst = "lowest" if metrics[name].direction == 1 else "highest"
                expected = (
                    f"one number is expected, the {worst} that is allowed"
                    if is_pair
                    else "a list of the lowest and the highest is expected"
                )
                raise ValueError(f"{key}.{name} = {shown}: {expected}")


def bounds(metric: Metric, threshold: Threshold) -> tuple[float | None, float | None]:
    """The lowest and the highest value that a threshold allows; None for no such limit."""
    if isinstance(threshold, tuple | list):
        low, high = threshold
        return low, high
    return (threshold, None) if metric.direction == 1 else (None, threshold)
