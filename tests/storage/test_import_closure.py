"""Tests of which files a module is found to run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from storage.errors import UserError
from storage.import_closure import ImportClosure

PROJECT = Path(__file__).parents[2]

FILES = {
    "engine/__init__.py": "",
    "engine/node.py": "from engine import helper\nimport os",
    "engine/helper.py": "def later():\n    from other.deep.leaf import thing",
    "engine/unused.py": "import engine.node",
    "engine/typed.py": "import typing\nif typing.TYPE_CHECKING:\n    import engine.node",
    "engine/untyped.py": "if not TYPE_CHECKING:\n    import engine.node",
    "engine/relative.py": "from . import helper\nfrom ..other import deep",
    "engine/named.py": 'FUNCTION = "other.deep.leaf.thing"',
    "engine/command.py": 'COMMAND = [sys.executable, "-m", "server", "serve"]',
    "engine/words.py": '"""Of engine.node."""\nWORD = "engine"\nTEXT = "see engine.node, please"',
    "other/__init__.py": "import other.first",
    "other/first.py": "",
    "other/deep/__init__.py": "",
    "other/deep/leaf.py": "import other.deep.ring",
    "other/deep/ring.py": "import other.deep.leaf",
    "server/__main__.py": "import server.app",
    "server/app.py": "",
}
LEAF = {
    "other/__init__.py",
    "other/first.py",
    "other/deep/__init__.py",
    "other/deep/leaf.py",
    "other/deep/ring.py",
}
NODE = {"engine/__init__.py", "engine/node.py", "engine/helper.py", *LEAF}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, source in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


def closure(root: Path, *names: str) -> set[str]:
    return {str(path.relative_to(root)) for path in ImportClosure(root).files(names)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("engine.node", NODE),
        ("engine.node.Node", NODE),
        ("engine.typed", {"engine/__init__.py", "engine/typed.py"}),
        ("engine.untyped", {"engine/untyped.py", *NODE}),
        ("engine.words", {"engine/__init__.py", "engine/words.py"}),
        ("engine.named", {"engine/__init__.py", "engine/named.py", *LEAF}),
        (
            "engine.command",
            {"engine/__init__.py", "engine/command.py", "server/__main__.py", "server/app.py"},
        ),
        (
            "engine.relative",
            {"engine/__init__.py", "engine/relative.py", "engine/helper.py", *LEAF},
        ),
        ("tensorflow.keras", set()),
    ],
)
def test_import_closure_holds_all_that_runs_and_nothing_else(
    root: Path, name: str, expected: set[str]
) -> None:
    assert closure(root, name) == expected


def test_import_closure_refuses_a_file_that_is_not_python(root: Path) -> None:
    (root / "engine" / "helper.py").write_text("def")
    with pytest.raises(UserError, match=r"helper\.py is not Python"):
        closure(root, "engine.node")


def test_import_closure_of_a_node_leaves_out_what_it_does_not_import() -> None:
    pruner = closure(PROJECT, "components.pruner.component.Pruner_Executor")
    assert "ml/networks.py" in pruner
    assert (
        not {
            "components/serving_monitor/page.py",
            "storage/signing.py",
            "tests/trips/network.py",
        }
        & pruner
    )
    validator = closure(PROJECT, "components.serving_validator.component")
    assert "serving/server/app.py" in validator


def test_import_closure_agrees_with_what_python_imports() -> None:
    script = "import sys, orchestration.schedule.schedule; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    packages = ("components", "orchestration", "serving", "pipeline")
    loaded = {name for name in done.stdout.split() if name.partition(".")[0] in packages}
    found = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in closure(PROJECT, "orchestration.schedule.schedule")
    }
    assert loaded <= found
