"""Tests that `saved_model.pb` has the same bytes for the same model, and others for another one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.protobuf import saved_model_pb2

from ml.canonical import canonical_form, write_canonical
from ml.identity.saved_model import saved_model_digest


class _Scaled(tf.Module):
    """A model with a table, two functions that compute the same, and an input with a number."""

    def __init__(self, vocabulary: Path, factor: float = 2.0):
        super().__init__()
        self.weight = tf.Variable(factor)
        self.vocabulary = tf.saved_model.Asset(str(vocabulary))
        self.table = tf.lookup.StaticVocabularyTable(
            tf.lookup.TextFileInitializer(
                str(vocabulary),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            1,
        )

    @tf.function
    def _scale(self, ids: tf.Tensor) -> tf.Tensor:
        return self.weight * tf.cast(ids, tf.float32)

    @tf.function
    def _scale_again(self, ids: tf.Tensor) -> tf.Tensor:
        return self.weight * tf.cast(ids, tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "name_12")])
    def serve(self, names: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = self.table.lookup(names)
        choice = tf.cond(tf.size(names) > 1, lambda: self._scale(ids), lambda: -self._scale(ids))
        return {"sum": choice + self._scale_again(ids)}


def save(folder: Path, words: str = "a\nb\n", factor: float = 2.0) -> Path:
    folder.mkdir(parents=True)
    vocabulary = folder / "words"
    vocabulary.write_text(words)
    module = _Scaled(vocabulary, factor)
    tf.saved_model.save(module, str(folder / "model"), signatures={"serve": module.serve})
    return folder / "model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("canonical") / "one")


def predict(path: Path) -> list[float]:
    signature = tf.saved_model.load(str(path)).signatures["serve"]
    return list(signature(name_12=tf.constant(["b", "a", "c"]))["sum"].numpy())


def renumber(content: bytes, seed: int) -> bytes:
    """Another order of functions and nodes, and other numbers at the end of functions' names."""
    chance = random.Random(seed)
    model = saved_model_pb2.SavedModel.FromString(content)
    (graph,) = model.meta_graphs
    functions = list(graph.graph_def.library.function)
    # In the order of their numbers, which is that of making them.
    names = sorted((f.signature.name for f in functions), key=lambda n: int(n.split("_")[-1]))
    numbers = sorted(chance.sample(range(10**6, 10**7), len(names)))
    for function in functions:
        nodes = list(function.node_def)
        chance.shuffle(nodes)
        del function.node_def[:]
        function.node_def.extend(nodes)
    copies = [type(f).FromString(f.SerializeToString()) for f in functions]
    chance.shuffle(copies)
    del graph.graph_def.library.function[:]
    graph.graph_def.library.function.extend(copies)
    # Numbers of one length, so that the messages around a name keep theirs.
    changed = model.SerializeToString()
    for place, name in enumerate(names):
        base, _, number = name.rpartition("_")
        parsed = saved_model_pb2.SavedModel.FromString(changed)
        _rename(parsed, name, f"{base}_{str(numbers[place])[: max(7, len(number))]}")
        changed = parsed.SerializeToString()
    return changed


def _rename(message: object, old: str, new: str) -> None:
    """Renames a function wherever a text of a message, or the key of a map, is its name."""
    for field, value in list(message.ListFields()):  # type: ignore[attr-defined]
        if field.type == field.TYPE_MESSAGE and field.message_type.GetOptions().map_entry:
            if isinstance(next(iter(value)), str) and old in value:
                moved = value[old]
                if isinstance(moved, str):
                    value[new] = moved
                else:
                    value[new].CopyFrom(moved)
                del value[old]
            for inner in value.values():
                if hasattr(inner, "ListFields"):
                    _rename(inner, old, new)
        elif field.type == field.TYPE_MESSAGE:
            for inner in [value] if hasattr(value, "ListFields") else value:
                _rename(inner, old, new)
        elif field.type == field.TYPE_STRING:
            if isinstance(value, str):
                if value == old:
                    setattr(message, field.name, new)
            else:
                value[:] = [new if text == old else text for text in value]


@given(seed=st.integers(0, 2**32))
def test_canonical_form_ignores_order_and_numbers(model: Path, seed: int) -> None:
    content = (model / "saved_model.pb").read_bytes()
    changed = renumber(content, seed)
    assert changed != content
    assert canonical_form(changed) == canonical_form(content)


def test_canonical_form_of_a_canonical_form_is_the_same(model: Path) -> None:
    once = canonical_form((model / "saved_model.pb").read_bytes())
    assert canonical_form(once) == once


def test_write_canonical_gives_two_exports_the_same_bytes(model: Path, tmp_path: Path) -> None:
    contents = []
    for folder in ("here", "there/and/deeper"):
        path = save(tmp_path / folder)
        write_canonical(str(path))
        contents.append({str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*.*")})
    assert contents[0] == contents[1]
    assert "fingerprint.pb" not in contents[0]


def test_write_canonical_keeps_what_the_model_computes(model: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "model")
    before, digest = predict(path), saved_model_digest(str(path))
    write_canonical(str(path))
    assert predict(path) == before
    assert saved_model_digest(str(path)) == digest
    signature = tf.saved_model.load(str(path)).signatures["serve"]
    assert list(signature.structured_input_signature[1]) == ["name_12"]


def test_canonical_form_differs_for_another_computation(tmp_path: Path) -> None:
    class Other(_Scaled):
        @tf.function
        def _scale_again(self, ids: tf.Tensor) -> tf.Tensor:
            return self.weight - tf.cast(ids, tf.float32)

    contents = []
    for kind in (_Scaled, Other):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        (folder / "words").write_text("a\nb\n")
        module = kind(folder / "words")
        tf.saved_model.save(module, str(folder / "model"), signatures={"serve": module.serve})
        contents.append(canonical_form((folder / "model" / "saved_model.pb").read_bytes()))
    assert contents[0] != contents[1]


def test_write_canonical_names_tables_of_other_words_differently(tmp_path: Path) -> None:
    """Programs that load two models into one place would share tables of one name."""
    names = []
    for words in ("a\nb\n", "b\na\n"):
        path = save(tmp_path / words.strip().replace("\n", ""), words)
        write_canonical(str(path))
        parsed = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        names.append(
            {
                node.attr["shared_name"].s
                for function in parsed.meta_graphs[0].graph_def.library.function
                for node in function.node_def
                if node.op == "HashTableV2"
            }
        )
    assert names[0]
    assert names[0].isdisjoint(names[1])
