"""Tests of packages: what is put into them, and what is refused before Kubeflow would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import toy_components
import yaml
from tfx import v1 as tfx

from orchestration.kubeflow.errors import KubeflowError
from orchestration.kubeflow.package import check_package
from orchestration.kubeflow.spec import Platform, Resources, compile_package
from storage.errors import UserError


@pytest.fixture(autouse=True)
def importable_note(monkeypatch: pytest.MonkeyPatch) -> None:
    # TFX accepts artifact types that are a module and a class.
    monkeypatch.setattr(toy_components.Note, "TYPE_NAME", "toy_components.Note")


def package(platform: Platform | None = None, *, enable_cache: bool = True) -> str:
    """Two notes, joined; the separator is a pipeline parameter."""
    separator = tfx.dsl.experimental.RuntimeParameter(name="separator", ptype=str)
    left = toy_components.Source(text="a").with_id("Left")
    right = toy_components.Source(text="b").with_id("Right")
    join = toy_components.Join(
        left=left.outputs["note"], right=right.outputs["note"], separator=separator
    )
    pipeline = tfx.dsl.Pipeline(
        "toy", pipeline_root="", components=[left, right, join], enable_cache=enable_cache
    )
    return compile_package(
        pipeline, platform or Platform(image="image", nodes={}), {"separator": " and "}
    )


def documents(text: str) -> list[Any]:
    return list(yaml.safe_load_all(text))


def task(text: str, name: str) -> Any:
    return documents(text)[0]["root"]["dag"]["tasks"][name]


def container(text: str, name: str) -> Any:
    return documents(text)[0]["deploymentSpec"]["executors"][f"exec-{name}"]["container"]


def changed(change: Callable[[Any], object]) -> str:
    """A valid package after a change of its pipeline spec."""
    spec, *others = documents(package(Platform("image", {}, "claim", "/mnt")))
    change(spec)
    return yaml.safe_dump_all([spec, *others])


def test_the_same_pipeline_gives_the_same_text() -> None:
    assert package() == package()


def test_parameters_have_their_defaults_which_tfx_leaves_out() -> None:
    (spec,) = documents(package())
    declared = spec["root"]["inputDefinitions"]["parameters"]
    assert declared == {"separator": {"parameterType": "STRING", "defaultValue": " and "}}
    assert "#    separator: STRING [Default: ' and ']" in package().splitlines()


def test_a_default_is_needed_for_each_parameter_and_for_no_other() -> None:
    pipeline = tfx.dsl.Pipeline("toy", pipeline_root="", components=[toy_components.Source()])
    with pytest.raises(ValueError, match="other"):
        compile_package(pipeline, Platform("image", {}), {"other": 1})


def test_each_task_runs_the_entrypoint_in_the_image() -> None:
    joined = container(package(), "Join")
    assert joined["image"] == "image"
    command = ["python", "-m", "orchestration.kubeflow.entrypoint", "--node_id", "Join"]
    assert joined["command"] == command


def test_resources_are_written_for_old_and_new_back_ends() -> None:
    nodes = {"Join": Resources("500m", "4Gi", "nvidia.com/gpu", 2)}
    text = package(Platform("image", nodes))
    assert container(text, "Join")["resources"] == {
        "cpuLimit": 0.5,
        "cpuRequest": 0.5,
        "resourceCpuLimit": "500m",
        "resourceCpuRequest": "500m",
        "memoryLimit": pytest.approx(4.294967296),
        "memoryRequest": pytest.approx(4.294967296),
        "resourceMemoryLimit": "4Gi",
        "resourceMemoryRequest": "4Gi",
        "accelerator": {
            "type": "nvidia.com/gpu",
            "count": "2",
            "resourceType": "nvidia.com/gpu",
            "resourceCount": "2",
        },
    }
    assert "resources" not in container(text, "Left")


@pytest.mark.parametrize(
    ("memory", "gigabytes"),
    [("1G", 1.0), ("1.5G", 1.5), ("1024Mi", 1.073741824), ("2Ti", 2199.023255552), ("5e", None)],
)
def test_memory_is_understood_as_kubernetes_does(memory: str, gigabytes: float | None) -> None:
    platform = Platform("image", {"Join": Resources(memory=memory)})
    if gigabytes is None:
        with pytest.raises(ValueError, match="memory such as"):
            package(platform)
    else:
        resources = container(package(platform), "Join")["resources"]
        assert resources["memoryLimit"] == pytest.approx(gigabytes)


def test_a_failed_task_is_tried_again_as_often_as_is_said() -> None:
    text = package(Platform("image", {"Join": Resources(retries=3), "Left": Resources()}))
    assert task(text, "Join")["retryPolicy"]["maxRetryCount"] == 3
    assert "retryPolicy" not in task(text, "Left")


def test_tasks_have_a_time_limit_that_kubernetes_keeps() -> None:
    nodes = {"Join": Resources(seconds=90.5), "Left": Resources()}
    text = package(Platform("image", nodes, "claim", "/mnt"))
    executors = documents(text)[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-Join"]["activeDeadlineSeconds"] == "91"
    assert "activeDeadlineSeconds" not in executors["exec-Left"]
    check_package(package(Platform("image", nodes)))


def test_tasks_come_from_the_cache_but_for_those_that_must_not() -> None:
    text = package(Platform("image", {}, uncached=["Left"]))
    assert task(text, "Right")["cachingOptions"] == {"enableCache": True}
    assert "cachingOptions" not in task(text, "Left")
    assert "cachingOptions" not in task(package(enable_cache=False), "Right")


def test_a_volume_is_mounted_by_every_task() -> None:
    _, platform = documents(package(Platform("image", {}, "claim", "/mnt/data")))
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mount = {"pvcMount": [{"constant": "claim", "mountPath": "/mnt/data"}]}
    assert executors == {f"exec-{name}": mount for name in ("Left", "Right", "Join")}


def test_tasks_get_environment_variables_also_from_secrets() -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "minio/secretkey", "AWS_ACCESS_KEY_ID": "minio/accesskey"}
    text = package(Platform("image", {}, env={"B": "2", "A": "1"}, secret_env=secrets))
    pairs = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    assert container(text, "Join")["env"] == pairs
    executors = documents(text)[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    (access, secret) = executors["exec-Join"]["secretAsEnv"]
    assert access["secretName"] == "minio"
    assert access["keyToEnv"] == [{"secretKey": "accesskey", "envVar": "AWS_ACCESS_KEY_ID"}]
    assert secret["keyToEnv"] == [{"secretKey": "secretkey", "envVar": "AWS_SECRET_ACCESS_KEY"}]


@pytest.mark.parametrize(
    "platform",
    [Platform("image", {"Joyn": Resources()}), Platform("image", {}, uncached=["Joyn"])],
)
def test_a_node_that_does_not_exist_is_named_with_those_that_do(platform: Platform) -> None:
    with pytest.raises(UserError, match="Joyn: no such node; the nodes are Left, Right, Join"):
        package(platform)


def test_what_is_compiled_is_accepted() -> None:
    check_package(package())
    check_package(package(Platform("image", {}, "claim", "/mnt")))


def _rename_task(spec: Any) -> None:
    tasks = spec["root"]["dag"]["tasks"]
    tasks["a_b"] = tasks.pop("Left")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(schemaVersion="2.0.0"), "schemaVersion is '2.0.0'; only 2.1.0"),
        (lambda s: s.pop("schemaVersion"), "schemaVersion is ''"),
        (lambda s: s["pipelineInfo"].update(name="My Pipeline"), "name 'My Pipeline'"),
        (lambda s: s["pipelineInfo"].update(name=""), "name ''"),
        (lambda s: s["root"].pop("dag"), "the root has no tasks"),
        (lambda s: s.update(nonsense=1), "not a pipeline spec: .*nonsense"),
        (_rename_task, "task 'a_b': letters, digits and '-'"),
        (lambda s: s["components"].pop("comp-Join"), "no component 'comp-Join'"),
        (
            lambda s: s["deploymentSpec"]["executors"].pop("exec-Join"),
            "task Join: there is no executor 'exec-Join'",
        ),
        (
            lambda s: s["deploymentSpec"]["executors"].update({"exec-Join": {"resolver": {}}}),
            "task Join is a resolver",
        ),
        (
            lambda s: s["deploymentSpec"]["executors"]["exec-Join"].update(nonsense=1),
            "deploymentSpec: .*nonsense",
        ),
        (
            lambda s: s["root"]["dag"]["tasks"]["Join"].update(dependentTasks=["Middle"]),
            "task Join waits for 'Middle'",
        ),
        (
            lambda s: s["root"]["inputDefinitions"]["parameters"].pop("separator"),
            "task Join reads the parameter 'separator'",
        ),
        (
            lambda s: s["root"]["inputDefinitions"]["parameters"]["separator"].pop("parameterType"),
            "parameter separator has no parameterType",
        ),
    ],
)
def test_what_kubeflow_would_refuse_is_refused(
    change: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(KubeflowError, match=message):
        check_package(changed(change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no pipeline spec"),
        ("a: [", "not YAML"),
        ("- a", "not a mapping"),
        ("platforms: {kubernetes: {}}", "holds no pipeline spec"),
    ],
)
def test_what_is_no_package_is_refused(text: str, message: str) -> None:
    with pytest.raises(KubeflowError, match=message):
        check_package(text)


def test_a_second_pipeline_spec_is_refused() -> None:
    with pytest.raises(KubeflowError, match="more than one pipeline spec"):
        check_package(package() + "---\n" + package())


@pytest.mark.parametrize(
    ("executors", "message"),
    [
        ({"exec-Joyn": {}}, "about 'exec-Joyn', which does not exist"),
        ({"exec-Join": {"pvcMounts": []}}, "platform spec of exec-Join: .*pvcMounts"),
    ],
)
def test_a_platform_spec_that_kubeflow_would_refuse_is_refused(
    executors: Any, message: str
) -> None:
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}
    with pytest.raises(KubeflowError, match=message):
        check_package(package() + "---\n" + yaml.safe_dump(platform))
