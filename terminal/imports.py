"""Imports large libraries in two thirds of the time, and in silence."""

from __future__ import annotations

import contextlib
import gc
import os
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


@contextlib.contextmanager
def silent_imports() -> Iterator[None]:
    """A block of lasting imports in which nothing is written to the standard error.

    The C++ part of TensorFlow writes there when it is imported, that of TensorFlow 2.21 even where
    TF_CPP_MIN_LOG_LEVEL is 3. Exceptions pass through.

    Example:
      >>> with silent_imports():
      ...     import decimal
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with lasting_imports():
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
