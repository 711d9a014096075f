"""What a model is told by: equal whatever its bytes are, different whatever it computes else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.identity.model import model_identity
from ml.identity.tflite import tflite_digest
from storage.uris import model_digest
from tests.components.small_model import VOCABULARY, export, make_weights
from tests.conftest import PROJECT

SWAPPED = (VOCABULARY[1], VOCABULARY[0], *VOCABULARY[2:])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Identity of the model in one form."""
    return model_identity(str(export(tmp_path_factory.mktemp("saved"), tflite=False)))


def test_model_identity_is_equal_for_exports_of_processes_with_other_hash_seeds(
    model: Path, tmp_path: Path
) -> None:
    seed = "23" if os.environ.get("PYTHONHASHSEED") != "23" else "24"
    subprocess.run(
        [sys.executable, "-m", "tests.components.small_model", tmp_path / "other", seed],
        cwd=PROJECT,
        env={**os.environ, "PYTHONHASHSEED": seed},
        stderr=subprocess.DEVNULL,
        check=True,
    )
    models = [str(model), str(tmp_path / "other")]
    first, second = map(model_identity, models)
    assert first == second
    assert first.startswith("computes-1:")
    assert len({model_digest(uri) for uri in models}) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"vocabulary": SWAPPED},
        {"vocabulary": (*VOCABULARY, "pink")},
        {"output": "score"},
        {"unknown": 1},
        {"clip": 5.0},
        {"default": 0.0},
        {"weights": np.zeros((128, 64), np.float32)},
    ],
    ids=str,
)
def test_model_identity_changes_with_what_a_saved_model_computes(
    saved_model: str, tmp_path: Path, change: dict[str, Any]
) -> None:
    assert model_identity(str(export(tmp_path, tflite=False, **change))) != saved_model


@settings(max_examples=3)
@given(st.integers(0, 127), st.integers(0, 63))
def test_model_identity_changes_with_any_one_weight(
    saved_model: str, tmp_path_factory: pytest.TempPathFactory, row: int, column: int
) -> None:
    weights = make_weights()
    weights[row, column] = np.nextafter(weights[row, column], np.float32(9))
    changed = export(tmp_path_factory.mktemp("changed"), weights=weights, tflite=False)
    assert model_identity(str(changed)) != saved_model


def tflite(folder: Path) -> bytes:
    return (folder / "model.tflite").read_bytes()


@pytest.mark.parametrize(
    "change",
    [{"vocabulary": SWAPPED}, {"output": "score"}, {"clip": 5.0}, {"quantize": True}],
    ids=str,
)
def test_model_identity_changes_with_what_a_tflite_model_computes(
    model: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    assert tflite_digest(tflite(export(tmp_path, **change))) != tflite_digest(tflite(model))


def rewrite(content: bytes, change: Any) -> bytes:
    import flatbuffers

    parsed = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    change(parsed)
    builder = flatbuffers.Builder(0)
    builder.Finish(parsed.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def reorder_buffers(parsed: Any) -> None:
    """Turns the order of all buffers but the first, which is empty, around."""
    last = len(parsed.buffers) - 1
    parsed.buffers[1:] = parsed.buffers[:0:-1]
    for graph in parsed.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = tensor.buffer and last + 1 - tensor.buffer
    for entry in parsed.metadata or ():
        entry.buffer = entry.buffer and last + 1 - entry.buffer


def rename_tensors(parsed: Any) -> None:
    for graph in parsed.subgraphs:
        for number, tensor in enumerate(graph.tensors):
            tensor.name = f"tensor_{number}"


@pytest.mark.parametrize("change", [reorder_buffers, rename_tensors])
def test_model_identity_does_not_change_with_the_layout_of_a_tflite_model(
    model: Path, change: Any
) -> None:
    content = tflite(model)
    changed = rewrite(content, change)
    assert changed != content
    assert tflite_digest(changed) == tflite_digest(content)


@settings(max_examples=10)
@given(st.data())
def test_model_identity_changes_with_any_byte_of_a_tflite_models_constants(
    model: Path, data: st.DataObject
) -> None:
    def flip(parsed: Any) -> None:
        used = sorted({t.buffer for graph in parsed.subgraphs for t in graph.tensors} - {0})
        filled = [index for index in used if parsed.buffers[index].data is not None]
        content = np.array(parsed.buffers[data.draw(st.sampled_from(filled))].data, np.uint8)
        buffer = next(b for b in parsed.buffers if np.array_equal(b.data, content))
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1
        buffer.data = content

    content = tflite(model)
    try:
        changed = tflite_digest(rewrite(content, flip))
    except (ValueError, KeyError):  # No longer a table: then it is told by its bytes.
        return
    assert changed != tflite_digest(content)


def test_model_identity_tells_texts_that_end_beyond_their_buffer_by_the_bytes(
    model: Path, tmp_path: Path
) -> None:
    def lengthen(parsed: Any) -> None:
        (buffer,) = {
            tensor.buffer
            for graph in parsed.subgraphs
            for tensor in graph.tensors
            if tensor.type == schema.TensorType.STRING
            and parsed.buffers[tensor.buffer].data is not None
        }
        content = np.array(parsed.buffers[buffer].data, np.uint8)
        (count,) = content[:4].view("<i4")
        content[4 : 4 * (count + 2)].view("<i4")[-1] += 256
        parsed.buffers[buffer].data = content

    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    (broken / "model.tflite").write_bytes(rewrite(tflite(model), lengthen))
    assert model_identity(str(broken)).startswith("bytes:")


def test_model_identity_leaves_out_requests_for_warming_up(model: Path, saved_model: str) -> None:
    before = model_identity(str(model))
    (model / "assets.extra").mkdir()
    (model / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"requests")
    assert model_identity(str(model)) == before != saved_model


def test_model_identity_tells_what_cannot_be_loaded_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    assert model_identity(str(tmp_path)) == f"bytes:{model_digest(str(tmp_path))}"
