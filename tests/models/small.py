"""What the tests of small models share: the data, as the pipeline reads them, and a transform."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from pyarrow import fs
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils
from tfx_bsl.coders import example_coder
from tfx_bsl.public import tfxio

from ml.complete_schema import complete_schema
from ml.example_columns import Columns, to_example_batch
from ml.learning import Learning
from pipeline.config import load_config
from pipeline.model import Model
from storage.tables import read_table
from tests.conftest import PROJECT

Row = dict[str, Any]


class SmallModel:
    """A model whose data are one file.

    Args:
      name: Its name below `models/`.
      preprocessing_fn: Its `preprocessing_fn`, for `learn`.
    """

    def __init__(self, name: str, preprocessing_fn: Any = None):
        self.config = load_config(settings=[f"model={name}"])
        self.model = Model.load(self.config)
        self.task = self.model.task
        schema = tfdv.load_schema_text(str(PROJECT / self.config.gate.schema))
        self.schema = complete_schema(schema, self.task.label, self.model.raw_features, "", "")
        self._columns = Columns.from_schema(self.schema, "")
        self._preprocessing_fn = preprocessing_fn

    @property
    def learning(self) -> Learning:
        """How the network is trained by default."""
        settings = dataclasses.asdict(self.config.training) | self.model.custom_config
        return Learning.from_config(settings)

    def read(self) -> pa.Table:
        """All rows of the data."""
        data, files = self.config.data, fs.LocalFileSystem()
        path = str(PROJECT / data.uri)
        table = read_table(
            path, files, self._columns.text_types, data.source.text, list(self._columns.types)
        )
        self._columns.check(path, table.schema)
        return table

    def anomalies(self, rows: pa.Table) -> dict[str, str]:
        """What TFDV finds in rows, by feature."""
        options = tfdv.StatsOptions(schema=self.schema)
        statistics = stats_impl.generate_statistics_in_memory(self._batch(rows), options)
        found = tfdv.validate_statistics(statistics, self.schema, environment="TRAINING")
        return {name: info.description for name, info in found.anomaly_info.items()}

    def learn(self, rows: pa.Table, folder: Path) -> tft.TFTransformOutput:
        """The transformation of some rows."""
        source = tfxio.TFExampleBeamRecord(physical_format="inmem", schema=self.schema)
        source = source.Project(list(self._spec))
        with (
            beam.Pipeline(argv=list(self.config.beam_args)) as pipeline,
            tft_beam.Context(temp_dir=str(folder / "tmp")),
        ):
            batches = pipeline | beam.Create(self._examples(rows)) | source.BeamSource()
            learned = (batches, source.TensorAdapterConfig()) | tft_beam.AnalyzeDataset(
                partial(self._preprocessing_fn, custom_config=self.model.custom_config)
            )
            _ = learned | tft_beam.WriteTransformFn(str(folder / "graph"))
            metadata = dataset_metadata.DatasetMetadata(self.schema)
            _ = metadata | tft_beam.WriteMetadata(str(folder / "graph" / "metadata"), pipeline)
        return tft.TFTransformOutput(str(folder / "graph"))

    def transform(self, graph: tft.TFTransformOutput, rows: pa.Table) -> dict[str, np.ndarray]:
        """The transformed rows, by feature."""
        raw = tf.io.parse_example(self._examples(rows), self._spec)
        return {name: value.numpy() for name, value in graph.transform_raw_features(raw).items()}

    @property
    def _spec(self) -> dict[str, Any]:
        names = (*self.model.raw_features, self.task.label)
        spec = schema_utils.schema_as_feature_spec(self.schema).feature_spec
        return {name: spec[name] for name in names}

    def _batch(self, rows: pa.Table) -> pa.RecordBatch:
        (batch,) = rows.combine_chunks().to_batches()
        return to_example_batch(batch, self._columns)

    def _examples(self, rows: pa.Table) -> list[bytes]:
        encoder = example_coder.RecordBatchToExamplesEncoder(self.schema)
        return list(encoder.encode(self._batch(rows)))


def change(rows: pa.Table, number: int, *changes: Row) -> pa.Table:
    """Copies of one row, each with some other values."""
    (row,) = rows.slice(number, 1).to_pylist()
    return pa.Table.from_pylist([row | other for other in changes], schema=rows.schema)
