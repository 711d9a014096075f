"""CompressionEvaluator and the loader behind both Evaluators, on what a real small run left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
import tensorflow_transform as tft
import tf_keras
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from components.compression_evaluator import CompressionEvaluator, read_budgets, unmet_budgets
from components.evaluator.extraction import _Predict
from components.evaluator.results import read_changes, read_failures, read_metrics
from components.quantizer.conversion import convert
from ml.export import save_model
from ml.predictors import SavedModelPredictor, TFLitePredictor, load_predictor
from pipeline.config import CompressionConfig, load_config
from pipeline.evaluation import make_compression_eval_config
from pipeline.model import Model
from storage.errors import DataError, UserError
from storage.names import RAW_SIGNATURE, TFLITE_MODEL
from tests.components.parameters import DEFAULTS
from tests.conftest import PushedRun, make_artifacts

MIN_SLICE = 500


def evaluate(pushed: PushedRun, model: Path, work: Path, **budgets: Any) -> tuple[Any, str]:
    """Evaluates a compressed model of the run; returns the blessing and the evaluation's folder."""
    folders = {
        "examples": pushed.artifact("SpanExampleGen", "examples"),
        "schema": pushed.artifact("ImportSchemaGen", "schema"),
        "model": model,
        "float_model": pushed.artifact("Trainer", "model"),
        "report": pushed.artifact("Quantizer", "report"),
    }
    inputs, outputs = make_artifacts(CompressionEvaluator, folders, work)
    config = CompressionConfig(max_loss=0.15, max_slice_loss=0.6)
    parameters = {
        "eval_config": json_format.MessageToJson(
            make_compression_eval_config(config, MIN_SLICE, Model.load(load_config()))
        ),
        "task": load_config().make_task().to_json(),
        **budgets,
    }
    executor = CompressionEvaluator.EXECUTOR_SPEC.executor_class
    context = executor.Context(
        tmp_dir=str(work),
        make_beam_pipeline_fn=lambda: beam.Pipeline(argv=list(load_config().beam_args)),
    )
    executor(context).Do(inputs, outputs, DEFAULTS["CompressionEvaluator"] | parameters)
    return outputs["blessing"][0], str(work / "evaluation")


@pytest.fixture(scope="module")
def contrary(pushed: PushedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both formats of a network that predicts high where that of the run predicts low."""
    path = tmp_path_factory.mktemp("contrary")
    trained = tf_keras.models.load_model(
        str(pushed.artifact("Trainer", "model") / "Format-Serving"), compile=False
    )
    network = tf_keras.Model(trained.inputs, trained.outputs)
    layer = network.get_layer("deep")
    layer.set_weights([-weight for weight in layer.get_weights()])
    graph = tft.TFTransformOutput(str(pushed.artifact("Transform", "transform_graph")))
    save_model(network, graph, str(path), Model.load(load_config()).custom_config)
    content = convert(str(path), RAW_SIGNATURE, float16=False, quantize=False)
    (path / TFLITE_MODEL).write_bytes(content)
    return path


@pytest.fixture
def copied_model(pushed: PushedRun, tmp_path: Path) -> Path:
    """A copy of the run's compressed model that a test may change."""
    made = pushed.artifact("Quantizer", "quantized_model")
    return Path(shutil.copytree(made, tmp_path / "model"))


def test_compression_evaluator_compares_both_formats_with_the_float_model(
    pushed: PushedRun,
) -> None:
    uri = str(pushed.artifact("CompressionEvaluator", "evaluation"))
    specs = tfma.load_eval_result(uri, model_name=None).config.model_specs
    assert [(spec.name, spec.is_baseline) for spec in specs] == [
        ("tflite", False),
        ("saved_model", False),
        ("float", True),
    ]
    changes = read_changes(uri, "auc")
    assert {"Overall", "origin:EWR", "origin:JFK"} <= changes.keys()
    assert 0 < abs(changes["Overall"]) < 0.1
    by_model = [
        dict(tfma.load_eval_result(uri, model_name=spec.name).slicing_metrics)[()] for spec in specs
    ]
    tflite, saved, _ = (values[""][""]["auc"]["boundedValue"]["value"] for values in by_model)
    assert tflite == pytest.approx(saved, abs=0.005)
    assert read_metrics(uri)["Overall"]["auc"] == tflite


def test_evaluator_evaluates_the_tflite_format(pushed: PushedRun) -> None:
    metrics = read_metrics(str(pushed.artifact("Evaluator", "evaluation")))
    compressed = read_metrics(str(pushed.artifact("CompressionEvaluator", "evaluation")))
    assert metrics["Overall"]["auc"] == pytest.approx(compressed["Overall"]["auc"], abs=1e-6)


@pytest.mark.parametrize(("broken", "named"), [("tflite", "tflite"), ("server", "saved_model")])
def test_compression_evaluator_refuses_a_model_with_one_bad_format(
    pushed: PushedRun, contrary: Path, copied_model: Path, tmp_path: Path, broken: str, named: str
) -> None:
    folder = copied_model / "Format-Serving"
    good = (folder / TFLITE_MODEL).read_bytes()
    if broken == "server":
        shutil.rmtree(folder)
        shutil.copytree(contrary, folder)
    bad = (contrary / TFLITE_MODEL).read_bytes()
    (folder / TFLITE_MODEL).write_bytes(good if broken == "server" else bad)
    blessing, evaluation = evaluate(pushed, copied_model, tmp_path / "work")
    assert blessing.get_int_custom_property("blessed") == 0
    assert [path.name for path in Path(blessing.uri).iterdir()] == ["NOT_BLESSED"]
    failures = read_failures(evaluation)
    assert failures[0].startswith(f"Overall: {named} AUC 0."), failures
    assert " worse than the float model's 0." in failures[0]
    assert failures[0].endswith(": at most 0.15 is allowed")
    assert all(f": {named} AUC" in line for line in failures)


def test_compression_evaluator_refuses_a_model_over_budget_and_tells_by_how_much(
    pushed: PushedRun, tmp_path: Path
) -> None:
    model = pushed.artifact("Quantizer", "quantized_model")
    blessing, evaluation = evaluate(pushed, model, tmp_path, max_bytes=10_000)
    assert blessing.get_int_custom_property("blessed") == 0
    size = (model / "Format-Serving" / TFLITE_MODEL).stat().st_size
    over = f"{size:,} bytes, {size - 10_000:,} more than the 10,000 allowed"
    assert read_failures(evaluation) == []
    assert read_budgets(evaluation) == [f"max_bytes: model.tflite has {over}"]


@pytest.mark.parametrize(
    ("budget", "value"), [("max_bytes", -1), ("max_p99_ms", -0.5), ("min_sparsity", 1.5)]
)
def test_compression_evaluator_refuses_an_impossible_budget_before_any_work(
    pushed: PushedRun, tmp_path: Path, budget: str, value: float
) -> None:
    model = pushed.artifact("Quantizer", "quantized_model")
    with pytest.raises(UserError, match=rf"{budget} = {value}: allowed is "):
        evaluate(pushed, model, tmp_path, **{budget: value})
    assert not (tmp_path / "evaluation").exists()


@given(
    size=st.integers(1, 10**6),
    p99=st.floats(1e-4, 10),
    sparsity=st.floats(0, 1),
    max_bytes=st.integers(0, 10**6),
    max_p99=st.floats(0, 10),
    min_sparsity=st.floats(0, 1),
)
def test_unmet_budgets_names_exactly_those_that_are_not_met(
    size: int, p99: float, sparsity: float, max_bytes: int, max_p99: float, min_sparsity: float
) -> None:
    report = {
        "mode": "int8",
        "modes": {"int8": {"bytes": size, "p99_ms": p99, "sparsity": sparsity}},
    }
    lines = unmet_budgets(report, max_bytes, max_p99, min_sparsity)
    broken = {
        "max_bytes": 0 < max_bytes < size,
        "max_p99_ms": 0 < max_p99 < p99,
        "min_sparsity": sparsity < min_sparsity,
    }
    assert [line.partition(":")[0] for line in lines] == [name for name in broken if broken[name]]


def test_evaluator_predicts_a_batch_at_a_time(pushed: PushedRun) -> None:
    examples = read_examples(pushed)[:100]
    predict = _Predict(
        {"tflite": (str(pushed.version), True), "server": (str(pushed.version), False)},
        frozenset({"origin"}),
        load_config().make_task(),
    )
    predict.setup()
    batches = {name: count_calls(predictor) for name, predictor in predict._predictors.items()}
    extracts = {
        "input": examples,
        "features": {"origin": examples, "dest": examples},
        "labels": np.zeros((100, 1), np.int64),
    }
    (made,) = predict.process(extracts)
    assert batches == {"tflite": [100], "server": [100]}
    assert {name: predictions.shape for name, predictions in made["predictions"].items()} == {
        "tflite": (100, 1),
        "server": (100, 1),
    }
    assert set(made["features"]) == {"origin"}


def count_calls(predictor: Any) -> list[int]:
    """The sizes of the batches that a predictor gets from now on."""
    sizes: list[int] = []
    original = predictor.predict

    def counting(examples: np.ndarray) -> np.ndarray:
        sizes.append(len(examples))
        return original(examples)

    predictor.predict = counting
    return sizes


def read_examples(pushed: PushedRun) -> np.ndarray:
    folder = pushed.artifact("SpanExampleGen", "examples") / "Split-test"
    files = [str(path) for path in sorted(folder.iterdir())]
    return np.array(list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator()), object)


def test_load_predictor_loads_the_format_that_is_there(
    pushed: PushedRun, copied_model: Path
) -> None:
    assert isinstance(load_predictor(str(pushed.version)), TFLitePredictor)
    assert isinstance(load_predictor(str(pushed.version), prefer_tflite=False), SavedModelPredictor)
    folder = copied_model / "Format-Serving"
    (folder / TFLITE_MODEL).unlink()
    assert isinstance(load_predictor(str(folder)), SavedModelPredictor)


def test_predictor_names_a_missing_integer_feature(pushed: PushedRun) -> None:
    example = tf.train.Example.FromString(read_examples(pushed)[0])
    del example.features.feature["sched_dep_time"]
    predictor = load_predictor(str(pushed.version))
    with pytest.raises(DataError, match="sched_dep_time"):
        predictor.predict(np.array([example.SerializeToString()], object))


def test_quantizer_report_has_a_row_for_the_shipped_mode(pushed: PushedRun) -> None:
    report = json.loads((pushed.artifact("Quantizer", "report") / "report.json").read_text())
    shipped = report["modes"][report["mode"]]
    folder = pushed.artifact("Quantizer", "quantized_model") / "Format-Serving"
    assert shipped["bytes"] == (folder / TFLITE_MODEL).stat().st_size
    assert shipped["bytes"] < report["float"]["bytes"] / 1.5  # Most of it is vocabularies.
    assert shipped["sparsity"] > 0.7  # 84% would take more steps than these rows give.
