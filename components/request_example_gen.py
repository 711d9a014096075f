"""RequestExampleGen: turns the request log of a period into examples with labels."""

import json
import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx
from tfx_bsl.coders import example_coder

from ml import progress, request_log
from ml.artifacts import load_schema, split_uri
from ml.example_columns import Columns, to_example_batch
from ml.examples import first_values
from ml.request_log import Period
from ml.requests import CURRENT, PREVIOUS, Requests
from ml.tasks import BINARY, REGRESSION, Task
from ml.vectors import pack, to_matrix, unpack, widths_of
from storage.encryption_keys import EncryptionError, Keys, load_keys
from storage.errors import DataError
from storage.names import PREDICTION_PREFIX, VERSION_FEATURE
from storage.periods import SpanPeriod
from storage.spans import DataSource, Span, filesystem, find_spans
from storage.tables import read_schema, read_table
from storage.tfrecords import open_records
from storage.versions import ModelVersions

# Outputs of the signatures that classify and regress, in the log.
_SCORES, _OUTPUTS = f"{PREDICTION_PREFIX}scores", f"{PREDICTION_PREFIX}outputs"
_ROWS_PER_FILE = 16_384
_ROWS_A_LINE = 100_000
_DAY = 24 * 3600


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
        log_uri, model_name, requests, period, _Log(types, widths, prediction, learned), keys
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
                labels, months = _read_labels(source, span, read, widths)
                frames[split] = _join(frames[split], labels, names, joined)
                requests.label_months[split] = months
                requests.labelled[split] = _count_labels(learned, frames[split][label])
        types = kinds
    columns = Columns({**types, prediction: schema_pb2.FLOAT}, frozenset(), "")
    for split, frame in frames.items():
        requests.rows[split] = len(frame)
        if not frame.empty:
            _write(split_uri(examples.uri, split), frame, columns, widths)
    examples.split_names = json.dumps([split for split, frame in frames.items() if not frame.empty])
    examples.set_string_custom_property("requests", requests.to_json())


@dataclass(frozen=True)
class _Log:
    """What is read of a row: features by type, the width of vectors, and the prediction."""

    types: dict[str, int]
    widths: dict[str, int]
    prediction: str
    task: Task

    def read(self, uri: str, model: str, keys: Keys | None) -> Iterator[pd.DataFrame]:
        """The rows; the prediction is that of whichever method was requested."""
        others = {_SCORES: max(len(self.task.classes), 1), _OUTPUTS: 1}
        others.pop(self.prediction, None)
        widths = {name: width for name, width in others.items() if width > 1} | self.widths
        types = self.types | dict.fromkeys((*others, self.prediction), schema_pb2.FLOAT)
        for rows in request_log.read(uri, model, types, keys, widths):
            found = rows[self.prediction]
            if _SCORES in others and self.task.kind != REGRESSION:
                found = found.where(found.notna(), self._of_scores(rows[_SCORES]))
            if _OUTPUTS in others and self.task.outputs == 1:
                found = found.where(found.notna(), rows[_OUTPUTS])
            if self.task.outputs > 1:
                found = found.map(lambda row: row if _is_known(row) else None)
            yield rows.assign(**{self.prediction: found})

    def _of_scores(self, scores: pd.Series) -> pd.Series:
        if self.task.kind == BINARY:
            return scores.map(lambda row: to_matrix([row], 2)[0, 1] if row else float("nan"))
        return scores


def _is_known(row: bytes | None) -> bool:
    return row is not None and not np.isnan(np.frombuffer(row, np.float32)).any()


def _read_log(
    uri: str,
    model: str,
    requests: Requests,
    period: Period,
    log: _Log,
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


def _count_labels(task: Task, labels: pd.Series) -> int:
    """Number of rows with a label that is one of the task."""
    return int(np.isfinite(task.encode(labels.dropna().to_numpy())).sum())


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


def _read_labels(
    source: DataSource, period: Period, columns: Columns, widths: dict[str, int]
) -> tuple[pd.DataFrame, list[int]]:
    """Features and labels of the spans that may hold rows of a period, and their numbers."""
    files, _ = filesystem(source.uri)
    of_period = [span for span in find_spans(source) if _may_overlap(source, span, period)]
    found = [pd.DataFrame(columns=list(columns.types))]
    for path in dict.fromkeys(path for span in of_period for path in span.files):
        names = read_schema(path, files, source.text)
        wanted = [name for name in names if name in columns.types]
        table = read_table(path, files, columns.text_types, source.text, wanted)
        columns.check(path, table.schema)
        try:
            batches = [to_example_batch(batch, columns) for batch in table.to_batches()]
        except pa.ArrowException as error:
            raise DataError(f"labels of {path} cannot be read: {error}") from error
        found += [_to_frame(batch, columns.types, widths) for batch in batches]
    filled = [frame for frame in found if len(frame)]
    return pd.concat(filled or found, ignore_index=True), [span.number for span in of_period]


def _may_overlap(source: DataSource, span: Span, period: Period) -> bool:
    """Whether a span may have rows of a period, give or take a day for local calendars."""
    if source.numbering is SpanPeriod.NUMBER:
        return True
    begin, end = source.numbering.bounds(span.number)
    return begin - _DAY < period.until and end + _DAY > period.since


def _to_frame(batch: pa.RecordBatch, types: dict[str, int], widths: dict[str, int]) -> pd.DataFrame:
    table = pa.Table.from_batches([batch])
    return pd.DataFrame(
        {
            name: pack(table[name], widths[name], types[name])
            if name in widths
            else first_values(table[name])
            for name in table.column_names
        }
    )


def _join(
    rows: pd.DataFrame, labels: pd.DataFrame, features: Sequence[str], joined: Sequence[str]
) -> pd.DataFrame:
    """Adds the label, and other columns, to rows, NaN if unknown; keeps number and order."""
    keys = [name for name in features if name in labels and rows[name].notna().any()]
    if labels.empty or not keys:
        return rows.assign(**dict.fromkeys(joined, float("nan")))
    label, *others = joined
    groups = labels.dropna(subset=[label]).groupby(keys, dropna=False)
    known = groups[label].agg(["min", "max"])
    first = groups[[name for name in others if name in labels]].first()
    known = known.rename(columns={"min": label}).join(first).reindex(columns=[*joined, "max"])
    known = known[known[label] == known["max"]].drop(columns="max").reset_index()
    return rows.merge(known, how="left", on=keys, validate="many_to_one")


def _write(folder: str, frame: pd.DataFrame, columns: Columns, widths: Collection[str]) -> None:
    tf.io.gfile.makedirs(folder)
    encoder = example_coder.RecordBatchToExamplesEncoder()
    vectors = [name for name in frame if name in widths]
    for number, begin in enumerate(range(0, len(frame), _ROWS_PER_FILE)):
        part = frame.iloc[begin : begin + _ROWS_PER_FILE]
        single = pa.RecordBatch.from_pandas(part.drop(columns=vectors), preserve_index=False)
        batch = to_example_batch(single, columns)
        lists = [unpack(part[name], columns.types[name]) for name in vectors]
        batch = pa.RecordBatch.from_arrays(
            [*batch.columns, *lists], [*batch.schema.names, *vectors]
        )
        path = os.path.join(folder, f"data_tfrecord-{number:05d}.gz")
        with open_records(path) as file:
            for example in encoder.encode(batch):
                file.write(example)
