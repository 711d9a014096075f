"""The rows of a request log that champion and challenger predicted, each in its role."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import pairwise

import numpy as np
import pandas as pd
from tensorflow_metadata.proto.v0 import schema_pb2

from storage.errors import DataError
from storage.names import (
    CHALLENGER,
    CHAMPION,
    ID_FEATURE,
    LATENCY_FEATURE,
    ROLE_FEATURE,
    ROW_FEATURE,
    SHADOW_FEATURE,
    TIME_FEATURE,
    VERSION_FEATURE,
)
from storage.traffic import OFF, TrafficChange, read_traffic
from storage.versions import ModelVersions

# The split of TrafficExampleGen.
COMPARED = "compared"
# The stretch of time, between two changes of the policy, that a row is of.
STRETCH_FEATURE = "request.stretch"
# What the log has of a row besides features and prediction, with time and version.
LOGGED = {
    ROLE_FEATURE: schema_pb2.BYTES,
    ID_FEATURE: schema_pb2.BYTES,
    ROW_FEATURE: schema_pb2.INT,
    LATENCY_FEATURE: schema_pb2.INT,
    SHADOW_FEATURE: schema_pb2.INT,
}
FEATURES = LOGGED | dict.fromkeys((STRETCH_FEATURE, TIME_FEATURE, VERSION_FEATURE), schema_pb2.INT)
_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Pair:
    """The two versions that share the traffic.

    Attributes:
      champion: The version with that label.
      challenger: The other.
      stretches: Begin and end, in seconds since the Unix epoch, of the times for which the policy
        was the same and the two shared the traffic, oldest first.
      taken_out: Why a server took the challenger out; "" if none did.
      left_out: Rows of the two that are not compared, by reason.
    """

    champion: int
    challenger: int
    stretches: tuple[tuple[float, float], ...]
    taken_out: str = ""
    left_out: dict[str, int] = field(default_factory=dict)

    def of(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of the two versions, each in its role, within the stretches; numbers these."""
        seconds = rows[TIME_FEATURE].to_numpy() / _MICROSECONDS
        begins = [begin for begin, _ in self.stretches]
        ends = np.array([end for _, end in self.stretches])
        stretch = np.searchsorted(begins, seconds, side="right") - 1
        own = (stretch >= 0) & (seconds < ends[stretch])
        version = np.full(len(rows), -1)
        version[rows[ROLE_FEATURE] == CHAMPION.encode()] = self.champion
        version[rows[ROLE_FEATURE] == CHALLENGER.encode()] = self.challenger
        own &= version == rows[VERSION_FEATURE].to_numpy()
        return rows.assign(**{STRETCH_FEATURE: stretch})[own]

    def to_json(self) -> str:
        """Serializes to JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Pair:
        """Reads what `to_json` wrote."""
        fields = json.loads(text)
        fields["stretches"] = tuple((begin, end) for begin, end in fields["stretches"])
        return cls(**fields)


def find_pair(versions: ModelVersions, now: float) -> Pair | None:
    """The two versions that share the traffic; None if none does, or the policy is off.

    Args:
      versions: The model.
      now: The time, in seconds since the Unix epoch.

    Raises:
      DataError: If traffic policy or labels cannot be read.
    """
    try:
        policy, labels = read_traffic(versions), versions.labels()
        if policy is None or policy.mode == OFF or not {CHAMPION, CHALLENGER} <= labels.keys():
            return None
        pair = (labels[CHAMPION], labels[CHALLENGER])
        stretches = _stretches(policy.history, pair, now)
    except ValueError as error:
        raise DataError(f"champion and challenger cannot be compared: {error}") from error
    if pair[0] == pair[1] or not stretches:
        return None
    out = policy.taken_out
    return Pair(*pair, stretches, out.reason if out and out.version == pair[1] else "")


def _stretches(
    history: tuple[TrafficChange, ...], pair: tuple[int, int], now: float
) -> tuple[tuple[float, float], ...]:
    """When a pair shared the traffic, by the changes of the policy.

    Labels may have been moved since the last change: the two then share the traffic since that one.
    """
    changes = [(_seconds(change.time), (change.champion, change.challenger)) for change in history]
    if not changes or changes[-1][1] != pair:
        changes.append((changes[-1][0] if changes else 0.0, pair))
    changes.append((now, (None, None)))
    found = [(t, min(end, now)) for (t, of), (end, _) in pairwise(changes) if of == pair]
    return tuple((begin, end) for begin, end in sorted(found) if begin < end)


def _seconds(text: str) -> float:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"the time {text!r} of a change of the traffic has no time zone")
    return found.timestamp()


def clean(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Leaves out rows that cannot be told apart, or are there again.

    Both predictions of a request get the time of the first, so that they are of one block.

    Returns:
      The rows, and how many were left out, by reason.
    """
    known = (rows[ID_FEATURE].notna() & (rows[ROW_FEATURE] >= 0)).to_numpy()
    told = rows[known]
    again = told.duplicated([ROLE_FEATURE, ID_FEATURE, ROW_FEATURE])
    left_out = {"without an id": int((~known).sum()), "repeated": int(again.sum())}
    kept = told[~again].reset_index(drop=True)
    by_id = kept.groupby(ID_FEATURE)
    for name in (TIME_FEATURE, STRETCH_FEATURE):
        kept[name] = by_id[name].transform("min")
    return kept.astype({ROW_FEATURE: "int64"}), {k: n for k, n in left_out.items() if n}
