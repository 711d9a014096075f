"""Tests that `python -m serving predict` sends the rows of a file unchanged."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from serving.__main__ import main
from tests.serving.conftest import LIVE, STABLE

if TYPE_CHECKING:
    from tests.serving.server.running import RunningServer

CSV = """tail,distance,hour,company,note
N1,1500,7,UA,a
N2,96.5,23,B6,b
N3,,0,,c
"""


@pytest.fixture
def predict(server: RunningServer) -> Callable[..., Result]:
    """Runs the command on the server."""

    def run(file: Path, *options: Any, model: str = "toy") -> Result:
        arguments = ["predict", str(file), "--server", server.rest_url, "--model", model]
        return CliRunner().invoke(main, [*arguments, *map(str, options)])

    return run


@pytest.fixture
def trips(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(CSV)
    return path


def rows_of(result: Result) -> list[dict[str, str]]:
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(io.StringIO(result.stdout)))


def predictions(
    server: RunningServer, rows: list[dict[str, Any]], path: str = "toy"
) -> list[float]:
    """The predictions of the server for rows of raw features."""
    document = {"signature_name": "raw_features", "instances": rows}
    response = server.rest(f"{path}:predict", document)
    assert response.status_code == 200, response.text
    return [value for (value,) in response.json()["predictions"]]


ROWS = [
    {"distance": 1500.0, "hour": 7, "company": "UA"},
    {"distance": 96.5, "hour": 23, "company": "B6"},
    {"distance": math.nan, "hour": 0, "company": ""},
]


def test_predict_prints_a_prediction_for_each_row_of_a_csv_file(
    predict: Callable[..., Result], server: RunningServer, trips: Path
) -> None:
    found = rows_of(predict(trips))
    assert [list(row) for row in found] == [["row", "probability"]] * 3
    assert [row["row"] for row in found] == ["0", "1", "2"]
    first, second, absent = predictions(server, ROWS)
    assert [float(row["probability"]) for row in found[:2]] == [first, second]
    assert math.isnan(absent)
    assert found[2]["probability"] == "nan"


def test_predict_reads_parquet_as_csv(
    predict: Callable[..., Result], tmp_path: Path, trips: Path
) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table(
        {
            "distance": pa.array([1500.0, 96.5, None], pa.float64()),
            "hour": pa.array([7, 23, 0], pa.int8()),
            "company": pa.array(["UA", "B6", None]).dictionary_encode(),
            "note": pa.array([[1], [], None]),
        }
    )
    pq.write_table(table, path)
    assert predict(path).stdout == predict(trips).stdout


def test_predict_keeps_all_rows_in_their_order(
    predict: Callable[..., Result], server: RunningServer, tmp_path: Path
) -> None:
    rows = [{"distance": float(n), "hour": n % 24, "company": "AA"} for n in range(1203)]
    path = tmp_path / "many.csv"
    lines = [f"{row['distance']},{row['hour']},{row['company']}" for row in rows]
    path.write_text("distance,hour,company\n" + "\n".join(lines))
    found = rows_of(predict(path))
    assert [int(row["row"]) for row in found] == list(range(1203))
    # The command sends them in parts, and the sum of a part's last rows may round otherwise.
    expected = pytest.approx(predictions(server, rows), rel=1e-6)
    assert [float(row["probability"]) for row in found] == expected
    assert rows_of(predict(path, "--rows", 700)) == found[:700]


@pytest.mark.parametrize(
    ("options", "path"),
    [
        (("--version", STABLE), f"toy/versions/{STABLE}"),
        (("--label", "stable"), f"toy/versions/{STABLE}"),
        (("--version", LIVE), "toy"),
    ],
)
def test_predict_requests_the_chosen_version(
    predict: Callable[..., Result],
    server: RunningServer,
    trips: Path,
    options: tuple[Any, ...],
    path: str,
) -> None:
    found = rows_of(predict(trips, "--rows", 2, *options))
    assert [float(row["probability"]) for row in found] == predictions(server, ROWS[:2], path)


def test_predict_sends_texts_exactly_as_written(
    predict: Callable[..., Result], tmp_path: Path
) -> None:
    """Such as numbers with leading zeros, dates, truth values and empty texts."""
    path = tmp_path / "texts.csv"
    for texts in (
        ["007", "1e3", "08"],
        ["2013-01-01 05:00"],
        ["True", "false"],
        ["NA", "null", ""],
        ["a,b", 'say "x"', "two\nlines", "é", " 1 "],
    ):
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["number", "text"], *([1, text] for text in texts)])
        found = rows_of(predict(path))
        assert [row["text"] for row in found] == texts
        assert [json.loads(row["pair"]) for row in found] == [[text, text] for text in texts]
        assert [
            base64.b64decode(json.loads(row["text_bytes"])["b64"]).decode() for row in found
        ] == texts


def test_predict_prints_nothing_for_a_file_without_rows(
    predict: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "none.csv"
    path.write_text("distance,hour,company\n")
    result = predict(path)
    assert (result.exit_code, result.output) == (0, "")


class TestPredictErrors:
    def message(self, result: Result) -> str:
        assert result.exit_code == 1, result.output
        line = result.stderr.strip()
        assert line.startswith("Error: ")
        assert len(line.splitlines()) == 1
        return line.removeprefix("Error: ")

    @pytest.mark.parametrize(
        ("content", "options", "message"),
        [
            ("distance,company\n1,AA\n", (), "raw_features needs hour;"),
            ("distance,hour,company\n1,2,AA\n1,,AA\n", (), "column hour is empty in row 1"),
            ("distance,hour,company\nfar,2,AA\n", (), "column distance"),
            ("distance,hour,company\n1,2.5,AA\n", (), "column hour"),
            ("distance,hour,company\n1,2,AA\n", ("--signature", "x"), "there is no signature 'x'"),
            (
                "distance,hour,company\n1,2,AA\n",
                ("--signature", "classify"),
                "classify needs inputs",
            ),
            ("distance,hour,company\n1,2\n", (), "rows.csv: "),
            ("", (), "rows.csv: "),
            ("distance,hour,company\n1,2,AA\n", ("--version", 9), "404: Servable not found"),
            ("distance,hour,company\n1,2,AA\n", ("--label", "x"), "400: Unrecognized"),
        ],
    )
    def test_predict_names_a_value_that_does_not_fit(
        self,
        predict: Callable[..., Result],
        tmp_path: Path,
        content: str,
        options: tuple[Any, ...],
        message: str,
    ) -> None:
        path = tmp_path / "rows.csv"
        path.write_text(content)
        assert message in self.message(predict(path, *options))

    def test_predict_names_a_model_that_is_not_served(
        self, predict: Callable[..., Result], trips: Path
    ) -> None:
        assert "Latest(nobody)" in self.message(predict(trips, model="nobody"))

    @pytest.mark.parametrize("name", ["rows.json", "rows.parquet"])
    def test_predict_names_a_file_of_another_kind(
        self, predict: Callable[..., Result], tmp_path: Path, name: str
    ) -> None:
        path = tmp_path / name
        path.write_text(json.dumps(ROWS[:1]))
        assert self.message(predict(path)).startswith(f"{path}: ")

    @pytest.mark.parametrize(
        "address", ["http://127.0.0.1:1", "127.0.0.1:1", "http://[", "ftp://127.0.0.1"]
    )
    def test_predict_names_a_server_that_does_not_respond(self, trips: Path, address: str) -> None:
        arguments = ["predict", str(trips), "--server", address, "--model", "toy"]
        assert address in self.message(CliRunner().invoke(main, arguments))

    @pytest.mark.parametrize("name", ["http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"])
    @pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "ftp://x"])
    def test_predict_reaches_a_local_server_without_the_proxy(
        self,
        predict: Callable[..., Result],
        trips: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        proxy: str,
    ) -> None:
        monkeypatch.setenv(name, proxy)
        assert len(rows_of(predict(trips))) == 3

    @pytest.mark.parametrize(
        "proxy", ["http://user:s3cret@127.0.0.1:9", "socks5://127.0.0.1:9", "ftp://x", "http://["]
    )
    @pytest.mark.parametrize("address", ["http://model.example:8501", "https://model.example"])
    def test_predict_names_a_proxy_that_cannot_be_used(
        self, trips: Path, monkeypatch: pytest.MonkeyPatch, address: str, proxy: str
    ) -> None:
        monkeypatch.setenv("all_proxy", proxy)
        arguments = ["predict", str(trips), "--server", address, "--model", "toy"]
        message = self.message(CliRunner().invoke(main, arguments))
        assert address in message
        assert f"through the proxy {proxy.rpartition('@')[2]}" in message
        assert "s3cret" not in message

    def test_predict_ignores_proxies_where_no_proxy_says_so(
        self, trips: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "invalid")
        arguments = ["--server", "http://model.invalid", "--model", "toy"]
        message = self.message(CliRunner().invoke(main, ["predict", str(trips), *arguments]))
        assert "http://model.invalid" in message
        assert "proxy" not in message

    def test_predict_names_a_server_that_does_not_speak_the_protocol(
        self, server: RunningServer, trips: Path
    ) -> None:
        for address in (f"{server.rest_url}/v2", f"http://127.0.0.1:{server.grpc_port}"):
            arguments = ["predict", str(trips), "--server", address, "--model", "toy"]
            assert address in self.message(CliRunner().invoke(main, arguments))
