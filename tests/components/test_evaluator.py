"""The Evaluators on raw labels of every task, with small models and real data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from google.protobuf import json_format, text_format
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from tensorflow_metadata.proto.v0 import schema_pb2

from components.evaluator.component import Evaluator
from components.evaluator.evaluation import evaluate_by_columns, evaluate_by_rows, with_defaults
from components.evaluator.results import read_failures, read_intervals, read_metrics, read_verdict
from ml.file_names import CURVES_FILE, SUMMARY_FILE
from ml.scores import measure
from ml.tasks import Task
from pipeline.config import EvaluationConfig, load_config
from pipeline.evaluation import make_eval_config
from pipeline.fairness_config import FairnessConfig
from pipeline.model import Model
from storage.errors import DataError
from storage.tfrecords import open_records
from tests.conftest import make_artifacts

IRIS = Task("multiclass", "species", ("setosa", "versicolor", "virginica"))
SICK = Task("binary", "sick", ("no", "yes"), example_weight="weight")
PROGRESS = Task("regression", "progress")
# Of all rows, and of those that a model is fitted on.
Rows = dict[str, Any]


def iris(noise: float = 0.0) -> Rows:
    """A third of the rows, every third is for training; the predictions of a logistic model."""
    data = load_iris()
    train, test = np.arange(150) % 2 == 0, np.arange(150) % 2 == 1
    scale = np.random.default_rng(1).normal(0, noise, (test.sum(), 4))
    model = LogisticRegression(max_iter=1000).fit(data.data[train], data.target[train])
    return {
        "label": np.array(IRIS.classes)[data.target[test]],
        "prediction": model.predict_proba(data.data[test] + scale),
        "kind": np.where(data.target[test] == 0, "short", "long"),
        "weight": np.ones(test.sum()),
    }


def diabetes(columns: int = 10) -> Rows:
    data = load_diabetes()
    train, test = np.arange(442) % 2 == 0, np.arange(442) % 2 == 1
    model = LinearRegression().fit(data.data[train, :columns], data.target[train])
    return {
        "label": data.target[test],
        "prediction": model.predict(data.data[test, :columns])[:, None],
        "kind": np.where(data.data[test, 1] > 0, "one", "other"),
        "weight": np.ones(test.sum()),
    }


def sickness(rows: int, quality: float) -> Rows:
    """Whether the disease progressed; random predictions with a share of the truth in them."""
    sick = load_diabetes().target[:rows] > 140
    rng = np.random.default_rng(3)
    return {
        "label": np.where(sick, "yes", "no"),
        "prediction": (quality * sick + (1 - quality) * rng.random(rows))[:, None],
        "kind": np.where(sick, "all sick", "all well"),
        "weight": rng.choice([0.5, 1.0, 2.0], rows),
    }


class Lookup(tf.Module):
    """A model that reads its prediction from the example."""

    def __init__(self, name_of_prediction: str, outputs: int):
        super().__init__()
        self.feature = {name_of_prediction: tf.io.FixedLenFeature([outputs], tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serve(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        (prediction,) = tf.io.parse_example(examples, self.feature).values()
        return {"prediction": prediction}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """An empty baseline, as nothing is served."""
    (tmp_path / "baseline").mkdir()
    return {name: tmp_path / name for name in ("examples", "schema", "model", "baseline")}


def save_model(folder: Path, feature: str, outputs: int) -> None:
    model = Lookup(feature, outputs)
    tf.saved_model.save(
        model, str(folder / "Format-Serving"), signatures={"serving_default": model.serve}
    )


def write(folders: dict[str, Path], task: Task, rows: Rows, served: Any = None) -> None:
    """Writes raw examples with the predictions of the models in them, and the models."""
    split = folders["examples"] / "Split-test"
    split.mkdir(parents=True)
    with open_records(str(split / "data.gz")) as out:
        for row in range(len(rows["label"])):
            example = tf.train.Example()
            feature = example.features.feature
            label = rows["label"][row]
            if isinstance(label, str):
                feature[task.label].bytes_list.value.append(label.encode())
            elif label is not None:
                feature[task.label].float_list.value.append(label)
            feature["kind"].bytes_list.value.append(str(rows["kind"][row]).encode())
            feature["weight"].float_list.value.append(rows["weight"][row])
            feature["own"].float_list.value.extend(rows["prediction"][row])
            if served is not None:
                feature["served"].float_list.value.extend(served[row])
            out.write(example.SerializeToString())
    kind = "FLOAT" if task.kind == "regression" else "BYTES"
    folders["schema"].mkdir()
    (folders["schema"] / "schema.pbtxt").write_text(
        f'feature {{ name: "{task.label}" type: {kind} }} feature {{ name: "kind" type: BYTES }} '
        'feature { name: "weight" type: FLOAT }'
    )
    save_model(folders["model"], "own", rows["prediction"].shape[1])
    if served is not None:
        save_model(folders["baseline"], "served", rows["prediction"].shape[1])


def model_of(task: Task) -> Model:
    return Model("-", task, "prediction", "", ("kind",), ())


def judge_rows(
    folders: dict[str, Path],
    task: Task,
    rows: Rows,
    served: Any = None,
    fairness: str = "",
    **settings: Any,
) -> tuple[bool, str]:
    """Runs the Evaluator; returns whether it blessed the model, and the evaluation's folder."""
    write(folders, task, rows, served)
    work = folders["examples"].parent / "work"
    given = {"examples": "examples", "schema": "schema", "model": "model"}
    inputs, outputs = make_artifacts(
        Evaluator,
        {name: folders[key] for name, key in given.items()}
        | {"baseline_model": folders["baseline"]},
        work,
    )
    config = EvaluationConfig(**{"min_slice_examples": 5} | settings)
    executor = Evaluator.EXECUTOR_SPEC.executor_class
    context = executor.Context(
        tmp_dir=str(work),
        make_beam_pipeline_fn=lambda: beam.Pipeline(argv=list(load_config().beam_args)),
    )
    parameters = {
        "max_baseline_loss": 0.0,
        "fairness": fairness,
        "eval_config": json_format.MessageToJson(make_eval_config(config, model_of(task))),
        "task": task.to_json(),
        "split": "test",
        "confidence": config.confidence,
    }
    executor(context).Do(inputs, outputs, parameters)
    blessed = outputs["blessing"][0].get_int_custom_property("blessed")
    return bool(blessed), str(work / "evaluation")


def expected(task: Task, rows: Rows) -> dict[str, float | None]:
    weights = rows["weight"] if task.example_weight else None
    return measure(task, task.encode(rows["label"]), rows["prediction"], weights)


def read(uri: str, name: str) -> Any:
    return json.loads((Path(uri) / name).read_text())


def test_evaluator_measures_classes_with_text_labels_and_blesses_a_good_model_on_few_rows(
    folders: dict[str, Path],
) -> None:
    rows = iris()
    assert len(rows["label"]) == 75
    blessed, uri = judge_rows(folders, IRIS, rows, thresholds={"accuracy": 0.8})
    assert (blessed, read_failures(uri)) == (True, [])
    overall = read_metrics(uri)["Overall"]
    assert overall.pop("example_count") == 75
    by_class = {f"calibration:{name}": overall.pop(f"calibration:{name}") for name in IRIS.classes}
    assert overall == pytest.approx(expected(IRIS, rows), abs=2e-4)
    assert overall["calibration"] in by_class.values()
    lower, upper = read_intervals(uri)["Overall"]["accuracy"]
    assert overall["accuracy"] is not None
    assert 0.85 < lower < overall["accuracy"] < upper
    # Slices of one class have no curve.
    assert read_metrics(uri)["kind:short"]["macro_auc"] is None
    counts = np.array(read(uri, CURVES_FILE)["curves"]["model"]["confusion"]["counts"])
    assert counts.sum() == 75
    assert np.trace(counts) / 75 == pytest.approx(overall["accuracy"])
    summary = read(uri, SUMMARY_FILE)
    assert {"metric": "accuracy", "overall": True, "lowest": 0.8} in summary["thresholds"]
    (short,) = [each for each in summary["slices"] if each["slice"] == {"kind": "short"}]
    assert short["metrics"]["macro_auc"]["value"] is None


def test_evaluator_refuses_an_accuracy_that_so_few_rows_do_not_show(
    folders: dict[str, Path],
) -> None:
    blessed, uri = judge_rows(folders, IRIS, iris(), thresholds={"accuracy": 0.95})
    (line,) = read_failures(uri)
    assert not blessed
    assert line.startswith("Overall: accuracy 0.9")
    assert " on 75 rows may be below 0.95: at least " in line
    assert line.endswith(" are needed to tell")


def test_evaluator_measures_a_regression_and_compares_it_by_shares(
    folders: dict[str, Path],
) -> None:
    rows = diabetes(columns=3)
    blessed, uri = judge_rows(folders, PROGRESS, rows, diabetes()["prediction"])
    assert not blessed
    own, served = expected(PROGRESS, rows)["rmse"], expected(PROGRESS, diabetes())["rmse"]
    assert own is not None
    assert served is not None
    assert read_failures(uri)[-1] == (
        f"Overall: RMSE {own:.2f}, {own / served - 1:.2%} worse than the served model's "
        f"{served:.2f}: at most 2% is allowed"
    )
    overall = read_metrics(uri)["Overall"]
    assert overall.pop("example_count") == 221
    curves = read(uri, CURVES_FILE)["curves"]
    residuals = {name: curves[name]["groups"][0]["residuals"] for name in ("model", "served")}
    assert residuals["model"] != residuals["served"]
    whole = read(uri, SUMMARY_FILE)["slices"][0]
    assert (whole["name"], whole["rows"]) == ("Overall", 221)
    rmse = whole["metrics"]["rmse"]
    assert (rmse["value"], rmse["baseline"]) == pytest.approx((own, served), rel=1e-5)
    assert rmse["change_low"] < rmse["change"] < rmse["change_high"]
    assert overall == pytest.approx(expected(PROGRESS, rows), rel=1e-5)


def test_evaluator_compares_with_a_saved_model_where_its_tflite_model_cannot_be_loaded(
    folders: dict[str, Path],
) -> None:
    rows = diabetes(columns=3)
    served = folders["baseline"] / "Format-Serving"
    served.mkdir()
    (served / "model.tflite").write_bytes(b"an operator of another release")
    assert judge_rows(folders, PROGRESS, rows, diabetes()["prediction"])[0] is False
    whole = read(str(folders["examples"].parent / "work" / "evaluation"), SUMMARY_FILE)["slices"][0]
    expected_rmse = expected(PROGRESS, diabetes())["rmse"]
    assert whole["metrics"]["rmse"]["baseline"] == pytest.approx(expected_rmse, rel=1e-5)


def test_evaluator_blesses_a_better_regression(folders: dict[str, Path]) -> None:
    blessed, uri = judge_rows(
        folders, PROGRESS, diabetes(), diabetes(columns=2)["prediction"], thresholds={"rmse": 65}
    )
    assert (blessed, read_failures(uri)) == (True, [])
    assert set(read_verdict(uri).margins) == {"rmse", "mae", "r2", "bias"}


def test_evaluator_refuses_what_72_rows_cannot_tell_from_chance(folders: dict[str, Path]) -> None:
    rows = sickness(72, quality=0.02)
    auc = expected(SICK, rows)["auc"]
    assert auc is not None
    assert 0.5 < auc < 0.62
    blessed, uri = judge_rows(folders, SICK, rows)
    (line,) = read_failures(uri)
    assert not blessed
    assert line.startswith(f"Overall: AUC {auc:.2f}")
    assert " on 72 rows may be below 0.5: at least " in line


def test_evaluator_weighs_rows_and_does_not_judge_slices_of_one_class(
    folders: dict[str, Path],
) -> None:
    rows = sickness(300, quality=0.4)
    blessed, uri = judge_rows(folders, SICK, rows, slice_thresholds={"auc": 0.55})
    assert (blessed, read_failures(uri)) == (True, [])
    metrics = read_metrics(uri)
    assert metrics["Overall"].pop("example_count") == pytest.approx(rows["weight"].sum())
    assert metrics["Overall"] == pytest.approx(expected(SICK, rows), abs=1e-2)
    assert metrics["kind:all sick"]["auc"] is None
    assert metrics["kind:all sick"]["log_loss"] is not None
    assert read_verdict(uri).not_judged == (
        "kind:all sick: AUC is undefined on these rows",
        "kind:all well: AUC is undefined on these rows",
    )
    assert "NaN" not in json.dumps(metrics)


def test_evaluator_refuses_a_model_that_treats_slices_too_differently(
    folders: dict[str, Path],
) -> None:
    config = FairnessConfig(
        ("kind",), (0.4,), {"selection_rate": 0.2, "false_negative_rate": 0.2}, {}, 30
    )
    blessed, uri = judge_rows(folders, SICK, sickness(300, quality=0.4), fairness=config.to_json())
    (line,) = read_failures(uri)
    assert not blessed
    assert line.startswith("fairness: kind: selection rate at 0.4 is ")
    assert line.endswith(" apart: at most 0.2 is allowed (fairness.max_difference)")
    unknown = "kind:all well: false negative rate at 0.4 is unknown: no row is positive"
    assert unknown in read_verdict(uri).not_judged


def test_evaluator_blesses_nothing_on_a_handful_of_rows_however_good(
    folders: dict[str, Path],
) -> None:
    blessed, uri = judge_rows(folders, SICK, sickness(15, quality=1.0))
    assert not blessed
    assert read_failures(uri)[0].startswith("Overall: 15 rows, ")
    assert read_failures(uri)[0].endswith("rows of each class are needed to tell")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            "maybe",
            "label 'sick': 1 of 40 rows have a value that is none of the classes 'no', 'yes', "
            "such as 'maybe'",
        ),
        (None, "label 'sick': 1 of 40 rows have no value, or several"),
    ],
)
def test_evaluator_refuses_a_label_that_is_no_class_or_absent(
    folders: dict[str, Path], label: str | None, message: str
) -> None:
    rows = sickness(40, quality=0.5)
    rows["label"] = [label, *rows["label"][1:]]
    with pytest.raises(DataError) as caught:
        judge_rows(folders, SICK, rows)
    assert str(caught.value) == message


@pytest.mark.parametrize("task", [IRIS, PROGRESS], ids=lambda task: task.kind)
def test_evaluate_gives_the_same_by_columns_and_by_rows_of_stock_tfma(
    folders: dict[str, Path], task: Task
) -> None:
    write(folders, task, iris() if task == IRIS else diabetes())
    schema = text_format.Parse(
        (folders["schema"] / "schema.pbtxt").read_text(), schema_pb2.Schema()
    )
    config = make_eval_config(EvaluationConfig(min_slice_examples=1), model_of(task))
    config.options.ClearField("compute_confidence_intervals")
    config = with_defaults(config, has_baseline=False)
    models = {config.model_specs[0].name: (str(folders["model"] / "Format-Serving"), True)}
    found = []
    for way in (evaluate_by_columns, evaluate_by_rows):
        output = str(folders["examples"].parent / way.__name__)
        files = [str(folders["examples"] / "Split-test" / "data.gz")]
        with beam.Pipeline(argv=list(load_config().beam_args)) as pipeline:
            way(pipeline, files, schema, task, config, models, output)
        assert tfma.load_eval_result(output).config.model_specs
        found.append(read_metrics(output)["Overall"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
