"""Predicts rows with a pushed `model.tflite`; needs ai-edge-litert and numpy, not TensorFlow.

python predict.py model.tflite rows.json
"""

import json
import sys
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

SIGNATURE = "raw_features"
# What an absent value is for the model. An integer cannot be absent.
ABSENT: dict[type, Any] = {np.bytes_: "", np.float32: np.nan}


def predict(path: str, rows: list[dict[str, Any]]) -> list[dict[str, list[float]]]:
    """Predicts rows, each a dictionary of the raw features; what it lacks, or is None, is absent."""
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
    values = [row.get(name) for row in rows]
    for number, value in enumerate(values):
        if value is None:
            if kind not in ABSENT:
                raise ValueError(f"row {number}: {name} is an integer and cannot be absent")
            value = np.full(shape, ABSENT[kind]).tolist()
        expected = str if kind is np.bytes_ else int if kind is np.int64 else (int, float)
        flat = np.array(value, object)
        if flat.shape != shape or not all(isinstance(each, expected) for each in flat.flat):
            raise ValueError(f"row {number}: {name} is {value!r}, not {kind.__name__} {shape}")
        values[number] = value
    if kind is np.bytes_:
        return np.char.encode(np.array(values), "utf-8").astype(object)
    return np.array(values, kind)


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as file:
        print(json.dumps(predict(sys.argv[1], json.load(file))))
