"""Tests of what the Makefile chooses by itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PROJECT


def stack(folder: Path, libc: str, **environment: str) -> str:
    """The stack that `make` takes where `getconf` prints this, or fails if that is empty."""
    getconf = folder / "getconf"
    getconf.write_text(f"#!/bin/sh\necho '{libc}'\ntest -n '{libc}'\n", encoding="utf-8")
    getconf.chmod(0o755)
    inherited = {key: text for key, text in os.environ.items() if key not in ("MAKEFLAGS", "STACK")}
    show = "show: ; @echo $(STACK) $(SUITE)"
    done = subprocess.run(
        ["make", "--silent", "--no-print-directory", f"--eval={show}", "show"],
        cwd=PROJECT,
        env={**inherited, "PATH": f"{folder}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("libc", ["glibc 2.38", "glibc 2.41", "glibc 2.100", "glibc 3.0"])
def test_makefile_takes_tfx_1_21_where_glibc_is_new_enough(tmp_path: Path, libc: str) -> None:
    assert stack(tmp_path, libc) == "tfx-1.21 trixie"


@pytest.mark.parametrize("libc", ["glibc 2.37", "glibc 2.4", "glibc 2.17", "undefined", ""])
def test_makefile_takes_tfx_1_16_elsewhere(tmp_path: Path, libc: str) -> None:
    assert stack(tmp_path, libc) == "tfx-1.16 bookworm"


def test_makefile_takes_the_stack_that_is_named(tmp_path: Path) -> None:
    assert stack(tmp_path, "glibc 2.41", STACK="tfx-1.16") == "tfx-1.16 bookworm"
    assert stack(tmp_path, "glibc 2.36", STACK="tfx-1.21") == "tfx-1.21 trixie"
