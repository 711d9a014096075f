"""Opens TFLite models, also those whose weights an earlier release stored sparse."""

from __future__ import annotations

import logging
from functools import cache

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType


def open_interpreter(content: bytes, threads: int = 1) -> Interpreter:
    """Opens a TFLite model.

    XNNPACK, which runs dense and convolution layers, refuses weights that are stored sparse since
    LiteRT 2.1.5 ("failed to delegate FULLY_CONNECTED"), and only when it is invoked. TFLite's own
    kernels run such a model; it is then slower.

    Args:
      content: The model.
      threads: Threads of the interpreter.

    Returns:
      The interpreter, whose tensors are not allocated yet.

    Raises:
      ValueError: If the content is not a TFLite model, or has an operator that the interpreter
        lacks.
    """
    # It verifies the content; what reads the sparsity does not.
    interpreter = Interpreter(model_content=content, num_threads=threads)
    if not has_sparse_weights(content):
        return interpreter
    warn_of_sparse_weights()
    return Interpreter(
        model_content=content,
        num_threads=threads,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )


@cache
def warn_of_sparse_weights() -> None:
    """Logs, once in a process, that a model is slower than it could be."""
    logging.warning(
        "model.tflite stores weights sparse, as earlier releases did; it runs without XNNPACK, "
        "slower. A version that is pushed now stores them dense"
    )


def has_sparse_weights(content: bytes) -> bool:
    """Whether a tensor of a verified TFLite model is stored sparse."""
    model = schema.Model.GetRootAsModel(content, 0)
    graphs = (model.Subgraphs(index) for index in range(model.SubgraphsLength()))
    return any(
        graph.Tensors(index).Sparsity() is not None
        for graph in graphs
        for index in range(graph.TensorsLength())
    )
