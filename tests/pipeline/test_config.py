"""Tests that a configuration is what file and settings say, or refused with what is allowed."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import model_folders
from pipeline.config import (
    Config,
    ConfigError,
    EvaluationConfig,
    MonitorConfig,
    config_keys,
    load_config,
)
from pipeline.kubeflow_config import NodeConfig
from pipeline.model_folders import MODEL_VARIABLE, default_model
from pipeline.network_config import TrainingConfig


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "my.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(path: str | None = None, *settings: str) -> str:
    with pytest.raises(ConfigError) as failure:
        load_config(path, settings)
    return str(failure.value)


def flat(config: Config) -> dict[str, Any]:
    """The values by dotted key, but for those under names that are free to choose."""
    return {key: value_of(config, key) for key in config_keys() if "<name>" not in key}


def value_of(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    return config


# What is accepted


def test_load_config_puts_the_models_file_over_the_engines_defaults() -> None:
    config = load_config()
    package = model_folders.model_package(config.model)
    path = Path(__file__).parents[2].joinpath(*package.split("."), "config.toml")
    own = tomllib.loads(path.read_text(encoding="utf-8"))
    assert own.pop("default", True)
    assert {key: str(value_of(config, key)) for key in leaves(own)} == {
        key: str(tuple(v) if isinstance(v, list) else v) for key, v in leaves(own).items()
    }
    assert config.serving == type(config.serving)()


def leaves(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        key = prefix + name
        found |= leaves(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return found


def test_load_config_changes_only_what_the_file_sets(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        model_name = "my_model"
        [data]
        window = 3
        [training]
        learning_rate = 0.5
        [gate]
        warn_only = ["engine:ENUM_TYPE_UNEXPECTED_STRING_VALUES"]
        """,
    )
    changed = {
        "model_name": "my_model",
        "data.window": 3,
        "training.learning_rate": 0.5,
        "gate.warn_only": ("engine:ENUM_TYPE_UNEXPECTED_STRING_VALUES",),
    }
    assert flat(load_config(path)) == {**flat(load_config()), **changed}


def test_load_config_of_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "")) == load_config()


def test_load_config_prefers_a_setting_to_the_file_and_the_last_setting(tmp_path: Path) -> None:
    path = write(tmp_path, "[training]\nepochs = 3\nseed = 5\n")
    config = load_config(path, ["training.epochs=4", "training.epochs=6", "data.window=2"])
    assert (config.training.epochs, config.training.seed, config.data.window) == (6, 5, 2)


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("data.as_of=201312", "data.as_of", 201312),
        ("data.as_of=0", "data.as_of", 0),
        ("training.learning_rate=1e-4", "training.learning_rate", 1e-4),
        ("evaluation.max_loss=1", "evaluation.max_loss", 1.0),
        (" training.epochs = 3 ", "training.epochs", 3),
        (" data.uri = elsewhere ", "data.uri", "elsewhere"),
        ("data.uri=gs://bucket/a=b", "data.uri", "gs://bucket/a=b"),
        ('gate.warn_only=["A", "b:C"]', "gate.warn_only", ("A", "b:C")),
        ("gate.warn_only=[]", "gate.warn_only", ()),
        ('beam_args=["--runner=X", "--y"]', "beam_args", ("--runner=X", "--y")),
        ("serving.sign=false", "serving.sign", False),
        ("serving.encrypt=true", "serving.encrypt", True),
        ("kubeflow.cpu=500m", "kubeflow.cpu", "500m"),
        ("kubeflow.memory=1.5Gi", "kubeflow.memory", "1.5Gi"),
        ("kubeflow.pipeline_root=s3://b/v2", "kubeflow.pipeline_root", "s3://b/v2"),
    ],
)
def test_load_config_reads_a_setting_as_the_type_of_its_key(
    setting: str, key: str, value: Any
) -> None:
    loaded = value_of(load_config(settings=[setting]), key)
    assert loaded == value
    assert type(loaded) is type(value)


def test_config_keys_lists_every_key_once_and_no_tables() -> None:
    keys = config_keys()
    assert len(keys) == len(set(keys))
    assert {"model_name", "data.as_of", "training.epochs"} <= set(keys)
    assert not {"data", "gate", "training", "pruning", "evaluation"} & set(keys)


def test_config_cannot_be_changed() -> None:
    config = load_config()
    for part in (config, config.data, config.gate, config.training, config.evaluation):
        name = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, getattr(part, name))


def test_config_of_single_nodes_stands_under_their_names(tmp_path: Path) -> None:
    path = write(tmp_path, '[kubeflow.nodes.Trainer]\ncpu = "2"\n[node_beam_args]\nX = ["--y"]\n')
    config = load_config(path, ["kubeflow.nodes.Trainer.retries=1", 'node_beam_args.Z=["--a"]'])
    assert config.kubeflow.nodes == {"Trainer": NodeConfig(cpu="2", retries=1)}
    assert config.node_beam_args == {"X": ("--y",), "Z": ("--a",)}


@pytest.mark.parametrize(
    ("setting", "start"),
    [
        ("kubeflow.nodes=3", "kubeflow.nodes = '3': a table is expected"),
        ("kubeflow.nodes.Trainer=3", "kubeflow.nodes.Trainer = '3': a table is expected"),
        (
            "kubeflow.nodes.Trainer.ram=3",
            "kubeflow.nodes.Trainer.ram: no such key; did you mean kubeflow.nodes.<name>.",
        ),
        ("node_beam_args=[]", "node_beam_args = []: a table is expected"),
    ],
)
def test_config_refuses_an_unknown_setting_of_a_node(setting: str, start: str) -> None:
    assert refusal(None, setting).startswith(start)


# Keys


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("training.epoch", "training.epochs"),
        ("trainingepochs", "training.epochs"),
        ("data.windows", "data.window"),
        ("modelname", "model_name"),
    ],
)
def test_config_refuses_an_unknown_key_and_suggests_another(key: str, meant: str) -> None:
    assert refusal(None, f"{key}=3").startswith(f"{key}: no such key; did you mean {meant}? ")


def test_config_refuses_an_unknown_key_and_lists_all() -> None:
    message = refusal(None, "zzz=3")
    assert message == f"zzz: no such key; the keys are {', '.join(config_keys())} (--set)"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("epochs = 3", "epochs"),
        ("[training]\nepoch = 3", "training.epoch"),
        ("[trainin]\nepochs = 3", "trainin"),
        ("[data]\nwindow = 3\n[nope]", "nope"),
    ],
)
def test_config_refuses_an_unknown_key_of_a_file(tmp_path: Path, text: str, key: str) -> None:
    assert refusal(write(tmp_path, text)).startswith(f"{key}: no such key; ")


@pytest.mark.parametrize("key", ["", "training.", ".epochs", "training..epochs", "a b"])
def test_config_refuses_a_malformed_key(key: str) -> None:
    assert ": no such key; " in refusal(None, f"{key}=3")


# Values


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("data.as_of", "201313", "a month YYYYMM is expected, or 0 for the newest"),
        ("data.as_of", "201300", "a month YYYYMM is expected, or 0 for the newest"),
        ("data.as_of", "12", "a month YYYYMM is expected, or 0 for the newest"),
        ("data.as_of", "-1", "greater than or equal to 0"),
        ("data.as_of", "December", "valid integer"),
        ("data.window", "0", "greater than or equal to 1"),
        ("data.window", "1001", "less than or equal to 1000"),
        ("data.spans", "{SPAM}", "is no placeholder"),
        ("data.separator", '"', "match pattern"),
        ("data.encoding", "klingon", "an encoding is expected"),
        ("data.eval_days", "0", "greater than or equal to 1"),
        ("data.eval_days", "", "valid integer"),
        ("training.epochs", "0", "greater than or equal to 1"),
        ("training.epochs", "1.5", "valid integer"),
        ("training.epochs", "3 4", "valid integer"),
        ("training.batch_size", "-1", "greater than or equal to 1"),
        ("training.learning_rate", "0", "greater than 0"),
        ("training.learning_rate", "nan", "less than or equal to 1"),
        ("training.dropout", "1", "less than 1"),
        ("training.l2", "-0.1", "greater than or equal to 0"),
        ("training.patience", "-1", "greater than or equal to 0"),
        ("training.seed", "-1", "greater than or equal to 0"),
        ("training.seed", "4294967296", "less than"),
        (
            "evaluation.thresholds.auc",
            "half",
            "a number is expected, or the lowest and the highest",
        ),
        ("evaluation.min_slice_examples", "0", "greater than or equal to 1"),
        ("evaluation.max_loss", "half", "valid number"),
        ("compression.max_loss", "nan", "greater than or equal to 0"),
        ("model_name", "Model", "match pattern '^[a-z][a-z0-9_]*$'"),
        ("model_name", "../model", "match pattern '^[a-z][a-z0-9_]*$'"),
        ("model_name", "", "match pattern '^[a-z][a-z0-9_]*$'"),
        ("gate.warn_only", "A", "valid tuple"),
        ("quantization.mode", "int4", "Input should be 'none', 'float16', 'dynamic_range'"),
        ("kubeflow.image", "flightdeck:latest", "an image by digest, name@sha256:..., is expected"),
        ("kubeflow.volume_claim", "My_Claim", "the name of a PersistentVolumeClaim is expected"),
        ("kubeflow.mount_path", "mnt", "an absolute path is expected"),
        ("kubeflow.mount_path", "", "at least 2 characters"),
        ("serving.sign", "0", "true or false is expected"),
        ("serving.encrypt", "yes", "true or false is expected"),
        ("serving.file_mode", "0777", "'0600', '0640', '0644', '0660' or '0664'"),
        ("serving.file_mode", "", "'0600', '0640', '0644', '0660' or '0664'"),
        ("serving.signing_key", "fd:3", "env:NAME or a file is expected"),
        ("serving.signing_password", "fd:3", "env:NAME or a file is expected"),
        ("kubeflow.serving_dir", "", "at least 1 character"),
        ("kubeflow.pipeline_root", "http://x", "gs://..., s3://... or minio://... "),
        ("kubeflow.pipeline_root", "s3://b/runs[1]", r"(without * ? [ \) is expected"),
        ("kubeflow.cpu", "two", 'processors such as "2" or "500m" is expected'),
        ("kubeflow.memory", "4GB", 'memory such as "4Gi" is expected'),
        ("kubeflow.memory", "4 Gi", 'memory such as "4Gi" is expected'),
        ("kubeflow.memory", "1e3Gi", 'memory such as "4Gi" is expected'),
        ("kubeflow.retries", "11", "less than or equal to 10"),
        ("kubeflow.secret_env.X", "minio", "match pattern"),
        ("kubeflow.nodes.X.accelerator", "gpu", 'a resource such as "nvidia.com/gpu" is expected'),
        ("kubeflow.nodes.X.accelerators", "0", "greater than or equal to 1"),
        ("kubeflow.nodes.X.retries", "-2", "greater than or equal to -1"),
        ("node_beam_args.X", "--runner=X", "valid tuple"),
        ("beam_args", "--runner=X", "valid tuple"),
    ],
)
def test_config_refuses_a_wrong_value_and_tells_what_is_allowed(
    key: str, value: str, allowed: str
) -> None:
    message = refusal(None, f"{key}={value}")
    assert message.startswith(f"{key} = {value!r}: ")
    assert allowed in message


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("[data]\nuri = 5", "data.uri = 5: "),
        ('[data]\nuri = ["data"]', "data.uri = ['data']: "),
        ("[data]\nas_of = 2013-12-01", "data.as_of = datetime.date(2013, 12, 1): "),
        ("[training]\nepochs = 1.5", "training.epochs = 1.5: "),
        ("[training]\nepochs = [3]", "training.epochs = [3]: "),
        ("[training]\nepochs = true", "training.epochs = True: "),
        ("[training.epochs]\nmost = 3", "training.epochs.most: training.epochs is not a table"),
        ("[serving]\nsign = 1", "serving.sign = 1: true or false is expected"),
        ("[evaluation]\nmax_loss = nan", "evaluation.max_loss = nan: "),
        ("model_name = 3", "model_name = 3: "),
        ('[data]\nuri = "a\\u0000b"', r"data.uri = 'a\x00b': NUL characters are not allowed"),
        ('[serving]\npublic_keys = ["a\\u0000"]', r"serving.public_keys = ['a\x00']: NUL"),
        ('[gate]\nwarn_only = "A"', "gate.warn_only = 'A': "),
        ("[gate]\nwarn_only = [1]", "gate.warn_only.0 = 1: "),
        ("[pruning]\nblock_size = [true, 1]", "pruning.block_size = [True, 1]: true and false"),
    ],
)
def test_config_refuses_a_value_of_another_type_with_its_key(
    tmp_path: Path, text: str, start: str
) -> None:
    assert refusal(write(tmp_path, text)).startswith(start)


def test_config_names_all_wrong_values_together(tmp_path: Path) -> None:
    path = write(tmp_path, "[training]\nepochs = 0\n[data]\nwindow = 0\n")
    message = refusal(path, "model_name=X")
    for key in ("training.epochs = 0: ", "data.window = 0: ", "model_name = 'X': "):
        assert key in message


def test_config_accepts_a_wrong_value_of_the_file_that_a_setting_replaces(tmp_path: Path) -> None:
    path = write(tmp_path, "[training]\nepochs = 0\n")
    assert load_config(path, ["training.epochs=3"]).training.epochs == 3


# Layers


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of models of a project without one."""
    monkeypatch.setattr(model_folders, "_PROJECT", tmp_path)
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    return tmp_path / "models"


MODEL = """
model_name = "tips"
label = "tip"
prediction = "p"
features = ["miles"]
[data]
uri = "data/tips"
time_column = "t"
window = 3
[gate]
schema = "schema/tips.pbtxt"
"""


def add_model(models: Path, name: str, text: str = MODEL) -> None:
    (models / name).mkdir(parents=True)
    (models / name / "config.toml").write_text(text, encoding="utf-8")


def test_load_config_takes_each_value_from_the_last_layer_that_has_it(
    models: Path, tmp_path: Path
) -> None:
    add_model(models, "tips", MODEL + "[training]\nepochs = 2\nseed = 2\npatience = 4\n")
    path = write(tmp_path, "[training]\nseed = 3\npatience = 3\n")
    config = load_config(path, ["training.patience=1"])
    training = config.training
    assert (training.epochs, training.seed, training.patience) == (2, 3, 1)
    assert (config.model, training.batch_size) == ("tips", 1024)


@pytest.mark.parametrize(
    ("own", "file", "settings", "refused"),
    [
        ("seed = -1", "", [], "training.seed = -1: .* 0 \\(models/tips/config.toml\\)"),
        ("seed = 1", "seed = -2", [], r"training.seed = -2: .* 0 \(.*my.toml\)"),
        ("seed = 1", "seed = -2", ["training.seed=-3"], r"training.seed = '-3': .* 0 \(--set\)"),
        ("sed = 1", "", [], r"training.sed: no such key; .* \(models/tips/config.toml\)"),
    ],
)
def test_load_config_names_the_layer_of_a_wrong_value(
    models: Path, tmp_path: Path, own: str, file: str, settings: list[str], refused: str
) -> None:
    add_model(models, "tips", f"{MODEL}\n[training]\n{own}\n")
    path = write(tmp_path, f"[training]\n{file}\n")
    with pytest.raises(ConfigError, match=refused):
        load_config(path, settings)


def test_load_config_names_what_a_model_does_not_set(models: Path) -> None:
    add_model(models, "tips", 'model_name = "tips"\n')
    message = refusal(None)
    for key in ("label", "prediction", "data.uri", "gate.schema"):
        assert f"{key}: a value is missing; set it in models/tips/config.toml" in message


def test_default_model_is_the_only_one_or_the_one_marked_so(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"--model NAME, .* no model yet"):
        default_model()
    add_model(models, "tips")
    assert default_model() == "tips"
    add_model(models, "fares")
    with pytest.raises(ConfigError, match=r"no single default.*`default = true` .* fares, tips"):
        default_model()
    (models / "fares" / "config.toml").write_text("default = true\n" + MODEL)
    assert load_config().model == "fares"
    assert load_config(settings=["model=tips"]).model == "tips"
    monkeypatch.setenv(MODEL_VARIABLE, "tips")
    assert load_config().model == "tips"
    monkeypatch.setenv(MODEL_VARIABLE, "other.tips")
    with pytest.raises(ConfigError, match=r"folder in \S+(?<!models), .*\(FLIGHTDECK_MODEL\)"):
        load_config()


def test_config_model_may_be_a_package_elsewhere(models: Path) -> None:
    add_model(models.parent / "other", "fares")
    assert load_config(settings=["model=other.fares"]).model == "other.fares"


@pytest.mark.parametrize("name", ["trip", "..", "/etc", "a\0", "tips.config", ""])
def test_config_refuses_a_missing_model_and_lists_those_there_are(models: Path, name: str) -> None:
    add_model(models, "tips")
    with pytest.raises(ConfigError, match=r"model = .* no such folder in .*, but tips \(--set\)"):
        load_config(settings=[f"model={name}"])


def test_config_file_of_a_model_cannot_name_the_model(models: Path) -> None:
    add_model(models, "tips", 'model = "fares"\n' + MODEL)
    assert refusal(None) == "model = 'fares': the folder sets the name (models/tips/config.toml)"


# Tables and lists


@pytest.mark.parametrize("text", ["training = 5", "training = [5]", "[[training]]\nepochs = 3"])
def test_config_refuses_a_value_in_place_of_a_table(tmp_path: Path, text: str) -> None:
    message = refusal(write(tmp_path, text))
    assert message.startswith("training = ")
    assert "a table is expected, as in training.name=value (" in message


def test_config_refuses_a_setting_in_place_of_a_table() -> None:
    assert refusal(None, "training=5") == (
        "training = '5': a table is expected, as in training.name=value (--set)"
    )


def test_config_refuses_a_setting_inside_a_value(tmp_path: Path) -> None:
    path = write(tmp_path, "[training]\nepochs = 3\n")
    assert refusal(path, "training.epochs.most=4") == (
        "training.epochs.most: training.epochs is not a table (--set)"
    )


@pytest.mark.parametrize("text", ["[A]", '["A"', "['A']", "[tmp]/schema"])
def test_config_refuses_a_list_that_is_not_json_with_its_key(text: str) -> None:
    assert refusal(None, f"gate.warn_only={text}").startswith(
        f"gate.warn_only = {text!r}: not a JSON list: "
    )


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" + "1" * 5_000 + "]"], ids=["deep", "a long number"]
)
def test_config_refuses_a_list_that_json_cannot_parse_with_its_key(text: str) -> None:
    assert refusal(None, f"gate.warn_only={text}").startswith("gate.warn_only = ")


@pytest.mark.parametrize("setting", ["training.epochs", "", "nothing"])
def test_config_refuses_a_setting_without_a_value_and_gives_an_example(setting: str) -> None:
    assert refusal(None, setting) == (
        f"--set {setting!r}: expected key=value, as in training.epochs=3"
    )


# Files


@pytest.mark.parametrize(
    "content",
    [
        b"[training\nepochs = 3",
        b"training.epochs 3",
        b"model_name = 'a'\nmodel_name = 'b'",
        b"model_name = '\xff'",
        b"x = " + b"1" * 5_000,
        b"x = " + b"[" * 100_000,
    ],
    ids=["bracket", "equals", "twice", "not UTF-8", "a long number", "deep"],
)
def test_config_names_a_file_that_is_not_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    assert refusal(str(path)).startswith(f"configuration file {path}: ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("model_name = 'a'".encode("utf-16"), "it is UTF-16: save it as UTF-8"),
        ("# \n# größer\nmodel_name = 'a'".encode("latin-1"), "line 2 is not UTF-8"),
        (b"model_name = 'a\0b'", r"'\x00'"),
    ],
    ids=["UTF-16", "Latin-1", "NUL"],
)
def test_config_refuses_a_file_in_another_encoding_in_one_line(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "odd.toml"
    path.write_bytes(content)
    message = refusal(str(path))
    assert problem in message
    assert "\n" not in message


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_config_reads_a_file_of_any_editor(tmp_path: Path, start: bytes, end: bytes) -> None:
    path = tmp_path / "odd.toml"
    path.write_bytes(start + end.join([b"model_name = 'a'", b"[training]", b"epochs = 3", b""]))
    config = load_config(str(path))
    assert (config.model_name, config.training.epochs) == ("a", 3)


def test_config_gives_a_node_the_common_time_limit_unless_it_has_its_own() -> None:
    config = load_config(None, ["node_timeout_minutes=2", "node_timeouts.Trainer=0"])
    assert config.node_timeout_seconds("Pusher") == 120
    assert config.node_timeout_seconds("Trainer") == math.inf
    assert math.isfinite(load_config().node_timeout_seconds("Trainer"))
    for wrong in ("node_timeout_minutes=-1", "node_timeouts.X=nan", "node_timeout_minutes=inf"):
        assert wrong.partition("=")[0] in refusal(None, wrong)


def test_config_names_the_line_of_a_mistake(tmp_path: Path) -> None:
    assert "line 2" in refusal(write(tmp_path, "model_name = 'a'\nwindow 3\n"))


def test_config_names_a_missing_file(tmp_path: Path) -> None:
    message = refusal(str(tmp_path / "nowhere.toml"))
    assert message.startswith(f"configuration file {tmp_path / 'nowhere.toml'}: ")
    assert "No such file" in message


def test_config_names_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    assert refusal(str(tmp_path)).startswith(f"configuration file {tmp_path}: ")


# Any value at all

values = st.one_of(
    st.text(st.characters()),  # lone surrogates too: a command line may hold any bytes
    st.integers().map(str),
    st.floats().map(str),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ).map(json.dumps),
)


@given(key=st.sampled_from(config_keys()).map(lambda key: key.replace("<name>", "X")), value=values)
@example(key="training.epochs", value="9" * 5000)
@example(key="model_name", value="\udcff")
def test_config_value_changes_its_key_alone_or_is_refused_by_name(key: str, value: str) -> None:
    match load(f"{key}={value}"):
        case str(message):
            assert message.startswith(key)
        case config:
            loaded, defaults = flat(config), flat(load_config())
            assert loaded | {key: None} == defaults | {key: None}


@given(st.text())
def test_config_accepts_or_refuses_any_text_as_a_setting(setting: str) -> None:
    assert load(setting)


def load(setting: str) -> Config | str:
    """The configuration, or the message with which it is refused."""
    try:
        return load_config(settings=[setting])
    except ConfigError as failure:
        return str(failure)


@pytest.mark.parametrize(
    ("classes", "texts"),
    [
        ('["no", "yes"]', ("no", "yes")),
        ("[1, 2]", ("1", "2")),
        ('["false", "true"]', ("false", "true")),
        ("[0.5, 1.0]", ("0.5", "1.0")),
    ],
)
def test_config_takes_classes_as_the_data_have_them(classes: str, texts: tuple[str, ...]) -> None:
    config = load_config(settings=[f"classes={classes}"])
    assert config.make_task().classes == texts


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("classes=yes", "classes = 'yes': a list of values is expected"),
        ("classes=[[1], [2]]", r"classes\.0 = .*string"),
        ('classes=["a", "b", "c"]', "a binary task has two, the positive one last, not 3"),
        ("task=regression", "classes: a regression has none"),
        ("task=ranking", "task = 'ranking'"),
        ("example_weight=delayed", "example_weight: 'delayed' is the label"),
    ],
)
def test_config_refuses_a_task_that_cannot_be(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(settings=[setting])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("thresholds.auc=1.01", "thresholds.auc = 1.01: the lowest AUC is expected, 0 to 1"),
        ("thresholds.auc=nan", "thresholds.auc = nan: the lowest AUC is expected, 0 to 1"),
        ("thresholds.auc=[0.5,1]", "thresholds.auc = [0.5, 1.0]: the lowest AUC is expected"),
        ("slice_thresholds.auc=-0.1", "slice_thresholds.auc = -0.1: the lowest AUC is expected"),
        ("thresholds.calibration=[1]", "thresholds.calibration = [1]: a number is expected"),
        ("thresholds.log_loss=-1", "thresholds.log_loss = -1.0: the highest log loss is expected"),
        (
            "thresholds.calibration=[2,1]",
            "thresholds.calibration = [2.0, 1.0]: the lowest and the highest calibration",
        ),
        (
            "thresholds.rmse=3",
            "thresholds.rmse: no such metric; those of a binary task are auc, auc_pr, log_loss, "
            "calibration",
        ),
    ],
)
def test_load_config_refuses_thresholds_that_the_task_does_not_have(
    setting: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(settings=[f"evaluation.{setting}"])
    assert str(caught.value).startswith(f"evaluation.{message}")
    assert str(caught.value).endswith(" (--set)")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("evaluation.min_auc", "evaluation.thresholds.auc"),
        ("evaluation.max_calibration", "evaluation.thresholds.calibration"),
        ("compression.max_slice_auc_loss", "compression.max_slice_loss"),
    ],
)
def test_load_config_names_the_setting_that_replaced_another(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=f"{old}: no such key; did you mean {new}\\?"):
        load_config(settings=[f"{old}=0.5"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["training.loss=huber"],
            r"^training\.loss = 'huber': of a binary task it is one of binary_.* \(--set\)$",
        ),
        (
            ["training.class_weights=[1, 2, 3]"],
            r"^training\.class_weights = .* a weight for each of the 2 classes",
        ),
        (["training.class_weights=[1, 0]"], "class_weights"),
        (["training.class_weights=equal"], "class_weights"),
    ],
)
def test_config_refuses_training_that_does_not_fit_the_task(
    settings: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(settings=settings)


def test_config_takes_a_loss_and_class_weights_that_fit_the_task() -> None:
    weighted = load_config(settings=["training.class_weights=[1, 2.5]"])
    assert weighted.training.class_weights == (1.0, 2.5)
    loss = "mean_squared_logarithmic_error"
    assert regression(TrainingConfig(loss=loss)).training.loss == loss


def test_config_refuses_class_weights_of_a_regression() -> None:
    with pytest.raises(ValueError, match="class_weights: a regression has no classes"):
        regression(TrainingConfig(class_weights="balanced"))


def regression(training: TrainingConfig) -> Config:
    """The settings of the tests' model without the thresholds of its own task."""
    return replace(
        load_config(),
        task="regression",
        class_names=(),
        training=training,
        evaluation=EvaluationConfig(),
        monitor=MonitorConfig(),
    )


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("wind=[]", "explanation.groups.wind: a name and one or more features are expected"),
        ('wind=["nothing"]', "explanation.groups.wind: 'nothing' is none of the model's features"),
        ('wind=["delayed"]', "explanation.groups.wind: 'delayed' is none of the model's features"),
        ('wind=["temp", "temp"]', "explanation.groups.wind: 'temp' occurs twice"),
        ('temp=["dewp"]', "explanation.groups.temp: 'temp' is a feature that is not in the group"),
    ],
)
def test_config_refuses_groups_that_are_no_division_of_the_features(
    group: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(settings=[f"explanation.groups.{group}"])


def test_config_refuses_a_feature_in_two_groups() -> None:
    settings = [f'explanation.groups.{name}=["temp", "dewp"]' for name in ("air", "rain")]
    with pytest.raises(ConfigError, match="rain: 'temp' is in the group 'air' already"):
        load_config(settings=settings)


def test_config_takes_groups_of_features() -> None:
    groups = load_config(settings=['explanation.groups.temp=["temp", "dewp"]']).explanation.groups
    assert groups["temp"] == ("temp", "dewp")
