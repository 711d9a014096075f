"""Tests that clients of other platforms are imported when they are used, not with TFX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]

SCRIPT = """
import inspect, sys, threading
import ml
from tfx import v1 as tfx
import kubernetes

clients = ("google.cloud.aiplatform", "kubernetes.dynamic.client")
print(*(name in sys.modules for name in clients))

inspect.getmodule(compile("0", "nowhere", "exec"))  # Asks each module for its file.
assert not hasattr(tfx.extensions, "__wrapped__")
print(*(name in sys.modules for name in clients))

found = []
threads = [
    threading.Thread(target=lambda: found.append(tfx.extensions.google_cloud_ai_platform))
    for _ in range(4)
]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(*{module.Trainer.__name__ for module in found}, len(found))
print(kubernetes.dynamic.DynamicClient.__name__)
print(*(name in sys.modules for name in clients))

try:
    tfx.extensions.no_such_name
except AttributeError as error:
    print(error)
print(hasattr(tfx.extensions, "no_such_name"), ml.postponed_imports.postpone())
"""


def test_clients_are_imported_when_they_are_used_and_not_when_a_module_is_looked_at() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=PROJECT, capture_output=True, text=True, check=False
    )

    assert done.stdout.splitlines() == [
        "False False",
        "False False",
        "Trainer 4",
        "DynamicClient",
        "True True",
        "module 'tfx.v1.extensions' has no attribute 'no_such_name'",
        "False None",
    ], done.stderr[-2000:]
