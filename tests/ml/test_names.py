"""Tests of the names that columns have in graphs, and of the columns that are refused."""

from __future__ import annotations

import keyword
import re

import pytest
import tensorflow as tf
import tf_keras
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.names import check_column, check_features, graph_names

NAMES = st.lists(st.text(max_size=80) | st.text("aA_.1", max_size=4), max_size=12)


@given(NAMES, NAMES)
def test_graph_names_are_valid_and_unique_and_do_not_depend_on_order(
    names: list[str], taken: list[str]
) -> None:
    found = graph_names(names, taken)
    assert set(found) == set(names)
    assert graph_names(reversed(names), taken) == found
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", valid) for valid in found.values())
    assert not any(keyword.iskeyword(valid) for valid in found.values())
    everything = [name.lower() for name in [*found.values(), *taken]]
    assert len(set(everything) - {name.lower() for name in taken}) == len(found)


@given(st.sets(st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True), max_size=9), NAMES)
def test_graph_names_keep_valid_names_whatever_the_others_are(
    valid: set[str], others: list[str]
) -> None:
    found = graph_names([*valid, *others])
    for name in valid - {"self"}:
        if not keyword.iskeyword(name) and name not in {o.lower() for o in others}:
            assert found[name] == name


@settings(max_examples=20, deadline=None)
@given(NAMES)
def test_graph_names_are_taken_by_tensorflow_and_keras_as_they_are(names: list[str]) -> None:
    valid = graph_names(names)
    inputs = [tf_keras.Input((1,), name=name) for name in valid.values()]
    assert [tensor.name for tensor in inputs] == list(valid.values())

    @tf.function(
        input_signature=[{n: tf.TensorSpec([None], tf.float32, n) for n in valid.values()}]
    )
    def function(features: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.add_n([tf.zeros([1]), *features.values()])

    graph = function.get_concrete_function().graph
    placeholders = [op for op in graph.get_operations() if op.type == "Placeholder"]
    assert sorted(op.name for op in placeholders) == sorted(valid.values())


@pytest.mark.parametrize(
    "name",
    ["trip.miles", "two words", "größe", "_x", "1st", "$", "a/b", "a:b", "x" * 500, "A", "👍"],
)
def test_check_column_takes_any_text_of_one_line(name: str) -> None:
    assert check_column(name) == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is an empty name"),
        ("  ", "is an empty name"),
        ("two\nlines", "has a line break or a control character"),
        ("two\u2028lines", "has a line break or a control character"),
        ("a\0b", "has a line break or a control character"),
        ("half \ud83d", "has a line break or a control character"),
        ("request.time", "is a name of the request log"),
        ("request.version", "is a name of the request log"),
        ("prediction.fare", "is a name of the request log"),
        ("self", "is no name that LiteRT takes on a device"),
    ],
)
def test_check_column_refuses_what_cannot_be_carried(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        check_column(name)
    assert str(refused.value) == f"{name!r} {reason}; rename the column"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "a feature or more is expected"),
        (("a", "b", "a"), "'a' is listed 2 times"),
        (("examples",), "'examples', as the only feature"),
        (("inputs",), "'inputs', as the only feature"),
    ],
)
def test_check_features_refuses_a_wrong_list(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_features(names)
    assert check_features(("a", "A", "examples", "inputs")) == ("a", "A", "examples", "inputs")
