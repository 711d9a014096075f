"""The pruning spec: the checked parameters of `Pruner`, and the sparsity that steps suffice for."""

from __future__ import annotations

import json
import math
from typing import Any

from ml.fit import FitSettings
from ml.parameters import require

AUTO = "auto"
_SCHEDULES = ("polynomial", "constant")
# To keep a share k of the weights without loss takes (2 / k)² steps, as measured on small data (see
# docs/compression.md): 16 for a half, 100 for a fifth, 400 for a tenth.
_STEP_FACTOR = 2.0


def check_pruning(
    target_sparsity: str,
    schedule: str,
    frequency: int,
    block_size: str,
    m_by_n: str,
    epochs: int,
) -> dict[str, Any]:
    """Checks the parameters of `Pruner`, and returns them as a pruning spec.

    Returns:
      `sparsity`, which is None if it is to be searched, `schedule`, `frequency`, `block_size`, and
      `m_by_n` or None.

    Raises:
      UserError: If a parameter is not allowed; the message has name, value and what is allowed.
    """
    sparsity = None
    if target_sparsity != AUTO:
        sparsity = _read_number(target_sparsity)
        require(0 <= sparsity < 1, "target_sparsity", target_sparsity, "0 to below 1, or auto")
    require(schedule in _SCHEDULES, "schedule", schedule, " or ".join(_SCHEDULES))
    require(frequency >= 1, "frequency", frequency, "1 or more")
    block = _read_pair("block_size", block_size)
    require(block is not None and min(block) >= 1, "block_size", block_size, "a pair as in [4, 1]")
    pattern = _read_pair("m_by_n", m_by_n)
    if pattern:
        require(0 < pattern[0] < pattern[1], "m_by_n", m_by_n, "a pair as in [2, 4], or []")
        require(block == (1, 1), "block_size", block_size, "[1, 1] together with m_by_n")
        sparsity = pattern[0] / pattern[1]
    require(epochs >= 1 or sparsity == 0, "epochs", epochs, "1 or more, in order to prune")
    return {
        "sparsity": sparsity,
        "schedule": "constant" if pattern else schedule,
        "frequency": frequency,
        "block_size": block,
        "m_by_n": pattern,
    }


def read_units(keep_units: str) -> float | None:
    """The share of the units to keep; None for "auto".

    Raises:
      UserError: If it is neither a share above 0 nor "auto".
    """
    if keep_units == AUTO:
        return None
    share = _read_number(keep_units)
    require(0 < share <= 1, "keep_units", keep_units, "above 0, to 1, or auto")
    return share


def _read_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _read_pair(name: str, text: str) -> tuple[int, int] | None:
    """A JSON pair of whole numbers, or None for an empty list."""
    try:
        pair = json.loads(text)
    except ValueError:
        pair = text
    if pair == []:
        return None
    right = isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair)
    require(right, name, text, "a JSON pair of whole numbers, as in [4, 1]")
    return pair[0], pair[1]


def highest_sparsity(steps: int) -> float:
    """The highest sparsity, in whole percents, that a number of training steps suffices for."""
    return max(0.0, math.floor(100 * (1 - _STEP_FACTOR / math.sqrt(steps))) / 100)


def limit_sparsity(
    spec: dict[str, Any], settings: FitSettings, steps: int
) -> tuple[dict[str, Any], str]:
    """Lowers the sparsity of a pruning spec to what the training steps suffice for.

    Example:
      >>> from ml.tasks import Task
      >>> task = Task("binary", "tip")
      >>> settings = FitSettings(task, "", "", epochs=4, batch_size=64, learning_rate=0.01, seed=7)
      >>> limit_sparsity({"sparsity": 0.84, "m_by_n": None}, settings, steps=24)[0]["sparsity"]
      0.59

    Args:
      spec: See `check_pruning`.
      settings: How to fine-tune.
      steps: Steps of the fine-tuning.

    Returns:
      The spec, and in words why its sparsity is less than it was, or too much for the steps, which
      a pattern `m_by_n` may be; "" if it is neither.
    """
    largest = highest_sparsity(steps)
    wanted = spec["sparsity"]
    if wanted <= largest:
        return spec, ""
    needed = math.ceil((_STEP_FACTOR / (1 - wanted)) ** 2)
    pruned = wanted if spec["m_by_n"] else largest
    return spec | {"sparsity": pruned}, (
        f"{steps:,} steps are too few for a sparsity of {wanted:.0%}, which takes {needed:,}: "
        f"{pruned:.0%} {'is pruned all the same' if spec['m_by_n'] else 'is pruned'}. Raise "
        f"pruning.epochs (now {settings.epochs:,}) or lower training.batch_size "
        f"(now {settings.batch_size:,})"
    )
