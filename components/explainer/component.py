"""Explainer: why does the model predict what it predicts?"""

import base64
import json
import os
from typing import Any

import numpy as np
from tfx import v1 as tfx

from components.evaluator.blessing import write_blessing
from components.explainer.explanation import Explanation, explain
from components.explainer.groups import Columns
from components.explainer.importance import agreement, by_slice, move, number, shares
from components.explainer.local import lime_values
from components.explainer.plots import beeswarm, dependence
from components.explainer.sample import choose_rows, sample_examples
from components.explainer.shapley import interactions
from ml.artifacts import (
    EXPLANATIONS_FILE,
    Explanations,
    has_serving_model,
    serving_model_uri,
    split_files,
)
from ml.examples import raw_values
from ml.predictors import load_feature_predictor
from ml.tasks import BINARY, REGRESSION, Task
from storage.errors import UserError
from storage.names import BACKGROUND_FILE, RAW_SIGNATURE

_METHOD = "SHAP, permutation explainer"
_LEAST_SLICE_ROWS = 20
_INTERACTING, _INTERACTION_ROWS = 4, 50
_DEPENDENCE_PLOTS = 3


@tfx.dsl.components.component
def Explainer(
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    explanations: tfx.dsl.components.OutputArtifact[Explanations],
    blessing: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.ModelBlessing],
    model_name: tfx.dsl.components.Parameter[str],
    task: tfx.dsl.components.Parameter[str],
    slices: tfx.dsl.components.Parameter[str],
    split: tfx.dsl.components.Parameter[str],
    rows: tfx.dsl.components.Parameter[int],
    background_rows: tfx.dsl.components.Parameter[int],
    permutations: tfx.dsl.components.Parameter[int],
    max_features: tfx.dsl.components.Parameter[int],
    lime_rows: tfx.dsl.components.Parameter[int],
    groups: tfx.dsl.components.Parameter[str],
    publish_background: tfx.dsl.components.Parameter[bool],
    max_share: tfx.dsl.components.Parameter[float],
    max_move: tfx.dsl.components.Parameter[float],
    seed: tfx.dsl.components.Parameter[int],
    served_model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model] = None,
) -> None:
    """Explains a model by SHAP and LIME, and blesses it if its explanations are within limits.

    SHAP values are computed on rows of a split, in the format of the model that is evaluated and
    served (`model.tflite` if there is one), with background rows of `train`. LIME explains single
    rows. What is asked for that the model does not allow is left out, and it is said why: a model
    that gives no number for masked rows has no explanation and still passes, unless there are
    limits.

    Example:
      explainer = Explainer(
          examples=example_gen.outputs["examples"],
          model=quantizer.outputs["quantized_model"],
          model_name="my_model",
          task='{"kind": "binary", "label": "tip"}',
          slices='["company"]',
          split="test",
          rows=500,
          background_rows=50,
          permutations=1,
          max_features=64,
          lime_rows=3,
          groups='{"weather": ["temp", "wind"]}',
          publish_background=True,
          max_share=1.0,
          max_move=1.0,
          seed=1,
      )

    Args:
      examples: Raw examples.
      model: A model with a `model.tflite`, or with the signature `raw_features`.
      explanations: Component `outputs` contains: `explanations.json` and plots, see
        docs/explanations.md, and `background.json`, the rows that a server explains with.
      blessing: Component `outputs` contains: whether the limits are met.
      model_name: Name of the model, for people.
      task: JSON of what the model predicts; see `Task.to_json`.
      slices: JSON list of the columns to slice by.
      split: Split whose rows are explained.
      rows: How many of them, at most.
      background_rows: Rows of `train` that the values of left-out features are from.
      permutations: Random orders of the features for each row.
      max_features: How many features and groups are explained one by one.
      lime_rows: Rows of each kind (most wrong, most uncertain, random) that LIME explains too.
      groups: JSON object: the features of each group.
      publish_background: Whether the background rows are written, and published with the model.
      max_share: Largest share of importance that a feature or group may have; 1 for no limit.
      max_move: Largest distance of the shares of importance from those of the served model, as
        total variation; 1 for no limit.
      seed: Seed of all that is random.
      served_model: The served model; needed for `max_move`.

    Raises:
      UserError: If a split is missing, or the model takes no raw features.
      DataError: If a split has no rows, or a row lacks what the model needs.
    """
    learned, configured = Task.from_json(task), json.loads(groups)
    sample = sample_examples(split_files(examples, split), rows, seed)
    others = sample_examples(split_files(examples, "train"), 2 * background_rows, seed)
    settings: dict[str, Any] = {
        "configured": configured,
        "max_features": max_features,
        "permutations": permutations,
        "seed": seed,
    }
    predictor = load_feature_predictor(serving_model_uri(model))
    found = explain(predictor, sample, others, **settings)
    report = _report(found, learned, json.loads(slices), lime_rows, seed)
    served = None
    if max_move < 1 and served_model is not None and has_serving_model(served_model):
        try:
            other = load_feature_predictor(serving_model_uri(served_model))
            served = explain(other, sample, others, **settings)
            report["move"] = move(report["importance"], served.importance)
        except UserError as error:  # It reads what there is no more.
            report["why_no_move"] = f"the served model cannot be explained: {error}"
    reasons = _reasons(report, served, max_share, max_move)
    content = {
        "model": model_name,
        "method": _METHOD,
        "split": split,
        "background_rows": len(next(iter(found.model.background.values()))),
        "seed": seed,
        "limits": {"max_share": max_share, "max_move": max_move},
        "reasons": reasons,
        **report,
    }
    files = {EXPLANATIONS_FILE: (json.dumps(content, indent=2) + "\n").encode()}
    files |= _plots(found, learned)
    if publish_background and len(found.rows):
        files[BACKGROUND_FILE] = _background(found.model.background, configured)
    fileio = tfx.dsl.io.fileio
    fileio.makedirs(explanations.uri)
    for name, part in files.items():
        with fileio.open(os.path.join(explanations.uri, name), "wb") as file:
            file.write(part)
    write_blessing(blessing, not reasons)


def _report(
    found: Explanation, task: Task, slices: list[str], lime_rows: int, seed: int
) -> dict[str, Any]:
    """What `explanations.json` says of the model."""
    rows, values = found.rows, found.shap.values
    names = [group.name for group in found.groups]
    labels = rows.labels(task) if len(rows) else np.empty(0)
    explained, pairs = [], []
    lime_rows = lime_rows if names else 0
    for place, why in choose_rows(rows.predictions, labels, task, lime_rows, seed):
        output = int(rows.predictions[place].argmax())
        shap = values[place, :, output]
        lime = lime_values(found.model, rows.columns, place, output, seed + place)
        pairs.append((shap, lime))
        explained.append(
            {
                "why": why,
                "label": _show_label(labels[place], task),
                "prediction": rows.predictions[place, output],
                "output": _outputs(task)[output],
                "shap": dict(zip(names, map(number, shap), strict=True)),
                "lime": dict(zip(names, map(number, lime), strict=True)),
            }
        )
    columns = {name: raw_values(rows.examples, name) for name in slices} if len(rows) else {}
    pairwise = interactions(
        found.model, rows.columns, _INTERACTION_ROWS, found.order[:_INTERACTING]
    )
    return {
        "rows": len(rows),
        "units": _units(task),
        "outputs": _outputs(task),
        "base_values": [number(value) for value in found.shap.base],
        "importance": found.importance,
        "importance_by_slice": by_slice(found.groups, values, columns, _LEAST_SLICE_ROWS),
        "rows_explained": explained,
        "agreement": agreement(pairs),
        "interactions": [
            {"features": [names[place] for place in pair], "strength": number(strength)}
            for pair, strength in pairwise
        ],
        "stability": {"rank_correlation": found.stability},
        "left_out": found.left_out,
        "rows_left_out": [
            {"rows": count, "why": why} for why, count in found.rows_left_out.items()
        ],
    }


def _reasons(
    report: dict[str, Any], served: Explanation | None, max_share: float, max_move: float
) -> list[str]:
    """Why the model is not blessed."""
    if not report["rows"] and (max_share < 1 or max_move < 1):
        return ["no row could be explained, so no limit of explanations can be checked"]
    reasons = [
        f"max_share: {feature} has {share:.1%} of the importance, more than the {max_share:.1%} "
        "allowed"
        for feature, share in shares(report["importance"]).items()
        if share > max_share
    ]
    moved = report.get("move") if served is not None and len(served.rows) else None
    if moved and moved["distance"] > max_move:
        reasons.append(
            f"max_move: importance is {moved['distance']:.3f} away from the served model's, more "
            f"than the {max_move:g} allowed; {moved['feature']} has {moved['share']:.1%} of it, "
            f"and had {moved['before']:.1%}"
        )
    return reasons


def _plots(found: Explanation, task: Task) -> dict[str, bytes]:
    """The plots by the names of their files: of the output that is predicted most."""
    if not len(found.rows) or not found.groups:
        return {}
    output = int(np.bincount(found.rows.predictions.argmax(axis=1)).argmax())
    units = _outputs(task)[output] if task.kind != REGRESSION else task.label
    units = units if task.kind == REGRESSION else f"probability of {units}"
    values, columns = found.shap.values[:, :, output], found.rows.columns
    plots = {"beeswarm.svg": beeswarm(found.groups, found.order, values, columns, units)}
    single = [
        place
        for place in found.order
        if [int(cells.sum()) for cells in found.groups[place].cells.values()] == [1]
    ]
    for count, place in enumerate(single[:_DEPENDENCE_PLOTS], 1):
        ((name, cells),) = found.groups[place].cells.items()
        plots[f"dependence-{count}.svg"] = dependence(
            found.groups[place].name, columns[name][:, cells][:, 0], values[:, place], units
        )
    return plots


def _outputs(task: Task) -> list[str]:
    """Names of the outputs."""
    if task.kind == REGRESSION:
        return [task.label]
    return [task.class_names[1]] if task.kind == BINARY else list(task.class_names)


def _units(task: Task) -> str:
    if task.kind == REGRESSION:
        return f"units of {task.label}"
    if task.kind == BINARY:
        return f"probability of {task.class_names[1]}"
    return "probability, in sum over the classes"


def _show_label(label: float, task: Task) -> Any:
    if not np.isfinite(label):
        return None
    return float(label) if task.kind == REGRESSION else task.class_names[int(label)]


def _background(columns: Columns, groups: dict[str, list[str]]) -> bytes:
    """The background rows as a request for a prediction has them, and the groups."""
    inputs = {name: _as_json(column.tolist()) for name, column in columns.items()}
    content = {"signature_name": RAW_SIGNATURE, "inputs": inputs, "groups": groups}
    # NaN is no JSON, but TensorFlow Serving reads and writes it, and so does the embedded server.
    return (json.dumps(content) + "\n").encode()


def _as_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_json(part) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    return value
