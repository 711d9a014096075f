"""Tests of what is applied to a cluster before the first run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from orchestration.kubeflow import compilation
from pipeline.config import load_config
from storage.errors import UserError

DEPLOY = Path(__file__).parents[2] / "orchestration" / "deploy"


def objects() -> dict[str, Any]:
    documents = yaml.safe_load_all((DEPLOY / "volume.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("version", ["1.29", "1.34"])
@pytest.mark.parametrize("kind", ["PersistentVolumeClaim", "Pod"])
def test_kubernetes_accepts_the_volume_and_its_pod(kind: str, version: str) -> None:
    kubernetes_validate.validate(objects()[kind], version, strict=True)


def test_the_pod_the_claim_and_the_configuration_are_about_the_same_volume() -> None:
    claim, pod = objects()["PersistentVolumeClaim"], objects()["Pod"]["spec"]
    kubeflow = load_config(str(DEPLOY / "kubeflow.toml")).kubeflow
    assert kubeflow.volume_claim == claim["metadata"]["name"]
    (volume,) = pod["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert mount["mountPath"] == kubeflow.mount_path


def test_the_pod_gives_the_volume_to_the_user_of_the_image() -> None:
    containerfile = (DEPLOY.parents[1] / "Containerfile").read_text(encoding="utf-8")
    context = objects()["Pod"]["spec"]["securityContext"]
    assert f"USER {context['runAsUser']}:" in containerfile
    assert context["fsGroup"] == context["runAsUser"]


def test_the_example_configuration_lacks_the_image_alone() -> None:
    path = str(DEPLOY / "kubeflow.toml")
    with pytest.raises(UserError, match=r"kubeflow\.image is missing"):
        compilation.compile_config(load_config(path))
    image = f"kubeflow.image=registry.example.com/flightdeck@sha256:{'0' * 64}"
    assert compilation.compile_config(load_config(path, [image]))


def test_the_bucket_in_the_comments_works_when_it_is_no_comment(tmp_path: Path) -> None:
    text = (DEPLOY / "kubeflow.toml").read_text(encoding="utf-8")
    _, _, comment = text.partition("leave out volume_claim, and then\n")
    bucket = "\n".join(line.removeprefix("# ") for line in comment.splitlines())
    image = f'[kubeflow]\nimage = "x@sha256:{"0" * 64}"'
    (tmp_path / "bucket.toml").write_text(bucket.replace("[kubeflow]", image))
    package = compilation.compile_config(load_config(str(tmp_path / "bucket.toml")))
    assert "seaweedfs.kubeflow:9000" in package
    assert "envVar: AWS_SECRET_ACCESS_KEY" in package
