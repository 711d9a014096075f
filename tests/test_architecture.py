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
# What each folder may import of the project, besides itself. Benchmarks may import anything.
ALLOWED: dict[str, tuple[str, ...]] = {
    "storage": (),
    "terminal": (),
    "ml": ("storage",),
    "models": ("ml", "storage"),
    "data": (),
    "examples": (),
    "cloud": ("storage",),
    # A row has the same explanation from a server and in a table; the module is numpy alone.
    "serving": ("cloud", "storage", "terminal", "ml.permutation_shap"),
    "components": ("ml", "storage"),
    "report": ("ml", "storage"),
    # It imports a model by the name of its folder, see `pipeline.model`.
    "pipeline": ("components", "ml", "cloud", "storage"),
    "orchestration": ("pipeline", "components", "report", "ml", "cloud", "storage", "terminal"),
}
FOLDERS = tuple(ALLOWED)
RUNNERS = ("local_runner", "kubeflow_runner")
OF_RUNNERS = ("orchestration", "ml", "terminal")

# By what the worked example is told, in brackets so that this file does not hold it. The project is
# called Flightdeck, and a data package of the example has to be installed by its name.
EXAMPLE = re.compile(
    r"(?<!nyc)fligh[t](?!deck)|carrie[r]|airpor[t]|departur[e]|\blat[e]\b", re.IGNORECASE
)
# Where models have their own words, and where people read of the example.
OF_MODELS = ("models/", "data/", "schema/", "tests/models/")
OF_PEOPLE = ("docs/", "benchmarks/", "README.md", "CHANGELOG.md")
# Compiled, among others from the requirements of a model's data, which its comments name.
COMPILED = ("requirements/",)


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


def violations(paths: list[Path], allowed: tuple[str, ...]) -> list[str]:
    """Imports of the project that modules may not have."""
    project = (*FOLDERS, "benchmarks", "tests", *RUNNERS)
    return [
        f"{path.relative_to(PROJECT)}:{line} imports {name}"
        for path in paths
        for line, name in imports(path, path.read_text(encoding="utf-8"))
        if name.partition(".")[0] in project and not any(is_in(name, module) for module in allowed)
    ]


def tracked() -> list[str]:
    """The files of the project: those that git knows, or all where there is no history."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    names = done.stdout.splitlines()
    if not names:
        tops = [path for path in PROJECT.iterdir() if not path.name.startswith((".", "output"))]
        paths = [path for top in tops for path in (top, *top.rglob("*"))]
        names = [str(path.relative_to(PROJECT)) for path in paths if path.suffix != ".pyc"]
    return [name for name in names if (PROJECT / name).is_file()]


def test_imports_finds_every_way_of_importing() -> None:
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
    assert violations(modules(folder), (folder, *ALLOWED[folder])) == []


@pytest.mark.parametrize("runner", RUNNERS)
def test_runner_is_short_and_imports_commands_alone(runner: str) -> None:
    path = PROJECT / f"{runner}.py"
    assert violations([path], OF_RUNNERS) == []
    assert len(path.read_text(encoding="utf-8").splitlines()) < 100


def test_architecture_tests_of_the_engine_import_nothing_of_a_model_or_its_data() -> None:
    engine = [path for path in modules("tests") if "models" not in path.relative_to(PROJECT).parts]
    own = {path.relative_to(PROJECT).parts[1].removesuffix(".py") for path in engine}
    allowed = {*FOLDERS, "benchmarks", *RUNNERS, *(f"tests.{name}" for name in own)}
    assert violations(engine, tuple(allowed - {"models", "data"})) == []


def test_what_serving_shares_with_ml_imports_numpy_alone() -> None:
    path = PROJECT / "ml" / "permutation_shap.py"
    found = {name.partition(".")[0] for _, name in imports(path, path.read_text(encoding="utf-8"))}
    assert found - set(sys.stdlib_module_names) - {"__future__"} == {"numpy"}


@pytest.mark.parametrize("folder", ["storage", "terminal", "cloud", "serving"])
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


def test_parquet_files_are_opened_in_one_place() -> None:
    everywhere = [*PROJECT.glob("*.py"), *modules("benchmarks")]
    everywhere += [path for folder in FOLDERS for path in modules(folder)]
    # A script that makes the data of a model reads the files of their source.
    doors = [PROJECT / "storage/parquet.py", *PROJECT.glob("data/*/make*.py")]
    opens = [line for path in everywhere if path not in doors for line in readers(path)]
    assert opens == []
    for path in doors:
        if path.parts[-3] == "data" and not list(readers(path)):
            continue  # It makes text.
        assert list(readers(path))
        names = [name for _, name in imports(path, path.read_text(encoding="utf-8"))]
        assert "pyarrow_hotfix" in names


UNPICKLING = ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")


def test_product_code_unpickles_nothing() -> None:
    found = [
        f"{path.relative_to(PROJECT)}:{line} imports {name}"
        for path in [p for folder in FOLDERS for p in modules(folder)]
        for line, name in imports(path, path.read_text(encoding="utf-8"))
        if any(is_in(name, module) for module in UNPICKLING)
    ]
    assert found == []


def test_engine_holds_no_word_of_the_example() -> None:
    """Of any file: code, YAML, TOML, shell scripts, and their names."""
    outside = (*OF_MODELS, *OF_PEOPLE, *COMPILED)
    generic = [name for name in tracked() if not name.startswith(outside)]
    found = [name for name in generic if EXAMPLE.search(name)]
    for name in generic:
        try:
            text = (PROJECT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if EXAMPLE.search(line):
                found.append(f"{name}:{number}: {line.strip()}")
    assert found == []


@pytest.mark.parametrize("module", ["storage.spans", "storage.directory"])
def test_module_for_scheduler_and_server_imports_neither_tensorflow_nor_tfx(
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
def test_command_line_is_under_100_lines_and_calls_command_modules(name: str) -> None:
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


def test_product_file_has_at_most_400_lines_or_says_why() -> None:
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
def test_node_that_handles_versions_imports_nothing_of_the_server(node: str) -> None:
    files = ImportClosure(PROJECT).files([node])
    found = sorted(str(path.relative_to(PROJECT)) for path in files)
    assert f"{node.replace('.', '/')}.py" in found
    assert [path for path in found if path.startswith(("serving/", "components/serving"))] == []
