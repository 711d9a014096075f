"""Tests that both protocols and both forms of a model answer as TensorFlow itself does."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from tests.serving.conftest import LIVE, STABLE
from tests.serving.server.running import (
    RunningServer,
    example_of,
    predict_request,
    running,
    strings,
)
from tests.serving.server.toys import f32

Columns: TypeAlias = dict[str, np.ndarray]
Reference: TypeAlias = Callable[..., Columns]

ROWS: list[dict[str, Any]] = [
    {"distance": 1500.0, "hour": 7, "company": "UA"},
    {"distance": 96.5, "hour": 23, "company": "B6"},
    {"distance": 0.0, "hour": 0, "company": ""},
    {"distance": -3.25, "hour": -(2**40), "company": "ÅÄ\u2028🛫"},
]


def columns_of(rows: list[dict[str, Any]]) -> Columns:
    return {
        "distance": np.array([row["distance"] for row in rows], np.float32),
        "hour": np.array([row["hour"] for row in rows], np.int64),
        "company": strings(*(row["company"].encode() for row in rows)),
    }


def serialized(rows: list[dict[str, Any]]) -> np.ndarray:
    return strings(*(example_of(**row).SerializeToString() for row in rows))


def b64(values: np.ndarray) -> list[dict[str, str]]:
    return [{"b64": base64.b64encode(value).decode()} for value in values]


def arrays_of(response: predict_pb2.PredictResponse) -> Columns:
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def assert_same(found: Mapping[str, Any], expected: Mapping[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        given = np.asarray(found[name], array.dtype)
        assert given.shape == array.shape, name
        np.testing.assert_array_equal(given, array, name)


@pytest.fixture(scope="module")
def reference(toys: Path) -> Reference:
    """Asks a signature of a version of the SavedModel directly."""
    loaded = {v: tf.saved_model.load(str(toys / "toy" / str(v))) for v in (STABLE, LIVE)}

    def ask(version: int, signature: str, **inputs: np.ndarray) -> Columns:
        outputs = loaded[version].signatures[signature](
            **{
                name: tf.constant(
                    array.tolist() if array.dtype == object else array,
                    tf.string if array.dtype == object else None,
                    array.shape,
                )
                for name, array in inputs.items()
            }
        )
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return ask


@pytest.fixture(scope="module")
def tflite_server(toys: Path) -> Iterator[RunningServer]:
    """A server of the models' TFLite forms."""
    with running(toys, "--prefer-tflite") as server:
        yield server


def ask_grpc(server: RunningServer, signature: str, **inputs: np.ndarray) -> Columns:
    return arrays_of(server.predictions.Predict(predict_request("toy", signature, **inputs)))


def ask_rest(server: RunningServer, document: Any, path: str = "toy") -> Any:
    response = server.rest(f"{path}:predict", document)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    (answer,) = response.json().values()
    return answer


class TestSavedModel:
    def test_raw_features_are_answered_alike_in_both_protocols_and_in_both_json_forms(
        self, server: RunningServer, reference: Reference
    ) -> None:
        columns = columns_of(ROWS)
        expected = reference(LIVE, "raw_features", **columns)
        assert len(set(expected["probability"].ravel().tolist())) == len(ROWS)
        assert_same(ask_grpc(server, "raw_features", **columns), expected)
        by_row = {"signature_name": "raw_features", "instances": ROWS}
        by_column = {
            "signature_name": "raw_features",
            "inputs": {name: [row[name] for row in ROWS] for name in columns},
        }
        assert_same({"probability": ask_rest(server, by_row)}, expected)
        assert_same({"probability": ask_rest(server, by_column)}, expected)

    def test_serialized_examples_are_answered_alike(
        self, server: RunningServer, reference: Reference
    ) -> None:
        examples = serialized(ROWS)
        expected = reference(LIVE, "serving_default", examples=examples)
        assert_same(ask_grpc(server, "", examples=examples), expected)
        as_values = {"instances": b64(examples)}
        as_objects = {"instances": [{"examples": value} for value in b64(examples)]}
        as_columns = {"inputs": {"examples": b64(examples)}}
        for document in (as_values, as_objects, as_columns):
            assert_same({"probability": ask_rest(server, document)}, expected)

    def test_absent_features_have_the_defaults_of_the_model(
        self, server: RunningServer, reference: Reference
    ) -> None:
        examples = strings(b"", example_of(company="AA", distance=8.0).SerializeToString())
        expected = reference(LIVE, "serving_default", examples=examples)
        assert math.isnan(expected["probability"][0, 0])
        assert_same(ask_grpc(server, "", examples=examples), expected)
        answer = ask_rest(server, {"instances": b64(examples)})
        assert_same({"probability": answer}, expected)

    def test_every_dtype_goes_in_and_out(self, server: RunningServer, reference: Reference) -> None:
        columns: Columns = {
            "matrix": np.array([[1.5, -0.0], [3e38, 3e38], [np.nan, np.inf]], np.float32),
            "double": np.array([1e-300, -1.7e308, np.pi]),
            "byte": np.array([0, 255, 7], np.uint8),
            "flag": np.array([True, False, True]),
            "text": strings(b"on time", b"", "délayed".encode()),
        }
        expected = reference(LIVE, "many", **columns)
        assert_same(ask_grpc(server, "many", **columns), expected)
        rows = [
            {
                name: array[row].decode() if name == "text" else array[row].tolist()
                for name, array in columns.items()
            }
            for row in range(3)
        ]
        answer = ask_rest(server, {"signature_name": "many", "instances": rows})
        # Strings of an output whose name ends in _bytes come as base64, all others as they are.
        expected["text_bytes"] = np.array(b64(expected["text_bytes"]), object)
        expected["text"] = np.array([value.decode() for value in expected["text"]], object)
        found = {name: [row[name] for row in answer] for name in expected}
        assert_same(found, expected)

    def test_output_filter_chooses_outputs(
        self, server: RunningServer, reference: Reference
    ) -> None:
        columns: Columns = {
            "matrix": np.ones((1, 2), np.float32),
            "double": np.ones(1),
            "byte": np.ones(1, np.uint8),
            "flag": np.ones(1, bool),
            "text": strings(b"a"),
        }
        request = predict_request("toy", "many", **columns)
        request.output_filter.extend(["text_bytes", "next"])
        expected = reference(LIVE, "many", **columns)
        found = arrays_of(server.predictions.Predict(request))
        assert_same(found, {name: expected[name] for name in ("next", "text_bytes")})

    @pytest.mark.parametrize("rows", [0, 1, 5000])
    def test_a_batch_of_any_size_is_answered(
        self, server: RunningServer, reference: Reference, rows: int
    ) -> None:
        columns = columns_of([ROWS[row % len(ROWS)] for row in range(rows)])
        columns["distance"] += np.arange(rows, dtype=np.float32)
        expected = reference(LIVE, "raw_features", **columns)
        assert expected["probability"].shape == (rows, 1)
        assert_same(ask_grpc(server, "raw_features", **columns), expected)
        document = {
            "signature_name": "raw_features",
            "inputs": {
                **{name: array.tolist() for name, array in columns.items() if name != "company"},
                "company": [value.decode() for value in columns["company"]],
            },
        }
        found = {"probability": np.reshape(ask_rest(server, document), (rows, 1))}
        assert_same(found, expected)

    @pytest.mark.parametrize(
        "fields",
        [
            {"tensor_content": f32([1.5, 1.5, 1.5, 1.5]).tobytes()},
            {"float_val": [1.5, 1.5, 1.5, 1.5]},
            {"float_val": [1.5]},  # The last value stands for those that are missing.
        ],
    )
    def test_a_tensor_may_be_written_in_any_way(
        self, server: RunningServer, reference: Reference, fields: dict[str, Any]
    ) -> None:
        columns = {**columns_of(ROWS), "distance": f32([1.5] * 4)}
        request = predict_request("toy", "raw_features", **columns)
        request.inputs["distance"].ClearField("float_val")
        for name, value in fields.items():
            if isinstance(value, bytes):
                setattr(request.inputs["distance"], name, value)
            else:
                getattr(request.inputs["distance"], name).extend(value)
        found = arrays_of(server.predictions.Predict(request))
        assert_same(found, reference(LIVE, "raw_features", **columns))

    def test_classify_gives_labels_and_scores(
        self, server: RunningServer, reference: Reference
    ) -> None:
        expected = reference(LIVE, "classify", inputs=serialized(ROWS))
        pairs = [
            [[label.decode(), float(score)] for label, score in zip(*row, strict=True)]
            for row in zip(expected["classes"], expected["scores"], strict=True)
        ]
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name, request.model_spec.signature_name = "toy", "classify"
        request.input.example_list.examples.extend(example_of(**row) for row in ROWS)
        response = server.predictions.Classify(request)
        found = [[[c.label, c.score] for c in r.classes] for r in response.result.classifications]
        assert found == pairs
        answer = server.rest("toy:classify", {"signature_name": "classify", "examples": ROWS})
        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        assert [[[label, f32(s)] for label, s in row] for row in results] == pairs

    def test_regress_gives_values(self, server: RunningServer, reference: Reference) -> None:
        expected = reference(LIVE, "regress", inputs=serialized(ROWS))["outputs"][:, 0]
        request = regression_pb2.RegressionRequest()
        request.model_spec.name, request.model_spec.signature_name = "toy", "regress"
        request.input.example_list.examples.extend(example_of(**row) for row in ROWS)
        response = server.predictions.Regress(request)
        assert [one.value for one in response.result.regressions] == expected.tolist()
        answer = server.rest("toy:regress", {"signature_name": "regress", "examples": ROWS})
        assert answer.status_code == 200, answer.text
        np.testing.assert_array_equal(f32(answer.json()["results"]), expected)

    def test_the_context_of_examples_is_part_of_each(
        self, server: RunningServer, reference: Reference
    ) -> None:
        own: list[dict[str, Any]] = [{"hour": 3}, {"hour": 4, "distance": 2.0}]
        whole = [{"company": "B6", "distance": 9.0, **row} for row in own]
        expected = reference(LIVE, "regress", inputs=serialized(whole))["outputs"][:, 0]
        request = regression_pb2.RegressionRequest()
        request.model_spec.name, request.model_spec.signature_name = "toy", "regress"
        with_context = request.input.example_list_with_context
        with_context.context.CopyFrom(example_of(company="B6", distance=9.0))
        with_context.examples.extend(example_of(**row) for row in own)
        response = server.predictions.Regress(request)
        assert [one.value for one in response.result.regressions] == expected.tolist()
        document = {
            "signature_name": "regress",
            "context": {"company": "B6", "distance": 9.0},
            "examples": own,
        }
        answer = server.rest("toy:regress", document).json()["results"]
        np.testing.assert_array_equal(f32(answer), expected)

    def test_metadata_are_the_signatures_of_the_saved_model(
        self, server: RunningServer, toys: Path
    ) -> None:
        content = (toys / "toy" / str(LIVE) / "saved_model.pb").read_bytes()
        expected = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].signature_def
        found = metadata_of(server)
        assert found.model_spec.name == "toy"
        assert found.model_spec.version.value == LIVE
        assert dict(signatures_of(found)) == dict(expected)
        answer = server.rest("toy/metadata").json()
        assert answer["model_spec"] == {"name": "toy", "signature_name": "", "version": str(LIVE)}
        told = answer["metadata"]["signature_def"]["signature_def"]
        assert set(told) == set(expected)
        assert told["raw_features"]["inputs"]["company"]["dtype"] == "DT_STRING"
        shape = told["raw_features"]["inputs"]["company"]["tensor_shape"]
        assert shape["dim"] == [{"size": "-1", "name": ""}]


class TestTFLite:
    @pytest.mark.parametrize("signature", ["", "serving_default", "raw_features"])
    def test_raw_features_are_answered_as_the_saved_model_does(
        self, tflite_server: RunningServer, reference: Reference, signature: str
    ) -> None:
        columns = columns_of(ROWS)
        expected = reference(LIVE, "raw_features", **columns)["probability"]
        over_grpc = ask_grpc(tflite_server, signature, **columns)["probability"]
        np.testing.assert_allclose(over_grpc, expected, atol=1e-6)
        answer = ask_rest(tflite_server, {"signature_name": signature, "instances": ROWS})
        np.testing.assert_array_equal(f32(answer), over_grpc)

    @pytest.mark.parametrize("rows", [1, 7, 3000, 2])
    def test_a_batch_of_any_size_is_answered(
        self, tflite_server: RunningServer, reference: Reference, rows: int
    ) -> None:
        columns = columns_of([ROWS[row % len(ROWS)] for row in range(rows)])
        expected = reference(LIVE, "raw_features", **columns)["probability"]
        found = ask_grpc(tflite_server, "", **columns)["probability"]
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_an_empty_batch_is_refused_by_its_input(self, tflite_server: RunningServer) -> None:
        with pytest.raises(grpc.RpcError, match="a TFLite model needs a row or more") as refused:
            ask_grpc(tflite_server, "", **columns_of([]))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert ask_grpc(tflite_server, "", **columns_of(ROWS))

    def test_metadata_say_its_inputs_and_outputs(self, tflite_server: RunningServer) -> None:
        signatures = signatures_of(metadata_of(tflite_server))
        assert set(signatures) == {"serving_default", "raw_features"}
        for signature in signatures.values():
            assert {name: info.dtype for name, info in signature.inputs.items()} == {
                "distance": types_pb2.DT_FLOAT,
                "hour": types_pb2.DT_INT64,
                "company": types_pb2.DT_STRING,
            }
            assert signature.outputs["probability"].dtype == types_pb2.DT_FLOAT

    def test_classify_says_what_the_model_lacks(self, tflite_server: RunningServer) -> None:
        answer = tflite_server.rest("toy:classify", {"examples": ROWS})
        assert answer.status_code == 400
        assert "Expected one input Tensor" in answer.json()["error"]


class TestWhichVersion:
    """Every way to say which version is meant, and what the answer says of it."""

    @pytest.mark.parametrize(
        ("path", "choose", "version"),
        [
            ("toy", model_pb2.ModelSpec(), LIVE),
            (f"toy/versions/{LIVE}", model_pb2.ModelSpec(version={"value": LIVE}), LIVE),
            (f"toy/versions/{STABLE}", model_pb2.ModelSpec(version={"value": STABLE}), STABLE),
            ("toy/labels/stable", model_pb2.ModelSpec(version_label="stable"), STABLE),
        ],
    )
    def test_predict_asks_the_version_that_is_meant(
        self,
        server: RunningServer,
        reference: Reference,
        path: str,
        choose: model_pb2.ModelSpec,
        version: int,
    ) -> None:
        columns = columns_of(ROWS)
        expected = reference(version, "raw_features", **columns)
        request = predict_request("toy", "raw_features", **columns)
        request.model_spec.MergeFrom(choose)
        response = server.predictions.Predict(request)
        assert_same(arrays_of(response), expected)
        assert response.model_spec.name == "toy"
        assert response.model_spec.version.value == version
        assert response.model_spec.signature_name == "raw_features"
        answer = ask_rest(server, {"signature_name": "raw_features", "instances": ROWS}, path)
        assert_same({"probability": answer}, expected)

        document = {"signature_name": "regress", "examples": ROWS}
        expected = reference(version, "regress", inputs=serialized(ROWS))
        values = server.rest(f"{path}:regress", document).json()["results"]
        np.testing.assert_array_equal(f32(values), expected["outputs"][:, 0])
        metadata = server.rest(f"{path}/metadata").json()
        assert metadata["model_spec"]["version"] == str(version)

    def test_the_default_signature_is_named_in_the_answer(self, server: RunningServer) -> None:
        request = predict_request("toy", "", examples=serialized(ROWS))
        assert server.predictions.Predict(request).model_spec.signature_name == "serving_default"

    def test_status_lists_the_versions_newest_first(self, server: RunningServer) -> None:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "toy"
        response = server.models.GetModelStatus(request)
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        found = [(one.version, one.state) for one in response.model_version_status]
        assert found == [(LIVE, available), (STABLE, available)]
        told = server.rest("toy").json()["model_version_status"]
        assert told == [
            {
                "version": str(version),
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
            for version in (LIVE, STABLE)
        ]

    def test_status_can_be_asked_of_one_version(self, server: RunningServer) -> None:
        (told,) = server.rest(f"toy/versions/{STABLE}").json()["model_version_status"]
        assert told["version"] == str(STABLE)

    @pytest.mark.parametrize("label", ["stable", "unknown"])
    def test_status_of_a_label_is_that_of_all_versions(
        self, server: RunningServer, label: str
    ) -> None:
        assert server.rest(f"toy/labels/{label}").json() == server.rest("toy").json()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "distance": st.floats(width=32),
                "hour": st.integers(-(2**63), 2**63 - 1),
                "company": st.text(st.characters(codec="utf-8"), max_size=8),
            }
        ),
        min_size=1,
        max_size=8,
    )
)
def test_whatever_the_rows_hold_both_protocols_give_the_very_same_numbers(
    server: RunningServer, reference: Reference, rows: list[dict[str, Any]]
) -> None:
    expected = reference(LIVE, "raw_features", **columns_of(rows))
    assert_same(ask_grpc(server, "raw_features", **columns_of(rows)), expected)
    answer = ask_rest(server, {"signature_name": "raw_features", "instances": rows})
    assert_same({"probability": answer}, expected)


def metadata_of(server: RunningServer) -> get_model_metadata_pb2.GetModelMetadataResponse:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "toy"
    return server.predictions.GetModelMetadata(request)


def signatures_of(response: get_model_metadata_pb2.GetModelMetadataResponse) -> Any:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    return signatures.signature_def
