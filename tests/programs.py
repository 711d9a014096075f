"""Programs that are not Python, for tests that are skipped where one is missing."""

from __future__ import annotations

import shutil

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def skip_without(*programs: str) -> None:
    """Skips a test where one of the programs is missing."""
    if missing := [name for name in programs if not shutil.which(name)]:
        pytest.skip(f"{', '.join(missing)}: not installed")


def find_browser() -> str:
    """The path of a browser; skips a test where there is none."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        pytest.skip(f"{', '.join(_BROWSERS)}: not installed")
    return browser
