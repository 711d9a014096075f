"""Reports the progress of a long node; it has an effect only in the local runner."""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[str], None]] = []


def subscribe(listener: Callable[[str], None]) -> None:
    """Passes all further progress lines of this process to `listener`."""
    _listeners.append(listener)


def report(text: str) -> None:
    """Reports progress as one short line, for instance "epoch 3, loss 0.412"."""
    for listener in _listeners:
        listener(text)
