"""Tests of what `check` finds in a model's schema and data before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestration.checking import find_problems
from pipeline.config import Config, EvaluationConfig, MonitorConfig, load_config

SCHEMA = """
feature { name: "a" type: FLOAT presence { min_fraction: 1 min_count: 1 } }
feature { name: "rare" type: FLOAT }
feature { name: "y" type: BYTES }
"""
ROWS = {"a": [0.5, 1.5] * 20, "y": ["no", "yes"] * 20}


def config_of(folder: Path, data: Path) -> Config:
    schema = folder / "schema.pbtxt"
    schema.write_text(SCHEMA)
    config = load_config()
    return replace(
        config,
        features=("a", "rare"),
        label="y",
        classes=("no", "yes"),
        class_names=(),
        weight="",
        slices=(),
        gate=replace(config.gate, schema=str(schema)),
        data=replace(config.data, uri=str(data), spans="", time_column=""),
        evaluation=EvaluationConfig(),
        monitor=MonitorConfig(),
    )


def write(path: Path, rows: dict[str, Any]) -> Path:
    table = pa.table(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        table.to_pandas().to_csv(path, index=False)
    else:
        table.to_pandas().to_json(path, orient="records", lines=True)
    return path


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_find_problems_finds_none_where_an_optional_column_is_missing(
    tmp_path: Path, suffix: str
) -> None:
    data = write(tmp_path / f"rows.{suffix}", ROWS)
    assert list(find_problems(config_of(tmp_path, data))) == []


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_find_problems_names_a_label_that_is_missing(tmp_path: Path, suffix: str) -> None:
    data = write(tmp_path / f"rows.{suffix}", {"a": ROWS["a"], "z": ROWS["y"]})
    (problem,) = find_problems(config_of(tmp_path, data))
    assert problem == f"{data}: there is no label 'y'; it has a, z"


def test_find_problems_names_a_key_column_that_is_missing(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.csv", ROWS)
    config = config_of(tmp_path, data)
    config = replace(config, data=replace(config.data, key_columns=("shop",)))
    (problem,) = find_problems(config)
    assert problem == f"{data}: there is no key column 'shop'; it has a, y"


def test_find_problems_names_labels_that_are_no_class(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.csv", ROWS | {"y": ["no", "maybe", "yes", None] * 10})
    absent, strange = find_problems(config_of(tmp_path, data))
    assert absent == "label 'y': 10 of 40 rows that were read have none"
    assert strange.endswith("none of the classes no, yes: maybe")


def test_find_problems_names_a_broken_row(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.csv", ROWS)
    data.write_text(data.read_text() + "1\n")
    (problem,) = find_problems(config_of(tmp_path, data))
    assert problem == f"{data}: row 42 has 1 values; 2 are expected"
