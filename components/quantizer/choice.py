"""The quantization modes, and the choice among them."""

import math

from components.quantizer.measurement import Measurement
from ml.metrics import Metric
from ml.parameters import parse_names, require

MODES = ("none", "float16", "dynamic_range", "int8", "qat", "pqat")
POLICIES = {"smallest": "gzip_bytes", "fastest": "p50_ms"}


def check_modes(mode: str, auto_modes: str, policy: str, max_loss: float) -> list[str]:
    """Checks the parameters of `Quantizer`.

    Returns:
      The modes to convert in; with `auto`, `none` is one of them, as the fallback.

    Raises:
      UserError: If a parameter is not allowed; the message has name, value and what is allowed.
    """
    require(mode in (*MODES, "auto"), "mode", mode, f"{', '.join(MODES)} or auto")
    require(policy in POLICIES, "policy", policy, " or ".join(POLICIES))
    require(max_loss >= 0, "max_loss", max_loss, "0 or more")
    if mode != "auto":
        return [mode]
    names = parse_names("auto_modes", auto_modes)
    known = bool(names) and all(name in MODES for name in names)
    require(known, "auto_modes", auto_modes, f"a JSON list of some of {', '.join(MODES)}")
    return list(dict.fromkeys(["none", *names]))


def choose(
    measured: dict[str, Measurement],
    baseline: Measurement,
    mode: str,
    policy: str,
    max_loss: float,
    metric: Metric,
) -> tuple[str, str]:
    """Chooses the mode to ship.

    Args:
      measured: Measurements by mode; includes `none` if `mode` is `auto`.
      baseline: Measurements of the float model.
      mode: The `mode` parameter.
      policy: "smallest" or "fastest".
      max_loss: Largest loss of `metric` against `baseline`; see `Metric.loss`.
      metric: The task's headline metric.

    Returns:
      The mode, and the reason as a sentence.
    """
    if mode != "auto":
        return mode, f"{mode} is the configured mode"

    def lost(result: Measurement) -> float:
        value, before = result.metrics[metric.name], baseline.metrics[metric.name]
        # Without the metric there is no proof that nothing is lost.
        return math.inf if value is None or before is None else metric.loss(value, before)

    losses = {name: lost(result) for name, result in measured.items() if name != "none"}
    allowed = [name for name, loss in losses.items() if loss <= max_loss]
    limit = f"{100 * max_loss:g}%" if metric.relative else f"{max_loss:g}"
    if not allowed:
        shown = ", ".join(f"{name} {metric.format_loss(loss)}" for name, loss in losses.items())
        return "none", f"float: every mode loses more than {limit} in {metric.title} ({shown})"
    best = min(allowed, key=lambda name: getattr(measured[name], POLICIES[policy]))
    return best, f"{policy} of {len(allowed)} modes that lose at most {limit} in {metric.title}"
