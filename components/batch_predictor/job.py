"""Predicts a table with a version of a model, as one Beam job."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa

from components.batch_predictor import input_files
from components.batch_predictor.contributions import Contributions
from components.batch_predictor.input_files import Shard, Table
from components.batch_predictor.output_folder import OutputFolder, ShardRecord
from components.batch_predictor.output_format import OutputFormat
from components.batch_predictor.predicting import Prediction, PredictShard, Work
from components.batch_predictor.version import Source, take_version
from ml.column_inputs import ColumnInputs
from ml.example_columns import Columns
from ml.table_models import ModelFormat
from ml.tasks import Task
from ml.text_columns import TextColumns
from storage.errors import (
    DataError,
    UserError,
    failure_of_job,
    from_worker_traceback,
    one_line,
)
from storage.table_formats import Format, TextFormat
from storage.text_buffers import TextError
from storage.uris import open_uri

# Version of what is written; a job that an earlier one began is not gone on with.
_ENCODING = 1

OpenPipeline = Callable[[], AbstractContextManager[beam.Pipeline]]


@dataclass(frozen=True)
class Request:
    """What to predict.

    Attributes:
      input_uri: A file (Parquet, CSV, JSON lines), or a folder of files of one format.
      output_uri: The folder that predictions are written to.
      text: How text files are written.
      task: What the model predicts.
      output: Name of the model's output.
      time_column: The column with the time of a row; "" for none.
      model_format: Format of the model; None for TFLite where the version has it.
      output_format: Format of the predictions; None for that of the input.
      explain: Whether the contributions of features stand beside each prediction.
    """

    input_uri: str
    output_uri: str
    text: TextFormat
    task: Task
    output: str
    time_column: str
    model_format: ModelFormat | None
    output_format: Format | None = None
    explain: bool = False


@dataclass(frozen=True)
class Start:
    """What is to be done.

    Attributes:
      version: The version.
      shards: Number of shards.
      left: How many of them no earlier process has written.
      evaluations: Predictions that the explanation of a row takes; 0 if there are none.
    """

    version: int
    shards: int
    left: int
    evaluations: int


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
      manifest: What is in the output folder.
      shards: Number of shards.
      reused: How many of them an earlier process had written.
    """

    manifest: dict[str, Any]
    shards: int
    reused: int


def predict_table(
    source: Source,
    request: Request,
    open_pipeline: OpenPipeline,
    started: Callable[[Start], None] = lambda start: None,
) -> Outcome:
    """Predicts a table, or goes on where an earlier process was stopped.

    The version is verified once, in a private copy; its files then travel with the Beam job, so
    that every worker loads what was verified.

    Args:
      source: The version.
      request: What to predict with it.
      open_pipeline: Opens the Beam pipeline.
      started: Is told what is to be done, before it begins.

    Returns:
      The outcome.

    Raises:
      DataError: If the input is missing, unreadable, empty, has other columns than the model needs,
        or changes meanwhile.
      UserError: If the output folder cannot be used, the version cannot, or no row can be
        predicted.
      KeyboardInterrupt: After Ctrl-C; what was written stays.
    """
    for option, uri in (("--input", request.input_uri), ("--output", request.output_uri)):
        _check_uri(option, uri)
    output = OutputFolder(request.output_uri.rstrip("/"))
    output.check_apart(request.input_uri)
    taken = take_version(source, request.task, request.model_format, request.explain)
    version, model, schema = taken.version, taken.model, taken.schema
    table = Table.find(request.input_uri, request.text)
    written = OutputFormat.of(table, request.output_format)
    job: dict[str, Any] = {
        "input": table.facts,
        "model": {
            "name": source.model_name,
            "version": version,
            "format": model.format,
            "sha256": model.digest,
        },
        "settings": {
            "task": request.task.kind,
            "class_names": list(request.task.class_names),
            "output": request.output,
            "output_format": written.ending,
            "separator": request.text.separator,
            "encoding": request.text.encoding,
            "null_values": list(request.text.null_values),
            "time_column": request.time_column,
            "rows_per_shard": input_files.ROWS_PER_SHARD,
            "encoding_version": _ENCODING,
        },
    }
    if taken.background is not None:  # Such a folder has more columns.
        job["settings"]["explained_with"] = hashlib.sha256(taken.background).hexdigest()
    with output.opened(job) as done:
        if done:
            shards = len(done["shards"])
            started(Start(version, shards, 0, 0))
            outcome = Outcome(done, shards, shards)
        else:
            columns = Columns.from_schema(schema, request.time_column)
            text = table.text_columns(columns)
            loaded = model.load()
            inputs = ColumnInputs(loaded.inputs, schema)
            explaining = None
            if taken.background is not None:
                explaining = Contributions(taken.background, loaded, request.task)
                explaining.check()
            planned = _plan(table, columns, text, inputs, output, written)
            features = explaining.names if explaining else None
            prediction = Prediction.of(request.task, request.output, planned.names, features)
            work = Work(
                *(table, output, written, model, schema.SerializeToString(), text, prediction),
                taken.background,
            )
            left = [s for s in planned.shards if output.read_shard(s.number) is None]
            evaluations = explaining.evaluations if explaining else 0
            started(Start(version, len(planned.shards), len(left), evaluations))
            _run(open_pipeline, work, left)
            for file in table.files:
                table.check_unchanged(file)
            records = _records(output, planned.shards)
            facts: dict[str, Any] = {"predictions": prediction.describe()}
            if prediction.explained:
                facts["contributions"] = dict(prediction.explained)
            manifest = output.finish(job, records, facts)
            outcome = Outcome(manifest, len(records), len(records) - len(left))
    _check_any(outcome.manifest, request)
    return outcome


def _check_uri(option: str, uri: str) -> None:
    """Checks that a path or an address can be one of a table."""
    try:
        if "\0" in uri:
            raise ValueError("it has a NUL character")
        _, path = open_uri(uri)
        if not uri.strip() or not path.strip("/"):
            raise ValueError("a file or a folder is expected")
    except (ValueError, OSError) as error:  # An ArrowInvalid is a ValueError.
        reason = one_line(error)
        raise UserError(f"{option} {uri!r} cannot be used: {reason}") from error


@dataclass(frozen=True)
class _Plan:
    shards: list[Shard]
    names: list[str]


def _plan(
    table: Table,
    columns: Columns,
    text: TextColumns | None,
    inputs: ColumnInputs,
    output: OutputFolder,
    written: OutputFormat,
) -> _Plan:
    names: list[str] = []

    def check(path: str, found: pa.Schema) -> None:
        try:
            written.open(found)
        except TextError as error:
            raise DataError(f"{path}: {error}") from error
        inputs.check(path, text.schema(found) if text else found)
        names[:] = found.names

    return _Plan(table.shards(columns, output.copies_uri, written.keeps_lines, check), names)


def _run(open_pipeline: OpenPipeline, work: Work, shards: list[Shard]) -> None:
    if not shards:
        return
    try:
        with open_pipeline() as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(shards)
                | "Spread" >> beam.Reshuffle()
                | "Predict" >> beam.ParDo(PredictShard(work))
            )
    except Exception as error:
        if _was_interrupted(error):
            raise KeyboardInterrupt from None
        raised = "".join(traceback.format_exception_only(error))
        if user_error := from_worker_traceback(raised):
            raise user_error from None
        if failure := failure_of_job(error):
            raise UserError(failure) from error
        raise


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: Beam makes a RuntimeError of it."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _records(output: OutputFolder, shards: list[Shard]) -> list[ShardRecord]:
    """The records of all shards.

    Raises:
      UserError: If files of one are not there, as where workers do not see the output folder.
    """
    records = []
    for shard in shards:
        record = output.read_shard(shard.number)
        if record is None:
            raise UserError(
                f"the predictions of shard {shard.number} are not in {output.uri}: do all workers "
                "see this folder?"
            )
        records.append(record)
    return records


def _check_any(manifest: dict[str, Any], request: Request) -> None:
    if not manifest["rows"]:
        reason = next((shard["reason"] for shard in manifest["shards"] if shard["reason"]), "")
        raise DataError(
            f"no row of {request.input_uri} can be predicted; the first: {reason} (all are in "
            f"{request.output_uri}/_rejected)"
        )
