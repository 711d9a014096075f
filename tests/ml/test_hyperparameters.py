"""Tests of the settings that Tuner passes to Trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tfx.v1.types import standard_artifacts as standard

from ml import hyperparameters
from ml.learning import Learning
from storage.errors import UserError

CONFIG = {"epochs": 5, "dropout": 0.1, "network": '{"units": 64, "noise": 0.3}'}


def artifact(folder: Path) -> standard.HyperParameters:
    made = standard.HyperParameters()
    made.uri = str(folder / "best")
    return made


def test_hyperparameters_are_read_as_written(tmp_path: Path) -> None:
    values: dict[str, hyperparameters.Value] = {"training.epochs": 3, "training.dropout": 0.25}
    values["network.kind"] = "wide"
    made = artifact(tmp_path)
    hyperparameters.write(made, values)
    assert hyperparameters.read(made) == values


def test_hyperparameters_are_the_only_file_as_trainer_expects(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    hyperparameters.write(made, {"training.epochs": 3})
    (file,) = Path(made.uri).iterdir()
    assert json.loads(file.read_text()) == {"space": [], "values": {"training.epochs": 3}}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "3", '{"values": 3}', '{"values": {"a": [1]}}', '{"values": {"a": true}}', "{" * 9],
)
def test_hyperparameters_refuse_other_files(tmp_path: Path, content: str) -> None:
    made = artifact(tmp_path)
    hyperparameters.write(made, {})
    (file,) = Path(made.uri).iterdir()
    file.write_text(content)
    with pytest.raises(UserError, match="holds no hyperparameters"):
        hyperparameters.read(made)


def test_hyperparameters_apply_to_training_and_network() -> None:
    values = {"training.epochs": 3, "network.units": 128}
    assert hyperparameters.apply(CONFIG, values) == {
        **CONFIG,
        "epochs": 3,
        "network": '{"units": 128, "noise": 0.3}',
    }
    assert CONFIG["epochs"] == 5


@pytest.mark.parametrize("key", ["training.epoch", "network.unit", "epochs", "pruning.epochs", ""])
def test_hyperparameters_refuse_settings_that_trainer_lacks(key: str) -> None:
    with pytest.raises(UserError, match="Trainer has no such setting"):
        hyperparameters.apply(CONFIG, {key: 3})


def test_learning_reads_the_network_settings_of_trainer() -> None:
    facts = {"kind": "regression", "label": "y", "prediction": "p", "learning_rate": 0.1}
    facts |= {"batch_size": 2, "l2": 0.0, "patience": 0, "seed": 1, "warm_start": 0.0}
    learning = Learning.from_config({**facts, **CONFIG})
    assert learning.network == {"units": 64, "noise": 0.3}
    assert Learning.from_config({**facts, "epochs": 1, "dropout": 0.0}).network == {}
