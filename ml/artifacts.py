"""Paths of the files in TFX's standard artifacts."""

import json
import os
from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx import v1 as tfx

from ml.file_names import (
    ANOMALIES_FILE,
    EXPLANATIONS_FILE,
    REPORT_FILE,
    SCHEMA_FILE,
    STATISTICS_FILE,
    TUNING_FILE,
)
from storage.errors import SurroundingsError, UserError
from storage.names import SAVED_MODEL

_SERVING_FOLDER = "Format-Serving"


def serving_model_uri(model: tfx.dsl.Artifact) -> str:
    """Folder of the SavedModel of a `Model` artifact."""
    return os.path.join(model.uri, _SERVING_FOLDER)


def has_serving_model(model: tfx.dsl.Artifact) -> bool:
    """Whether a `Model` artifact holds a SavedModel; that of `ServedModel` may be empty."""
    return bool(tfx.dsl.io.fileio.exists(os.path.join(serving_model_uri(model), SAVED_MODEL)))


def split_uri(artifact_uri: str, split: str) -> str:
    """Folder of one split of an artifact.

    Example:
      >>> split_uri("artifacts/examples/7", "train")
      'artifacts/examples/7/Split-train'
    """
    return os.path.join(artifact_uri, f"Split-{split}")


def statistics_uri(statistics: tfx.dsl.Artifact, split: str) -> str:
    """Path of the statistics of one split of an `ExampleStatistics` artifact."""
    return os.path.join(split_uri(statistics.uri, split), STATISTICS_FILE)


def load_statistics(
    statistics: tfx.dsl.Artifact, split: str
) -> statistics_pb2.DatasetFeatureStatisticsList | None:
    """Loads the statistics of one split; None if the artifact does not have it."""
    path = statistics_uri(statistics, split)
    return tfdv.load_stats_binary(path) if tfx.dsl.io.fileio.exists(path) else None


def anomalies_uri(anomalies: tfx.dsl.Artifact, split: str) -> str:
    """Path of the anomalies of one split of an `ExampleAnomalies` artifact."""
    return os.path.join(split_uri(anomalies.uri, split), ANOMALIES_FILE)


def schema_uri(schema: tfx.dsl.Artifact) -> str:
    """Path of the schema of a `Schema` artifact."""
    return os.path.join(schema.uri, SCHEMA_FILE)


def load_schema(schema: tfx.dsl.Artifact) -> schema_pb2.Schema:
    """Loads the schema of a `Schema` artifact."""
    return tfdv.load_schema_text(schema_uri(schema))


def split_files(examples: tfx.dsl.Artifact, split: str) -> list[str]:
    """Lists the files of one split of an `Examples` artifact, in the order of their names.

    It lists the folder and uses no pattern, because the folder's name may have pattern characters.

    Raises:
      UserError: If there is no such split, or the split has no file.
    """
    splits = json.loads(examples.split_names)
    if split not in splits:
        raise UserError(f"the examples have no split {split!r}; they have {', '.join(splits)}")
    folder = split_uri(examples.uri, split)
    fileio = tfx.dsl.io.fileio
    names = fileio.listdir(folder) if fileio.isdir(folder) else []
    files = [os.path.join(folder, name) for name in sorted(names) if not name.endswith("/")]
    if not files:
        raise SurroundingsError(
            f"the split {split!r} of the examples has no file in {folder}; if files were deleted, "
            "run again with --no-cache"
        )
    return files


class _Report(tfx.dsl.Artifact):
    """A folder with a report in JSON."""

    FILE = REPORT_FILE

    @property
    def path(self) -> str:
        """Path of the report."""
        return os.path.join(self.uri, self.FILE)

    def write(self, content: dict[str, Any]) -> None:
        """Writes the report as JSON."""
        tfx.dsl.io.fileio.makedirs(self.uri)
        with tfx.dsl.io.fileio.open(self.path, "w") as file:
            file.write(json.dumps(content, indent=2) + "\n")

    def read(self) -> dict[str, Any]:
        """Reads the report."""
        with tfx.dsl.io.fileio.open(self.path, "r") as file:
            content: dict[str, Any] = json.loads(file.read())
        return content


# On Kubeflow, TFX imports each class by its type name, which may have one dot.


class CompressionReport(_Report):
    """Measurements of a compression: `report.json`, and plots."""

    TYPE_NAME = "components.CompressionReport"


class BaselineReport(_Report):
    """Metrics of baselines: `report.json`, and their predictions."""

    TYPE_NAME = "components.BaselineReport"


class TuningReport(_Report):
    """A search for better settings: `tuning.json`."""

    TYPE_NAME = "components.TuningReport"
    FILE = TUNING_FILE


class Explanations(tfx.dsl.Artifact):
    """Why a model predicts what it predicts: `explanations.json`, plots, background rows."""

    TYPE_NAME = "components.Explanations"

    def read(self) -> dict[str, Any]:
        """Reads `explanations.json`; docs/explanations.md says what is in it."""
        with tfx.dsl.io.fileio.open(os.path.join(self.uri, EXPLANATIONS_FILE), "r") as file:
            content: dict[str, Any] = json.loads(file.read())
        return content


class MonitoringReport(_Report):
    """Monitoring of requests and predictions: `report.json`, and a page for people."""

    TYPE_NAME = "components.MonitoringReport"

    @property
    def page(self) -> str:
        """Path of the page."""
        return os.path.join(self.uri, "report.html")
