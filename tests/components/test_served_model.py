"""ServedModel on small made-up versions: what becomes the baseline, and what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tfx.v1.types import standard_artifacts as standard

from components import served_model
from components.served_model import ServedModel
from ml.artifacts import serving_model_uri, statistics_uri
from ml.requests import Requests
from storage.directory import ModelDirectory
from storage.keys import KeyPair, ensure_key_pair
from storage.names import SAVED_MODEL, TRAINING_STATISTICS
from storage.private_copy import PrivateCopy
from storage.signing import sign

MODEL = {SAVED_MODEL: b"graph", "variables/index": b"index"}
Serve = Callable[..., dict[str, Any]]


def write(root: Path, tree: dict[str, bytes]) -> Path:
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def read(root: str) -> dict[str, bytes]:
    files = (path for path in Path(root).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    return ensure_key_pair(str(tmp_path / "keys" / "signing.key"))


@pytest.fixture
def directory(tmp_path: Path, keys: KeyPair) -> ModelDirectory:
    """A Serving directory with version 7, signed."""
    directory = ModelDirectory(str(tmp_path / "serving"), "model_name")
    directory.publish(
        7,
        str(write(tmp_path / "model", MODEL)),
        str(write(tmp_path / "provenance", {TRAINING_STATISTICS: b"statistics"})),
        partial(sign, private_key=keys.private),
    )
    return directory


@pytest.fixture
def parameters(directory: ModelDirectory, keys: KeyPair) -> dict[str, Any]:
    return {
        "serving_dir": directory.serving_dir,
        "model_name": "model_name",
        "public_keys": json.dumps([str(Path(keys.public).parent)]),
    }


def test_served_model_outputs_a_verified_version_as_baseline(
    run_component: Serve, parameters: dict[str, Any]
) -> None:
    outputs = run_component(ServedModel, {}, **parameters)
    assert read(serving_model_uri(outputs["model"])) == MODEL
    assert Path(statistics_uri(outputs["statistics"], "train")).read_bytes() == b"statistics"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (f"7/{SAVED_MODEL}", f"files differ from what was signed; changed: 7/{SAVED_MODEL}"),
        (
            f".flightdeck/7/{TRAINING_STATISTICS}",
            f"files differ from what was signed; changed: .flightdeck/7/{TRAINING_STATISTICS}",
        ),
        (".flightdeck/7/model.sig", "model.sig is not the signature of a model"),
    ],
)
@pytest.mark.parametrize("version", [0, 7])
def test_served_model_refuses_changed_files(
    directory: ModelDirectory,
    parameters: dict[str, Any],
    refused: Callable[..., None],
    file: str,
    reason: str,
    version: int,
) -> None:
    path = Path(directory.uri, file)
    path.write_bytes(path.read_bytes()[:-1])
    message = f"version 7 of model_name in {directory.serving_dir} cannot be the baseline: .*"
    refused(ServedModel, {}, message + reason, **parameters, version=version)


@pytest.mark.parametrize(("version", "found"), [(7, True), (6, False)])
def test_served_model_takes_the_version_that_requests_went_to(
    parameters: dict[str, Any],
    run_component: Serve,
    refused: Callable[..., None],
    version: int,
    found: bool,
) -> None:
    examples = standard.Examples()
    examples.set_string_custom_property("requests", Requests(version, 1, 2).to_json())
    inputs = {"requests": examples}
    if found:
        made = run_component(ServedModel, inputs, **parameters)["model"]
        assert made.get_int_custom_property("version") == version
    else:
        refused(ServedModel, inputs, "version 6 of model_name is not in", **parameters)


def test_served_model_refuses_an_unsigned_version_where_versions_are_signed(
    directory: ModelDirectory, parameters: dict[str, Any], refused: Callable[..., None]
) -> None:
    Path(directory.signature_uri(7)).unlink()
    refused(ServedModel, {}, "there is no signature", **parameters)


def test_served_model_accepts_an_unsigned_version_where_none_is_signed(
    directory: ModelDirectory, parameters: dict[str, Any], run_component: Serve
) -> None:
    Path(directory.signature_uri(7)).unlink()
    outputs = run_component(ServedModel, {}, **{**parameters, "public_keys": "[]"})
    assert read(serving_model_uri(outputs["model"])) == MODEL


def test_served_model_is_not_changed_by_a_version_swapped_after_verification(
    directory: ModelDirectory,
    parameters: dict[str, Any],
    run_component: Serve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    private_copy = served_model.private_copy

    def swap_after(*arguments: Any, **options: Any) -> PrivateCopy:
        copy = private_copy(*arguments, **options)
        write(Path(directory.version_uri(7)), {SAVED_MODEL: b"evil"})
        write(Path(directory.provenance_uri(7)), {TRAINING_STATISTICS: b"evil"})
        return copy

    monkeypatch.setattr(served_model, "private_copy", swap_after)
    outputs = run_component(ServedModel, {}, **parameters)
    assert read(serving_model_uri(outputs["model"])) == MODEL
    assert Path(statistics_uri(outputs["statistics"], "train")).read_bytes() == b"statistics"


def test_served_model_needs_no_keys_while_nothing_is_served(
    tmp_path: Path, run_component: Serve
) -> None:
    outputs = run_component(
        ServedModel,
        {},
        serving_dir=str(tmp_path / "nothing"),
        model_name="model_name",
        public_keys=json.dumps([str(tmp_path / "no_keys_yet")]),
    )
    assert outputs["statistics"].split_names == "[]"
