"""Imports large libraries in two thirds of the time."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def lasting_imports() -> Iterator[None]:
    """A block whose objects stay, as modules do: nobody looks through them for garbage.

    The collector would do so again and again, which takes seconds of the imports of TFX, and a
    second each time from then on.

    Example:
      >>> with lasting_imports():
      ...     import decimal
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
