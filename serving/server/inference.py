"""Runs the requests of TensorFlow Serving's protocol with a loaded model.

What is checked, in which order and with which status follows TensorFlow Serving (its
`predict_util.cc`, `classifier.cc` and `regressor.cc`).
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server.errors import ServingError, invalid
from serving.server.models import Arrays, LoadedModel
from serving.server.signatures import PROTO_DTYPES, Signature
from serving.server.tensors import check_context, check_inputs, check_rows, to_array, to_proto
from storage.names import DEFAULT_SIGNATURE

# Names that a signature for Classify or Regress gives to its tensors.
EXAMPLES, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"


def find_signature(model: LoadedModel, name: str) -> Signature:
    """A signature of a model.

    Raises:
      ServingError: If it has none of that name.
    """
    signature = model.signatures.get(name or DEFAULT_SIGNATURE)
    if signature is None:
        raise ServingError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f'Serving signature key "{name or DEFAULT_SIGNATURE}" not found. '
            f"The model has {', '.join(sorted(model.signatures))}.",
        )
    return signature


def read_inputs(
    request: predict_pb2.PredictRequest, max_bytes: int, max_rows: int | None = None
) -> Arrays:
    """The inputs of a request as arrays; see `to_array`.

    Args:
      request: The request.
      max_bytes: Largest size of all arrays together.
      max_rows: Largest first size of each, if there is any.

    Raises:
      ServingError: If they do not make arrays, or are more than is allowed.
    """
    inputs = {}
    protos = request.inputs
    for name in protos:
        inputs[name] = array = to_array(name, protos[name], max_bytes, max_rows)
        max_bytes -= array.nbytes
        if array.dtype == object and len(protos[name].string_val) < array.size:
            max_bytes -= array.size * len(array.flat[-1])  # To the model each is a string.
    return inputs


def predict(
    model: LoadedModel,
    signature_name: str,
    inputs: Arrays,
    output_filter: Sequence[str],
    seconds: float,
) -> Arrays:
    """The outputs of a model by name, for inputs by name.

    Args:
      model: The model.
      signature_name: Name of the signature; empty for `serving_default`.
      inputs: The inputs.
      output_filter: Names of the outputs that are wanted; none named means all.
      seconds: Time in which the response is of use.

    Returns:
      The outputs.

    Raises:
      ServingError: If the request does not fit the signature, or the model fails.
    """
    signature = find_signature(model, signature_name)
    inputs = {**signature.defaults, **inputs}
    check_inputs(signature, inputs)
    wanted = choose_outputs(signature, output_filter)
    return model.run(signature_name or DEFAULT_SIGNATURE, inputs, wanted, seconds)


def choose_outputs(signature: Signature, output_filter: Sequence[str]) -> list[str]:
    """The outputs that a request wants: those it names, or all.

    Raises:
      ServingError: If it names one that there is not, or one twice.
    """
    wanted: list[str] = []
    for name in output_filter:
        if name not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {{{','.join(signature.outputs)}}}.",
                quotes=False,
            )
        if name in wanted:
            raise invalid(f"duplicate output tensor alias: {name}", quotes=False)
        wanted.append(name)
    return wanted or list(signature.outputs)


def to_response(outputs: Arrays) -> predict_pb2.PredictResponse:
    """The response to a request for a prediction, without its model.

    Raises:
      ServingError: If an output has a dtype that the server does not know.
    """
    for name, array in outputs.items():
        if array.dtype not in PROTO_DTYPES:
            raise ServingError(
                grpc.StatusCode.UNIMPLEMENTED,
                f'output "{name}" has the dtype {array.dtype}, which is not supported',
            )
    return predict_pb2.PredictResponse(
        outputs={name: to_proto(array) for name, array in outputs.items()}
    )


def fill_model_spec(
    spec: model_pb2.ModelSpec, model_name: str, version: int, signature_name: str
) -> None:
    """Says in a response which model it is from."""
    spec.name = model_name
    spec.version.value = version
    spec.signature_name = signature_name or DEFAULT_SIGNATURE


def serialized_examples(examples: input_pb2.Input, max_bytes: int, max_rows: int) -> np.ndarray:
    """The serialized tf.Examples of a request to classify or regress, bytes [batch].

    Raises:
      ServingError: If there are none, more than `max_rows`, or they are more than `max_bytes` with
        the context in each.
    """
    with_context = examples.example_list_with_context.examples
    check_rows("examples", max(len(with_context), len(examples.example_list.examples)), max_rows)
    if examples.HasField("example_list_with_context"):
        # Concatenated messages are one message with the fields of both.
        context = examples.example_list_with_context.context.SerializeToString()
        check_context(context, len(with_context), max_bytes)
        given = [context + example.SerializeToString() for example in with_context]
    else:
        given = [example.SerializeToString() for example in examples.example_list.examples]
    if not given:
        raise invalid("Input is empty.")
    return np.array(given, object)


def classification_outputs(model: LoadedModel, signature_name: str) -> list[str]:
    """The outputs that a signature classifies with: `classes`, `scores` or both.

    Raises:
      ServingError: If it does not classify tf.Examples.
    """
    signature = _example_signature(model, signature_name)
    if len(signature.outputs) > 2:
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    wanted = [name for name in (CLASSES, SCORES) if name in signature.outputs]
    if not wanted:
        raise invalid(
            f'Expected classification signature outputs to contain at least one of "{CLASSES}" or '
            f'"{SCORES}". Signature {signature_name or DEFAULT_SIGNATURE} has '
            f"{', '.join(signature.outputs)}."
        )
    return wanted


def to_classifications(outputs: Arrays, rows: int) -> classification_pb2.ClassificationResult:
    """The classes and scores of each row.

    Args:
      outputs: `classes` (strings), `scores` (float32) or both, [batch, classes].
      rows: Rows of the request.

    Returns:
      The result.

    Raises:
      ServingError: If the outputs have other dtypes or shapes.
    """
    for name, array in outputs.items():
        dtype = object if name == CLASSES else np.float32
        if array.dtype != dtype or array.ndim != 2 or len(array) != rows:
            raise invalid(
                f"Expected {name} Tensor of {'DT_STRING' if name == CLASSES else 'DT_FLOAT'} and "
                f"shape: [batch_size num_classes] but got {array.dtype} {list(array.shape)}"
            )
    widths = {array.shape[1] for array in outputs.values()}
    if len(widths) > 1:
        raise invalid(f"Tensors class and score should match in dim_size(1). Got {sorted(widths)}")
    result = classification_pb2.ClassificationResult()
    for row in range(rows):
        classes = result.classifications.add().classes
        for column in range(*widths):
            one = classes.add()
            if CLASSES in outputs:
                one.label = outputs[CLASSES][row, column].decode("utf-8", errors="replace")
            if SCORES in outputs:
                one.score = outputs[SCORES][row, column]
    return result


def regression_outputs(model: LoadedModel, signature_name: str) -> list[str]:
    """The output that a signature regresses with: `outputs`.

    Raises:
      ServingError: If it does not regress tf.Examples.
    """
    signature = _example_signature(model, signature_name)
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if OUTPUTS not in signature.outputs:
        raise invalid(
            "No regression outputs found in SignatureDef: "
            f"{signature_name or DEFAULT_SIGNATURE} has {', '.join(signature.outputs)}; "
            f'"{OUTPUTS}" is expected'
        )
    return [OUTPUTS]


def to_regressions(outputs: Arrays, rows: int) -> regression_pb2.RegressionResult:
    """The value of each row.

    Args:
      outputs: `outputs`, float32 [batch] or [batch, 1].
      rows: Rows of the request.

    Returns:
      The result.

    Raises:
      ServingError: If the output has another dtype or shape.
    """
    array = outputs[OUTPUTS]
    if array.dtype != np.float32 or array.shape not in ((rows,), (rows, 1)):
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1], of "
            f"DT_FLOAT, but got {array.dtype} {list(array.shape)}"
        )
    result = regression_pb2.RegressionResult()
    for value in array.ravel().tolist():
        result.regressions.add().value = value
    return result


def _example_signature(model: LoadedModel, name: str) -> Signature:
    name = name or DEFAULT_SIGNATURE
    if name not in model.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    signature = model.signatures[name]
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if EXAMPLES not in signature.inputs:
        raise invalid(
            f"No inputs found in SignatureDef: {name} has {', '.join(signature.inputs)}; "
            f'"{EXAMPLES}" is expected'
        )
    return signature
