from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.directory import ModelDirectory
from storage.traffic import (
    MODES,
    TakenOut,
    TrafficChange,
    TrafficPolicy,
    dismiss_challenger,
    format_traffic,
    key_place,
    parse_split,
    parse_traffic,
    promote_challenger,
    read_traffic,
    set_traffic,
    take_out,
    traffic_uri,
)

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
_TEXT = st.text(max_size=50)
_NUMBERS = st.integers(0, 2**63 - 1)
_POLICIES = st.builds(
    TrafficPolicy,
    st.just("split"),
    st.floats(0, 100),
    st.none() | st.sampled_from(["user", "header:x-user"]),
    _NUMBERS,
    st.none() | st.builds(TakenOut, _NUMBERS, _TEXT, _TEXT),
    st.lists(
        st.builds(TrafficChange, _TEXT, _TEXT, _TEXT, st.none() | _NUMBERS, st.none() | _NUMBERS),
        max_size=3,
    ).map(tuple),
)


@pytest.fixture
def directory(tmp_path: Path) -> ModelDirectory:
    """Version 1 is the champion, version 2 the challenger."""
    for name in ("model/saved_model.pb", "provenance/provenance.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    directory = ModelDirectory(str(tmp_path / "serving"), "taxi")
    for version, label in ((1, "champion"), (2, "challenger")):
        directory.publish(version, str(tmp_path / "model"), str(tmp_path / "provenance"))
        directory.pin(version, label)
    return directory


@given(_POLICIES)
def test_policy_is_read_as_it_was_written(policy: TrafficPolicy) -> None:
    assert parse_traffic(format_traffic(policy)) == policy


@given(st.dictionaries(st.sampled_from(["mode", "key", "number", "history", "taken_out"]), _JSON))
def test_policy_file_of_other_fields_is_a_policy_or_refused(fields: dict[str, object]) -> None:
    with contextlib.suppress(ValueError):
        policy = parse_traffic(json.dumps({"mode": "split", **fields}).encode())
        assert policy.mode in MODES
        assert parse_traffic(format_traffic(policy)) == policy


@given(st.binary())
def test_policy_file_of_any_bytes_is_a_policy_or_refused(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert parse_traffic(content).mode in MODES


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "both"}, "mode is 'both'"),
        ({"mode": ["split"]}, "mode is"),
        ({"mode": "split", "challenger_percent": 100.5}, "challenger_percent is 100.5"),
        ({"mode": "split", "challenger_percent": math.nan}, "challenger_percent is nan"),
        ({"mode": "split", "challenger_percent": True}, "challenger_percent is True"),
        ({"mode": "split", "challenger_percent": "10"}, "challenger_percent is '10'"),
        ({"mode": "shadow", "challenger_percent": 10}, "only the mode split"),
        ({"mode": "split", "key": "header:X User"}, "not the name of a header"),
        ({"mode": "split", "key": ""}, "key is ''"),
        ({"mode": "split", "salt": "a"}, "must have the fields mode"),
        ({"challenger_percent": 10}, "must have the fields mode"),
        ({"mode": "off", "taken_out": 7}, "taken_out must be a JSON object"),
        ({"mode": "off", "history": {"time": ""}}, "history must be a list"),
        ([], "the policy must be a JSON object"),
    ],
)
def test_policy_file_names_the_field_that_is_wrong(
    directory: ModelDirectory, fields: object, message: str
) -> None:
    Path(traffic_uri(directory)).write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message):
        read_traffic(directory)


def test_policy_file_that_is_deep_large_or_no_file_is_refused(directory: ModelDirectory) -> None:
    path = Path(traffic_uri(directory))
    for content in ("[" * 100_000, " " * (2 << 20), '{"mode": "off", "mode": "split"}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"traffic\.json is not a traffic policy"):
            read_traffic(directory)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"traffic\.json is not a traffic policy"):
        read_traffic(directory)


def test_policy_file_that_is_damaged_stops_a_change_and_stays(directory: ModelDirectory) -> None:
    Path(traffic_uri(directory)).write_text("{")
    with pytest.raises(ValueError, match="move it away"):
        set_traffic(directory, "shadow", by="test")
    assert Path(traffic_uri(directory)).read_text() == "{"


def test_set_traffic_keeps_who_changed_what(directory: ModelDirectory) -> None:
    assert read_traffic(directory) is None
    set_traffic(directory, "split", challenger_percent=10, key="user", by="ann")
    set_traffic(directory, "off", by="schedule", reason="worse")
    policy = read_traffic(directory)
    assert policy is not None
    assert (policy.mode, policy.number) == ("off", 2)
    first, second = policy.history
    assert (first.by, first.champion, first.challenger) == ("ann", 1, 2)
    assert first.what == "champion 90%, challenger 10%, by the feature user"
    assert second.what == "off: the champion predicts alone: worse"


def test_set_traffic_keeps_the_newest_changes(directory: ModelDirectory) -> None:
    for number in range(205):
        set_traffic(directory, "shadow", by=str(number))
    policy = read_traffic(directory)
    assert policy is not None
    assert [change.by for change in policy.history] == [str(number) for number in range(5, 205)]


@pytest.mark.parametrize("label", ["champion", "challenger"])
def test_set_traffic_refuses_a_label_that_no_version_has(
    directory: ModelDirectory, label: str
) -> None:
    directory.unpin(label)
    with pytest.raises(LookupError, match=f"has the label '{label}'"):
        set_traffic(directory, "split", challenger_percent=10, by="test")
    assert read_traffic(directory) is None


def test_set_traffic_refuses_one_version_as_both(directory: ModelDirectory) -> None:
    directory.pin(1, "challenger")
    with pytest.raises(ValueError, match="version 1 of taxi is champion and challenger"):
        set_traffic(directory, "shadow", by="test")


def test_served_is_the_champion_where_there_is_a_policy(directory: ModelDirectory) -> None:
    assert directory.served() == 2
    set_traffic(directory, "off", by="me")
    assert (directory.served(), directory.newest()) == (1, 2)
    promote_challenger(directory, by="me")
    assert directory.served() == 2
    directory.unpin("champion")
    assert directory.served() == 2


def test_promote_challenger_moves_the_champion_label(directory: ModelDirectory) -> None:
    set_traffic(directory, "split", challenger_percent=10, by="test")
    policy = promote_challenger(directory, by="test", reason="better")
    assert directory.labels() == {"champion": 2}
    assert policy.mode == "off"
    assert policy.history[-1].what == "promoted 2: better"


def test_dismiss_challenger_moves_it_aside(directory: ModelDirectory) -> None:
    set_traffic(directory, "split", challenger_percent=10, by="test")
    assert dismiss_challenger(directory, by="test", reason="worse") == 2
    assert directory.labels() == {"champion": 1}
    assert (directory.versions(), directory.rolled_back()) == ([1], [2])


def test_dismiss_challenger_keeps_a_version_with_another_label(directory: ModelDirectory) -> None:
    directory.pin(2, "stable")
    with pytest.raises(ValueError, match="has the label stable too"):
        dismiss_challenger(directory, by="test")
    assert directory.labels()["challenger"] == 2


def test_take_out_is_of_one_policy_alone(directory: ModelDirectory) -> None:
    old = set_traffic(directory, "shadow", by="test")
    new = set_traffic(directory, "split", challenger_percent=10, by="test")
    assert not take_out(directory, old.number, 2, "NaN", "server")
    assert take_out(directory, new.number, 2, "NaN", "server")
    policy = read_traffic(directory)
    assert policy is not None
    assert policy.taken_out is not None
    assert (policy.number, policy.mode) == (new.number, "split")
    assert (policy.taken_out.version, policy.taken_out.reason) == (2, "NaN")
    assert set_traffic(directory, "shadow", by="test").taken_out is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("champion=90,challenger=20", "is 110%, not 100%"),
        ("champion=90,challenger=9.9", "is 99.9%, not 100%"),
        ("champion=100", "must name champion and challenger"),
        ("champion=50,champion=50", "must be of the form"),
        ("champion=90,canary=10", "must be of the form"),
        ("champion=110,challenger=-10", "share of the challenger is '-10'"),
        ("champion=nan,challenger=nan", "share of the champion is 'nan'"),
        ("champion=1e2,challenger=0", "share of the champion is '1e2'"),
        ("", "must be of the form"),
    ],
)
def test_parse_split_refuses_what_is_not_whole(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_split(text)


@given(st.integers(0, 100 * 1000))
def test_parse_split_takes_all_that_is_whole(thousandths: int) -> None:
    champion, challenger = (100_000 - thousandths) / 1000, thousandths / 1000
    assert parse_split(f"challenger={challenger:.3f}, champion={champion:.3f}") == challenger


@given(st.sampled_from([0, 1, 10, 50, 99, 100]), st.integers(1, 2**62), st.text(max_size=5))
def test_split_by_key_has_its_shares(percent: int, challenger: int, prefix: str) -> None:
    policy = TrafficPolicy("split", percent)
    rows = 4000
    given_away = sum(
        policy.gives_to_challenger("taxi", challenger, f"{prefix}{row}".encode())
        for row in range(rows)
    )
    share = percent / 100
    # Six standard deviations.
    assert abs(given_away - rows * share) <= 6 * math.sqrt(rows * share * (1 - share))


@given(st.binary(), st.floats(0, 100), st.floats(0, 100))
def test_split_by_key_keeps_keys_when_the_share_grows(key: bytes, one: float, two: float) -> None:
    small, large = (TrafficPolicy("split", percent) for percent in sorted((one, two)))
    if small.gives_to_challenger("taxi", 2, key):
        assert large.gives_to_challenger("taxi", 2, key)


def test_split_by_key_is_the_same_in_every_process() -> None:
    assert key_place("taxi", 2, b"B6") == 0.46018007164344454
