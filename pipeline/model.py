"""The small interface through which the pipeline knows the folder of a model."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import ConfigError

_PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Model:
    """What a folder `models/<name>/` says of its model, and where its functions are.

    Attributes:
      name: Import path of the folder.
      label: Feature that the model predicts, 0 or 1.
      weight: Transformed feature that says how much a row counts in training.
      prediction: Output of the model.
      raw_features: Features that a request has to hold.
      raw_signature: Signature that takes them, one tensor each.
      slices: Features by whose values the model is evaluated.
    """

    name: str
    label: str
    weight: str
    prediction: str
    raw_features: tuple[str, ...]
    raw_signature: str
    slices: tuple[str, ...]

    @classmethod
    def load(cls, name: str) -> Model:
        """Reads a model's `features.py`, which imports neither TensorFlow nor TFX.

        Args:
          name: Name of a folder below `models/`; or the import path of one elsewhere in the
            project, such as `tests.trips`.

        Raises:
          ConfigError: If there is no such folder.
        """
        package = name if "." in name else f"models.{name}"
        if not _PROJECT.joinpath(*package.split("."), "features.py").is_file():
            models = _PROJECT / "models"
            folders = sorted(path.parent.name for path in models.glob("*/features.py"))
            raise ConfigError(
                f"model = {name!r}: there is no such folder in {models}, but {', '.join(folders)}"
            )
        features = importlib.import_module(f"{package}.features")
        return cls(
            name=package,
            label=features.LABEL,
            weight=features.WEIGHT,
            prediction=features.PROBABILITY,
            raw_features=features.RAW_FEATURES,
            raw_signature=features.RAW_SIGNATURE,
            slices=features.SLICES,
        )

    @property
    def preprocessing_fn(self) -> str:
        """Import path of Transform's function."""
        return f"{self.name}.preprocessing.preprocessing_fn"

    @property
    def run_fn(self) -> str:
        """Import path of Trainer's function."""
        return f"{self.name}.network.run_fn"

    @property
    def save_fn(self) -> str:
        """Import path of what saves a network behind its signatures."""
        return f"{self.name}.export.save_model"

    @property
    def reference(self) -> str:
        """Import path of what another kind of model reaches."""
        return f"{self.name}.reference.reference_auc"

    @property
    def functions(self) -> tuple[str, ...]:
        """Import paths of all that the nodes run of the model's folder."""
        return (self.preprocessing_fn, self.run_fn, self.save_fn)
