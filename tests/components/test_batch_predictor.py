"""BatchPredictor on a small real model: columns, predictions, rows without one, and resuming."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.batch_predictor import input_files, output_folder
from components.batch_predictor.component import BatchPredictor
from components.batch_predictor.job import Outcome, Request, predict_table
from components.batch_predictor.version import Source
from ml.tasks import Task
from serving.server.models import load_model
from storage.directory import ModelDirectory
from storage.errors import DataError, UserError
from storage.names import RAW_SIGNATURE
from storage.spans import DataSource
from storage.table_formats import Format, TextFormat
from tests.components import tiny_table_model
from tests.components.tiny_table_model import NAME, VERSION, expected
from tests.conftest import PROJECT, HostileFile

TASK = Task("regression", "delayed")
# Each example is a Beam job.
FEWER = settings(max_examples=max(6, settings().max_examples // 4))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Serving directory and keys; not to be changed."""
    return tiny_table_model.push(tmp_path_factory.mktemp("served"))


def source_of(served: Path) -> Source:
    return Source(str(served / "serving_model"), NAME, 0, "", [str(served / "keys")], "")


def request_of(input_uri: Path, output_uri: Path) -> Request:
    return Request(str(input_uri), str(output_uri), TextFormat(), TASK, "score", "", None)


def predict(served: Path, input_uri: Path, output_uri: Path, **changes: Any) -> Outcome:
    request = replace(request_of(input_uri, output_uri), **changes)
    return predict_table(source_of(served), request, beam.Pipeline)


def rows(count: int = 10, start: int = 0) -> pa.Table:
    """A table with the model's features, in another order, and other columns between them."""
    numbers = np.arange(start, start + count)
    return pa.table(
        {
            "id": pa.array(numbers.astype(np.uint64)),
            "stops": pa.array((numbers % 3).astype(np.int32)),
            "when": pa.array(numbers * 10**9 + 1, pa.timestamp("ns", "UTC")),
            "miles": pa.array([None if n % 7 == 5 else n * 1.5 for n in numbers.tolist()]),
            "company": pa.array([f"c{n % 2}" for n in numbers]).dictionary_encode(),
            "legs": pa.array([[float(n), 0.5] for n in numbers], pa.list_(pa.float64())),
            "note": pa.array([{"text": f"é{n}"} for n in numbers]),
        }
    )


def write(path: Path, table: pa.Table, rows_of_a_group: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_of_a_group, version="2.6")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rejected_of(output: Path) -> list[dict[str, Any]]:
    tables = [pq.read_table(path) for path in sorted((output / "_rejected").glob("*"))]
    found: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return found


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_files, "ROWS_PER_SHARD", 4)


def test_batch_predictor_keeps_columns_with_types_and_order(
    served: Path, tmp_path: Path, small_shards: None
) -> None:
    table = rows(10).filter(pa.array([n % 7 != 5 for n in range(10)]))
    path = write(tmp_path / "in.parquet", table)
    outcome = predict(served, path, tmp_path / "out")
    found = pq.read_table(tmp_path / "out")
    assert found.drop(["prediction.score"]).equals(pq.read_table(path))
    assert found.schema.field("prediction.score").type == pa.float32()
    assert found["prediction.score"].to_pylist() == [
        expected(row["miles"], row["stops"], row["legs"]) for row in table.to_pylist()
    ]
    assert outcome.shards > 1
    assert outcome.manifest["rows"] == len(table)
    assert outcome.manifest["model"]["version"] == VERSION
    assert not (tmp_path / "out" / "_work").exists()


@pytest.mark.parametrize("model_format", ["tflite", "saved_model"])
def test_batch_predictor_predicts_with_either_format(
    served: Path, tmp_path: Path, model_format: Any
) -> None:
    path = write(tmp_path / "in.parquet", rows(5))
    outcome = predict(served, path, tmp_path / "out", model_format=model_format)
    assert outcome.manifest["model"]["format"] == model_format
    found = pq.read_table(tmp_path / "out")["prediction.score"].to_pylist()
    assert found == [expected(n * 1.5, n % 3, [n, 0.5]) for n in range(5)]


def test_batch_predictor_writes_class_and_probabilities(tmp_path: Path) -> None:
    served = tiny_table_model.push(tmp_path / "served", outputs=2)
    path = write(tmp_path / "in.parquet", rows(4))
    task = Task("multiclass", "delayed", ("0", "1"), ("no", "yes"))
    predict(served, path, tmp_path / "out", task=task)
    found = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["prediction.class"] for row in found] == ["yes"] * 4
    assert [row["prediction.score"][1] for row in found] == [
        2 * row["prediction.score"][0] for row in found
    ]


@pytest.mark.parametrize("model_format", ["tflite", "saved_model"])
def test_batch_predictor_rejects_rows_with_the_reason(
    served: Path, tmp_path: Path, model_format: Any
) -> None:
    table = pa.table(
        {
            "miles": pa.array([1.0, 2.0, 1e300, None, 5.0, 6.0, 7.0, float("inf")]),
            "stops": pa.array([1, None, 1, 1, 1, 1, 2**64 - 1, 1], pa.uint64()),
            "company": ["a"] * 8,
            "legs": [[1.0, 1.0]] * 4 + [[1.0], None] + [[1.0, 1.0]] * 2,
        }
    )
    path = write(tmp_path / "in.parquet", table, 8)
    outcome = predict(served, path, tmp_path / "out", model_format=model_format)
    assert pq.read_table(tmp_path / "out")["miles"].to_pylist() == [1.0]
    found = rejected_of(tmp_path / "out")
    assert [row["rejected.row"] for row in found] == [2, 3, 4, 5, 6, 7, 8]
    assert {row["rejected.file"] for row in found} == {"in.parquet"}
    assert [row["miles"] for row in found] == table["miles"].to_pylist()[1:]
    reasons = [row["rejected.reason"] for row in found]
    for reason, part in zip(
        reasons,
        (
            "column 'stops' is absent, and the model needs it",
            "column 'miles' has 1e+300, which is too large for a 32-bit float",
            "the prediction is not a finite number",
            "column 'legs' has 1 values; 2 are expected",
            "column 'legs' is absent",
            "column 'stops'",
            "the prediction is not a finite number",
        ),
        strict=True,
    ):
        assert part in reason
    assert outcome.manifest["rejected"] == 7


def test_batch_predictor_rejects_the_row_on_which_the_model_fails(tmp_path: Path) -> None:
    served = tiny_table_model.push(tmp_path / "served", checks=True)
    table = rows(9).set_column(1, "stops", pa.array([0, 1, 2, -1, 0, 1, 2, 0, 1]))
    table = table.set_column(3, "miles", pa.array([1.0] * 9))
    predict(served, write(tmp_path / "in.parquet", table, 9), tmp_path / "out")
    (found,) = rejected_of(tmp_path / "out")
    assert found["rejected.row"] == 4
    assert "the model fails: " in found["rejected.reason"]
    assert "stops are negative" in found["rejected.reason"]
    assert len(pq.read_table(tmp_path / "out")) == 8


def test_batch_predictor_names_columns_that_are_free(served: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    predict(served, write(tmp_path / "in.parquet", rows(4)), first)
    predict(served, first, second)
    names = pq.read_table(second).column_names
    assert names[-2:] == ["prediction.score", "prediction.score_2"]


CSV = """id,miles,stops,company,extra,legs,delayed
007,100,1,a,"one
two",1,1
008,far,1,b,NA,1,0
009, 3e2 ,2,NA,1.10,1,0
010,1,1,b,x,1,maybe
011,NA,NA,b,,1,0
"""


def test_batch_predictor_types_the_columns_of_the_schema_in_csv(tmp_path: Path) -> None:
    served = tiny_table_model.push(tmp_path / "served", width=1)
    path = tmp_path / "in.csv"
    path.write_text(CSV)
    predict(served, path, tmp_path / "out", output_format=Format.PARQUET)
    found = pq.read_table(tmp_path / "out")
    assert found.to_pydict() == {
        "id": ["007", "009"],
        "miles": [100.0, 300.0],
        "stops": [1, 2],
        "company": ["a", None],
        "extra": ["one\ntwo", "1.10"],
        "legs": [1.0, 1.0],
        "delayed": [1, 0],
        "prediction.score": [expected(100, 1, [1]), expected(300, 2, [1])],
    }
    others = rejected_of(tmp_path / "out")
    assert [(row["id"], row["miles"], row["extra"]) for row in others] == [
        ("008", "far", "NA"),
        ("010", "1", "x"),
        ("011", "NA", ""),
    ]
    assert [row["rejected.reason"] for row in others] == [
        "column 'miles' is 'far'; a number is expected",
        "column 'delayed' is 'maybe'; a whole number is expected",
        "column 'stops' is absent, and the model needs it",
    ]


@pytest.mark.parametrize("model_format", ["tflite", "saved_model"])
def test_batch_predictor_predicts_what_the_server_does(
    served: Path, tmp_path: Path, model_format: Any
) -> None:
    table = rows(50).filter(pa.array([n % 7 != 5 for n in range(50)]))
    predict(
        served, write(tmp_path / "in.parquet", table), tmp_path / "out", model_format=model_format
    )
    version = ModelDirectory(str(served / "serving_model"), NAME).version_uri(VERSION)
    model = load_model(version, prefer_tflite=model_format == "tflite", concurrency=1)
    inputs = {
        "company": np.array([text.encode() for text in table["company"].to_pylist()], object),
        "legs": np.array(table["legs"].to_pylist(), np.float32),
        "miles": np.array(table["miles"].to_pylist(), np.float32),
        "stops": np.array(table["stops"].to_pylist(), np.int64),
    }
    answer = model.run(RAW_SIGNATURE, inputs, ["score"], 60.0)["score"]
    found = pq.read_table(tmp_path / "out")["prediction.score"].to_numpy()
    np.testing.assert_array_equal(found, answer[:, 0])


def test_batch_predictor_refuses_a_vector_in_csv(served: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("legs,miles,stops,company\n1,1,1,a\n")
    with pytest.raises(DataError, match=r"'legs' is a list of 2 values, which no CSV file holds"):
        predict(served, path, tmp_path / "out")


def test_batch_predictor_reads_json_lines(served: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    lines = [
        {"b": "x", "miles": n, "stops": 1, "company": "a", "legs": [1, 2], "a": [n]}
        for n in range(3)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    predict(served, path, tmp_path / "out", output_format=Format.PARQUET)
    found = pq.read_table(tmp_path / "out")
    assert found.column_names == [*lines[0], "prediction.score"]
    assert found["a"].to_pylist() == [[0], [1], [2]]
    assert found["prediction.score"].to_pylist() == [expected(n, 1, [1, 2]) for n in range(3)]


def test_batch_predictor_copies_a_file_with_large_row_groups(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    monkeypatch.setattr(input_files, "_MOST_ROWS_OF_A_GROUP", 8)
    monkeypatch.setattr(input_files, "ROWS_PER_GROUP", 4)
    table = rows(20).set_column(3, "miles", pa.array([1.0] * 20))
    path = write(tmp_path / "in.parquet", table, 20)
    assert predict(served, path, tmp_path / "out").shards == 5
    assert pq.read_table(tmp_path / "out").drop(["prediction.score"]).equals(pq.read_table(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(["stops"]), "column 'stops' is missing; it has id, when"),
        (
            lambda t: t.set_column(1, "stops", pa.array(["1"] * 10)),
            "column 'stops' is string; integer is expected",
        ),
        (
            lambda t: t.set_column(1, "stops", pa.array([1.0] * 10)),
            "column 'stops' is double; integer is expected",
        ),
        (
            lambda t: t.set_column(5, "legs", pa.array([1.0] * 10)),
            "column 'legs' is double; a list of 2 values is expected",
        ),
        (lambda t: t.append_column("Stops", t["stops"]), "differ in capitals alone"),
        (lambda t: t.slice(0, 0), "has no row"),
    ],
)
def test_batch_predictor_refuses_a_table_that_does_not_fit(
    served: Path, tmp_path: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    path = write(tmp_path / "in.parquet", change(rows(10)))
    with pytest.raises(DataError, match=message):
        predict(served, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()  # It is free for a table that fits.


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.parquet", b"", "is not a readable Parquet file"),
        ("in.parquet", b"PAR1 and no more PAR1", "is not a readable Parquet file"),
        ("in.csv", b"", "is empty"),
        ("in.jsonl", b"", "is empty"),
        ("in.jsonl", b"[1, 2]\n", "in.jsonl: row 1: one object in a line is expected"),
        ("in.jsonl", b'{"miles": \n', "in.jsonl: row 1: "),
        ("in.csv", b"miles,stops\n", "column 'company' is missing"),
        ("in.csv", b"company,legs,miles,stops\n", "'legs' is a list of 2 values"),
        ("in.csv", b"miles,stops\n1,2,3\n", "row 2 has 3 values; 2 are expected"),
        ("in.xlsx", b"rows", "no file of rows"),
        ("in.csv.gz", b"\x1f\x8bxxxx", r"in.csv.gz cannot be read: zlib inflate failed"),
        (
            "in.jsonl.gz",
            gzip.compress(b'{"miles": 1}\n' * 9, mtime=0)[:-9],
            "in.jsonl.gz cannot be read: ",
        ),
        ("in.csv", b"\0\0\0", "has NUL characters"),
    ],
)
def test_batch_predictor_refuses_a_file_without_a_table(
    served: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        predict(served, tmp_path / "in", tmp_path / "out")


def test_batch_predictor_runs_no_code_of_a_file(
    served: Path, tmp_path: Path, hostile_file: HostileFile
) -> None:
    path = hostile_file.write(rows(10).drop(["when"]))
    with pytest.raises(DataError, match="could run code"):
        predict(served, path, tmp_path / "out")
    assert not hostile_file.has_run()


def test_batch_predictor_refuses_files_with_different_columns(served: Path, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet", rows(4))
    write(tmp_path / "in" / "b.parquet", rows(4).drop(["note"]))
    with pytest.raises(DataError, match=r"b.parquet: its columns are not .* 'note' is absent"):
        predict(served, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("input_name", "output_name", "message"),
    [
        ("in", "in", "is the input"),
        ("in", "in/out", "is inside the input"),
        ("in/a.parquet", "in/a.parquet", "is the input"),
        ("in", ".", "is inside --output"),
        ("in", "link/out", "is inside the input"),
        ("in", "full", "is not empty, it has 'mine.txt'"),
        ("in", "file", "is no folder"),
        ("in", "file/out", "cannot be"),
        ("in", "x" * 300, "cannot be used: .* too long"),
    ],
)
def test_batch_predictor_refuses_an_output_that_is_not_its_own(
    served: Path, tmp_path: Path, input_name: str, output_name: str, message: str
) -> None:
    write(tmp_path / "in" / "a.parquet", rows(4))
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=message):
        predict(served, tmp_path / input_name, tmp_path / output_name)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("uri", ["", "/", "s3://", "ftp://a/b", "a\0b", "s3:///"])
def test_batch_predictor_refuses_what_is_no_place_of_a_table(
    served: Path, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    request = request_of(write(tmp_path / "in" / "a.parquet", rows(4)), tmp_path / "out")
    changes: dict[str, dict[str, Any]] = {
        "--output": {"output_uri": uri},
        "--input": {"input_uri": uri},
    }
    for option, change in changes.items():
        with pytest.raises(UserError, match=f"{option} .* cannot be used: "):
            predict_table(source_of(served), replace(request, **change), beam.Pipeline)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("fifo", "--input .*in.parquet is neither a file nor a folder"),
        ("folder", "in.parquet/more' is a folder"),
        ("broken", "--input .*in.parquet does not exist"),
        ("loop", "in.parquet"),
        ("pattern", "--input .*[*].parquet does not exist"),
        ("sheet", "'.*in.xlsx' is no file of rows"),
        ("mixed", "a.parquet and .*b.csv differ in format; a table has one"),
    ],
)
def test_batch_predictor_refuses_an_input_that_is_no_table(
    served: Path, tmp_path: Path, make: str, message: str
) -> None:
    path = tmp_path / "in.parquet"
    if make == "fifo":
        os.mkfifo(path)  # To read it would be to wait for ever.
    elif make == "folder":
        write(path / "more" / "a.parquet", rows(4))
    elif make in ("broken", "loop"):
        path.symlink_to("nothing.parquet" if make == "broken" else path.name)
    elif make == "sheet":
        path = tmp_path / "in.xlsx"
        path.write_bytes(b"PK")
    elif make == "pattern":
        write(path, rows(4))
        path = tmp_path / "*.parquet"
    else:
        write(path / "a.parquet", rows(4))
        (path / "b.csv").write_text("miles\n1\n")
    with pytest.raises(DataError, match=message):
        predict(served, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_batch_predictor_notices_an_input_that_changes(
    served: Path, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "in.parquet", rows(10))
    written = output_folder.OutputFolder.write_shard

    def write_and_change(*arguments: Any) -> None:
        written(*arguments)
        write(path, rows(10, start=1))

    monkeypatch.setattr(output_folder.OutputFolder, "write_shard", write_and_change)
    with pytest.raises(DataError, match=r"in.parquet changed while it was read"):
        predict(served, path, tmp_path / "out")
    assert not (tmp_path / "out" / "_manifest.json").exists()


def test_batch_predictor_goes_on_with_nothing_else(
    served: Path, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = write(tmp_path / "in.parquet", rows(10)), tmp_path / "out"

    written = output_folder.OutputFolder.write_shard

    def stop(folder: Any, number: int, *arguments: Any) -> None:
        if number:
            raise OSError("disk full")
        written(folder, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(output_folder.OutputFolder, "write_shard", stop)
        with pytest.raises(UserError, match="cannot be written: disk full"):
            predict(served, path, output)
    with pytest.raises(DataError, match="the settings have changed"):
        predict(served, path, output, output="other")
    with pytest.raises(DataError, match="the version is another one"):
        predict(served, path, output, model_format="saved_model")
    write(path, rows(11))
    with pytest.raises(DataError, match="the input has changed"):
        predict(served, path, output)
    write(path, rows(10))
    predict(served, path, output)
    done = contents(output)
    again = predict(served, path, output)
    assert again.reused == again.shards
    assert contents(output) == done
    (output / "predictions-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"predictions-00001.parquet is gone or changed"):
        predict(served, path, output)


def test_batch_predictor_ends_by_ctrl_c(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(output_folder.OutputFolder, "write_shard", interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict(served, write(tmp_path / "in.parquet", rows(4)), tmp_path / "out")


@pytest.fixture(scope="module")
def whole(
    served: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, bytes]]:
    """An input of six shards, where its predictions were made, and what these are."""
    folder = tmp_path_factory.mktemp("whole")
    path, output = write(folder / "in.parquet", rows(24)), folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_files, "ROWS_PER_SHARD", 4)
        patch.setattr(output_folder, "delete_tree", lambda uri: None)
        predict(served, path, output)
    return path, output, contents(output)


@FEWER
@given(st.data())
def test_batch_predictor_resumes_to_the_same_bytes(
    served: Path,
    whole: tuple[Path, Path, dict[str, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    """Whatever files a process that was killed has left, whole, half or none of them."""
    path, finished, made = whole
    output = tmp_path_factory.mktemp("resumed") / "out"
    shutil.copytree(finished, output)
    (output / "_manifest.json").unlink()
    for name in sorted(made):
        if not name.startswith(("predictions", "_rejected", "_work/shard")):
            continue
        left = data.draw(st.sampled_from(["whole", "half", "none"]), label=name)
        if left == "half":
            (output / name).write_bytes(made[name][: len(made[name]) // 2])
        elif left == "none":
            (output / name).unlink()
    (output / ".predictions-00000.parquet.0123.part").write_bytes(b"half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_files, "ROWS_PER_SHARD", 4)
        predict(served, path, output)
    assert contents(output) == {n: c for n, c in made.items() if not n.startswith("_work")}


_values = {
    "miles": st.one_of(st.none(), st.floats(-1e6, 1e6, width=32), st.just(float("nan"))),
    "stops": st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)),
    "company": st.one_of(st.none(), st.text(max_size=3)),
    "legs": st.one_of(st.none(), st.lists(st.floats(-9, 9, width=32), max_size=3)),
    "other": st.one_of(st.none(), st.binary(max_size=3)),
}
_kinds = {
    "miles": pa.float64(),
    "stops": pa.int32(),
    "company": pa.string(),
    "legs": pa.list_(pa.float32()),
    "other": pa.binary(),
}


@FEWER
@given(
    st.lists(st.fixed_dictionaries(_values), min_size=1, max_size=20), st.permutations(list(_kinds))
)
def test_batch_predictor_loses_no_row_and_changes_none(
    served: Path,
    tmp_path_factory: pytest.TempPathFactory,
    made: list[dict[str, Any]],
    names: list[str],
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    table = pa.table(
        {name: pa.array([row[name] for row in made], _kinds[name]) for name in names}
        | {"number": range(len(made))}
    )
    path, output = write(folder / "in.parquet", table, 7), folder / "out"
    with contextlib.suppress(DataError):  # None of the rows has a prediction.
        predict(served, path, output)
    kept = pq.read_table(output)
    assert kept.column_names == [*table.column_names, "prediction.score"]
    parts = [kept.drop(["prediction.score"])]
    if (output / "_rejected").exists():
        others = pa.concat_tables(pq.read_table(p) for p in (output / "_rejected").glob("*"))
        rejected = [name for name in others.column_names if name.startswith("rejected.")]
        assert others["rejected.row"].to_pylist() == [n + 1 for n in others["number"].to_pylist()]
        parts.append(others.drop(rejected))
    found = pa.concat_tables(parts).sort_by("number")
    assert found.schema.equals(table.schema)
    assert str(found.to_pylist()) == str(table.to_pylist())
    for row in kept.to_pylist():
        assert row["prediction.score"] == pytest.approx(
            expected(row["miles"], row["stops"], row["legs"]), rel=1e-5, abs=1e-4
        )


KILLED = """
import sys, time
from components.batch_predictor import input_files, output_folder
input_files.ROWS_PER_SHARD = 4
write = output_folder.OutputFolder.write_shard
def slowly(*arguments):
    write(*arguments)
    time.sleep(0.2)
output_folder.OutputFolder.write_shard = slowly
import apache_beam as beam
from components.batch_predictor.job import Request, predict_table
from components.batch_predictor.version import Source
from ml.tasks import Task
from storage.table_formats import Format, TextFormat
source = Source(sys.argv[1] + "/serving_model", "tiny", 0, "", [sys.argv[1] + "/keys"], "")
task = Task("regression", "delayed")
request = Request(*sys.argv[2:], TextFormat(), task, "score", "", None)
predict_table(source, request, beam.Pipeline)
"""


def test_batch_predictor_goes_on_after_kill(
    served: Path, whole: tuple[Path, Path, dict[str, bytes]], tmp_path: Path, small_shards: None
) -> None:
    path, _, made = whole
    output = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(served), str(path), str(output)]
    with subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (output / "_work" / "shard-00001.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not (output / "_manifest.json").exists()
    outcome = predict(served, path, output)
    assert 2 <= outcome.reused < outcome.shards
    assert contents(output) == {n: c for n, c in made.items() if not n.startswith("_work")}


def test_batch_predictor_refuses_a_version_that_does_not_verify(
    served: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(served, tmp_path / "served"))
    (copy / "serving_model" / NAME / str(VERSION) / "model.tflite").write_bytes(b"another")
    with pytest.raises(UserError, match=r"version 7 of tiny .* changed: 7/model.tflite"):
        predict(copy, write(tmp_path / "in.parquet", rows(4)), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 8}, "there is no version 8 of tiny in .*; it has 7"),
        ({"label": "best"}, "there is no label 'best' of tiny in .*; it has stable"),
        ({"model_name": "other"}, "nothing is served yet"),
    ],
)
def test_batch_predictor_refuses_a_version_that_is_not_there(
    served: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    copy = Path(shutil.copytree(served, tmp_path / "served"))
    ModelDirectory(str(copy / "serving_model"), NAME).pin(VERSION, "stable")
    request = request_of(write(tmp_path / "in.parquet", rows(4)), tmp_path / "out")
    with pytest.raises(UserError, match=message):
        predict_table(replace(source_of(copy), **changes), request, beam.Pipeline)
    labelled = replace(source_of(copy), label="stable")
    assert predict_table(labelled, request, beam.Pipeline).manifest["model"]["version"] == VERSION


def test_batch_predictor_refuses_a_task_with_another_number_of_outputs(
    served: Path, tmp_path: Path
) -> None:
    task = Task("multiclass", "delayed", ("0", "1", "2"))
    path = write(tmp_path / "in.parquet", rows(4))
    with pytest.raises(UserError, match=r"the model returns \[4, 1\] for 4 rows"):
        predict(served, path, tmp_path / "out", task=task)


def test_batch_predictor_is_a_node(
    served: Path, tmp_path: Path, run_component: Callable[..., dict[str, Any]]
) -> None:
    path = write(tmp_path / "in.parquet", rows(4))
    outputs = run_component(
        BatchPredictor,
        {},
        input_uri=str(path),
        output_uri=str(tmp_path / "out"),
        layout=DataSource("").layout,
        serving_dir=str(served / "serving_model"),
        model_name=NAME,
        version=0,
        label="",
        model_format="",
        output_format="",
        explain=0,
        task=TASK.to_json(),
        prediction="score",
        public_keys=json.dumps([str(served / "keys")]),
        encryption_keys="",
    )
    result = outputs["inference_result"]
    assert result.get_int_custom_property("version") == VERSION
    assert result.get_int_custom_property("rows") == 4
    assert json.loads(Path(result.uri, "manifest.json").read_text())["rejected"] == 0
    assert len(pq.read_table(tmp_path / "out")) == 4
