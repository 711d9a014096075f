"""Tests of the settings of a search: ranges, and the settings of a model's own network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from orchestration.kubeflow import compilation
from orchestration.local import reproduction
from pipeline.config import ConfigError, load_config
from pipeline.pipeline import create_pipeline
from pipeline.tuning_config import known_settings

RATE = "tuning.space.training.learning_rate"
EPOCHS = "tuning.space.training.epochs"
NETWORK = """
model_name = "tips"
label = "tip"
features = ["company"]
prediction = "p"
[data]
uri = "data/tips"
[gate]
schema = "schema/tips.pbtxt"
[network]
units = 64
noise = 0.3
activation = "relu"
"""


def refusal(*settings: str) -> str:
    with pytest.raises(ConfigError) as failure:
        load_config(settings=settings)
    assert "\n" not in str(failure.value)
    return str(failure.value)


@pytest.fixture
def own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a model whose network has settings."""
    from pipeline import model_folders

    folder = tmp_path / "toys_of_tuning" / "tips"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(NETWORK)
    monkeypatch.setattr(model_folders, "_PROJECT", tmp_path)
    monkeypatch.setenv(model_folders.MODEL_VARIABLE, "toys_of_tuning.tips")
    return folder / "config.toml"


@pytest.mark.parametrize(
    "space",
    [
        '[tuning.space]\n"training.epochs" = { low = 2, high = 9 }',
        "[tuning.space]\ntraining.epochs = { low = 2, high = 9 }",
        "[tuning.space.training]\nepochs = { low = 2, high = 9 }",
        "[tuning.space.training.epochs]\nlow = 2.0\nhigh = 9.0",
    ],
)
def test_tuning_space_has_the_same_ranges_however_toml_writes_them(
    tmp_path: Path, space: str
) -> None:
    file = tmp_path / "my.toml"
    file.write_text(space)
    config = load_config(str(file), [f"{RATE}.low=1e-4", f"{RATE}.high=0.1", f"{RATE}.log=true"])
    ranges = config.tuning.distributions(config.network)
    assert ranges == {
        "training.epochs": {"low": 2, "high": 9, "log": False},
        "training.learning_rate": {"low": 1e-4, "high": 0.1, "log": True},
    }
    assert type(ranges["training.epochs"]["low"]) is int


def test_tuning_space_of_a_later_layer_changes_single_ends(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[tuning.space]\ntraining.epochs = { low = 2, high = 9 }")
    config = load_config(str(file), [f"{EPOCHS}.high=30"])
    assert config.tuning.distributions({})["training.epochs"]["high"] == 30


CHOICES = "[tuning.space]\ntraining.epochs = { choices = [3, 7] }"
ENDS = "[tuning.space]\ntraining.epochs = { low = 2, high = 9, log = true }"


def ranges_of(tmp_path: Path, text: str, *settings: str) -> dict[str, object]:
    file = tmp_path / "my.toml"
    file.write_text(text)
    config = load_config(str(file), settings)
    return {**config.tuning.distributions(config.network)}


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        (CHOICES, [f"{EPOCHS}={{ low = 2, high = 9 }}"], {"low": 2, "high": 9, "log": False}),
        (CHOICES, [f'{EPOCHS}={{"low": 2, "high": 9}}'], {"low": 2, "high": 9, "log": False}),
        (CHOICES, [f"{EPOCHS}.low=2", f"{EPOCHS}.high=9"], {"low": 2, "high": 9, "log": False}),
        (CHOICES, [f"{EPOCHS}.choices=[4, 5]"], {"choices": [4, 5]}),
        (ENDS, [f"{EPOCHS}={{ choices = [4, 5] }}"], {"choices": [4, 5]}),
        (ENDS, [f"{EPOCHS}.choices=[4, 5]"], {"choices": [4, 5]}),
        (ENDS, [f"{EPOCHS}={{ low = 3, high = 4 }}"], {"low": 3, "high": 4, "log": False}),
        (ENDS, [f"{EPOCHS}.low=3", f"{EPOCHS}.log=false"], {"low": 3, "high": 9, "log": False}),
        (ENDS, [f"{EPOCHS}={{}}"], None),
        (ENDS, [f"{EPOCHS}={{}}", f"{EPOCHS}.choices=[4, 5]"], {"choices": [4, 5]}),
        (ENDS, ["tuning.space={}"], None),
        ("", [f"{EPOCHS}={{}}"], None),
        ("[tuning.space]\ntraining.epochs = {}", [], None),
    ],
)
def test_tuning_space_replaces_and_removes_a_range(
    tmp_path: Path, text: str, settings: list[str], expected: object
) -> None:
    found = ranges_of(tmp_path, text, *settings)
    assert found == ({} if expected is None else {"training.epochs": expected})


def test_tuning_space_of_a_file_replaces_and_removes_ranges_of_the_model(
    own_network: Path, tmp_path: Path
) -> None:
    with own_network.open("a") as file:
        file.write(
            "[tuning.space]\nnetwork.units = { choices = [32, 64] }\n"
            "network.noise = { low = 0, high = 1 }\ntraining.epochs = { low = 2, high = 9 }\n"
        )
    text = "[tuning.space]\nnetwork.units = { low = 8, high = 16 }\nnetwork.noise = {}"
    assert ranges_of(tmp_path, text) == {
        "training.epochs": {"low": 2, "high": 9, "log": False},
        "network.units": {"low": 8, "high": 16, "log": False},
    }
    # Half a range is no range, whatever the model has.
    with pytest.raises(
        ConfigError, match=r"network.units: low and high are expected.* \(.*my.toml"
    ):
        ranges_of(tmp_path, "[tuning.space]\nnetwork.units = { low = 8 }")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([f"{RATE}.low=0.1", f"{RATE}.high=0.01"], "the range is empty: low = 0.1 is not below"),
        ([f"{RATE}.low=0.1", f"{RATE}.high=0.1"], "the range is empty"),
        ([f"{RATE}.low=0.1"], "low and high are expected, or choices"),
        ([f"{RATE}.low=0", f"{RATE}.high=0.1", f"{RATE}.log=true"], "above 0 is expected where"),
        ([f"{RATE}.low=0.1", f"{RATE}.high=7"], f"{RATE}.high = 7.0: .*less than or equal to 1"),
        ([f"{RATE}.low=nan", f"{RATE}.high=1"], f"{RATE}.low = 'nan': .*finite"),
        ([f"{RATE}.low=-inf", f"{RATE}.high=1"], f"{RATE}.low = '-inf': .*finite"),
        ([f"{RATE}.low=few", f"{RATE}.high=1"], f"{RATE}.low = 'few': .*number"),
        ([f"{RATE}.low=true", f"{RATE}.high=1"], f"{RATE}.low = 'true': .*number"),
        ([f"{EPOCHS}.low=1.5", f"{EPOCHS}.high=3"], f"{EPOCHS}.low = 1.5: .*integer"),
        ([f"{EPOCHS}.low=0", f"{EPOCHS}.high=3"], f"{EPOCHS}.low = 0.0: "),
        ([f"{EPOCHS}.choices=[]"], "low and high are expected, or choices"),
        ([f"{EPOCHS}.choices=[4]"], "choices: two or more different values"),
        ([f"{EPOCHS}.choices=[4, 4.0]"], "choices: two or more different values"),
        ([f'{EPOCHS}.choices=[4, "4"]'], "choices: two or more different values"),
        ([f"{EPOCHS}.choices=[4, true]"], "true and false are not allowed here"),
        ([f'{EPOCHS}.choices=[4, "many"]'], r"choices\[1\] = 'many': .*integer"),
        ([f"{EPOCHS}.choices=[4, 5]", f"{EPOCHS}.low=1"], "choices do not go with low"),
        ([f"{EPOCHS}.lowest=4"], f"{EPOCHS}.lowest: no such key"),
        ([f"{EPOCHS}=4"], f"{EPOCHS} = '4': a table is expected, as in . low = 1, high = 9 "),
        ([f"{EPOCHS}="], f"{EPOCHS} = '': a table is expected"),
        ([f"{EPOCHS}=[1, 2]"], f"{EPOCHS} = .1, 2.: a table is expected"),
        ([f"{EPOCHS}={{low: 1}}"], f"{EPOCHS} = '.low: 1.': a table is expected"),
        ([f"{EPOCHS}={{ low = 1"], f"{EPOCHS} = '. low = 1': a table is expected"),
        ([f"{EPOCHS}={{ low = 1 }}\nother = 2"], "other = 2': a table is expected"),
        ([f"{EPOCHS}={{ low = 1 }}"], "low and high are expected, or choices"),
        ([f"{EPOCHS}={{ lowest = 1 }}"], f"{EPOCHS}.lowest: no such key"),
        ([f"{EPOCHS}={{ low = [1], high = 2 }}"], f"{EPOCHS}.low = .1.: .*number"),
        ([f"{EPOCHS}={{ choices = 4 }}"], f"{EPOCHS}.choices = 4: "),
        ([f"{EPOCHS}={{ low = true, high = 4 }}"], "true and false are not allowed here"),
        (["tuning.space.training.epoch={}"], "tuning.space.training.epoch: no setting to try"),
        (["tuning.space.training={}"], "tuning.space.training: no setting to try"),
        (["tuning=4"], "tuning = '4': a table is expected"),
        (["tuning.space=4"], "tuning.space = '4': a table is expected"),
        (["tuning.space.training.seed.choices=[1, 2]"], "no setting to try; they are training."),
        (["tuning.space.training.loss.choices=[1, 2]"], "no setting to try"),
        (["tuning.space.pruning.epochs.choices=[1, 2]"], "no setting to try"),
        (["tuning.space.network.units.choices=[1, 2]"], "no setting to try"),
        (["tuning.space.epochs.choices=[1, 2]"], "no setting to try|a table is expected"),
        (["tuning.trials=5"], "tuning.trials = 5: there is no setting to try; name some below"),
        (["tuning.trials=-1"], "tuning.trials = '-1': "),
        (["tuning.trials=many"], "tuning.trials = 'many': "),
        (["tuning.parallel=0"], "tuning.parallel = '0': "),
        (["tuning.trial_minutes=0"], "tuning.trial_minutes = '0': "),
        (["tuning.trial_minutes=nan"], "tuning.trial_minutes = 'nan': "),
        (["network.units=64"], "network.units: no such key; the model's network has no settings"),
    ],
)
def test_tuning_refuses_what_cannot_be_searched(settings: list[str], message: str) -> None:
    text = refusal(*settings)
    assert re.search(message, text), text
    assert "--set" in text


def test_network_settings_take_values_of_the_models_types(own_network: Path) -> None:
    config = load_config(settings=["network.units=128", "network.noise=1"])
    assert config.network == {"units": 128, "noise": 1.0, "activation": "relu"}
    assert type(config.network["noise"]) is float
    assert known_settings(config.network)[-3:] == [
        "network.units",
        "network.noise",
        "network.activation",
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("network.units=1.5", "network.units = '1.5': a whole number is expected"),
        ("network.noise=inf", "network.noise = 'inf': a number is expected"),
        ("network.noise=[1]", "network.noise = .1.: a number is expected"),
        ("network.unit=3", "network.unit: no such key; the model's network has units, noise"),
        ("network=3", "network = '3': a table is expected"),
        ("tuning.space.network.units.choices=[1, 2.5]", "choices.1. = 2.5: a whole number"),
        ("tuning.space.network.activation.low=1", "low and high are expected"),
        ("tuning.space.network.activation.choices=[1, 2]", "choices.0. = 1.0: a text is expected"),
    ],
)
def test_network_settings_refuse_other_types(own_network: Path, setting: str, message: str) -> None:
    assert re.search(message, refusal(setting))


def test_network_settings_of_all_types_can_be_tried(own_network: Path) -> None:
    config = load_config(
        settings=[
            "tuning.space.network.units.choices=[32, 64]",
            "tuning.space.network.noise.low=0",
            "tuning.space.network.noise.high=1",
            'tuning.space.network.activation.choices=["relu", "tanh"]',
        ]
    )
    assert config.tuning.distributions(config.network) == {
        "network.units": {"choices": [32, 64]},
        "network.noise": {"low": 0.0, "high": 1.0, "log": False},
        "network.activation": {"choices": ["relu", "tanh"]},
    }


def test_create_pipeline_has_a_tuner_only_where_there_are_trials() -> None:
    space = [f"{EPOCHS}.low=1", f"{EPOCHS}.high=4"]

    def nodes(*settings: str) -> dict[str, object]:
        config = load_config(settings=settings)
        pipeline = create_pipeline(config, pipeline_root="root", serving_dir="serving")
        return {node.id: node for node in pipeline.components}

    assert "Tuner" not in nodes(*space)
    tuned = nodes(*space, "tuning.trials=3")
    report = tuned["Tuner"].outputs["report"]  # type: ignore[attr-defined]
    best = tuned["Tuner"].outputs["best_hyperparameters"]  # type: ignore[attr-defined]
    assert tuned["Trainer"].inputs["hyperparameters"] == best  # type: ignore[attr-defined]
    assert tuned["Pusher"].inputs["tuning"] == report  # type: ignore[attr-defined]
    assert [*tuned].index("Tuner") < [*tuned].index("Trainer")


def test_create_pipeline_with_a_tuner_compiles_for_kubeflow() -> None:
    digest = "0123456789abcdef" * 4
    settings = [f"{EPOCHS}.low=1", f"{EPOCHS}.high=4", "tuning.trials=3", "node_timeouts.Tuner=90"]
    settings += [f"kubeflow.image=flightdeck@sha256:{digest}", "kubeflow.volume_claim=flightdeck"]
    spec, _ = yaml.safe_load_all(compilation.compile_config(load_config(None, settings)))
    tasks = spec["root"]["dag"]["tasks"]
    given = tasks["Tuner"]["inputs"]["parameters"]
    assert given["epochs"] == {"componentInputParameter": "training_epochs"}
    assert json.loads(given["space"]["runtimeValue"]["constant"]) == {
        "training.epochs": {"low": 1, "high": 4, "log": False}
    }
    for task, name in (("Trainer", "hyperparameters"), ("Pusher", "tuning")):
        made = tasks[task]["inputs"]["artifacts"][name]["taskOutputArtifact"]
        assert made["producerTask"] == "Tuner"


def test_reproduce_runs_all_nodes_that_a_tuned_model_is_made_by() -> None:
    settings = [f"{EPOCHS}.low=1", f"{EPOCHS}.high=4", "tuning.trials=3"]
    pipeline = create_pipeline(
        load_config(settings=settings), pipeline_root="root", serving_dir="serving"
    )
    nodes = {node.id: node for node in pipeline.components}
    needed, waiting = set(), ["Quantizer"]
    while waiting:
        needed.add(name := waiting.pop())
        waiting += [node.id for node in nodes[name].upstream_nodes]
    assert "Tuner" in needed
    assert needed == set(reproduction._NODES)
