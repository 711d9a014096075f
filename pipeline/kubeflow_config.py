"""Settings of Kubeflow: meaning, defaults, and allowed values."""

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
    VolumePath,
    WebAddress,
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

    def __post_init__(self) -> None:
        if self.operator == "Exists" and self.value:
            raise ValueError('with the operator "Exists" no value is allowed')
        if self.operator == "Equal" and not self.key:
            raise ValueError('without a key the operator has to be "Exists"')


@dataclass(frozen=True, config=CHECKED)
class NodeConfig:
    """Settings of one node on Kubeflow, over those of all nodes in `KubeflowConfig`.

    Attributes:
      cpu: Processors, as Kubernetes writes them: "2" or "500m"; "" for those of all nodes.
      memory: Memory, as Kubernetes writes it: "4Gi"; "" for that of all nodes.
      accelerator: Name of the resource, as in "nvidia.com/gpu"; "" for none.
      accelerators: How many of them.
      retries: Number of retries of a failed task; -1 for that of all nodes.
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
      request_log: Request log for the monitoring pipeline, a path as in `serving_dir`.
      span_store: Directory of shards and analyses of single months, for later runs: a path as in
        `serving_dir`. With "", or a relative path without a volume, nothing is kept.
      state_dir: Directory on the volume of what schedules have trained on, of alarms, and of
        reports on requests: an absolute path, or one relative to `mount_path`. With "", or without
        a volume, each run of a schedule trains, and an alarm starts nothing.
      api: Address of Kubeflow Pipelines' API inside the cluster, where an alarm starts a run of the
        training schedule: `http://ml-pipeline.kubeflow:8888`. With "" the alarm waits for the next
        run of the schedule.
      pipeline_root: Where Kubeflow keeps artifacts; "" for its own default.
      cpu: Processors for each node; "" for no request and no limit.
      memory: Memory for each node; "" for no request and no limit.
      retries: Number of retries of a failed task.
      cache: Whether tasks whose inputs, parameters and image did not change come from the cache.
      uncached: Nodes that are never cached, because they read more than their inputs.
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
    state_dir: VolumePath = "state"
    api: WebAddress = ""
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
