"""Predicts a table with a version of a model, as one Beam job."""

from __future__ import annotations

import contextlib
import hashlib
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from components.batch_predictor import input_files
from components.batch_predictor.input_files import Shard, Table
from components.batch_predictor.output_folder import OutputFolder, ShardRecord
from components.batch_predictor.predicting import Prediction, PredictShard, Work
from ml.column_inputs import ColumnInputs
from ml.example_columns import Columns
from ml.table_models import ModelFormat, PackedModel
from ml.tasks import Task
from ml.text_columns import TextColumns
from storage.encryption_keys import EncryptionError, load_keys
from storage.errors import (
    DataError,
    SurroundingsError,
    UserError,
    failure_of_job,
    from_worker_traceback,
)
from storage.keys import SignatureError, TrustStore
from storage.memory import MEMORY
from storage.private_copy import private_copy
from storage.table_formats import TextFormat
from storage.uris import read_file
from storage.versions import ModelVersions

_SCHEMA_FILE = "schema.pbtxt"
# Version of what is written; a job that an earlier one began is not gone on with.
_ENCODING = 1

OpenPipeline = Callable[[], AbstractContextManager[beam.Pipeline]]


@dataclass(frozen=True)
class Source:
    """Where a version is, and what it is verified and decrypted with.

    Attributes:
      serving_dir: URI of the Serving directory.
      model_name: Name of the model in it.
      version: The version; 0 for the one with the label, or the one that is served.
      label: The label; "" for none.
      public_keys: Trusted public keys, or folders of them; with none, the version is not verified.
      encryption_keys: File of the keys that it is decrypted with; "" for the environment.
    """

    serving_dir: str
    model_name: str
    version: int
    label: str
    public_keys: Sequence[str]
    encryption_keys: str


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
      format: Format of the model; None for TFLite where the version has it.
    """

    input_uri: str
    output_uri: str
    text: TextFormat
    task: Task
    output: str
    time_column: str
    format: ModelFormat | None


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
    started: Callable[[int, int, int], None] = lambda version, shards, left: None,
) -> Outcome:
    """Predicts a table, or goes on where an earlier process was stopped.

    The version is verified once, in a private copy; its files then travel with the Beam job, so
    that every worker loads what was verified.

    Args:
      source: The version.
      request: What to predict with it.
      open_pipeline: Opens the Beam pipeline.
      started: Is told the version, the number of shards and how many are left, before it begins.

    Returns:
      The outcome.

    Raises:
      DataError: If the input is missing, unreadable, empty, has other columns than the model needs,
        or changes meanwhile.
      UserError: If the output folder cannot be used, the version cannot, or no row can be
        predicted.
      KeyboardInterrupt: After Ctrl-C; what was written stays.
    """
    output = OutputFolder(request.output_uri.rstrip("/"))
    output.check_apart(request.input_uri)
    version, record, model, schema = _take_version(source, request.format)
    _check_task(source, version, record, request.task)
    table = Table.find(request.input_uri, request.text)
    job = {
        "input": table.facts,
        "model": {
            "name": source.model_name,
            "version": version,
            "format": model.format,
            "sha256": _digest(model),
        },
        "settings": {
            "task": request.task.kind,
            "class_names": list(request.task.class_names),
            "output": request.output,
            "separator": request.text.separator,
            "encoding": request.text.encoding,
            "null_values": list(request.text.null_values),
            "time_column": request.time_column,
            "rows_per_shard": input_files.ROWS_PER_SHARD,
            "encoding_version": _ENCODING,
        },
    }
    with output.opened(job) as done:
        if done:
            shards = len(done["shards"])
            started(version, shards, 0)
            outcome = Outcome(done, shards, shards)
        else:
            columns = Columns.from_schema(schema, request.time_column)
            text = table.text_columns(columns)
            inputs = ColumnInputs(model.load().inputs, schema)
            planned = _plan(table, columns, text, inputs, output)
            prediction = Prediction.of(request.task, request.output, planned.names)
            work = Work(table, output, model, schema.SerializeToString(), text, prediction)
            left = [s for s in planned.shards if output.read_shard(s.number) is None]
            started(version, len(planned.shards), len(left))
            _run(open_pipeline, work, left)
            for file in table.files:
                table.check_unchanged(file)
            records = _records(output, planned.shards)
            manifest = output.finish(job, records, {"predictions": prediction.describe()})
            outcome = Outcome(manifest, len(records), len(records) - len(left))
    _check_any(outcome.manifest, request)
    return outcome


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
) -> _Plan:
    names: list[str] = []

    def check(path: str, found: pa.Schema) -> None:
        inputs.check(path, text.schema(found) if text else found)
        names[:] = found.names

    try:
        return _Plan(table.shards(columns, output.copies_uri, check), names)
    except OSError as error:
        raise UserError(f"--output {output.uri} cannot be written: {error}") from error


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


def _take_version(
    source: Source, wanted: ModelFormat | None
) -> tuple[int, dict[str, Any], PackedModel, schema_pb2.Schema]:
    """The version, its provenance, its files and its schema, of one verified private copy."""
    directory = ModelVersions(source.serving_dir, source.model_name)
    version = _find_version(directory, source)
    try:
        trust = TrustStore(source.public_keys) if source.public_keys else None
        keys = load_keys(source.encryption_keys)
        copy = private_copy(directory, version, trust, parent=MEMORY if keys else None, keys=keys)
    except (SignatureError, EncryptionError, OSError) as error:
        raise SurroundingsError(
            f"version {version} of {source.model_name} in {source.serving_dir} cannot be used: "
            f"{error}"
        ) from error
    with copy:
        where = copy.directory
        model = PackedModel.read(where.version_uri(version), wanted, copy.encrypted)
        schema = schema_pb2.Schema()
        try:
            content = read_file(f"{where.provenance_uri(version)}/{_SCHEMA_FILE}")
            text_format.Parse(content.decode(), schema)
            record = where.provenance(version)
        except (OSError, ValueError, text_format.ParseError) as error:
            raise SurroundingsError(
                f"version {version} of {source.model_name} cannot be used: its schema or its "
                f"provenance cannot be read: {error}"
            ) from error
    return version, record, model, schema


def _find_version(directory: ModelVersions, source: Source) -> int:
    versions = directory.versions()
    has = ", ".join(map(str, versions)) or "none"
    where = f"{source.model_name} in {source.serving_dir}"
    if source.version:
        if source.version not in versions:
            raise SurroundingsError(
                f"there is no version {source.version} of {where}; it has {has}"
            )
        return source.version
    if source.label:
        try:
            labels = directory.labels()
        except ValueError as error:
            raise SurroundingsError(str(error)) from error
        if source.label not in labels:
            known = ", ".join(labels) or "none"
            raise SurroundingsError(
                f"there is no label {source.label!r} of {where}; it has {known}"
            )
        if labels[source.label] not in versions:
            raise SurroundingsError(
                f"label {source.label!r} is version {labels[source.label]}, which is not a version "
                f"of {where}; it has {has}"
            )
        return labels[source.label]
    if not versions:
        raise SurroundingsError(f"nothing is served yet: there is no version of {where}")
    return max(versions)


def _check_task(source: Source, version: int, record: dict[str, Any], task: Task) -> None:
    """Checks that a version has the task of the configuration, by what its provenance says."""
    name = f"version {version} of {source.model_name}"
    if record.get("task", task.kind) != task.kind:
        raise UserError(
            f"{name} is of a {record['task']} task, and the configuration of a {task.kind} task: "
            "name the model by --model"
        )
    with contextlib.suppress(KeyError, TypeError, ValueError):  # One from elsewhere has no record.
        was = Task.from_config(
            {**record["origin"]["configuration"], "kind": record["origin"]["configuration"]["task"]}
        )
        if was.class_names != task.class_names:
            raise UserError(
                f"{name} has the classes {', '.join(was.class_names)}, and the configuration "
                f"{', '.join(task.class_names)}: use the configuration that it was made with"
            )


def _check_any(manifest: dict[str, Any], request: Request) -> None:
    if not manifest["rows"]:
        reason = next((shard["reason"] for shard in manifest["shards"] if shard["reason"]), "")
        raise DataError(
            f"no row of {request.input_uri} can be predicted; the first: {reason} (all are in "
            f"{request.output_uri}/_rejected)"
        )


def _digest(model: PackedModel) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(model.files.items()):
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()
