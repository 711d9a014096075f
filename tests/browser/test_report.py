"""Reports in a real browser, with axe-core; `make test-browser`.

Without Node, npm or Chromium (Debian's package) they are skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from report.index import IndexedRun, Model, Version, make_index
from report.page import make_page
from report.run import Run
from tests.programs import find_browser, skip_without
from tests.report.runs import HOSTILE, TASKS, make_failed, make_run


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that checks pages, whose addresses are to follow."""
    skip_without("node", "npm")
    browser = find_browser()
    folder = tmp_path_factory.mktemp("driver") / "driver"
    shutil.copytree(Path(__file__).parent, folder, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "ci", "--silent"], cwd=folder, check=True, timeout=300)
    return ["node", str(folder / "check.mjs"), browser]


def check(driver: list[str], *pages: Path) -> list[str]:
    """What is wrong with pages."""
    addresses = [page.as_uri() for page in pages]
    done = subprocess.run(
        [*driver, *addresses], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    problems: list[str] = json.loads(done.stdout)
    return problems


def write(path: Path, html: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(html.encode(errors="replace"))
    return path


def test_reports_are_sound_in_a_browser(driver: list[str], tmp_path: Path) -> None:
    """Pages of all tasks, of runs that failed, and the index: light and dark, wide and narrow."""
    runs = {kind: make_run(tmp_path / kind, kind) for kind in TASKS}
    lines = ("1 blocking anomaly in the data:", f"  test: distance: DRIFT: {HOSTILE}")
    runs["blocked"] = make_failed(runs["binary"], "DataGate", lines, "stopped by the gate")
    runs["early"] = Run("20260303", outcome="failed", meaning="failed", reasons=(HOSTILE,))
    pages = [write(tmp_path / f"{name}.html", make_page(r).html) for name, r in runs.items()]
    facts = make_page(runs["binary"]).facts
    indexed = [
        IndexedRun(
            run_id=f"20260302-12000{number}-000",
            outcome=outcome,
            started="2026-03-02T12:00:00+00:00",
            seconds=100.0,
            reasons=(HOSTILE,),
            months={"train": (201301,), "test": (201302,)},
            page="binary.html",
            facts=facts,
        )
        for number, outcome in enumerate(["pushed", "not blessed", "nothing new", "pushed"])
    ]
    versions = (Version(HOSTILE, 7, "live", {"headline": {"title": "AUC", "text": "0.7"}}),)
    index = make_index([Model("toy", tuple(indexed), versions), Model(HOSTILE)])
    pages.append(write(tmp_path / "index.html", index))
    assert "\n".join(check(driver, *pages)) == ""


def test_check_finds_what_is_wrong_with_a_page(driver: list[str], tmp_path: Path) -> None:
    page = write(
        tmp_path / "bad.html",
        '<title>bad</title><img src="nothing.png"><p style="width: 3000px; color: #ccc">grey</p>'
        "<script>console.log('hello')</script>",
    )
    found = " ".join(check(driver, page))
    for problem in ("console: hello", "no picture", "pixels wide", "axe: color-contrast"):
        assert problem in found, found
