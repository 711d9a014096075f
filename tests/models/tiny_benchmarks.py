"""Settings by which a benchmark measures little, to see that it works."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tiny:
    """How a benchmark is run to see that it works.

    Attributes:
      arguments: Of its command line; `{run}` is the output directory of a finished run.
      constants: Constants of its module that are others.
    """

    arguments: tuple[str, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_run(self) -> bool:
        """Whether it reads a finished run."""
        return any("{run}" in argument for argument in self.arguments)

    def command(self, name: str, run: Path | None) -> list[str]:
        """The command that runs it.

        Args:
          name: Name of the benchmark.
          run: Output directory of a finished run.
        """
        lines = [f"from benchmarks import {name}"]
        lines += [f"{name}.{key} = {value!r}" for key, value in self.constants.items()]
        code = "\n".join([*lines, f"{name}.main()"])
        return [sys.executable, "-c", code, *(a.format(run=run) for a in self.arguments)]


TINY = {
    "beyond": Tiny(("--output={run}",)),
    "compression": Tiny(("--output={run}", "--seeds=1", "--slice=carrier")),
    "compression_modes": Tiny(("--output={run}",)),
    "evaluation": Tiny(("--run={run}",)),
    "explain": Tiny(("--run={run}", "--rows=20")),
    "gate": Tiny(("--month=201302", "--rows=100", "--seeds=1", "--fault-seeds=1")),
    "ingestion": Tiny(("--window=1", "--repeats=1")),
    "kubeflow": Tiny(("--commands",)),
    "manifests": Tiny(("--repetitions=1",)),
    "new_model": Tiny(("--rows=5000", "--run-rows=2000", "--part=tables")),
    "predict": Tiny(("--rows=1000", "--explained-rows=2", "--runs={run}")),
    "quality": Tiny(("--model=penguins", "--seed=7")),
    "reports": Tiny(("--run={run}", "--newest=1")),
    "runs": Tiny(("--window=1", "--from=201302", "--to=201302")),
    "scale": Tiny(("--times=2", "--window=1", "--set", "training.epochs=1")),
    "security": Tiny(("--megabytes=0.5", "--rounds=2")),
    "serving": Tiny(("{run}/serving_model", "--tiny")),
    "steady": Tiny(("--runs={run}", "--seeds=1")),
    "stock": Tiny(("--window=1",)),
    "strategies": Tiny(("--run={run}", "--strategy=ensemble", "--seed=7")),
    "traffic": Tiny(
        ("{run}/serving_model", "--rate=20", "--rounds=1", "--seconds=1", "--changes=5")
    ),
    "tuning": Tiny(("--model=penguins", "--trials=2", "--seed=7")),
    "window": Tiny(("--window=1",)),
}
