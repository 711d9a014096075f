"""Tests that a DoFn's state and timers are found as Beam finds them, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.transforms import userstate

from orchestration.local import beam_specs

_STATE = userstate.ReadModifyWriteStateSpec("seen", VarIntCoder())
_PARAMETER = beam.DoFn.StateParam(_STATE)


class _Stateful(beam.DoFn):
    def process(self, element: Any, state: Any = _PARAMETER) -> None:
        """Has state."""


@dataclass
class _Unhashable(beam.DoFn):
    number: int

    def process(self, element: Any) -> None:
        """Has none."""


def test_beam_specs_are_those_of_beam_and_are_looked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, asked = userstate.get_dofn_specs.__wrapped__, []

    def look(dofn: Any) -> Any:
        asked.append(dofn)
        return original(dofn)

    monkeypatch.setattr(userstate, "get_dofn_specs", beam_specs._remember(look))
    stateful, plain, unhashable = _Stateful(), beam.Map(str).fn, _Unhashable(1)
    for _ in range(3):
        assert userstate.is_stateful_dofn(stateful)
        assert userstate.get_dofn_specs(stateful) == ({_STATE}, set())
        assert not userstate.is_stateful_dofn(plain)
        assert not userstate.is_stateful_dofn(unhashable)
    # Of the second, Beam itself wants to know when it is made.
    assert [asked.count(dofn) for dofn in (stateful, plain, unhashable)] == [1, 1, 3]
