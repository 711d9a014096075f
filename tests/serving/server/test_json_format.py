"""Tests that the REST interface's JSON is read and written as TensorFlow Serving does."""

from __future__ import annotations

import base64
import json
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    regression_pb2,
)

from serving.server.errors import ServingError
from serving.server.json_arrays import JSON_DTYPES
from serving.server.json_requests import PredictRequest, parse_examples, parse_predict
from serving.server.json_responses import (
    format_classifications,
    format_error,
    format_metadata,
    format_predict,
    format_regressions,
    format_status,
)
from serving.server.signatures import NUMPY_DTYPES, PROTO_DTYPES, Signature, TensorInfo

Inputs = Mapping[str, TensorInfo]
MAX_BYTES, MAX_ROWS = 10**6, 1000


def tensor(dtype: str) -> TensorInfo:
    return TensorInfo(types_pb2.DataType.Value(f"DT_{dtype.upper()}"), (None,))


def inputs(**dtypes: str) -> dict[str, TensorInfo]:
    return {name: tensor(dtype) for name, dtype in dtypes.items()}


def of(known: Inputs, **defaults: np.ndarray) -> Callable[[str], Signature]:
    return lambda signature_name: Signature(known, {}, defaults)


def parse(document: Any, known: Inputs) -> PredictRequest:
    """Reads a body given as JSON value, as text or as bytes."""
    text = document if isinstance(document, str | bytes) else json.dumps(document)
    body = text.encode() if isinstance(text, str) else text
    return parse_predict(body, of(known), MAX_ROWS)


def error_of(document: Any, known: Inputs) -> str:
    with pytest.raises(ServingError) as refused:
        parse(document, known)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return refused.value.message


def assert_same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        if array.dtype.kind == "f":
            numbers = ~np.isnan(array)  # whose -0.0 is not 0.0
            assert np.array_equal(np.signbit(found[name])[numbers], np.signbit(array)[numbers])


def as_json(array: np.ndarray) -> Any:
    """Nested lists of what stands for the values in a request."""
    if array.dtype == object:
        flat = [{"b64": base64.b64encode(value).decode()} for value in array.ravel()]
        objects = np.empty(len(flat), object)
        objects[:] = flat
        return objects.reshape(array.shape).tolist()
    return array.tolist()


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # with lone surrogates


@st.composite
def arrays(draw: st.DrawFn, dtype: np.dtype, shape: tuple[int, ...], binary: bool) -> np.ndarray:
    if dtype.kind == "O":
        size = math.prod(shape)
        value = st.binary() if binary else TEXT.map(str.encode)
        values = draw(st.lists(value, min_size=size, max_size=size))
        return np.array([*values, None], object)[:-1].reshape(shape)
    return draw(st_numpy.arrays(dtype, shape))


@st.composite
def batches(
    draw: st.DrawFn, all_rows: bool = True, binary: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """Some tensors of any dtypes, of as many rows each where `all_rows`, by name."""
    rows = draw(st.integers(1, 4))
    found = {}
    # An object with the key b64 alone stands for a string.
    names = TEXT.filter(lambda name: name != "b64")
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        shape = draw(st.lists(st.integers(1, 3), max_size=2).map(tuple))
        dtype = draw(st.sampled_from([NUMPY_DTYPES[number] for number in sorted(JSON_DTYPES)]))
        found[name] = draw(arrays(dtype, (rows, *shape) if all_rows else shape, binary(name)))
    return found


def infos_of(batch: Mapping[str, np.ndarray]) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(PROTO_DTYPES[array.dtype], (None,) * array.ndim)
        for name, array in batch.items()
    }


# Reading requests


@pytest.mark.parametrize(
    ("dtype", "document", "expected"),
    [
        ("int32", '{"instances": [1, 2, -3]}', [1, 2, -3]),
        ("int32", '{"instances": [[[1, 2]], [[3, 4]]]}', [[[1, 2]], [[3, 4]]]),
        ("int32", '{"instances": [[], []]}', [[], []]),
        ("int32", f'{{"instances": {32 * "["}{32 * "]"}}}', np.zeros((*31 * [1], 0))),
        ("int32", '{"inputs": 7}', 7),
        ("int32", '{"inputs": []}', []),
        ("int32", '{"inputs": [[1, 2], [3, 4]]}', [[1, 2], [3, 4]]),
        ("int32", '{"inputs": {"x": [[1, 2], [3, 4]]}}', [[1, 2], [3, 4]]),
        ("int32", '{"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}', [[1, 2], [3, 4]]),
        ("uint64", '{"instances": [18446744073709551615, 0]}', [18446744073709551615, 0]),
        ("int64", '{"instances": [-9223372036854775808]}', [-9223372036854775808]),
        ("int8", '{"instances": [-128, 127]}', [-128, 127]),
        ("bool", '{"instances": [true, false]}', [True, False]),
        ("float", '{"instances": [1, 2.5, 3e2, -0]}', [1, 2.5, 300, 0]),
        ("float", '{"instances": [1435774380]}', [1435774380.0]),
        ("float", '{"instances": [1e300, -1e300, 1e-300]}', [math.inf, -math.inf, 0]),
        ("float", '{"instances": [NaN, Infinity, -Infinity]}', [math.nan, math.inf, -math.inf]),
        ("double", '{"instances": [123456789012345678901234567890]}', [1.2345678901234568e29]),
        ("string", '{"instances": ["foo", "\\u00e9", ""]}', [b"foo", "é".encode(), b""]),
        ("string", '{"instances": [{"b64": "aGVsbG8="}, "x"]}', [b"hello", b"x"]),
        ("string", '{"instances": [[{"b64": "AP8="}], ["x"]]}', [[b"\0\xff"], [b"x"]]),
        ("string", '{"instances": [{"x": [{"b64": "eA=="}]}]}', [[b"x"]]),
        ("string", '{"inputs": {"b64": "eA=="}}', b"x"),
        ("string", '{"inputs": {"x": {"b64": "eA=="}}}', b"x"),
        ("string", '{"inputs": [{"b64": "e A"}, {"b64": "eA.."}, {"b64": ""}]}', [b"x", b"x", b""]),
        ("int32", ' \t\r\n{"other": [[{}]], "instances": [1]}', [1]),
        ("int32", '\ufeff{"instances": [1]}', [1]),
        ("float", '{"instances": [Inf, -Inf, -Infinity]}', [math.inf, -math.inf, -math.inf]),
        ("float", '{"NaN": "\\"Inf\\\\", "instances": [NaN]}', [math.nan]),
        (
            "string",
            '{"instances": ["NaN", "a\\"Inf", NaN]}'.replace(", NaN]", "]"),
            [b"NaN", b'a"Inf'],
        ),
        (
            "string",
            '{"x": Inf, "instances": ["NaN:", "\\\\", "\\"Inf"]}',
            [b"NaN:", b"\\", b'"Inf'],
        ),
    ],
)
def test_a_request_for_one_input_is_read(dtype: str, document: str | bytes, expected: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        request = parse(document, inputs(x=dtype))
    numpy_dtype = NUMPY_DTYPES[tensor(dtype).dtype]
    assert_same(request.inputs, {"x": np.array(expected, numpy_dtype)})
    assert request.row_format is ("instances" in str(document))


def test_a_request_for_several_inputs_is_read_in_both_forms() -> None:
    known = inputs(count="int64", name="string", ratio="float")
    expected = {
        "count": np.array([1, 2]),
        "name": np.array([b"a", b"b"], object),
        "ratio": np.array([[0.5, 1], [2, np.nan]], np.float32),
    }
    rows = parse(
        """{"instances": [{"count": 1, "name": "a", "ratio": [0.5, 1]},
                          {"ratio": [2, NaN], "name": {"b64": "Yg=="}, "count": 2}]}""",
        known,
    )
    columns = parse(
        """{"inputs": {"ratio": [[0.5, 1], [2, NaN]], "name": ["a", "b"], "count": [1, 2]}}""",
        known,
    )
    assert (rows.row_format, columns.row_format) == (True, False)
    assert_same(rows.inputs, expected)
    assert_same(columns.inputs, expected)


def test_columns_may_differ_in_size_and_may_have_keys_besides_the_inputs() -> None:
    request = parse({"inputs": {"a": [1, 2], "b": 3, "c": "?"}}, inputs(a="int32", b="int32"))
    assert_same(request.inputs, {"a": np.array([1, 2], np.int32), "b": np.array(3, np.int32)})


@pytest.mark.parametrize(
    ("document", "asked"),
    [
        ({"instances": [1]}, ""),
        ({"signature_name": "other", "instances": [1]}, "other"),
        ({"signature_name": "", "instances": [1]}, ""),
    ],
)
def test_inputs_are_those_of_the_signature_asked_for(document: Any, asked: str) -> None:
    names = []

    def signature_of(name: str) -> Signature:
        names.append(name)
        return Signature(inputs(x="int32"), {})

    request = parse_predict(json.dumps(document).encode(), signature_of, MAX_ROWS)
    assert (names, request.signature_name) == ([asked], asked)


def test_what_the_signatures_raise_is_passed_on() -> None:
    def signature_of(name: str) -> Signature:
        raise ServingError(grpc.StatusCode.NOT_FOUND, f"no {name}")

    with pytest.raises(ServingError, match="no such") as refused:
        parse_predict(b'{"signature_name": "such"}', signature_of, MAX_ROWS)
    assert refused.value.code is grpc.StatusCode.NOT_FOUND


@given(batches())
def test_row_and_column_form_of_the_same_data_are_read_as_these(
    batch: dict[str, np.ndarray],
) -> None:
    columns = {name: as_json(array) for name, array in batch.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert_same(parse({"inputs": columns}, infos_of(batch)).inputs, batch)
    assert_same(parse({"instances": rows}, infos_of(batch)).inputs, batch)
    if len(batch) == 1:
        (values,) = columns.values()
        assert_same(parse({"instances": values}, infos_of(batch)).inputs, batch)
        assert_same(parse({"inputs": values}, infos_of(batch)).inputs, batch)


# Refusing requests


@pytest.mark.parametrize(
    ("document", "fragments"),
    [
        (b"", ["JSON Parse error: The document is empty"]),
        (" \n", ["JSON Parse error: The document is empty"]),
        ("{", ["JSON Parse error:", "offset: 1"]),
        ('{"é": }', ["JSON Parse error:", "offset: 7"]),
        (b"\xff\xfe", ["JSON Parse error:", "offset: 0"]),
        (b"\x80\x81\x00", ["JSON Parse error:"]),
        ("[" * 100_000, ["JSON Parse error: ", "nested too deeply"]),
        ('{"a":' * 100_000, ["JSON Parse error: ", "nested too deeply"]),
        ('{"instances": [' + "1" * 5000 + "]}", ["JSON Parse error: Number too big"]),
        ('{"instances": [1], "instances": [2]}', ["a key occurs more than once"]),
        ("[1]", ["JSON Value: [1] Is not object"]),
        ("null", ["JSON Value: null Is not object"]),
        ("{}", ["Missing 'inputs' or 'instances' key"]),
        ({"signature_name": 5, "instances": [1]}, ["5", "'signature_name' key must be a string"]),
        ('{"signature_name": "\\udcff"}', ["JSON Parse error: ", "surrogate"]),
        (b'{"x": "\xff", "instances": [1]}', ["JSON Parse error: ", "UTF-8"]),
        ('{"instances": [1]} {"instances": [2]}', ["JSON Parse error: ", "offset: 19"]),
        ('{"instances": [1NaN]}', ["JSON Parse error: "]),
        ('{"instances": [1], "x": In}', ["JSON Parse error: ", "offset: 24"]),
        ('{"instances": [1, 1e999]}', ["JSON Parse error: Number too big", "offset: 18"]),
        ('{"instances": [Infinity, -1e999]}', ["JSON Parse error: Number too big"]),
        (f'{{"instances": [1{400 * "0"}]}}', ["JSON Parse error: Number too big", "offset: 15"]),
        ({"inputs": [1], "instances": [1]}, ["Not formatted correctly", "only one of"]),
        ({"instances": {"x": 1}}, ["Expecting 'instances' to be an list/array"]),
        ({"instances": []}, ["No values in 'instances' array"]),
    ],
)
def test_a_body_that_is_no_request_is_refused(document: Any, fragments: list[str]) -> None:
    message = error_of(document, inputs(x="int32"))
    assert all(fragment in message for fragment in fragments), message


@pytest.mark.parametrize(
    ("document", "fragments"),
    [
        ({"instances": [1, 2]}, ["instances is a plain list", '"a", "b"']),
        ({"instances": [{"b64": "eA=="}]}, ["instances is a plain list"]),
        ({"inputs": [1, 2]}, ["inputs is a plain value/list", '"a", "b"']),
        ({"inputs": {"b64": "eA=="}}, ["inputs is a plain value/list"]),
        ({"inputs": {"a": 1, "c": 2}}, ["Missing named input: b in 'inputs'", 'signature: "c"']),
        (
            {"instances": [{"a": 1, "b": "x"}, {"a": 1, "c": "x"}]},
            ["element: 1 of 'instances'", "equal to: a,b", 'Missing: "b"', 'signature: "c"'],
        ),
        ({"instances": [{"a": 1}]}, ["element: 0 of 'instances'", 'Missing: "b"']),
        ({"instances": [{"a": 1, "b": "x", "c": 2}]}, ["element: 0", 'Not in the signature: "c"']),
        ({"instances": [{"a": 1, "b": "x"}, [1]]}, ["Expecting object but got list", "item 1"]),
        ({"instances": [{"a": 1, "b": "x"}, None]}, ["Expecting object but got list", "item 1"]),
        (
            {"instances": [{"a": 1, "b": "x"}, {"a": None, "b": "x"}]},
            ["element: 1 key: a of 'instances'", "null", "Null", "expected type: int32"],
        ),
        ({"instances": [{"a": 1, "b": "x"}, {"a": 1, "b": ["x"]}]}, ["element: 1 key: b"]),
        ({"inputs": {"a": 1, "b": [["x"], [3]]}}, ["input: b", "at [1][0]", "type: string"]),
    ],
)
def test_a_request_that_does_not_have_the_inputs_is_refused_naming_them(
    document: Any, fragments: list[str]
) -> None:
    message = error_of(document, inputs(a="int32", b="string"))
    assert all(fragment in message for fragment in fragments), message


@pytest.mark.parametrize(
    ("dtype", "instances", "fragments"),
    [
        ("int32", "[1, 1.5]", ["element: 1", "1.5 Type: Number is not of expected type: int32"]),
        ("int32", "[1.0]", ["is not of expected type: int32"]),
        ("int32", "[true]", ["true Type: True is not of expected type: int32"]),
        ("int32", '["1"]', ['"1" Type: String is not of expected type: int32']),
        ("int32", "[1, {}]", ["Expecting value/list but got object at item 1"]),
        ("int32", "[[1], [2147483648]]", ["element: 1", "int32", "2147483647", "at [0]"]),
        ("int8", "[-129]", ["-129", "int8", "-128 to 127"]),
        ("uint8", "[256]", ["256", "uint8", "0 to 255"]),
        ("uint32", "[-1]", ["-1", "uint32", "0 to 4294967295"]),
        ("int64", "[9223372036854775808]", ["int64", "9223372036854775807"]),
        ("uint64", "[18446744073709551616]", ["uint64"]),
        ("bool", "[true, 1]", ["element: 1", "1 Type: Number is not of expected type: bool"]),
        ("float", '["x"]', ['"x" Type: String is not of expected type: float']),
        ("float", "[null]", ["null Type: Null is not of expected type: float"]),
        ("float", "[false]", ["false Type: False is not of expected type: float"]),
        ("float", "[[1, [2]]]", ["element: 0", "at [1]"]),
        ("int64", "[NaN]", ["NaN Type: Number is not of expected type: int64"]),
        ("string", "[-Inf]", ["-Infinity Type: Number is not of expected type: string"]),
        ("uint64", "[-9223372036854775809]", ["Type: Number is not of expected type: uint64"]),
        ("string", "[3]", ["3 Type: Number is not of expected type: string"]),
        ("string", '["x", {"b64": "eA="}]', ["element: 1", "base64"]),
        ("string", '["x", {"b64": "e"}]', ["element: 1", "base64"]),
        ("string", '["x", {"b64": "\\u00e9Q=="}]', ["element: 1", "base64"]),
        ("string", '[["x", {"b64": 3}]]', ["element: 0", "base64", "at [1]"]),
        ("string", '[["x", {"b64": "eA==", "x": 3}]]', ["element: 0", "base64", "at [1]"]),
        ("string", '["x", {"x": "y"}]', ["Expecting value/list but got object at item 1"]),
        ("int32", "[[1, 2], [3, 4, 5]]", ["element: 1", "Expecting tensor size: 2 but got: 3"]),
        ("int32", "[[1, 2], [[3, 4]]]", ["element: 1", "Expecting shape [2] but got: [1, 2]"]),
        ("int32", "[1, [1]]", ["element: 1", "Expecting shape [] but got: [1]"]),
        ("int32", "[[[1], [2, 3]]]", ["element: 0", "size: 1 but got: 2", "at [1]"]),
        ("int32", f"[{32 * '['}{32 * ']'}]", ["element: 0", "31 levels"]),
        ("int32", f"[{31 * '['}{31 * ']'}, {40 * '['}{40 * ']'}]", ["element: 1", "31 levels"]),
    ],
)
def test_a_value_that_does_not_fit_is_refused_naming_where_it_is(
    dtype: str, instances: str, fragments: list[str]
) -> None:
    # Latin-1 makes a byte of its own of the one value that is meant to be no UTF-8.
    message = error_of(f'{{"instances": {instances}}}'.encode("latin-1"), inputs(x=dtype))
    assert all(fragment in message for fragment in fragments), message
    for form in (f'{{"inputs": {{"x": {instances}}}}}', f'{{"inputs": {instances}}}'):
        assert "input: x" in error_of(form.encode("latin-1"), inputs(x=dtype))


def test_an_input_without_name_or_of_a_dtype_unknown_to_json_is_refused() -> None:
    assert "signature: DEFAULT" in error_of({"instances": [1]}, {})
    with pytest.raises(ServingError, match="half of input: x") as refused:
        parse({"instances": [1]}, inputs(x="half"))
    assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED


KNOWN = inputs(i="int32", u="uint8", f="float", s="string", b="bool")
FITTING = {"i": [1, 2], "u": [[3]], "f": 0.5, "s": ["x", {"b64": "eA=="}], "b": True}
SPOILT = [
    ("i", [1, 2.5], "at [1]"),
    ("i", [1, [2]], "at [1]"),
    ("i", [1], "size"),
    ("u", [[256]], "at [0][0]"),
    ("u", 3, "shape"),
    ("f", None, "Null"),
    ("s", ["x", {"b64": "?"}], "at [1]"),
    ("b", 0, "Number"),
]


@given(st.sampled_from(SPOILT), st.integers(2, 40), st.data())
def test_one_wrong_value_among_many_rows_is_found(
    spoilt: tuple[str, Any, str], count: int, data: st.DataObject
) -> None:
    key, value, reason = spoilt
    index = data.draw(st.integers(1, count - 1))
    rows = [{**FITTING, key: value if row == index else FITTING[key]} for row in range(count)]
    message = error_of({"instances": rows}, KNOWN)
    assert f"element: {index} key: {key} of 'instances'" in message
    assert reason in message


VALUES = {
    0: {"int8", "uint64", "float"},
    -1: {"int8", "float"},
    300: {"uint64", "float"},
    2**64: {"float"},
    1.5: {"float"},
    math.inf: {"float"},
    True: {"bool"},
    None: set(),
    "x": {"string"},
}
OBJECTS = [({"b64": "eA=="}, {"string"}), ({"b64": "?"}, set()), ({"x": 1}, set())]
LEAVES: st.SearchStrategy[Any] = st.sampled_from([*VALUES.items(), *OBJECTS])


def shape_of(value: Any, dtype: str) -> tuple[int, ...] | None:
    """The shape of a tensor, or None if it is none; leaves are (JSON value, dtypes it has)."""
    if not isinstance(value, list):
        return () if dtype in value[1] else None
    shapes = {shape_of(item, dtype) for item in value} or {()}
    (shape, *others) = shapes
    return None if shape is None or others else (len(value), *shape)


def without_dtypes(value: Any) -> Any:
    return [without_dtypes(item) for item in value] if isinstance(value, list) else value[0]


@given(
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=10),
    st.sampled_from(["int8", "uint64", "float", "bool", "string"]),
)
@settings(max_examples=300)
def test_lists_are_read_where_all_of_a_level_have_one_shape_and_all_values_fit(
    value: Any, dtype: str
) -> None:
    document = {"inputs": {"x": without_dtypes(value)}}
    expected = shape_of(value, dtype)
    if expected is None:
        assert "input: x" in error_of(document, inputs(x=dtype))
    else:
        assert parse(document, inputs(x=dtype)).inputs["x"].shape == expected


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | ANY_TEXT
    | st.builds(lambda text: {"b64": text}, ANY_TEXT)
)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KNOWN, "b64"]) | ANY_TEXT, inner, max_size=5)
    ),
    max_leaves=12,
)
# Documents that come close: the right keys, and values some of which may be right.
ROWS = st.fixed_dictionaries({name: st.just(FITTING[name]) | ANY_JSON for name in KNOWN})
NEAR_MISSES = st.fixed_dictionaries(
    {},
    optional={
        "signature_name": st.just("") | ANY_JSON,
        "instances": st.lists(ROWS | ANY_JSON, max_size=3) | ANY_JSON,
        "inputs": ROWS | ANY_JSON,
        "examples": st.lists(ROWS | ANY_JSON, max_size=3) | ANY_JSON,
        "context": ROWS | ANY_JSON,
    },
)
BODIES = (
    st.binary()
    | (NEAR_MISSES | ANY_JSON).map(lambda document: json.dumps(document).encode())
    | st.tuples(NEAR_MISSES, st.binary(max_size=4), st.integers(0, 500)).map(
        lambda drawn: (
            (text := json.dumps(drawn[0]).encode())[: drawn[2]] + drawn[1] + text[drawn[2] + 1 :]
        )
    )
)


def assert_can_be_sent(error: ServingError) -> None:
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert json.loads(format_error(error.message)) == {"error": error.message}


@given(BODIES, st.sampled_from([KNOWN, *({name: info} for name, info in KNOWN.items())]))
@settings(max_examples=400)
def test_any_body_gives_what_fits_the_signature_or_an_error_that_can_be_sent(
    body: bytes, known: Inputs
) -> None:
    try:
        request = parse_predict(body, of(known), MAX_ROWS)
    except ServingError as error:
        assert_can_be_sent(error)
        return
    assert request.inputs.keys() == known.keys()
    for name, array in request.inputs.items():
        assert array.dtype == known[name].numpy_dtype
        if array.dtype == object:
            assert {bytes} >= set(map(type, array.ravel()))
    if request.row_format:
        assert len({len(array) for array in request.inputs.values()}) == 1


@given(BODIES)
@settings(max_examples=400)
def test_any_body_gives_examples_or_an_error_that_can_be_sent(body: bytes) -> None:
    try:
        _, examples = parse_examples(body, MAX_BYTES, MAX_ROWS)
    except ServingError as error:
        assert_can_be_sent(error)
        return
    assert examples
    for example in examples:
        example_pb2.Example.FromString(example)


# Examples


def features(serialized: bytes) -> dict[str, list[Any] | None]:
    """The values of a serialized tf.Example by name; None for a feature without a kind."""
    found: dict[str, list[Any] | None] = {}
    for name, feature in example_pb2.Example.FromString(serialized).features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = [kind, *getattr(feature, kind).value] if kind else None
    return found


def test_examples_have_the_kinds_of_their_values() -> None:
    name, examples = parse_examples(
        b"""{"signature_name": "s", "examples": [
            {"names": ["foo", {"b64": "AP8="}], "ratings": [8.0, Infinity], "age": 20},
            {"names": "bar", "mixed": [1, true, false], "flag": true, "none": []}
        ]}""",
        MAX_BYTES,
        MAX_ROWS,
    )
    assert name == "s"
    assert [features(example) for example in examples] == [
        {
            "names": ["bytes_list", b"foo", b"\0\xff"],
            "ratings": ["float_list", 8.0, math.inf],
            "age": ["int64_list", 20],
        },
        {
            "names": ["bytes_list", b"bar"],
            "mixed": ["int64_list", 1, 1, 0],
            "flag": ["int64_list", 1],
            "none": None,
        },
    ]


FEATURES = st.dictionaries(
    TEXT,
    st.lists(st.integers(-(2**63), 2**63 - 1))
    | st.lists(st.floats(width=32, allow_nan=False))
    | st.lists(st.binary()),
)


@given(st.lists(FEATURES, min_size=1), FEATURES)
def test_examples_and_their_context_hold_what_was_written(
    written: list[dict[str, list[Any]]], context: dict[str, list[Any]]
) -> None:
    def document(example: dict[str, list[Any]]) -> dict[str, Any]:
        return {
            name: as_json(np.array([*values, None], object)[:-1])
            if values and isinstance(values[0], bytes)
            else values
            for name, values in example.items()
        }

    body = {"examples": list(map(document, written)), "context": document(context)}
    name, examples = parse_examples(json.dumps(body).encode(), MAX_BYTES, MAX_ROWS)
    assert name == ""
    for serialized, example in zip(examples, written, strict=True):
        read = features(serialized)
        expected = {**context, **example}
        assert {name: values[1:] if values else [] for name, values in read.items()} == expected


def test_the_context_is_in_every_example_that_does_not_say_otherwise() -> None:
    _, examples = parse_examples(
        b'{"context": {"q": "all", "k": 1}, "examples": [{"x": 1.5}, {"q": ["own"]}, {}]}',
        MAX_BYTES,
        MAX_ROWS,
    )
    assert [features(example) for example in examples] == [
        {"q": ["bytes_list", b"all"], "k": ["int64_list", 1], "x": ["float_list", 1.5]},
        {"q": ["bytes_list", b"own"], "k": ["int64_list", 1]},
        {"q": ["bytes_list", b"all"], "k": ["int64_list", 1]},
    ]


@pytest.mark.parametrize(
    ("document", "fragments"),
    [
        ("", ["JSON Parse error: The document is empty"]),
        ("{}", ["key 'examples' is expected and was not found"]),
        ('{"examples": {"a": 1}}', ["Expecting 'examples' value to be an list/array"]),
        ('{"examples": []}', ["'examples' value is an empty array"]),
        ('{"signature_name": ["s"], "examples": [{}]}', ["'signature_name' key must be a string"]),
        ('{"examples": [{}, [{}]]}', ["Example must be JSON object", "Array at examples[1]"]),
        ('{"context": 3, "examples": [{}]}', ["Example must be JSON object", "at context"]),
        (
            '{"examples": [{"a": [10, null]}]}',
            ["Feature: a", "Null at element 1 of examples[0]"],
        ),
        ('{"examples": [{"a": [10, [10]]}]}', ["Feature: a", "unexpected JSON type: Array"]),
        ('{"examples": [{"a": {"x": 10}}]}', ["Feature: a", "type: Object at examples[0]"]),
        ('{"examples": [{"a": [10, 10.0]}]}', ["feature: a expecting type: int64", "element 1"]),
        ('{"examples": [{"a": [1.5, 10]}]}', ["feature: a expecting type: float"]),
        ('{"examples": [{"a": ["x", 1.5]}]}', ["feature: a expecting type: bytes"]),
        (
            '{"examples": [{"a": [1, 18446744073709551603]}]}',
            ["Only int64_t", "element 1"],
        ),
        ('{"examples": [{"a": 1e999}]}', ["JSON Parse error: Number too big", "offset: 20"]),
        ('{"examples": [{"a": {"b64": "?"}}]}', ["Feature: a", "base64"]),
        ('{"examples": [{"a": 1, "a": 2}]}', ["a key occurs more than once"]),
    ],
)
def test_a_body_that_has_no_examples_is_refused_naming_the_feature(
    document: str, fragments: list[str]
) -> None:
    with pytest.raises(ServingError) as refused:
        parse_examples(document.encode(), MAX_BYTES, MAX_ROWS)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    message = refused.value.message
    assert all(fragment in message for fragment in fragments), message


# Answers


def strings(*values: bytes) -> np.ndarray:
    return np.array(values, object)


@pytest.mark.parametrize(
    ("outputs", "predictions", "columns"),
    [
        ({"x": np.array([[1, 2], [3, 4]])}, "[[1, 2], [3, 4]]", "[[1, 2], [3, 4]]"),
        ({"x": np.zeros((0, 2))}, "[]", "[]"),
        ({"x": np.zeros((2, 0))}, "[[], []]", "[[], []]"),
        ({"x": np.array([True, False])}, "[true, false]", "[true, false]"),
        (
            {"x": np.array([0.5, 3, 0.1, 1e-5, 555557.5, np.nan, np.inf, -np.inf, -0.0], "f")},
            "[0.5, 3.0, 0.1, 1e-05, 555557.5, NaN, Infinity, -Infinity, -0.0]",
            "[0.5, 3.0, 0.1, 1e-05, 555557.5, NaN, Infinity, -Infinity, -0.0]",
        ),
        ({"x": np.array([0.1, 1 / 3])}, "[0.1, 0.3333333333333333]", "[0.1, 0.3333333333333333]"),
        (
            {"x": strings(b'"\\\n\x01', "é".encode())},
            '["\\"\\\\\\n\\u0001", "é"]',
            '["\\"\\\\\\n\\u0001", "é"]',
        ),
        (
            {"x_bytes": strings(b"\0\xff", b"x")},
            '[{"b64": "AP8="}, {"b64": "eA=="}]',
            '[{"b64": "AP8="}, {"b64": "eA=="}]',
        ),
        ({"x_bytes": np.array([1, 2])}, "[1, 2]", "[1, 2]"),
        (
            {"a": np.array([[1], [2]]), "b": strings(b"x", b"y")},
            '[{"a": [1], "b": "x"}, {"a": [2], "b": "y"}]',
            '{"a": [[1], [2]], "b": ["x", "y"]}',
        ),
        ({"a": np.zeros((0, 2)), "b": np.zeros(0)}, "[]", '{"a": [], "b": []}'),
    ],
)
def test_outputs_are_written_as_rows_and_as_columns(
    outputs: dict[str, np.ndarray], predictions: str, columns: str
) -> None:
    def compact(text: str) -> str:
        return text.replace("\n", "").replace(" ", "")

    rows = format_predict(outputs, row_format=True).decode()
    assert compact(rows) == compact(f'{{"predictions": {predictions}}}')
    assert compact(format_predict(outputs, row_format=False).decode()) == compact(
        f'{{"outputs": {columns}}}'
    )


def test_rows_are_laid_out_as_by_tensorflow_serving() -> None:
    one = {"x": np.array([[0.5], [0.25]], np.float32)}
    assert format_predict(one, row_format=True) == (
        b'{\n    "predictions": [[0.5], [0.25]\n    ]\n}'
    )
    assert format_predict({"x": np.zeros(0)}, row_format=True) == b'{\n    "predictions": []\n}'
    two = {"x": np.array([1, 2]), "y": np.array([[3], [4]])}
    assert format_predict(two, row_format=True).decode() == (
        """{
    "predictions": [
        {
            "x": 1,
            "y": [3]
        },
        {
            "x": 2,
            "y": [4]
        }
    ]
}"""
    )


def test_columns_may_be_scalars_and_of_different_sizes() -> None:
    outputs = {"a": np.array(0.5, np.float32), "b": np.array([1, 2, 3])}
    written = json.loads(format_predict(outputs, row_format=False))
    assert written == {"outputs": {"a": 0.5, "b": [1, 2, 3]}}


@pytest.mark.parametrize(
    ("outputs", "row_format", "message"),
    [
        ({}, True, "empty tensor map"),
        ({}, False, "empty tensor map"),
        ({"x": np.array(1)}, True, "Tensor name: x has no shape information"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, True, "b has inconsistent batch size: 3 .* 2"),
        ({"a": np.zeros((0, 2)), "b": np.zeros(1)}, True, "b has inconsistent batch size: 1 .* 0"),
        ({"x": np.zeros(2, np.complex64)}, True, "tensor type: complex64 of output: x"),
        ({"x": np.zeros(2, np.float16)}, False, "tensor type: float16 of output: x"),
        ({"x": strings(b"\xff")}, False, "output: x, .* not valid UTF-8"),
    ],
)
def test_outputs_that_json_cannot_say_are_refused_by_name(
    outputs: dict[str, np.ndarray], row_format: bool, message: str
) -> None:
    with pytest.raises(ServingError, match=message):
        format_predict(outputs, row_format=row_format)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1))
def test_float32_values_read_back_bit_by_bit_from_the_fewest_digits(bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    values = values[~np.isnan(values)]
    text = format_predict({"x": values}, row_format=True)
    tokens: list[str] = json.loads(text, parse_float=str, parse_constant=str)["predictions"]
    read = np.array([np.float32(token) for token in tokens], np.float32)
    assert read.tobytes() == values.tobytes()
    for token, value in zip(tokens, values, strict=True):
        if np.isfinite(value):
            digits = len(token.split("e")[0].replace(".", "").strip("-0"))
            assert all(np.float32(f"{value:.{fewer}g}") != value for fewer in range(1, digits))


@given(batches(binary=lambda name: name.endswith("_bytes")))
def test_rows_that_are_written_read_back_as_the_outputs(batch: dict[str, np.ndarray]) -> None:
    written = format_predict(batch, row_format=True)
    body = written.replace(b'"predictions"', b'"instances"', 1)
    assert_same(parse_predict(body, of(infos_of(batch)), MAX_ROWS).inputs, batch)


@given(batches(all_rows=False, binary=lambda name: name.endswith("_bytes")))
def test_columns_that_are_written_read_back_as_the_outputs(batch: dict[str, np.ndarray]) -> None:
    written = format_predict(batch, row_format=False)
    body = written.replace(b'"outputs"', b'"inputs"', 1)
    assert_same(parse_predict(body, of(infos_of(batch)), MAX_ROWS).inputs, batch)


def test_classifications_are_pairs_of_label_and_score() -> None:
    result = classification_pb2.ClassificationResult()
    for scores in ((0.2, 0.7), (0.9, math.nan)):
        classes = result.classifications.add().classes
        for label, score in zip(("car", 'a "bus"'), scores, strict=True):
            classes.add(label=label, score=score)
    result.classifications.add()
    assert format_classifications(result).decode() == (
        '{\n    "results": [[["car", 0.2], ["a \\"bus\\"", 0.7]], '
        '[["car", 0.9], ["a \\"bus\\"", NaN]], []\n    ]\n}'
    )


def test_regressions_are_numbers() -> None:
    result = regression_pb2.RegressionResult()
    for value in (0.2, 1, math.inf, -math.inf, math.nan):
        result.regressions.add(value=value)
    assert format_regressions(result) == (
        b'{\n    "results": [0.2, 1.0, Infinity, -Infinity, NaN]\n}'
    )


def test_results_without_examples_are_refused() -> None:
    with pytest.raises(ServingError, match="empty ClassificationResults"):
        format_classifications(classification_pb2.ClassificationResult())
    with pytest.raises(ServingError, match="empty RegressionResults"):
        format_regressions(regression_pb2.RegressionResult())


@given(ANY_TEXT)
def test_an_error_is_json_whatever_its_message(message: str) -> None:
    read = json.loads(format_error(message))["error"]
    # Two surrogates that make a pair are read as the character they stand for.
    assert read.encode("utf-16", "surrogatepass") == message.encode("utf-16", "surrogatepass")


def test_an_error_is_laid_out_as_by_tensorflow_serving() -> None:
    assert format_error('Bad key: "é"') == '{\n    "error": "Bad key: \\"é\\""\n}'.encode()


def test_the_status_says_everything_by_the_names_of_tensorflow_serving() -> None:
    response = get_model_status_pb2.GetModelStatusResponse()
    available = response.model_version_status.add(version=1700000000, state="AVAILABLE")
    available.status.error_code = 0
    failed = response.model_version_status.add(version=2, state="END")
    failed.status.error_code = 13
    failed.status.error_message = "broken"
    assert json.loads(format_status(response)) == {
        "model_version_status": [
            {
                "version": "1700000000",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            },
            {
                "version": "2",
                "state": "END",
                "status": {"error_code": "INTERNAL", "error_message": "broken"},
            },
        ]
    }
    assert json.loads(format_status(get_model_status_pb2.GetModelStatusResponse())) == {
        "model_version_status": []
    }


def test_the_metadata_are_the_signatures_under_two_keys() -> None:
    signature = Signature(
        {"x": TensorInfo(types_pb2.DT_FLOAT, (None, 2), "x:0")},
        {"y": TensorInfo(types_pb2.DT_STRING, (None,), "y:0")},
    )
    signatures = get_model_metadata_pb2.SignatureDefMap()
    signatures.signature_def["serving_default"].CopyFrom(signature.to_proto())
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = "model"
    response.model_spec.version.value = 3
    response.metadata["signature_def"].Pack(signatures)
    written = json.loads(format_metadata(response))
    assert written["model_spec"] == {"name": "model", "signature_name": "", "version": "3"}
    assert written["metadata"].keys() == {"signature_def"}
    default = written["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert default["method_name"] == "tensorflow/serving/predict"
    assert default["inputs"] == {
        "x": {
            "dtype": "DT_FLOAT",
            "tensor_shape": {
                "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}],
                "unknown_rank": False,
            },
            "name": "x:0",
        }
    }
    assert default["outputs"]["y"]["dtype"] == "DT_STRING"


def test_metadata_without_signatures_are_an_error_of_the_server() -> None:
    with pytest.raises(ServingError, match="signature_def") as refused:
        format_metadata(get_model_metadata_pb2.GetModelMetadataResponse())
    assert refused.value.code is grpc.StatusCode.INTERNAL


def test_the_constants_of_javascript_are_read_only_where_they_are_values() -> None:
    text = json.dumps({"inputs": {"x": ["NaN", "Inf", 'a"Inf\\', "\\\\NaN"], "y": 0}})
    text = text.replace(": 0", ": [NaN, Infinity, -Infinity, Inf, -Inf, 1e300, 1]")
    found = parse(text, inputs(x="string", y="double")).inputs
    assert found["x"].tolist() == [b"NaN", b"Inf", b'a"Inf\\', b"\\\\NaN"]
    expected = [math.nan, math.inf, -math.inf, math.inf, -math.inf, 1e300, 1]
    np.testing.assert_array_equal(found["y"], expected)


def test_an_input_with_a_default_may_be_left_out() -> None:
    signature = of(inputs(x="int32", y="float"), y=np.ones(1, np.float32))
    for body in (b'{"instances": [{"x": 1}]}', b'{"inputs": {"x": [1]}}', b'{"instances": [1]}'):
        assert_same(parse_predict(body, signature, 1).inputs, {"x": np.array([1], np.int32)})
    given = parse_predict(b'{"instances": [{"x": 1, "y": 2}]}', signature, 1).inputs
    assert given["y"].tolist() == [2]


@pytest.mark.parametrize("body", ['{"instances": [1, 2, 3]}', '{"inputs": {"x": [1, 2, 3]}}'])
def test_a_request_of_too_many_rows_is_refused(body: str) -> None:
    with pytest.raises(ServingError, match="3 rows, 2 are allowed") as refused:
        parse_predict(body.encode(), of(inputs(x="int32")), 2)
    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_context_is_refused_if_all_examples_with_it_are_too_large() -> None:
    body = json.dumps({"context": {"x": 1000 * "x"}, "examples": [{}] * 200}).encode()
    assert len(parse_examples(body, 300_000, 200)[1]) == 200
    with pytest.raises(ServingError, match=r"context of .* bytes is larger"):
        parse_examples(body, 100_000, 200)
    with pytest.raises(ServingError, match="200 rows, 199 are allowed"):
        parse_examples(body, 300_000, 199)
