"""Settings of Kubeflow: what they mean, their defaults, and what is allowed."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.setting_types import (
    CHECKED,
    Accelerator,
    BucketUri,
    Cpu,
    EnvName,
    Image,
    LabelKey,
    LabelValue,
    Memory,
    MountPath,
    Positive,
    SecretKey,
    ServiceAccount,
    Switch,
    Text,
    VolumeClaim,
)


@dataclass(frozen=True, config=CHECKED)
class TolerationConfig:
    """A taint of cluster nodes that tasks tolerate; see Kubernetes' "Taints and Tolerations".

    Attributes:
      key: Key of the taint; "" for any.
      operator: "Equal" if the value has to be the taint's, "Exists" for any value.
      value: Value of the taint.
      effect: Effect of the taint; "" for any.
    """

    key: LabelKey | Literal[""] = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


@dataclass(frozen=True, config=CHECKED)
class NodeConfig:
    """Settings of one node on Kubeflow, over those of all nodes in `KubeflowConfig`.

    Attributes:
      cpu: Processors, as Kubernetes writes them: "2" or "500m"; "" for those of all nodes.
      memory: Memory, as Kubernetes writes it: "4Gi"; "" for that of all nodes.
      accelerator: Name of the resource, as in "nvidia.com/gpu"; "" for none.
      accelerators: How many of them.
      retries: How often a failed task is tried again; -1 for the retries of all nodes.
      node_selector: Labels that a cluster node must have, besides those for all tasks.
      tolerations: Taints of cluster nodes that this task tolerates, besides those for all.
      labels: Labels of the pod, besides those for all tasks.
      annotations: Annotations of the pod, besides those for all tasks.
    """

    cpu: Cpu = ""
    memory: Memory = ""
    accelerator: Accelerator = ""
    accelerators: Positive = 1
    retries: Annotated[int, Field(ge=-1, le=10)] = -1
    node_selector: dict[LabelKey, LabelValue] = field(default_factory=dict)
    tolerations: tuple[TolerationConfig, ...] = ()
    labels: dict[LabelKey, LabelValue] = field(default_factory=dict)
    annotations: dict[LabelKey, str] = field(default_factory=dict)


@dataclass(frozen=True, config=CHECKED)
class KubeflowConfig:
    """How the pipeline runs on Kubeflow; see [kubeflow.md](kubeflow.md).

    Attributes:
      image: The project's image, by digest: `registry/name@sha256:...`.
      volume_claim: PersistentVolumeClaim that all tasks mount; "" for none.
      mount_path: Where they mount it. Relative paths (`data.uri`, `serving_dir`, the signing key)
        are on it.
      serving_dir: Serving directory: a path on the volume, or `gs://...` or `s3://...`.
      request_log: Request log that the monitoring pipeline reads, a path as in `serving_dir`.
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
      service_account: Kubernetes account that tasks run as; "" for the server's default. The
        command line goes over it.
      node_selector: Labels that the cluster nodes of all tasks must have.
      tolerations: Taints of cluster nodes that all tasks tolerate.
      labels: Labels of all pods.
      annotations: Annotations of all pods.
      nodes: Settings of single nodes, by id.
    """

    image: Image = ""
    volume_claim: VolumeClaim = ""
    mount_path: MountPath = "/mnt/flightdeck"
    serving_dir: Text = "serving_model"
    request_log: Text = "requests"
    span_store: str = "span_store"
    pipeline_root: BucketUri = ""
    cpu: Cpu = ""
    memory: Memory = ""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    cache: Switch = True
    uncached: tuple[str, ...] = ("SpanExampleGen", "ServedModel", "Pusher")
    env: dict[EnvName, str] = field(default_factory=dict)
    secret_env: dict[EnvName, SecretKey] = field(default_factory=dict)
    service_account: ServiceAccount = ""
    node_selector: dict[LabelKey, LabelValue] = field(default_factory=dict)
    tolerations: tuple[TolerationConfig, ...] = ()
    labels: dict[LabelKey, LabelValue] = field(default_factory=dict)
    annotations: dict[LabelKey, str] = field(default_factory=dict)
    # DataGate would stop the same data again.
    nodes: dict[str, NodeConfig] = field(
        default_factory=lambda: {"DataGate": NodeConfig(retries=0)}
    )
