"""Tests that each folder imports only what its place in the design allows (docs: the rooms)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.import_closure import ImportClosure

PROJECT = Path(__file__).parents[1]
# What each folder may import of the project, besides itself; the runners may import anything.
ALLOWED: dict[str, tuple[str, ...]] = {
    "storage": (),
    "terminal": (),
    "ml": ("storage",),
    "models": ("ml", "storage"),
    "serving": ("storage", "terminal"),
    "components": ("ml", "storage"),
    # It imports a model by the name of its folder, see `pipeline.model`.
    "pipeline": ("components", "ml", "storage"),
    "orchestration": ("pipeline", "components", "ml", "storage", "terminal"),
}
FOLDERS = tuple(ALLOWED)
RUNNERS = ("local_runner", "kubeflow_runner")

# What the names of the worked example are told by; the project itself is called Flightdeck.
EXAMPLE = re.compile(r"flight(?!deck)|carrier|airport|departure", re.IGNORECASE)


def modules(folder: str) -> list[Path]:
    found = sorted((PROJECT / folder).rglob("*.py"))
    assert found, f"{folder} holds no module"
    return found


def imports(path: Path, source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of whatever a module imports, at its top or inside a function."""
    package = path.relative_to(PROJECT).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            parts = (*base, *([node.module] if node.module else []))
            yield from ((node.lineno, ".".join((*parts, alias.name))) for alias in node.names)


def is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def violations(folder: str) -> list[str]:
    """Imports of the project that a folder may not have."""
    project = (*FOLDERS, "data", "benchmarks", "tests", *RUNNERS)
    return [
        f"{path.relative_to(PROJECT)}:{line} imports {name}"
        for path in modules(folder)
        for line, name in imports(path, path.read_text(encoding="utf-8"))
        if name.partition(".")[0] in project
        and not any(is_in(name, module) for module in (folder, *ALLOWED[folder]))
    ]


def test_imports_are_found_wherever_and_however_they_are_written() -> None:
    source = """
import a, b.c as d
from e.f import g
from . import h
from .i import j
from ..k import l
def function():
    from m import n
"""
    found = [name for _, name in imports(PROJECT / "x" / "y" / "z.py", source)]
    assert found == ["a", "b.c", "e.f.g", "x.y.h", "x.y.i.j", "x.k.l", "m.n"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_imports_only_what_its_floor_allows(folder: str) -> None:
    assert violations(folder) == []


@pytest.mark.parametrize("folder", ["storage", "terminal", "serving"])
def test_folder_for_serving_imports_nothing_of_tfx(folder: str) -> None:
    found = [
        f"{path.relative_to(PROJECT)}:{line} imports {name}"
        for path in modules(folder)
        for line, name in imports(path, path.read_text(encoding="utf-8"))
        if any(is_in(name, module) for module in ("tfx", "tensorflow_transform"))
    ]
    assert found == []


# What pyarrow and pandas have to read files in which columns may be of any type.
READERS = ("dataset", "feather", "ipc", "orc", "parquet")
CALLS = {f"read_{reader}" for reader in (*READERS, "hdf", "pickle")} | {"deserialize", *READERS}


def readers(path: Path) -> Iterator[str]:
    """Where a module reads such files, but by `storage.parquet`."""
    source = path.read_text(encoding="utf-8")
    for line, name in imports(path, source):
        if any(is_in(name, f"pyarrow.{reader}") for reader in READERS):
            yield f"{path.relative_to(PROJECT)}:{line} imports {name}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in CALLS:
            text = ast.unparse(node)
            if text.partition(".")[0] in ("pa", "pyarrow", "pd", "pandas"):
                yield f"{path.relative_to(PROJECT)}:{node.lineno} has {text}"


def test_files_that_could_run_code_are_opened_in_one_place_alone() -> None:
    everywhere = [*PROJECT.glob("*.py"), *modules("benchmarks"), *modules("data")]
    everywhere += [path for folder in FOLDERS for path in modules(folder)]
    found = [line for path in everywhere for line in readers(path)]
    doors = ("storage/parquet.py", "data/flights/make_spans.py")
    opens = [line for line in found if not line.startswith(doors)]
    assert opens == []
    assert len(found) >= 2
    for path in (PROJECT / door for door in doors):
        names = [name for _, name in imports(path, path.read_text(encoding="utf-8"))]
        assert "pyarrow_hotfix" in names


UNPICKLING = ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")


def test_nothing_unpickles_what_another_process_could_have_written() -> None:
    found = [
        f"{path.relative_to(PROJECT)}:{line} imports {name}"
        for path in [p for folder in FOLDERS for p in modules(folder)]
        for line, name in imports(path, path.read_text(encoding="utf-8"))
        if any(is_in(name, module) for module in UNPICKLING)
    ]
    assert found == []


# What the engine is made of, besides modules; requirements/ has the names of packages.
ENGINE_FILES = (
    "Containerfile",
    "Makefile",
    "pyproject.toml",
    "setup.py",
    ".ci/run",
    ".dockerignore",
)


@pytest.mark.parametrize("folder", [*(f for f in FOLDERS if f != "models"), "."])
def test_engine_holds_no_word_of_the_example(folder: str) -> None:
    root = PROJECT / folder
    if folder == ".":
        files = [*(PROJECT / name for name in ENGINE_FILES), *PROJECT.glob("*_runner.py")]
    else:
        files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.suffix != ".pyc"]
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if EXAMPLE.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("module", ["storage.spans", "storage.directory"])
def test_what_a_scheduler_or_a_server_imports_brings_neither_tensorflow_nor_tfx(
    module: str,
) -> None:
    script = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not {"tensorflow", "tfx", "tensorflow_transform", "apache_beam", "keras"} & loaded


@pytest.mark.parametrize("name", ["local_runner.py", "serving/__main__.py"])
def test_command_line_hands_over_to_command_modules_in_fewer_than_100_lines(name: str) -> None:
    path = PROJECT / name
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 100
    project = [n for _, n in imports(path, source) if n.partition(".")[0] in FOLDERS]
    assert any(".commands." in n for n in project)
    helpers = ("orchestration.local.proxies", "terminal.streams")
    assert [n for n in project if ".commands." not in n and not n.startswith(helpers)] == []


LONGEST = 400
# Says in the docstring of a longer file why it is one thing.
ONE_FILE = "One file because"


def test_product_files_have_at_most_400_lines_or_say_why_they_are_one_thing() -> None:
    paths = [*PROJECT.glob("*.py"), *(path for folder in FOLDERS for path in modules(folder))]
    sources = {str(p.relative_to(PROJECT)): p.read_text(encoding="utf-8") for p in paths}
    long = {
        name
        for name, source in sources.items()
        if len(source.splitlines()) > LONGEST
        and ONE_FILE not in (ast.get_docstring(ast.parse(source)) or "")
    }
    assert sorted(long) == []


@pytest.mark.parametrize("node", ["components.pusher", "components.served_model"])
def test_node_that_handles_versions_depends_on_nothing_of_the_server(node: str) -> None:
    files = ImportClosure(PROJECT).files([node])
    found = sorted(str(path.relative_to(PROJECT)) for path in files)
    assert f"{node.replace('.', '/')}.py" in found
    assert [path for path in found if path.startswith(("serving/", "components/serving"))] == []
