"""Tests that a model is loaded as it is saved, answers within its time, and says what is wrong."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving.server import batching, inference
from serving.server.errors import ServingError
from serving.server.models import SavedModel, TFLiteModel, load_model
from serving.server.signatures import Signature
from serving.server.warmup import warm_up
from storage.names import WARMUP_FILE
from tests.serving.server.running import example_of, predict_request, strings
from tests.serving.server.toys import (
    FOR_EVER,
    f32,
    i64,
    save_counter,
    save_odd,
    save_scorer,
    save_versioned,
)

LONG = 600.0


def rare_inputs() -> dict[str, np.ndarray]:
    """Of dtypes that few models have."""
    return {
        "bfloat16": np.array([1.5, -2], tf.bfloat16.as_numpy_dtype),
        "complex64": np.array([1 + 2j, -3j], np.complex64),
        "complex128": np.array([0.1 + 0.2j], np.complex128),
        "uint16": np.array([7, 30_000], np.uint16),
    }


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    return SavedModel(str(save_odd(tmp_path_factory.mktemp("odd") / "1")))


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    return SavedModel(str(save_counter(tmp_path_factory.mktemp("counter") / "1")))


@pytest.fixture
def tflite(toys: Path) -> TFLiteModel:
    model = load_model(str(toys / "toy" / "2"), prefer_tflite=True, concurrency=2)
    assert isinstance(model, TFLiteModel)
    return model


def refused(model: Any, signature: str, **inputs: np.ndarray) -> ServingError:
    with pytest.raises(ServingError) as error:
        inference.to_response(inference.predict(model, signature, inputs, (), LONG))
    return error.value


class TestSavedModel:
    def test_a_run_ends_when_its_time_is_over_and_the_next_one_is_answered(
        self, counter: SavedModel
    ) -> None:
        with pytest.raises(ServingError) as error:
            counter.run("serving_default", {"x": i64([FOR_EVER])}, ["count"], 0.2)
        assert error.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        answer = counter.run("serving_default", {"x": i64([3, 2])}, ["count"], LONG)
        assert answer["count"].tolist() == [3, 3]

    def test_what_the_model_itself_refuses_has_its_message(self, odd: SavedModel) -> None:
        error = refused(odd, "checked", x=i64([-7]))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "negative" in error.message
        assert "-7" in error.message
        error = refused(odd, "checked", x=i64([2]))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "not in [0, 2)" in error.message

    def test_a_signature_without_inputs_is_answered(self, odd: SavedModel) -> None:
        assert inference.predict(odd, "nothing_in", {}, (), LONG)["answer"].tolist() == [42]

    @pytest.mark.parametrize("shape", [(), (2,), (0, 3), (1, 2, 3)])
    def test_a_signature_without_a_shape_takes_any(
        self, odd: SavedModel, shape: tuple[int, ...]
    ) -> None:
        inputs = {"x": np.ones(shape, np.float32)}
        outputs = inference.predict(odd, "any_shape", inputs, (), LONG)
        assert outputs["sum"] == np.prod(shape)
        assert outputs["shape"].tolist() == list(shape)
        assert outputs["sum"].shape == ()

    def test_half_and_bfloat16_go_in_and_out(self, odd: SavedModel) -> None:
        outputs = inference.predict(odd, "half_out", {"x": f32([1.5])}, (), LONG)
        response = inference.to_response(outputs)
        assert tf.make_ndarray(response.outputs["half"]) == np.float16(1.5)
        half = {"x": np.array([1.5], np.float16)}
        assert inference.predict(odd, "half_in", half, (), LONG)["y"] == 1.5
        found = inference.predict(odd, "rare", rare_inputs(), (), LONG)
        proto = inference.to_response(found).outputs
        for name, array in rare_inputs().items():
            np.testing.assert_array_equal(tf.make_ndarray(proto[name]), array + array)

    def test_inputs_of_other_first_sizes_are_the_models_affair(self, odd: SavedModel) -> None:
        inputs = {"x": f32([1, 2, 3]), "y": f32([10])}
        assert inference.predict(odd, "sizes", inputs, (), LONG)["sum"].tolist() == [11, 12, 13]

    def test_an_input_that_is_left_out_has_its_default(self, odd: SavedModel) -> None:
        odd.signatures["sizes"].defaults["y"] = f32([5])  # type: ignore[index]
        found = inference.predict(odd, "sizes", {"x": f32([1, 2])}, (), LONG)
        assert found["sum"].tolist() == [6, 7]

    def test_defaults_are_those_of_the_saved_model(self) -> None:
        proto = meta_graph_pb2.SignatureDef()
        proto.defaults["y"].CopyFrom(tf.make_tensor_proto([5.0]))
        assert Signature.from_proto(proto).defaults["y"].tolist() == [5]

    @pytest.mark.parametrize("change", ["dtype", "tensor"])
    def test_one_that_cannot_be_asked_does_not_load(self, tmp_path: Path, change: str) -> None:
        graph = save_versioned(tmp_path / "1", 7) / "saved_model.pb"
        saved = saved_model_pb2.SavedModel.FromString(graph.read_bytes())
        info = saved.meta_graphs[0].signature_def["serving_default"].inputs["x"]
        if change == "dtype":
            info.dtype = types_pb2.DT_QINT8
        else:
            info.name = "no_such_tensor:0"
        graph.write_bytes(saved.SerializeToString())
        with pytest.raises((ValueError, KeyError, tf.errors.OpError), match=r"x \(qint8\)|no_such"):
            load_model(str(tmp_path / "1"), prefer_tflite=False, concurrency=1)

    def test_only_signatures_that_can_be_asked_are_offered(self, odd: SavedModel) -> None:
        assert "nothing_in" in odd.signatures
        assert "__saved_model_init_op" not in odd.signatures

    @pytest.mark.parametrize("damage", ["graph", "variables", "tags"])
    def test_one_that_is_damaged_does_not_load(self, tmp_path: Path, damage: str) -> None:
        folder = save_scorer(tmp_path / "1", 0.0)
        graph = folder / "saved_model.pb"
        if damage == "graph":
            graph.write_bytes(graph.read_bytes()[:-100])
        elif damage == "variables":
            next(folder.glob("variables/*.data*")).unlink()
        else:
            saved = saved_model_pb2.SavedModel.FromString(graph.read_bytes())
            saved.meta_graphs[0].meta_info_def.tags[:] = ["train"]
            graph.write_bytes(saved.SerializeToString())
        with pytest.raises(Exception, match=r"\w"):
            SavedModel(str(folder))

    def test_what_it_holds_is_given_back(self, tmp_path: Path) -> None:
        model = SavedModel(str(save_versioned(tmp_path / "3")))
        assert model.run("serving_default", {"x": np.zeros(2, np.float32)}, ["version"], LONG)
        graph = weakref.ref(model._session.graph)
        del model
        gc.collect()
        assert graph() is None


class TestTFLite:
    def test_it_is_preferred_only_if_told_and_there_is_one(
        self, toys: Path, tmp_path: Path
    ) -> None:
        both = str(toys / "toy" / "2")
        assert isinstance(load_model(both, prefer_tflite=False, concurrency=1), SavedModel)
        alone = str(save_versioned(tmp_path / "1"))
        assert isinstance(load_model(alone, prefer_tflite=True, concurrency=1), SavedModel)

    def test_a_file_that_is_no_model_does_not_load(self, tmp_path: Path) -> None:
        (tmp_path / "model.tflite").write_bytes(b"TFL3 or not")
        with pytest.raises(ValueError, match=r"\w"):
            load_model(str(tmp_path), prefer_tflite=True, concurrency=1)

    def test_requests_at_the_same_time_have_each_their_own_answers(
        self, tflite: TFLiteModel
    ) -> None:
        def ask(rows: int) -> list[float]:
            inputs: dict[str, np.ndarray] = {
                "distance": np.full(rows, rows, np.float32),
                "hour": np.zeros(rows, np.int64),
                "company": strings(*[b"AA"] * rows),
            }
            answer = tflite.run("raw_features", inputs, ["probability"], LONG)
            return answer["probability"].ravel().tolist()

        alone = {rows: ask(rows) for rows in range(1, 20)}
        with ThreadPoolExecutor(6) as pool:
            for rows, values in zip(list(alone) * 10, pool.map(ask, list(alone) * 10), strict=True):
                assert values == alone[rows]


def test_a_model_that_loops_is_known_to_in_either_form(
    counter: SavedModel, odd: SavedModel, tmp_path: Path
) -> None:
    loops = tf.lite.TFLiteConverter.from_saved_model(str(save_counter(tmp_path / "1"))).convert()
    assert not counter.ends_by_itself
    assert not TFLiteModel(loops, 1).ends_by_itself
    assert odd.ends_by_itself


class TestBatching:
    """Rows of several requests are one batch only if each is answered as if it were alone."""

    @pytest.mark.parametrize(
        ("signature", "batched"),
        [("half_in", True), ("binary_out", True), ("centred", False), ("any_shape", False)],
    )
    def test_only_rows_that_do_not_depend_on_each_other_are_batched(
        self, odd: SavedModel, signature: str, batched: bool
    ) -> None:
        dtype = odd.signatures[signature].inputs["x"].numpy_dtype
        inputs = {"x": strings(b"a", b"b") if dtype.kind == "O" else np.array([1, 2], dtype)}
        batching.learn(odd, signature, inputs)
        assert (signature in odd.batched) is batched

    def test_a_model_that_looks_at_the_largest_number_is_not_batched(
        self, counter: SavedModel
    ) -> None:
        batching.learn(counter, "serving_default", {"x": i64([3])})
        assert counter.batched == set()

    def test_each_request_gets_its_own_rows(self, odd: SavedModel) -> None:
        requests = [{"x": np.array(values, np.float16)} for values in ([1], [2, 3], [4])]
        found = batching.run(odd, "half_in", requests, ["y"], LONG)
        assert [outputs["y"].tolist() for outputs in found] == [[1], [2, 3], [4]]


class TestWarmUp:
    """What the warm-up file of a version does when it is loaded."""

    @pytest.fixture
    def folder(self, odd: SavedModel, tmp_path: Path) -> Path:
        (tmp_path / "assets.extra").mkdir()
        return tmp_path

    def write(self, folder: Path, *requests: predict_pb2.PredictRequest) -> None:
        with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as writer:
            for request in requests:
                log = prediction_log_pb2.PredictionLog()
                log.predict_log.request.CopyFrom(request)
                writer.write(log.SerializeToString())

    def test_its_requests_are_answered(self, odd: SavedModel, folder: Path) -> None:
        request = predict_request("toy", "checked", x=i64([1]))
        self.write(folder, request, request)
        assert warm_up(odd, str(folder), threading.Event()) == 2

    def test_there_need_be_none(self, odd: SavedModel, folder: Path) -> None:
        assert warm_up(odd, str(folder), threading.Event()) == 0
        self.write(folder)
        assert warm_up(odd, str(folder), threading.Event()) == 0

    def test_requests_for_the_other_form_are_passed_over(
        self, odd: SavedModel, folder: Path
    ) -> None:
        self.write(
            folder,
            predict_request("toy", "", examples=strings(example_of(x=1).SerializeToString())),
            predict_request("toy", "checked", z=i64([1])),
            predict_request("toy", "checked", x=f32([1])),
            predict_request("toy", "checked", x=i64([1])),
        )
        assert warm_up(odd, str(folder), threading.Event()) == 1

    def test_a_model_that_fails_over_one_that_fits_it_is_refused_without_a_word_of_its_rows(
        self, odd: SavedModel, folder: Path
    ) -> None:
        self.write(folder, predict_request("toy", "checked", x=i64([-123456])))
        with pytest.raises(ServingError, match=r"checked in .* fails: INVALID_ARGUMENT") as error:
            warm_up(odd, str(folder), threading.Event())
        assert "123456" not in error.value.message

    def test_a_file_that_is_damaged_is_refused(self, odd: SavedModel, folder: Path) -> None:
        request = predict_request("toy", "checked", x=i64([1]))
        self.write(folder, request)
        content = (folder / WARMUP_FILE).read_bytes()
        (folder / WARMUP_FILE).write_bytes(content[:-20])
        with pytest.raises(ValueError, match=r"tf_serving_warmup_requests is damaged: .*truncated"):
            warm_up(odd, str(folder), threading.Event())
        with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as writer:
            writer.write(b"no PredictionLog")
        with pytest.raises(ValueError, match=r"requests is damaged: .*parsing"):
            warm_up(odd, str(folder), threading.Event())

    @pytest.mark.parametrize("prefer_tflite", [False, True])
    def test_each_signature_is_asked_with_the_row_that_the_file_has(
        self,
        toys: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        prefer_tflite: bool,
    ) -> None:
        (tmp_path / "assets.extra").mkdir()
        row = {"distance": f32([7]), "hour": i64([3]), "company": strings(b"B6")}
        self.write(tmp_path, predict_request("toy", "raw_features", **row))
        model = load_model(str(toys / "toy" / "2"), prefer_tflite=prefer_tflite, concurrency=1)
        asked: dict[str, tuple[Mapping[str, np.ndarray], dict[str, np.ndarray]]] = {}
        run = model.run

        def spy(
            signature: str,
            inputs: Mapping[str, np.ndarray],
            outputs: Sequence[str],
            seconds: float,
        ) -> dict[str, np.ndarray]:
            answer = run(signature, inputs, outputs, seconds)
            asked.setdefault(signature, (inputs, answer))
            return answer

        monkeypatch.setattr(model, "run", spy)
        assert warm_up(model, str(tmp_path), threading.Event()) == 1
        if prefer_tflite:  # All of its signatures are one.
            assert asked.keys() == {"raw_features"}
            return
        assert asked.keys() == model.signatures.keys()
        # The tf.Example that was made says what the row says.
        np.testing.assert_array_equal(
            asked["serving_default"][1]["probability"], asked["raw_features"][1]["probability"]
        )

    def test_what_is_made_up_and_not_answered_refuses_no_version(
        self, toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = load_model(str(toys / "toy" / "2"), prefer_tflite=False, concurrency=1)

        def fail(*_: Any) -> dict[str, np.ndarray]:
            raise ServingError(grpc.StatusCode.INTERNAL, "the model failed")

        monkeypatch.setattr(model, "run", fail)
        assert warm_up(model, str(tmp_path), threading.Event()) == 0

    def test_it_ends_when_the_version_is_given_up(self, odd: SavedModel, folder: Path) -> None:
        given_up = threading.Event()
        given_up.set()
        self.write(folder, predict_request("toy", "checked", x=i64([1])))
        with pytest.raises(InterruptedError):
            warm_up(odd, str(folder), given_up)
