"""Tests that champion and challenger share the requests, whatever the challenger does."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from serving.__main__ import main
from serving.server.challenger_threads import ChallengerThreads
from serving.server.models import Served
from serving.server.traffic import Challenger, feature_key
from storage.directory import ModelDirectory
from storage.names import ID_FEATURE, LATENCY_FEATURE, ROLE_FEATURE, ROW_FEATURE, SHADOW_FEATURE
from storage.tfrecords import read_records
from storage.traffic import read_traffic, set_traffic, traffic_uri
from tests.serving.server.running import (
    PATIENCE,
    RunningServer,
    example_of,
    predict_request,
    running,
    strings,
)
from tests.serving.server.toys import f32, i64

MODEL = "shared"
NAN, SLOW, FAILING = -1.0, -2.0, -3.0


class Shared(tf.Module):
    """Predicts its version; a bad one does otherwise for a number that says so.

    Args:
      number: The version.
      bad: Whether it is bad.
    """

    def __init__(self, number: int, bad: bool):
        super().__init__()
        self.number = tf.constant(float(number))
        self.bad = bad

    def score(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        y = tf.fill(tf.shape(x), self.number)
        if not self.bad:
            return {"y": y}
        slow = tf.where(tf.reduce_any(x == SLOW), 2**40, 0)
        count = tf.while_loop(lambda i: i < slow, lambda i: [i + 1], [tf.constant(0, tf.int64)])[0]
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x != FAILING), ["bad"])]):
            y = tf.where(x == NAN, float("nan"), y)
        return {"y": y + 0 * tf.cast(count, tf.float32)}

    @tf.function(
        input_signature=[
            {
                "x": tf.TensorSpec([None], tf.float32, "x"),
                "who": tf.TensorSpec([None], tf.string, "who"),
            }
        ]
    )
    def raw_features(self, given: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self.score(given["x"])

    def parse(self, examples: tf.Tensor) -> tf.Tensor:
        return tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
    def serve(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.score(self.parse(examples))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": self.score(self.parse(inputs))["y"]}


def save_shared(folder: Path, number: int, *, bad: bool = False) -> Path:
    model = Shared(number, bad)
    signatures = {
        "serving_default": model.serve,
        "raw_features": model.raw_features,
        "regress": model.regress,
    }
    tf.saved_model.save(model, str(folder), signatures)
    return folder


class Arena:
    """A server of a champion, version 1, and challengers: 2 is good, 3 bad, 4 does not load."""

    def __init__(self, directory: ModelDirectory, server: RunningServer, log: Path):
        self.directory = directory
        self.server = server
        self.log = log

    def challenge(self, version: int, mode: str, percent: float = 0.0, key: str = "") -> None:
        """Changes the traffic, and waits until the server has seen it."""
        self.directory.pin(version, "challenger")
        policy = set_traffic(
            self.directory, mode, challenger_percent=percent, key=key or None, by="test"
        )
        # A version may yet have to be loaded; one that cannot be loaded never comes.
        seen = None if version == 4 or mode == "off" else version
        self.server.wait_for("traffic", number=policy.number, challenger=seen)

    def ask(self, x: float = 0.0, who: str = "a", path: str = "", user: str = "") -> float:
        """The version that predicts."""
        document = {"signature_name": "raw_features", "inputs": {"x": [x], "who": [who]}}
        headers = {"X-User": user} if user else {}
        response = self.server.rest(f"{MODEL}{path}:predict", document, headers=headers)
        assert response.status_code == 200, response.text
        outputs = response.json()["outputs"]
        return float(outputs[0])

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 if it is not there."""
        for line in self.server.metrics().splitlines():
            words = all(f'{label}="{value}"' in line for label, value in labels.items())
            if line.startswith(f"flightdeck_serving_{name}{{") and words:
                return float(line.rsplit(" ", 1)[1])
        return 0.0


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    root = tmp_path_factory.mktemp("arena")
    provenance = root / "provenance"
    provenance.mkdir()
    (provenance / "provenance.json").write_text("{}")
    directory = ModelDirectory(str(root / "serving"), MODEL)
    for number in (1, 2, 3):
        model = save_shared(root / str(number), number, bad=number == 3)
        directory.publish(number, str(model), str(provenance))
    (root / "4").mkdir()
    (root / "4" / "saved_model.pb").write_bytes(b"damaged")
    directory.publish(4, str(root / "4"), str(provenance))
    directory.pin(1, "champion")
    arguments = [
        *("--poll-seconds", "0.05", "--challenger-seconds", "0.3"),
        *("--request-log", str(root / "log"), "--request-log-sampling", "1"),
    ]
    with running(root / "serving", *arguments) as server:
        yield Arena(directory, server, root / "log")


@given(st.text(max_size=5), st.integers(-(2**63), 2**63 - 1), st.floats(width=32))
def test_feature_key_is_the_same_of_raw_features_and_of_an_example(
    text: str, number: int, real: float
) -> None:
    raw = {"text": strings(text.encode()), "number": i64([number]), "real": f32([real])}
    given_features: dict[str, Any] = {"number": number}
    if text:  # As an example has it, an absent value is left out.
        given_features["text"] = text
    if real == real:
        given_features["real"] = real
    example = {"examples": strings(example_of(**given_features).SerializeToString())}
    for name in ("text", "number", "real", "absent"):
        assert feature_key(raw, name) == feature_key(example, name)
    assert feature_key(raw, "number") == str(number).encode()
    assert (feature_key(raw, "text") is None) == (not text)


def test_feature_key_of_a_vector_or_of_no_example() -> None:
    assert feature_key({"x": f32([[1, 2], [3, 4]])}, "x") == b"1.0,2.0"
    assert feature_key({"x": f32([])}, "x") is None
    assert feature_key({"examples": strings(b"\xff")}, "x") is None


def test_challenger_is_taken_out_once_by_failures_among_its_last_hundred() -> None:
    reasons: list[str] = []
    served = Served(MODEL, 2, None)  # type: ignore[arg-type]
    challenger = Challenger(served, 1, 2, lambda one, reason: reasons.append(reason))
    challenger.failed("slow")
    for _ in range(100):
        challenger.predicted()
    challenger.failed("slow")
    assert not challenger.is_out
    for _ in range(3):
        challenger.failed("NaN")
    assert reasons == ["2 of its last 100 predictions failed: NaN"]
    assert challenger.is_out


def test_challenger_threads_refuse_what_there_is_no_room_for() -> None:
    threads = ChallengerThreads("test", 1, 2)
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go_on.wait()

    assert threads.longest() == 0
    assert threads.offer(hang, 20 << 20)
    begun.wait()
    assert not threads.offer(hang, 20 << 20)
    assert threads.offer(hang, 1)
    assert threads.offer(hang, 1)
    assert not threads.offer(hang, 1)
    assert threads.longest() > 0
    go_on.set()
    until(lambda: threads.offer(lambda: None, 20 << 20))
    threads.close()
    assert not threads.offer(hang, 1)


def until(holds: Callable[[], Any]) -> None:
    """Waits until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_server_serves_the_newest_without_a_policy_and_the_champion_with_one(
    arena: Arena,
) -> None:
    assert arena.ask() == 3
    arena.challenge(2, "split", 0)
    assert arena.ask() == 1
    assert arena.ask(path="/labels/challenger") == 2
    arena.challenge(2, "off")
    assert arena.ask() == 1


def test_server_splits_by_chance(arena: Arena) -> None:
    arena.challenge(2, "split", 50)
    assert set(Counter(arena.ask() for _ in range(40))) == {1, 2}
    arena.challenge(2, "split", 100)
    assert {arena.ask() for _ in range(10)} == {2}
    arena.challenge(2, "split", 0)
    assert {arena.ask() for _ in range(10)} == {1}
    assert arena.metric("traffic_predictions_total", version="2", role="challenger", outcome="OK")
    assert arena.metric("traffic_predictions_total", version="1", role="champion", outcome="OK")


def test_server_gives_a_feature_the_same_version_over_all_interfaces(arena: Arena) -> None:
    arena.challenge(2, "split", 50, "who")
    policy = read_traffic(arena.directory)
    assert policy is not None
    predictions = arena.server.predictions
    seen = set()
    for who in map(str, range(8)):
        expected = 2.0 if policy.gives_to_challenger(MODEL, 2, who.encode()) else 1.0
        seen.add(expected)
        assert arena.ask(who=who) == expected
        raw = predict_request(MODEL, "raw_features", x=f32([0]), who=strings(who.encode()))
        assert predictions.Predict(raw).model_spec.version.value == expected
        example = example_of(x=0.0, who=who).SerializeToString()
        response = predictions.Predict(predict_request(MODEL, examples=strings(example)))
        assert response.model_spec.version.value == expected
        assert response.outputs["y"].float_val == [expected]
        document = {"signature_name": "regress", "examples": [{"x": 0.0, "who": who}]}
        regressed = arena.server.rest(f"{MODEL}:regress", document).json()
        assert regressed["results"] == [expected]
    assert seen == {1, 2}


def test_server_gives_a_header_the_same_version_over_both_protocols(arena: Arena) -> None:
    arena.challenge(2, "split", 50, "header:x-user")
    policy = read_traffic(arena.directory)
    assert policy is not None
    request = predict_request(MODEL, "raw_features", x=f32([0]), who=strings(b""))
    for user in map(str, range(8)):
        expected = 2 if policy.gives_to_challenger(MODEL, 2, user.encode()) else 1
        assert arena.ask(user=user) == expected
        response = arena.server.predictions.Predict(request, metadata=[("x-user", user)])
        assert response.model_spec.version.value == expected


def test_server_logs_champion_and_shadow_under_one_id(arena: Arena) -> None:
    arena.challenge(2, "shadow")
    count = {"version": "2", "role": "shadow", "outcome": "OK"}
    before = arena.metric("traffic_predictions_total", **count)
    assert {arena.ask(who="shadowed") for _ in range(3)} == {1}
    until(lambda: arena.metric("traffic_predictions_total", **count) == before + 3)

    def rows() -> list[dict[str, Any]]:
        found = []
        for path in arena.log.rglob("requests-*"):
            with contextlib.suppress(tf.errors.DataLossError):  # It is being written.
                for record in read_records(str(path)).as_numpy_iterator():
                    features = tf.train.Example.FromString(record).features.feature
                    if features["who"].bytes_list.value == [b"shadowed"]:
                        found.append(features)
        return found

    until(lambda: len(rows()) == 6)
    by_id: dict[bytes, set[tuple[bytes, int, float]]] = {}
    for features in rows():
        (one,) = features[ID_FEATURE].bytes_list.value
        assert len(one) == 16
        assert features[ROW_FEATURE].int64_list.value == [0]
        assert features[LATENCY_FEATURE].int64_list.value[0] > 0
        (role,) = features[ROLE_FEATURE].bytes_list.value
        (shadow,) = features[SHADOW_FEATURE].int64_list.value
        (version,) = features["prediction.y"].float_list.value
        by_id.setdefault(one, set()).add((role, shadow, version))
    assert list(by_id.values()) == [{(b"champion", 0, 1.0), (b"challenger", 1, 2.0)}] * 3


@pytest.mark.parametrize(
    ("x", "outcome", "reason"),
    [
        (NAN, "NAN", "NaN or infinite"),
        (SLOW, "TOO_SLOW", "no prediction within 0.3 seconds"),
        (FAILING, "FAILED", "INVALID_ARGUMENT"),
    ],
)
@pytest.mark.parametrize("mode", ["split", "shadow"])
def test_server_takes_out_a_bad_challenger_and_clients_notice_nothing(
    arena: Arena, mode: str, x: float, outcome: str, reason: str
) -> None:
    arena.challenge(3, mode, 100 if mode == "split" else 0)
    role = "challenger" if mode == "split" else "shadow"
    count = {"version": "3", "role": role, "outcome": outcome}
    before = arena.metric("traffic_predictions_total", **count)

    def counted(times: float) -> bool:
        return arena.metric("traffic_predictions_total", **count) >= times

    for number in range(5):
        assert arena.ask(x) == 1
        until(partial(counted, before + number + 1))
    until(lambda: arena.metric("challenger_taken_out", version="3") == 1)
    assert arena.ask() == 1

    def recorded() -> Any:
        policy = read_traffic(arena.directory)
        return policy and policy.taken_out

    until(recorded)
    assert recorded().version == 3
    assert reason in recorded().reason
    shown = CliRunner().invoke(main, ["traffic", arena.directory.serving_dir]).output
    assert "version 3 was taken out" in shown
    assert reason in shown
    # Asked for again, it takes part again.
    arena.challenge(3, "split", 100)
    assert arena.metric("challenger_taken_out", version="3") == 0
    assert arena.ask() == 3


def test_server_keeps_the_champion_where_the_challenger_does_not_load(arena: Arena) -> None:
    arena.challenge(4, "split", 100)
    assert arena.ask() == 1

    def recorded() -> Any:
        policy = read_traffic(arena.directory)
        return policy and policy.taken_out

    until(recorded)
    assert recorded().version == 4
    assert recorded().reason.startswith("it does not load: ")


def test_server_keeps_the_traffic_where_the_file_is_damaged(arena: Arena) -> None:
    arena.challenge(2, "split", 100)
    path = Path(traffic_uri(arena.directory))
    good = path.read_bytes()
    path.write_bytes(b'{"mode": "split", "challenger_percent": 900}')
    arena.server.wait_for("traffic cannot be read")
    assert arena.ask() == 2
    path.write_bytes(good)


def test_server_fails_no_request_while_the_split_changes(arena: Arena) -> None:
    arena.challenge(2, "split", 50)
    over = threading.Event()
    seen: Counter[float] = Counter()
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            while not over.is_set():
                seen[arena.ask()] += 1
        except BaseException as error:
            errors.append(error)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for number in range(60):
        mode = ("split", "shadow", "split", "off")[number % 4]
        percent = 50 if mode == "split" else 0
        policy = set_traffic(arena.directory, mode, challenger_percent=percent, by="test")
    arena.server.wait_for("traffic", number=policy.number)
    over.set()
    for asker in askers:
        asker.join()
    assert not errors
    assert set(seen) == {1, 2}


def test_traffic_command_shows_changes_and_refuses_wrong_ones(arena: Arena) -> None:
    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["traffic", arena.directory.serving_dir, *words])
        return result.exit_code, result.output

    arena.directory.pin(2, "challenger")
    status, shown = run("--split", "champion=90,challenger=10", "--key", "Header:X-User")
    assert (status, shown.splitlines()[0]) == (
        0,
        f"{MODEL}: champion 90%, challenger 10%, by the header x-user",
    )
    for words, message in {
        ("--split", "champion=90,challenger=20"): "is 110%, not 100%",
        ("--split", "champion=90,canary=10"): "must be of the form",
        ("--shadow", "--off"): "exclude each other",
        ("--shadow", "--key", "who"): "--key goes with --split",
        ("--reason", "better"): "--reason goes with",
    }.items():
        status, shown = run(*words)
        assert status
        assert message in shown
    arena.directory.unpin("challenger")
    status, shown = run("--shadow")
    assert (status, "has the label 'challenger'" in shown) == (1, True)
    policy = json.loads(run("--json")[1])
    assert (policy["challenger_percent"], policy["key"]) == (10.0, "header:x-user")


def test_promote_command_makes_the_challenger_the_champion(arena: Arena) -> None:
    arena.challenge(2, "split", 50)
    arguments = ["promote", arena.directory.serving_dir, "--challenger"]
    assert "Version 2 of shared is the champion now." in CliRunner().invoke(main, arguments).output
    arena.server.wait_for("traffic", champion=2)
    assert arena.ask() == 2
    assert arena.directory.labels() == {"champion": 2}
