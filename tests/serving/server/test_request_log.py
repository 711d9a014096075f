"""Tests that the request log holds requests and predictions, and never fails a request."""

from __future__ import annotations

import os
import resource
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.example import example_pb2

from serving.server import request_log, request_log_file
from serving.server.metrics import ServerMetrics
from serving.server.request_log import RequestLog, RequestLogError
from serving.server.request_records import make_records
from storage.encryption import decrypt
from storage.encryption_keys import EncryptionError, Keys, add_key, load_keys
from storage.memory import in_memory
from storage.names import REQUEST_LOG_SUFFIX as SUFFIX
from tests.serving.conftest import LIVE
from tests.serving.server.running import (
    PATIENCE,
    RunningServer,
    example_of,
    predict_request,
    running,
    strings,
)
from tests.serving.server.toys import f32, i64

INPUTS = {
    "distance": f32([1.5, np.nan]),
    "hour": i64([7, 0]),
    "company": strings(b"AA", b""),
}
OUTPUTS = {"probability": f32([[0.25], [0.5]])}


def values_of(record: bytes) -> dict[str, list[Any]]:
    """The values of each feature of a serialized tf.Example."""
    found = {}
    for name, feature in example_pb2.Example.FromString(record).features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


def records_of(path: Path) -> list[dict[str, list[Any]]]:
    records = tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator()
    return [values_of(record) for record in records]


def read(folder: Path) -> list[dict[str, list[Any]]]:
    """What a reader of the log finds, oldest first."""
    return [record for path in sorted(folder.glob(f"*{SUFFIX}")) for record in records_of(path)]


@pytest.fixture
def metrics() -> ServerMetrics:
    return ServerMetrics()


@pytest.fixture
def open_log(tmp_path: Path, metrics: ServerMetrics) -> Iterator[Callable[..., RequestLog]]:
    """Opens a log in the folder `log`, and closes it at the end."""
    opened = []

    def make(sampling: float = 1.0, **options: Any) -> RequestLog:
        opened.append(RequestLog(str(tmp_path / "log"), sampling, metrics, **options))
        return opened[-1]

    yield make
    for log in opened:
        log.close()


def rows(metrics: ServerMetrics, outcome: str, name: str = "toy") -> float:
    labels = {"model": name, "outcome": outcome}
    return metrics.registry.get_sample_value("flightdeck_serving_logged_rows_total", labels) or 0.0


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class TestRecords:
    def test_record_holds_a_row_with_its_prediction_and_no_absent_features(self) -> None:
        first, second = map(values_of, make_records(3, INPUTS, OUTPUTS, 1_700_000_000_000_000))
        assert first == {
            "distance": [1.5],
            "hour": [7],
            "company": [b"AA"],
            "prediction.probability": [0.25],
            "request.time": [1_700_000_000_000_000],
            "request.version": [3],
        }
        assert second.keys() == first.keys() - {"distance", "company"}
        assert second["hour"] == [0]

    def test_serialized_examples_are_logged_as_their_features(self) -> None:
        examples = strings(
            example_of(distance=1.5, company="AA").SerializeToString(),
            b"",
        )
        first, second = map(values_of, make_records(3, {"examples": examples}, OUTPUTS, 1))
        assert first == {
            "distance": [1.5],
            "company": [b"AA"],
            "prediction.probability": [0.25],
            "request.time": [1],
            "request.version": [3],
        }
        assert second.keys() == first.keys() - {"distance", "company"}

    @pytest.mark.parametrize("text", [b"red", b"\xff\xfe", b"0", b"{}", b"\x0a\x00"])
    def test_a_single_feature_of_text_is_no_serialized_example(self, text: bytes) -> None:
        first, second = map(values_of, make_records(3, {"text": strings(text, b"")}, OUTPUTS, 1))
        assert first["text"] == [text]
        assert "text" not in second

    def test_every_dtype_has_its_kind_of_feature(self) -> None:
        outputs = {
            "matrix": np.array([[[1.0, 2], [3, 4]]]),
            "flag": np.array([True]),
            "byte": np.array([255], np.uint8),
            "label": strings(b"delayed"),
            "empty": np.zeros((1, 0), np.float32),
        }
        (record,) = map(values_of, make_records(1, {"x": np.array([-1], np.int8)}, outputs, 1))
        assert record["prediction.matrix"] == [1, 2, 3, 4]
        assert record["prediction.flag"] == [1]
        assert record["prediction.byte"] == [255]
        assert record["prediction.label"] == [b"delayed"]
        assert record["prediction.empty"] == []
        assert record["x"] == [-1]

    def test_rare_dtypes_are_logged_as_numbers(self) -> None:
        inputs = {
            "bfloat16": np.array([0.5], tf.bfloat16.as_numpy_dtype),
            "half": np.array([0.5], np.float16),
            "complex": np.array([[1 + 2j, -3j]], np.complex64),
        }
        (record,) = map(values_of, make_records(1, inputs, {"y": f32([1])}, 1))
        assert record["bfloat16"] == record["half"] == [0.5]
        assert record["complex"] == [1, 2, 0, -3]

    @pytest.mark.parametrize(
        ("inputs", "outputs"),
        [
            ({}, {"y": f32([1])}),
            ({"x": f32(1)}, {"y": f32([1])}),
            ({"x": f32([1, 2])}, {"y": f32([1])}),
            ({"x": f32([])}, {"y": f32([])}),
            ({"x": f32([1])}, {"y": f32(1)}),
        ],
    )
    def test_request_without_rows_has_no_records(
        self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
    ) -> None:
        assert make_records(1, inputs, outputs, 1) == []

    @settings(max_examples=50)
    @given(
        st.lists(
            st.fixed_dictionaries(
                {
                    "distance": st.floats(width=32),
                    "hour": st.integers(-(2**63), 2**63 - 1),
                    "company": st.binary(max_size=5),
                }
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_record_holds_the_same_rows_for_both_request_formats(
        self, sent: list[dict[str, Any]]
    ) -> None:
        columns = {
            "distance": f32([row["distance"] for row in sent]),
            "hour": i64([row["hour"] for row in sent]),
            "company": strings(*(row["company"] for row in sent)),
        }
        there = [{name: v for name, v in row.items() if v == v and v != b""} for row in sent]
        examples = strings(*(example_of(**row).SerializeToString() for row in there))
        outputs = {"y": np.arange(len(sent), dtype=np.int64)}
        for inputs in (columns, {"examples": examples}):
            found = list(map(values_of, make_records(1, inputs, outputs, 1)))
            for index, (row, record) in enumerate(zip(there, found, strict=True)):
                assert record.pop("prediction.y") == [index]
                assert record.pop("request.time") == record.pop("request.version") == [1]
                assert record == {name: [value] for name, value in row.items()}


class TestLogFiles:
    def test_log_holds_all_records_after_close(
        self, tmp_path: Path, open_log: Callable[..., RequestLog], metrics: ServerMetrics
    ) -> None:
        before = time.time() * 1e6
        log = open_log()
        log.offer("toy", 3, INPUTS, OUTPUTS)
        log.offer("other", 1, INPUTS, OUTPUTS)
        log.close()
        found = read(tmp_path / "log" / "toy")
        assert [record["prediction.probability"] for record in found] == [[0.25], [0.5]]
        assert all(before <= record["request.time"][0] <= time.time() * 1e6 for record in found)
        assert len(read(tmp_path / "log" / "other")) == 2
        assert rows(metrics, "written") == 2

    def test_file_being_written_is_hidden(
        self, tmp_path: Path, open_log: Callable[..., RequestLog], metrics: ServerMetrics
    ) -> None:
        log = open_log()
        log.offer("toy", 3, INPUTS, OUTPUTS)
        until(lambda: rows(metrics, "written") == 2)
        assert read(tmp_path / "log" / "toy") == []
        (part,) = (tmp_path / "log" / "toy").iterdir()
        assert part.name.endswith(f"{SUFFIX}.part")

    @pytest.mark.parametrize("limit", [{"max_file_bytes": 1}, {"max_file_seconds": 0.0}])
    def test_file_that_is_full_or_old_is_closed_and_another_begun(
        self,
        tmp_path: Path,
        open_log: Callable[..., RequestLog],
        metrics: ServerMetrics,
        limit: dict[str, float],
    ) -> None:
        log = open_log(**limit)
        for number in range(4):
            log.offer("toy", number, INPUTS, OUTPUTS)
        # The last one is closed although nothing comes after it.
        until(lambda: len(read(tmp_path / "log" / "toy")) == 8)
        assert len(list((tmp_path / "log" / "toy").iterdir())) == 4
        versions = [record["request.version"][0] for record in read(tmp_path / "log" / "toy")]
        assert versions == [0, 0, 1, 1, 2, 2, 3, 3]

    def test_oldest_files_are_deleted(
        self, tmp_path: Path, open_log: Callable[..., RequestLog]
    ) -> None:
        log = open_log(max_file_bytes=1, max_files=2)
        for number in range(6):
            log.offer("toy", number, INPUTS, OUTPUTS)
        log.offer("other", 7, INPUTS, OUTPUTS)
        log.close()
        versions = {record["request.version"][0] for record in read(tmp_path / "log" / "toy")}
        assert versions <= {3, 4, 5}
        assert 5 in versions
        assert len(read(tmp_path / "log" / "other")) == 2

    def test_log_continues_an_older_one(
        self, tmp_path: Path, open_log: Callable[..., RequestLog]
    ) -> None:
        for number in range(3):
            log = open_log()
            log.offer("toy", number, INPUTS, OUTPUTS)
            log.close()
        versions = [record["request.version"][0] for record in read(tmp_path / "log" / "toy")]
        assert versions == [0, 0, 1, 1, 2, 2]

    def test_folder_has_one_log_at_a_time(
        self, tmp_path: Path, open_log: Callable[..., RequestLog]
    ) -> None:
        log = open_log()
        with pytest.raises(RequestLogError, match=f"another server writes .* {tmp_path}/log"):
            open_log()
        log.close()
        open_log()

    @pytest.mark.parametrize("cut", [0, 1, 40, 10**9])
    def test_records_of_a_killed_server_are_kept(
        self, tmp_path: Path, open_log: Callable[..., RequestLog], cut: int
    ) -> None:
        log = open_log()
        for number in range(100):
            log.offer("toy", number, INPUTS, OUTPUTS)
        log.close()
        (path,) = (tmp_path / "log" / "toy").iterdir()
        content = path.read_bytes()
        part = path.with_name(path.name + ".part")
        part.write_bytes(content[: max(0, len(content) - cut)])
        path.unlink()
        open_log().close()
        found = [record["request.version"][0] for record in read(tmp_path / "log" / "toy")]
        assert found == [number // 2 for number in range(len(found))]
        assert len(found) == 200 or cut > 0
        assert found or cut == 10**9
        left = [path.name for path in (tmp_path / "log" / "toy").iterdir()]
        assert left == ([path.name] if found else [])


KEYS = Keys({"new": b"n" * 32})


def decrypted(path: Path, keys: Keys = KEYS) -> list[dict[str, list[Any]]]:
    """The records of an encrypted file, as a reader with the keys finds them."""
    with path.open("rb") as file:
        content = b"".join(decrypt(file, f"{path.parent.name}/{path.name}", keys))
        with in_memory(content) as readable:
            return [
                values_of(record)
                for record in tf.data.TFRecordDataset(readable, "GZIP").as_numpy_iterator()
            ]


class TestEncryption:
    def test_files_can_be_read_only_with_the_key(
        self, tmp_path: Path, open_log: Callable[..., RequestLog]
    ) -> None:
        log = open_log(load_keys=lambda: KEYS)
        for number in range(300):
            log.offer("toy", number, INPUTS, OUTPUTS)
        log.close()
        (path,) = (tmp_path / "log" / "toy").iterdir()
        assert [record["request.version"][0] for record in decrypted(path)] == [
            number // 2 for number in range(600)
        ]
        with pytest.raises(EncryptionError, match="with the key new, which is not"):
            decrypted(path, Keys({"other": b"o" * 32}))
        path.rename(path.with_name("requests-other.tfrecord.gz"))
        with pytest.raises(EncryptionError, match="changed or moved"):
            decrypted(path.with_name("requests-other.tfrecord.gz"))

    @pytest.mark.parametrize("cut", [0, 1, 40])
    def test_killed_server_loses_at_most_the_last_segment(
        self,
        tmp_path: Path,
        open_log: Callable[..., RequestLog],
        metrics: ServerMetrics,
        monkeypatch: pytest.MonkeyPatch,
        cut: int,
    ) -> None:
        for module in (request_log, request_log_file):
            monkeypatch.setattr(module, "FLUSH_SECONDS", 0.0)
        log = open_log(load_keys=lambda: KEYS)
        for number in range(5):
            log.offer("toy", number, INPUTS, OUTPUTS)
            wanted = 2 * (number + 1)
            until(lambda wanted=wanted: rows(metrics, "written") == wanted)  # type: ignore[misc]
        (part,) = (tmp_path / "log" / "toy").iterdir()
        content = part.read_bytes()
        log.close()
        (path,) = (tmp_path / "log" / "toy").iterdir()
        path.unlink()
        part.write_bytes(content[: len(content) - cut])
        open_log(load_keys=lambda: KEYS).close()
        (path,) = (tmp_path / "log" / "toy").iterdir()
        found = [record["request.version"][0] for record in decrypted(path)]
        assert found == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4][: 8 if cut else 10]

    def test_part_without_its_key_is_left_until_the_key_is_there(
        self, tmp_path: Path, open_log: Callable[..., RequestLog]
    ) -> None:
        log = open_log(load_keys=lambda: KEYS)
        log.offer("toy", 1, INPUTS, OUTPUTS)
        log.close()
        (path,) = (tmp_path / "log" / "toy").iterdir()
        part = path.rename(path.with_name(path.name + ".part"))
        open_log().close()
        assert list((tmp_path / "log" / "toy").iterdir()) == [part]
        open_log(load_keys=lambda: KEYS).close()
        assert len(decrypted(path)) == 2

    def test_next_file_uses_a_new_key(
        self, tmp_path: Path, open_log: Callable[..., RequestLog]
    ) -> None:
        keys = str(tmp_path / "keys")
        old = add_key(keys)
        log = open_log(load_keys=lambda: load_keys(keys), max_file_bytes=1)
        log.offer("toy", 1, INPUTS, OUTPUTS)
        until(lambda: list((tmp_path / "log" / "toy").glob(f"*{SUFFIX}")))
        new = add_key(keys)
        log.offer("toy", 2, INPUTS, OUTPUTS)
        log.close()
        first, second = sorted((tmp_path / "log" / "toy").iterdir())
        assert old.encode() in first.read_bytes()[:64]
        assert new.encode() in second.read_bytes()[:64]

    def test_nothing_is_written_in_plain_while_the_key_is_missing(
        self, tmp_path: Path, open_log: Callable[..., RequestLog], metrics: ServerMetrics
    ) -> None:
        log = open_log(load_keys=lambda: load_keys(str(tmp_path / "none")))
        log.offer("toy", 1, INPUTS, OUTPUTS)
        until(lambda: rows(metrics, "dropped") == 2)
        assert [path.name for path in (tmp_path / "log").rglob("*")] == [".lock"]


class TestSampling:
    def test_sampling_0_logs_no_request_and_1_logs_all(
        self, tmp_path: Path, open_log: Callable[..., RequestLog]
    ) -> None:
        for sampling, expected in ((0.0, 0), (1.0, 200)):
            log = open_log(sampling)
            for _ in range(100):
                log.offer("toy", 1, INPUTS, OUTPUTS)
            log.close()
            assert len(read(tmp_path / "log" / "toy")) == expected

    def test_sampling_of_a_half_logs_about_half(
        self, tmp_path: Path, open_log: Callable[..., RequestLog]
    ) -> None:
        log = open_log(0.5)
        log._random.seed(1)
        for _ in range(200):
            log.offer("toy", 1, INPUTS, OUTPUTS)
        log.close()
        assert 120 < len(read(tmp_path / "log" / "toy")) < 280


class TestFaults:
    """Whatever happens to the log, `offer` neither waits nor raises."""

    def test_waiting_records_are_bounded_in_bytes(
        self,
        open_log: Callable[..., RequestLog],
        metrics: ServerMetrics,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        may_write = threading.Event()
        monkeypatch.setattr(request_log_file.LogFile, "write", lambda *_: may_write.wait())
        log = open_log()
        inputs = {"x": np.full([1, 100], b"x" * 100_000, object)}  # 10 MB
        for _ in range(20):
            log.offer("toy", 1, inputs, {"y": f32([1])})
        assert rows(metrics, "dropped") == 17
        may_write.set()
        until(lambda: log._queued_bytes == 0)
        log.offer("toy", 1, inputs, {"y": f32([1])})
        assert rows(metrics, "dropped") == 17

    def test_records_above_its_speed_are_dropped_and_counted(
        self,
        tmp_path: Path,
        open_log: Callable[..., RequestLog],
        metrics: ServerMetrics,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        may_write = threading.Event()
        write = request_log_file.LogFile.write

        def slow(file: Any, records: list[bytes]) -> None:
            may_write.wait()
            write(file, records)

        monkeypatch.setattr(request_log_file.LogFile, "write", slow)
        log = open_log()
        for _ in range(request_log._QUEUED_REQUESTS + 100):
            log.offer("toy", 1, INPUTS, OUTPUTS)
        assert rows(metrics, "dropped") in (2 * 99, 2 * 100)
        may_write.set()
        log.close()
        assert rows(metrics, "written") + rows(metrics, "dropped") == 2 * 1100
        assert len(read(tmp_path / "log" / "toy")) == rows(metrics, "written")

    def test_unwritable_folder_drops_rows_until_it_can_be_written(
        self, tmp_path: Path, open_log: Callable[..., RequestLog], metrics: ServerMetrics
    ) -> None:
        log = open_log(retry_seconds=0.0)
        (tmp_path / "log" / "toy").write_text("a file in its place")
        log.offer("toy", 1, INPUTS, OUTPUTS)
        log.offer("other", 1, INPUTS, OUTPUTS)
        until(lambda: rows(metrics, "dropped") == 2)
        (tmp_path / "log" / "toy").unlink()
        log.offer("toy", 2, INPUTS, OUTPUTS)
        log.close()
        assert rows(metrics, "written") == 2
        assert {record["request.version"][0] for record in read(tmp_path / "log" / "toy")} == {2}
        assert len(read(tmp_path / "log" / "other")) == 2

    def test_files_are_private_whatever_the_umask(
        self, tmp_path: Path, open_log: Callable[..., RequestLog], metrics: ServerMetrics
    ) -> None:
        before = os.umask(0)
        try:
            log = open_log()
            log.offer("toy", 1, INPUTS, OUTPUTS)
            until(lambda: rows(metrics, "written") == 2)
            (part,) = (tmp_path / "log" / "toy").iterdir()
            assert stat.S_IMODE(part.stat().st_mode) == 0o600
            log.close()
        finally:
            os.umask(before)
        files = [path for path in (tmp_path / "log").rglob("*") if path.is_file()]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}

    def test_part_that_cannot_be_repaired_does_not_stop_the_server(
        self, tmp_path: Path, open_log: Callable[..., RequestLog], metrics: ServerMetrics
    ) -> None:
        log = open_log()
        log.offer("toy", 1, INPUTS, OUTPUTS)
        log.close()
        (path,) = (tmp_path / "log" / "toy").iterdir()
        part = path.rename(path.with_name(path.name + ".part"))
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))  # As on a full disk.
        try:
            log = open_log(retry_seconds=0.0)
            for _ in range(20):
                log.offer("toy", 2, INPUTS, OUTPUTS)
            until(lambda: rows(metrics, "dropped") == 40)
            log.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert list((tmp_path / "log" / "toy").iterdir()) == [part]
        open_log().close()
        assert [record["request.version"] for record in read(tmp_path / "log" / "toy")] == [[1]] * 2

    @pytest.mark.parametrize("keys", [None, KEYS])
    def test_records_from_before_a_full_disk_are_repaired_later(
        self,
        tmp_path: Path,
        open_log: Callable[..., RequestLog],
        metrics: ServerMetrics,
        monkeypatch: pytest.MonkeyPatch,
        keys: Keys | None,
    ) -> None:
        for module in (request_log, request_log_file):
            monkeypatch.setattr(module, "FLUSH_SECONDS", 0.0)
        log = open_log(retry_seconds=0.0, load_keys=lambda: keys)
        log.offer("toy", 1, INPUTS, OUTPUTS)
        until(lambda: rows(metrics, "written") == 2)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))
        try:
            for _ in range(20):
                log.offer("toy", 2, INPUTS, OUTPUTS)
            until(lambda: rows(metrics, "dropped") == 40)
            (part,) = (tmp_path / "log" / "toy").iterdir()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        log.offer("toy", 3, INPUTS, OUTPUTS)
        log.close()
        paths = sorted((tmp_path / "log" / "toy").iterdir())
        assert part not in paths
        found = [
            record["request.version"][0]
            for path in paths
            for record in (decrypted(path) if keys else records_of(path))
        ]
        assert found == [1, 1, 3, 3]

    def test_signature_without_inputs_is_accepted(
        self, open_log: Callable[..., RequestLog]
    ) -> None:
        open_log().offer("toy", 1, {}, {"y": f32([1])})

    def test_offer_after_close_is_ignored(self, open_log: Callable[..., RequestLog]) -> None:
        log = open_log()
        log.close()
        log.offer("toy", 1, INPUTS, OUTPUTS)
        log.close()


def send_requests(server: RunningServer, times: int = 1) -> None:
    columns = {name: array[:1] for name, array in INPUTS.items()}
    for _ in range(times):
        server.predictions.Predict(predict_request("toy", "raw_features", **columns))


class TestServer:
    def test_both_protocols_are_logged_and_a_killed_server_loses_little(
        self, toys: Path, tmp_path: Path
    ) -> None:
        options = ("--request-log", str(tmp_path), "--request-log-sampling", "1")
        with running(toys, *options, status=-signal.SIGKILL) as server:
            send_requests(server)
            row = {"distance": 1.5, "hour": 7, "company": "AA"}
            server.rest("toy:predict", {"signature_name": "raw_features", "instances": [row]})
            server.rest("toy:regress", {"signature_name": "regress", "examples": [row]})
            until(lambda: 'logged_rows_total{model="toy",outcome="written"} 3' in server.metrics())
            server.process.kill()
            server.process.wait()
        assert read(tmp_path / "toy") == []
        with running(toys, *options) as server:
            found = read(tmp_path / "toy")
            assert len(found) == 3
            for record in found:
                assert record["distance"] == [1.5]
                assert record["company"] == [b"AA"]
                assert record["request.version"] == [LIVE]
            assert found[0]["prediction.probability"] == found[1]["prediction.probability"]
            assert found[0]["prediction.probability"] == found[2]["prediction.outputs"]
            send_requests(server)
        assert len(read(tmp_path / "toy")) == 4

    def test_full_disk_fails_no_request(self, toys: Path, tmp_path: Path) -> None:
        options = ("--request-log", str(tmp_path), "--request-log-sampling", "1")
        with running(toys, *options) as server:
            server.wait_for("serving", model="toy")
            # To write more than this into a file fails.
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (100, 100))
            send_requests(server, times=50)
            server.wait_for("request log failed")
            until(lambda: 'outcome="dropped"} 5' in server.metrics())
            send_requests(server)

    def test_the_only_feature_is_logged_by_its_name_if_it_is_text(self, tmp_path: Path) -> None:
        """It was taken for a serialized example, and its record could not be read."""
        module = tf.Module()

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="review")])
        def raw_features(review: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"length": tf.strings.length(review)[:, tf.newaxis]}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def serve(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            spec = {"review": tf.io.FixedLenFeature([], tf.string)}
            return raw_features(tf.io.parse_example(examples, spec)["review"])

        signatures = {"serving_default": serve, "raw_features": raw_features}
        tf.saved_model.save(module, str(tmp_path / "models/toy/1"), signatures)
        log = tmp_path / "log"
        options = ("--request-log", str(log), "--request-log-sampling", "1")
        with running(tmp_path / "models", *options) as server:
            by_name = {"review": strings(b"good")}
            server.predictions.Predict(predict_request("toy", "raw_features", **by_name))
            serialized = strings(example_of(review="good").SerializeToString())
            server.predictions.Predict(predict_request("toy", "", examples=serialized))
        found = read(log / "toy")
        assert [record["review"] for record in found] == [[b"good"]] * 2
        assert [record["prediction.length"] for record in found] == [[4]] * 2
