"""The values of Arrow arrays as text: cells of CSV, and JSON; whole columns at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_TEXT = pa.large_string()  # Whose offsets have 64 bits.
_ESCAPED_IN_JSON = b'"\\' + bytes(range(32))


def csv_rows(columns: Sequence[pa.Array], separator: str, empty: str) -> pa.Array:
    """Rows of a CSV file, without line ends.

    Only cells that need it are quoted. Absent values are empty, lists and structs are JSON.

    Example:
      >>> csv_rows([pa.array(["a,b", None, "c"]), pa.array([0.5, 2.0, None])], ",", "").to_pylist()
      ['"a,b",0.5', ',2.0', 'c,']

    Args:
      columns: One or more, of the same length.
      separator: What stands between cells; one character.
      empty: How an empty text is written; an absent one is written as nothing.

    Raises:
      pa.ArrowNotImplementedError: If a type has no text, such as that of a duration.
      pa.ArrowInvalid: If bytes are no UTF-8.
    """
    quoted = f'"\r\n{separator}'.encode()
    cells = [_csv_cells(_plain_texts(column), quoted, empty) for column in columns]
    return join_texts(*cells, between=separator)


def _csv_cells(texts: pa.Array, quoted: bytes, empty: str) -> pa.Array:
    if _have_one_of(texts, quoted):
        unlike = pc.match_substring_regex(texts, f"[{re.escape(quoted.decode())}]")
        doubled = pc.replace_substring(texts, '"', '""')
        texts = pc.if_else(unlike, join_texts('"', doubled, '"'), texts)
    if empty:
        texts = pc.if_else(pc.equal(texts, ""), pa.scalar(empty, _TEXT), texts)
    return pc.fill_null(texts, "")


def json_texts(array: pa.Array) -> pa.Array:
    """The values as JSON; an absent one is null, and so is a number that is not finite.

    Example:
      >>> json_texts(pa.array([{"a": [1.0, None], "b": "x"}, None])).to_pylist()
      ['{"a": [1.0, null], "b": "x"}', 'null']

    Raises:
      pa.ArrowNotImplementedError: If a type has no text, such as that of a duration.
      pa.ArrowInvalid: If bytes are no UTF-8.
    """
    array = _decoded(array)
    kind = array.type
    if _is_list(kind):
        texts = _json_lists(array)
    elif pa.types.is_struct(kind):
        texts = _json_structs(array)
    else:
        texts = _plain_texts(array)
        if pa.types.is_floating(kind):
            texts = _only_where(pc.is_finite(array), texts)
        elif not (_is_number(kind) or pa.types.is_boolean(kind)):
            texts = _quoted(texts)
    return pc.fill_null(texts, "null")


def json_members(names: Sequence[str], columns: Sequence[pa.Array]) -> pa.Array:
    """The members of a JSON object for each row of some columns, one or more; see `json_texts`."""
    parts: list[str | pa.Array] = []
    for name, column in zip(names, columns, strict=True):
        parts += [f"{', ' if parts else ''}{json.dumps(name, ensure_ascii=False)}: "]
        parts += [json_texts(column)]
    return join_texts(*parts)


def _json_lists(array: pa.Array) -> pa.Array:
    valid = np.asarray(array.is_valid())
    kept = array.filter(pa.array(valid))
    if pa.types.is_fixed_size_list(array.type):
        lengths = np.full(len(kept), array.type.list_size)
    else:
        lengths = kept.value_lengths().to_numpy()
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), json_texts(kept.flatten()))
    texts = join_texts("[", pc.binary_join(lists, pa.scalar(", ", _TEXT)), "]")
    return texts.take(pa.array(np.cumsum(valid) - 1, mask=~valid))


def _json_structs(array: pa.Array) -> pa.Array:
    names = [field.name for field in array.type]
    if not names:
        return pc.if_else(array.is_valid(), pa.scalar("{}", _TEXT), pa.scalar(None, _TEXT))
    texts = join_texts("{", json_members(names, array.flatten()), "}")
    return _only_where(array.is_valid(), texts)


def _plain_texts(array: pa.Array) -> pa.Array:
    """The values as text, absent ones as they are; lists and structs as JSON."""
    array = _decoded(array)
    kind = array.type
    if _is_list(kind) or pa.types.is_struct(kind):
        return _only_where(array.is_valid(), json_texts(array))
    if pa.types.is_duration(kind):  # pyarrow 18 writes a number, without its unit.
        raise pa.ArrowNotImplementedError(f"{kind} has no text")
    if pa.types.is_decimal(kind):  # pyarrow 10 casts none.
        return pa.array([None if v is None else f"{v:f}" for v in array.to_pylist()], _TEXT)
    if pa.types.is_timestamp(kind) and kind.tz:
        return join_texts(array.cast(pa.timestamp(kind.unit)).cast(_TEXT), "Z")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        array = array.cast(pa.large_binary())  # Files may say UTF-8 of what is none.
    texts = array.cast(_TEXT)
    if pa.types.is_floating(kind):
        whole = pc.and_(pc.equal(pc.trunc(array), array), pc.is_finite(array))
        bare = pc.and_not(whole, pc.match_substring(texts, "e"))
        texts = pc.if_else(bare, join_texts(texts, ".0"), texts)
    return texts


def _only_where(kept: pa.Array, texts: pa.Array) -> pa.Array:
    """Texts, or null where they are not kept."""
    # With a null scalar, pyarrow returns wrong bytes of a slice (apache/arrow, issue 49410).
    return pc.if_else(kept, texts, pa.nulls(len(texts), _TEXT))


def _quoted(texts: pa.Array) -> pa.Array:
    """Texts as JSON has them."""
    if _have_one_of(texts, _ESCAPED_IN_JSON):
        unlike = pc.match_substring_regex(texts, r'["\\\x00-\x1f]')
        escaped = [
            json.dumps(text, ensure_ascii=False)[1:-1] for text in texts.filter(unlike).to_pylist()
        ]
        texts = pc.replace_with_mask(texts, unlike.fill_null(False), pa.array(escaped, _TEXT))
    return join_texts('"', texts, '"')


def _have_one_of(texts: pa.Array, characters: bytes) -> bool:
    """Whether texts have one of some ASCII characters."""
    raw = text_bytes(texts)
    return len(raw.translate(None, characters)) < len(raw)


def _decoded(array: pa.Array) -> pa.Array:
    """The array without a dictionary, and with a type that pyarrow computes with."""
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
    if pa.types.is_float16(array.type):
        return pa.array(array.to_pylist(), pa.float32())
    return array


def text_bytes(texts: pa.Array) -> bytes:
    """All texts of an array, one behind the other, in UTF-8."""
    _, places, content = texts.buffers()
    if not content or not len(texts):
        return b""
    ends = np.frombuffer(places, np.int64)[[texts.offset, texts.offset + len(texts)]]
    return content.slice(ends[0], ends[1] - ends[0]).to_pybytes()


def join_texts(*parts: str | pa.Array, between: str = "") -> pa.Array:
    """Joins texts, of each row or of all of them; null where one is."""
    texts = [pa.scalar(part, _TEXT) if isinstance(part, str) else part for part in parts]
    return pc.binary_join_element_wise(*texts, pa.scalar(between, _TEXT))


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
