"""Tests of the one pipeline, compiled for Kubeflow Pipelines."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import dsl

from orchestration.kubeflow import compilation, news, pipelines, run_page, training
from pipeline import model_folders
from pipeline.config import load_config
from pipeline.layers import ConfigError
from pipeline.parameters import KEYS, parameter_name, parameter_values, with_parameters
from storage.errors import UserError
from storage.span_store import STORE_VARIABLE

PROJECT = Path(__file__).parents[1]
GOLDEN = PROJECT / "tests" / "golden"
DIGEST = "sha256:" + "0123456789abcdef" * 4


def run_compile(output: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    sets = [argument for setting in settings for argument in ("--set", setting)]
    return subprocess.run(
        [sys.executable, "kubeflow_runner.py", "compile", "--output", str(output), *sets],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


def compiled(*settings: str) -> list[Any]:
    given = [f"kubeflow.image=flightdeck@{DIGEST}", "kubeflow.volume_claim=flightdeck", *settings]
    return list(yaml.safe_load_all(compilation.compile_config(load_config(None, given))))


@pytest.mark.skipif(not version("tfx").startswith("1.16."), reason="TFX 1.16 made it")
def test_kubeflow_package_is_the_golden_file() -> None:
    # On purpose: the command is in the first line of the configuration.
    package = compilation.compile_config(load_config(str(GOLDEN / "kubeflow.toml")))
    assert package == (GOLDEN / "pipeline.yaml").read_text(encoding="utf-8")


def test_kubeflow_package_reads_every_parameter_in_a_task() -> None:
    spec, _ = compiled()
    read = {
        given.get("componentInputParameter")
        for task in spec["root"]["dag"]["tasks"].values()
        for given in task["inputs"].get("parameters", {}).values()
    }
    declared = set(spec["root"]["inputDefinitions"]["parameters"])
    assert declared == {parameter_name(key) for key in KEYS} | {
        *("serving_dir", "fingerprint", "only_if_new"),
    }
    assert declared <= read


def test_kubeflow_package_parameters_default_to_the_configuration() -> None:
    spec, _ = compiled("training.epochs=9", "data.as_of=201310", "quantization.mode=qat")
    declared = spec["root"]["inputDefinitions"]["parameters"]
    assert declared["training_epochs"] == {"parameterType": "NUMBER_INTEGER", "defaultValue": 9}
    assert declared["data_as_of"]["defaultValue"] == 201310
    assert declared["quantization_mode"] == {"parameterType": "STRING", "defaultValue": "qat"}
    assert declared["pruning_learning_rate"]["parameterType"] == "NUMBER_DOUBLE"


def test_kubeflow_package_puts_relative_paths_on_the_volume() -> None:
    spec, platform = compiled("kubeflow.mount_path=/data")
    declared = spec["root"]["inputDefinitions"]["parameters"]
    assert declared["data_uri"]["defaultValue"] == "/data/tests/trips/data"
    assert declared["serving_dir"]["defaultValue"] == "/data/serving_model"
    pusher = spec["root"]["dag"]["tasks"]["Pusher"]["inputs"]["parameters"]
    assert pusher["signing_key"]["runtimeValue"]["constant"] == "/data/keys/signing.key"
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-Pusher"]["pvcMount"][0]["mountPath"] == "/data"


def test_kubeflow_package_needs_no_volume_for_buckets() -> None:
    settings = ("kubeflow.volume_claim=", "data.uri=s3://b/data", "kubeflow.serving_dir=gs://b/s")
    spec, _ = compiled(*settings, "serving.sign=false")
    declared = spec["root"]["inputDefinitions"]["parameters"]
    assert declared["data_uri"]["defaultValue"] == "s3://b/data"
    assert declared["serving_dir"]["defaultValue"] == "gs://b/s"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["kubeflow.image="], "kubeflow.image is missing"),
        (
            ["kubeflow.volume_claim="],
            "data.uri = 'tests/trips/data': without kubeflow.volume_claim",
        ),
        (
            ["kubeflow.volume_claim=", "data.uri=/data", "kubeflow.serving_dir=/serving"],
            "serving.sign = true needs a private key",
        ),
        (["kubeflow.nodes.Trainr.cpu=2"], "Trainr: no such node; the nodes are ImportSchemaGen"),
        (['kubeflow.uncached=["Pushr"]'], "Pushr: no such node"),
        (['node_beam_args.Trainer=["--x"]'], "node_beam_args.Trainer: no such Beam node"),
        (["node_timeouts.Trainr=5"], "node_timeouts.Trainr: no such node"),
    ],
)
def test_kubeflow_package_refuses_what_cannot_work_there(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compiled(*settings)


def test_kubeflow_package_prefers_the_settings_of_a_node() -> None:
    spec, platform = compiled(
        *("kubeflow.cpu=1", "kubeflow.memory=2Gi", "kubeflow.retries=1"),
        *("kubeflow.nodes.Trainer.memory=8Gi", "kubeflow.nodes.Pruner.retries=0"),
        *("node_timeout_minutes=60", "node_timeouts.Trainer=90", "node_timeouts.Pusher=0"),
    )
    executors = spec["deploymentSpec"]["executors"]
    trainer = executors["exec-Trainer"]["container"]["resources"]
    assert (trainer["resourceCpuLimit"], trainer["resourceMemoryLimit"]) == ("1", "8Gi")
    assert executors["exec-Pusher"]["container"]["resources"]["resourceMemoryLimit"] == "2Gi"
    limits = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert limits["exec-Trainer"]["activeDeadlineSeconds"] == "5400"
    assert limits["exec-DataGate"]["activeDeadlineSeconds"] == "3600"
    assert "activeDeadlineSeconds" not in limits["exec-Pusher"]
    tasks = spec["root"]["dag"]["tasks"]
    assert tasks["Trainer"]["retryPolicy"]["maxRetryCount"] == 1
    assert "retryPolicy" not in tasks["Pruner"]


def test_kubeflow_package_gives_pods_common_and_node_settings(tmp_path: Path) -> None:
    (tmp_path / "pods.toml").write_text("""
[kubeflow]
service_account = "trainer"
node_selector = {"kubernetes.io/arch" = "amd64"}
labels = {team = "ml"}
tolerations = [{key = "batch", operator = "Exists"}]
[kubeflow.nodes.Trainer]
accelerator = "nvidia.com/gpu"
node_selector = {"example.com/pool" = "gpu"}
labels = {team = "gpu", tier = "train"}
annotations = {"sidecar.istio.io/inject" = "false"}
tolerations = [{key = "nvidia.com/gpu", value = "yes", effect = "NoSchedule"}]
""")
    settings = [f"kubeflow.image=flightdeck@{DIGEST}", "kubeflow.volume_claim=flightdeck"]
    config = load_config(str(tmp_path / "pods.toml"), settings)
    _, platform = yaml.safe_load_all(compilation.compile_config(config))
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    every = {"key": "batch", "operator": "Exists"}
    gpu = {"key": "nvidia.com/gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}
    pusher, trainer = executors["exec-Pusher"], executors["exec-Trainer"]
    assert pusher["nodeSelector"] == {"labels": {"kubernetes.io/arch": "amd64"}}
    assert pusher["podMetadata"] == {"labels": {"team": "ml"}}
    assert pusher["tolerations"] == [every]
    assert trainer["nodeSelector"]["labels"] == {
        **{"kubernetes.io/arch": "amd64", "example.com/pool": "gpu"}
    }
    assert trainer["podMetadata"] == {
        "labels": {"team": "gpu", "tier": "train"},
        "annotations": {"sidecar.istio.io/inject": "false"},
    }
    assert trainer["tolerations"] == [every, gpu]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('kubeflow.tolerations=[{"key": "a", "operator": "In"}]', "'Equal' or 'Exists'"),
        ('kubeflow.tolerations=[{"value": "a"}]', "without a key"),
        (
            'kubeflow.tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]',
            "no value is allowed",
        ),
        ("kubeflow.labels.team=a b", "letters, digits"),
        (f"kubeflow.labels.team={'x' * 64}", "at most 63"),
        ("kubeflow.node_selector.-a=b", "a key such as"),
        ("kubeflow.service_account=A_b", "the name of a ServiceAccount is expected"),
        ("kubeflow.memory=4", 'memory such as "4Gi" is expected'),
        ("kubeflow.memory=4K", 'memory such as "4Gi" is expected'),
        ("kubeflow.memory=NaN", 'memory such as "4Gi" is expected'),
        ("kubeflow.cpu=4Gi", 'processors such as "2" or "500m" is expected'),
        ("kubeflow.cpu=1_0", 'processors such as "2" or "500m" is expected'),
    ],
)
def test_kubeflow_config_refuses_what_kubernetes_does_not_accept(
    setting: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [setting])


def test_kubeflow_package_retries_are_not_limited_by_the_time_of_attempts() -> None:
    spec, _ = compiled("node_timeout_minutes=1440", "kubeflow.retries=10")
    policy = spec["root"]["dag"]["tasks"]["Trainer"]["retryPolicy"]
    # To Argo Workflows this is the time of all attempts together.
    assert int(policy["backoffMaxDuration"].rstrip("s")) > 11 * 24 * 3600


def test_monitoring_package_has_a_task_for_each_parameter() -> None:
    given = [f"kubeflow.image=flightdeck@{DIGEST}", "kubeflow.volume_claim=flightdeck"]
    text = compilation.compile_config(load_config(None, given), pipelines.MONITORING)
    spec, platform = yaml.safe_load_all(text)
    tasks = spec["root"]["dag"]["tasks"]
    assert {"RequestExampleGen", "StatisticsGen", "ServedModel", "ServingMonitor"} <= set(tasks)
    read = {
        value.get("componentInputParameter")
        for task in tasks.values()
        for value in task["inputs"].get("parameters", {}).values()
    }
    declared = spec["root"]["inputDefinitions"]["parameters"]
    assert set(declared) == read - {None}
    assert declared["log_uri"]["defaultValue"] == "/mnt/flightdeck/requests"
    assert not any("cachingOptions" in task and task["cachingOptions"] for task in tasks.values())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-ServingMonitor"]["pvcMount"][0]["mountPath"] == "/mnt/flightdeck"


@pytest.mark.parametrize("pipeline", pipelines.NAMES)
def test_kubeflow_package_of_a_name_that_another_model_has_is_refused(
    pipeline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(None, [f"kubeflow.image=flightdeck@{DIGEST}"])
    monkeypatch.setattr(model_folders, "model_names", lambda: ["copied"])
    monkeypatch.setattr(model_folders, "served_name", lambda model: config.model_name)
    message = "the models tests.trips and copied have the same name in the Serving directory"
    with pytest.raises(UserError, match=message):
        compilation.compile_config(config, pipeline)


def test_kubeflow_package_does_not_retry_data_gate() -> None:
    spec, _ = compiled()
    assert "retryPolicy" not in spec["root"]["dag"]["tasks"]["DataGate"]


def test_kubeflow_package_never_caches_what_depends_on_the_outside() -> None:
    tasks = compiled()[0]["root"]["dag"]["tasks"]
    cached = {name for name, task in tasks.items() if "cachingOptions" in task}
    assert set(tasks) - cached == {"SpanExampleGen", "ServedModel", "Pusher"}


def test_kubeflow_package_puts_beam_arguments_of_a_node_last() -> None:
    spec, _ = compiled('node_beam_args.Transform=["--direct_num_workers=2"]')
    executors = spec["deploymentSpec"]["executors"]
    args = {
        name: executors[f"exec-{name}"]["container"]["args"] for name in ("Transform", "Pruner")
    }
    assert args["Transform"][-1] == "--direct_num_workers=2"
    assert args["Transform"][:-1][-2:] == args["Pruner"][-2:]


def test_with_parameters_does_not_change_the_configuration() -> None:
    config = load_config(None, ["training.epochs=9"])
    names = {name: f"<{name}>" for name in parameter_values(config)}
    varied = with_parameters(config, names)
    assert parameter_values(varied) == names
    assert config.training.epochs == 9
    assert varied.evaluation == config.evaluation


def test_compile_prints_what_it_wrote_and_nothing_else(tmp_path: Path) -> None:
    output = tmp_path / "pipeline.yaml"
    done = run_compile(
        output, f"kubeflow.image=flightdeck@{DIGEST}", "kubeflow.volume_claim=flightdeck"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Wrote {output}: accepted by the checks of Kubeflow Pipelines.\n"
    assert output.exists()


@pytest.mark.parametrize(
    ("setting", "status", "message"),
    [
        ("kubeflow.cpu=2x", 2, "kubeflow.cpu = '2x': processors such as"),
        ("kubeflow.volume_claim=flightdeck", 1, "kubeflow.image is missing"),
    ],
)
def test_compile_writes_nothing_when_it_fails(
    setting: str, status: int, message: str, tmp_path: Path
) -> None:
    done = run_compile(tmp_path / "pipeline.yaml", setting)
    assert done.returncode == status
    assert message in done.stderr
    assert not (tmp_path / "pipeline.yaml").exists()


def test_run_parameters_override_the_configuration_and_are_checked() -> None:
    settings = ("kubeflow.volume_claim=flightdeck", "training.epochs=9", "training.seed=5")
    values = training.run_parameters(
        None, settings, ("training_epochs=3", "serving_dir=/mnt/elsewhere")
    )
    assert (values["training_epochs"], values["training_seed"]) == (3, 5)
    assert (values["serving_dir"], values["fingerprint"]) == ("/mnt/elsewhere", "")


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("training_epochs", "expected name=value, where the name is one of compression_max_bytes"),
        ("epochs=3", "expected name=value, where the name is one of compression_max_bytes"),
        ("training_epochs=0", "training.epochs = '0': .*greater than or equal to 1"),
        ("quantization_mode=int4", "quantization.mode = 'int4': .*'none', 'float16'"),
    ],
)
def test_run_parameters_refuse_a_wrong_value(parameter: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        training.run_parameters(None, ("kubeflow.volume_claim=f",), (parameter,))


def test_run_parameters_include_the_data_where_ingestion_is_cached(
    small_spans: Path,
) -> None:
    settings = ('kubeflow.uncached=["ServedModel", "Pusher"]', f"data.uri={small_spans}")
    values = training.run_parameters(None, (*settings, "kubeflow.volume_claim=f"), ())
    assert values["data_as_of"] == 201304
    assert len(str(values["fingerprint"])) == 64


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((), "/data/span_store"),
        (("kubeflow.span_store=gs://b/spans",), "gs://b/spans"),
        (("kubeflow.span_store=",), None),
    ],
)
def test_kubeflow_package_sets_the_span_store_of_tasks(
    settings: tuple[str, ...], expected: str | None
) -> None:
    spec, _ = compiled("kubeflow.mount_path=/data", *settings)
    for executor in spec["deploymentSpec"]["executors"].values():
        env = {e["name"]: e["value"] for e in executor["container"].get("env", [])}
        assert env.get(STORE_VARIABLE) == expected


def test_kubeflow_package_skips_all_that_needs_the_data_where_nothing_is_new() -> None:
    """The tasks that run nevertheless are those that need no data."""
    spec, _ = compiled()
    tasks = spec["root"]["dag"]["tasks"]
    assert tasks["StatisticsGen"]["triggerPolicy"] == {"condition": news.CONDITION}
    assert "news" in spec["components"]["comp-SpanExampleGen"]["outputDefinitions"]["parameters"]
    skipped = {"StatisticsGen"}
    while (
        more := {
            name for name, task in tasks.items() if skipped & set(task.get("dependentTasks", ()))
        }
        - skipped
    ):
        skipped |= more
    assert set(tasks) - skipped == {"ImportSchemaGen", "SpanExampleGen", "ServedModel"}


def test_kubeflow_package_has_its_condition_in_the_form_of_the_sdk() -> None:
    def look(news: Any) -> Any:
        return dsl.ContainerSpec(image="image", args=[news])

    look.__annotations__ = {"news": dsl.OutputPath(str)}  # As text the SDK does not know it.
    first = dsl.container_component(look)

    @dsl.container_component
    def count():  # type: ignore[no-untyped-def]
        return dsl.ContainerSpec(image="image")

    @dsl.pipeline(name="of-the-sdk")
    def pipeline():  # type: ignore[no-untyped-def]
        with dsl.If(first().outputs["news"] != news.NOTHING):
            count()

    theirs = json_format.MessageToDict(pipeline.pipeline_spec)["root"]["dag"]["tasks"]
    ours = compiled()[0]["root"]["dag"]["tasks"]["StatisticsGen"]
    condition = theirs["condition-1"]["triggerPolicy"]["condition"]
    assert ours["triggerPolicy"]["condition"] == condition.replace("pipelinechannel--look-", "")
    (given,) = theirs["condition-1"]["inputs"]["parameters"].values()
    assert given["taskOutputParameter"].keys() == (
        ours["inputs"]["parameters"]["news"]["taskOutputParameter"].keys()
    )


def test_kubeflow_package_trains_always_without_a_place_for_its_state() -> None:
    for settings in (
        ["kubeflow.state_dir="],
        ["kubeflow.volume_claim=", "data.uri=s3://b/data", "kubeflow.serving_dir=s3://b/s"],
    ):
        spec, *_ = compiled(*settings, "serving.sign=false", "kubeflow.api=http://api:8888")
        assert "only_if_new" not in spec["root"]["inputDefinitions"]["parameters"]
        assert "triggerPolicy" not in spec["root"]["dag"]["tasks"]["StatisticsGen"]
        for executor in spec["deploymentSpec"]["executors"].values():
            names = {variable["name"] for variable in executor["container"]["env"]}
            assert not {name for name in names if name.startswith("FLIGHTDECK_KUBEFLOW")}


def test_monitoring_package_knows_where_alarms_go_and_what_they_start() -> None:
    given = [f"kubeflow.image=flightdeck@{DIGEST}", "kubeflow.volume_claim=flightdeck"]
    config = load_config(None, [*given, "kubeflow.api=http://ml-pipeline.kubeflow:8888"])
    spec, _ = yaml.safe_load_all(compilation.compile_config(config, pipelines.MONITORING))
    container = spec["deploymentSpec"]["executors"]["exec-ServingMonitor"]["container"]
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    assert env["FLIGHTDECK_KUBEFLOW_STATE"] == "/mnt/flightdeck/state/trip_delay"
    assert env["FLIGHTDECK_KUBEFLOW_API"] == "http://ml-pipeline.kubeflow:8888"
    assert env["FLIGHTDECK_KUBEFLOW_SCHEDULE"] == "flightdeck-training-trip-delay"


@pytest.mark.parametrize(
    ("pipeline", "node", "output", "kind"),
    [
        (pipelines.TRAINING, "Evaluator", "metrics", "system.Metrics"),
        (pipelines.TRAINING, "Pusher", "page", "system.HTML"),
        (pipelines.MONITORING, "ServingMonitor", "metrics", "system.Metrics"),
        (pipelines.MONITORING, "ServingMonitor", "page", "system.HTML"),
    ],
)
def test_kubeflow_package_has_outputs_that_the_web_interface_shows(
    pipeline: str, node: str, output: str, kind: str
) -> None:
    given = [f"kubeflow.image=flightdeck@{DIGEST}", "kubeflow.volume_claim=flightdeck"]
    spec, _ = yaml.safe_load_all(compilation.compile_config(load_config(None, given), pipeline))
    outputs = spec["components"][f"comp-{node}"]["outputDefinitions"]["artifacts"]
    assert outputs[output]["artifactType"] == {"schemaTitle": kind, "schemaVersion": "0.0.1"}


@pytest.mark.parametrize(
    "setting",
    ["state_dir=s3://b/state", "api=ml-pipeline:8888", "api=http://user:secret@ml-pipeline"],
)
def test_kubeflow_settings_refuse_another_kind_of_place(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"kubeflow.{setting.partition('=')[0]}"):
        load_config(None, [f"kubeflow.{setting}"])


def test_page_of_a_run_knows_where_the_inputs_of_the_last_task_come_from() -> None:
    spec, *_ = yaml.safe_load_all((GOLDEN / "pipeline.yaml").read_text())
    task = spec["root"]["dag"]["tasks"][run_page.LAST]
    sources = {
        name: (source["producerTask"], source["outputArtifactKey"])
        for name, given in task["inputs"]["artifacts"].items()
        for source in [given["taskOutputArtifact"]]
    }
    # The package has no Tuner.
    assert sources | {"tuning": ("Tuner", "report")} == run_page.SOURCES
    assert {producer for producer, _ in sources.values()} == set(task["dependentTasks"])
