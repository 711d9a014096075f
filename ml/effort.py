"""Time and energy that nodes spend on a model, kept with what they produce."""

from __future__ import annotations

import json
import math
import resource
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfx import v1 as tfx

# Watts of a busy core of a processor that is not known, in Green Algorithms' table: Lannelongue,
# Grealey and Inouye, Green Algorithms: Quantifying the Carbon Footprint of Computation, Advanced
# Science 8, 2021 (`TDP_cpu.csv`, "Any"). Without memory, cooling and what idles.
WATTS_PER_CORE = 12.0
_PROPERTY = "effort"


@dataclass(frozen=True)
class Effort:
    """What a node took.

    Attributes:
      node: Id of the node.
      seconds: How long it took.
      cpu_seconds: CPU time of its process and of those that it started, in seconds; not of Beam's
        workers on other machines.
    """

    node: str
    seconds: float
    cpu_seconds: float


class Stopwatch:
    """Measures a node from here on.

    Example:
      >>> from tfx import v1 as tfx
      >>> artifact = tfx.types.standard_artifacts.Model()
      >>> Stopwatch("Trainer").stop(artifact)
      >>> read_effort(artifact).node
      'Trainer'

    Args:
      node: Id of the node.
    """

    def __init__(self, node: str):
        self._node, self._began, self._used = node, time.monotonic(), _cpu_seconds()

    def stop(self, artifact: tfx.dsl.Artifact) -> None:
        """Keeps what the node took with an artifact that it produced."""
        effort = Effort(
            self._node,
            round(time.monotonic() - self._began, 3),
            round(_cpu_seconds() - self._used, 3),
        )
        artifact.set_string_custom_property(_PROPERTY, json.dumps(asdict(effort)))


def read_effort(artifact: tfx.dsl.Artifact) -> Effort | None:
    """What the node that produced an artifact took; None if it did not say, or not in this form."""
    try:
        content = json.loads(artifact.get_string_custom_property(_PROPERTY))
        effort = Effort(
            str(content["node"]), float(content["seconds"]), float(content["cpu_seconds"])
        )
    except (ValueError, LookupError, TypeError):
        return None
    finite = math.isfinite(effort.seconds) and math.isfinite(effort.cpu_seconds)
    return effort if finite else None


def energy_kwh(cpu_seconds: float) -> float:
    """An estimate of the energy that CPU time took, in kWh.

    Example:
      >>> energy_kwh(3600)
      0.012
    """
    return cpu_seconds * WATTS_PER_CORE / 3.6e6


def _cpu_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)
