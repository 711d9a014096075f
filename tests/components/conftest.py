"""What the tests of components share: tiny spans of real trips, and a way to run a component."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.config import load_config
from storage.span_store import STORE_VARIABLE
from tests.components.parameters import DEFAULTS
from tests.conftest import PROJECT, TRIPS

MONTHS = (201301, 201302, 201303, 201304)
ROWS_A_MONTH = 300
ROW_GROUP_ROWS = 64
BEAM_ARGS = ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"]


@pytest.fixture(scope="session")
def tiny_spans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four months of trips with about 300 rows each in several row groups; not to be changed."""
    root = tmp_path_factory.mktemp("tiny") / "trips"
    for month in MONTHS:
        table = pq.read_table(TRIPS / f"span-{month}/trips.parquet")
        rows = table.take(np.arange(0, table.num_rows, table.num_rows // ROWS_A_MONTH))
        folder = root / f"span-{month}"
        folder.mkdir(parents=True)
        pq.write_table(rows, folder / "trips.parquet", row_group_size=ROW_GROUP_ROWS)
    return root


@pytest.fixture
def own_spans(tiny_spans: Path, tmp_path: Path) -> Path:
    """A copy of the tiny spans that a test may change."""
    return Path(shutil.copytree(tiny_spans, tmp_path / "trips"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty span store, which components that run in the test use."""
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture(scope="session")
def curated_schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a `schema.pbtxt`, laid out like a `Schema` artifact; not to be changed."""
    folder = tmp_path_factory.mktemp("schema")
    shutil.copy(PROJECT / load_config().gate.schema, folder / "schema.pbtxt")
    return folder


@pytest.fixture(scope="session")
def run_component(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Runs the executor of a function component as a TFX runner does.

    The function takes the component, its inputs by name (artifacts, or the folders of artifacts of
    the declared type) and its parameters, over the defaults of the configuration; it returns the
    output artifacts by name.
    """

    def run(component: Any, inputs: Mapping[str, Any], **parameters: Any) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(component.__name__)
        spec, executor_class = component.SPEC_CLASS, component.EXECUTOR_SPEC.executor_class
        given = {name: [_artifact(spec.INPUTS[name].type, value)] for name, value in inputs.items()}
        outputs = {}
        for name, channel in spec.OUTPUTS.items():
            (folder / name).mkdir()
            outputs[name] = [_artifact(channel.type, folder / name)]
        all_parameters = DEFAULTS.get(component.__name__, {}) | parameters
        executor_class(_context(executor_class, folder)).Do(given, outputs, all_parameters)
        return {name: artifacts[0] for name, artifacts in outputs.items()}

    return run


def _artifact(kind: Any, value: Any) -> Any:
    if not isinstance(value, Path):
        return value
    artifact = kind()
    artifact.uri = str(value)
    return artifact


def _context(executor_class: Any, folder: Path) -> Any:
    import apache_beam as beam
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.dsl.components.base.base_executor import BaseExecutor

    if not issubclass(executor_class, BaseBeamExecutor):
        return BaseExecutor.Context(tmp_dir=str(folder))
    # Given arguments instead, TFX would repackage itself for remote workers: seconds each time.
    return BaseBeamExecutor.Context(
        tmp_dir=str(folder), make_beam_pipeline_fn=lambda: beam.Pipeline(argv=BEAM_ARGS)
    )


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Handwritten digits and a network that tells them; see `tests.components.digits.Digits`."""
    from tests.components.digits import make_digits

    return make_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def pruned_digits(digits: Any, run_component: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """What the Pruner makes of that network; not to be changed."""
    from components.pruner.component import Pruner
    from tests.components.digits import PRUNING

    return run_component(Pruner, digits.for_pruner(), **PRUNING)


@pytest.fixture
def refused(
    run_component: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., None]:
    """Runs a component that has to raise a `UserError` and to leave its outputs empty.

    The function takes the component, its inputs, a pattern of the message, and the parameters.
    """
    from storage.errors import UserError

    def folders() -> set[Path]:
        # pytest also makes a symbolic link to the newest of a name.
        return {path for path in tmp_path_factory.getbasetemp().iterdir() if not path.is_symlink()}

    def check(component: Any, inputs: Mapping[str, Any], message: str, **parameters: Any) -> None:
        known = folders()
        with pytest.raises(UserError, match=message):
            run_component(component, inputs, **parameters)
        (folder,) = folders() - known
        assert [path for path in folder.rglob("*") if path.is_file()] == []

    return check
