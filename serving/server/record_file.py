"""Reads TFRecord files without TensorFlow."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

_LENGTH = struct.Struct("<QI")  # Length of the record, checksum of that length.
_CHECKSUM = struct.Struct("<I")


def read_record_file(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file that is not compressed.

    Raises:
      ValueError: If the file is cut or damaged; the records before that are given first.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while header := file.read(_LENGTH.size):
            if len(header) < _LENGTH.size:
                raise ValueError("truncated record")
            length, checksum = _LENGTH.unpack(header)
            if _masked_crc32c(header[:8]) != checksum:
                raise ValueError("the checksum of a record's length is wrong")
            if length > size:  # Before memory is taken for it.
                raise ValueError("truncated record")
            record, trailer = file.read(length), file.read(_CHECKSUM.size)
            if len(record) < length or len(trailer) < _CHECKSUM.size:
                raise ValueError("truncated record")
            if (_masked_crc32c(record),) != _CHECKSUM.unpack(trailer):
                raise ValueError("the checksum of a record is wrong")
            yield record


def _masked_crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720), rotated and shifted as TensorFlow stores it."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFF_FFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282_EAD8) & 0xFFFF_FFFF


def _crc32c_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F6_3B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _crc32c_table()
