"""The modes that there are, and which of them is shipped."""

import math

from components.quantizer.measurement import Measurement
from ml.parameters import parse_names, require

MODES = ("none", "float16", "dynamic_range", "int8", "qat", "pqat")
POLICIES = {"smallest": "gzip_bytes", "fastest": "p50_ms"}


def check_modes(mode: str, auto_modes: str, policy: str, max_auc_loss: float) -> list[str]:
    """Checks how to quantize; see the parameters of `Quantizer`.

    Returns:
      The modes to convert in; `none` is among those that `auto` falls back to.

    Raises:
      UserError: Naming the parameter, its value and what is allowed.
    """
    require(mode in (*MODES, "auto"), "mode", mode, f"{', '.join(MODES)} or auto")
    require(policy in POLICIES, "policy", policy, " or ".join(POLICIES))
    require(0 <= max_auc_loss <= 1, "max_auc_loss", max_auc_loss, "0 to 1")
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
    max_auc_loss: float,
) -> tuple[str, str]:
    """The mode to ship, and why.

    Args:
      measured: Measurements by mode; `none` among them if `mode` is `auto`.
      baseline: Those of the float model.
      mode: The `mode` parameter.
      policy: "smallest" or "fastest".
      max_auc_loss: Most that may be lost in AUC against `baseline`.

    Returns:
      The mode and a sentence.
    """
    if mode != "auto":
        return mode, f"{mode} is the mode that is set"
    lost = {
        # An AUC that cannot be measured proves nothing.
        name: math.inf if baseline.auc is None or result.auc is None else baseline.auc - result.auc
        for name, result in measured.items()
        if name != "none"
    }
    allowed = [name for name, loss in lost.items() if loss <= max_auc_loss]
    if not allowed:
        losses = ", ".join(f"{name} {loss:.4f}" for name, loss in lost.items())
        return "none", f"float: every mode loses more than {max_auc_loss:g} in AUC ({losses})"
    best = min(allowed, key=lambda name: getattr(measured[name], POLICIES[policy]))
    return best, f"{policy} of {len(allowed)} modes that lose at most {max_auc_loss:g} in AUC"
