"""TrafficExampleGen: turns what champion and challenger predicted into examples with labels."""

import json
import time
from dataclasses import replace

import pandas as pd
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx

from ml import request_log
from ml.artifacts import load_schema, split_uri
from ml.compared_requests import COMPARED, FEATURES, LOGGED, clean, find_pair
from ml.example_columns import Columns
from ml.request_labels import join_labels, read_labels, write_rows
from ml.request_log import Period
from ml.request_predictions import PredictionLog
from ml.tasks import Task
from ml.vectors import widths_of
from storage.encryption_keys import EncryptionError, load_keys
from storage.errors import DataError
from storage.names import PREDICTION_PREFIX, TIME_FEATURE
from storage.spans import DataSource
from storage.versions import ModelVersions

_MICROSECONDS = 1_000_000


@tfx.dsl.components.component
def TrafficExampleGen(
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    examples: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Examples],
    log_uri: tfx.dsl.components.Parameter[str],
    model_name: tfx.dsl.components.Parameter[str],
    serving_dir: tfx.dsl.components.Parameter[str],
    features: tfx.dsl.components.Parameter[str],
    output: tfx.dsl.components.Parameter[str],
    data_uri: tfx.dsl.components.Parameter[str],
    layout: tfx.dsl.components.Parameter[str],
    task: tfx.dsl.components.Parameter[str],
    encryption_keys: tfx.dsl.components.Parameter[str],
) -> None:
    """Writes the rows that champion and challenger predicted since they share the traffic.

    Not those of a monitored period alone: the sequential test goes on from the first row of the
    two. Rows are told by `request.role` and version; a row that is there twice counts once. Labels
    are joined as by RequestExampleGen.

    Example:
      traffic_gen = TrafficExampleGen(
          schema=schema_gen.outputs["schema"],
          log_uri="requests",
          model_name="my_model",
          serving_dir="output/serving",
          features='["distance", "temp"]',
          output="probability",
          data_uri="data/my_model",
          task='{"kind": "binary", "label": "tip"}',
          encryption_keys="",
      )

    Args:
      schema: Types of the features.
      examples: Component `outputs` contains: the split `compared`, as gzipped TFRecords, with the
        features `request.*` of the log; no split where no challenger has traffic, or nothing was
        logged. The custom property `pair` is the JSON of a `Pair`; "" without one.
      log_uri: Directory of the request log.
      model_name: Name of the model.
      serving_dir: URI of the Serving directory, which holds the traffic policy and the labels.
      features: JSON list of the features that a request has.
      output: Name of the model's output.
      data_uri: Directory of the spans with the labels; "" for none.
      layout: Its division into spans; the JSON of `DataSource.layout`.
      task: JSON of what the model predicts; see `Task.to_json`.
      encryption_keys: File of the keys of an encrypted log; "" for the environment.

    Raises:
      DataError: If the log, the labels or the traffic policy cannot be read.
    """
    examples.split_names = "[]"
    examples.set_string_custom_property("pair", "")
    tfx.dsl.io.fileio.makedirs(examples.uri)
    pair = find_pair(ModelVersions(serving_dir, model_name), time.time())
    if pair is None:
        return
    names, learned = json.loads(features), Task.from_json(task)
    expected = load_schema(schema)
    types = request_log.features_of(expected, names)
    widths = {n: width for n, width in widths_of(expected).items() if n in names}
    prediction = PREDICTION_PREFIX + output
    if learned.outputs > 1:
        widths[prediction] = learned.outputs
    try:
        keys = load_keys(encryption_keys)
    except EncryptionError as error:
        raise DataError(str(error)) from error
    log = PredictionLog(types | LOGGED, widths, prediction, learned)
    parts = [pair.of(rows) for rows in log.read(log_uri, model_name, keys)]
    rows, left_out = clean(pd.concat(parts, ignore_index=True))
    pair = replace(pair, left_out=left_out)
    examples.set_string_custom_property("pair", pair.to_json())
    if rows.empty:
        return
    if data_uri:
        joined = [learned.label, *({learned.example_weight} - {"", *names})]
        kinds = request_log.features_of(expected, [*names, *joined])
        wanted = schema_pb2.Schema(feature=[f for f in expected.feature if f.name in kinds])
        read = replace(Columns.from_schema(wanted, ""), required=frozenset([learned.label]))
        seconds = rows[TIME_FEATURE] // _MICROSECONDS
        period = Period(int(seconds.min()), int(seconds.max()) + 1)
        labels, _ = read_labels(DataSource.of(data_uri, layout), period, read, widths)
        rows, types = join_labels(rows, labels, names, joined), kinds
    columns = Columns({**types, **FEATURES, prediction: schema_pb2.FLOAT}, frozenset(), "")
    write_rows(split_uri(examples.uri, COMPARED), rows, columns, widths)
    examples.split_names = json.dumps([COMPARED])
