"""The interface between the pipeline and a model.

A model is a folder, `models/<name>/`:

  - `config.toml`: the model's settings, with the keys of `pipeline.config.Config`.
  - `preprocessing.py`: `preprocessing_fn(inputs, custom_config)`.
  - `network.py`: `run_fn(fn_args)`; `Learning(**fn_args.custom_config)` are its settings.
  - `card.md`: what people should know about it.

`custom_config` is `Model.custom_config`; a function may omit this parameter.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass
from typing import Any

from ml.tasks import Task
from pipeline.config import Config
from pipeline.layers import ConfigError
from pipeline.model_folders import model_package

# Import path of the function that saves a network with its serving signatures.
SAVE_FN = "ml.export.save_model"


@dataclass(frozen=True)
class Model:
    """The facts about a model that nodes need.

    Attributes:
      package: The package of its functions.
      task: What it predicts.
      prediction: Output of the model.
      time_column: Timestamp column that orders rows; "" for none.
      slices: Features by whose values the model is evaluated.
      raw_features: Features of a request.
    """

    package: str
    task: Task
    prediction: str
    time_column: str
    slices: tuple[str, ...]
    raw_features: tuple[str, ...]

    @classmethod
    def load(cls, config: Config) -> Model:
        """Takes the facts from the configuration.

        Example:
          >>> from pipeline.config import load_config
          >>> Model.load(load_config()).run_fn.endswith(".network.run_fn")
          True

        Raises:
          ConfigError: If the folder lacks a module.
        """
        package = model_package(config.model)
        for module in ("preprocessing", "network"):
            if importlib.util.find_spec(f"{package}.{module}") is None:
                raise ConfigError(f"model = {config.model!r}: it has no {module}.py")
        return cls(
            package=package,
            task=config.make_task(),
            prediction=config.prediction,
            time_column=config.data.time_column,
            slices=config.slices,
            raw_features=config.features,
        )

    @property
    def custom_config(self) -> dict[str, Any]:
        """The part of the configuration that the model's functions get, for JSON.

        `Task.from_config` reads its task.
        """
        return dataclasses.asdict(self.task) | {
            "features": self.raw_features,
            "prediction": self.prediction,
            "time_column": self.time_column,
        }

    @property
    def preprocessing_fn(self) -> str:
        """Import path of Transform's function."""
        return f"{self.package}.preprocessing.preprocessing_fn"

    @property
    def run_fn(self) -> str:
        """Import path of Trainer's function."""
        return f"{self.package}.network.run_fn"

    @property
    def functions(self) -> tuple[str, ...]:
        """Import paths of all functions of the model that nodes run."""
        return (self.preprocessing_fn, self.run_fn)
