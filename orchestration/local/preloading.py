"""Imported first by the fork server: what it imports from then on is no garbage.

See `terminal.imports`. The processes that are forked collect what they make themselves.
"""

from __future__ import annotations

import gc
import os


def _collect_what_is_new() -> None:
    gc.freeze()
    gc.enable()


gc.disable()
os.register_at_fork(after_in_child=_collect_what_is_new)
