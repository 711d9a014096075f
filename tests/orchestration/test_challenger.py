"""Tests of what follows from a verdict on a challenger: promotion, rollback, or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from orchestration.local.output_directory import OutputDirectory
from orchestration.outcome import Outcome
from orchestration.schedule.challenger import begin, keep_finding, settle
from pipeline.challenger_config import ChallengerConfig
from storage.directory import ModelDirectory
from storage.errors import UserError
from storage.traffic import read_traffic, set_traffic

NOW = "2026-03-02T12:00:00+00:00"
RULES = ChallengerConfig()


@pytest.fixture
def models(tmp_path: Path) -> ModelDirectory:
    """Version 1 is the champion, 2 the challenger in a shadow."""
    made, provenance = tmp_path / "made", tmp_path / "provenance"
    made.mkdir()
    provenance.mkdir()
    (made / "saved_model.pb").write_bytes(b"a model")
    (provenance / "provenance.json").write_text("{}")
    models = ModelDirectory(str(tmp_path / "serving"), "toy")
    for version in (1, 2):
        models.publish(version, str(made), str(provenance))
    models.pin(1, "champion")
    models.pin(2, "challenger")
    set_traffic(models, "shadow", by="ann")
    return models


@pytest.fixture
def directory(tmp_path: Path) -> OutputDirectory:
    return OutputDirectory(tmp_path / "output")


def find(directory: OutputDirectory, verdict: str, champion: int = 1, other: int = 2) -> None:
    """What `monitor` keeps of a report with this verdict."""
    comparison: dict[str, Any] = {"verdict": verdict, "reasons": ["log loss: 0.1 lower"]}
    comparison |= {"champion": champion, "challenger": other}
    keep_finding(directory, {"model": "toy", "comparison": comparison}, NOW)


def outcome(
    directory: OutputDirectory, models: ModelDirectory, settled: str = "", **rules: Any
) -> Outcome | None:
    found = settle(directory, models, ChallengerConfig(**rules), settled)
    return found.outcome if found else None


def test_settle_promotes_a_better_challenger(
    directory: OutputDirectory, models: ModelDirectory
) -> None:
    find(directory, "better")
    found = settle(directory, models, RULES, "")
    assert found is not None
    assert (found.outcome, found.version, found.model_name) == (Outcome.PROMOTED, 2, "toy")
    assert found.reasons == ("log loss: 0.1 lower",)
    assert models.labels() == {"champion": 2}
    policy = read_traffic(models)
    assert policy is not None
    assert policy.mode == "off"
    assert policy.history[-1].by == "schedule"
    assert "better: log loss: 0.1 lower" in policy.history[-1].what
    # A schedule that was killed before it could tell finds what was done, and tells it once.
    assert settle(directory, models, RULES, "") == found
    assert settle(directory, models, RULES, found.id) is None


def test_settle_rolls_a_worse_challenger_back(
    directory: OutputDirectory, models: ModelDirectory
) -> None:
    find(directory, "worse")
    assert outcome(directory, models) == Outcome.ROLLED_BACK
    assert (models.labels(), models.versions()) == ({"champion": 1}, [1])
    assert models.rolled_back() == [2]
    assert outcome(directory, models) == Outcome.ROLLED_BACK
    assert outcome(directory, models, "toy 1 2 worse") is None


@pytest.mark.parametrize("verdict", ["better", "worse"])
@pytest.mark.parametrize("step", ["pin", "unpin", "write_note", "_write_labels", "rollback"])
def test_settle_finishes_what_was_killed_at_any_step(
    directory: OutputDirectory,
    models: ModelDirectory,
    monkeypatch: pytest.MonkeyPatch,
    verdict: str,
    step: str,
) -> None:
    find(directory, verdict)
    whole = getattr(ModelDirectory, step)
    for number in (1, 2):  # Before the step, and after it.

        def stop(*arguments: Any, number: int = number, **options: Any) -> None:
            if number == 2:
                whole(*arguments, **options)
            raise KeyboardInterrupt

        with monkeypatch.context() as killed:
            killed.setattr(ModelDirectory, step, stop)
            with contextlib.suppress(KeyboardInterrupt):
                settle(directory, models, RULES, "")
    expected = {"better": Outcome.PROMOTED, "worse": Outcome.ROLLED_BACK}[verdict]
    assert outcome(directory, models) == expected
    left = {"better": ({"champion": 2}, [1, 2]), "worse": ({"champion": 1}, [1])}[verdict]
    assert (models.labels(), models.versions()) == left
    policy = read_traffic(models)
    assert policy is not None
    assert policy.mode == "off"


@pytest.mark.parametrize(
    ("verdict", "rules", "expected"),
    [
        ("better", {"when_better": "wait"}, Outcome.WAITING),
        ("worse", {"when_worse": "wait"}, Outcome.WAITING),
        ("undecided", {}, Outcome.WAITING),
        ("undecided", {"when_undecided": "promote"}, Outcome.PROMOTED),
        ("undecided", {"when_undecided": "roll back"}, Outcome.ROLLED_BACK),
        ("not yet", {}, None),
        ("splendid", {}, Outcome.WAITING),
    ],
)
def test_settle_does_what_is_configured(
    directory: OutputDirectory,
    models: ModelDirectory,
    verdict: str,
    rules: dict[str, Any],
    expected: Outcome | None,
) -> None:
    find(directory, verdict)
    assert outcome(directory, models, **rules) == expected
    if expected in (None, Outcome.WAITING):
        assert models.labels() == {"champion": 1, "challenger": 2}
        assert outcome(directory, models, f"toy 1 2 {verdict}", **rules) is None


def test_settle_leaves_another_pair_alone(
    directory: OutputDirectory, models: ModelDirectory
) -> None:
    assert outcome(directory, models) is None  # No verdict.
    find(directory, "better", champion=1, other=3)
    assert outcome(directory, models) is None
    find(directory, "worse", champion=2, other=1)
    assert outcome(directory, models) is None
    find(directory, "better")
    set_traffic(models, "off", by="ann")  # A person ended it.
    assert outcome(directory, models) is None
    assert models.labels() == {"champion": 1, "challenger": 2}
    other = dataclasses.replace(models, model_name="other")
    assert outcome(directory, other) is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"model_name": "toy"}', "null", json.dumps({"verdict": 1}), "[" * 9000],
)
def test_settle_refuses_a_verdict_that_is_none(
    directory: OutputDirectory, models: ModelDirectory, content: str
) -> None:
    directory.challenger.parent.mkdir(parents=True)
    directory.challenger.write_text(content)
    with pytest.raises(UserError, match="is not a verdict that `monitor` wrote: remove it"):
        settle(directory, models, RULES, "")
    assert models.labels() == {"champion": 1, "challenger": 2}


def test_settle_says_why_it_cannot(directory: OutputDirectory, models: ModelDirectory) -> None:
    find(directory, "worse")
    models.pin(2, "stable")
    with pytest.raises(UserError, match=r"challenger 2 is worse, but .* has the label stable too"):
        settle(directory, models, RULES, "")
    assert models.versions() == [1, 2]
    (Path(models.home_uri) / "traffic.json").write_text("{")
    with pytest.raises(UserError, match="is not a traffic policy"):
        settle(directory, models, RULES, "")


def test_keep_finding_keeps_nothing_without_a_challenger(directory: OutputDirectory) -> None:
    keep_finding(directory, {"model": "toy", "comparison": None}, NOW)
    assert not directory.challenger.exists()


def test_begin_makes_the_first_version_champion_and_newer_ones_challenger(
    models: ModelDirectory, tmp_path: Path
) -> None:
    shadow = ChallengerConfig(start="shadow")
    assert begin(models, RULES) == ""  # By hand.
    empty = ModelDirectory(str(tmp_path / "empty"), "toy")
    assert begin(empty, shadow) == ""
    assert not Path(empty.uri).exists()
    assert begin(models, shadow) == ""  # It has begun.
    made, provenance = tmp_path / "made", tmp_path / "provenance"
    models.publish(3, str(made), str(provenance))
    assert begin(models, shadow).startswith("Version 3 is the challenger of 1: shadow")
    assert models.labels() == {"champion": 1, "challenger": 3}
    fresh = ModelDirectory(str(tmp_path / "fresh"), "toy")
    fresh.publish(5, str(made), str(provenance))
    split = ChallengerConfig(start="split", percent=20)
    assert begin(fresh, split) == "Version 5 is the champion."
    assert begin(fresh, split) == ""
    fresh.publish(6, str(made), str(provenance))
    assert begin(fresh, split).endswith("champion 80%, challenger 20%, by chance.")
    assert fresh.labels() == {"champion": 5, "challenger": 6}


def test_begin_says_why_it_cannot(models: ModelDirectory) -> None:
    (Path(models.home_uri) / "labels.json").write_text("[]")
    with pytest.raises(UserError, match=r"no challenger can begin \(challenger.start\)"):
        begin(models, ChallengerConfig(start="shadow"))
