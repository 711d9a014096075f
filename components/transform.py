"""Transform: what TFX's does, with TFT's analysis of each span kept from run to run."""

import base64
import gzip
import hashlib
import importlib
import json
import logging
import os
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform import analyzer_nodes, analyzers
from tensorflow_transform.beam import analyzer_cache
from tensorflow_transform.experimental.analyzers import _VocabularyCombiner
from tensorflow_transform.tf_metadata import dataset_metadata
from tfx import v1 as tfx
from tfx_bsl.coders import example_coder
from tfx_bsl.public import tfxio
from tfx_bsl.sketches import MisraGriesSketch, QuantilesSketch

from ml import progress
from ml.artifacts import load_schema, split_files
from ml.networks import load_function
from ml.sketches import decode
from storage.errors import from_worker_traceback
from storage.span_store import ShardName, SpanStore
from storage.tfrecords import open_records, read_records

_KIND = "analysis"
# Of how an analysis is kept; another one leaves what is kept unused.
_ENCODING = b"2"
_MOST_BYTES = 1 << 26  # That an analysis may unpack to.
_BATCH_ROWS = 65_536  # More than a file of SpanExampleGen has.
# A column that says which file a batch becomes; TFT hands it through.
_FILE = "_file"
_KEPT = analyzer_cache.DatasetKey("kept")


@tfx.dsl.components.component(use_beam=True)
def Transform(
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    transform_graph: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.TransformGraph],
    transformed_examples: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Examples],
    preprocessing_fn: tfx.dsl.components.Parameter[str],
    analyze: tfx.dsl.components.Parameter[str] = '["train"]',
    transform: tfx.dsl.components.Parameter[str] = '["train", "eval"]',
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Learns a transformation from some splits by TensorFlow Transform, and applies it to others.

    The stock component keeps the analysis of a whole artifact of examples, and a rolling window is
    another artifact in each run. Here it is kept for each month of the window, as TFT's own
    analyzer cache, in the `SpanStore` of the environment; that of a month which an earlier run has
    analysed is merged as it is.

    Args:
      examples: Gzipped TFRecords; what is kept goes by the names that SpanExampleGen gives them.
      schema: Types and tensor representations of the features.
      transform_graph: Component `outputs` contains: the transformation, as `TFTransformOutput`
        reads it.
      transformed_examples: Component `outputs` contains: for each file of each split to transform,
        one of the same name with its rows in the same order.
      preprocessing_fn: Import path of the `preprocessing_fn`.
      analyze: JSON list of the splits to learn from.
      transform: JSON list of the splits to apply it to.
      beam_pipeline: Supplied by TFX.

    Raises:
      UserError: If there is no such function or split.
    """
    function = load_function(preprocessing_fn)
    learned_from = [f for split in json.loads(analyze) for f in split_files(examples, split)]
    applied_to = {split: split_files(examples, split) for split in json.loads(transform)}
    raw = load_schema(schema)
    source = tfxio.TFExampleBeamRecord("in memory", schema=raw)
    specs = source.TensorAdapter().OriginalTypeSpecs()
    to_analyze = source.Project(tft.get_analyze_input_columns(function, specs))
    version = _version(function, raw.SerializeToString(deterministic=True))
    kept = _KeptAnalyses(SpanStore.of_environment(), version, function, specs)
    temporary = os.path.join(transform_graph.uri, ".temp")

    def compute(beam_pipeline: beam.Pipeline) -> None:
        with (
            beam_pipeline as pipeline,
            # Without the deep copies that the stock component has TFT make of what a second phase
            # reads: TFT 1.16 makes them in a way that the Beam beside it does not know any more.
            tft_beam.Context(temp_dir=temporary),
        ):
            if kept.store.uri:
                learned = kept.analyze(pipeline, learned_from, to_analyze)
            else:
                rows = _read(pipeline, "Analyze", learned_from, to_analyze)
                dataset = (rows, to_analyze.TensorAdapterConfig())
                learned = dataset | "Analyze" >> tft_beam.AnalyzeDataset(function)
            _ = dataset_metadata.DatasetMetadata(
                raw
            ) | "Write raw metadata" >> tft_beam.WriteMetadata(
                os.path.join(transform_graph.uri, tft.TFTransformOutput.RAW_METADATA_DIR), pipeline
            )
            _ = learned | "Write graph" >> tft_beam.WriteTransformFn(transform_graph.uri)
            if applied_to:
                read = source.Project(tft.get_transform_input_columns(function, specs))
                with tft_beam.Context(passthrough_keys={_FILE}):
                    for split, files in applied_to.items():
                        folder = os.path.join(transformed_examples.uri, f"Split-{split}")
                        _apply(pipeline, split, files, read, learned, folder)

    try:
        try:
            compute(beam_pipeline)
        except Exception as error:
            if not (kept.used and _is_of_worker(error)):
                raise
            logging.warning("With what was kept it failed; all is analysed anew", exc_info=True)
            for uri in (transform_graph.uri, transformed_examples.uri):
                tf.io.gfile.rmtree(uri)
                tf.io.gfile.makedirs(uri)
            kept.ignored = True
            compute(beam.Pipeline(beam_pipeline.runner, beam_pipeline.options))
    except Exception as error:
        if user_error := from_worker_traceback(_raised(error)):
            raise user_error from None
        raise
    tf.io.gfile.rmtree(temporary)
    transformed_examples.split_names = json.dumps(list(applied_to))


def _read(pipeline: beam.Pipeline, label: str, files: list[str], source: tfxio.TFXIO) -> Any:
    """Record batches of the columns that `source` has."""
    return (
        pipeline
        | f"{label} files" >> beam.Create(files)
        | f"{label} read" >> beam.ParDo(_Read(source.ArrowSchema()))
    )


class _Read(beam.DoFn):
    """Reads some columns of a file, the name of what it becomes among them if they have it."""

    def __init__(self, columns: pa.Schema):
        self._columns = columns

    def setup(self) -> None:
        names = [name for name in self._columns.names if name != _FILE]
        kinds = {name: self._columns.field(name).type.value_type for name in names}
        features = [schema_pb2.Feature(name=n, type=_KINDS[k]) for n, k in kinds.items()]
        schema = schema_pb2.Schema(feature=features)
        self._decoder = example_coder.ExamplesToRecordBatchDecoder(schema.SerializeToString())

    def process(self, path: str) -> Iterator[pa.RecordBatch]:
        batches = read_records(path).batch(_BATCH_ROWS).as_numpy_iterator()
        for number, records in enumerate(batches):
            batch = self._decoder.DecodeBatch(list(records))
            columns = {name: batch.column(name) for name in batch.schema.names}
            if _FILE in self._columns.names:
                name = os.path.basename(path).removesuffix(".gz")
                name += f"-{number}.gz" if number else ".gz"
                columns[_FILE] = pa.array([[name.encode()]] * batch.num_rows)
            yield pa.RecordBatch.from_arrays(
                [columns[name] for name in self._columns.names], schema=self._columns
            )


_KINDS = {
    pa.binary(): schema_pb2.BYTES,
    pa.large_binary(): schema_pb2.BYTES,
    pa.int64(): schema_pb2.INT,
    pa.float32(): schema_pb2.FLOAT,
}


def _apply(
    pipeline: beam.Pipeline,
    split: str,
    files: list[str],
    source: tfxio.TFXIO,
    learned: Any,
    folder: str,
) -> None:
    """Transforms the files of a split."""
    columns = source.ArrowSchema().append(pa.field(_FILE, pa.large_list(pa.large_binary())))
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
        name = batch.column(batch.schema.get_field_index(_FILE))[0].as_py()[0].decode()
        columns = {c: batch.column(c) for c in batch.schema.names if c != _FILE}
        batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
        tf.io.gfile.makedirs(self._folder)
        path = os.path.join(self._folder, name)
        encoder = example_coder.RecordBatchToExamplesEncoder(schema)
        with open_records(path) as out:
            for example in encoder.encode(batch):
                out.write(example)
        progress.report(f"{batch.num_rows:,} rows transformed")
        yield from ()


class _SketchCoder(analyzer_nodes.CacheCoder):
    """Keeps the sketches of an analyzer as data. An analyzer takes its coder along to workers."""

    def __init__(self, kind: type[Any]):
        self._kind = kind

    def encode_cache(self, cache: Any) -> bytes:
        return bytes(cache.__getstate__())

    def decode_cache(self, encoded_cache: bytes) -> Any:
        return decode(self._kind, encoded_cache)


# TFT's own coders unpickle quantiles, and read a Misra-Gries sketch beyond its end; there is no
# other place to name a coder.
for _combiner, _kind in (
    (analyzers.QuantilesCombiner, QuantilesSketch),
    (_VocabularyCombiner, MisraGriesSketch),
):
    _combiner.accumulator_coder = _SketchCoder(_kind)


@dataclass
class _KeptAnalyses:
    """TFT's analyzer cache of single months, or of the pieces into which one is cut.

    What is kept may be anything that somebody wrote there. What cannot be read is made anew; of
    what can, TFT's workers may not make anything, and then all is made anew.

    Attributes:
      store: Where it is.
      version: Digest of all that an analysis depends on besides the rows.
      function: The `preprocessing_fn`.
      specs: `tf.TypeSpec` of each raw feature.
      ignored: Whether all is analysed anew, and what is kept is replaced.
      used: Whether something that is kept was used.
    """

    store: SpanStore
    version: str
    function: Callable[..., Any]
    specs: Mapping[str, Any]
    ignored: bool = False
    used: bool = False

    def analyze(self, pipeline: beam.Pipeline, files: list[str], source: tfxio.TFXIO) -> Any:
        """Analyses files, of which some may be analysed already, and keeps what is new.

        Returns:
          What `tft_beam.AnalyzeDataset` does.
        """
        kept: dict[bytes, list[bytes]] = {}
        new: dict[analyzer_cache.DatasetKey, tuple[int, list[str]]] = {}
        for month, group in self._groups(files):
            analysis = self._load(month, group)
            if analysis is None:
                key = analyzer_cache.DatasetKey(f"{month}-{self._key(group)}")
                new[key] = (month, group)
            else:
                for name, accumulators in analysis.items():
                    kept.setdefault(name, []).extend(accumulators)
        cache = {}
        self.used = bool(kept)
        if kept:
            # Those of all months in one: TFT takes its time for each data set that it is given.
            entries = {
                name: pipeline
                | f"Kept {i}" >> beam.Create(a, reshuffle=False).with_output_types(bytes)
                for i, (name, a) in enumerate(kept.items())
            }
            cache[_KEPT] = analyzer_cache.DatasetCache(entries, None)
        config = source.TensorAdapterConfig()
        # As TFX's own Transform asks it; TFT's guide has no other way to say whether what was kept
        # is enough. It is not where one analyzer reads what another one has made: such a function
        # needs all rows again.
        needed = tft_beam.analysis_graph_builder.get_analysis_dataset_keys(
            self.function, self.specs, [*new, *cache], cache, False
        )
        if _KEPT in needed:
            rows = (_read(pipeline, "Analyze", files, source), config)
            return rows | "Analyze" >> tft_beam.AnalyzeDataset(self.function)
        data: dict[analyzer_cache.DatasetKey, Any] = {
            key: _read(pipeline, f"Analyze {key.key}", group, source)
            for key, (_, group) in new.items()
        }
        data |= dict.fromkeys(cache)
        dataset = (data, cache, config)
        learned, output = dataset | "Analyze" >> tft_beam.AnalyzeDatasetWithCache(
            self.function, pipeline=pipeline
        )
        self._keep(output, new)
        return learned

    def _groups(self, files: list[str]) -> Iterator[tuple[int, list[str]]]:
        """Months, or their pieces where one of these is kept; 0 for files of others."""
        months: dict[int, dict[int, list[str]]] = {}
        for path in files:
            name = ShardName.parse(os.path.basename(path)) or ShardName(0, 0, 0, "")
            months.setdefault(name.month, {}).setdefault(name.piece, []).append(path)
        for month, pieces in months.items():
            whole = [path for group in pieces.values() for path in group]
            in_pieces = self._load(month, whole) is None and any(
                self._load(month, group) is not None for group in pieces.values()
            )
            for group in pieces.values() if in_pieces else [whole]:
                yield month, group

    def _key(self, group: list[str]) -> str:
        names = sorted(map(os.path.basename, group))
        return hashlib.sha256("\n".join([self.version, *names]).encode()).hexdigest()[:16]

    def _load(self, month: int, group: list[str]) -> dict[bytes, list[bytes]] | None:
        """TFT's accumulators by analyzer; None if there are none, or they cannot be read."""
        if self.ignored or not month:
            return None
        content = self.store.read(_KIND, month, self._key(group))
        try:
            entries = json.loads(_unpack(content)) if content else None
            return entries and {
                base64.b64decode(name): [base64.b64decode(a) for a in accumulators]
                for name, accumulators in entries.items()
            }
        except (
            *(AttributeError, RecursionError, TypeError, ValueError),
            zlib.error,
        ) as error:
            logging.warning(
                "An analysis that was kept cannot be read, and is made again: %s", error
            )
            return None

    def _keep(self, output: Mapping[Any, Any], new: Mapping[Any, tuple[int, list[str]]]) -> None:
        found = [
            accumulators | f"Of {key.key} {i}" >> beam.Map(_with_name, key.key, name)
            for key, cache in output.items()
            if key in new and new[key][0]
            for i, (name, accumulators) in enumerate(cache.items())
        ]
        if found:
            months = {key.key: month for key, (month, _) in new.items()}
            names = sorted(
                {name for key in new if key in output for name in output[key].cache_dict}
            )
            _ = (
                found
                | "All accumulators" >> beam.Flatten()
                | "Of a data set" >> beam.GroupByKey()
                | "Keep" >> beam.Map(_keep, self.store, months, names)
            )


def _unpack(gzipped: bytes) -> bytes:
    """Unpacks a gzip file, unless it is cut or would take much memory."""
    stream = zlib.decompressobj(wbits=31)
    content = stream.decompress(gzipped, _MOST_BYTES)
    if not stream.eof:
        raise ValueError("it is cut or too large")
    return content


def _raised(error: Exception) -> str:
    return "".join(traceback.format_exception_only(error))


def _is_of_worker(error: Exception) -> bool:
    """Whether a Beam worker failed at what nobody can mend, such as accumulators that do not fit.

    Not, for instance, this process, which is to end.
    """
    raised = _raised(error)
    return "[while running" in raised and from_worker_traceback(raised) is None


def _with_name(accumulator: bytes, data_set: str, name: bytes) -> tuple[str, tuple[bytes, bytes]]:
    return data_set, (name, accumulator)


def _keep(
    found: tuple[str, Iterable[tuple[bytes, bytes]]],
    store: SpanStore,
    months: Mapping[str, int],
    names: list[bytes],
) -> None:
    data_set, accumulators = found
    # An analyzer that found nothing must be there too.
    entries: dict[str, list[str]] = {base64.b64encode(name).decode(): [] for name in names}
    for name, accumulator in accumulators:
        entries[base64.b64encode(name).decode()].append(base64.b64encode(accumulator).decode())
    _, _, key = data_set.partition("-")
    store.write(_KIND, months[data_set], key, gzip.compress(json.dumps(entries).encode()))


def _version(function: Callable[..., Any], schema: bytes) -> str:
    """Digest of the code behind a `preprocessing_fn`: its package, TFT, and the schema."""
    package = importlib.import_module(function.__module__.partition(".")[0])
    root = Path(str(package.__file__)).parent
    code = [path.read_bytes() for path in sorted(root.rglob("*.py"))]
    facts = [_ENCODING, tft.__version__.encode(), function.__qualname__.encode(), schema, *code]
    return hashlib.sha256(b"\0".join(facts)).hexdigest()
