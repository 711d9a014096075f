"""The executor of Trainer: the stock one, with separate parameters for settings."""

from typing import Any

from tfx import types
from tfx.components.trainer.executor import GenericExecutor
from tfx.types.standard_component_specs import CUSTOM_CONFIG_KEY, HYPERPARAMETERS_KEY
from tfx.utils import json_utils

from ml import hyperparameters
from ml.effort import Stopwatch

SETTING = "setting_"


class Executor(GenericExecutor):
    """Passes the settings to `run_fn` in its `custom_config`; those that Tuner found come first."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Runs the stock Trainer."""
        stopwatch = Stopwatch("Trainer")
        settings = {
            name.removeprefix(SETTING): value
            for name, value in exec_properties.items()
            if name.startswith(SETTING)
        }
        given = json_utils.loads(exec_properties.get(CUSTOM_CONFIG_KEY) or "{}") or {}
        custom_config = given | settings
        for artifact in input_dict.get(HYPERPARAMETERS_KEY, ()):
            custom_config = hyperparameters.apply(custom_config, hyperparameters.read(artifact))
        properties = {**exec_properties, CUSTOM_CONFIG_KEY: json_utils.dumps(custom_config)}
        super().Do(input_dict, output_dict, properties)
        stopwatch.stop(output_dict["model_run"][0])
