"""Tests that TensorFlow takes tf_keras, by whatever door a process comes in."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.test_architecture import FOLDERS, PROJECT, modules

# Prints what a module has set when it, or what it imports, first imports TensorFlow.
SCRIPT = """
import importlib, os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("keras", "tensorflow", "tf_keras"):
            print(os.environ.get("TF_USE_LEGACY_KERAS"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
print(os.environ.get("TF_USE_LEGACY_KERAS"))
"""


@pytest.mark.parametrize(
    "door",
    [
        "local_runner",
        "kubeflow_runner",
        "orchestration.kubeflow.entrypoint",
        "orchestration.local.node_process",
        "pipeline.pipeline",
        "components.pruner.component",
        "components.transform",
        "components.evaluator.extraction",
        "ml.networks",
        "benchmarks.compression",
        "benchmarks.stock_pipeline",
        "tests.components.small_model",
    ],
)
def test_keras_is_chosen_before_tensorflow_is_imported(door: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, door],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout == "1\n", done.stderr


def test_keras_is_chosen_in_one_place() -> None:
    files = [path for folder in (*FOLDERS, "benchmarks") for path in modules(folder)]
    files += [path for path in PROJECT.iterdir() if path.is_file()]
    says = [path for path in files if "TF_USE_LEGACY_KERAS" in path.read_text(errors="ignore")]
    assert says == [PROJECT / "ml" / "__init__.py"]


def test_skip_autograph_leaves_libraries_alone_and_converts_the_code_of_a_model() -> None:
    import tensorflow_model_optimization as tfmot
    import tensorflow_transform as tft
    import tf_keras
    from tensorflow.python.autograph.core import config
    from tensorflow.python.autograph.impl.conversion import is_allowlisted

    from ml.keras_setup import skip_autograph_of_libraries
    from tests.trips.preprocessing import preprocessing_fn

    skip_autograph_of_libraries()
    found = config.CONVERSION_RULES
    skip_autograph_of_libraries()
    assert found == config.CONVERSION_RULES
    assert is_allowlisted(tf_keras.layers.Dense.call)
    assert is_allowlisted(tft.TransformFeaturesLayer.call)
    assert is_allowlisted(tfmot.sparsity.keras.PruningSchedule.__call__)
    assert not is_allowlisted(preprocessing_fn)
