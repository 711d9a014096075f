"""Small models and running servers that several tests of serving share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serving.directory import ModelDirectory

if TYPE_CHECKING:  # TensorFlow takes seconds to import, and other tests here do without.
    from tests.serving.server.running import RunningServer

STABLE, LIVE = 1, 2


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Serving directory: versions 1, labelled stable, and 2 of the model `toy`, in both forms.

    Leave it as it is.
    """
    from tests.serving.server.toys import add_tflite, save_scorer

    root = tmp_path_factory.mktemp("toys")
    for version, bias in ((STABLE, -1.0), (LIVE, 0.5)):
        add_tflite(save_scorer(root / "toy" / str(version), bias))
    ModelDirectory(str(root), "toy").pin(STABLE, "stable")
    return root


@pytest.fixture(scope="session")
def server(toys: Path) -> Iterator[RunningServer]:
    """A server of their SavedModels, which takes requests of 2 MB."""
    from tests.serving.server.running import running

    with running(toys, "--max-request-mb", "2") as server:
        yield server
