"""Tests of the anomalies of features with names that TFDV quotes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2
from tfx.v1.types import standard_artifacts as standard

from components.data_gate.anomalies import write_anomalies
from components.data_gate.gate import Gate
from ml.artifacts import anomalies_uri
from ml.comparisons import ERROR
from ml.tasks import Task

ODD = ["trip.miles", "fare (USD)", "it's", "a:b", "größe"]


@pytest.mark.parametrize("name", ODD)
def test_anomalies_of_a_feature_carry_its_name(name: str, tmp_path: Path) -> None:
    schema = schema_pb2.Schema(default_environment=["TRAINING"])
    feature = schema.feature.add(name=name, type=schema_pb2.FLOAT)
    feature.float_domain.max = 5
    feature.presence.min_fraction = 1
    statistics = tfdv.generate_statistics_from_dataframe(
        pd.DataFrame({name: np.arange(50.0)}), n_jobs=1
    )
    gate = Gate(
        schema=schema,
        features=(name,),
        task=Task("binary", name),
        max_missing_change=0.2,
        max_duplicates=0.1,
        max_error_growth=40.0,
        min_label_relation=0.2,
    )
    result, found = gate.check_statistics("test", statistics, None)
    (anomaly,) = found
    assert (anomaly.feature, anomaly.severity) == (name, ERROR)
    assert "The schema allows" in anomaly.description
    assert not anomaly.blocks(frozenset({f"{name}:{anomaly.type}"}))

    artifact = standard.ExampleAnomalies()
    artifact.uri = str(tmp_path)
    write_anomalies(artifact, "test", result, found)
    with open(anomalies_uri(artifact, "test"), "rb") as file:
        written = anomalies_pb2.Anomalies.FromString(file.read())
    (info,) = written.anomaly_info.values()
    assert (list(info.path.step), info.severity) == ([name], ERROR)
