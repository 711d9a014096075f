"""Reads the JSON of a request to Python values, strictly, and shows values in messages.

It follows TensorFlow Serving's `json_tensor.cc` and `http_rest_api_util.cc`, which say more than
the document on its REST interface. It is stricter where a wrong value would go in
unnoticed: a key that occurs twice in an object is refused, and so is anything behind the object.
"""

from __future__ import annotations

import binascii
import codecs
import json
import math
import random
from itertools import chain, islice
from typing import Any

import orjson

from serving.server.errors import invalid

BASE64 = "b64"

# Numbers that stand for what JSON has not while it is parsed; by chance, so that nobody sends them.
INFINITY = random.SystemRandom().uniform(1e300, 1e301)

_NAN = random.SystemRandom().uniform(1e302, 1e303)

_CONSTANTS = {
    b"-Infinity": -INFINITY,
    b"-Inf": -INFINITY,
    b"Infinity": INFINITY,
    b"Inf": INFINITY,
    b"NaN": _NAN,
}

MEANT = {INFINITY: math.inf, -INFINITY: -math.inf, _NAN: math.nan}

_BACKSLASH, _QUOTE = b"\0\0", b"\0\1"


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is, with the numbers of `_CONSTANTS` for what JSON has not."""
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body.strip():
        raise invalid("JSON Parse error: The document is empty.", quotes=False)
    text = body
    try:
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            text = _replace_constants(body)
            if text == body:
                raise
            document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {_reason(error, text == body)}", quotes=False) from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {show(document)} Is not object")
    # Of a key that is there twice, the parser takes the last without a word.
    members = body.count(b":")
    if _count_members(document, members) < members:
        members = sum(part.count(b":") for part in _split_strings(body)[::2])
        if _count_members(document, members) < members:
            raise invalid("JSON Parse error: a key occurs more than once in an object")
    return document


def _reason(error: orjson.JSONDecodeError, as_sent: bool) -> str:
    """What a parser's error says, and where if it parsed what was sent."""
    if "infinity" in error.msg:
        reason = "Number too big to be stored in double."
    elif "depth" in error.msg:
        reason = "lists or objects are nested too deeply"
    else:
        reason = error.msg
    offset = f" at offset: {len(error.doc[: error.pos].encode())}" if as_sent else ""
    return reason + offset


def _replace_constants(body: bytes) -> bytes:
    """Writes the numbers of `_CONSTANTS` where they are meant."""
    if b"NaN" not in body and b"Inf" not in body:
        return body
    parts = _split_strings(body)
    outside = b'"'.join(parts[::2])
    for name, number in _CONSTANTS.items():
        outside = outside.replace(name, b" %r " % number)
    parts[::2] = outside.split(b'"')
    return b'"'.join(parts).replace(_QUOTE, b'\\"').replace(_BACKSLASH, b"\\\\")


def _split_strings(body: bytes) -> list[bytes]:
    """What is outside of strings and what is inside, in turns."""
    if b"\\" in body:
        # There are no zero bytes in JSON, so they can mark what is escaped.
        body = body.replace(b"\0", b"?").replace(b"\\\\", _BACKSLASH).replace(b'\\"', _QUOTE)
    return body.split(b'"')


def _count_members(document: dict[str, Any], most: int) -> int:
    """Members of all objects in a document, as far as they are needed to reach a number."""
    count = 0
    level: list[Any] = [document]
    while level and count < most:
        objects = [value for value in level if type(value) is dict]
        lists = [value for value in level if type(value) is list]
        count += sum(map(len, objects))
        level = list(chain(*lists, *map(dict.values, objects)))
    return count


# TensorFlow Serving's decoder takes a dot for padding too, skips white space, and needs no padding.
_BASE64_LENIENCY = str.maketrans(".", "=", " \t\n\v\f\r")


def to_bytes(value: str | dict[str, Any]) -> bytes:
    """A string, or what a base64 object holds.

    Raises:
      ValueError: If the object is none of base64.
    """
    if isinstance(value, str):
        return value.encode()
    if not _is_base64(value):
        raise ValueError(f"{value.keys()} is not the key of a base64 object")
    text: str = value[BASE64].translate(_BASE64_LENIENCY)
    data = text.rstrip("=")
    padding = -len(data) % 4
    if len(text) - len(data) not in (0, padding):
        raise ValueError("wrong padding")
    return binascii.a2b_base64(data + padding * "=", strict_mode=True)


def _is_base64(value: dict[str, Any]) -> bool:
    return len(value) == 1 and isinstance(value.get(BASE64), str)


def is_object(value: Any) -> bool:
    """Whether a value is an object of named values, not one that stands for a binary string."""
    return isinstance(value, dict) and not _is_base64(value)


def type_name(value: Any) -> str:
    """The type of a JSON value, for messages."""
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    if isinstance(value, list | dict):
        return "Array" if isinstance(value, list) else "Object"
    return "String" if isinstance(value, str) else "Number"


def show(value: Any, depth: int = 2) -> str:
    """The beginning of a JSON value, for messages."""
    if isinstance(value, list | dict) and depth == 0:
        text = "[...]" if isinstance(value, list) else "{...}"
    elif isinstance(value, list):
        items = [show(item, depth - 1) for item in value[:8]]
        text = f"[{', '.join(items + ['...'] * (len(value) > 8))}]"
    elif isinstance(value, dict):
        pairs = islice(value.items(), 8)
        items = [f"{show(name)}: {show(item, depth - 1)}" for name, item in pairs]
        text = f"{{{', '.join(items + ['...'] * (len(value) > 8))}}}"
    elif isinstance(value, str) and len(value) > 64:
        text = f"{json.dumps(value[:64])}..."
    else:
        # Of a number that stands for one of JavaScript's, json writes the latter.
        text = json.dumps(MEANT.get(value, value) if isinstance(value, float) else value)
    return text if len(text) <= 256 else f"{text[:256]}..."
