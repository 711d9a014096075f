"""Estimates the memory of a parsed request from its bytes.

A short message can stand for much: an empty list is two bytes of JSON and 80 of Python, an empty
entry of a map two bytes of gRPC and 180 of protobuf. The weights below are upper bounds of what
`orjson` and protobuf were seen to take for the worst bodies of each kind.
"""

from __future__ import annotations

import zlib

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from serving.server.errors import ServingError, exhausted, invalid

# Upper bounds for a byte of a body, whatever it holds: what is small needs no closer look.
WORST_JSON, WORST_MESSAGE = 128, 96

_JSON_BYTE, _JSON_VALUE, _JSON_QUOTE, _JSON_LIST, _JSON_OBJECT = 4, 64, 32, 112, 280
_MESSAGE_BYTE, _MESSAGE_FIELD, _PACKED_BYTE = 2, 190, 16

_GZIP = b"\x1f\x8b"  # As no message of protobuf begins, and no JSON.
_TOO_LARGE = "the request is larger than the {:,} bytes allowed"


def weigh_json(body: bytes) -> int:
    """Bytes that a JSON document takes when it is parsed, at most."""
    counts = np.bincount(np.frombuffer(body, np.uint8), minlength=128)
    values, quotes, lists, objects = (int(counts[ord(sign)]) for sign in ',"[{')
    return (
        len(body) * _JSON_BYTE
        + values * _JSON_VALUE
        + quotes * _JSON_QUOTE
        + lists * _JSON_LIST
        + objects * _JSON_OBJECT
    )


def weigh_message(content: bytes, kind: Descriptor, most: int) -> int:
    """Bytes that a message takes when it is parsed, at most.

    Args:
      content: The message, serialized.
      kind: Its type.
      most: Where the counting may stop.

    Returns:
      The bytes, or any number above `most`; what is wrong in it is left to the parser.
    """
    weight = len(content) * _MESSAGE_BYTE
    waiting: list[tuple[int, int, Descriptor]] = [(0, len(content), kind)]
    while waiting:
        at, end, kind = waiting.pop()
        fields = kind.fields_by_number
        while at < end and weight <= most:
            weight += _MESSAGE_FIELD
            tag, at = _read_varint(content, at)
            wire_type = tag & 7
            if wire_type == 0:
                _, at = _read_varint(content, at)
            elif wire_type == 2:
                size, at = _read_varint(content, at)
                field = fields.get(tag >> 3)
                if field is not None and field.message_type is not None:
                    waiting.append((at, min(end, at + size), field.message_type))
                elif field is not None and field.type != FieldDescriptor.TYPE_BYTES:
                    weight += _weigh_packed(field, size)
                at += size
            elif wire_type in (1, 5):
                at += 8 if wire_type == 1 else 4
            else:
                break
    return weight


def is_compressed(content: bytes) -> bool:
    """Whether a message of gRPC is compressed with gzip."""
    return content.startswith(_GZIP)


def inflate(content: bytes, max_bytes: int) -> bytes:
    """What a client compressed with gzip; anything else as it is.

    Raises:
      ServingError: If it is damaged, or larger than `max_bytes`, of which it takes no more than
        one byte to find out.
    """
    if not is_compressed(content):
        return content
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        inflated = inflater.decompress(content, max_bytes + 1)
    except zlib.error as error:
        raise invalid(f"the request cannot be decompressed: {error}", quotes=False) from None
    if len(inflated) > max_bytes:
        raise too_large(max_bytes)
    if not inflater.eof or inflater.unused_data:
        raise invalid("the request cannot be decompressed: it is not one whole", quotes=False)
    return inflated


def too_large(max_bytes: int) -> ServingError:
    """The error of a request that is larger than any may be."""
    return exhausted(_TOO_LARGE.format(max_bytes), http_status=413)


def _weigh_packed(field: FieldDescriptor, size: int) -> int:
    """A packed list of numbers of one byte each takes up to eight, twice while it grows."""
    text = field.type == FieldDescriptor.TYPE_STRING
    fixed = field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE)
    return size if text or fixed else size * _PACKED_BYTE


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    """A number, and where what follows it begins."""
    number = shift = 0
    while at < len(content) and shift < 70:
        byte = content[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
    return 0, len(content)
