"""Writes what serves a model in a cloud: overlays, a Cloud Run service, requests to Vertex AI.

They are the files of `serving/deploy` with the values of one installation in the place of examples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cloud.names import check_all
from serving.versions import as_serving_directory
from serving.vertex import documents
from serving.vertex.documents import Server
from serving.vertex.staging import file_digests
from storage.atomic_write import write_whole
from storage.keys import TrustStore
from storage.private_copy import PrivateCopy

GKE, EKS, CLOUD_RUN, VERTEX = TARGETS = ("gke", "eks", "cloud-run", "vertex")
_DEPLOY = Path(__file__).with_name("deploy")
_KEY_FILE = "signing.pub"


@dataclass(frozen=True)
class Installation:
    """Where a model is served, and with whose rights.

    Attributes:
      model_name: Name of the model in the Serving directory.
      image: The project's image, by digest.
      google_serving_dir: The Serving directory in a bucket of Google's, `gs://...`.
      amazon_serving_dir: The same in one of Amazon's, `s3://...`.
      project: ID of the project of Google Cloud.
      location: Its region.
      service_account: Account of Google Cloud that may read the bucket.
      role: ARN of the role of AWS that may read the bucket.
      aws_region: Region of AWS.

    Raises:
      ValueError: If one is no such name.
    """

    model_name: str
    image: str
    google_serving_dir: str = ""
    amazon_serving_dir: str = ""
    project: str = ""
    location: str = ""
    service_account: str = ""
    role: str = ""
    aws_region: str = ""

    def __post_init__(self) -> None:
        check_all(model_name=self.model_name, image=self.image)
        check_all(bucket=self.google_serving_dir, s3_bucket=self.amazon_serving_dir)
        check_all(project=self.project, location=self.location, role=self.role)
        check_all(service_account=self.service_account, aws_region=self.aws_region)


# What each target needs, besides model and image.
NEEDED: dict[str, tuple[str, ...]] = {
    GKE: ("google_serving_dir", "service_account"),
    EKS: ("amazon_serving_dir", "role", "aws_region"),
    CLOUD_RUN: ("google_serving_dir", "service_account", "location"),
    VERTEX: ("project", "location", "google_serving_dir"),
}


def check_needs(installation: Installation, target: str) -> None:
    """Checks that there is what a target needs.

    Raises:
      ValueError: Naming the options that are missing.
    """
    missing = [name for name in NEEDED[target] if not getattr(installation, name)]
    if missing:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise ValueError(f"the target {target} needs {options}")


def write_manifests(
    installation: Installation,
    target: str,
    folder: Path,
    trust: TrustStore,
    copy: PrivateCopy | None = None,
) -> list[Path]:
    """Writes the manifests of a target.

    Args:
      installation: The values.
      target: One of `TARGETS`.
      folder: Where to write: what a target shares with others beside its own folder.
      trust: The public key that versions are verified with.
      copy: The version for `VERTEX`, a private copy that was verified.

    Returns:
      The files.

    Raises:
      ValueError: If a value is missing that the target needs.
      OSError: If they cannot be written.
    """
    check_needs(installation, target)
    if target == VERTEX:
        if copy is None or copy.signed is None:
            raise ValueError("the target vertex needs a version that was verified")
        files = _vertex(installation, trust, copy)
    elif target == CLOUD_RUN:
        files = _cloud_run(installation, trust)
    else:
        files = _overlay(target, installation, trust)
    for name, text in sorted(files.items()):
        write_whole(str(folder / name), text.encode())
    return [folder / name for name in sorted(files)]


def _overlay(target: str, installation: Installation, trust: TrustStore) -> dict[str, str]:
    overlay = yaml.safe_load(_read(f"{target}/kustomization.yaml"))
    uri, identity = (
        (installation.google_serving_dir, installation.service_account)
        if target == GKE
        else (installation.amazon_serving_dir, installation.role)
    )
    literals = {"MODEL_NAME": installation.model_name, "SERVING_DIR": uri}
    if target == EKS:
        literals["AWS_REGION"] = installation.aws_region
    model, keys = overlay["configMapGenerator"]
    model["literals"] = [f"{name}={value}" for name, value in literals.items()]
    keys["files"] = [_KEY_FILE]
    name, _, digest = installation.image.partition("@")
    overlay["images"] = [{"name": "flightdeck", "newName": name, "digest": digest}]
    (patch,) = overlay["patches"]
    (change,) = yaml.safe_load(patch["patch"])
    change["value"] = identity
    patch["patch"] = _dump([change])
    parts = ["kubernetes", *(part.removeprefix("../") for part in overlay["components"])]
    return {
        **{name: _read(name) for part in parts for name in _below(part)},
        f"{target}/kustomization.yaml": _dump(overlay),
        f"{target}/{_KEY_FILE}": documents.only_key(trust),
    }


def _cloud_run(installation: Installation, trust: TrustStore) -> dict[str, str]:
    service = yaml.safe_load(_read("cloud-run/service.yaml"))
    service["metadata"]["labels"] = {"cloud.googleapis.com/location": installation.location}
    spec = service["spec"]["template"]["spec"]
    spec["serviceAccountName"] = installation.service_account
    values = {
        "MODEL_NAME": installation.model_name,
        "SERVING_DIR": installation.google_serving_dir,
    }
    for container in spec["containers"]:
        if container["name"] == "mirror":
            container["image"] = installation.image
        for variable in container["env"]:
            variable["value"] = values[variable["name"]]
    return {
        "cloud-run/service.yaml": _dump(service),
        f"cloud-run/{_KEY_FILE}": documents.only_key(trust),
    }


def _vertex(installation: Installation, trust: TrustStore, copy: PrivateCopy) -> dict[str, str]:
    """The bodies of the requests that `python -m serving vertex deploy` sends for the version."""
    name, version = installation.model_name, copy.version
    server = Server(
        documents.OURS, installation.image, service_account=installation.service_account
    )
    spec = documents.container(server, name, installation.location, trust)
    digest = documents.digest_of(file_digests(as_serving_directory(copy)), spec)
    uri = documents.artifact_uri(installation.google_serving_dir, name, version, digest)
    parent = f"projects/{installation.project}/locations/{installation.location}"
    resource = f"{parent}/models/{documents.model_id(name)}@{documents.alias(version)}"
    bodies: dict[str, Mapping[str, Any]] = {
        "model": documents.model(name, version, uri, spec, digest, ""),
        "endpoint": documents.endpoint(name, "", ""),
        "deployed-model": documents.deployed_model(name, version, resource, server),
    }
    return {
        f"vertex/{kind}.json": json.dumps(_as_json_has_it(body), indent=2, sort_keys=True) + "\n"
        for kind, body in bodies.items()
    }


def _as_json_has_it(value: Any) -> Any:
    """A message with the names of its fields as in JSON: `displayName` for `display_name`."""
    if isinstance(value, Mapping):
        return {
            re.sub(r"_([a-z])", lambda found: found[1].upper(), name): _as_json_has_it(each)
            for name, each in value.items()
        }
    return [_as_json_has_it(each) for each in value] if isinstance(value, list) else value


def _below(folder: str) -> list[str]:
    """The files of a folder of `serving/deploy`, by their paths there."""
    return [f"{folder}/{path.name}" for path in sorted((_DEPLOY / folder).iterdir())]


def _read(name: str) -> str:
    return (_DEPLOY / name).read_text(encoding="utf-8")


def _dump(document: Any) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, width=1000)
    return text
