"""Tests that digests change with what a node or a run depends on, and with nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestration.local.cache_keys import CodeVersion
from pipeline.config import load_config
from pipeline.model import Model
from storage.errors import UserError

PROJECT = Path(__file__).parents[2]
CODE = ["pipeline.pipeline", *Model.load(load_config()).functions]
USER = {
    "Transform": "preprocessing_fn: tests.trips.preprocessing.preprocessing_fn",
    "Trainer": "run_fn: tests.trips.network.run_fn",
    "Pruner": "save_fn: ml.export.save_model",
    "Quantizer": "save_fn: ml.export.save_model",
    "ImportSchemaGen": "schema_file: {schema}",
}
EXECUTORS = {
    "ImportSchemaGen": "components.import_schema_gen.ImportSchemaGen_Executor",
    "SpanExampleGen": "components.span_example_gen.component.SpanExampleGen_Executor",
    "StatisticsGen": "components.statistics_gen.StatisticsGen_Executor",
    "DataGate": "components.data_gate.component.DataGate_Executor",
    "Transform": "components.transform.component.Transform_Executor",
    "Trainer": "components.trainer.executor.Executor",
    "Pruner": "components.pruner.component.Pruner_Executor",
    "Quantizer": "components.quantizer.component.Quantizer_Executor",
    "Evaluator": "components.evaluator.component.Evaluator_Executor",
    "Pusher": "components.pusher.Pusher_Executor",
    "ServingMonitor": "components.serving_monitor.component.ServingMonitor_Executor",
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for folder in (
        "components",
        "ml",
        "models",
        "orchestration",
        "pipeline",
        "serving",
        "storage",
        "tests/trips",
    ):
        ignored = shutil.ignore_patterns("__pycache__", "data")
        shutil.copytree(PROJECT / folder, root / folder, ignore=ignored)
    return root


def digests(root: Path) -> dict[str, str]:
    """The version of each node's code, and the key of the run."""
    schema = str(root / "tests" / "trips" / "schema" / "schema.pbtxt")
    version = CodeVersion(root, (schema,))
    nodes = {
        node: version(executor, USER.get(node, "").format(schema=schema))
        for node, executor in EXECUTORS.items()
    }
    return {**nodes, "run": version.run_key(CODE, {}, "data")}


@pytest.fixture(scope="module")
def before(copied: Path) -> dict[str, str]:
    return digests(copied)


@pytest.mark.parametrize(
    ("file", "affected"),
    [
        ("tests/trips/network.py", {"Trainer", "run"}),
        ("tests/trips/preprocessing.py", {"Transform", "run"}),
        ("ml/export.py", {"Trainer", "Pruner", "Quantizer", "run"}),
        ("components/pruner/component.py", {"Pruner", "run"}),
        ("components/quantizer/fake_quant.py", {"Quantizer", "run"}),
        ("components/serving_monitor/page.py", {"ServingMonitor"}),
        ("components/serving_monitor/page.html.j2", {"ServingMonitor"}),
        ("components/quantizer/signatures.py", {"Quantizer", "run"}),
        ("components/data_gate/row_checks.py", {"DataGate", "run"}),
        ("ml/fit.py", {"Trainer", "Pruner", "Quantizer", "run"}),
        ("ml/example_columns.py", {"SpanExampleGen", "Transform", "run"}),
        ("orchestration/local/display.py", set()),
        ("tests/trips/schema/schema.pbtxt", {"ImportSchemaGen", "run"}),
    ],
)
def test_code_version_changes_for_the_nodes_that_run_what_was_changed(
    copied: Path, before: dict[str, str], file: str, affected: set[str]
) -> None:
    path = copied / file
    content = path.read_text()
    try:
        path.write_text(f"{content}\nCHANGED = 1\n")
        after = digests(copied)
        commented = before
        if path.suffix == ".py":
            path.write_text(f"# A comment.\n{content}")
            commented = digests(copied)
    finally:
        path.write_text(content)
    assert {name for name in before if before[name] != after[name]} == affected
    assert commented == before


def test_run_key_changes_with_settings_and_data(copied: Path) -> None:
    version = CodeVersion(copied)
    arguments = [({"window": 6}, "a"), ({"window": 6}, "b"), ({"window": 5}, "a")]
    keys = [version.run_key(CODE, *a) for a in arguments]
    assert len(set(keys)) == 3
    assert version.run_key(CODE, {"window": 6}, "a") == keys[0]


def test_run_key_names_a_file_that_is_missing(copied: Path) -> None:
    version = CodeVersion(copied, (str(copied / "none.pbtxt"),))
    with pytest.raises(UserError, match=r"none\.pbtxt cannot be read: No such file"):
        version.run_key(CODE, {}, "data")
