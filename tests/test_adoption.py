"""Tests that the engine's tests are green for a team that has another model and other data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.model_folders import MODEL_VARIABLE
from tests.conftest import PROJECT, TRIPS
from tests.test_architecture import OF_MODELS, tracked

# Of all that is collected: quick tests of each room that reads a model, its data or its schema.
CHOSEN = (
    "test_model.py",
    "test_config.py and (default or file or keys)",
    "test_cache_keys.py",
    "test_architecture.py and (floor or tests_of_the_engine)",
    "test_data_gate.py and category",
    "test_span_example_gen.py and (null or months_outside)",
    "test_kubeflow_compile.py and (volume or buckets)",
    "test_tfx_internals.py and serving_directory",
)


@pytest.fixture
def adopted(tmp_path: Path) -> Path:
    """A copy of the project whose only model is a toy; nothing else is changed."""
    root = tmp_path / "project"
    packages = [name for name in OF_MODELS if (PROJECT / name / "__init__.py").is_file()]
    for name in tracked():
        if not name.startswith(OF_MODELS) or name.removesuffix("__init__.py") in packages:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, root / name)
    ignored = shutil.ignore_patterns("data", "schema", "__pycache__")
    toy = root / "models" / "toy"
    shutil.copytree(TRIPS.parent, toy, ignore=ignored)
    # Two models of one name in the Serving directory are refused.
    settings = (toy / "config.toml").read_text().replace('"trip_delay"', '"toy_delay"')
    (toy / "config.toml").write_text(settings)
    return root


def test_tests_of_the_engine_are_green_with_another_model_alone(
    adopted: Path, tmp_path: Path
) -> None:
    """All of them are collected, and some of them run; the toy is the model of commands."""
    chosen = " or ".join(f"({expression})" for expression in CHOSEN)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "t")]
    environment = {name: text for name, text in os.environ.items() if "PYTEST" not in name}
    done = subprocess.run(
        [sys.executable, *command, "-k", chosen],
        cwd=adopted,
        env={**environment, "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    script = (
        "from pipeline import config, model; print(model.Model.load(config.load_config()).run_fn)"
    )
    del environment[MODEL_VARIABLE]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=adopted, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "models.toy.network.run_fn\n", done.stderr
