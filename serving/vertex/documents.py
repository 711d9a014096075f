"""What Vertex AI is asked to make for a version: the fields of its resources, and their names.

Names are made of those of model and version, so that a command that is run again finds what it made
before. Fields are called as in the API's protocol buffers (`google.cloud.aiplatform.v1`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.keys import TrustStore

PREBUILT, OURS = SERVERS = ("prebuilt", "flightdeck")
MODEL_LABEL = "flightdeck-model"
_PORT = 8080
# The newest that Google has; 2.15 reads what is saved with TensorFlow 2.16 as far as its operations
# go. Google takes these images without a digest alone.
_PREBUILT_IMAGE = "{}-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-15:latest"
_REGIONS = {"europe": "europe", "asia": "asia"}
# Vertex AI names the copy of the files by AIP_STORAGE_URI. Before the server starts, they are
# verified and copied to where nobody else can change them.
_START = (
    'umask 077 && mkdir /tmp/keys && printf %s "$FLIGHTDECK_PUBLIC_KEYS" > /tmp/keys/trusted.pub '
    '&& python -m serving mirror "$AIP_STORAGE_URI" /tmp/models --model "$MODEL_NAME" '
    "--public-key /tmp/keys/trusted.pub "
    '&& exec python -m serving serve /tmp/models --model "$MODEL_NAME" --no-verify --insecure '
    "--host 0.0.0.0 --rest-port 8080 --no-ui"
)
_LONGEST_ID = 40


@dataclass(frozen=True)
class Server:
    """What serves a version on Vertex AI.

    Attributes:
      kind: One of `SERVERS`: Google's container of TensorFlow Serving, or the project's own image.
      image: The project's image, by digest; "" for Google's container.
      machine: Type of the machines.
      min_replicas: Fewest of them.
      max_replicas: Most of them.
      service_account: Account that the server runs as; "" for Vertex AI's own.

    Raises:
      ValueError: If they do not fit together.
    """

    kind: str = PREBUILT
    image: str = ""
    machine: str = "n1-standard-2"
    min_replicas: int = 1
    max_replicas: int = 1
    service_account: str = ""

    def __post_init__(self) -> None:
        if self.kind not in SERVERS:
            raise ValueError(f"server {self.kind!r}: {' or '.join(SERVERS)} is expected")
        if self.kind == OURS and not self.image:
            raise ValueError("the server flightdeck needs its image, by digest")
        if self.kind == PREBUILT and self.image:
            raise ValueError("the server prebuilt has an image of its own: leave the image out")
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ValueError(
                f"{self.min_replicas} to {self.max_replicas} replicas: at least 1, and no more at "
                "least than at most, are expected"
            )


def model_id(model_name: str) -> str:
    """ID of the model in the registry: lower-case letters, digits, `_` and `-`.

    Examples:
      >>> model_id("taxi_tips")
      'flightdeck-taxi_tips'
    """
    return f"flightdeck-{_slug(model_name)}"


def endpoint_id(model_name: str) -> str:
    """ID of the endpoint: lower-case letters, digits and `-`.

    Examples:
      >>> endpoint_id("taxi_tips")
      'flightdeck-taxi-tips'
    """
    return f"flightdeck-{_slug(model_name).replace('_', '-')}"


def deployed_id(version: int) -> str:
    """ID of a version on the endpoint, of which the traffic split speaks: one to ten digits.

    Examples:
      >>> deployed_id(1795434497), len(deployed_id(2**62))
      ('1795434497', 10)
    """
    if 0 < version < 10**10:
        return str(version)
    return str(10**9 + int(hashlib.sha256(str(version).encode()).hexdigest(), 16) % (9 * 10**9))


def alias(version: int) -> str:
    """Alias of the version in the registry, which counts versions itself: 1, 2, 3.

    Examples:
      >>> alias(1795434497)
      'v1795434497'
    """
    return f"v{version}"


def container(server: Server, model_name: str, location: str, trust: TrustStore) -> dict[str, Any]:
    """The fields of `ModelContainerSpec`."""
    if server.kind == PREBUILT:
        region = _REGIONS.get(location.partition("-")[0], "us")
        return {"image_uri": _PREBUILT_IMAGE.format(region)}
    return {
        "image_uri": server.image,
        "command": ["sh", "-c", _START],
        "env": [
            {"name": "MODEL_NAME", "value": model_name},
            {"name": "FLIGHTDECK_PUBLIC_KEYS", "value": only_key(trust)},
        ],
        "ports": [{"container_port": _PORT}],
        "predict_route": f"/v1/models/{model_name}:predict",
        "health_route": f"/v1/models/{model_name}",
    }


def model(
    model_name: str, version: int, uri: str, spec: Mapping[str, Any], digest: str, key: str
) -> dict[str, Any]:
    """The fields of `Model`: a version of the model in the registry.

    Args:
      model_name: Name of the model.
      version: Number of the version.
      uri: Folder of its files in a bucket, of `artifact_uri`.
      spec: The container, of `container`.
      digest: What `digest_of` says of its files and container.
      key: Key of Cloud KMS that it is encrypted with; "" for Google's own.
    """
    return {
        "display_name": model_name,
        "version_aliases": [alias(version)],
        "version_description": description(version, digest),
        "artifact_uri": uri,
        "container_spec": dict(spec),
        "labels": {MODEL_LABEL: label(model_name)},
        **_encryption(key),
    }


def endpoint(model_name: str, network: str, key: str) -> dict[str, Any]:
    """The fields of `Endpoint`."""
    return {
        "display_name": model_name,
        "labels": {MODEL_LABEL: label(model_name)},
        **({"network": network} if network else {}),
        **_encryption(key),
    }


def deployed_model(
    model_name: str, version: int, model_resource: str, server: Server
) -> dict[str, Any]:
    """The fields of `DeployedModel`: a version on the endpoint."""
    account = {"service_account": server.service_account} if server.service_account else {}
    return {
        "id": deployed_id(version),
        "model": model_resource,
        "display_name": f"{model_name}-{version}",
        "dedicated_resources": {
            "machine_spec": {"machine_type": server.machine},
            "min_replica_count": server.min_replicas,
            "max_replica_count": server.max_replicas,
        },
        **account,
    }


def only_key(trust: TrustStore) -> str:
    """The PEM of the one public key that servers are to trust.

    Raises:
      ValueError: If there are several.
    """
    keys = [pem.decode() for pem in map(trust.find, trust.key_ids) if pem]
    if len(keys) != 1:
        raise ValueError(
            f"there are {len(keys)} public keys, of which servers trust one: name it by "
            "--public-key"
        )
    return keys[0]


def artifact_uri(bucket: str, model_name: str, version: int, digest: str) -> str:
    """The folder in a bucket for the files of a version; other files have another one."""
    return f"{bucket.rstrip('/')}/{model_name}/{version}-{digest[:12]}"


def version_of(display_name: str) -> int | None:
    """Number of a version on an endpoint, by the name that `deployed_model` gave it."""
    found = re.fullmatch(r".+-([0-9]{1,19})", display_name, re.ASCII)
    return int(found[1]) if found else None


def description(version: int, digest: str) -> str:
    """What tells a version in the registry from another one of the same number."""
    return f"flightdeck version {version}, sha256 {digest}"


def digest_of(files: Mapping[str, str], spec: Mapping[str, Any]) -> str:
    """SHA-256 over the digests of files by name, and the container."""
    text = json.dumps([sorted(files.items()), spec], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def label(text: str) -> str:
    """A text as the value of a label."""
    return _slug(text)


def _slug(name: str) -> str:
    """A name in lower-case letters, digits and `_`; with a digest where that loses something."""
    if re.fullmatch(rf"[a-z0-9_]{{0,{_LONGEST_ID}}}[a-z0-9]", name, re.ASCII):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    short = re.sub(r"[^a-z0-9_]", "-", name.lower())[:_LONGEST_ID]
    return f"{short}-{digest}"


def _encryption(key: str) -> dict[str, Any]:
    return {"encryption_spec": {"kms_key_name": key}} if key else {}
