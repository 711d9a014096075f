"""The quantization modes, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from components.quantizer.measurement import Measurement
from ml.metrics import Metric
from ml.parameters import parse_names, require

MODES = ("none", "float16", "dynamic_range", "int8", "qat", "pqat")


def check_modes(mode: str, auto_modes: str, max_loss: float) -> list[str]:
    """Checks the parameters of `Quantizer`.

    Returns:
      The modes to try, in this order; with `auto`, `none` is the last, which is always allowed.

    Raises:
      UserError: If a parameter is not allowed; the message has name, value and what is allowed.
    """
    require(mode in (*MODES, "auto"), "mode", mode, f"{', '.join(MODES)} or auto")
    require(max_loss >= 0, "max_loss", max_loss, "0 or more")
    if mode != "auto":
        return [mode]
    names = parse_names("auto_modes", auto_modes)
    known = bool(names) and all(name in MODES for name in names)
    require(known, "auto_modes", auto_modes, f"a JSON list of some of {', '.join(MODES)}")
    return [*(name for name in dict.fromkeys(names) if name != "none"), "none"]


def measure_loss(result: Measurement, baseline: Measurement, metric: Metric) -> float:
    """The loss of a metric against the float model; infinite if a value is unknown.

    Without the metric there is no proof that nothing is lost.
    """
    value, before = result.metrics[metric.name], baseline.metrics[metric.name]
    return math.inf if value is None or before is None else metric.loss(value, before)


def explain_choice(
    mode: str, chosen: str, losses: Mapping[str, float], max_loss: float, metric: Metric
) -> str:
    """Says why a mode is shipped.

    Example:
      >>> from ml.metrics import AUC
      >>> explain_choice("auto", "qat", {"int8": 0.01, "qat": 0.001}, 0.002, AUC)
      'auto: the first of int8 0.0100, qat 0.0010 that loses at most 0.002 in AUC'

    Args:
      mode: The parameter `mode`.
      chosen: The mode that is shipped.
      losses: The loss of each mode that was tried; see `measure_loss`.
      max_loss: Largest loss that `auto` accepts.
      metric: The task's headline metric.
    """
    if mode != "auto":
        return f"{mode} is the configured mode"
    limit = f"{100 * max_loss:g}%" if metric.relative else f"{max_loss:g}"
    shown = ", ".join(f"{name} {metric.format_loss(loss)}" for name, loss in losses.items())
    if chosen == "none":
        return f"float: every mode loses more than {limit} in {metric.title} ({shown})"
    tried = f"the first of {shown} that" if len(losses) > 1 else f"{shown} is the first tried, and"
    return f"auto: {tried} loses at most {limit} in {metric.title}"
