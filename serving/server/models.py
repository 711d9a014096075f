"""A version of a model, loaded: its signatures, and its outputs for arrays.

A SavedModel runs in a session of its own, as in TensorFlow Serving, so that a run can be ended when
its time is over. A `model.tflite` runs in interpreters, one for each request that is computed at a
time.
"""

from __future__ import annotations

import queue
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import numpy as np
from tensorflow.core.framework import graph_pb2, types_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2

from serving.server.errors import ServingError, invalid
from serving.server.form import Form
from serving.server.signatures import PROTO_DTYPES, Signature, TensorInfo
from serving.tensorflow_import import import_tensorflow
from storage.interpreters import open_interpreter
from storage.names import DEFAULT_SIGNATURE, SAVED_MODEL, TFLITE_MODEL

if TYPE_CHECKING:
    from serving.server.explaining import Background

_STATUS = {code.value[0]: code for code in grpc.StatusCode}

# Operations that may take for ever, however few rows they are given: loops, and what waits.
_ENDLESS = re.compile("While|^For$|^(Ref)?Enter$|PyFunc|Dequeue|Barrier|Recv|Unstage|MapDefun|Iter")

Arrays = dict[str, np.ndarray]


class LoadedModel(Protocol):
    """A version of a model that is loaded; what it holds is given back when it is forgotten.

    Attributes:
      signatures: What it takes and returns, by name.
      signature_defs: The same in TensorFlow's protocol, for requests for metadata.
      batched: Signatures of which the rows of several requests may be computed as one batch; see
        `batching.learn`.
      key_id: Id of the key that it was verified with; empty if it was not.
      ends_by_itself: Whether a run takes a time that only the size of its inputs bounds.
      form: What a person fills in to try it; empty where the server shows no page.
      background: Rows that its predictions are explained with, if it has any.
    """

    signatures: Mapping[str, Signature]
    signature_defs: Mapping[str, meta_graph_pb2.SignatureDef]
    batched: set[str]
    ends_by_itself: bool
    key_id: str
    form: Form
    background: Background | None

    def run(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        seconds: float,
    ) -> Arrays:
        """Computes outputs for arrays that fit a signature.

        Args:
          signature: Name of the signature.
          inputs: Its inputs by name.
          outputs: Names of the outputs that are wanted.
          seconds: Time in which the response is of use.

        Returns:
          The outputs by name; strings are bytes objects.

        Raises:
          ServingError: If the model fails.
        """
        ...


@dataclass(frozen=True)
class Served:
    """A version that is being served.

    Attributes:
      name: Name of the model.
      version: Number of the version.
      model: The model.
    """

    name: str
    version: int
    model: LoadedModel


def load_model(folder: str, *, prefer_tflite: bool, concurrency: int) -> LoadedModel:
    """Loads a version of a model.

    Args:
      folder: Its folder.
      prefer_tflite: Whether to load its `model.tflite` if it has one.
      concurrency: Requests that are computed at a time.

    Returns:
      The loaded model.

    Raises:
      Exception: If it cannot be loaded.
    """
    tflite = Path(folder) / TFLITE_MODEL
    if prefer_tflite and tflite.exists():
        return TFLiteModel(tflite.read_bytes(), concurrency)
    return SavedModel(folder)


class SavedModel:
    """A SavedModel; see `LoadedModel`."""

    key_id = ""
    form = Form()
    background: Background | None = None

    def __init__(self, folder: str):
        self._tf = tf = import_tensorflow()
        saved = saved_model_pb2.SavedModel.FromString((Path(folder) / SAVED_MODEL).read_bytes())
        tag = tf.saved_model.SERVING
        graphs = [graph for graph in saved.meta_graphs if tag in graph.meta_info_def.tags]
        if not graphs:
            raise ValueError(f'{SAVED_MODEL} has no graph with the tag "{tag}"')
        self.signature_defs: Mapping[str, meta_graph_pb2.SignatureDef] = dict(
            graphs[0].signature_def
        )
        self.signatures: Mapping[str, Signature] = {
            name: Signature.from_proto(signature)
            for name, signature in self.signature_defs.items()
            if signature.method_name  # Those without one are for the loader.
        }
        _check_usable(self.signatures)
        self.batched: set[str] = set()
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            tf.compat.v1.saved_model.load(self._session, [tag], folder)
        self.ends_by_itself = _ends_by_itself(graphs[0].graph_def)
        self._calls: dict[tuple[str, tuple[str, ...]], Any] = {}
        for name, signature in self.signatures.items():
            if not signature.unknown_dtypes():
                self._call(name, tuple(signature.outputs))  # Fails if the graph has not all of it.

    def run(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        seconds: float,
    ) -> Arrays:
        """See `LoadedModel`."""
        call = self._call(signature, tuple(outputs))
        options: dict[str, Any] = {}
        if not self.ends_by_itself:
            milliseconds = max(1, int(seconds * 1000))
            options["options"] = self._tf.compat.v1.RunOptions(timeout_in_ms=milliseconds)
        try:
            arrays = call(*(inputs[name] for name in self.signatures[signature].inputs), **options)
        except self._tf.errors.OpError as error:
            code, message = _STATUS[error.error_code], error.message
        except UnicodeDecodeError as error:
            # In place of an OpError whose message quotes bytes of the request.
            code, message = grpc.StatusCode.INVALID_ARGUMENT, error.object.decode(errors="replace")
        else:
            return dict(zip(outputs, arrays, strict=True))
        raise ServingError(code, message.strip(), quotes=True)

    def _call(self, name: str, outputs: tuple[str, ...]) -> Any:
        if (name, outputs) not in self._calls:
            signature = self.signatures[name]
            feeds = [info.name for info in signature.inputs.values()]
            fetches = [signature.outputs[output].name for output in outputs]
            if self.ends_by_itself:
                # In the caller's thread, which takes half the CPU time, and cannot be ended.
                options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
                options.run_options.inter_op_thread_pool = -1
                call = self._session._make_callable_from_options(options)
            else:
                call = self._session.make_callable(fetches, feed_list=feeds, accept_options=True)
            self._calls[name, outputs] = call
        return self._calls[name, outputs]


class TFLiteModel:
    """A TFLite model with at most one signature; see `LoadedModel`.

    As in TensorFlow Serving, its inputs and outputs are those of `serving_default`; they are also
    those of the signature that the model names.

    Args:
      content: The model.
      concurrency: Requests that are computed at a time.

    Raises:
      ValueError: If it has more than one signature, or none that can be used.
    """

    key_id = ""
    form = Form()
    background: Background | None = None

    def __init__(self, content: bytes, concurrency: int):
        self._content = content
        interpreters = [_Interpreter(content) for _ in range(concurrency)]
        first = interpreters[0]
        self.ends_by_itself = first.ends_by_itself
        self.signatures: Mapping[str, Signature] = dict.fromkeys(
            [DEFAULT_SIGNATURE, *first.names], first.signature
        )
        self.signature_defs: Mapping[str, meta_graph_pb2.SignatureDef] = dict.fromkeys(
            self.signatures, first.signature.to_proto()
        )
        _check_usable(self.signatures)
        self.batched: set[str] = set()
        self._idle: queue.SimpleQueue[_Interpreter] = queue.SimpleQueue()
        for interpreter in interpreters:
            self._idle.put(interpreter)

    def run(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        seconds: float,
    ) -> Arrays:
        """See `LoadedModel`; a run that has begun is not ended when its time is over."""
        for name, array in inputs.items():
            if array.size == 0:
                raise invalid(f'input "{name}" is empty; a TFLite model needs a row or more')
        try:
            interpreter = self._idle.get_nowait()
        except queue.Empty:
            interpreter = _Interpreter(self._content)
        try:
            return interpreter.run(inputs, outputs)
        finally:
            self._idle.put(interpreter)


class _Interpreter:
    """An interpreter, for one request at a time."""

    def __init__(self, content: bytes):
        self._interpreter = open_interpreter(content)
        operations = self._interpreter._get_ops_details()
        self.ends_by_itself = not any(one["op_name"] == "WHILE" for one in operations)
        self.names = list(self._interpreter.get_signature_list())
        if len(self.names) > 1:
            raise ValueError(f"a TFLite model with one signature is needed, not {self.names}")
        if self.names:
            runner = self._interpreter.get_signature_runner()
            inputs, outputs = runner.get_input_details(), runner.get_output_details()
        else:
            inputs = _by_name(self._interpreter.get_input_details())
            outputs = _by_name(self._interpreter.get_output_details())
        self.signature = Signature(
            {name: _tensor_info(detail) for name, detail in sorted(inputs.items())},
            {name: _tensor_info(detail) for name, detail in sorted(outputs.items())},
        )
        self._inputs = {name: detail["index"] for name, detail in inputs.items()}
        self._outputs = {name: detail["index"] for name, detail in outputs.items()}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> Arrays:
        shapes = {name: inputs[name].shape for name in self._inputs}
        try:
            if shapes != self._shapes:
                self._shapes = {}
                for name, index in self._inputs.items():
                    self._interpreter.resize_tensor_input(index, shapes[name])
                self._interpreter.allocate_tensors()
                self._shapes = shapes
            for name, index in self._inputs.items():
                self._interpreter.set_tensor(index, inputs[name])
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            self._shapes = {}
            raise ServingError(
                grpc.StatusCode.INTERNAL, f"the model failed: {error}", quotes=True
            ) from None
        return {
            name: np.asarray(self._interpreter.get_tensor(self._outputs[name])) for name in outputs
        }


def _by_name(details: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {detail["name"].removesuffix(":0"): detail for detail in details}


def _tensor_info(detail: dict[str, Any]) -> TensorInfo:
    dtype = np.dtype(detail["dtype"])
    shape = tuple(None if size < 0 else int(size) for size in detail["shape_signature"])
    # LiteRT says strings to be numpy's bytes.
    dtype = np.dtype(object) if dtype.kind == "S" else dtype
    return TensorInfo(PROTO_DTYPES.get(dtype, types_pb2.DT_INVALID), shape, detail["name"])


def _check_usable(signatures: Mapping[str, Signature]) -> None:
    """Checks that a model has a signature that can be used.

    Raises:
      ValueError: If it has not.
    """
    unknown = {name: signature.unknown_dtypes() for name, signature in signatures.items()}
    if all(unknown.values()):
        tensors = "; ".join(f"{name}: {', '.join(names)}" for name, names in unknown.items())
        raise ValueError(
            "the model cannot be used: it has no signature"
            + (f" of dtypes that can be sent: {tensors}" if tensors else "")
        )


def _ends_by_itself(graph: graph_pb2.GraphDef) -> bool:
    """Whether a graph takes a time that only the size of what it is given bounds."""
    nodes = chain(graph.node, *(function.node_def for function in graph.library.function))
    return not any(_ENDLESS.search(node.op) for node in nodes)
