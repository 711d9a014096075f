"""What model servers call the inputs of a SavedModel's signature, as opposed to Python.

Python has arguments, whose names are `ml.names.graph_names`. Model servers read names from
`saved_model.pb`, where any text is allowed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from ml.names import graph_names
from storage.names import SAVED_MODEL
from storage.uris import read_file

# It is about the file that `name_inputs` changes, and nothing needs it.
_FINGERPRINT = "fingerprint.pb"


def name_inputs(path: str, signature: str, names: Mapping[str, str]) -> None:
    """Renames the inputs of a signature in `saved_model.pb`, where model servers read them.

    In Python, `tf.saved_model.load` still calls them by their old names.

    Args:
      path: Folder of the SavedModel.
      signature: Name of the signature.
      names: The new name of each input.
    """
    file = os.path.join(path, SAVED_MODEL)
    model = saved_model_pb2.SavedModel.FromString(read_file(file))
    (graph,) = model.meta_graphs
    inputs = graph.signature_def[signature].inputs
    renamed = {names[name]: info.SerializeToString() for name, info in inputs.items()}
    inputs.clear()
    for name, info in renamed.items():
        inputs[name].ParseFromString(info)
    with tf.io.gfile.GFile(file, "wb") as out:
        out.write(model.SerializeToString(deterministic=True))
    fingerprint = os.path.join(path, _FINGERPRINT)
    if tf.io.gfile.exists(fingerprint):
        tf.io.gfile.remove(fingerprint)


def saved_signatures(path: str) -> dict[str, meta_graph_pb2.SignatureDef]:
    """The signatures of a SavedModel by name, as model servers read them.

    Args:
      path: Folder of the SavedModel.
    """
    content = read_file(os.path.join(path, SAVED_MODEL))
    (graph,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    return dict(graph.signature_def)


def read_input_names(path: str, signature: str, arguments: Iterable[str]) -> dict[str, str]:
    """What model servers call the inputs of a signature; see `name_inputs`.

    Args:
      path: Folder of the SavedModel.
      signature: Name of the signature.
      arguments: Names of its inputs in Python.

    Returns:
      The name of each.
    """
    inputs = saved_signatures(path)[signature].inputs
    named = {argument: name for name, argument in graph_names(inputs).items()}
    return {argument: named.get(argument, argument) for argument in arguments}
