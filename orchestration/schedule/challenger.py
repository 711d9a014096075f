"""What follows from the comparison of champion and challenger: promote, roll back, or wait.

`monitor` keeps the verdict; each firing of the schedule looks at it. Imports neither TFX nor
TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ml.sequential_test import NOT_YET
from orchestration.local.output_directory import OutputDirectory, write_whole
from orchestration.outcome import Outcome
from pipeline.challenger_config import (
    BY_HAND,
    PROMOTE,
    ROLL_BACK,
    WAIT,
    ChallengerConfig,
)
from storage.directory import ModelDirectory
from storage.errors import UserError
from storage.names import CHALLENGER, CHAMPION
from storage.traffic import (
    OFF,
    SPLIT,
    dismiss_challenger,
    promote_challenger,
    read_traffic,
    set_traffic,
)

_BY = "schedule"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Finding:
    """The newest verdict on two versions.

    Attributes:
      model_name: Name of the model in the Serving directory.
      champion: The version with that label.
      challenger: The other.
      verdict: That of the comparison: "better", "worse", "not yet" or "undecided".
      reasons: Why, in lines for a person.
      created: When.
    """

    model_name: str
    champion: int
    challenger: int
    verdict: str
    reasons: tuple[str, ...]
    created: AwareDatetime

    @property
    def id(self) -> str:
        """Tells verdicts apart: each is acted on, and told, once."""
        return f"{self.model_name} {self.champion} {self.challenger} {self.verdict}"


@dataclass(frozen=True)
class Settled:
    """What was done about a verdict.

    Attributes:
      id: That of the finding.
      outcome: PROMOTED, ROLLED_BACK or WAITING.
      model_name: Name of the model in the Serving directory.
      version: The challenger.
      reasons: Why, in lines for a person.
    """

    id: str
    outcome: Outcome
    model_name: str
    version: int
    reasons: tuple[str, ...]


def keep_finding(directory: OutputDirectory, report: Mapping[str, Any], now: str) -> None:
    """Keeps the verdict of a report of ServingMonitor, if it compares two versions."""
    comparison = report["comparison"]
    if comparison is None:
        return
    finding = TypeAdapter(Finding).validate_python(
        {
            "model_name": report["model"],
            "created": now,
            **{name: comparison[name] for name in ("champion", "challenger", "verdict")},
            "reasons": tuple(comparison["reasons"]),
        }
    )
    text = TypeAdapter(Finding).dump_json(finding, indent=2).decode()
    write_whole(directory.challenger, text + "\n")


def settle(
    directory: OutputDirectory, models: ModelDirectory, config: ChallengerConfig, settled: str
) -> Settled | None:
    """Does what follows from the newest verdict, if nobody has done it.

    A process that is killed meanwhile leaves the old champion or the new one; the next firing
    finds what was done, and tells it.

    Args:
      directory: Where local runs, and so `monitor`, keep their files.
      models: The model in the Serving directory.
      config: What follows from each verdict.
      settled: Id of the finding that was settled last.

    Returns:
      What was done; None if there is no verdict, it is not of the two versions that share the
      traffic now, the test goes on, or it was settled before.

    Raises:
      UserError: If the file is not what `monitor` wrote, or the Serving directory cannot be
        changed.
    """
    finding = _read(directory.challenger)
    if finding is None or finding.id == settled or finding.model_name != models.model_name:
        return None
    action = config.actions.get(finding.verdict, WAIT)
    facts = (finding.model_name, finding.challenger, finding.reasons)
    try:
        with models.locked():
            outcome = _act(models, finding, action)
    except (LookupError, ValueError, OSError) as error:  # TimeoutError among them.
        raise UserError(
            f"the challenger {finding.challenger} is {finding.verdict}, but it cannot be settled "
            f"({action}): {error}"
        ) from error
    if outcome is None or (outcome == Outcome.WAITING and finding.verdict == NOT_YET):
        return None
    return Settled(finding.id, outcome, *facts)


def begin(models: ModelDirectory, config: ChallengerConfig) -> str:
    """Gives the newest version the challenger's place, where that is configured.

    The first version becomes the champion. A newer one takes the place of a challenger that the
    test has not decided on, with which the test begins again.

    Args:
      models: The model in the Serving directory.
      config: Whether challengers begin by themselves, and with which traffic.

    Returns:
      What was done, in a sentence; "" for nothing.

    Raises:
      UserError: If the Serving directory cannot be changed.
    """
    if config.start == BY_HAND or models.newest() is None:
        return ""
    try:
        with models.locked():
            return _begin(models, config)
    except (LookupError, ValueError, OSError) as error:
        raise UserError(f"no challenger can begin (challenger.start): {error}") from error


def _begin(models: ModelDirectory, config: ChallengerConfig) -> str:
    newest, labels, policy = models.newest(), models.labels(), read_traffic(models)
    champion, challenger = labels.get(CHAMPION), labels.get(CHALLENGER)
    if newest is None:
        return ""
    if champion is None:
        models.pin(newest, CHAMPION)
        set_traffic(models, OFF, by=_BY, reason="the first champion")
        return f"Version {newest} is the champion."
    begun = newest == challenger and policy is not None and policy.mode != OFF
    if newest <= champion or begun:
        return ""
    models.pin(newest, CHALLENGER)
    key = policy.key if policy else None
    percent = config.percent if config.start == SPLIT else 0.0
    policy = set_traffic(models, config.start, challenger_percent=percent, key=key, by=_BY)
    return f"Version {newest} is the challenger of {champion}: {policy.describe()}."


def _act(models: ModelDirectory, finding: Finding, action: str) -> Outcome | None:
    """Does it, under the lock of the directory; None if the finding is not of today's pair."""
    labels, policy = models.labels(), read_traffic(models)
    pair = (labels.get(CHAMPION), labels.get(CHALLENGER))
    if policy and policy.mode != OFF and pair == (finding.champion, finding.challenger):
        reason = f"{finding.verdict}: {finding.reasons[-1]}" if finding.reasons else finding.verdict
        if action == PROMOTE:
            promote_challenger(models, by=_BY, reason=reason)
            return Outcome.PROMOTED
        if action == ROLL_BACK:
            dismiss_challenger(models, by=_BY, reason=reason)
            return Outcome.ROLLED_BACK
        return Outcome.WAITING
    return _finish(models, finding, action)


def _finish(models: ModelDirectory, finding: Finding, action: str) -> Outcome | None:
    """Finishes what a firing began that was killed before it could tell; None if none did."""
    labels, policy = models.labels(), read_traffic(models)
    if action == PROMOTE and labels.get(CHAMPION) == finding.challenger:
        if labels.get(CHALLENGER) == finding.challenger:
            promote_challenger(models, by=_BY, reason=finding.verdict)
        elif policy and policy.mode != OFF and CHALLENGER not in labels:
            set_traffic(models, OFF, by=_BY, reason=finding.verdict)
        return Outcome.PROMOTED
    if action != ROLL_BACK or policy is None or not policy.history:
        return None
    last = policy.history[-1]
    begun = last.by == _BY and last.what.startswith(f"rolled back {finding.challenger}")
    if begun and finding.challenger in models.versions():
        if labels.get(CHALLENGER) == finding.challenger:
            models.unpin(CHALLENGER)
        models.rollback(finding.challenger)
    return Outcome.ROLLED_BACK if finding.challenger in models.rolled_back() else None


def _read(path: Path) -> Finding | None:
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES)
        return TypeAdapter(Finding).validate_json(content)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise UserError(
            f"{path} is not a verdict that `monitor` wrote: remove it, and run `monitor` again"
        ) from error
