"""Tests of the playground in a browser; `make test-browser`.

Pictures of it are left in the folder that the variable PICTURES names, if it does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.components import task_models
from tests.programs import find_browser, skip_without
from tests.serving.server import shown_models
from tests.serving.server.running import RunningServer, running
from tests.serving.server.shown_models import CLASSES, HOSTILE_MODEL, MARKUP, QUOTES

TOKEN = "a-Secret.token~+/=="
EFFECTS = {MARKUP: 0.25, "colour": -0.5, "vector": [0, 0, 0.125]}
STEPS: dict[str, dict[str, Any]] = {
    "classes": {
        "model": "kinds",
        "version": "1",
        "explanation": {
            "predictions": [[0, 0, 0]],
            "explanations": [{"base_values": [0.1, 0.2, 0.7], "shap_values": EFFECTS}],
        },
    },
    "binary": {
        "model": "tips",
        "version": "2",
        "values": {"colour": "red", "vector": "[0, 0, 0]"},
        "explanation": {
            "predictions": [[0]],
            "explanations": [{"base_value": 0.1, "values": {"weather": -0.002, "colour": "NaN"}}],
        },
    },
    "regression": {"model": "price", "version": "1", "values": {"vector": "[1,\n 2, NaN]"}},
    "number": {"model": "price", "version": "1", "values": {"vector": "[1, 2, 0.5]"}},
    "wrong": {
        "model": "price",
        "version": "1",
        "values": {"vector": "[1, 2]", "colour": "blue"},
        "sends": False,
    },
    "hostile": {
        "model": HOSTILE_MODEL,
        "version": "1",
        "values": {MARKUP: "1e3", QUOTES: f"{QUOTES}{MARKUP}"},
    },
    "absent": {"model": HOSTILE_MODEL, "version": "1", "values": {MARKUP: ""}},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = shown_models.save_shown(tmp_path_factory.mktemp("shown"))
    token = tmp_path_factory.mktemp("token") / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    with running(root, "--token-file", str(token)) as server:
        server.wait_for("refused", model="tips")
        yield server


@pytest.fixture(scope="module")
def found(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the browser finds."""
    skip_without("node", "npm")
    browser = find_browser()
    driver = Path(
        shutil.copytree(
            Path(__file__).parent,
            tmp_path_factory.mktemp("browser") / "driver",
            ignore=shutil.ignore_patterns("node_modules", "__pycache__"),
        )
    )
    subprocess.run(["npm", "ci", "--silent"], cwd=driver, check=True, timeout=300)
    (driver / "steps.json").write_text(json.dumps(list(STEPS.values())))
    pictures = os.environ.get("PICTURES", str(driver))
    done = subprocess.run(
        ["node", "playground.mjs", browser, server.rest_url, TOKEN, pictures, "steps.json"],
        cwd=driver,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    result["steps"] = dict(zip(STEPS, result["steps"], strict=True))
    return result


def test_playground_shows_nothing_without_a_token_and_keeps_none(found: Any) -> None:
    for text in (found["beforeToken"], found["wrongToken"], found["afterReload"]):
        assert "Token" in text
        assert not any(name in text for name in ("kinds", "tips", "price", HOSTILE_MODEL))
    assert "does not know this token" in found["wrongToken"]
    assert found["requestsBeforeToken"] == 4  # The page's files, and a refused request for models.
    assert found["kept"]["storage"] == 0
    assert found["kept"]["cookie"] == ""
    assert TOKEN not in found["kept"]["address"]
    assert not found["keepsToken"]


def test_playground_asks_no_other_server_and_reports_no_error(
    found: Any, server: RunningServer
) -> None:
    own = urlsplit(server.rest_url).netloc
    assert {urlsplit(address).netloc for address in found["addresses"]} == {own}
    assert found["problems"] == []


def test_playground_shows_models_versions_labels_and_states(found: Any) -> None:
    assert sorted(found["models"]) == sorted([HOSTILE_MODEL, "kinds", "price", "scores", "tips"])
    shown = [" ".join(text.split()) for text in found["versions"]]
    refused, live, stable = shown[-3:]
    assert refused.startswith("3 refused")
    assert "Error parsing message" in refused
    assert (live, stable) == ("2 live", "1 stable")


def test_playground_makes_no_markup_of_names_or_values(found: Any) -> None:
    assert found["markup"] == {"elements": 0, "title": "Playground"}
    assert found["steps"]["hostile"]["labels"] == sorted([MARKUP, QUOTES])
    assert found["steps"]["classes"]["choices"] == ["red", "blue", MARKUP]


def expected(task: str, vector: list[float], colour: str) -> np.ndarray:
    given = task_models.predict(
        getattr(task_models, task), np.array([vector], np.float32), np.array([colour], object)
    )
    return np.asarray(given)[0]


def test_playground_predicts_classes_by_name(found: Any) -> None:
    step = found["steps"]["classes"]
    shares = expected("KINDS", shown_models.VECTOR, shown_models.COLOUR)
    assert step["answer"] == CLASSES[int(shares.argmax())]
    names, percents = zip(*(text.rsplit("\n", 1) for text in step["shares"]), strict=True)
    assert [name.split() for name in names] == [name.split() for name in CLASSES]
    np.testing.assert_allclose([float(p[:-1]) / 100 for p in percents], shares, atol=0.005)


def test_playground_predicts_the_probability_of_the_second_class(found: Any) -> None:
    step = found["steps"]["binary"]
    (share,) = expected("TIPS", [0, 0, 0], "red")
    assert step["answer"] == f"{100 * share:.3g}%"
    assert "probability of yes" in step["prediction"]


def test_playground_predicts_a_number_or_says_that_there_is_none(found: Any) -> None:
    assert found["steps"]["number"]["answer"] == "3,500"
    assert found["steps"]["regression"]["answer"] == "NaN"
    assert found["steps"]["absent"]["answer"] == "NaN"
    assert found["steps"]["hostile"]["answer"] == f"{2000 + len((QUOTES + MARKUP).encode()):,}"


def test_playground_names_a_value_that_cannot_be_sent_and_sends_nothing(found: Any) -> None:
    step = found["steps"]["wrong"]
    assert step["errors"] == ["A list of 3 values is needed."]
    assert step["focus"] == "field-1"
    assert step["answer"] == ""
    assert "curl" not in step["request"]


def test_playground_shows_effects_by_size_with_their_sign(found: Any) -> None:
    step = found["steps"]["classes"]
    assert step["explained"]
    assert step["effects"] == [["colour", "-0.500"], [MARKUP, "+0.250"], ["vector", "+0.125"]]
    assert found["steps"]["binary"]["effects"] == [["weather", "-0.00200"], ["colour", "NaN"]]


def test_playground_hides_the_explanation_that_the_server_does_not_offer(found: Any) -> None:
    assert not found["steps"]["number"]["explained"]


@pytest.mark.parametrize("step", ["classes", "binary", "regression", "hostile"])
def test_playground_shows_a_request_that_a_shell_sends_as_it_is(
    found: Any, tmp_path: Path, step: str
) -> None:
    skip_without("curl")
    command = found["steps"][step]["request"]
    assert TOKEN not in command
    assert '--header "Authorization: Bearer $TOKEN"' in command
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=os.environ | {"TOKEN": TOKEN, "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert list(tmp_path.iterdir()) == []  # Nothing of a name was run.
    if step == "hostile":
        assert prediction == 2000 + len((QUOTES + MARKUP).encode())
    if step == "classes":
        shares = expected("KINDS", shown_models.VECTOR, shown_models.COLOUR)
        np.testing.assert_allclose(prediction, shares, rtol=1e-5)


@pytest.mark.parametrize("view", ["token", "light-1280", "light-400", "dark-1280", "dark-400"])
def test_playground_is_accessible_and_fits_its_window(found: Any, view: str) -> None:
    assert found["axe"][view] == []
    assert found["overflow"][view] <= 0
