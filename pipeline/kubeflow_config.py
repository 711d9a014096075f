"""Settings of Kubeflow: what they mean, their defaults, and what is allowed."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.setting_types import (
    CHECKED,
    Accelerator,
    BucketUri,
    Cpu,
    EnvName,
    Image,
    Memory,
    MountPath,
    Positive,
    SecretKey,
    Switch,
    Text,
    VolumeClaim,
)


@dataclass(frozen=True, config=CHECKED)
class NodeConfig:
    """Settings of one node on Kubeflow, over those of all nodes in `KubeflowConfig`.

    Attributes:
      cpu: Processors, as Kubernetes writes them: "2" or "500m"; "" for those of all nodes.
      memory: Memory, as Kubernetes writes it: "4Gi"; "" for that of all nodes.
      accelerator: Name of the resource, as in "nvidia.com/gpu"; "" for none.
      accelerators: How many of them.
      retries: How often a failed task is tried again; -1 for the retries of all nodes.
    """

    cpu: Cpu = ""
    memory: Memory = ""
    accelerator: Accelerator = ""
    accelerators: Positive = 1
    retries: Annotated[int, Field(ge=-1, le=10)] = -1


@dataclass(frozen=True, config=CHECKED)
class KubeflowConfig:
    """How the pipeline runs on Kubeflow; see [kubeflow.md](kubeflow.md).

    Attributes:
      image: The project's image, by digest: `registry/name@sha256:...`.
      volume_claim: PersistentVolumeClaim that all tasks mount; "" for none.
      mount_path: Where they mount it. Relative paths (`data.uri`, `serving_dir`, the signing key)
        are on it.
      serving_dir: Serving directory: a path on the volume, or `gs://...` or `s3://...`.
      span_store: Where shards and analyses of single months are kept for later runs: a path as in
        `serving_dir`; "" for nowhere. A relative path without a volume keeps nothing.
      pipeline_root: Where Kubeflow keeps artifacts; "" for its own default.
      cpu: Processors for each node; "" for no request and no limit.
      memory: Memory for each node; "" for no request and no limit.
      retries: How often a failed task is tried again.
      cache: Whether tasks whose inputs, parameters and image did not change come from the cache.
      uncached: Nodes that always run, because they read more than their inputs.
      env: Environment variables of all tasks.
      secret_env: Environment variables of all tasks that come from a Secret, as "name/key".
      nodes: Settings of single nodes, by id.
    """

    image: Image = ""
    volume_claim: VolumeClaim = ""
    mount_path: MountPath = "/mnt/flightdeck"
    serving_dir: Text = "serving_model"
    span_store: str = "span_store"
    pipeline_root: BucketUri = ""
    cpu: Cpu = ""
    memory: Memory = ""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    cache: Switch = True
    uncached: tuple[str, ...] = ("SpanExampleGen", "ServedModel", "Pusher")
    env: dict[EnvName, str] = field(default_factory=dict)
    secret_env: dict[EnvName, SecretKey] = field(default_factory=dict)
    # DataGate would stop the same data again.
    nodes: dict[str, NodeConfig] = field(
        default_factory=lambda: {"DataGate": NodeConfig(retries=0)}
    )
