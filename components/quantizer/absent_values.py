"""Checks that a TFLite model takes absent features as its SavedModel does."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from components.quantizer.candidates import Candidate
from components.quantizer.measurement import Rows
from ml.predictors import SavedModelPredictor, TFLitePredictor
from ml.tasks import REGRESSION
from storage.errors import UserError

# Rows that are predicted again without each feature, and the most predictions in all.
_ROWS, _PREDICTIONS = 32, 4096
# How far predictions of the two formats may be apart; of a regression, in standard deviations of
# the labels.
_TOLERANCE = 1e-3


def check_absent_values(candidate: Candidate, rows: Rows, spec: Mapping[str, Any]) -> None:
    """Checks some rows without each feature that may be absent, and without all of them.

    Operators of TFLite may make a number of NaN, and another one with each kind of CPU. The rows of
    `eval` need not show that: a feature may be absent in none of them.

    Args:
      candidate: A model that is not quantized, so that both formats predict the same.
      rows: Rows to take features from.
      spec: The parsing of each raw feature; one with a default value may be absent.

    Raises:
      UserError: If the SavedModel predicts a number and the TFLite model does not predict the same.
        The message names the features.
    """
    task = rows.task
    # A feature of any number of values, which no model reads, has no default.
    defaults = {name: getattr(parsing, "default_value", None) for name, parsing in spec.items()}
    others = (task.label, task.example_weight)
    optional = sorted(n for n in defaults if defaults[n] is not None and n not in others)
    if not optional:
        return
    without = [[], *([name] for name in optional), optional]
    count = min(len(rows.examples), max(1, min(_ROWS, _PREDICTIONS // len(without))))
    chosen = rows.examples[np.linspace(0, len(rows.examples) - 1, count).astype(int)]
    examples = np.concatenate([_remove(chosen, names) for names in without])
    expected = SavedModelPredictor(candidate.saved_model, candidate.loaded).predict(examples)
    found = TFLitePredictor(candidate.tflite).predict(examples)
    scale = (float(np.std(rows.labels)) or 1.0) if task.kind == REGRESSION else 1.0
    wrong = np.isfinite(expected) & ~np.isclose(found, expected, _TOLERANCE, _TOLERANCE * scale)
    by_features = wrong.reshape(len(without), count, -1)
    # A row that differs with all its values does not differ because one is absent.
    by_features &= ~by_features[0]
    if not by_features.any():
        return
    differs = by_features.any(axis=(1, 2))
    names = [
        names[0] for names, one in zip(without, differs, strict=True) if one and len(names) == 1
    ]
    (place,) = np.argwhere(by_features.ravel())[0]
    raise UserError(
        "model.tflite predicts otherwise than the SavedModel without "
        f"{', '.join(names) or 'any of ' + ', '.join(optional)}: {found.ravel()[place]:g} in "
        f"place of {expected.ravel()[place]:g}, for instance. On this CPU an operator of TFLite "
        "makes a number of NaN: in preprocessing_fn, replace absent values before log, exp, "
        "minimum and the like, or use ml.transforms.of_known"
    )


def _remove(examples: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Serialized tf.Examples without some features, bytes [rows]."""
    kept = []
    for serialized in examples:
        example = tf.train.Example.FromString(serialized)
        for name in names:
            example.features.feature.pop(name, None)
        kept.append(example.SerializeToString())
    return np.array(kept, object)
