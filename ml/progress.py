"""Lets a long node report its progress; outside the local runner nobody listens."""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[str], None]] = []


def subscribe(listener: Callable[[str], None]) -> None:
    """Calls `listener` with each progress line that this process reports from now on."""
    _listeners.append(listener)


def report(text: str) -> None:
    """Reports progress as one short line, for instance "epoch 3, loss 0.412"."""
    for listener in _listeners:
        listener(text)
