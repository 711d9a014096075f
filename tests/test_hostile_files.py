"""Tests that no Parquet file runs code, by whichever door it comes (CVE-2023-47248)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.parquet import open_file
from tests.conftest import PROJECT, HostileFile, read_month, write_span

UNPICKLES = int(pa.__version__.partition(".")[0]) < 14
# pyarrow 21 knows no such type: the column is read as integers.
REFUSED = hasattr(pa, "PyExtensionType")


def call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )


@pytest.mark.skipif(not UNPICKLES, reason="this pyarrow unpickles no type of a file")
def test_hostile_file_runs_code_without_protection(hostile_file: HostileFile) -> None:
    path = hostile_file.write(read_month(201301).slice(0, 10))
    call("-c", f"import pyarrow.parquet as pq; pq.read_metadata({str(path)!r})")
    assert hostile_file.has_run()


def test_open_file_refuses_a_hostile_file(hostile_file: HostileFile) -> None:
    path = hostile_file.write(read_month(201301).slice(0, 10))
    if REFUSED:
        with pytest.raises(pa.ArrowInvalid, match="is a Python object"):
            open_file(str(path))
    else:
        open_file(str(path)).read()
    assert not hostile_file.has_run()


@pytest.mark.skipif(not REFUSED, reason="this pyarrow knows no type that is a pickle")
@pytest.mark.parametrize("pickle", [b"", b"\x00garbage", b"cos\nsystem\n(S'true'\ntR."])
def test_open_file_refuses_other_content_in_place_of_the_pickle(
    tmp_path: Path, pickle: bytes
) -> None:
    field = pa.field(
        "x",
        pa.int64(),
        metadata={
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": pickle,
        },
    )
    pq.write_table(pa.table([[1]], schema=pa.schema([field])), tmp_path / "x.parquet")
    with pytest.raises(pa.ArrowInvalid, match="is a Python object"):
        open_file(str(tmp_path / "x.parquet"))


def test_schedule_names_a_hostile_file_and_does_not_run_it(
    hostile_file: HostileFile, tmp_path: Path
) -> None:
    spans = tmp_path / "spans"
    for month in (201301, 201302):
        write_span(spans, month, read_month(month).slice(0, 10))
    path = hostile_file.write(read_month(201303).slice(0, 10), spans / "span-201303" / "x.parquet")
    arguments = ["--once", "--output", str(tmp_path / "output")]
    arguments += [f"--set=data.uri={spans}"]
    done = call("local_runner.py", "schedule", *arguments)
    assert not hostile_file.has_run()
    assert "Traceback" not in done.stdout
    if REFUSED:
        assert f"{path} ({path.stat().st_size:,} bytes) is not a whole Parquet file" in done.stdout


def test_predict_names_a_hostile_file_and_does_not_run_it(hostile_file: HostileFile) -> None:
    path = hostile_file.write(read_month(201301).slice(0, 10))
    done = call("-m", "serving", "predict", str(path), "--model", "m")
    assert done.returncode != 0
    assert not hostile_file.has_run()
    assert "Traceback" not in done.stdout
    if REFUSED:
        assert f"{path}: a column is a Python object" in done.stdout


def test_read_metrics_does_not_unpickle_an_evaluation_of_old_tfma(
    hostile_file: HostileFile, tmp_path: Path
) -> None:
    import tensorflow as tf

    from components.evaluator.results import read_metrics
    from storage.errors import DataError

    with tf.io.TFRecordWriter(str(tmp_path / "eval_config")) as config:
        config.write(hostile_file.pickle())
    with pytest.raises(DataError, match=r"is not an evaluation: it has no eval_config\.json"):
        read_metrics(str(tmp_path))
    assert not hostile_file.has_run()


def test_predict_refuses_a_folder(tmp_path: Path) -> None:
    """A folder's files would be read as one table, with columns made of their folders' names."""
    write_span(tmp_path, 201301, read_month(201301).slice(0, 10))
    folder = (tmp_path / "span-201301").rename(tmp_path / "rows.parquet")
    done = call("-m", "serving", "predict", str(folder), "--model", "m")
    assert done.returncode != 0
    assert "directory" in done.stdout
    assert "Traceback" not in done.stdout
