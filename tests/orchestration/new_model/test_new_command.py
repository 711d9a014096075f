"""Tests of `new`: what it writes, what it asks, and what it refuses."""

from __future__ import annotations

import ast
import math
import random
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from google.protobuf import text_format
from pyarrow import fs
from tensorflow_metadata.proto.v0 import schema_pb2

from ml.example_columns import Columns, to_example_batch
from orchestration.commands import new as command
from storage.table_formats import TextFormat
from storage.tables import read_table

HEADER = "when,shop,kind_code,price,note,empty,ordered\n"


def rows(count: int = 400) -> list[str]:
    """Orders of some shops: one kind and cheap things are ordered more often."""
    chance = random.Random(7)
    found = []
    for number in range(count):
        shop, code = chance.choice(["north", "south", "east"]), chance.randint(1, 4)
        price = round(chance.lognormvariate(1, 1), 2)
        ordered = (
            "yes" if chance.random() < (0.7 if code == 2 else 0.3) / (1 + price / 20) else "no"
        )
        time = f"2024-{1 + number * 6 // count:02}-{1 + number % 28:02} {number % 24:02}:30:00"
        shown = "" if number % 7 == 0 else price
        found.append(
            f"{time},{shop},{code},{shown},{shop} {number} is said to be good,,{ordered}\n"
        )
    return found


Run = Callable[..., Result]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without models, beside its data."""
    monkeypatch.setattr(command, "_PROJECT", tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def run_new(project: Path, tmp_path: Path) -> Run:
    """Runs `new` on a text, or on what `--data` names."""

    def run(text: str, *arguments: str, name: str = "orders", answers: str = "") -> Result:
        data = tmp_path / "orders.csv"
        data.write_text(text)
        given = ["--data", str(data)] if "--data" not in arguments else []
        return CliRunner().invoke(command.new, [name, *given, *arguments], answers)

    return run


def written(project: Path) -> list[str]:
    return sorted(str(p.relative_to(project)) for p in project.rglob("*") if p.is_file())


TABLE = HEADER + "".join(rows())
ARGUMENTS = ("--label", "ordered", "--time", "when")


def test_new_writes_a_model_that_says_what_becomes_of_each_column(
    run_new: Run, project: Path
) -> None:
    result = run_new(TABLE, *ARGUMENTS)
    assert result.exit_code == 0, result.output
    assert written(project) == [
        "models/orders/__init__.py",
        "models/orders/card.md",
        "models/orders/config.toml",
        "models/orders/network.py",
        "models/orders/preprocessing.py",
        "schema/orders.pbtxt",
        "tests/models/orders/test_model.py",
    ]
    settings = tomllib.loads((project / "models/orders/config.toml").read_text())
    assert settings["task"] == "binary"
    assert settings["classes"] == ["no", "yes"]
    assert settings["features"] == ["when", "shop", "kind_code", "price"]
    assert settings["data"]["time_column"] == "when"
    assert settings["data"]["period"] == "month"
    assert settings["data"]["window"] == 5
    for column in ("when", "shop", "kind_code", "price", "note", "empty"):
        assert column in result.output
    assert "make run MODEL=orders" in result.output


def test_new_writes_code_that_parses_and_is_formatted(run_new: Run, project: Path) -> None:
    run_new(TABLE, *ARGUMENTS)
    files = [path for path in project.rglob("*.py") if path.stat().st_size]
    for path in files:
        ast.parse(path.read_text())
    for checking in (["check", "--ignore", "D1"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *checking, *map(str, files)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert done.returncode == 0, done.stdout


def test_new_writes_a_schema_with_ranges_domains_and_limits_of_drift(
    run_new: Run, project: Path
) -> None:
    run_new(HEADER + "".join(rows(3000)), *ARGUMENTS)
    schema = schema_pb2.Schema()
    text_format.Parse((project / "schema/orders.pbtxt").read_text(), schema)
    features = {feature.name: feature for feature in schema.feature}
    assert set(features) == {"when", "shop", "kind_code", "price", "ordered"}
    domains = {domain.name: list(domain.value) for domain in schema.string_domain}
    assert domains == {"shop": ["east", "north", "south"], "ordered": ["no", "yes"]}
    assert features["price"].float_domain.min == 0
    assert 0.6 < features["price"].presence.min_fraction < 0.86
    assert features["kind_code"].int_domain.max > 4
    assert 0.05 <= features["shop"].drift_comparator.infinity_norm.threshold < 0.6


def test_new_allows_a_column_to_be_absent_as_often_as_in_its_worst_period(
    run_new: Run, project: Path
) -> None:
    table = rows(3000)
    june = [re.sub(r"^((?:[^,]*,){3})[^,]*", r"\1", row) for row in table if "2024-06" in row]
    seldom = [row for number, row in enumerate(table) if "2024-06" in row and number % 5 == 0]
    others = [row for row in table if "2024-06" not in row]
    run_new(HEADER + "".join([*others, *june, *seldom]), *ARGUMENTS)
    schema = text_format.Parse((project / "schema/orders.pbtxt").read_text(), schema_pb2.Schema())
    (price,) = (feature for feature in schema.feature if feature.name == "price")
    assert 0.05 < price.presence.min_fraction < 0.16


def test_new_never_overwrites(run_new: Run, project: Path) -> None:
    (project / "schema").mkdir(parents=True)
    (project / "schema/orders.pbtxt").write_text("mine")
    result = run_new(TABLE, *ARGUMENTS)
    assert result.exit_code == 1
    assert "schema/orders.pbtxt exists" in result.output
    assert written(project) == ["schema/orders.pbtxt"]


def test_new_compares_with_what_stands_there(run_new: Run, project: Path) -> None:
    run_new(TABLE, *ARGUMENTS)
    same = run_new(TABLE, *ARGUMENTS, "--compare")
    assert same.output == "The data suggest what stands there.\n"
    more = TABLE.replace(",east,", ",west,")
    changed = run_new(more, *ARGUMENTS, "--compare")
    assert '-  value: "east"' in changed.output
    assert '+  value: "west"' in changed.output
    assert '"east"' in (project / "schema/orders.pbtxt").read_text()


def test_new_takes_a_role_that_is_given(run_new: Run, project: Path) -> None:
    result = run_new(TABLE, *ARGUMENTS, "--as", "kind_code=number", "--as", "shop=left out")
    assert result.exit_code == 0, result.output
    settings = tomllib.loads((project / "models/orders/config.toml").read_text())
    assert settings["features"] == ["when", "kind_code", "price"]
    assert "CODES" not in (project / "models/orders/preprocessing.py").read_text()


def test_new_leaves_out_a_column_that_gives_the_label_away(run_new: Run, project: Path) -> None:
    given = "".join(row.replace("\n", f",{len(row.split(',')[-1])}\n") for row in rows())
    result = run_new(HEADER.replace("\n", ",length\n") + given, *ARGUMENTS)
    assert "length: alone it predicts the label nearly perfectly" in result.output
    settings = tomllib.loads((project / "models/orders/config.toml").read_text())
    assert "length" not in settings["features"]


def test_new_warns_of_a_column_that_is_absent_exactly_with_a_label(
    run_new: Run, project: Path
) -> None:
    given = "".join(
        row.replace("\n", f",{number % 90 if 'yes' in row else ''}\n")
        for number, row in enumerate(rows())
    )
    result = run_new(HEADER.replace("\n", ",refund\n") + given, *ARGUMENTS)
    assert "refund: it is absent exactly when the label is one thing" in result.output


def wide(columns: int) -> str:
    chance = random.Random(7)
    names = [f"c{number}" for number in range(columns)]
    lines = [",".join(str(chance.randint(0, 9)) for _ in names) for _ in range(120)]
    labels = ["a" if number % 2 else "b" for number in range(120)]
    body = "".join(f"{line},{label}\n" for line, label in zip(lines, labels, strict=True))
    return f"{','.join(names)},ordered\n{body}"


BAD = {
    "no such column": (TABLE, ("--label", "orderd"), "no such column.*ordered"),
    "no such time": (TABLE, ("--label", "ordered", "--time", "then"), "then.*(no such|missing)"),
    "one label": (HEADER + "".join(rows()).replace(",yes\n", ",no\n"), ARGUMENTS, "same value"),
    "many labels": (TABLE, ("--label", "note"), "400 different values"),
    "nearly numbers": (TABLE.replace(",4,", ",four,", 20), ("--label", "kind_code"), "'four'"),
    "few rows": (HEADER + "".join(rows(30)), ARGUMENTS, "30 rows are too few"),
    "many columns": (wide(2000), ("--label", "ordered"), "2,000 columns .* at most 500"),
    "label of nulls": (TABLE, ("--label", "empty"), "400 of 400 rows have no value"),
    "broken line": (TABLE + "2024-01-01,north\n", ARGUMENTS, "row 402 has 2 values; 7"),
    "other separator": (TABLE.replace(",", ";"), ARGUMENTS, 'data.separator = ";"'),
    "time that is text": (TABLE, ("--label", "ordered", "--time", "shop"), "shop.*time"),
    "names that differ by case": (TABLE.replace("shop", "Price", 1), ARGUMENTS, "capitals"),
    "duplicate names": (TABLE.replace("shop", "price", 1), ARGUMENTS, "'price'.*2 times"),
    "empty file": ("", ARGUMENTS, "empty"),
    "header alone": (HEADER, ARGUMENTS, "no row"),
    "two headers": (TABLE + HEADER, ARGUMENTS, "header again"),
    "text as weight": (TABLE, (*ARGUMENTS, "--weight", "shop"), "--weight shop.*kind text"),
    "weight with gaps": (TABLE, (*ARGUMENTS, "--weight", "price"), "--weight price.*no value"),
    "weight of zeros": (
        HEADER.replace("\n", ",w\n") + "".join(rows()).replace("\n", ",0\n"),
        (*ARGUMENTS, "--weight", "w"),
        "--weight w: it has values from 0 to 0",
    ),
    "no label": (TABLE, ("--label", ""), "--label ''"),
    "label with a role": (TABLE, (*ARGUMENTS, "--as", "ordered=category"), "it is the label"),
    "label of two spellings": (
        TABLE.replace(",yes\n", ",Yes\n", 50),
        ARGUMENTS,
        "'yes' and 'Yes' differ|'Yes' and 'yes' differ",
    ),
    "label of infinities": (
        TABLE.replace("kind_code", "size", 1).replace(",4,", ",inf,", 1),
        ("--label", "size", "--task", "regression"),
        "too large",
    ),
    "time of one month": (
        re.sub(r"2024-0\d-\d\d \d\d", "2024-01-01 01", TABLE),
        ARGUMENTS,
        "all rows are of one hour",
    ),
    "time of days as numbers": (
        re.sub(r"(2024)-(0\d)-(\d\d) \d\d:30:00", r"\1\2\3", TABLE),
        ARGUMENTS,
        "2024.* looks like a date",
    ),
    "lines that end in CR": (TABLE.replace("\n", "\r"), ARGUMENTS, "no CSV"),
    "no such encoding": (TABLE, (*ARGUMENTS, "--set", "data.encoding=klingon"), "'klingon'"),
    "no such file": (TABLE, (*ARGUMENTS, "--data", "none.csv"), "there is no such file"),
    "wrong role": (TABLE, (*ARGUMENTS, "--as", "shop=number"), "text can be category, left out"),
}


@pytest.mark.parametrize("case", BAD)
def test_new_refuses_in_one_line_and_writes_nothing(run_new: Run, project: Path, case: str) -> None:
    text, arguments, message = BAD[case]
    result = run_new(text, *arguments)
    (line,) = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert result.exit_code == 1
    assert re.search(message, line), line
    assert not project.exists()


def test_new_refuses_latin_1_and_takes_it_when_it_is_told(
    run_new: Run, project: Path, tmp_path: Path
) -> None:
    data = tmp_path / "latin.csv"
    data.write_bytes(TABLE.replace("north", "nörd").encode("latin-1"))
    refused = run_new("", *ARGUMENTS, "--data", str(data))
    assert refused.exit_code == 1
    assert 'data.encoding = "latin-1"' in refused.output
    taken = run_new("", *ARGUMENTS, "--data", str(data), "--set", "data.encoding=latin-1")
    assert taken.exit_code == 0, taken.output
    settings = tomllib.loads((project / "models/orders/config.toml").read_text())
    assert settings["data"]["encoding"] == "latin-1"


def test_new_takes_a_line_break_in_quotes(run_new: Run, project: Path) -> None:
    quoted = TABLE.replace(",north,", ',"no\nrth",')
    assert run_new(quoted, *ARGUMENTS).exit_code == 0
    assert '"no\\nrth"' in (project / "schema/orders.pbtxt").read_text()


WRITTEN_OTHERWISE = {
    "decimal comma": lambda number: f'"{number},5"',
    "currency": lambda number: f"$ {number}.50",
    "share": lambda number: f"{number % 90}.5%",
    "date": lambda number: f"{1 + number % 28:02}/03/2024",
    "date with a name": lambda number: f"{1 + number % 28:02}-Mar-2024",
}


@pytest.mark.parametrize("case", WRITTEN_OTHERWISE)
def test_new_warns_of_text_that_is_a_number_or_a_date_written_otherwise(
    run_new: Run, case: str
) -> None:
    values = [WRITTEN_OTHERWISE[case](number) for number in range(400)]
    given = [f"{v},{row}" for v, row in zip(values, rows(), strict=True)]
    result = run_new(f"other,{HEADER}" + "".join(given), *ARGUMENTS)
    assert result.exit_code == 0, result.output
    assert "other: " in result.output
    assert "but is text as it is written" in result.output.replace("\n", " ")


def test_new_leaves_out_a_month_though_another_zone_moves_some_rows(run_new: Run) -> None:
    months = [int(row[5:7]) - (number % 50 == 0) for number, row in enumerate(rows())]
    given = [f"{month},{row}" for month, row in zip(months, rows(), strict=True)]
    result = run_new(f"month,{HEADER}" + "".join(given), *ARGUMENTS)
    assert "month: it says which span a row is of" in result.output


def test_new_leaves_out_what_numbers_the_rows(run_new: Run, project: Path) -> None:
    given = [f"{number},{row}" for number, row in enumerate(rows(), 1)]
    assert run_new(f"place,{HEADER}" + "".join(given), *ARGUMENTS).exit_code == 0
    settings = tomllib.loads((project / "models/orders/config.toml").read_text())
    assert "place" not in settings["features"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_new_writes_a_model_that_takes_its_data_in_every_format(
    run_new: Run, project: Path, tmp_path: Path, suffix: str
) -> None:
    """Numbers as text, true and false, and times: what `new` reads, a run reads."""
    random = np.random.default_rng(7)
    count = 300
    numbers = random.integers(0, 9, count)
    hours = [datetime(2013, 1, 1) + timedelta(hours=int(n)) for n in range(count)]
    table = pd.DataFrame(
        {
            "digit": [str(n) for n in numbers],
            "flag": [bool(n % 2) for n in numbers],
            "maybe": [None if n == 3 else bool(n > 4) for n in numbers],
            "at": hours,
            "seen": [None if n == 3 else hour for n, hour in zip(numbers, hours, strict=True)],
            "label": (numbers > 4) ^ (random.random(count) < 0.3),
        }
    )
    data = tmp_path / f"rows.{suffix}"
    if suffix == "csv":
        table.to_csv(data, index=False)
    elif suffix == "jsonl":
        table.to_json(data, orient="records", lines=True, date_format="iso")
    else:
        table.to_parquet(data, index=False)
    result = run_new("", "--label", "label", "--data", str(data))
    assert result.exit_code == 0, result.output
    schema = text_format.Parse((project / "schema/orders.pbtxt").read_text(), schema_pb2.Schema())
    columns = Columns.from_schema(schema, "")
    assert columns.types.keys() == set(table)
    files = fs.LocalFileSystem()
    read = read_table(str(data), files, columns.text_types, TextFormat(), list(table))
    columns.check(str(data), read.schema)
    batches = [to_example_batch(batch, columns) for batch in read.to_batches()]
    found = pa.Table.from_batches(batches)
    assert found["flag"].to_pylist() == [[n % 2] for n in numbers]
    assert found["maybe"].to_pylist() == [None if n == 3 else [n > 4] for n in numbers]
    seconds = [int(hour.replace(tzinfo=UTC).timestamp()) for hour in hours]
    assert found["at"].to_pylist() == [[second] for second in seconds]
    kept = [v is None for v in found["seen"].to_pylist()]
    assert kept == [n == 3 for n in numbers]
    expected = [[n] if suffix == "csv" else [str(n).encode()] for n in numbers]
    assert found["digit"].to_pylist() == expected


@pytest.mark.parametrize("label", ["ids", "numeric"])
def test_new_gives_transformed_features_other_names_than_the_label(
    run_new: Run, project: Path, label: str
) -> None:
    table = TABLE.replace("ordered", label, 1)
    assert run_new(table, "--label", label, "--time", "when").exit_code == 0
    code = (project / "models/orders/preprocessing.py").read_text()
    names = re.findall(r'^(?:IDS|NUMERIC) = "(\w+)"', code, re.MULTILINE)
    assert len(names) == 2
    assert label not in names


def test_new_lists_no_texts_that_statistics_do_not_keep(run_new: Run, project: Path) -> None:
    table = TABLE.replace(",north,", f",{'north' * 300},")
    assert run_new(table, *ARGUMENTS).exit_code == 0
    assert "northnorth" not in (project / "schema/orders.pbtxt").read_text()


def test_new_says_that_texts_stand_for_absent_labels(run_new: Run) -> None:
    result = run_new(TABLE.replace(",no\n", ",None\n"), *ARGUMENTS)
    assert result.exit_code == 1
    assert "rows have no value; every row needs one (data.null_values" in result.output


def test_new_refuses_a_time_column_of_text_in_parquet(run_new: Run, tmp_path: Path) -> None:
    data = tmp_path / "rows.parquet"
    columns = {"x": range(200), "label": ["a", "b"] * 100, "t": ["2013-01-31"] * 200}
    pq.write_table(pa.table(columns), data)
    result = run_new("", "--label", "label", "--time", "t", "--data", str(data))
    assert result.exit_code == 1
    assert "'t' is string; a timestamp, a date or whole seconds" in result.output


def days(count: int) -> list[datetime]:
    return [datetime(2013, 1 + day // 28, 1 + day % 28) for day in range(count)]


@pytest.mark.parametrize("spans", [True, False])
def test_new_takes_times_as_whole_seconds(
    run_new: Run, project: Path, tmp_path: Path, spans: bool
) -> None:
    random = np.random.default_rng(7)
    for month in (1, 2, 3, 4, 5):
        path = (
            tmp_path
            / "data"
            / (f"2013-0{month}.parquet" if spans else f"{'abcdef'[month]}.parquet")
        )
        path.parent.mkdir(exist_ok=True)
        start = int(datetime(2013, month, 1, tzinfo=UTC).timestamp())
        seconds = start + np.sort(random.integers(0, 27 * 24 * 3600, 100))
        columns = {"x": random.random(100), "label": random.choice(["a", "b"], 100)}
        pq.write_table(pa.table(columns | {"t": seconds}), path)
    data = str(tmp_path / "data")
    result = run_new("", "--label", "label", "--time", "t", "--data", data)
    assert result.exit_code == 0, result.output
    settings = tomllib.loads((project / "models/orders/config.toml").read_text())
    assert settings["data"]["window"] == 4


BAD_TIMES = {
    "text": (
        lambda times: [str(time) for time in times],
        "--time t: the column is text; a timesta",
    ),
    "a gap": (lambda times: [None, *times[1:]], "--time t: 1 of 112 rows have no value"),
    "fractions": (lambda times: [time.timestamp() for time in times], "the column is number"),
}


@pytest.mark.parametrize("case", BAD_TIMES)
def test_new_refuses_a_time_column_of_spans_that_has_no_times(
    run_new: Run, project: Path, tmp_path: Path, case: str
) -> None:
    change, message = BAD_TIMES[case]
    times = days(112)
    for month in range(4):
        some = slice(28 * month, 28 * month + 28)
        columns = {"x": range(28), "label": ["a", "b"] * 14, "t": change(times)[some]}
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / "data" / f"2013-0{month + 1}.parquet")
    result = run_new("", "--label", "label", "--time", "t", "--data", str(tmp_path / "data"))
    assert result.exit_code == 1, result.output
    assert message in result.output
    assert not project.exists()


def test_new_takes_columns_of_any_name_that_a_request_can_carry(
    run_new: Run, project: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(7)
    names = ["self", "request.time", "two\nlines", 'say "hi"', "größe", "{{ x }}", "#c"]
    columns: dict[str, Any] = {name: random.random(300) for name in names}
    labels = np.where(random.random(300) < columns["größe"], "yes", "no")
    data = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns | {"label": labels}), data)
    result = run_new("", "--label", "label", "--data", str(data))
    assert result.exit_code == 0, result.output
    settings = tomllib.loads((project / "models/orders/config.toml").read_text())
    assert settings["features"] == ['say "hi"', "größe", "{{ x }}", "#c"]


BAD_COLUMNS = {
    "struct": pa.array([{"u": 1}] * 200),
    "map": pa.array([[("k", 1)]] * 200, pa.map_(pa.string(), pa.int64())),
    "list of text": pa.array([["u", "v"]] * 200),
    "list of lists": pa.array([[[1.0], [2.0]]] * 200),
    "bytes": pa.array([b"\xff\xfe"] * 200),
    "time of the day": pa.array([1] * 200, pa.time32("s")),
    "year 1500": pa.array([datetime(1500, 1, 1)] * 200),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_new_refuses_a_column_that_no_model_can_take_by_its_name(
    run_new: Run, project: Path, tmp_path: Path, case: str
) -> None:
    data = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"odd": BAD_COLUMNS[case], "label": ["a", "b"] * 100}), data)
    result = run_new("", "--label", "label", "--data", str(data))
    assert result.exit_code == 1, result.output
    assert re.search("Error: .*rows.parquet: column 'odd' .*leave it out", result.output)
    assert not project.exists()


def test_new_refuses_a_vector_as_label(run_new: Run, tmp_path: Path) -> None:
    data = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": range(200), "label": [[1.0, 2.0]] * 200}), data)
    result = run_new("", "--label", "label", "--data", str(data))
    assert result.exit_code == 1
    assert "label 'label' has values of the kind vector" in result.output


def test_new_refuses_two_columns_of_one_name_in_parquet(run_new: Run, tmp_path: Path) -> None:
    data = tmp_path / "rows.parquet"
    columns = [pa.array(range(200)), pa.array(range(200)), pa.array(["a", "b"] * 100)]
    pq.write_table(pa.Table.from_arrays(columns, names=["a", "a", "label"]), data)
    result = run_new("", "--label", "label", "--data", str(data))
    assert result.exit_code == 1
    assert "'a' is there 2 times" in result.output


def test_new_refuses_a_broken_parquet_file(run_new: Run, tmp_path: Path) -> None:
    data = tmp_path / "rows.parquet"
    data.write_bytes(b"PAR1 nonsense PAR1")
    result = run_new("", "--label", "label", "--data", str(data))
    assert result.exit_code == 1
    assert "rows.parquet cannot be read" in result.output


VECTORS = {
    "ragged": ([[1.0] * (1 + n % 3) for n in range(200)], []),
    "absent": ([None if n == 4 else [1.0, float(n)] for n in range(200)], []),
    "with gaps": ([[None if n == 4 else 1.0, float(n)] for n in range(200)], []),
    "infinite": ([[math.inf if n == 4 else 1.0, float(n)] for n in range(200)], []),
    "of one value": ([[float(n)] for n in range(200)], []),
    "of ids": ([[2**30 + n, 2**30 + 3 * n] for n in range(200)], []),
    "counts": ([[0, n] for n in range(200)], ["odd"]),
    "numbers": ([[-0.5, float(n)] for n in range(200)], ["odd"]),
}


@pytest.mark.parametrize("case", VECTORS)
def test_new_takes_vectors_of_one_length_without_gaps(
    run_new: Run, project: Path, tmp_path: Path, case: str
) -> None:
    vectors, features = VECTORS[case]
    random = np.random.default_rng(7).random(200)
    labels = np.where(np.arange(200) % 3 == 0, "a", "b")
    data = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": random, "odd": pa.array(vectors), "label": labels}), data)
    result = run_new("", "--label", "label", "--data", str(data))
    assert result.exit_code == 0, result.output
    settings = tomllib.loads((project / "models/orders/config.toml").read_text())
    assert settings["features"] == ["x", *features]
    code = (project / "models/orders/preprocessing.py").read_text()
    assert ('"odd": 199,' in code) == (case == "counts")


@pytest.mark.parametrize(
    "name", [".DS_Store", "_SUCCESS", "README.md", ".a.csv.crc", "_temporary/0/a.csv"]
)
def test_new_skips_what_tools_leave_in_a_folder(run_new: Run, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "a.csv").write_text(TABLE)
    (folder / name).write_bytes(b"\0\1")
    assert run_new("", *ARGUMENTS, "--data", str(folder)).exit_code == 0


def test_new_refuses_a_folder_that_holds_something_else(run_new: Run, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.csv").write_text(TABLE)
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    result = run_new("", *ARGUMENTS, "--data", str(folder))
    assert result.exit_code == 1
    assert "photo.jpg" in result.output


@pytest.mark.parametrize("name", ["Orders", "1st", "my-model", "a.b", "../x", ""])
def test_new_refuses_a_name_that_is_no_package(run_new: Run, name: str) -> None:
    result = run_new(TABLE, *ARGUMENTS, name=name)
    assert result.exit_code == 2
    assert "lower-case letters" in result.output
