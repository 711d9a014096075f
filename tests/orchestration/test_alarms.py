"""Tests that an alarm of monitoring reaches the schedule, once, and none is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestration.local.output_directory import OutputDirectory
from orchestration.schedule.alarms import publish


def publish_report(root: Path, *wrong: str, until: str = "2013-04-01") -> tuple[Path, str]:
    """Publishes a report in which these features are wrong; there are others that are not."""
    made = root / "made"
    made.mkdir(exist_ok=True)
    names = sorted({"temp", "distance", *wrong})
    checks = [
        {"kind": "skew", "subject": name, "against": "training", "alarms": name in wrong}
        for name in names
    ]
    report = {
        "model": "a_model",
        "version": 7,
        "since": "2013-03-01",
        "until": until,
        "alarms": [f"{name}: skew" for name in wrong],
        "checks": checks,
    }
    (made / "report.json").write_text(json.dumps(report))
    (made / "report.html").write_text(f"<p>{wrong}</p>")
    page, said, _ = publish(OutputDirectory(root), made)
    return page, said


def alarm(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "alarm.json").read_text())
    return content


def handle_alarm(root: Path) -> None:
    """Writes what the schedule writes when it has handled the alarm."""
    (root / "schedule.json").write_text(json.dumps({"obeyed_alarm": alarm(root)["id"]}))


def test_publish_report_keeps_a_report_by_period_and_version(tmp_path: Path) -> None:
    page, said = publish_report(tmp_path)
    assert said == ""
    assert page == tmp_path / "monitoring" / "2013-03-01_2013-04-01_7" / "report.html"
    assert json.loads(page.with_name("report.json").read_text())["alarm"] == ""
    assert not (tmp_path / "alarm.json").exists()


def test_publish_report_raises_one_alarm_for_the_same_fault_of_a_period(
    tmp_path: Path,
) -> None:
    _, said = publish_report(tmp_path, "temp")
    first = alarm(tmp_path)
    assert first["id"] in said
    assert first["reason"] == "requests of 2013-03-01 to 2013-04-01 to version 7: temp: skew"
    (tmp_path / "alarm.json").unlink()
    _, said = publish_report(tmp_path, "temp")
    assert said == f"Alarm {first['id']} was raised before."
    assert not (tmp_path / "alarm.json").exists()


def test_publish_report_raises_an_alarm_for_another_fault_or_period(tmp_path: Path) -> None:
    ids = []
    for wrong, until in ((["temp"], "2013-04-01"), (["distance"], "2013-04-01"), (["temp"], "x")):
        publish_report(tmp_path, *wrong, until=until)
        ids.append(alarm(tmp_path)["id"])
    assert len(set(ids)) == 3


def test_publish_report_includes_a_waiting_alarm_in_the_next(tmp_path: Path) -> None:
    publish_report(tmp_path, "temp")
    first = alarm(tmp_path)
    _, said = publish_report(tmp_path, "distance", until="2013-05-01")
    second = alarm(tmp_path)
    assert second["id"] != first["id"]
    assert second["reason"].endswith(f"distance: skew; before that, {first['reason']}")
    assert f"it takes in {first['id']}, which was not obeyed yet" in said


def test_publish_report_replaces_a_handled_alarm(tmp_path: Path) -> None:
    publish_report(tmp_path, "temp")
    handle_alarm(tmp_path)
    publish_report(tmp_path, "distance", until="2013-05-01")
    assert "temp" not in alarm(tmp_path)["reason"]


def test_publish_report_reason_names_the_first_faults_and_counts_the_rest(tmp_path: Path) -> None:
    publish_report(tmp_path, "a", "b", "c", "d", "e")
    assert alarm(tmp_path)["reason"].endswith("a: skew; b: skew; c: skew; and 2 more")


def test_publish_report_replaces_a_damaged_report(tmp_path: Path) -> None:
    page, _ = publish_report(tmp_path, "temp")
    page.with_name("report.json").write_text("[" * 100_000)
    _, said = publish_report(tmp_path, "temp")
    assert "is raised" in said
    assert json.loads(page.with_name("report.json").read_text())["alarm"]
