"""A short training of a model of `models/` on some rows of its data, for its tests."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Callable, Iterator
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
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata
from tfx import v1 as tfx
from tfx_bsl.coders import example_coder
from tfx_bsl.public import tfxio

from components.quantizer.conversion import convert
from ml.complete_schema import complete_schema
from ml.custom_config import bind_custom_config
from ml.example_columns import Columns, to_example_batch
from ml.names import graph_names
from ml.predictors import SavedModelPredictor, TFLitePredictor
from pipeline.config import Config, load_config
from pipeline.model import Model
from storage.names import RAW_SIGNATURE
from storage.parquet import open_file
from storage.spans import filesystem, resolve_window
from storage.table_formats import Format
from storage.tables import iter_batches
from tests.conftest import PROJECT

_ROWS = 1000
_REQUESTS = 50
_EXTREME = 1e30


@dataclass(frozen=True)
class Trial:
    """A model after one epoch on some rows.

    Attributes:
      config: Its settings.
      schema: Its schema.
      examples: The rows, serialized, bytes [rows].
      graph: The transformation of these rows.
      saved_model: Folder of the SavedModel.
    """

    config: Config
    schema: schema_pb2.Schema
    examples: list[bytes]
    graph: tft.TFTransformOutput
    saved_model: str

    @classmethod
    def make(cls, name: str, folder: Path) -> Trial:
        """Trains a model in a folder."""
        config = load_config(settings=[f"model={name}"])
        model = Model.load(config)
        schema = complete_schema(
            tfdv.load_schema_text(str(PROJECT / config.gate.schema)),
            config.label,
            config.features,
            config.data.time_column,
            config.example_weight,
        )
        examples = list(_read_examples(config, schema))
        custom_config = model.custom_config
        function = bind_custom_config(_load(model.preprocessing_fn), json.dumps(custom_config))
        graph = _learn(function, examples, schema, folder / "graph")
        rows = folder / "rows.gz"
        _write_transformed(graph, examples, schema, rows)
        arguments = tfx.components.FnArgs(
            train_files=[str(rows)],
            eval_files=[str(rows)],
            transform_output=str(folder / "graph"),
            serving_model_dir=str(folder / "model"),
            model_run_dir=str(folder / "run"),
            custom_config=dataclasses.asdict(config.training) | custom_config | {"epochs": 1},
        )
        _load(model.run_fn)(arguments)
        return cls(config, schema, examples, graph, str(folder / "model"))

    @property
    def requests(self) -> np.ndarray:
        """Rows to predict, serialized, bytes [rows]."""
        return np.array(self.examples[:_REQUESTS], object)

    def anomalies(self) -> dict[str, str]:
        """What TFDV finds wrong with the rows, by feature."""
        decoder = example_coder.ExamplesToRecordBatchDecoder(self.schema.SerializeToString())
        path = f"{self.saved_model}-statistics"
        with beam.Pipeline(argv=list(self.config.beam_args)) as pipeline:
            batches = pipeline | beam.Create([decoder.DecodeBatch(self.examples)])
            statistics = batches | tfdv.GenerateStatistics(tfdv.StatsOptions(schema=self.schema))
            _ = statistics | tfdv.WriteStatisticsToBinaryFile(path)
        found = tfdv.load_stats_binary(path)
        result = tfdv.validate_statistics(found, self.schema, environment="TRAINING")
        return {name: info.description for name, info in result.anomaly_info.items()}

    def transform(self, examples: list[bytes]) -> dict[str, np.ndarray]:
        """What the served model makes of rows without a label."""
        layer = self.graph.transform_features_layer()
        parsed = tf.io.parse_example(np.array(examples, object), self._request_spec())
        return {name: value.numpy() for name, value in layer(parsed).items()}

    def empty_rows(self) -> list[bytes]:
        """A row without any value that may be absent."""
        example = tf.train.Example.FromString(self.examples[0])
        for name, part in self._request_spec().items():
            if part.default_value is not None:
                del example.features.feature[name]
        return [example.SerializeToString()]

    def extreme_rows(self) -> list[bytes]:
        """Rows with an unknown text, and very large and very small numbers."""
        found = []
        for sign in (-1.0, 1.0):
            example = tf.train.Example.FromString(self.examples[0])
            for name in self.config.features:
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

    def _tflite(self) -> bytes:
        return convert(self.saved_model, RAW_SIGNATURE, float16=False, quantize=False, sparse=False)

    def _request_spec(self) -> dict[str, Any]:
        spec = self.graph.raw_feature_spec()
        return {name: spec[name] for name in self.config.features}


def _load(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _read_examples(config: Config, schema: schema_pb2.Schema) -> Iterator[bytes]:
    """Rows from all files of the window, serialized."""
    source = config.data.source
    files, _ = filesystem(source.uri)
    window = resolve_window(source, config.data.as_of, config.data.window)
    paths = list(dict.fromkeys(path for span in window.spans for path in span.files))
    columns = Columns.from_schema(schema, source.time_column)
    encoder = example_coder.RecordBatchToExamplesEncoder()
    share = math.ceil(_ROWS / len(paths))
    for path in paths:
        if Format.of(path) is Format.PARQUET:
            with open_file(path, files) as parquet:
                table = parquet.read()
        else:
            batches = iter_batches(path, files, columns.text_types, source.text)
            table = pa.Table.from_batches(list(batches))
        table = table.select([name for name in table.column_names if name in columns.types])
        step = max(1, table.num_rows // share)
        table = table.take(pa.array(range(0, table.num_rows, step))).combine_chunks()
        for batch in table.to_batches():
            yield from encoder.encode(to_example_batch(batch, columns))


def _learn(
    function: Callable[..., Any], examples: list[bytes], schema: schema_pb2.Schema, folder: Path
) -> tft.TFTransformOutput:
    source = tfxio.TFExampleBeamRecord(physical_format="in memory", schema=schema)
    with beam.Pipeline() as pipeline, tft_beam.Context(temp_dir=str(folder / "temporary")):
        batches = pipeline | beam.Create(examples) | source.BeamSource()
        learned = (batches, source.TensorAdapterConfig()) | tft_beam.AnalyzeDataset(function)
        _ = learned | tft_beam.WriteTransformFn(str(folder))
        metadata = dataset_metadata.DatasetMetadata(schema)
        raw = str(folder / tft.TFTransformOutput.RAW_METADATA_DIR)
        _ = metadata | tft_beam.WriteMetadata(raw, pipeline)
    return tft.TFTransformOutput(str(folder))


def _write_transformed(
    graph: tft.TFTransformOutput, examples: list[bytes], schema: schema_pb2.Schema, path: Path
) -> None:
    """Writes the transformed rows as gzipped TFRecords."""
    parsed = tf.io.parse_example(np.array(examples, object), graph.raw_feature_spec())
    transformed = graph.transform_raw_features(parsed)
    coder = tft.coders.ExampleProtoCoder(graph.transformed_metadata.schema)
    columns = {name: value.numpy() for name, value in transformed.items()}
    with tf.io.TFRecordWriter(str(path), "GZIP") as out:
        for row in range(len(examples)):
            out.write(coder.encode({name: value[row] for name, value in columns.items()}))
