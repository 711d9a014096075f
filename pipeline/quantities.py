"""Quantities as Kubernetes writes them: "500m", "4Gi"."""

from __future__ import annotations

import re
from decimal import Decimal

# What Kubernetes takes, without a sign. Its client reads more: "1 Gi", "1e3Gi".
_QUANTITY = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?")


def parse_cpu(text: str) -> Decimal:
    """Parses a number of processors.

    Raises:
      ValueError: If it is not a number of processors from 0.001 to 1000.

    Examples:
      >>> parse_cpu("500m")
      Decimal('0.500')
    """
    return _parse(text, 'processors such as "2" or "500m"', Decimal("0.001"), Decimal(1000))


def parse_memory(text: str) -> Decimal:
    """Parses an amount of memory, in bytes.

    Raises:
      ValueError: If it is not an amount of memory from 1 MiB to 1 PiB.

    Examples:
      >>> parse_memory("4Gi")
      Decimal('4294967296')
    """
    return _parse(text, 'memory such as "4Gi"', Decimal(2**20), Decimal(2**50))


def check_cpu(text: str) -> str:
    """Checks that a text is empty, or a number of processors."""
    if text:
        parse_cpu(text)
    return text


def check_memory(text: str) -> str:
    """Checks that a text is empty, or an amount of memory."""
    if text:
        parse_memory(text)
    return text


def _parse(text: str, expected: str, least: Decimal, most: Decimal) -> Decimal:
    from kubernetes.utils.quantity import parse_quantity  # Here, since it takes a second.

    try:
        if not _QUANTITY.fullmatch(text):
            raise ValueError
        amount = Decimal(parse_quantity(text))
        fits = least <= amount <= most
    except (ValueError, ArithmeticError):
        fits = False
    if not fits:
        raise ValueError(f"{expected} is expected, or nothing")
    return amount
