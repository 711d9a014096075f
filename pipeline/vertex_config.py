"""Settings of Vertex AI: meaning, defaults, and allowed values."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from cloud import names
from pipeline.setting_types import CHECKED, match


@dataclass(frozen=True, config=CHECKED)
class VertexConfig:
    """How the pipeline runs on Vertex AI; see [cloud.md](cloud.md#vertex-ai).

    What tasks get is set as for Kubeflow: `kubeflow.image`, `cpu`, `memory`, `retries`, `cache`,
    `uncached`, `env`, `nodes`, and the places of data, Serving directory and request log, which are
    buckets here. Volumes, Secrets and placement on cluster nodes do not exist there.

    Attributes:
      project: ID of the project of Google Cloud; "" for the command line's.
      location: Its region; "" for the command line's.
      pipeline_root: Folder in a bucket for artifacts.
      service_account: Account that tasks run as; "" for Google's default.
      network: Network that tasks are peered with; "" for none.
      kms_key: Key of Cloud KMS that a run is encrypted with, of the same region; "" for Google's.
      accelerator: Google's name of the accelerator where a node has one, as in "NVIDIA_TESLA_T4".
      api_endpoint: Address of the API, as behind Private Service Connect; "" for the region's.
    """

    project: Annotated[str, AfterValidator(names.check_project)] = ""
    location: Annotated[str, AfterValidator(names.check_location)] = ""
    pipeline_root: Annotated[str, AfterValidator(names.check_bucket)] = ""
    service_account: Annotated[str, AfterValidator(names.check_service_account)] = ""
    network: Annotated[str, AfterValidator(names.check_network)] = ""
    kms_key: Annotated[str, AfterValidator(names.check_kms_key)] = ""
    accelerator: Annotated[str, match(r"[A-Z][A-Z0-9_]*", 'a name such as "NVIDIA_TESLA_T4"')] = ""
    api_endpoint: Annotated[str, AfterValidator(names.check_endpoint)] = ""

    def __post_init__(self) -> None:
        if self.kms_key and self.location and f"/locations/{self.location}/" not in self.kms_key:
            raise ValueError(f"kms_key is not of the location {self.location}")
