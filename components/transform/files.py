"""Reads and writes files of examples in Beam, one record batch per file."""

import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders import example_coder
from tfx_bsl.public import tfxio

from ml import progress
from ml.example_columns import feature_type
from ml.record_batches import RecordBatchDecoder
from storage.tfrecords import open_records, read_records

_BATCH_ROWS = 65_536  # More than the rows of a file of SpanExampleGen.
# A column with the name of the file to write; TFT passes it through. No column of the data has a
# line break in its name.
FILE = "file\n"


class OrderedRecords(tfxio.TFExampleBeamRecord):
    """Examples whose tensors are in the order of their names, also in the transform graph.

    A schema holds their representations in a map, and protobuf 6 goes through a map in another
    order in each process.
    """

    def TensorRepresentations(self) -> Any:
        """What TFT makes its tensors of, by name, ascending."""
        return dict(sorted(super().TensorRepresentations().items()))


def read_batches(pipeline: beam.Pipeline, label: str, files: list[str], source: tfxio.TFXIO) -> Any:
    """Record batches of the columns of `source`."""
    return (
        pipeline
        | f"{label} files" >> beam.Create(files)
        | f"{label} read" >> beam.ParDo(_Read(source.ArrowSchema()))
    )


class _Read(beam.DoFn):
    """Reads columns of a file; `FILE`, if it is one of them, is filled with the file's name."""

    def __init__(self, columns: pa.Schema):
        self._columns = columns

    def setup(self) -> None:
        names = [name for name in self._columns.names if name != FILE]
        kinds = {name: self._columns.field(name).type.value_type for name in names}
        features = [schema_pb2.Feature(name=n, type=feature_type(k)) for n, k in kinds.items()]
        schema = schema_pb2.Schema(feature=features)
        self._decoder = RecordBatchDecoder(schema)

    def process(self, path: str) -> Iterator[pa.RecordBatch]:
        for number, records in enumerate(read_records(path).batch(_BATCH_ROWS)):
            batch = self._decoder.decode(records)
            columns = {name: batch.column(name) for name in batch.schema.names}
            if FILE in self._columns.names:
                name = os.path.basename(path).removesuffix(".gz")
                name += f"-{number}.gz" if number else ".gz"
                names = pa.repeat(pa.scalar(name.encode(), pa.large_binary()), batch.num_rows)
                rows = pa.array(range(batch.num_rows + 1), pa.int64())
                columns[FILE] = pa.LargeListArray.from_arrays(rows, names)
            yield pa.RecordBatch.from_arrays(
                [columns[name] for name in self._columns.names], schema=self._columns
            )


def transform_split(
    pipeline: beam.Pipeline,
    split: str,
    files: list[str],
    source: tfxio.TFXIO,
    learned: Any,
    folder: str,
) -> None:
    """Transforms the files of a split."""
    columns = source.ArrowSchema().append(pa.field(FILE, pa.large_list(pa.large_binary())))
    rows = (
        pipeline
        | f"{split} files" >> beam.Create(files)
        | f"{split} read" >> beam.ParDo(_Read(columns))
    )
    config = tfxio.TensorAdapterConfig(columns, source.TensorRepresentations())
    transformed, metadata = (
        (rows, config),
        learned,
    ) | f"{split} transform" >> tft_beam.TransformDataset(output_record_batches=True)
    _ = transformed | f"{split} write" >> beam.ParDo(_Write(folder), metadata.schema)


class _Write(beam.DoFn):
    """Writes a transformed batch to its file."""

    def __init__(self, folder: str):
        self._folder = folder

    def process(
        self, element: tuple[pa.RecordBatch, Any], schema: schema_pb2.Schema
    ) -> Iterator[None]:
        batch, _ = element
        name = batch.column(batch.schema.get_field_index(FILE))[0].as_py()[0].decode()
        columns = {c: batch.column(c) for c in batch.schema.names if c != FILE}
        batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
        tf.io.gfile.makedirs(self._folder)
        path = os.path.join(self._folder, name)
        encoder = example_coder.RecordBatchToExamplesEncoder(schema)
        with open_records(path) as out:
            for example in encoder.encode(batch):
                out.write(example)
        progress.report(f"{batch.num_rows:,} rows transformed")
        yield from ()
