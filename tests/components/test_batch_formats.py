"""BatchPredictor writes the format of the input, or another: rows and values stay as they are."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.batch_predictor import input_files, output_folder
from ml.tasks import Task
from storage.errors import DataError, UserError
from storage.table_formats import Format, TextFormat
from tests.components import tiny_table_model
from tests.components.test_batch_predictor import FEWER, contents, predict, rows, write
from tests.components.tiny_table_model import BACKGROUND, expected

SCORE = "prediction.score"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without vectors, which CSV files cannot have."""
    inputs = {**BACKGROUND["inputs"], "legs": [0.0, 1.0]}
    return tiny_table_model.push(
        tmp_path_factory.mktemp("served"), width=1, background={**BACKGROUND, "inputs": inputs}
    )


def read(folder: Path, pattern: str = "*.csv", delimiter: str = ",") -> list[list[str]]:
    """The first row, and the others of all CSV files."""
    found: list[list[str]] = []
    for path in sorted(folder.glob(pattern)):
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
        head, *others = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        found += others if found else [head, *others]
        assert found[0] == head
    return found


HEAD = "id,miles,stops,Company Name,company,extra,legs"
ROWS = [
    '007,100,1,A,a,"one\ntwo",1',
    '008,far,1,"B, ""b""",b,NA,1',
    "009, 3e2 ,2,,NA,1.10,1",
    "010,,1,,,,1.50",
]


def test_batch_predictor_writes_csv_as_it_is_written(served: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("\n".join([HEAD, *ROWS]))
    outcome = predict(served, tmp_path / "in.csv", tmp_path / "out")
    # The last row has no miles, which are NaN, and so is what the model makes of them.
    assert (tmp_path / "out" / "predictions-00000.csv").read_text() == (
        f"{HEAD},{SCORE}\n{ROWS[0]},3.0\n{ROWS[2]},6.0\n"
    )
    far = "column 'miles' is 'far'; a number is expected"
    assert (tmp_path / "out" / "_rejected" / "00000.csv").read_text() == (
        f"{HEAD},rejected.file,rejected.row,rejected.reason\n"
        f"{ROWS[1]},in.csv,2,{far}\n"
        f"{ROWS[3]},in.csv,4,the prediction is not a finite number\n"
    )
    assert outcome.manifest["settings"]["output_format"] == ".csv"


@pytest.mark.parametrize(
    ("name", "wanted", "ending"),
    [
        ("in.csv", None, ".csv"),
        ("in.TSV", None, ".tsv"),
        ("in.tsv.gz", None, ".tsv.gz"),
        ("in.csv.gz", Format.CSV, ".csv.gz"),
        ("in.csv.gz", Format.JSONL, ".jsonl"),
        ("in.csv", Format.PARQUET, ".parquet"),
        ("in.jsonl", None, ".jsonl"),
        ("in.ndjson.gz", None, ".ndjson.gz"),
        ("in.jsonl", Format.CSV, ".csv"),
        ("in.pq", None, ".pq"),
        ("in.parquet", Format.CSV, ".csv"),
        ("in.parquet", Format.JSONL, ".jsonl"),
    ],
)
def test_batch_predictor_writes_the_format_of_the_input_or_another(
    served: Path, tmp_path: Path, name: str, wanted: Format | None, ending: str
) -> None:
    row = {"company": "a;b\té", "miles": 100.0, "stops": 2, "legs": 0.5, "Two words": 7}
    path, separator = tmp_path / name, "\t" if ".tsv" in name.lower() else ";"
    if Format.of(name) is Format.PARQUET:
        write(path, pa.Table.from_pylist([row]))
    elif Format.of(name) is Format.JSONL:
        text = json.dumps(row) + "\n"
    else:
        out = io.StringIO()
        csv.writer(out, delimiter=separator).writerows([[*row], [*row.values()]])
        text = out.getvalue()
    if Format.of(name) is not Format.PARQUET:
        raw = text.encode()
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    output = tmp_path / "out"
    predict(served, path, output, output_format=wanted, text=TextFormat(";"))
    assert sorted(contents(output)) == ["_manifest.json", f"predictions-00000{ending}"]
    again = tmp_path / "again"  # What is written is read as the same.
    predict(served, output, again, output_format=Format.PARQUET, text=TextFormat(";"), explain=True)
    (found,) = pq.read_table(again).to_pylist()
    known = {name: found[name] for name in ("company", "miles", "stops", "legs")}
    assert known == {name: row[name] for name in known}
    assert str(found["Two words"]) == "7"
    assert float(found[SCORE]) == float(found["prediction.score_2"]) == 3.5
    assert found["shap.legs"] == pytest.approx(0.0)


_cells = {
    "id": st.sampled_from(["007", "1.50", "", "NA", "-0", "1e5", '"']),
    "miles": st.sampled_from(["100", " 2.5", "1e2", "far", "1e300", "", "NaN"]),
    "stops": st.sampled_from(["1", "2", "-3", "x", ""]),
    "company": st.text(
        st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")
        | st.sampled_from(';"\n\r'),
        max_size=4,
    ),
    "legs": st.sampled_from(["1", "0.5"]),
    "Two; words": st.sampled_from(["a\nb", "\r\n", ";", " ", ""]),
}


@FEWER
@given(
    st.lists(st.fixed_dictionaries(_cells), min_size=1, max_size=12),
    st.permutations(list(_cells)),
    st.sampled_from(["csv", "csv.gz"]),
)
def test_batch_predictor_loses_no_value_of_csv(
    served: Path,
    tmp_path_factory: pytest.TempPathFactory,
    made: list[dict[str, str]],
    names: list[str],
    ending: str,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    out = io.StringIO()
    csv.writer(out, delimiter=";").writerows([names, *([row[n] for n in names] for row in made)])
    raw = out.getvalue().encode()
    path, output = folder / f"in.{ending}", folder / "out"
    path.write_bytes(gzip.compress(raw) if ending == "csv.gz" else raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_files, "ROWS_PER_SHARD", 4)
        patch.setattr(input_files, "ROWS_PER_GROUP", 4)
        with contextlib.suppress(DataError):  # None of the rows has a prediction.
            predict(served, path, output, text=TextFormat(";"))
    head, *kept = read(output, f"*.{ending}", ";")
    assert head == [*names, SCORE]
    _, *refused = read(output / "_rejected", f"*.{ending}", ";") or [[]]
    places = {int(row[len(names) + 1]): row for row in refused}
    left = iter(kept)
    for number, row in enumerate(made, 1):
        found = places.pop(number, None) or next(left)
        assert found[: len(names)] == [row[name] for name in names]
        if len(found) == len(head):
            miles = float(row["miles"])
            score = expected(miles, int(row["stops"]), [float(row["legs"])])
            assert np.float32(found[-1]) == pytest.approx(score)
    assert not places
    assert not [*left]


def test_batch_predictor_writes_json_lines_as_they_are_written(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        '{"miles":1.0e2, "stops":1,"legs": 0.50,"company":"\\u00e9","deep": {"b": [1, null]}}',
        '{"miles": "far", "stops": 1, "legs": 1}',
        '{"miles": 1, "stops": null, "legs": 1.00, "big": 123456789012345678901234567890}',
        '  {"legs": 1, "when": "2013-01-01T00:00:00", "stops": 2, "miles": 300}  ',
    ]
    path, output = tmp_path / "in.jsonl", tmp_path / "out"
    path.write_text("\n\n".join(lines[:1] + lines[2:]) + "\r\n")
    monkeypatch.setattr(input_files, "ROWS_PER_SHARD", 1)
    monkeypatch.setattr(input_files, "ROWS_PER_GROUP", 1)
    predict(served, path, output)
    found = "".join(path.read_text() for path in sorted(output.glob("*.jsonl")))
    assert found == (
        f'{lines[0][:-1]}, "prediction.score": 2.5}}\n'
        f'{lines[3].strip()[:-1]}, "prediction.score": 6.0}}\n'
    )
    (refused,) = (output / "_rejected").glob("*")
    assert refused.read_text() == (
        f'{lines[2][:-1]}, "rejected.file": "in.jsonl", "rejected.row": 2, "rejected.reason": '
        "\"column 'stops' is absent, and the model needs it\"}\n"
    )
    path.write_text(lines[0] + lines[3])
    with pytest.raises(DataError, match=r"in.jsonl: row 1: one object in a line is expected"):
        predict(served, path, tmp_path / "other")
    last = '{"miles": 1, "stops": 1, "legs": 1, "prediction.score": 7}'
    path.write_text("\n".join([lines[0]] * 100 + [last]))
    with pytest.raises(DataError, match=r"in.jsonl: a row has 'prediction.score', which the first"):
        predict(served, path, tmp_path / "other")


def test_batch_predictor_writes_parquet_as_text(tmp_path: Path) -> None:
    served = tiny_table_model.push(tmp_path / "served", outputs=2)
    table = rows(3).append_column("nothing", pa.nulls(3))
    path = write(tmp_path / "in.parquet", table)
    task = Task("multiclass", "delayed", ("0", "1"), ("nö", "yes"))
    wanted = {"task": task, "text": TextFormat(";", "latin-1")}
    predict(served, path, tmp_path / "csv", output_format=Format.CSV, **wanted)
    predict(served, path, tmp_path / "json", output_format=Format.JSONL, **wanted)
    text = (tmp_path / "csv" / "predictions-00000.csv").read_bytes().decode("latin-1")
    head, first, *_ = csv.reader(io.StringIO(text), delimiter=";")
    row = dict(zip(head, first, strict=True))
    when = "1970-01-01 00:00:00.000000001Z"
    same = {"id": "0", "stops": "0", "when": when, "miles": "0.0", "company": "c0", "nothing": ""}
    assert {name: row[name] for name in same} == same
    assert json.loads(row["legs"]) == [0.0, 0.5]
    assert json.loads(row["note"]) == {"text": "é0"}
    assert row["prediction.class"] == "yes"
    assert json.loads(row[SCORE]) == [0.5, 1.0]
    lines = (tmp_path / "json" / "predictions-00000.jsonl").read_bytes().decode("latin-1")
    for line, source in zip(lines.splitlines(), table.to_pylist(), strict=True):
        found = json.loads(line)
        score = expected(source["miles"], source["stops"], source["legs"])
        assert found.pop(SCORE) == pytest.approx([score, 2 * score])
        assert found.pop("prediction.class") == "yes"
        assert found.pop("when").startswith("1970-01-01 00:00:0")
        del source["when"]
        assert found == source
    with pytest.raises(UserError, match=r"in.parquet: 'é' cannot be written as ascii"):
        predict(
            served,
            path,
            tmp_path / "ascii",
            output_format=Format.CSV,
            task=task,
            text=TextFormat(encoding="ascii"),
        )


@pytest.mark.parametrize("wanted", [Format.CSV, Format.JSONL])
@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, 2], pa.duration("s")), "column 'x' is duration.s., which text has no form"),
        (pa.array([b"a", b"\xff"]), "column 'x' has bytes that are no UTF-8 text: write Parquet"),
    ],
)
def test_batch_predictor_refuses_what_text_does_not_hold(
    served: Path, tmp_path: Path, wanted: Format, column: pa.Array, message: str
) -> None:
    values = {"company": ["a", "b"], "miles": [1.0, 2.0], "stops": [1, 1], "legs": [1.0, 1.0]}
    path = write(tmp_path / "in.parquet", pa.table({**values, "x": column}))
    with pytest.raises(DataError, match=f"in.parquet: {message}"):
        predict(served, path, tmp_path / "out", output_format=wanted)
    predict(served, path, tmp_path / "parquet")


@pytest.mark.parametrize("ending", ["csv.gz", "jsonl"])
def test_batch_predictor_resumes_text_to_the_same_bytes(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(input_files, "ROWS_PER_SHARD", 2)
    monkeypatch.setattr(input_files, "ROWS_PER_GROUP", 2)
    values = [{"company": "a", "miles": n, "stops": n % 3 or None, "legs": n} for n in range(9)]
    if ending == "jsonl":
        raw = "".join(f"{json.dumps(row)}\n" for row in values).encode()
    else:
        raw = gzip.compress(
            "\n".join(
                [",".join(values[0]), *(",".join(map(str, row.values())) for row in values)]
            ).encode()
        )
    path, whole, stopped = tmp_path / f"in.{ending}", tmp_path / "whole", tmp_path / "stopped"
    path.write_bytes(raw)
    made = predict(served, path, whole)
    assert made.manifest["rejected"] == 3
    written = output_folder.OutputFolder.write_shard

    def stop(folder: Any, number: int, *arguments: Any) -> None:
        if number > 1:
            raise OSError("disk full")
        written(folder, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(output_folder.OutputFolder, "write_shard", stop)
        with pytest.raises(UserError, match="disk full"):
            predict(served, path, stopped)
    with pytest.raises(DataError, match=r"settings have changed \(output_format: .* became"):
        predict(served, path, stopped, output_format=Format.PARQUET)
    assert predict(served, path, stopped).reused == 2
    assert contents(stopped) == contents(whole)
