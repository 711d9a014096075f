"""Where TFX's standard artifacts keep their files, in one place."""

import os

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx import v1 as tfx

# The layouts that TFX 1.x writes; it publishes no helper for them under `tfx.v1`.
SCHEMA_FILE = "schema.pbtxt"
STATISTICS_FILE = "FeatureStats.pb"
_SERVING_FOLDER = "Format-Serving"


def serving_model_uri(model: tfx.dsl.Artifact) -> str:
    """Folder of the SavedModel of a `Model` artifact."""
    return os.path.join(model.uri, _SERVING_FOLDER)


def has_serving_model(model: tfx.dsl.Artifact) -> bool:
    """Whether a `Model` artifact holds a SavedModel; `ServedModel` emits one without."""
    return bool(tfx.dsl.io.fileio.exists(os.path.join(serving_model_uri(model), "saved_model.pb")))


def statistics_uri(statistics: tfx.dsl.Artifact, split: str) -> str:
    """Path of the statistics of one split of an `ExampleStatistics` artifact."""
    return os.path.join(statistics.uri, f"Split-{split}", STATISTICS_FILE)


def load_statistics(
    statistics: tfx.dsl.Artifact, split: str
) -> statistics_pb2.DatasetFeatureStatisticsList | None:
    """The statistics of one split, or None where the artifact does not hold it."""
    path = statistics_uri(statistics, split)
    return tfdv.load_stats_binary(path) if tfx.dsl.io.fileio.exists(path) else None


def schema_uri(schema: tfx.dsl.Artifact) -> str:
    """Path of the schema of a `Schema` artifact."""
    return os.path.join(schema.uri, SCHEMA_FILE)


def load_schema(schema: tfx.dsl.Artifact) -> schema_pb2.Schema:
    """The schema of a `Schema` artifact."""
    return tfdv.load_schema_text(schema_uri(schema))
