"""What a report is made from: a run, its nodes, and the artifacts that they left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# States of a node, as the local runner has them.
COMPLETE, CACHED, FAILED, SKIPPED = "complete", "cached", "failed", "skipped"


@dataclass(frozen=True)
class Artifact:
    """An artifact.

    Attributes:
      uri: Its folder, which may have been deleted since.
      properties: Custom properties by name.
    """

    uri: str
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    """What is known of a node of a run.

    Attributes:
      name: Its id.
      state: `complete`, `cached`, `failed` or `skipped`; "" if unknown.
      line: What it produced, or its error, in one line.
      details: Further lines.
      began: Seconds from the first node's start to its own; None if unknown.
      seconds: How long it took; None if unknown.
      outputs: Its output artifacts, by key.
    """

    name: str
    state: str = ""
    line: str = ""
    details: tuple[str, ...] = ()
    began: float | None = None
    seconds: float | None = None
    outputs: Mapping[str, Artifact] = field(default_factory=dict)

    @property
    def blessed(self) -> bool | None:
        """Whether it blessed the model; None if that is not its task."""
        blessing = self.outputs.get("blessing")
        value = blessing.properties.get("blessed") if blessing else None
        return None if value is None else bool(value)


@dataclass(frozen=True)
class Setting:
    """A setting that differs from the engine's default.

    Attributes:
      key: Its dotted key.
      value: The value, as JSON.
      default: The default, as JSON; "" if there is none.
      of_run: Whether the run set it, over the model's configuration.
    """

    key: str
    value: str
    default: str
    of_run: bool


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
      run_id: Its id.
      model: The model, by its folder; "" if unknown.
      outcome: How it ended, such as "pushed".
      meaning: The same in a few more words.
      started: When it began, ISO 8601, UTC.
      seconds: How long it took; None if unknown.
      version: The version that it pushed, or None.
      reasons: Why it ended as it did, in lines.
      months: Numbers of spans, by split.
      run_key: Identifies data, configuration and code.
      log: Its most useful log.
      nodes: Its nodes, in topological order.
      settings: The settings that differ from the defaults; None if they are not known.
      provenance: The provenance of the version that it pushed.
      notes: What could not be found out about it, in lines.
    """

    run_id: str
    model: str = ""
    outcome: str = ""
    meaning: str = ""
    started: str = ""
    seconds: float | None = None
    version: int | None = None
    reasons: tuple[str, ...] = ()
    months: Mapping[str, Iterable[int]] = field(default_factory=dict)
    run_key: str = ""
    log: str = ""
    nodes: tuple[Node, ...] = ()
    settings: tuple[Setting, ...] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def node(self, name: str) -> Node | None:
        """A node by its name; None if the run has no such node."""
        return next((node for node in self.nodes if node.name == name), None)

    def output(self, name: str, key: str) -> Artifact | None:
        """An output artifact of a node; None if there is none."""
        node = self.node(name)
        return node.outputs.get(key) if node else None
