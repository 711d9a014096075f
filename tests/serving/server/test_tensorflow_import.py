"""Tests that a server imports no more of TensorFlow than its models need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[3]

PRELUDE = """
import sys, threading
from serving.tensorflow_import import import_protocol, import_tensorflow
import_protocol()
import serving.server.app
from serving.server.models import load_model
from serving.server.warmup import warm_up
def load(folder, prefer_tflite):
    model = load_model(folder, prefer_tflite=prefer_tflite, concurrency=1)
    warm_up(model, folder, threading.Event())
    return type(model).__name__
"""


def run(program: str, *arguments: object) -> list[str]:
    """What a program prints in a new process."""
    result = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, *map(str, arguments)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_server_of_a_tflite_model_does_without_tensorflow_itself(toys: Path) -> None:
    program = """
print(load(sys.argv[1], True), "tensorflow.python" in sys.modules)
"""
    assert run(program, toys / "toy" / "2") == ["TFLiteModel False"]


def test_server_imports_tensorflow_for_a_version_without_a_tflite_model(toys: Path) -> None:
    program = """
from tensorflow.core.example import example_pb2
print(load(sys.argv[1], True), load(sys.argv[1], False))
import tensorflow
print(tensorflow is import_tensorflow(), tensorflow.train.Example is example_pb2.Example)
print("keras" in sys.modules or "tf_keras" in sys.modules)
"""
    assert run(program, toys / "toy" / "2") == ["TFLiteModel SavedModel", "True True", "False"]


def test_import_protocol_leaves_tensorflow_alone_where_it_is_imported() -> None:
    program = """
import_tensorflow()
import_protocol()
import tensorflow
print(hasattr(tensorflow, "constant"))
"""
    assert run(program) == ["True"]
