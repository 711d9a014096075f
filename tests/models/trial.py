"""What the tests of models share: the data, as the pipeline reads them, and a short training."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils
from tfx import v1 as tfx
from tfx_bsl.coders import example_coder
from tfx_bsl.public import tfxio

from components.quantizer.conversion import convert
from ml.complete_schema import complete_schema
from ml.custom_config import bind_custom_config
from ml.example_columns import Columns, to_example_batch
from ml.learning import Learning
from ml.names import graph_names
from ml.predictors import SavedModelPredictor, TFLitePredictor
from pipeline.config import load_config
from pipeline.model import Model
from storage.names import RAW_SIGNATURE
from storage.spans import filesystem, resolve_window
from storage.tables import iter_batches
from tests.conftest import PROJECT

_ROWS = 1000
_REQUESTS = 50
_EXTREME = 1e30

Row = dict[str, Any]


class ModelData:
    """A model of `models/` and its data.

    Args:
      name: Its name.
      settings: Settings that go over its own.
    """

    def __init__(self, name: str, settings: Sequence[str] = ()):
        self.config = load_config(settings=[f"model={name}", *settings])
        self.model = Model.load(self.config)
        self.task = self.model.task
        self.schema = complete_schema(
            tfdv.load_schema_text(str(PROJECT / self.config.gate.schema)),
            self.config.label,
            self.config.features,
            self.config.data.time_column,
            self.config.example_weight,
        )
        self._columns = Columns.from_schema(self.schema, self.config.data.time_column)

    @property
    def learning(self) -> Learning:
        """How the network is trained by default."""
        return Learning.from_config(self._custom_config)

    def read(self, most: int = 0) -> pa.Table:
        """The rows of the window's files, evenly spread ones if there are more than `most`."""
        source = dataclasses.replace(
            self.config.data.source, uri=str(PROJECT / self.config.data.uri)
        )
        files, _ = filesystem(source.uri)
        window = resolve_window(source, self.config.data.as_of, self.config.data.window)
        paths = list(dict.fromkeys(path for span in window.spans for path in span.files))
        tables = []
        for path in paths:
            batches = iter_batches(
                path, files, self._columns.text_types, source.text, list(self._columns.types)
            )
            table = pa.Table.from_batches(list(batches))
            self._columns.check(path, table.schema)
            step = max(1, math.ceil(table.num_rows * len(paths) / most)) if most else 1
            tables.append(table.take(pa.array(range(0, table.num_rows, step))))
        return pa.concat_tables(tables)

    def anomalies(self, rows: pa.Table) -> dict[str, str]:
        """What TFDV finds in rows, by feature."""
        options = tfdv.StatsOptions(schema=self.schema)
        statistics = stats_impl.generate_statistics_in_memory(self._batch(rows), options)
        found = tfdv.validate_statistics(statistics, self.schema, environment="TRAINING")
        return {name: info.description for name, info in found.anomaly_info.items()}

    def learn(self, rows: pa.Table, folder: Path) -> tft.TFTransformOutput:
        """The transformation of some rows."""
        custom_config = json.dumps(self.model.custom_config)
        function = bind_custom_config(_load(self.model.preprocessing_fn), custom_config)
        source = tfxio.TFExampleBeamRecord(physical_format="inmem", schema=self.schema)
        source = source.Project(list(self._spec))
        with (
            beam.Pipeline(argv=list(self.config.beam_args)) as pipeline,
            tft_beam.Context(temp_dir=str(folder / "tmp")),
        ):
            batches = pipeline | beam.Create(self.examples(rows)) | source.BeamSource()
            learned = (batches, source.TensorAdapterConfig()) | tft_beam.AnalyzeDataset(function)
            _ = learned | tft_beam.WriteTransformFn(str(folder / "graph"))
            metadata = dataset_metadata.DatasetMetadata(self.schema)
            _ = metadata | tft_beam.WriteMetadata(str(folder / "graph" / "metadata"), pipeline)
        return tft.TFTransformOutput(str(folder / "graph"))

    def transform(self, graph: tft.TFTransformOutput, rows: pa.Table) -> dict[str, np.ndarray]:
        """The transformed rows, by feature."""
        raw = tf.io.parse_example(self.examples(rows), self._spec)
        return {name: value.numpy() for name, value in graph.transform_raw_features(raw).items()}

    def train(
        self,
        graph: tft.TFTransformOutput,
        train: pa.Table,
        evaluation: pa.Table,
        folder: Path,
        epochs: int = 0,
    ) -> str:
        """Trains the network by its `run_fn`; as long as its settings say, if `epochs` is 0.

        Returns:
          Folder of the SavedModel.
        """
        files = {"train": train, "eval": evaluation}
        for name, rows in files.items():
            self._write_transformed(graph, rows, folder / f"{name}.gz")
        arguments = tfx.components.FnArgs(
            train_files=[str(folder / "train.gz")],
            eval_files=[str(folder / "eval.gz")],
            transform_output=str(folder / "graph"),
            serving_model_dir=str(folder / "model"),
            model_run_dir=str(folder / "run"),
            custom_config=self._custom_config | ({"epochs": epochs} if epochs else {}),
        )
        _load(self.model.run_fn)(arguments)
        return str(folder / "model")

    def examples(self, rows: pa.Table) -> list[bytes]:
        """The rows, serialized, bytes [rows]."""
        encoder = example_coder.RecordBatchToExamplesEncoder(self.schema)
        return list(encoder.encode(self._batch(rows)))

    @property
    def _custom_config(self) -> dict[str, Any]:
        network = {"network": self.config.network}
        return dataclasses.asdict(self.config.training) | network | self.model.custom_config

    @property
    def _spec(self) -> dict[str, Any]:
        config = self.config
        names = (*config.features, config.label, config.data.time_column, config.example_weight)
        spec = schema_utils.schema_as_feature_spec(self.schema).feature_spec
        return {name: spec[name] for name in dict.fromkeys(names) if name}

    def _batch(self, rows: pa.Table) -> pa.RecordBatch:
        (batch,) = rows.combine_chunks().to_batches()
        return to_example_batch(batch, self._columns)

    def _write_transformed(self, graph: tft.TFTransformOutput, rows: pa.Table, path: Path) -> None:
        """Writes the transformed rows as gzipped TFRecords."""
        columns = self.transform(graph, rows)
        coder = tft.coders.ExampleProtoCoder(graph.transformed_metadata.schema)
        with tf.io.TFRecordWriter(str(path), "GZIP") as out:
            for row in range(rows.num_rows):
                out.write(coder.encode({name: value[row] for name, value in columns.items()}))


@dataclass(frozen=True)
class Trial:
    """A model after one epoch on some rows.

    Attributes:
      data: The model and its data.
      rows: The rows.
      graph: The transformation of these rows.
      saved_model: Folder of the SavedModel.
    """

    data: ModelData
    rows: pa.Table
    graph: tft.TFTransformOutput
    saved_model: str

    @classmethod
    def make(cls, name: str, folder: Path) -> Trial:
        """Trains a model in a folder."""
        data = ModelData(name)
        rows = data.read(_ROWS)
        graph = data.learn(rows, folder)
        return cls(data, rows, graph, data.train(graph, rows, rows, folder, epochs=1))

    @property
    def requests(self) -> np.ndarray:
        """Rows to predict, without each feature that may be absent too, bytes [rows]."""
        examples = self.data.examples(self.rows.slice(0, _REQUESTS))
        rows = [*examples, *(self._without(examples[0], [name]) for name in self._optional())]
        return np.array(rows, object)

    def anomalies(self) -> dict[str, str]:
        """What TFDV finds wrong with the rows, by feature."""
        return self.data.anomalies(self.rows)

    def transform(self, examples: list[bytes]) -> dict[str, np.ndarray]:
        """What the served model makes of rows without a label."""
        layer = self.graph.transform_features_layer()
        parsed = tf.io.parse_example(np.array(examples, object), self._request_spec())
        return {name: value.numpy() for name, value in layer(parsed).items()}

    def empty_rows(self) -> list[bytes]:
        """A row without any value that may be absent."""
        return [self._without(self.requests[0], self._optional())]

    def extreme_rows(self) -> list[bytes]:
        """Rows with an unknown text, and very large and very small numbers."""
        found = []
        for sign in (-1.0, 1.0):
            example = tf.train.Example.FromString(self.requests[0])
            for name in self.data.config.features:
                feature = example.features.feature[name]
                if feature.HasField("bytes_list"):
                    feature.bytes_list.value[:] = ["never seen ∅".encode()]
                if feature.HasField("float_list"):
                    feature.float_list.value[:] = [sign * _EXTREME] * len(feature.float_list.value)
            found.append(example.SerializeToString())
        return found

    def by_examples(self) -> np.ndarray:
        """Predictions of serialized examples, float32 [rows, outputs]."""
        return SavedModelPredictor(self.saved_model).predict(self.requests)

    def by_features(self) -> np.ndarray:
        """Predictions by the signature of raw features, float32 [rows, outputs]."""
        signature = tf.saved_model.load(self.saved_model).signatures[RAW_SIGNATURE]
        predictor = TFLitePredictor(self._tflite())
        features = predictor.parse(self.requests)
        (_, arguments) = signature.structured_input_signature
        names = graph_names(features)
        given = {names[name]: tf.constant(value) for name, value in features.items()}
        assert set(given) == set(arguments)
        (output,) = signature(**given).values()
        return np.asarray(output)

    def on_device(self) -> np.ndarray:
        """Predictions of the TFLite model without quantization, float32 [rows, outputs]."""
        return TFLitePredictor(self._tflite()).predict(self.requests)

    def _optional(self) -> list[str]:
        """The features that may be absent."""
        spec = self._request_spec()
        return [name for name, part in spec.items() if part.default_value is not None]

    @staticmethod
    def _without(serialized: bytes, names: list[str]) -> bytes:
        example = tf.train.Example.FromString(serialized)
        for name in names:
            example.features.feature.pop(name, None)
        return example.SerializeToString()

    def _tflite(self) -> bytes:
        return convert(self.saved_model, RAW_SIGNATURE, float16=False, quantize=False)

    def _request_spec(self) -> dict[str, Any]:
        spec = self.graph.raw_feature_spec()
        return {name: spec[name] for name in self.data.config.features}


def change(rows: pa.Table, number: int, *changes: Row) -> pa.Table:
    """Copies of one row, each with some other values."""
    (row,) = rows.slice(number, 1).to_pylist()
    return pa.Table.from_pylist([row | other for other in changes], schema=rows.schema)


def _load(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
