"""What `new` makes of the data of the small models, against what is written by hand."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

import models
from ml.predictors import SavedModelPredictor
from ml.scores import headline
from orchestration.commands import new as command
from pipeline import model_folders
from tests.conftest import PROJECT
from tests.models.trial import ModelData

# What `new` cannot know: that the vectors are images, which may be turned, zoomed and shifted.
BY_HAND = {
    "digits": [f"network.{name}=0" for name in ("rotation", "zoom", "shift")],
    "penguins": [],
}
WORSE = 0.01
ROWS = 2  # Of few rows, of which one is more than that.


def train_and_score(data: ModelData, folder: Path) -> tuple[float, int]:
    """The task's headline metric on rows that the network has not seen, and their number."""
    rows = data.read()
    order = np.random.default_rng(1).permutation(rows.num_rows)
    shares = data.config.data
    held_out = shares.test_share + (1 - shares.test_share) * shares.eval_share
    bounds = (np.array([shares.test_share, held_out]) * rows.num_rows).astype(int)
    test, evaluation, train = (rows.take(pa.array(part)) for part in np.split(order, bounds))
    saved_model = data.train(data.learn(train, folder), train, evaluation, folder)
    examples = np.array(data.examples(test), object)
    predictions = SavedModelPredictor(saved_model).predict(examples)
    labels = data.task.encode(np.array(test[data.task.label].to_pylist()))
    score = headline(data.task, labels, predictions)
    assert score is not None
    return score, len(labels)


@pytest.mark.parametrize("name", BY_HAND)
def test_new_writes_a_model_that_is_as_good_as_the_one_written_by_hand(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tomllib.loads((PROJECT / "models" / name / "config.toml").read_text("utf-8"))
    project, made = tmp_path / "project", f"generated_{name}"
    monkeypatch.setattr(command, "_PROJECT", project)
    arguments = ["--data", str(PROJECT / settings["data"]["uri"]), "--label", settings["label"]]
    done = CliRunner().invoke(command.new, [made, *arguments, "--yes"])
    assert done.exit_code == 0, done.output
    by_hand, _ = train_and_score(ModelData(name, BY_HAND[name]), tmp_path)
    monkeypatch.setattr(model_folders, "_PROJECT", project)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(project / "models")])
    schema = f"gate.schema={project / 'schema' / made}.pbtxt"
    (tmp_path / made).mkdir()
    generated, rows = train_and_score(ModelData(made, [schema]), tmp_path / made)
    assert generated >= by_hand - max(WORSE, ROWS / rows) - 1e-9
