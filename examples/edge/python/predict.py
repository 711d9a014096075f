"""Predicts rows with a pushed `model.tflite`; needs ai-edge-litert and numpy, not TensorFlow.

python predict.py model.tflite rows.json
"""

import json
import sys
from numbers import Real
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

SIGNATURE = "raw_features"
# By the type of a feature: which values it takes, and what an absent one is for the model. An
# integer cannot be absent.
TAKES: dict[type, type] = {np.bytes_: str, np.float32: Real, np.int64: int}
ABSENT: dict[type, Any] = {np.bytes_: "", np.float32: np.nan}


def predict(path: str, rows: list[dict[str, Any]]) -> list[dict[str, list[float]]]:
    """Predicts rows of raw features by name; what is not there, or None, is absent."""
    if not rows:
        return []
    model = Interpreter(path).get_signature_runner(SIGNATURE)
    inputs = model.get_input_details()
    for number, row in enumerate(rows):
        if unknown := sorted(row.keys() - inputs.keys()):
            raise ValueError(f"row {number}: the model has no feature {', '.join(unknown)}")
    outputs = model(**{name: column(name, detail, rows) for name, detail in inputs.items()})
    return [
        {name: values[number].ravel().tolist() for name, values in outputs.items()}
        for number in range(len(rows))
    ]


def column(name: str, detail: dict[str, Any], rows: list[dict[str, Any]]) -> np.ndarray:
    """The values of one feature, [rows], or [rows, ...] for a vector."""
    kind = detail["dtype"]
    shape = tuple(detail["shape_signature"][1:])
    values = np.empty((len(rows), *shape), object)
    for number, row in enumerate(rows):
        value = row.get(name)
        if value is None:
            value = np.full(shape, ABSENT.get(kind), object)
        flat = np.array(value, object)
        if flat.shape != shape or not all(isinstance(each, TAKES[kind]) for each in flat.flat):
            takes = TAKES[kind].__name__
            raise ValueError(f"row {number}: {name} has to be {takes}, shape {shape}, not {value}")
        values[number] = flat.tolist()
    if kind is np.bytes_:
        return np.vectorize(str.encode, [object])(values)
    return values.astype(kind)


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as file:
        try:
            print(json.dumps(predict(sys.argv[1], json.load(file))))
        except ValueError as error:
            sys.exit(str(error))
