"""Tests of which nodes run again when the file of a model's settings changes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from orchestration.local.cache_keys import CodeVersion
from pipeline import model_folders
from pipeline.config import load_config
from pipeline.pipeline import create_pipeline

MODEL = "toys_of_a_test.tips"
SETTINGS = """
model_name = "tips"
label = "tip"
features = ["company"]
prediction = "p"
weight = "weight"
slices = ["company"]
[data]
uri = "data/tips"
spans = "span-{YYYY}{MM}"
time_column = "pickup"
window = 3
[gate]
schema = "schema/tips.pbtxt"
[training]
epochs = 5
[pruning]
target_sparsity = 0.5
[evaluation.thresholds]
auc = 0.6
[monitor]
thresholds = { auc = 0.6 }
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the settings of a model."""
    folder = tmp_path.joinpath(*MODEL.split("."))
    folder.mkdir(parents=True)
    for module in ("preprocessing", "network"):
        (folder / f"{module}.py").touch()
    (folder / "config.toml").write_text(SETTINGS)
    monkeypatch.setattr(model_folders, "_PROJECT", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder / "config.toml"


def parameters() -> dict[str, str]:
    """What each node is told, and with it its cache key depends on; and the key of the run."""
    config = load_config(settings=[f"model={MODEL}"])
    pipeline = create_pipeline(config, pipeline_root="root", serving_dir="serving")
    key = CodeVersion(Path(__file__).parents[2]).run_key([], asdict(config), "data")
    return {node.id: repr(node.exec_properties) for node in pipeline.components} | {"run": key}


@pytest.mark.parametrize(
    ("old", "new", "nodes"),
    [
        ("\nauc = 0.6", "\nauc = 0.7", {"Evaluator"}),
        ("target_sparsity = 0.5", "target_sparsity = 0.6", {"Pruner"}),
        ("epochs = 5", "epochs = 6", {"Trainer"}),
        ("window = 3", "window = 4", {"SpanExampleGen"}),
        ("tips.pbtxt", "other.pbtxt", {"ImportSchemaGen"}),
        (
            'slices = ["company"]',
            "slices = []",
            {"Evaluator", "CompressionEvaluator", "Explainer"},
        ),
        (
            'features = ["company"]',
            'features = ["company", "miles"]',
            {"ImportSchemaGen", "DataGate", "BaselineEvaluator"}
            | {"Transform", "Trainer", "Pruner", "Quantizer"},
        ),
        (
            'label = "tip"',
            'label = "fare"',
            {"ImportSchemaGen", "DataGate", "BaselineEvaluator"}
            | {"Transform", "Trainer", "Pruner", "Quantizer"}
            | {"Evaluator", "CompressionEvaluator", "Explainer", "ServingValidator"},
        ),
    ],
)
def test_settings_of_a_model_change_the_nodes_that_use_them_and_the_run_key(
    settings: Path, old: str, new: str, nodes: set[str]
) -> None:
    before = parameters()
    settings.write_text(SETTINGS.replace(old, new))
    after = parameters()
    assert {name for name in before if before[name] != after[name]} == nodes | {"run"}


def test_settings_comment_changes_no_node_and_no_run_key(
    settings: Path,
) -> None:
    before = parameters()
    settings.write_text(f"# A comment.\n{SETTINGS}")
    assert parameters() == before
