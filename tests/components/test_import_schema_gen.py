"""Tests that a schema which TFDV inferred is enough, and what else is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from components.import_schema_gen import ImportSchemaGen
from ml.artifacts import load_schema, schema_uri
from ml.complete_schema import complete_schema
from storage.errors import UserError

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def imported(run_component: Run, tmp_path: Path) -> Callable[..., Any]:
    """Imports the text of a schema for a model."""

    def run(text: str, label: str = "y", features: str = '["x"]', time_column: str = "") -> Any:
        file = tmp_path / "a.pbtxt"
        file.write_text(text)
        parameters = {
            **{"label": label, "features": features, "time_column": time_column},
            "example_weight": "",
        }
        return run_component(ImportSchemaGen, {}, schema_file=str(file), **parameters)["schema"]

    return run


def test_import_schema_gen_completes_an_inferred_schema(imported: Callable[..., Any]) -> None:
    rows = pd.DataFrame(
        {
            "miles": [1.5, math.nan, 2.0],
            "company": ["a", None, "b"],
            "hour": [1, 2, 3],
            "note": ["x", "y", "z"],
            "y": [0, 1, 0],
        }
    )
    inferred = tfdv.infer_schema(tfdv.generate_statistics_from_dataframe(rows))
    features = '["miles", "company", "hour"]'
    schema = load_schema(imported(text_format.MessageToString(inferred), features=features))
    assert list(schema.default_environment) == ["TRAINING", "SERVING"]
    (label,) = (feature for feature in schema.feature if feature.name == "y")
    assert list(label.not_in_environment) == ["SERVING"]
    dense = schema.tensor_representation_group[""].tensor_representation
    assert set(dense) == {"miles", "company", "hour", "y"}
    assert math.isnan(dense["miles"].dense_tensor.default_value.float_value)
    assert dense["company"].dense_tensor.default_value.bytes_value == b""
    assert not dense["hour"].dense_tensor.HasField("default_value")
    served = tfdv.generate_statistics_from_dataframe(rows.drop(columns="y"))
    missing = {
        environment: set(
            tfdv.validate_statistics(served, schema, environment=environment).anomaly_info
        )
        for environment in ("TRAINING", "SERVING")
    }
    assert missing == {"TRAINING": {"y"}, "SERVING": set()}


def test_import_schema_gen_copies_a_complete_schema(
    run_component: Run, imported: Callable[..., Any]
) -> None:
    whole = complete_schema(
        text_format.Parse(
            'feature { name: "x" type: FLOAT } feature { name: "y" type: INT }',
            schema_pb2.Schema(),
        ),
        "y",
        ["x"],
        "",
        "",
    )
    text = f"# Curated.\n{text_format.MessageToString(whole)}"
    assert Path(schema_uri(imported(text))).read_text() == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("feature {", "is no schema: 1:9"),
        ("name: 3", "is no schema: "),
        ('feature { name: "x" type: INT }', "has no feature 'y', which is the label of the model"),
        ('feature { name: "y" type: INT }', "has no feature 'x', which is a feature of the model"),
        (
            'feature { name: "x" type: INT } feature { name: "y" type: INT }',
            "feature 'x' of the schema is INT and may be absent: make it FLOAT",
        ),
        (
            'feature { name: "x" type: STRUCT } feature { name: "y" type: INT }',
            "feature 'x' of the schema has the type STRUCT; INT, FLOAT or BYTES is expected",
        ),
        (
            'feature { name: "x" type: FLOAT value_count { min: 1 max: 3 } } '
            'feature { name: "y" type: INT }',
            "feature 'x' of the schema has 1 to 3 values; one is expected, or a vector",
        ),
        (
            'feature { name: "x" type: FLOAT shape { dim { size: 9 } } } '
            'feature { name: "y" type: INT }',
            "feature 'x' of the schema is a vector and may be absent: leave such rows out",
        ),
    ],
)
def test_import_schema_gen_refuses_a_schema_by_file_feature_and_reason(
    imported: Callable[..., Any], text: str, reason: str
) -> None:
    with pytest.raises(UserError) as refusal:
        imported(text)
    message = str(refusal.value)
    assert "a.pbtxt" in message
    assert reason in message
    assert message.endswith("(gate.schema)")
    assert "\n" not in message


def test_complete_schema_keeps_what_the_schema_says() -> None:
    given = text_format.Parse(
        """
        feature { name: "x" type: INT }
        feature { name: "y" type: INT in_environment: "TRAINING" }
        default_environment: "SERVING"
        tensor_representation_group {
          key: ""
          value {
            tensor_representation {
              key: "other"
              value { dense_tensor { column_name: "x" default_value { int_value: -1 } } }
            }
          }
        }
        """,
        schema_pb2.Schema(),
    )
    whole = complete_schema(given, "y", ["x"], "t", "")
    assert list(whole.default_environment) == ["SERVING", "TRAINING"]
    dense = whole.tensor_representation_group[""].tensor_representation
    assert set(dense) == {"other", "y"}
    assert dense["other"].dense_tensor.default_value.int_value == -1
    assert list(whole.feature[1].not_in_environment) == []
    assert len(given.tensor_representation_group[""].tensor_representation) == 1


def test_complete_schema_makes_the_example_weight_dense_and_absent_in_serving() -> None:
    text = """
        feature { name: "x" type: FLOAT }
        feature { name: "y" type: INT }
        feature { name: "w" type: FLOAT }
    """
    whole = complete_schema(text_format.Parse(text, schema_pb2.Schema()), "y", ["x"], "", "w")
    (weight,) = (feature for feature in whole.feature if feature.name == "w")
    assert list(weight.not_in_environment) == ["SERVING"]
    dense = whole.tensor_representation_group[""].tensor_representation
    assert not dense["w"].dense_tensor.HasField("default_value")
