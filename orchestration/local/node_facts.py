"""What the outputs of a node mean to the run: facts that decide, apart from the lines that show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfx import v1 as tfx

# ExampleValidator's output has a property "blessed" too, which decides nothing.
_BLESSING_TYPES = ("ModelBlessing", "InfraBlessing")
_REPORT_TYPE = "components.MonitoringReport"


@dataclass(frozen=True)
class NodeFacts:
    """What the outputs of a node say, as far as the outcome of the run depends on it.

    Attributes:
      blessed: Whether the node blesses the model; None if it has no say in that.
      version: The version that it pushed; None if it pushed none.
      destination: URI of that version.
      reason: Why it pushed none.
      report: URI of the folder of its monitoring report, if it makes one.
    """

    blessed: bool | None = None
    version: int | None = None
    destination: str = ""
    reason: str = ""
    report: str = ""


def read_facts(outputs: Iterable[tfx.dsl.Artifact]) -> NodeFacts:
    """Reads the facts off the properties of a node's output artifacts; no file is opened."""
    blessed, version, destination, reason, report = None, None, "", "", ""
    for artifact in outputs:
        if artifact.type_name in _BLESSING_TYPES:
            blessed = bool(artifact.get_int_custom_property("blessed"))
        if artifact.has_custom_property("pushed"):
            reason = artifact.get_string_custom_property("reason")
            if artifact.get_int_custom_property("pushed"):
                version = int(artifact.get_string_custom_property("pushed_version"))
                destination = artifact.get_string_custom_property("pushed_destination")
        if artifact.type_name == _REPORT_TYPE:
            report = artifact.uri
    return NodeFacts(blessed, version, destination, reason, report)
