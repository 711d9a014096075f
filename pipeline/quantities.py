"""Quantities as Kubernetes writes them: "500m", "4Gi"."""

from __future__ import annotations

from decimal import Decimal


def parse_cpu(text: str) -> Decimal:
    """Processors.

    Raises:
      ValueError: If it is no number of processors, from one thousandth to a thousand.

    Examples:
      >>> parse_cpu("500m")
      Decimal('0.500')
    """
    return _parse(text, 'processors such as "2" or "500m"', Decimal("0.001"), Decimal(1000))


def parse_memory(text: str) -> Decimal:
    """Memory, in bytes.

    Raises:
      ValueError: If it is no amount of memory, from 1 MiB to 1 PiB.

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
        # It takes all that Python calls a number, of which Kubernetes refuses some.
        if not text.isascii() or text.strip() != text or "_" in text or text.endswith("K"):
            raise ValueError
        amount = Decimal(parse_quantity(text))
        fits = least <= amount <= most
    except (ValueError, ArithmeticError):
        fits = False
    if not fits:
        raise ValueError(f"{expected} is expected, or nothing")
    return amount
