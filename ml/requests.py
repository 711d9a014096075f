"""The origin of splits of requests, from RequestExampleGen."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from tfx import v1 as tfx

CURRENT = "current"
PREVIOUS = "previous"


@dataclass
class Requests:
    """The origin of splits of requests.

    Attributes:
      version: The version that made the predictions.
      since: When the period begins, in seconds since the Unix epoch.
      until: When it ends.
      rows: Rows by split.
      labelled: Rows with a label, by split; empty if no labels were searched.
      label_months: The months whose labels have arrived, by split.
      other_versions: Rows of the period from other versions, by version.
      without_prediction: Rows of the period without the output.
    """

    version: int
    since: int
    until: int
    rows: dict[str, int] = field(default_factory=dict)
    labelled: dict[str, int] = field(default_factory=dict)
    label_months: dict[str, list[int]] = field(default_factory=dict)
    other_versions: dict[str, int] = field(default_factory=dict)
    without_prediction: int = 0

    def to_json(self) -> str:
        """Serializes to JSON."""
        return json.dumps(vars(self))

    @classmethod
    def from_examples(cls, examples: tfx.dsl.Artifact) -> Requests:
        """Reads the property of an artifact of RequestExampleGen."""
        return cls(**json.loads(examples.get_string_custom_property("requests")))
