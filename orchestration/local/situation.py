"""Looks up the inputs of a run and the served version, without TFX."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from orchestration.local.cache_keys import CodeVersion
from orchestration.local.model_directories import check_name
from orchestration.local.origin import entry_points, settings_of
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.provenance import known_provenance, lost_files
from pipeline.config import Config
from storage import spans
from storage.directory import ModelDirectory
from storage.errors import UserError

_PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Situation:
    """The inputs of a run, and the served version.

    Attributes:
      model_name: Name of the model.
      run_key: Identifies data, configuration and code.
      data: Identifies the data alone.
      configuration: Identifies the configuration alone.
      data_uri: Directory of the spans.
      files: Paths of the window's files, in the file system of `data_uri`.
      months: Months of the window, by split.
      served: The version that is served, or None.
      served_key: The `run_key` that it was made from; "" if unknown.
      served_months: Months that it was made from, by split.
      rolled_back: A version that was made from this very `run_key` and rolled back, or None.
    """

    model_name: str
    run_key: str
    data: str
    configuration: str
    data_uri: str
    files: tuple[str, ...]
    months: dict[str, tuple[int, ...]]
    served: int | None = None
    served_key: str = ""
    served_months: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rolled_back: int | None = None

    @property
    def is_served(self) -> bool:
        """Whether what is served was made from this."""
        return self.served is not None and self.served_key == self.run_key

    @property
    def nothing_new(self) -> str:
        """Says so, if it is."""
        return (
            f"Nothing new: version {self.served} of {self.model_name} was made from this data, "
            "configuration and code."
        )


@dataclass(frozen=True)
class Prepared:
    """What a run would do."""

    config: Config
    window: spans.Window
    code_version: CodeVersion
    situation: Situation


def prepare(config: Config, directory: OutputDirectory) -> Prepared:
    """Resolves the window, and looks up the served version.

    Args:
      config: The configuration; its month may be left open.
      directory: The output directory.

    Returns:
      What a run would do, its configuration with the month that it is evaluated on.

    Raises:
      UserError: If the data cannot be used, the served version lost files, or another model has
        the same name in the Serving directory.
    """
    check_name(directory, config.model_name)
    window = spans.resolve_window(config.data.source, config.data.as_of, config.data.window)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, as_of=window.test.number)
    )
    code_version = code_version_of(config)
    settings = settings_of(config)
    key = code_version.run_key(entry_points(config), settings, window.fingerprint)
    # The months that a run would take are no change of the configuration.
    stable = {**settings, "data": {**settings["data"], "as_of": 0}}
    models = ModelDirectory(str(directory.serving), config.model_name)
    served = models.served()
    if served:
        _check_files(directory, models, served)
    provenance = known_provenance(models, served) if served else {}
    rolled_back = (
        version
        for version in models.rolled_back()
        if known_provenance(models, version).get("run_key") == key
    )
    situation = Situation(
        model_name=config.model_name,
        run_key=key,
        data=window.fingerprint,
        configuration=hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest(),
        data_uri=config.data.uri,
        files=tuple(file for span in window.spans for file in span.files),
        months={"train": tuple(s.number for s in window.train), "test": (window.test.number,)},
        served=served,
        served_key=str(provenance.get("run_key", "")),
        served_months={name: tuple(m) for name, m in provenance.get("spans", {}).items()},
        rolled_back=next(rolled_back, None),
    )
    return Prepared(config, window, code_version, situation)


def code_version_of(config: Config) -> CodeVersion:
    """The versions of the project's code, and of the other files that nodes read."""
    return CodeVersion(_PROJECT, (config.gate.schema,))


def _check_files(directory: OutputDirectory, models: ModelDirectory, served: int) -> None:
    lost = lost_files(directory, models, served)
    if not lost:
        return
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    raise UserError(
        f"version {served} of {models.model_name} lost files in {models.serving_dir}: {lost[0]}"
        f"{more} is missing or cut short; put back what is missing, or delete "
        f"{models.version_uri(served)} and run again, which pushes it again"
    )
