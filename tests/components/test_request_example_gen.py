"""Tests that the request log of a period is read as it is, or refused with what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tensorflow as tf

from components import request_example_gen
from components.request_example_gen import RequestExampleGen
from ml import request_log
from ml.artifacts import load_schema
from ml.examples import read_rows, read_vectors
from ml.requests import Requests
from ml.tasks import Task
from pipeline.config import load_config
from serving.server.request_records import make_records
from storage.encryption import Encryptor
from storage.encryption_keys import add_key, require_keys
from storage.names import REQUEST_LOG_SUFFIX
from tests.conftest import HostileFile, read_month, thin, write_span
from tests.trips.features import RAW_FEATURES

LABEL, PROBABILITY = load_config().label, load_config().prediction

MODEL = "a_model"
VERSION = 7
DAY = 86_400
SINCE = 15_768 * DAY  # 2013-03-04, a Monday
UNTIL = SINCE + 7 * DAY

Generate = Callable[..., Any]


@pytest.fixture(scope="module")
def trips() -> pa.Table:
    return thin(read_month(201303), 40)


@pytest.fixture
def generate(
    run_component: Callable[..., dict[str, Any]], curated_schema: Path, tmp_path: Path
) -> Generate:
    def run(schema: Path = curated_schema, **parameters: Any) -> Any:
        settings = {
            "log_uri": str(tmp_path / "log"),
            "model_name": MODEL,
            "version": VERSION,
            "since": SINCE,
            "until": UNTIL,
            "days": 7,
            "serving_dir": str(tmp_path / "serving"),
            "features": json.dumps(RAW_FEATURES),
            "output": PROBABILITY,
            "data_uri": str(tmp_path / "spans"),
            **parameters,
        }
        outputs = run_component(RequestExampleGen, {"schema": schema}, **settings)
        return outputs["examples"]

    return run


@pytest.fixture
def refusal(generate: Generate) -> Callable[..., str]:
    def run(**parameters: Any) -> str:
        with pytest.raises(request_log.DataError) as failure:
            generate(**parameters)
        return str(failure.value)

    return run


def write_log(
    root: Path,
    trips: pa.Table,
    second: int,
    *,
    version: int = VERSION,
    output: str = PROBABILITY,
    model: str = MODEL,
    serialized: bool = False,
) -> Path:
    """A file of the log as the server writes it: a request for all trips, all at one time."""
    rows = trips.to_pandas()
    inputs: dict[str, np.ndarray] = {}
    for name in RAW_FEATURES:
        values = rows[name].to_numpy()
        if values.dtype == object:
            values = np.array([value.encode() for value in values], object)
        elif values.dtype == np.float64:
            values = values.astype(np.float32)
        inputs[name] = values
    if serialized:
        plain = make_records(1, inputs, {"x": np.zeros(len(rows), np.float32)}, 0)
        inputs = {"examples": np.array(plain, object)}
    predictions = np.linspace(0.1, 0.9, len(rows), dtype=np.float32)[:, None]
    records = make_records(version, inputs, {output: predictions}, second * 1_000_000)
    folder = root / "log" / model
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"requests-{len(list(folder.iterdir()))}{REQUEST_LOG_SUFFIX}"
    with tf.io.TFRecordWriter(str(path), "GZIP") as file:
        for record in records:
            file.write(record)
    return path


def rows_of(examples: Any, schema_folder: Path, split: str) -> Any:
    artifact = type("Schema", (), {"uri": str(schema_folder)})()
    schema = load_schema(artifact)
    schema.feature.add(name=f"prediction.{PROBABILITY}", type=3)
    return read_rows(examples, split, schema)


@pytest.mark.parametrize("serialized", [False, True])
def test_request_example_gen_joins_rows_predictions_and_labels(
    generate: Generate, trips: pa.Table, tmp_path: Path, curated_schema: Path, serialized: bool
) -> None:
    write_span(tmp_path / "spans", 201303, trips)
    write_log(tmp_path, trips, SINCE, serialized=serialized)
    examples = generate()
    assert json.loads(examples.split_names) == ["current"]
    found = rows_of(examples, curated_schema, "current")
    sent = trips.to_pandas()
    assert len(found) == len(sent)
    for name in RAW_FEATURES:
        expected = sent[name].to_numpy()
        if expected.dtype == object:
            assert [value.decode() for value in found[name]] == list(expected)
        else:
            np.testing.assert_allclose(found[name].astype(float), expected, rtol=1e-6)
    assert list(found[LABEL]) == list(sent[LABEL])
    predictions = found[f"prediction.{PROBABILITY}"]
    np.testing.assert_allclose(predictions, np.linspace(0.1, 0.9, len(sent)), rtol=1e-6)
    requests = Requests.from_examples(examples)
    assert requests.labelled == {"current": len(sent)}
    assert requests.label_months == {"current": [201303]}


def test_request_example_gen_splits_by_period_and_leaves_out_the_rest(
    generate: Generate, trips: pa.Table, tmp_path: Path
) -> None:
    write_span(tmp_path / "spans", 201301, trips)
    for rows, second in ((5, SINCE - 7 * DAY - 1), (6, SINCE - 1), (7, UNTIL - 1), (8, UNTIL)):
        write_log(tmp_path, trips.slice(0, rows), second)
    write_log(tmp_path, trips, SINCE, model="another")
    requests = Requests.from_examples(generate())
    assert requests.rows == {"current": 7, "previous": 6}
    # January's labels are not those of March.
    assert requests.labelled == {"current": 0, "previous": 0}
    assert requests.label_months == {"current": [], "previous": []}


def test_request_example_gen_counts_other_versions_and_missing_predictions(
    generate: Generate, trips: pa.Table, tmp_path: Path
) -> None:
    write_span(tmp_path / "spans", 201303, trips)
    write_log(tmp_path, trips.slice(0, 5), SINCE)
    write_log(tmp_path, trips.slice(0, 6), SINCE, version=8)
    write_log(tmp_path, trips.slice(0, 7), SINCE, output="scores")
    requests = Requests.from_examples(generate())
    assert requests.rows["current"] == 5
    assert requests.other_versions == {"8": 6}
    assert requests.without_prediction == 7


def test_request_example_gen_joins_labels_by_features_and_never_guesses(
    generate: Generate, trips: pa.Table, tmp_path: Path, curated_schema: Path
) -> None:
    known, twice, unknown = trips.slice(0, 10), trips.slice(10, 1), trips.slice(11, 5)
    place = twice.schema.get_field_index(LABEL)
    other = twice.set_column(
        place, twice.schema.field(place), pa.array([1 - twice[LABEL][0].as_py()])
    )
    write_span(tmp_path / "spans", 201303, pa.concat_tables([known, twice, other]))
    lost = pa.concat_tables([known, twice, unknown]).to_pandas()
    lost["wind_gust"] = float("nan")
    write_log(tmp_path, pa.Table.from_pandas(lost), SINCE)
    examples = generate()
    found = rows_of(examples, curated_schema, "current")
    assert list(found[LABEL][:10]) == list(known.to_pandas()[LABEL])
    assert found[LABEL][10:].isna().all()
    assert Requests.from_examples(examples).labelled == {"current": 10}


def test_request_example_gen_does_not_run_a_hostile_file_of_labels(
    refusal: Callable[..., str], trips: pa.Table, hostile_file: HostileFile, tmp_path: Path
) -> None:
    write_log(tmp_path, trips, SINCE + 5)
    path = hostile_file.write(trips, tmp_path / "spans" / "span-201303" / "trips.parquet")
    assert str(path) in refusal()
    assert not hostile_file.has_run()


def test_request_example_gen_does_not_read_a_file_being_written(
    generate: Generate, trips: pa.Table, tmp_path: Path
) -> None:
    write_span(tmp_path / "spans", 201303, trips)
    write_log(tmp_path, trips, SINCE)
    part = write_log(tmp_path, trips, SINCE)
    part.rename(f"{part}.part")
    assert Requests.from_examples(generate()).rows["current"] == len(trips)


def test_request_example_gen_names_a_truncated_file(
    refusal: Callable[..., str], trips: pa.Table, tmp_path: Path
) -> None:
    path = write_log(tmp_path, trips, SINCE)
    whole = path.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:size])
        message = refusal()
        assert str(path) in message
        assert "repair or remove it" in message
        assert "\n" not in message


def test_request_example_gen_reads_an_encrypted_log_only_with_its_key(
    generate: Generate, refusal: Callable[..., str], trips: pa.Table, tmp_path: Path
) -> None:
    write_span(tmp_path / "spans", 201303, trips)
    keys = str(tmp_path / "keys")
    name = add_key(keys)
    path = write_log(tmp_path, trips, SINCE)
    plain = path.read_bytes()
    with path.open("wb") as file:
        encryptor = Encryptor(file, require_keys(keys), f"{MODEL}/{path.name}")
        encryptor.write(plain)
        encryptor.end()
    write_log(tmp_path, trips, SINCE)
    rows = Requests.from_examples(generate(encryption_keys=keys)).rows
    assert rows["current"] == 2 * len(trips)
    assert f"is encrypted with the key {name}: " in refusal()
    os.chmod(keys, 0o644)
    assert "chmod 600" in refusal(encryption_keys=keys)
    os.chmod(keys, 0o600)
    path.write_bytes(path.read_bytes()[:-9])
    message = refusal(encryption_keys=keys)
    assert f"{MODEL}/{path.name} was cut" in message
    assert "\n" not in message


def test_request_example_gen_names_a_file_of_another_kind(
    refusal: Callable[..., str], trips: pa.Table, tmp_path: Path
) -> None:
    path = write_log(tmp_path, trips, SINCE)
    foreign = tf.train.Example()
    foreign.features.feature["x"].int64_list.value.append(1)
    mistyped = tf.train.Example()
    mistyped.features.feature["request.time"].bytes_list.value.append(b"noon")
    for record in (foreign.SerializeToString(), mistyped.SerializeToString(), b"\xff\xff\xff"):
        with tf.io.TFRecordWriter(str(path), "GZIP") as file:
            file.write(record)
        message = refusal()
        assert message.startswith(f"{path} is not a file of a request log")
    path.write_text("a,b\n1,2\n")
    assert str(path) in refusal()


def test_request_example_gen_names_what_is_missing(
    refusal: Callable[..., str], trips: pa.Table, tmp_path: Path
) -> None:
    assert refusal().startswith(f"there is no request log {tmp_path / 'log'}")
    write_log(tmp_path, trips, SINCE, model="another")
    assert refusal().endswith(f"has no file {MODEL}/*.tfrecord.gz; it has folders of another")
    write_log(tmp_path, trips, SINCE, version=8)
    message = refusal()
    assert "no request of 2013-03-04 to 2013-03-11 to version 7 of a_model" in message
    assert message.endswith(f"other versions: 8 ({len(trips)} rows)")
    write_log(tmp_path, trips, SINCE, output="scores")
    assert refusal().endswith("no prediction.probability; the newest rows have prediction.scores")


# Which period


def survey(root: Path, now: int, **wanted: Any) -> request_log.Survey:
    chosen = {"since": None, "until": None, "days": 7, **wanted}
    return request_log.survey(str(root / "log"), MODEL, now=now, **chosen)


def test_request_log_newest_complete_period_is_a_week_from_monday_on(
    trips: pa.Table, tmp_path: Path
) -> None:
    write_log(tmp_path, trips.slice(0, 3), SINCE - 1)
    write_log(tmp_path, trips.slice(0, 4), UNTIL - 1, version=8)
    write_log(tmp_path, trips.slice(0, 5), UNTIL - 2)
    delayed = UNTIL + 3600
    found = survey(tmp_path, delayed)
    assert found.period == request_log.Period(SINCE, UNTIL)
    assert found.versions == {VERSION: 5, 8: 4}
    assert survey(tmp_path, delayed - 1).period == request_log.Period(SINCE - 7 * DAY, SINCE)
    # However long ago it was.
    assert survey(tmp_path, delayed + 999 * DAY).period == request_log.Period(SINCE, UNTIL)


def test_request_log_period_can_be_named(trips: pa.Table, tmp_path: Path) -> None:
    write_log(tmp_path, trips, SINCE)
    now = UNTIL + DAY
    for wanted in ({"since": SINCE}, {"until": UNTIL}, {"since": SINCE, "until": UNTIL}):
        assert survey(tmp_path, now, **wanted).period == request_log.Period(SINCE, UNTIL)
    with pytest.raises(request_log.DataError, match=r"no request to a_model of 2013-03-11 to"):
        survey(tmp_path, now, since=UNTIL)
    with pytest.raises(request_log.DataError, match=r"no complete period of 7 day\(s\) yet"):
        survey(tmp_path, SINCE + 5)


def serve(root: Path, *versions: int) -> None:
    for version in versions:
        (root / "serving" / MODEL / str(version)).mkdir(parents=True)
        (root / "serving" / MODEL / str(version) / "saved_model.pb").touch()


def test_request_example_gen_chooses_period_and_version_where_none_is_given(
    trips: pa.Table, tmp_path: Path, generate: Generate
) -> None:
    write_log(tmp_path, trips.slice(0, 20), SINCE)
    write_log(tmp_path, trips.slice(0, 5), UNTIL - 1, version=8)
    write_log(tmp_path, trips, UNTIL - 1, version=9)  # Not in the Serving directory any more.
    serve(tmp_path, VERSION, 8)
    found = Requests.from_examples(generate(version=0, since=0, until=0, data_uri=""))
    assert (found.version, found.since, found.until) == (VERSION, SINCE, UNTIL)
    assert found.rows["current"] == 20
    found = Requests.from_examples(generate(version=8, since=0, until=UNTIL, data_uri=""))
    assert (found.version, found.since, found.until) == (8, SINCE, UNTIL)


def test_request_example_gen_refuses_requests_to_versions_that_are_gone(
    trips: pa.Table, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    write_log(tmp_path, trips, SINCE)
    serve(tmp_path, 8)
    message = refusal(version=0)
    assert f"the requests were to version {VERSION}, but" in message
    assert "has 8: the training statistics of the version are missing" in message


# Other tasks: classes that are text, vectors, and requests to classify or regress.

VECTORS = """
feature { name: "image" type: FLOAT shape { dim { size: 4 } } }
feature { name: "kind" type: BYTES shape { dim { size: 1 } } }
feature { name: "x" type: FLOAT shape { dim { size: 1 } } }
"""
SPECIES = Task("multiclass", "kind", ("a", "b", "c"))


def write_requests(root: Path, inputs: Any, outputs: Any, second: int = SINCE) -> None:
    folder = root / "log" / MODEL
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"requests-{len(list(folder.iterdir()))}{REQUEST_LOG_SUFFIX}"
    with tf.io.TFRecordWriter(str(path), "GZIP") as file:
        for record in make_records(VERSION, inputs, outputs, second * 1_000_000):
            file.write(record)


@pytest.fixture
def generate_vectors(generate: Generate, tmp_path: Path) -> Generate:
    """Runs on requests of an image and a number."""

    def run(task: Task, **parameters: Any) -> Any:
        folder = tmp_path / "schema"
        folder.mkdir(exist_ok=True)
        (folder / "schema.pbtxt").write_text(VECTORS)
        features = json.dumps(["image", "x"])
        given = {"features": features, "data_uri": "", "task": task.to_json(), "schema": folder}
        return generate(**given | parameters)

    return run


def stored(examples: Any, name: str) -> list[list[Any]]:
    (path,) = (Path(examples.uri) / "Split-current").iterdir()
    rows = tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator()
    features = [tf.train.Example.FromString(row).features.feature[name] for row in rows]
    return [list(getattr(f, f.WhichOneof("kind") or "float_list").value) for f in features]


def test_request_example_gen_keeps_all_outputs_and_all_values_of_a_vector(
    generate_vectors: Generate, tmp_path: Path
) -> None:
    images = np.arange(12, dtype=np.float32).reshape(3, 4)
    scores = np.array([[0.5, 0.25, 0.25], [0, 1, 0], [np.nan, 0.5, 0.5]], np.float32)
    inputs = {"image": images, "x": np.array([1, np.nan, 3], np.float32)}
    write_requests(tmp_path, inputs, {PROBABILITY: scores})
    write_requests(tmp_path, inputs, {PROBABILITY: scores[:, :2]})  # Of another model.
    examples = generate_vectors(SPECIES)
    assert stored(examples, "image") == images[:2].tolist()
    assert stored(examples, f"prediction.{PROBABILITY}") == scores[:2].tolist()
    assert stored(examples, "x") == [[1.0], []]
    requests = Requests.from_examples(examples)
    assert (requests.rows["current"], requests.without_prediction) == (2, 4)
    vectors = read_vectors(examples, "current", f"prediction.{PROBABILITY}", 3)
    np.testing.assert_array_equal(vectors, scores[:2])


@pytest.mark.parametrize(
    ("task", "outputs", "expected"),
    [
        (SPECIES, {"scores": [[0.5, 0.25, 0.25]]}, [0.5, 0.25, 0.25]),
        (Task("binary", "kind", ("a", "b")), {"scores": [[0.25, 0.75]]}, [0.75]),
        (Task("binary", "kind", ("a", "b")), {"outputs": [[0.75]]}, [0.75]),
        (Task("regression", "x"), {"outputs": [[-3.5]]}, [-3.5]),
    ],
)
def test_request_example_gen_takes_requests_to_classify_and_to_regress(
    generate_vectors: Generate, tmp_path: Path, task: Task, outputs: Any, expected: list[float]
) -> None:
    arrays = {name: np.array(values, np.float32) for name, values in outputs.items()}
    if "scores" in arrays:
        names = [list(task.class_names)]
        arrays["classes"] = np.array([[n.encode() for n in row] for row in names], object)
    image = {"image": np.ones((1, 4), np.float32)}
    write_requests(tmp_path, image, arrays)
    examples = generate_vectors(task, features=json.dumps(["image"]))
    assert stored(examples, f"prediction.{PROBABILITY}") == [expected]


def test_request_example_gen_joins_labels_of_text_by_vectors(
    generate_vectors: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.arange(16, dtype=np.float32).reshape(4, 4)
    write_requests(tmp_path, {"image": images}, {PROBABILITY: np.full((4, 3), 1 / 3, np.float32)})
    packed = [row.tobytes() for row in images]
    # The last is of no class; the third has two labels.
    known = pd.DataFrame(
        {
            "image": [*packed, packed[2]],
            "kind": [b"a", b"c", b"a", b"z", b"b"],
        }
    )
    monkeypatch.setattr(request_example_gen, "read_labels", lambda *_: (known, [201303]))
    examples = generate_vectors(SPECIES, data_uri="any", features=json.dumps(["image"]))
    assert stored(examples, "kind") == [[b"a"], [b"c"], [], [b"z"]]
    assert Requests.from_examples(examples).labelled == {"current": 2}


def test_request_example_gen_joins_the_weight_of_a_row_with_its_label(
    generate_vectors: Generate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.arange(8, dtype=np.float32).reshape(2, 4)
    write_requests(tmp_path, {"image": images}, {PROBABILITY: np.ones((2, 1), np.float32)})
    packed = [row.tobytes() for row in images]
    known = pd.DataFrame({"image": packed[:1], "kind": [b"a"], "x": [2.5]})
    monkeypatch.setattr(request_example_gen, "read_labels", lambda *_: (known, [201303]))
    task = Task("binary", "kind", ("a", "b"), example_weight="x")
    examples = generate_vectors(task, data_uri="any", features=json.dumps(["image"]))
    assert (stored(examples, "kind"), stored(examples, "x")) == ([[b"a"], []], [[2.5], []])
