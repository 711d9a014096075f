"""What tests of several folders share: small spans of real trips, and the command line."""

from __future__ import annotations

import gc
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import absl.logging  # noqa: F401  Its handler keeps the standard error of this moment.
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow_hotfix  # noqa: F401  See storage/parquet.py.
import pytest
from filelock import FileLock
from hypothesis import settings

from pipeline.model_folders import MODEL_VARIABLE
from tests import forked

PROJECT = Path(__file__).parents[1]
TRIPS = PROJECT / "tests" / "trips" / "data"
# The engine is tested with a model of its own, so that its tests pass whatever `models/` holds.
os.environ[MODEL_VARIABLE] = "tests.trips"


# Few examples in `make test`; for a person who hunts, HYPOTHESIS_PROFILE=hunt tries many.
settings.register_profile("few", max_examples=25, deadline=None, print_blob=True)
settings.register_profile("hunt", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))


def pytest_configure() -> None:
    # A shell starts its background jobs with Ctrl-C ignored, and all that the tests start would
    # inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _refuse_to_end()
    # What the tests import stays: looking through it for garbage takes a second each time.
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def _refuse_to_end() -> None:
    """Fails a test that would end the tests' own process, with a status that is not theirs."""
    process, end = os.getpid(), os._exit

    def end_other_process(status: int) -> None:
        # Another thread is that by which pytest-xdist ends a worker that hangs.
        if os.getpid() == process and threading.current_thread() is threading.main_thread():
            pytest.fail(f"os._exit({status}) in the process of the tests: start a process for it")
        end(status)

    os._exit = end_other_process  # type: ignore[assignment]


# Files that take a minute or more, longest first.
LONGEST = (
    *("test_small_models", "test_local_run", "test_killed_runs", "test_beam_runners"),
    *("test_data_gate", "test_transform", "test_reproduce", "test_kubeflow_run"),
    *("test_generated_models", "test_adoption", "test_quantizer", "test_evaluator_columns"),
    *("test_serving_validator", "test_compressed_regression", "test_odd_surroundings"),
    *("test_pruner", "test_local_dag_runner"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has the longest files go first: with several processes, one would finish last, alone."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    if "tensorflow" in sys.modules:  # As the nodes do that train.
        from ml.keras_setup import skip_autograph_of_libraries

        skip_autograph_of_libraries()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names a test by no bytes but text: gzip writes the time, and protobuf maps as they come.

    The processes of pytest-xdist find the tests each for itself, and refuse to run different ones.
    """
    if isinstance(val, bytes) and not (val.isascii() and val.decode().isprintable()):
        return argname
    return None


@dataclass(frozen=True)
class Cli:
    """Runs `local_runner.py` on one data and one output directory, as a person would."""

    data: Path
    output: Path

    def command(self, *arguments: str, command: str = "run") -> list[str]:
        return [
            *(sys.executable, str(PROJECT / "local_runner.py"), command),
            *("--output", str(self.output), "--set", f"data.uri={self.data}"),
            *("--set", "training.epochs=2", "--set", "evaluation.thresholds.auc=0.5"),
            *("--set", "evaluation.slice_thresholds.auc=0.4", "--set", "evaluation.max_loss=0.5"),
            *("--set", "compression.max_loss=0.5", "--set", "compression.max_slice_loss=1"),
            *("--set", "training.batch_size=256"),
            *arguments,
        ]

    @property
    def directory(self) -> Path:
        """The directory of the runs of the tests' model."""
        return self.output / "models" / "tests.trips"

    def run(self, *arguments: str, command: str = "run") -> subprocess.CompletedProcess[str]:
        """Runs it in a process that has TFX imported."""
        return forked.run(self.command(*arguments, command=command)[1:])

    def versions(self) -> list[Path]:
        """The versions in the Serving directory, oldest first."""
        model = self.output / "serving_model" / "trip_delay"
        return sorted(path for path in model.glob("*") if path.name.isdigit())


def write_span(root: Path, month: int, table: pa.Table) -> Path:
    """Writes one span and returns its Parquet file."""
    path = root / f"span-{month}" / "trips.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=500)
    return path


def read_month(month: int) -> pa.Table:
    """About 5,000 rows of a real month."""
    return pq.read_table(TRIPS / f"span-{month}" / "trips.parquet")


def seconds_of(times: pd.Series) -> pd.Series:
    """Seconds since 1970 of times of any unit: pandas 2 keeps that of a file."""
    return times.astype("datetime64[ns, UTC]").astype("int64") // 10**9


def thin(table: pa.Table, rows: int) -> pa.Table:
    """About so many rows of a table, evenly spread over it, so over the month."""
    return table.take(list(range(0, len(table), max(1, len(table) // rows))))


@pytest.fixture(autouse=True)
def _same_logging() -> Iterator[None]:
    """A command that a test calls in its own process may change how all logs are written.

    A handler that writes to a test's standard output fails once that is closed.
    """
    level, handlers = logging.root.level, list(logging.root.handlers)
    yield
    logging.root.setLevel(level)
    logging.root.handlers[:] = [each for each in logging.root.handlers if each in handlers]


Once: TypeAlias = Callable[[str, Callable[[Path], Any]], Any]


@dataclass(frozen=True)
class HostileFile:
    """Makes Parquet files that run code where pyarrow loads a column's type as a pickle.

    Attributes:
      folder: Where they are, and a file that the code makes.
    """

    folder: Path

    def has_run(self) -> bool:
        """Whether the code ran."""
        return (self.folder / "ran").exists()

    def pickle(self) -> bytes:
        """A pickle that runs the code where it is loaded."""
        return pickle.dumps(_Call(self.folder / "ran"))

    def write(self, table: pa.Table, path: Path | None = None) -> Path:
        """Writes a table with one more column, and returns the file."""
        path = path or self.folder / "hostile.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        name = "arrow.py_extension_type"
        facts = {"extension:name": name, "extension:metadata": self.pickle()}
        field = pa.field(
            "hostile", pa.int64(), metadata={f"ARROW:{k}": v for k, v in facts.items()}
        )
        pq.write_table(table.append_column(field, pa.array([1] * len(table), pa.int64())), path)
        return path


class _Call:
    """Becomes a call of `Path.touch` where its pickle is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.fixture
def hostile_file(tmp_path: Path) -> HostileFile:
    (tmp_path / "hostile").mkdir()
    return HostileFile(tmp_path / "hostile")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes something once for all the processes that the tests run in.

    The function takes a name and what makes the thing in a folder of that name; the thing is then
    the same in every process.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, function: Callable[[Path], Any]) -> Any:
        folder, made = shared / f"shared-{name}", shared / f"shared-{name}.json"
        with FileLock(shared / f"shared-{name}.lock"):
            if not made.exists():
                folder.mkdir()
                made.write_text(json.dumps(function(folder)))
        return json.loads(made.read_text())

    return make


@pytest.fixture(scope="session")
def small_spans(once: Once) -> Path:
    """About 2,500 rows of four months of 2013, one span each."""

    def write(root: Path) -> str:
        for month in (201301, 201302, 201303, 201304):
            write_span(root, month, thin(read_month(month), 2500))
        return str(root)

    return Path(once("spans", write))


@pytest.fixture(scope="session")
def pushed(small_spans: Path, once: Once) -> PushedRun:
    """A finished run: trained on January and February, evaluated on March. Leave it as it is."""

    def run(root: Path) -> tuple[str, int, str]:
        cli = Cli(small_spans, root / "output")
        command = cli.command("--as-of", "201303")
        # As a shell starts it; all other runs are forked from a process that has TFX imported.
        done = subprocess.run(
            command,
            cwd=PROJECT,
            # Another seed than that of nodes, as test_reproduce.py builds this version again.
            env={**os.environ, "PYTHONHASHSEED": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
            check=False,
        )
        return str(cli.output), done.returncode, done.stdout

    output, status, screen = once("pushed", run)
    assert status == 0, screen
    return PushedRun(Cli(small_spans, Path(output)), screen)


@dataclass(frozen=True)
class PushedRun:
    """A finished run and what it printed."""

    cli: Cli
    screen: str

    def artifact(self, node: str, key: str) -> Path:
        """Folder of an output artifact of a node."""
        (folder,) = self.cli.directory.glob(f"artifacts/*/{node}/{key}/*")
        return folder

    @property
    def version(self) -> Path:
        """The pushed version."""
        (version,) = self.cli.versions()
        return version


def make_artifacts(
    component: Any, inputs: Mapping[str, Path], work: Path
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Inputs and outputs for the executor of a function component.

    Args:
      component: The component.
      inputs: Folder of each input artifact.
      work: Folder in which each output artifact has one.

    Returns:
      Both, each a list of one artifact by name.
    """
    kinds = component.SPEC_CLASS
    given = {name: [_at(kinds.INPUTS[name].type(), folder)] for name, folder in inputs.items()}
    made = {name: [_at(channel.type(), work / name)] for name, channel in kinds.OUTPUTS.items()}
    return given, made


def _at(artifact: Any, folder: Path) -> Any:
    artifact.uri = str(folder)
    if splits := [path.name.removeprefix("Split-") for path in folder.glob("Split-*")]:
        artifact.split_names = json.dumps(splits)
    return artifact
