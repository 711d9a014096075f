"""Changes the traffic policy of a model, and moves the labels of champion and challenger.

Each change holds the lock of the directory and is kept in the policy's file, so that it can be seen
who changed what.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from storage.names import CHALLENGER, CHAMPION, TRAFFIC_FILE
from storage.traffic_policy import (
    LONGEST_TEXT,
    MODES,
    OFF,
    SHADOW,
    SPLIT,
    TakenOut,
    TrafficChange,
    TrafficPolicy,
    format_traffic,
    key_place,
    parse_split,
    parse_traffic,
    read_traffic,
    traffic_uri,
)

if TYPE_CHECKING:
    from storage.directory import ModelDirectory
    from storage.versions import ModelVersions

__all__ = [
    "MODES",
    "OFF",
    "SHADOW",
    "SPLIT",
    "TakenOut",
    "TrafficChange",
    "TrafficPolicy",
    "dismiss_challenger",
    "format_traffic",
    "key_place",
    "parse_split",
    "parse_traffic",
    "promote_challenger",
    "read_traffic",
    "set_traffic",
    "take_out",
    "traffic_uri",
]

_KEPT_CHANGES = 200


def set_traffic(
    directory: ModelDirectory,
    mode: str,
    *,
    challenger_percent: float = 0.0,
    key: str | None = None,
    by: str,
    reason: str = "",
) -> TrafficPolicy:
    """Changes the traffic policy; servers follow at their next look.

    Args:
      directory: The model.
      mode: See `TrafficPolicy`, as `challenger_percent` and `key`.
      challenger_percent: See there.
      key: See there.
      by: Who changes it.
      reason: Why, for the history.

    Returns:
      The new policy.

    Raises:
      LookupError: If no version, or none that a server can load, has one of the two labels that
        the mode needs.
      ValueError: If a value is not allowed, or the two labels are on one version.
    """
    policy = TrafficPolicy(mode, challenger_percent, key)
    with directory.locked():
        needed = (CHAMPION,) if mode == OFF else (CHAMPION, CHALLENGER)
        labels = {label: _labelled(directory, label) for label in needed}
        if mode != OFF and labels[CHAMPION] == labels[CHALLENGER]:
            raise ValueError(
                f"version {labels[CHAMPION]} of {directory.model_name} is champion and challenger: "
                "pin another version to one of the labels"
            )
        return _write(directory, policy, by, _because(policy.describe(), reason))


def promote_challenger(directory: ModelDirectory, *, by: str, reason: str = "") -> TrafficPolicy:
    """Makes the challenger the champion: the label moves, and the new champion predicts alone.

    It may be killed at any moment: the champion is then the old one or the new one.

    Returns:
      The new policy.

    Raises:
      LookupError: If no version that a server can load is the challenger.
      ValueError: If the files cannot be read.
    """
    with directory.locked():
        version = _labelled(directory, CHALLENGER)
        old = read_traffic(directory)
        directory.pin(version, CHAMPION)
        directory.unpin(CHALLENGER)
        policy = TrafficPolicy(OFF, key=old.key if old else None)
        return _write(directory, policy, by, _because(f"promoted {version}", reason))


def dismiss_challenger(directory: ModelDirectory, *, by: str, reason: str = "") -> int:
    """Rolls the challenger back: the champion predicts alone, the challenger is moved aside.

    `promote` of the directory brings it back.

    Returns:
      The version that was rolled back.

    Raises:
      LookupError: If a label is missing.
      ValueError: If the files cannot be read, champion and challenger are one version, or another
        label pins the challenger.
    """
    with directory.locked():
        version = _labelled(directory, CHALLENGER)
        labels = directory.labels()
        if others := [n for n, v in labels.items() if v == version and n != CHALLENGER]:
            raise ValueError(
                f"version {version} of {directory.model_name} has the label {others[0]} too: "
                "it is not rolled back"
            )
        _labelled(directory, CHAMPION)
        # First, so that servers stop using it before it goes.
        policy = TrafficPolicy(OFF)
        _write(directory, policy, by, _because(f"rolled back {version}", reason))
        directory.unpin(CHALLENGER)
        directory.rollback(version)
        return version


def take_out(directory: ModelDirectory, number: int, version: int, reason: str, by: str) -> bool:
    """Records that a server took the challenger out, unless the policy has changed since.

    Args:
      directory: The model.
      number: Number of the policy under which it was taken out.
      version: The challenger.
      reason: What is wrong with it.
      by: Who took it out.

    Returns:
      Whether it was recorded.
    """
    with directory.locked():
        policy = read_traffic(directory)
        if policy is None or policy.number != number or policy.taken_out is not None:
            return False
        out = TakenOut(version, reason[:LONGEST_TEXT], _now())
        policy = dataclasses.replace(policy, taken_out=out)
        _write(directory, policy, by, f"took out {version}: {reason}", number=number)
        return True


def _write(
    directory: ModelDirectory,
    policy: TrafficPolicy,
    by: str,
    what: str,
    number: int | None = None,
) -> TrafficPolicy:
    """Writes a policy with the history of the one before; the lock is held.

    Args:
      directory: The model.
      policy: The policy; its number and history are of no account.
      by: Who changes it.
      what: What was done.
      number: Its number; None for the next one.
    """
    before = read_traffic(directory)
    history = before.history if before else ()
    if number is None:
        number = before.number + 1 if before else 1
    labels = directory.labels()
    change = TrafficChange(
        _now(),
        by[:LONGEST_TEXT],
        what[:LONGEST_TEXT],
        labels.get(CHAMPION),
        labels.get(CHALLENGER),
    )
    history = (*history, change)[-_KEPT_CHANGES:]
    policy = dataclasses.replace(policy, number=number, history=history)
    directory.write_note(TRAFFIC_FILE, format_traffic(policy))
    return policy


def _labelled(directory: ModelVersions, label: str) -> int:
    """The version of a label.

    Raises:
      LookupError: If there is none that a server can load.
    """
    version = directory.labels().get(label)
    if version is None:
        raise LookupError(
            f"no version of {directory.model_name} has the label {label!r}: give it to one by "
            f"`python -m serving pin VERSION --label {label}`"
        )
    if version not in directory.versions():
        raise LookupError(
            f"version {version}, which has the label {label!r}, is not in {directory.uri}"
        )
    return version


def _because(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
