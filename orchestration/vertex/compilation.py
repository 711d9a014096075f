"""Compiles the pipelines for Vertex AI, from the same configuration as for Kubeflow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from orchestration.kubeflow import compilation
from orchestration.kubeflow.pipelines import TRAINING
from pipeline.config import Config
from pipeline.kubeflow_config import KubeflowConfig, NodeConfig
from storage.errors import UserError
from storage.keys import is_file

_WITHOUT_EQUAL = ("node_selector", "tolerations", "labels", "annotations")


def compile_config(config: Config, pipeline: str = TRAINING) -> str:
    """Compiles a pipeline for Vertex AI.

    Args:
      config: The configuration.
      pipeline: One of `orchestration.kubeflow.pipelines.NAMES`.

    Returns:
      The pipeline spec, schema 2.1, as YAML: one document, which Google's own SDK reads too.

    Raises:
      UserError: If the configuration lacks what Vertex AI needs, or names what it has not.
    """
    _check(config)
    package = compilation.compile_config(config, pipeline)
    # The second document is for Kubernetes.
    spec = next(iter(yaml.load_all(package, Loader=yaml.CSafeLoader)))
    spec["defaultPipelineRoot"] = config.vertex.pipeline_root
    for executor in spec["deploymentSpec"]["executors"].values():
        if accelerator := executor["container"].get("resources", {}).get("accelerator"):
            for name in ("type", "resourceType"):
                accelerator[name] = config.vertex.accelerator
    header = "".join(f"{line}\n" for line in package.splitlines() if line.startswith("#"))
    return header + yaml.safe_dump(spec, sort_keys=True, width=1000)


def _check(config: Config) -> None:
    kubeflow, vertex = config.kubeflow, config.vertex
    if not vertex.pipeline_root:
        raise UserError("vertex.pipeline_root is missing: a folder in a bucket, gs://bucket/folder")
    if without := sorted(_set_for_clusters(kubeflow)):
        raise UserError(
            f"{', '.join(without)}: Vertex AI has no volumes, Secrets or cluster nodes: leave out"
        )
    needs = [name for name, node in kubeflow.nodes.items() if node.accelerator]
    if needs and not vertex.accelerator:
        raise UserError(
            f"vertex.accelerator is missing: kubeflow.nodes.{needs[0]} has an accelerator, which "
            'Google calls by another name, as in "NVIDIA_TESLA_T4"'
        )
    if config.serving.sign and is_file(config.serving.signing_key):
        raise UserError(
            "serving.sign = true: tasks on Vertex AI have no place for a private key; set it to "
            "false, and sign where the key is: python -m serving sign gs://..."
        )
    if config.serving.encrypt:
        raise UserError(
            "serving.encrypt = true: tasks on Vertex AI have no place for its key; set it to "
            "false, and let the bucket encrypt with a key of Cloud KMS"
        )


def _set_for_clusters(kubeflow: KubeflowConfig) -> Iterator[str]:
    """Settings that are given, and that only a cluster of one's own has."""
    default: Any
    for name in ("volume_claim", "secret_env", *_WITHOUT_EQUAL):
        if getattr(kubeflow, name):
            yield f"kubeflow.{name}"
    for node_id, node in kubeflow.nodes.items():
        for name in _WITHOUT_EQUAL:
            default = getattr(NodeConfig(), name)
            if getattr(node, name) != default:
                yield f"kubeflow.nodes.{node_id}.{name}"
