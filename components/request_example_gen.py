"""RequestExampleGen: turns the request log of a period into examples with labels."""

import json
import time
from collections import Counter
from dataclasses import replace

import pandas as pd
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx

from ml import progress, request_log
from ml.artifacts import load_schema, split_uri
from ml.example_columns import Columns
from ml.request_labels import count_labels, join_labels, read_labels, write_rows
from ml.request_log import Period
from ml.request_predictions import PredictionLog
from ml.requests import CURRENT, PREVIOUS, Requests
from ml.tasks import Task
from ml.vectors import widths_of
from storage.encryption_keys import EncryptionError, Keys, load_keys
from storage.errors import DataError
from storage.names import PREDICTION_PREFIX, VERSION_FEATURE
from storage.spans import DataSource
from storage.versions import ModelVersions

_ROWS_A_LINE = 100_000


@tfx.dsl.components.component
def RequestExampleGen(
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    examples: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Examples],
    log_uri: tfx.dsl.components.Parameter[str],
    model_name: tfx.dsl.components.Parameter[str],
    version: tfx.dsl.components.Parameter[int],
    since: tfx.dsl.components.Parameter[int],
    until: tfx.dsl.components.Parameter[int],
    days: tfx.dsl.components.Parameter[int],
    serving_dir: tfx.dsl.components.Parameter[str],
    features: tfx.dsl.components.Parameter[str],
    output: tfx.dsl.components.Parameter[str],
    data_uri: tfx.dsl.components.Parameter[str],
    layout: tfx.dsl.components.Parameter[str],
    task: tfx.dsl.components.Parameter[str],
    encryption_keys: tfx.dsl.components.Parameter[str],
) -> None:
    """Writes the requests to a version, with its predictions, in a period and the one before.

    A row holds the features, the prediction as `prediction.<output>`, also if the request was to
    classify or to regress, and label and weight if they have arrived. The label is that of the rows
    of the monthly spans with the same features, as it is there; if these differ, there is none.
    Features that no request of the period has are ignored.

    Example:
      example_gen = RequestExampleGen(
          schema=schema_gen.outputs["schema"],
          log_uri="requests",
          model_name="my_model",
          version=1795434497,
          since=1380585600,
          until=1383264000,
          days=28,
          serving_dir="output/serving",
          features='["distance", "temp"]',
          output="probability",
          data_uri="data/my_model",
          task='{"kind": "binary", "label": "tip"}',
          encryption_keys="",
      )

    Args:
      schema: Types of the features.
      examples: Component `outputs` contains: the splits `current` and, if there are such requests,
        `previous`, as gzipped TFRecords. The custom property `requests` describes them in JSON, see
        `Requests`.
      log_uri: Directory of the request log.
      model_name: Name of the model.
      version: The version whose rows are read; those of other versions are counted. 0 means the
        one with the most requests, of those in the Serving directory.
      since: When the period begins, seconds since the Unix epoch. 0 means `days` before `until`.
      until: When it ends. 0 means `days` after `since`. If both are 0, the period is the newest
        complete one; see `ml.request_log.survey`.
      days: Length of the period unless both are given.
      serving_dir: URI of the Serving directory.
      features: JSON list of the features that a request has.
      output: Name of the model's output; rows without it are counted and left out.
      data_uri: Directory of the spans with the labels; "" for none.
      layout: Its division into spans; the JSON of `DataSource.layout`.
      task: JSON of what the model predicts; see `Task.to_json`.
      encryption_keys: File of the keys of an encrypted log; "" for the environment.

    Raises:
      DataError: If there is no log, a file of the log or the labels cannot be read, `current` has
        no row, or no version with requests is in the Serving directory.
    """
    names, learned = json.loads(features), Task.from_json(task)
    label = learned.label
    types = request_log.features_of(load_schema(schema), names)
    widths = {n: width for n, width in widths_of(load_schema(schema)).items() if n in names}
    try:
        keys = load_keys(encryption_keys)
    except EncryptionError as error:
        raise DataError(str(error)) from error
    period = Period(since, until)
    if not (version and since and until):
        found = request_log.survey(
            log_uri,
            model_name,
            since=since or None,
            until=until or None,
            days=days,
            now=time.time(),
            keys=keys,
        )
        period = found.period
        served = ModelVersions(serving_dir, model_name).versions()
        version = version or request_log.busiest(found.versions, served, serving_dir)
    requests = Requests(version, period.since, period.until)
    prediction = PREDICTION_PREFIX + output
    if learned.outputs > 1:
        widths[prediction] = learned.outputs
    frames = _read_log(
        log_uri,
        model_name,
        requests,
        period,
        PredictionLog(types, widths, prediction, learned),
        keys,
    )
    if frames[CURRENT].empty:
        raise DataError(_describe_nothing(log_uri, model_name, requests, period, output, keys))
    if data_uri:
        joined = [label, *({learned.example_weight} - {"", *names})]
        kinds = request_log.features_of(load_schema(schema), [*names, *joined])
        of_labels = schema_pb2.Schema(
            feature=[f for f in load_schema(schema).feature if f.name in kinds]
        )
        read = replace(Columns.from_schema(of_labels, ""), required=frozenset([label]))
        for split, span in ((CURRENT, period), (PREVIOUS, period.previous)):
            if not frames[split].empty:
                source = DataSource.of(data_uri, layout)
                labels, months = read_labels(source, span, read, widths)
                frames[split] = join_labels(frames[split], labels, names, joined)
                requests.label_months[split] = months
                requests.labelled[split] = count_labels(learned, frames[split][label])
        types = kinds
    columns = Columns({**types, prediction: schema_pb2.FLOAT}, frozenset(), "")
    for split, frame in frames.items():
        requests.rows[split] = len(frame)
        if not frame.empty:
            write_rows(split_uri(examples.uri, split), frame, columns, widths)
    examples.split_names = json.dumps([split for split, frame in frames.items() if not frame.empty])
    examples.set_string_custom_property("requests", requests.to_json())


def _read_log(
    uri: str,
    model: str,
    requests: Requests,
    period: Period,
    log: PredictionLog,
    keys: Keys | None,
) -> dict[str, pd.DataFrame]:
    """The rows of each split; counts the rows left out in `requests`."""
    columns = [*log.types, log.prediction]
    parts: dict[str, list[pd.DataFrame]] = {CURRENT: [], PREVIOUS: []}
    others: Counter[int] = Counter()
    read = 0
    for rows in log.read(uri, model, keys):
        own = rows[VERSION_FEATURE] == requests.version
        predicted = rows[log.prediction].notna()
        current = request_log.within(rows, period)
        others.update(rows.loc[current & ~own, VERSION_FEATURE].tolist())
        requests.without_prediction += int((current & own & ~predicted).sum())
        for split, chosen in (
            (CURRENT, current),
            (PREVIOUS, request_log.within(rows, period.previous)),
        ):
            parts[split].append(rows.loc[chosen & own & predicted, columns])
        read += len(rows)
        if read // _ROWS_A_LINE > (read - len(rows)) // _ROWS_A_LINE:
            progress.report(f"{read:,} rows of the log")
    requests.other_versions = {str(version): rows for version, rows in others.items()}
    return {split: pd.concat(frames, ignore_index=True) for split, frames in parts.items()}


def _describe_nothing(
    uri: str, model: str, requests: Requests, period: Period, output: str, keys: Keys | None
) -> str:
    if requests.without_prediction:
        found = request_log.count_features(uri, model, keys)
        outputs = [name for name in sorted(found) if name.startswith(PREDICTION_PREFIX)]
        return (
            f"the {requests.without_prediction:,} rows of {period} in the request log {uri} have "
            f"no {PREDICTION_PREFIX}{output}; the newest rows have "
            f"{', '.join(outputs) or 'no prediction'}"
        )
    others = ", ".join(f"{v} ({n:,} rows)" for v, n in sorted(requests.other_versions.items()))
    return (
        f"the request log {uri} has no request of {period} to version {requests.version} of "
        f"{model}; requests to other versions: {others or 'none'}"
    )
