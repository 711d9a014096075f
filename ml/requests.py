"""What splits of requests were made of: what RequestExampleGen says of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from tfx import v1 as tfx

CURRENT = "current"
PREVIOUS = "previous"


@dataclass
class Requests:
    """What splits of requests were made of.

    Attributes:
      version: The version that answered.
      rows: Rows by split.
      labelled: Rows by split that found their label; empty where no labels were looked for.
      label_months: The months whose labels have arrived, by split.
      other_versions: Rows of the period that other versions answered, by version.
      without_prediction: Rows of the period that were answered with another output.
    """

    version: int
    rows: dict[str, int] = field(default_factory=dict)
    labelled: dict[str, int] = field(default_factory=dict)
    label_months: dict[str, list[int]] = field(default_factory=dict)
    other_versions: dict[str, int] = field(default_factory=dict)
    without_prediction: int = 0

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(vars(self))

    @classmethod
    def from_examples(cls, examples: tfx.dsl.Artifact) -> Requests:
        """Reads what an artifact of RequestExampleGen says."""
        return cls(**json.loads(examples.get_string_custom_property("requests")))
