"""Looks at a model's folder, schema and data for what a run would refuse, without training."""

from __future__ import annotations

import importlib
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from ml.complete_schema import complete_schema
from ml.example_columns import Columns
from ml.tasks import REGRESSION
from pipeline.config import Config
from pipeline.model import Model
from pipeline.schema_checks import check_schema
from storage.errors import DataError, UserError, one_line
from storage.parquet import open_file
from storage.spans import Window, filesystem, resolve_window
from storage.table_formats import Format
from storage.tables import iter_batches, read_schema

_LABEL_ROWS = 50_000


def find_problems(config: Config) -> Iterator[str]:
    """Finds what a run with a configuration would refuse.

    It reads the schema, the footers or first rows of the window's files, and some labels.

    Yields:
      A line for each problem, as soon as it is found.
    """
    model = Model.load(config)
    yield from _check_functions(model)
    schema = yield from _read_schema(config)
    if schema is None:
        return
    try:
        window = resolve_window(config.data.source, config.data.as_of, config.data.window)
    except UserError as error:
        yield str(error)
        return
    yield from _check_files(config, schema, window)


def _check_functions(model: Model) -> Iterator[str]:
    for path in model.functions:
        module, _, name = path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except Exception as error:  # Whatever the user's module raises is a problem of it.
            yield f"{path} cannot be imported: {type(error).__name__}: {error}"
            continue
        if not callable(found):
            yield f"{path} is {found!r}; a function is expected"


def _read_schema(config: Config) -> Generator[str, None, schema_pb2.Schema | None]:
    """Reads and completes the schema; None if it is of no use."""
    path = config.gate.schema
    schema = schema_pb2.Schema()
    try:
        text_format.Parse(Path(path).read_text("utf-8"), schema)
    except (OSError, ValueError, text_format.ParseError) as error:
        yield f"gate.schema = {path!r}: {one_line(error)}"
        return None
    try:
        check_schema(config)
        data = config.data
        return complete_schema(
            schema, config.label, config.features, data.time_column, config.example_weight
        )
    except UserError as error:
        yield str(error)
        return None


def _check_files(config: Config, schema: schema_pb2.Schema, window: Window) -> Iterator[str]:
    source = config.data.source
    files, _ = filesystem(source.uri)
    columns = Columns.from_schema(schema, source.time_column)
    labels = []
    rows = 0
    for path in dict.fromkeys(path for span in window.spans for path in span.files):
        try:
            if Format.of(path) is Format.PARQUET:
                with open_file(path, files) as parquet:
                    columns.check(path, parquet.schema_arrow)
                    _check_has(path, parquet.schema_arrow.names, config)
                    if rows < _LABEL_ROWS and parquet.num_row_groups:
                        found = parquet.read_row_group(0, columns=[config.label])[config.label]
                        labels.append(found.combine_chunks())
                        rows += len(labels[-1])
            else:
                names = read_schema(path, files, source.text)
                columns.check(
                    path, pa.schema([(n, columns.text_types.get(n, pa.string())) for n in names])
                )
                _check_has(path, names, config)
                batch = next(
                    iter_batches(path, files, columns.text_types, source.text, list(columns.types))
                )
                labels.append(batch.column(batch.schema.get_field_index(config.label)))
        except UserError as error:
            yield str(error)
    if labels:
        yield from _check_labels(config, np.concatenate([_values(array) for array in labels]))


def _check_has(path: str, names: list[str], config: Config) -> None:
    """Checks that a file has the label and the keys, which a schema may say are optional."""
    needed = {config.label: "label"}
    if not config.data.time_column:
        needed |= dict.fromkeys(config.data.key_columns, "key column")
    for name, role in needed.items():
        if name not in names:
            raise DataError(f"{path}: there is no {role} {name!r}; it has {', '.join(names)}")


def _values(array: pa.Array) -> np.ndarray:
    return np.asarray(array.to_pandas(), object)


def _check_labels(config: Config, labels: np.ndarray) -> Iterator[str]:
    task = config.make_task()
    absent = sum(label is None or label != label for label in labels)
    if absent:
        yield f"label {task.label!r}: {absent:,} of {len(labels):,} rows that were read have none"
    present = [label for label in labels if label is not None and label == label]
    try:
        encoded = task.encode(np.array(present))
    except UserError as error:
        yield str(error)
        return
    if task.kind == REGRESSION:
        if len(np.unique(encoded)) < 2:
            yield f"label {task.label!r}: all rows that were read have the same value"
        return
    strange = sorted({str(present[i]) for i in np.flatnonzero(np.isnan(encoded))})
    if strange:
        yield (
            f"label {task.label!r} has values that are none of the classes "
            f"{', '.join(task.classes)}: {', '.join(strange[:5])}"
        )
    lacking = [name for i, name in enumerate(task.classes) if not (encoded == i).any()]
    if lacking:
        yield (
            f"label {task.label!r} is never {', '.join(lacking)} in the {len(labels):,} rows that "
            "were read"
        )
