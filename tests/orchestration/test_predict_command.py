"""The command `predict`: what it prints, its exit status, and what it refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestration.commands.predict import predict
from storage.table_formats import Format
from tests import forked
from tests.components import tiny_table_model


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output directory with a version; not to be changed."""
    root = tmp_path_factory.mktemp("output")
    return tiny_table_model.push(root, background=tiny_table_model.BACKGROUND)


def run(served: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = ("--set", f"model_name={tiny_table_model.NAME}", "--set", "prediction=score")
    return forked.run(["local_runner.py", "predict", "--runs", str(served), *settings, *arguments])


def write(path: Path, stops: list[int | None]) -> Path:
    table = pa.table({"stops": pa.array(stops, pa.int64())})
    for name, value in (("miles", 1.0), ("company", "a"), ("legs", [1.0, 2.0])):
        table = table.append_column(name, pa.array([value] * len(table)))
    pq.write_table(table, path)
    return path


def test_predict_command_predicts_once(served: Path, tmp_path: Path) -> None:
    path, output = write(tmp_path / "in.parquet", [1, None, 3]), tmp_path / "out"
    done = run(served, "--input", str(path), "--output", str(output))
    assert done.returncode == 0, done.stdout
    assert "Version 7 of tiny: 1 shard(s)" in done.stdout
    assert "2 rows predicted" in done.stdout
    assert "prediction.score: probability of delayed" in done.stdout
    assert "1 rows without a prediction" in done.stdout
    assert "column 'stops' is absent, and the model needs it" in done.stdout
    assert pq.read_table(output)["stops"].to_pylist() == [1, 3]
    manifest = json.loads((output / "_manifest.json").read_text())
    assert (manifest["rows"], manifest["rejected"]) == (2, 1)
    again = run(served, "--input", str(path), "--output", str(output), "--version", "7")
    assert again.returncode == 0
    assert "There was nothing left to predict." in again.stdout


def test_predict_command_writes_any_format_of_a_table(served: Path, tmp_path: Path) -> None:
    path, output = write(tmp_path / "in.parquet", [1, 3]), tmp_path / "out"
    files = ("--input", str(path), "--output", str(output))
    done = run(served, *files, "--output-format", "jsonl", "--model-format", "saved_model")
    assert done.returncode == 0, done.stdout
    lines = (output / "predictions-00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["stops"] for line in lines] == [1, 3]
    assert json.loads((output / "_manifest.json").read_text())["model"]["format"] == "saved_model"
    (option,) = (one for one in predict.params if one.name == "output_format")
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == Format.names()


def test_predict_command_fails_in_one_line(served: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "in.parquet", [None])
    done = run(served, "--input", str(path), "--output", str(tmp_path / "out"))
    assert done.returncode == 1
    (line,) = (line for line in done.stdout.splitlines() if "no row of" in line)
    assert "column 'stops' is absent" in line
    assert "Traceback" not in done.stdout
    both = ("--version", "7", "--label", "best")
    wrong = run(served, "--input", str(path), "--output", str(tmp_path / "other"), *both)
    assert wrong.returncode == 2
    assert "--version and --label exclude each other" in wrong.stdout


def test_predict_command_explains_in_several_processes(served: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "in.parquet", [*range(100)])
    pq.write_table(pq.read_table(table), table, row_group_size=10)
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    beam = ("--set", f"node_beam_args.BatchPredictor={json.dumps(workers)}")
    one, two = tmp_path / "one", tmp_path / "two"
    for output, more in ((one, ()), (two, beam)):
        done = run(served, "--input", str(table), "--output", str(output), "--explain", *more)
        assert done.returncode == 0, done.stdout
        assert "The explanation of a row takes 97 predictions." in done.stdout
        assert "shap.base_value, shap.way and so on (5 columns)" in done.stdout
    for path in sorted(one.glob("*.parquet")):
        assert (two / path.name).read_bytes() == path.read_bytes()
    done = run(served, "--input", str(table), "--output", str(one))
    assert done.returncode == 1
    assert "the settings have changed (explained_with:" in done.stdout
