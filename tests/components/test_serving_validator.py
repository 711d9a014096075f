"""ServingValidator on model servers that do as they should, and on some that don't.

A stand-in for `tensorflow_model_server` misbehaves on demand, and the embedded server serves models
that do.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tfx import v1 as tfx
from tfx.components.util.model_utils import is_infra_validated

from components.quantizer.signatures import name_signatures
from components.serving_validator import server
from components.serving_validator.component import ServingValidator, read_report
from components.serving_validator.rows import (
    make_inputs,
    rest_body,
    rest_examples_body,
    sample_rows,
)
from components.serving_validator.verdict import Limits, Protocol, Trial, compare, unmet_limits
from components.serving_validator.warmup import MAX_WARMUP_RECORDS, write_warmup
from ml import tflite as tflite_files
from ml.artifacts import split_files
from ml.predictors import load_predictor
from ml.tasks import Task
from serving.server.json_requests import parse_examples
from storage.errors import DataError, UserError
from storage.names import TFLITE_MODEL, WARMUP_FILE
from storage.uris import copy_tree, model_digest
from tests.components import task_models
from tests.conftest import PROJECT, PushedRun
from tests.trips.features import RAW_FEATURES

STAND_IN = Path(__file__).with_name("stand_in_model_server.py")


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `Model` artifact of y = 2 x + 1, in both formats."""
    return save_line(tmp_path_factory.mktemp("line"), lambda x: 2 * x + 1, tflite=True)


@pytest.fixture(scope="module")
def line_without_tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a SavedModel alone."""
    return save_line(tmp_path_factory.mktemp("line"), lambda x: 2 * x + 1, tflite=False)


def save_line(folder: Path, function: Callable[[tf.Tensor], tf.Tensor], *, tflite: bool) -> Path:
    """Saves a model of one feature, laid out as a `Model` artifact."""
    model = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([], tf.float32)})
        return {"y": function(parsed["x"])[:, None]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def raw_features(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": function(x)[:, None]}

    path = folder / "Format-Serving"
    signatures = {"serving_default": serve, "raw_features": raw_features}
    tf.saved_model.save(model, str(path), signatures)
    if tflite:
        converter = tf.lite.TFLiteConverter.from_saved_model(
            str(path), signature_keys=["raw_features"]
        )
        (path / TFLITE_MODEL).write_bytes(with_names(converter.convert()))
    return folder


def with_names(content: bytes) -> bytes:
    """A TFLite model as the Quantizer finishes it."""
    model = tflite_files.parse(content)
    name_signatures(model)
    return tflite_files.pack(model)


@pytest.fixture(scope="module")
def xs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An `Examples` artifact with the values 0 to 19 of the one feature in its split `test`."""
    folder = tmp_path_factory.mktemp("xs")
    write_examples(folder / "Split-test" / "data.gz", [example(float(x)) for x in range(20)])
    return examples_artifact(folder)


def example(x: float) -> bytes:
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[x]))
    content: bytes = tf.train.Example(
        features=tf.train.Features(feature={"x": feature})
    ).SerializeToString()
    return content


def write_examples(path: Path, rows: list[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for row in rows:
            writer.write(row)


def examples_artifact(folder: Path) -> Any:
    artifact = tfx.types.standard_artifacts.Examples()
    artifact.uri = str(folder)
    artifact.split_names = '["test"]'
    return artifact


Validate = Callable[..., tuple[Any, list[str]]]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `Schema` artifact with the one feature."""
    folder = tmp_path_factory.mktemp("schema")
    features = {"x": "FLOAT", "vector": "FLOAT", "colour": "BYTES"}
    text = "".join(f'feature {{ name: "{n}" type: {t} }}\n' for n, t in features.items())
    (folder / "schema.pbtxt").write_text(text)
    return folder


@pytest.fixture
def validate(run_component: Callable[..., dict[str, Any]], schema: Path) -> Validate:
    """Runs the component; returns the blessing and the reasons against it."""

    def run(
        model: Path, examples: Any, schema: Path = schema, **parameters: Any
    ) -> tuple[Any, list[str]]:
        defaults = {"model_name": "line", "rows": 10, "timeout_seconds": 60.0}
        inputs = {"model": model, "examples": examples, "schema": schema}
        outputs = run_component(ServingValidator, inputs, **(defaults | parameters))
        blessing = outputs["blessing"]
        reasons = read_report(blessing)["reasons"]
        assert is_infra_validated(blessing) == (not reasons)
        assert Path(blessing.uri, WARMUP_FILE).exists() == (not reasons)
        assert list(Path(blessing.uri).rglob("saved_model.pb")) == []
        assert Path(blessing.uri, "INFRA_BLESSED").exists() == (not reasons)
        assert Path(blessing.uri, "INFRA_NOT_BLESSED").exists() == bool(reasons)
        assert [child for child in psutil.Process().children() if is_server(child)] == []
        return blessing, reasons

    return run


def is_server(process: psutil.Process) -> bool:
    command = " ".join(process.cmdline())
    return server.MODEL_SERVER in command or "serving serve" in command


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a `tensorflow_model_server` that behaves as said."""

    def install(behaviour: str) -> None:
        # The protocol alone: all of TensorFlow takes seconds to import.
        light = tmp_path / "light" / "tensorflow" / "__init__.py"
        light.parent.mkdir(parents=True)
        light.write_text(f"__path__ = {list(tf.__path__)!r}\n")
        program = tmp_path / "bin" / server.MODEL_SERVER
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\nPYTHONPATH={light.parents[1]} exec {sys.executable} {STAND_IN} "$@"\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("STAND_IN", behaviour)

    return install


def test_serving_validator_blesses_a_model_that_serves_both_formats_and_protocols(
    validate: Validate, stand_in: Callable[[str], None], line: Path, xs: Any
) -> None:
    stand_in("behaves")
    blessing, reasons = validate(line, xs)
    assert reasons == []
    report = read_report(blessing)
    assert report["server"] == "tensorflow_model_server"
    assert report["rows"] == 10
    assert list(report["formats"]) == ["SavedModel", "TFLite"]
    for form in report["formats"].values():
        assert form["startup_seconds"] > 0
        assert form["memory_mb"] > 5
        assert list(form["protocols"]) == ["gRPC", "REST"]
        for protocol in form["protocols"].values():
            assert 0 < protocol["p50_ms"] <= protocol["p99_ms"]
            assert protocol["largest_difference"] < 1e-5
    assert "this is a stand-in" in Path(blessing.uri, "SavedModel.log").read_text()


@pytest.mark.parametrize(
    ("behaviour", "timeout", "reasons"),
    [
        (
            "exits",
            60,
            [r"while the model was loading: the server ended with exit status 3; .*no such"],
        ),
        ("cannot load", 60, [r"the server did not load the model: no such operator"]),
        ("never loads", 1, [r"the server did not load the model within 1 s"]),
        ("crashes", 60, [r"row \d+ over gRPC: the server ended by SIGSEGV; .*a stand-in"]),
        ("hangs", 6, [r"row \d+ over gRPC: no response within 6 s"]),
        ("hangs over REST", 6, [r"row \d+ over REST: no response within 6"]),
        (
            "answers NaN",
            60,
            [
                r"predicted nan for row \d+ over gRPC; 10 of 10 predictions are NaN or infinite",
                r"predicted nan for row \d+ over REST; 10 of 10 predictions are NaN or infinite",
            ],
        ),
        (
            "refuses",
            60,
            [
                r"row \d+ over gRPC: .* with INVALID_ARGUMENT: Could not parse example",
                r"row \d+ over REST: .* with 400: JSON Value is not an object",
            ],
        ),
        (
            "is off over REST",
            60,
            [r"predicted .* over REST, but .*: a difference of 0\.25, 0\.005 allowed; 10 of 10 p"],
        ),
        (
            "has others",
            60,
            [r"its signatures: .* no signature serving_default; .* other$"],
        ),
        ("breaks off", 60, [r"row \d+ over REST: the server broke the connection: "]),
        (
            "talks nonsense",
            60,
            [r"row \d+ over REST: the server responded with 200: <html"],
        ),
    ],
)
def test_serving_validator_reports_why_a_failing_model_is_not_blessed(
    validate: Validate,
    stand_in: Callable[[str], None],
    line_without_tflite: Path,
    xs: Any,
    behaviour: str,
    timeout: float,
    reasons: list[str],
) -> None:
    stand_in(behaviour)
    _, told = validate(line_without_tflite, xs, timeout_seconds=float(timeout))
    assert len(told) == len(reasons)
    for line, pattern in zip(told, reasons, strict=True):
        assert re.match(f"SavedModel: {pattern}", line), f"{line!r} is not {pattern!r}"


def test_serving_validator_reports_each_exceeded_budget_and_by_how_much(
    validate: Validate, stand_in: Callable[[str], None], line_without_tflite: Path, xs: Any
) -> None:
    stand_in("behaves")
    budgets = ("max_p50_ms", "max_p99_ms", "max_startup_seconds", "max_memory_mb")
    blessing, reasons = validate(line_without_tflite, xs, **dict.fromkeys(budgets, 0.001))
    told = " ".join(reasons)
    assert [told.count(budget) for budget in budgets] == [2, 2, 1, 1]
    memory = read_report(blessing)["formats"]["SavedModel"]["memory_mb"]
    assert (
        f"SavedModel: the server took {memory:.2f} MB, {memory - 0.001:.2f} more than the 0.001 "
        "that max_memory_mb allows"
    ) in reasons


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"split": "holdout"}, "no split 'holdout'; they have test"),
    ],
)
def test_serving_validator_refuses_a_wrong_parameter_by_name(
    refused: Callable[..., None],
    line: Path,
    xs: Any,
    schema: Path,
    parameters: dict[str, Any],
    message: str,
) -> None:
    inputs = {"model": line, "examples": xs, "schema": schema}
    refused(ServingValidator, inputs, message, **({"model_name": "line"} | parameters))


def test_serving_validator_refuses_a_split_without_rows(
    refused: Callable[..., None], line: Path, schema: Path, tmp_path: Path
) -> None:
    write_examples(tmp_path / "Split-test" / "data.gz", [])
    inputs = {"model": line, "examples": examples_artifact(tmp_path), "schema": schema}
    refused(ServingValidator, inputs, "Split-test has no rows", model_name="line")


# The embedded server.


@pytest.fixture
def no_model_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides a `tensorflow_model_server`, and what else is on the path."""
    monkeypatch.setenv("PATH", "")


@pytest.mark.usefixtures("no_model_server")
def test_serving_validator_blesses_a_real_model_and_leaves_it_unchanged(
    validate: Validate, pushed: PushedRun
) -> None:
    model = pushed.artifact("Quantizer", "quantized_model")
    folder = pushed.artifact("SpanExampleGen", "examples")
    before = model_digest(str(model))
    blessing, reasons = validate(
        model,
        examples_artifact(folder),
        PROJECT / "tests/trips/schema",
        model_name="trip_delay",
        rows=50,
        warmup_rows=3,
    )
    assert reasons == []
    assert model_digest(str(model)) == before
    report = read_report(blessing)
    assert report["server"] == "embedded server"
    assert report["warmed_signatures"] == ["raw_features"]
    for form in report["formats"].values():
        assert set(form["protocols"]) == {"gRPC", "REST"}
        assert all(p["largest_difference"] < 1e-5 for p in form["protocols"].values())
    assert len(read_warmup(Path(blessing.uri))) == 3
    for form in report["formats"]:
        assert '"warmup_requests": 3' in Path(blessing.uri, f"{form}.log").read_text()


def loop_for_ever(x: tf.Tensor) -> tf.Tensor:
    (value,) = tf.while_loop(lambda v: tf.reduce_all(v < np.inf), lambda v: (v * 0.5,), (x,))
    return value


@pytest.mark.usefixtures("no_model_server")
@pytest.mark.parametrize(
    ("function", "timeout", "reasons"),
    [
        (
            lambda x: x * np.nan,
            60.0,
            [
                "predicted nan for row {first} over gRPC; 10 of 10 predictions are NaN or infinite",
                "predicted nan for row {first} over REST; 10 of 10 predictions are NaN or infinite",
            ],
        ),
        (loop_for_ever, 8.0, ["the server did not load the model within 8 s"]),
    ],
)
def test_serving_validator_does_not_bless_a_model_that_predicts_nan_or_never(
    validate: Validate,
    tmp_path: Path,
    xs: Any,
    function: Callable[[tf.Tensor], tf.Tensor],
    timeout: float,
    reasons: list[str],
) -> None:
    model = save_line(tmp_path, function, tflite=False)
    _, told = validate(model, xs, timeout_seconds=timeout)
    first = sample_rows(split_files(xs, "test"), 10)[1][0]
    assert told == [f"SavedModel: {reason.format(first=first)}" for reason in reasons]


@pytest.mark.usefixtures("no_model_server")
def test_serving_validator_does_not_bless_a_model_that_cannot_be_loaded(
    validate: Validate, tmp_path: Path, xs: Any
) -> None:
    folder = tmp_path / "Format-Serving"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"no model")
    (folder / TFLITE_MODEL).write_bytes(b"none either")
    _, (saved_model, tflite) = validate(tmp_path, xs)
    assert saved_model.startswith("SavedModel: the server did not load the model: ")
    assert tflite.startswith("TFLite: the server did not load the model: ")


# What the node leaves behind: no process.


def test_run_server_ends_the_server_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from components.serving_validator.server import run_server\n"
        "with run_server(['sh', '-c', 'echo $$; exec sleep 1000'], sys.argv[1]):\n"
        "    time.sleep(1000)\n"
    )
    log = tmp_path / "log"
    node = subprocess.Popen([sys.executable, "-c", script, str(log)], cwd=PROJECT)
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
    sleeper = psutil.Process(int(log.read_text()))
    assert runs(sleeper)
    node.kill()
    node.wait()
    wait_for(lambda: not runs(sleeper))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_run_server_ends_the_server_and_its_children_when_interrupted(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    log = tmp_path / "log"
    family_of_two = ["sh", "-c", "sleep 1000 & echo $!; echo $$; exec sleep 1000"]
    family: list[psutil.Process] = []

    def work() -> None:
        with server.run_server(family_of_two, str(log)):
            wait_for(lambda: log.exists() and log.read_text().count("\n") == 2)
            family.extend(psutil.Process(int(pid)) for pid in log.read_text().split())
            raise interruption

    with pytest.raises(interruption):
        work()
    wait_for(lambda: not any(map(runs, family)))


def runs(process: psutil.Process) -> bool:
    # An orphan is a zombie until the system looks at it, which may be now.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_run_server_kills_a_server_that_ignores_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_GRACE_SECONDS", 0.1)
    log = tmp_path / "log"
    deaf = "trap '' TERM; echo $$; while :; do sleep 0.05; done"
    with server.run_server(["sh", "-c", deaf], str(log)):
        wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
        process = psutil.Process(int(log.read_text()))
    assert not runs(process)


def wait_for(condition: Callable[[], bool]) -> None:
    """Waits until something is so; it never takes half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


# Warm-up requests.


def read_warmup(folder: Path) -> list[Any]:
    """The warm-up requests, as TensorFlow Serving reads them."""
    records = tf.data.TFRecordDataset(str(folder / WARMUP_FILE)).as_numpy_iterator()
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    assert all(log.WhichOneof("log_type") == "predict_log" for log in logs)
    return [log.predict_log.request for log in logs]


def test_write_warmup_requests_can_be_repeated_in_both_formats(
    pushed: PushedRun, tmp_path: Path
) -> None:
    folder = pushed.artifact("SpanExampleGen", "examples")
    rows, _ = sample_rows(sorted(map(str, (folder / "Split-test").iterdir())), 20)
    model = pushed.artifact("Quantizer", "quantized_model") / "Format-Serving"
    copy_tree(str(model), str(tmp_path))
    assert write_warmup(str(tmp_path), "m", rows[:5], RAW_FEATURES) == ["raw_features"]
    requests = read_warmup(tmp_path)
    assert [request.model_spec.name for request in requests] == ["m"] * 5
    saved_model = tf.saved_model.load(str(tmp_path))
    content = (tmp_path / TFLITE_MODEL).read_bytes()
    for row, request in enumerate(requests):
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        name = request.model_spec.signature_name
        server_side = saved_model.signatures[name](**{k: tf.constant(v) for k, v in inputs.items()})
        (prediction,) = predict_as_tensorflow_serving(content, name, inputs).values()
        own = load_predictor(str(model)).predict(rows[row : row + 1])
        np.testing.assert_array_equal(prediction, own)
        np.testing.assert_allclose(next(iter(server_side.values())).numpy(), own, atol=0.02)


def predict_as_tensorflow_serving(
    content: bytes, signature_name: str, inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Runs a TFLite model by the names of tensors that its metadata gives for a signature."""
    signature = tflite_files.read_signatures(content)[signature_name]
    assert set(inputs) == set(signature.inputs)
    interpreter = Interpreter(model_content=content)
    details = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    tensors = {detail["name"]: detail["index"] for detail in details}
    interpreter.allocate_tensors()
    for name, value in inputs.items():
        assert tf.as_dtype(value.dtype) == tf.as_dtype(signature.inputs[name].dtype)
        interpreter.set_tensor(tensors[signature.inputs[name].name], value)
    interpreter.invoke()
    return {
        name: interpreter.get_tensor(tensors[info.name]) for name, info in signature.outputs.items()
    }


def test_write_warmup_covers_all_signatures_of_a_saved_model(
    line_without_tflite: Path, tmp_path: Path
) -> None:
    rows = np.array([example(float(x)) for x in range(3)], object)
    copy_tree(str(line_without_tflite / "Format-Serving"), str(tmp_path))
    warmed = write_warmup(str(tmp_path), "line", rows[:2], ["x"])
    assert warmed == ["raw_features", "serving_default"]
    features, others = read_warmup(tmp_path)[:2], read_warmup(tmp_path)[2:]
    assert [tf.make_ndarray(request.inputs["x"]).tolist() for request in features] == [[0], [1]]
    assert [tf.make_ndarray(request.inputs["examples"])[0] for request in others] == list(rows[:2])


def test_write_warmup_writes_no_more_requests_than_tensorflow_serving_takes(
    line_without_tflite: Path, tmp_path: Path
) -> None:
    rows = np.array([example(float(x)) for x in range(1200)], object)
    copy_tree(str(line_without_tflite / "Format-Serving"), str(tmp_path))
    write_warmup(str(tmp_path), "line", rows, ["x"])
    assert len(read_warmup(tmp_path)) == MAX_WARMUP_RECORDS == 1000


@pytest.fixture
def copied_line(line: Path, tmp_path: Path) -> Path:
    copy_tree(str(line / "Format-Serving"), str(tmp_path / "line"))
    return tmp_path / "line"


def test_write_warmup_without_rows_writes_no_file(copied_line: Path) -> None:
    assert write_warmup(str(copied_line), "line", np.array([], object), ["x"]) == []
    assert not (copied_line / WARMUP_FILE).exists()


def test_write_warmup_changes_no_file_of_the_model(copied_line: Path) -> None:
    before = {path: path.read_bytes() for path in copied_line.rglob("*") if path.is_file()}
    assert write_warmup(str(copied_line), "line", np.array([example(1.0)], object), ["x"])
    assert all(path.read_bytes() == content for path, content in before.items())
    requests = (copied_line / WARMUP_FILE).read_bytes()
    assert write_warmup(str(copied_line), "line", np.array([example(2.0)], object), ["x"]) == []
    assert (copied_line / WARMUP_FILE).read_bytes() == requests


def test_write_warmup_writes_the_same_for_the_same_model_and_rows(
    line: Path, tmp_path: Path
) -> None:
    rows = np.array([example(float(x)) for x in range(3)], object)
    written = set()
    for name in ("one", "other"):
        copy_tree(str(line / "Format-Serving"), str(tmp_path / name))
        write_warmup(str(tmp_path / name), "line", rows, ["x"])
        written.add((tmp_path / name / WARMUP_FILE).read_bytes())
    assert len(written) == 1


def test_read_signatures_finds_names_as_tensorflow_serving_does(line: Path) -> None:
    named = (line / "Format-Serving" / TFLITE_MODEL).read_bytes()
    signatures = tflite_files.read_signatures(named)
    assert set(signatures) == {"raw_features", "serving_default"}
    assert signatures["raw_features"] == signatures["serving_default"]
    x = np.array([4.0], np.float32)
    assert predict_as_tensorflow_serving(named, "serving_default", {"x": x}) == {"y": [[9.0]]}
    assert signatures["raw_features"].method_name == "tensorflow/serving/predict"
    # It reads each as a C string: a terminating zero, and none before.
    for signature in signatures.values():
        serialized = signature.SerializeToString(deterministic=True)
        assert b"\0" not in serialized
        assert serialized + b"\0" in named


@given(share=st.floats(0, 0.9), noise=st.binary(max_size=200))
def test_read_signatures_of_other_files_is_empty(line: Path, share: float, noise: bytes) -> None:
    content = (line / "Format-Serving" / TFLITE_MODEL).read_bytes()
    for damaged in (content[: int(len(content) * share)], noise):
        assert tflite_files.read_signatures(damaged) == {}


# The rows of the requests.


def test_sample_rows_takes_the_same_rows_from_all_over_a_split(tmp_path: Path) -> None:
    for part in range(2):
        written = [example(float(x)) for x in range(part * 500, part * 500 + 500)]
        write_examples(tmp_path / f"data-{part}.gz", written)
    files = sorted(map(str, tmp_path.iterdir()))
    rows, numbers = sample_rows(files, 50)
    assert len(set(numbers)) == 50
    assert numbers == sorted(numbers)
    assert list(rows) == [example(float(number)) for number in numbers]
    assert all(any(low <= n < low + 250 for n in numbers) for low in range(0, 1000, 250))
    again, same = sample_rows(files, 50)
    assert (list(again), same) == (list(rows), numbers)
    assert sample_rows(files, 5000)[1] == list(range(1000))


def signature_of(**inputs: tuple[tf.DType, list[int]]) -> Any:
    signature = meta_graph_pb2.SignatureDef()
    for name, (dtype, shape) in inputs.items():
        signature.inputs[name].dtype = dtype.as_datatype_enum
        for size in shape:
            signature.inputs[name].tensor_shape.dim.add(size=size)
    return signature


def test_make_inputs_parses_features_by_name_and_fills_absent_ones() -> None:
    signature = signature_of(x=(tf.float32, [-1]), name=(tf.string, [-1]), other=(tf.float64, [-1]))
    inputs = make_inputs(
        signature, np.array([example(3.0), example(4.0)], object), ["x", "name", "other"]
    )
    assert inputs["x"].tolist() == [3, 4]
    assert inputs["name"].tolist() == [b"", b""]
    assert inputs["other"].dtype == np.float64
    assert np.isnan(inputs["other"]).all()


def test_make_inputs_tells_a_single_feature_of_text_from_serialized_examples() -> None:
    rows = np.array([task_models.example([], b"red"), task_models.example([])], object)
    text = signature_of(colour=(tf.string, [-1]))
    assert make_inputs(text, rows, ["x", "colour"])["colour"].tolist() == [b"red", b""]
    serialized = signature_of(examples=(tf.string, [-1]))
    assert make_inputs(serialized, rows, ["x", "colour"])["examples"].tolist() == rows.tolist()


def test_make_inputs_refuses_an_example_without_a_needed_feature() -> None:
    with pytest.raises(DataError, match=r"does not fit the signature: .*count"):
        make_inputs(
            signature_of(count=(tf.int64, [-1])), np.array([example(3.0)], object), ["count"]
        )


def test_make_inputs_refuses_inputs_that_no_example_holds_by_name() -> None:
    signature = signature_of(image=(tf.float32, [-1, -1, -1]), z=(tf.complex64, [-1]))
    with pytest.raises(UserError, match=r"image \(DT_FLOAT, \[-1, -1\] a row\), z \(DT_COMPLEX64"):
        make_inputs(signature, np.array([example(3.0)], object), ["image", "z"])


def test_make_inputs_refuses_an_input_that_no_example_has_instead_of_feeding_nan() -> None:
    signature = signature_of(trip_miles=(tf.float32, [-1]), hour=(tf.int64, [-1]))
    with pytest.raises(
        UserError, match=r"^the signature has the input 'trip_miles', which is no f"
    ):
        make_inputs(signature, np.array([example(3.0)], object), ["trip.miles", "hour"])


def test_make_inputs_feeds_the_only_feature_if_it_is_text() -> None:
    signature = signature_of(text=(tf.string, [-1]))
    example = tf.train.Example()
    example.features.feature["text"].bytes_list.value.append(b"a review")
    rows = np.array([example.SerializeToString()], object)
    assert make_inputs(signature, rows, ["text"])["text"].tolist() == [b"a review"]
    assert make_inputs(signature, rows, ["x"])["text"].tolist() == rows.tolist()


@given(
    text=st.lists(st.binary(max_size=8), min_size=2, max_size=2),
    numbers=st.lists(st.floats(width=32), min_size=4, max_size=4),
    whole=st.integers(-(2**63), 2**63 - 1),
)
def test_rest_body_holds_the_row_unchanged(
    text: list[bytes], numbers: list[float], whole: int
) -> None:
    inputs = {
        "text": np.array(text, object),
        "numbers": np.array(numbers, np.float32).reshape(2, 2),
        "whole": np.array([0, whole], np.int64),
    }
    (row,) = json.loads(rest_body("serving_default", inputs, 1))["instances"]
    assert base64.b64decode(row["text"]["b64"]) == text[1]
    np.testing.assert_array_equal(np.array(row["numbers"], np.float32), numbers[2:])
    assert row["whole"] == whole


# The verdict.


@given(
    own=st.lists(st.floats(-1, 1), min_size=1, max_size=20),
    errors=st.lists(st.floats(-0.1, 0.1), min_size=20, max_size=20),
    tolerance=st.floats(0, 0.1),
)
def test_compare_reports_predictions_beyond_the_tolerance(
    own: list[float], errors: list[float], tolerance: float
) -> None:
    expected = [np.array([[value]]) for value in own]
    predictions = [np.array([value + error]) for value, error in zip(own, errors, strict=False)]
    apart = [abs(float(a[0] - e[0, 0])) for a, e in zip(predictions, expected, strict=True)]
    difference, lines = compare("REST", predictions, expected, list(range(len(own))), tolerance)
    assert difference == max(apart)
    assert bool(lines) == (max(apart) > tolerance)
    if lines:
        assert f"for row {apart.index(max(apart))} over REST" in lines[0]
        assert f"{sum(a > tolerance for a in apart)} of {len(own)} predictions" in lines[0]


def test_compare_reports_predictions_of_another_size_and_for_nan() -> None:
    two, one, none = np.zeros(2), np.zeros(1), np.array([np.nan])
    difference, lines = compare("gRPC", [one, two], [one, one], [7, 8], 0.1)
    assert difference is None
    assert lines == ["predicted 2 values for row 8 over gRPC, but the model itself predicts 1"]
    _, lines = compare("gRPC", [one, one], [one, none], [7, 8], 0.1)
    assert lines[0].startswith(
        "predicted 0 for row 8 over gRPC, but the model itself predicts nan: "
    )


def test_unmet_limits_ignores_limits_of_0_and_missing_measurements() -> None:
    trial = Trial(startup_seconds=9.0, protocols={"gRPC": Protocol(5.0, 50.0)})
    assert unmet_limits(trial, Limits(0.1, 0, 0, 0, 0, 60)) == []
    assert unmet_limits(trial, Limits(0.1, 5, 50, 9, 1, 60)) == []
    assert unmet_limits(trial, Limits(0.1, 4, 40, 8, 1, 60)) == [
        "the server was ready after 9.00 s, 1.00 more than the 8 that max_startup_seconds allows",
        "a request over gRPC took 5.00 ms (median), 1.00 more than the 4 that max_p50_ms allows",
        "a request over gRPC took 50.00 ms (99th percentile), 10.00 more than the 40 that "
        "max_p99_ms allows",
    ]


# Other tasks.


@pytest.fixture
def vectors(tmp_path: Path) -> Any:
    """An `Examples` artifact of vectors, with the labels of each task."""
    rows = [
        task_models.example(
            [n / 7, -n / 3, 0.5], b"red" if n % 2 else b"", kind=b"a", price=100.0 * n
        )
        for n in range(12)
    ]
    write_examples(tmp_path / "vectors" / "Split-test" / "data.gz", rows)
    return examples_artifact(tmp_path / "vectors")


@pytest.mark.usefixtures("no_model_server")
@pytest.mark.parametrize(
    ("task", "methods", "scale"),
    [
        (task_models.KINDS, ["predict", "classify"], 1.0),
        (task_models.TIPS, ["predict", "classify", "regress"], 1.0),
        (task_models.PRICE, ["predict", "regress"], 345.2),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_serving_validator_requests_each_method_of_a_task(
    validate: Validate,
    tmp_path: Path,
    vectors: Any,
    task: Task,
    methods: list[str],
    scale: float,
) -> None:
    task_models.save(tmp_path / "model" / "Format-Serving", task)
    blessing, reasons = validate(tmp_path / "model", vectors, rows=12, task=task.to_json())
    assert reasons == []
    report = read_report(blessing)
    assert report["scale"] == pytest.approx(scale, rel=1e-3)
    assert report["formats"]["SavedModel"]["methods"] == methods
    assert report["formats"]["TFLite"]["methods"] == ["predict"]
    for form in report["formats"].values():
        assert all(p["largest_difference"] < 1e-3 for p in form["protocols"].values())
    assert report["warmed_signatures"] == ["raw_features"]


@pytest.mark.usefixtures("no_model_server")
def test_serving_validator_names_classes_that_are_called_otherwise(
    validate: Validate, tmp_path: Path, vectors: Any
) -> None:
    names = ("Adelie", "Chinstrap", "Gentoo")
    folder = tmp_path / "model" / "Format-Serving"
    task_models.save(folder, task_models.KINDS, tflite=False, names=names)
    _, reasons = validate(tmp_path / "model", vectors, task=task_models.KINDS.to_json())
    assert len(reasons) == 2
    for reason, protocol in zip(reasons, ("gRPC", "REST"), strict=True):
        assert re.fullmatch(
            rf"SavedModel: row \d+ over {protocol} \(classify\): the classes are Adelie, "
            r"Chinstrap, Gentoo; Adelie, Gentoo, Chinstrap are expected",
            reason,
        )


@given(
    numbers=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
    whole=st.integers(-(2**63), 2**63 - 1),
    text=st.binary(max_size=8),
)
def test_rest_examples_body_is_read_as_the_same_example(
    numbers: list[float], whole: int, text: bytes
) -> None:
    sent = tf.train.Example()
    sent.features.feature["numbers"].float_list.value.extend(numbers)
    sent.features.feature["whole"].int64_list.value.append(whole)
    sent.features.feature["text"].bytes_list.value.append(text)
    body = rest_examples_body("classify", sent.SerializeToString())
    name, (read,) = parse_examples(body, 1 << 20, 10)
    assert name == "classify"
    assert tf.train.Example.FromString(read) == sent
