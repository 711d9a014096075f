"""The examples of examples/edge, run as its README says; `make test-edge`.

What an example is made with (Node, a JDK, a compiler) may be missing; its tests are then skipped.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import PROJECT
from tests.edge.conftest import Deployed, Rows, write_rows
from tests.programs import find_browser, skip_without

EXAMPLES = PROJECT / "examples" / "edge"
README = (EXAMPLES / "README.md").read_text(encoding="utf-8")
# The sections of the README whose block ends with a prediction, and the programs it calls.
TOOLS = {
    "Python": ("python3",),
    "Node": ("node", "npm"),
    "Java": ("java", "mvn"),
    "C++": ("g++", "mvn", "unzip"),
}
JSON_HEADER = "#include <nlohmann/json.hpp>"


@dataclass(frozen=True)
class Example:
    """An example that is installed.

    Attributes:
      root: A copy of examples/edge.
      run_command: The last line of its block in the README.
      folder: Where that is run, below `root`.
    """

    root: Path
    run_command: str
    folder: str

    def run(self, model: Path, rows: object) -> subprocess.CompletedProcess[str]:
        """Runs it with a model and rows in the places that the README names."""
        shutil.copy(model, self.root / "model.tflite")
        write_rows(self.root / "rows.json", rows)
        return shell(self.run_command, self.root / self.folder)

    def predict(self, model: Path, rows: Rows) -> np.ndarray:
        """Its predictions, [rows, outputs]."""
        done = self.run(model, rows)
        assert done.returncode == 0, done.stderr
        return as_array(done.stdout)


def as_array(printed: str) -> np.ndarray:
    """Predictions as an example prints them: a list of objects with one output."""
    return np.array([next(iter(row.values())) for row in json.loads(printed)])


def shell(commands: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs lines of the README. `python3` is the Python of the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def block(section: str) -> list[str]:
    """The commands in a section of the README."""
    found = re.search(
        rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE
    )
    assert found, section
    (commands,) = re.findall(r"```sh\n(.*?)```", found[1], re.DOTALL)
    lines: list[str] = commands.splitlines()
    return lines


@functools.cache
def has_json_header() -> bool:
    command = ["g++", "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    return subprocess.run(command, input=JSON_HEADER.encode(), check=False).returncode == 0


def copy_examples(folder: Path) -> Path:
    """The files of the examples, without what a person installed there."""
    ignore = shutil.ignore_patterns("node_modules", "lib", "venv", "predict", "__pycache__")
    return Path(shutil.copytree(EXAMPLES, folder / "edge", ignore=ignore))


@pytest.fixture(scope="module", params=TOOLS)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    """An example, installed by all lines of its block but the last."""
    skip_without(*TOOLS[request.param])
    if request.param == "C++" and not has_json_header():
        pytest.skip("nlohmann/json.hpp: not installed")
    root = copy_examples(tmp_path_factory.mktemp("example"))
    *install, run_command = block(request.param)
    done = shell("\n".join(install), root)
    assert done.returncode == 0, done.stderr
    return Example(root, run_command, install[0].removeprefix("cd "))


def test_example_predicts_a_pushed_model_as_tensorflow(example: Example, trips: Deployed) -> None:
    predictions = example.predict(trips.tflite, trips.rows)
    np.testing.assert_allclose(predictions, trips.expected, atol=trips.tolerance)
    assert predictions.std() > 0.02


def test_example_predicts_vectors_and_odd_names_as_tensorflow(
    example: Example, odd: Deployed
) -> None:
    predictions = example.predict(odd.tflite, odd.rows)
    np.testing.assert_allclose(predictions, odd.expected, atol=odd.tolerance)
    assert predictions.std() > 0.02


def test_example_predicts_no_rows(example: Example, trips: Deployed) -> None:
    assert json.loads(example.run(trips.tflite, []).stdout) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compny": "B6"}, "compny"),
        ({"day_of_week": None}, "day_of_week"),
        ({"day_of_week": 1.5}, "day_of_week"),
        ({"temp": "cold"}, "temp"),
        ({"company": 6}, "company"),
        ({"dest": ["BOS", "LAX"]}, "dest"),
    ],
)
def test_example_refuses_a_row_that_the_model_cannot_take(
    example: Example, trips: Deployed, change: dict[str, object], message: str
) -> None:
    done = example.run(trips.tflite, [trips.rows[0], trips.rows[0] | change])
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.search(rf"^row 1: .*{message}", done.stderr, re.MULTILINE), done.stderr


def test_example_in_python_needs_no_tensorflow(trips: Deployed, tmp_path: Path) -> None:
    root = copy_examples(tmp_path)
    *install, run_command = block("Python")
    done = shell("\n".join(install), root)
    assert done.returncode == 0, done.stderr
    predictions = Example(root, run_command, "python").predict(trips.tflite, trips.rows)
    np.testing.assert_allclose(predictions, trips.expected, atol=trips.tolerance)
    installed = {path.name for path in root.glob("python/venv/lib/*/site-packages/*")}
    assert "ai_edge_litert" in installed
    assert "tensorflow" not in installed


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """The URL of the page, served as the README says."""
    skip_without("node", "npm")
    root = copy_examples(tmp_path)
    *install, serve = block("Browser")
    assert "http.server" in serve
    done = shell("\n".join(install), root)
    assert done.returncode == 0, done.stderr
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(root / "javascript")
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()


def test_example_predicts_in_a_browser_as_tensorflow(
    page: str, trips: Deployed, tmp_path: Path
) -> None:
    browser = find_browser()
    driver = Path(shutil.copytree(Path(__file__).parent, tmp_path / "driver"))
    rows = tmp_path / "rows.json"
    write_rows(rows, trips.rows)
    arguments = ["browser.mjs", browser, page, str(trips.tflite), str(rows)]
    subprocess.run(["npm", "ci", "--silent"], cwd=driver, check=True, timeout=300)
    done = subprocess.run(
        ["node", *arguments], cwd=driver, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(as_array(done.stdout), trips.expected, atol=trips.tolerance)
