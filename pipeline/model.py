"""The interface between the pipeline and a model.

A model is a folder, `models/<name>/`:

  - `config.toml`: the model's settings, with the keys of `pipeline.config.Config`.
  - `features.py`: `RAW_FEATURES`, the features of a request. It imports neither TensorFlow nor TFX.
  - `preprocessing.py`: `preprocessing_fn(inputs, custom_config)`.
  - `network.py`: `run_fn(fn_args)`; `Learning(**fn_args.custom_config)` are its settings.
  - `export.py`: `save_model(network, transform_graph, path, custom_config)`.
  - `baseline.py`: `baseline_auc(source, as_of, window, label)`, gradient boosting on the same
    rows.

`custom_config` is `Model.custom_config`; a function may omit this parameter.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from pipeline.config import Config
from pipeline.layers import ConfigError
from pipeline.model_folders import model_package


@dataclass(frozen=True)
class Model:
    """The facts about a model that nodes need.

    Attributes:
      package: The package of its functions.
      label: Feature that the model predicts, 0 or 1.
      weight: Transformed feature with the training weight of a row; "" for none.
      prediction: Output of the model.
      time_column: Timestamp column that orders rows.
      slices: Features by whose values the model is evaluated.
      raw_features: Features of a request.
    """

    package: str
    label: str
    weight: str
    prediction: str
    time_column: str
    slices: tuple[str, ...]
    raw_features: tuple[str, ...]

    @classmethod
    def load(cls, config: Config) -> Model:
        """Reads the configuration and the model's `features.py`.

        Example:
          >>> from pipeline.config import load_config
          >>> Model.load(load_config()).run_fn.endswith(".network.run_fn")
          True

        Raises:
          ConfigError: If the model has no `features.py`, or that has no `RAW_FEATURES`.
        """
        package = model_package(config.model)
        try:
            raw_features = tuple(importlib.import_module(f"{package}.features").RAW_FEATURES)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"model = {config.model!r}: {error}") from error
        return cls(
            package=package,
            label=config.label,
            weight=config.weight,
            prediction=config.prediction,
            time_column=config.data.time_column,
            slices=config.slices,
            raw_features=raw_features,
        )

    @property
    def custom_config(self) -> dict[str, str]:
        """The part of the configuration that the model's functions get."""
        return {
            "label": self.label,
            "weight": self.weight,
            "prediction": self.prediction,
            "time_column": self.time_column,
        }

    @property
    def features(self) -> str:
        """Import path of the module that names the features of a request."""
        return f"{self.package}.features"

    @property
    def preprocessing_fn(self) -> str:
        """Import path of Transform's function."""
        return f"{self.package}.preprocessing.preprocessing_fn"

    @property
    def run_fn(self) -> str:
        """Import path of Trainer's function."""
        return f"{self.package}.network.run_fn"

    @property
    def save_fn(self) -> str:
        """Import path of the function that saves a network with its serving signatures."""
        return f"{self.package}.export.save_model"

    @property
    def baseline(self) -> str:
        """Import path of the function that computes the baseline's AUC."""
        return f"{self.package}.baseline.baseline_auc"

    @property
    def functions(self) -> tuple[str, ...]:
        """Import paths of all functions of the model that nodes run."""
        return (self.preprocessing_fn, self.run_fn, self.save_fn)
