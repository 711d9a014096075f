"""Tests of the manifests for clouds: what kustomize makes of them is valid and says what was given.

The overlays have strategic merges for deletion alone, and JSON patches, which `jsonpatch` applies
here as kustomize does; where kubectl is, it renders them too.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonpatch
import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from serving.__main__ import main
from serving.manifests import CLOUD_RUN, EKS, GKE, NEEDED, TARGETS, VERTEX
from tests.serving.conftest import Sealed
from tests.serving.test_deploy import FLAGS, KUBERNETES_VERSIONS, flags

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"
VERSION = 1795434497
IMAGE = f"registry.example.com/flightdeck@sha256:{'1' * 64}"
VALUES = {
    "google_serving_dir": "gs://bucket/serving",
    "amazon_serving_dir": "s3://bucket/serving",
    "project": "my-project",
    "location": "europe-west4",
    "service_account": "server@my-project.iam.gserviceaccount.com",
    "role": "arn:aws:iam::210987654321:role/server",
    "aws_region": "eu-central-1",
}


def run(sealed: Sealed, output: Path, *targets: str, **changed: str) -> Any:
    values = {**VALUES, "image": IMAGE, "model": "toy", **changed}
    options = [(f"--{name.replace('_', '-')}", value) for name, value in values.items()]
    given = [("--target", target) for target in targets]
    return CliRunner().invoke(
        main,
        [
            *("manifests", sealed.directory.serving_dir, "--output", str(output)),
            *("--public-key", sealed.public_key),
            *(part for pair in (*options, *given) for part in pair),
        ],
    )


@pytest.fixture
def sealed(sealed: Sealed) -> Sealed:
    sealed.publish(VERSION, encrypt=False)
    return sealed


@pytest.fixture
def written(sealed: Sealed, tmp_path: Path) -> Path:
    """The manifests of all targets."""
    result = run(sealed, tmp_path / "cloud", "all")
    assert result.exit_code == 0, result.output
    return tmp_path / "cloud"


# What kustomize does, as far as these overlays use it


def render(folder: Path) -> list[Any]:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization.keys() <= {
        *("apiVersion", "kind", "resources", "components", "configMapGenerator", "images"),
        "patches",
    }
    return change(folder, kustomization, [])


def change(folder: Path, kustomization: Any, resources: list[Any]) -> list[Any]:
    """Resources after what a kustomization adds, and changes."""
    for name in kustomization.get("resources", []):
        if (folder / name).is_dir():
            resources += render(folder / name)
        else:
            resources += yaml.safe_load_all((folder / name).read_text())
    for generator in kustomization.get("configMapGenerator", []):
        pairs = [literal.split("=", 1) for literal in generator.get("literals", [])]
        data = dict(pairs) | {
            name: (folder / name).read_text() for name in generator.get("files", [])
        }
        metadata = {"name": generator["name"]}
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        resources.append(config)
    for name in kustomization.get("components", []):
        component = yaml.safe_load((folder / name / "kustomization.yaml").read_text())
        assert component["kind"] == "Component"
        resources = change(folder / name, component, resources)
    for patch in kustomization.get("patches", []):
        target = patch["target"]
        (found,) = [
            one
            for one in resources
            if (one["kind"], one["metadata"]["name"]) == (target["kind"], target["name"])
        ]
        operations = yaml.safe_load(patch.get("patch") or (folder / patch["path"]).read_text())
        if isinstance(operations, dict):
            assert operations.pop("$patch") == "delete"
            assert operations["kind"] == target["kind"]
            resources.remove(found)
        else:
            changed = jsonpatch.apply_patch(found, copy.deepcopy(operations))
            resources[resources.index(found)] = changed
    for image in kustomization.get("images", []):
        for one in containers(resources):
            name, _, _ = one["image"].rpartition(":")
            if name == image["name"]:
                one["image"] = f"{image['newName']}@{image['digest']}"
    return resources


def containers(resources: list[Any]) -> list[Any]:
    pods = [one["spec"]["template"]["spec"] for one in resources if one["kind"] == "Deployment"]
    return [one for pod in pods for one in (*pod.get("initContainers", []), *pod["containers"])]


def of_kind(resources: list[Any], kind: str, name: str = "model-server") -> Any:
    (found,) = [one for one in resources if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


# GKE and EKS


@pytest.mark.parametrize("target", [GKE, EKS])
def test_overlay_of_the_repository_is_valid_for_kubernetes(target: str, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "deploy" / target / "signing.pub").write_text("a key")
    for resource in render(tmp_path / "deploy" / target):
        kubernetes_validate.validate(resource, KUBERNETES_VERSIONS[-1], strict=True)


@pytest.mark.parametrize("target", [GKE, EKS])
def test_manifests_of_a_cluster_are_valid_and_have_own_storage_and_identity(
    written: Path, sealed: Sealed, target: str
) -> None:
    resources = render(written / target)
    for resource in resources:
        for version in KUBERNETES_VERSIONS:
            kubernetes_validate.validate(resource, version, strict=True)
    assert "PersistentVolumeClaim" not in {one["kind"] for one in resources}
    pod = of_kind(resources, "Deployment")["spec"]["template"]["spec"]
    (mirror,) = pod["initContainers"]
    assert mirror["image"] == IMAGE
    assert mirror["args"][0] == "$(SERVING_DIR)"
    mounted = {one["name"] for one in mirror["volumeMounts"]}
    assert mounted <= {one["name"] for one in pod["volumes"]}
    assert "serving-directory" not in str(resources)
    account = of_kind(resources, "ServiceAccount")
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    annotation, value, uri = {
        GKE: ("iam.gke.io/gcp-service-account", VALUES["service_account"], "gs://bucket/serving"),
        EKS: ("eks.amazonaws.com/role-arn", VALUES["role"], "s3://bucket/serving"),
    }[target]
    assert account["metadata"]["annotations"][annotation] == value
    config = of_kind(resources, "ConfigMap", "served-model")["data"]
    assert config == {
        "MODEL_NAME": "toy",
        "SERVING_DIR": uri,
        **({"AWS_REGION": "eu-central-1"} if target == EKS else {}),
    }
    keys = of_kind(resources, "ConfigMap", "trusted-keys")["data"]
    assert keys == {"signing.pub": Path(sealed.public_key).read_text()}


def test_manifests_let_the_pods_reach_the_bucket_and_the_names_alone(written: Path) -> None:
    ports = {}
    for target in (GKE, EKS):
        egress = of_kind(render(written / target), "NetworkPolicy")["spec"]["egress"]
        ports[target] = {
            (str(rule.get("to", "any")), port["port"]) for rule in egress for port in rule["ports"]
        }
    assert ports[EKS] == {("any", 53), ("any", 443)}
    assert {port for where, port in ports[GKE] - ports[EKS]} == {80, 988, 8080}
    assert all("169.254.169.25" in where for where, _ in ports[GKE] - ports[EKS])


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
@pytest.mark.parametrize("target", [GKE, EKS])
def test_kubectl_renders_the_overlay(written: Path, target: str) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(written / target)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    kinds = sorted(one["kind"] for one in yaml.safe_load_all(done.stdout))
    assert kinds == sorted(one["kind"] for one in render(written / target))


# Cloud Run


def test_manifests_of_cloud_run_are_a_pod_that_kubernetes_takes(written: Path) -> None:
    service = yaml.safe_load((written / CLOUD_RUN / "service.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("serving.knative.dev/v1", "Service")
    spec = dict(service["spec"]["template"]["spec"])
    assert spec.pop("timeoutSeconds") == 60
    assert spec.pop("containerConcurrency") == 64
    assert spec.pop("serviceAccountName") == VALUES["service_account"]
    for version in KUBERNETES_VERSIONS:
        pod = {"apiVersion": "v1", "kind": "Pod", "spec": spec}
        kubernetes_validate.validate(pod, version, strict=True)


def test_manifests_of_cloud_run_serve_what_the_mirror_verified(written: Path) -> None:
    service = yaml.safe_load((written / CLOUD_RUN / "service.yaml").read_text())
    server, mirror = service["spec"]["template"]["spec"]["containers"]
    # The one container with a port gets the requests.
    assert "ports" not in mirror
    assert [one["containerPort"] for one in server["ports"]] == [8501]
    given = flags(server["args"])
    assert given.keys() <= FLAGS
    assert given["model_base_path"] == "/models/$(MODEL_NAME)"
    assert mirror["image"] == IMAGE
    assert mirror["args"][:2] == ["$(SERVING_DIR)", "/models"]
    assert "--follow" in mirror["args"]
    assert {one["name"]: one["value"] for one in mirror["env"]} == {
        "MODEL_NAME": "toy",
        "SERVING_DIR": "gs://bucket/serving",
    }
    annotations = service["spec"]["template"]["metadata"]["annotations"]
    assert annotations["run.googleapis.com/cpu-throttling"] == "false"
    base = yaml.safe_load((DEPLOY / "kubernetes" / "deployment.yaml").read_text())
    (other,) = base["spec"]["template"]["spec"]["containers"]
    assert server["image"] == other["image"]


# Vertex AI


def test_manifests_of_vertex_are_bodies_of_the_api(written: Path) -> None:
    types = pytest.importorskip("google.cloud.aiplatform_v1.types")
    from google.protobuf import json_format

    bodies = {}
    kinds = {"model": "Model", "endpoint": "Endpoint", "deployed-model": "DeployedModel"}
    for name, kind in kinds.items():
        text = (written / VERTEX / f"{name}.json").read_text()
        message = getattr(types, kind).pb(getattr(types, kind)())
        json_format.Parse(text, message)  # A field that it does not have is an error.
        bodies[name] = json.loads(text)
    assert bodies["model"]["versionAliases"] == [f"v{VERSION}"]
    assert bodies["model"]["artifactUri"].startswith(f"gs://bucket/serving/toy/{VERSION}-")
    assert bodies["deployed-model"]["id"] == str(VERSION)
    assert bodies["deployed-model"]["serviceAccount"] == VALUES["service_account"]


def test_manifests_of_vertex_are_not_written_for_a_version_that_was_changed(
    sealed: Sealed, tmp_path: Path
) -> None:
    Path(sealed.directory.version_uri(VERSION), "saved_model.pb").write_bytes(b"forged")
    result = run(sealed, tmp_path / "cloud", "all")
    assert result.exit_code == 1
    assert not (tmp_path / "cloud").exists()


# What is refused


@pytest.mark.parametrize("target", TARGETS)
def test_manifests_name_every_option_that_a_target_lacks(
    sealed: Sealed, tmp_path: Path, target: str
) -> None:
    result = run(sealed, tmp_path / "cloud", target, **dict.fromkeys(VALUES, ""))
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    for name in NEEDED[target]:
        assert f"--{name.replace('_', '-')}" in line
    assert not (tmp_path / "cloud").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", "flightdeck:latest"),
        ("image", f"x y@sha256:{'1' * 64}"),
        ("model", "a\nb"),
        ("model", "../toy"),
        ("google_serving_dir", "/data/serving"),
        ("google_serving_dir", "gs://bucket/a b"),
        ("google_serving_dir", "gs://bucket/x\nMORE=1"),
        ("amazon_serving_dir", "gs://bucket"),
        ("role", "server"),
        ("service_account", "server"),
        ("aws_region", "Frankfurt"),
        ("location", "europe"),
        ("project", "UPPER"),
    ],
)
def test_manifests_refuse_what_is_no_such_name(
    sealed: Sealed, tmp_path: Path, name: str, value: str
) -> None:
    result = run(sealed, tmp_path / "cloud", "gke", **{name: value})
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert "expected" in line
    assert not (tmp_path / "cloud").exists()


def test_manifests_are_the_same_when_written_again(sealed: Sealed, written: Path) -> None:
    before = {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    run(sealed, written, "all")
    assert {path: path.read_bytes() for path in written.rglob("*") if path.is_file()} == before


def test_manifests_need_no_library_of_a_cloud() -> None:
    script = "import sys, serving.manifests; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=DEPLOY.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = done.stdout.split()
    assert "serving.manifests" in loaded
    assert not {"google.auth", "google.cloud.storage", "google.cloud.aiplatform_v1"} & set(loaded)
