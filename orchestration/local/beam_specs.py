"""Has Beam look at the methods of a DoFn once, and not eight times.

Beam asks each DoFn for its state and timers whenever it makes, encodes or decodes a step: a tenth
of the time of Transform, whose pipeline has a thousand steps. There is no public way to keep the
answer. `get_dofn_specs` is the same in Beam 2.70 and 2.77.
"""

from __future__ import annotations

import functools
from typing import Any

from apache_beam.transforms import userstate

# DoFns that are remembered, more than the pipeline of a node has.
_MOST = 2048


def _remember(get_specs: Any) -> Any:
    """A function of a DoFn that remembers its last results."""
    kept = functools.lru_cache(_MOST)(get_specs)

    @functools.wraps(get_specs)
    def get(dofn: Any) -> Any:
        # Another kind may equal another DoFn, or not be hashable.
        if type(dofn).__hash__ is not object.__hash__:
            return get_specs(dofn)
        return kept(dofn)

    return get


if not hasattr(userstate.get_dofn_specs, "__wrapped__"):
    userstate.get_dofn_specs = _remember(userstate.get_dofn_specs)
