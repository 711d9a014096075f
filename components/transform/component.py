"""Transform: like TFX's, but keeps TFT's analysis of each span from run to run."""

import json
import logging
import os
import traceback

import apache_beam as beam
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata
from tfx import v1 as tfx

# `faster_steps` and `ordered_merges` replace steps of TFT.
from components.transform import faster_steps, ordered_merges  # noqa: F401
from components.transform.files import FILE, OrderedRecords, read_batches, transform_split
from components.transform.kept_analyses import KeptAnalyses, code_version
from ml.artifacts import load_schema, split_files, split_uri
from ml.custom_config import bind_custom_config
from ml.effort import Stopwatch
from ml.in_process_beam import run_in_process
from ml.parameters import load_function
from storage.errors import from_worker_traceback
from storage.span_store import SpanStore


@tfx.dsl.components.component(use_beam=True)
def Transform(
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    transform_graph: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.TransformGraph],
    transformed_examples: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Examples],
    preprocessing_fn: tfx.dsl.components.Parameter[str],
    custom_config: tfx.dsl.components.Parameter[str],
    analyze: tfx.dsl.components.Parameter[str],
    transform: tfx.dsl.components.Parameter[str],
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Analyzes splits with TensorFlow Transform, and transforms splits accordingly.

    The stock component keeps the analysis of a whole artifact of examples, but a rolling window is
    a new artifact in each run. This one keeps the analysis of each month of the window, as TFT's
    own analyzer cache, in the `SpanStore` of the environment, and later runs reuse it.

    Example:
      transform = Transform(
          examples=example_gen.outputs["examples"],
          schema=schema_gen.outputs["schema"],
          preprocessing_fn="models.my_model.preprocessing.preprocessing_fn",
          custom_config='{"label": "tip"}',
          analyze='["train"]',
          transform='["train", "eval"]',
      )

    Args:
      examples: Gzipped TFRecords, with the file names of SpanExampleGen, by which analyses are
        kept.
      schema: Types and tensor representations of the features.
      transform_graph: Component `outputs` contains: the transformation, as `TFTransformOutput`
        reads it.
      transformed_examples: Component `outputs` contains: a file for each file of each split, with
        the same name and the rows in the same order.
      preprocessing_fn: Import path of the `preprocessing_fn`.
      custom_config: JSON object that `preprocessing_fn` gets, if it has a parameter of this name.
      analyze: JSON list of the splits to analyze.
      transform: JSON list of the splits to transform.
      beam_pipeline: Supplied by TFX.

    Raises:
      UserError: If there is no such function or split.
    """
    stopwatch = Stopwatch("Transform")
    user_function = load_function(preprocessing_fn)
    function = bind_custom_config(user_function, custom_config)
    learned_from = [f for split in json.loads(analyze) for f in split_files(examples, split)]
    applied_to = {split: split_files(examples, split) for split in json.loads(transform)}
    raw = load_schema(schema)
    source = OrderedRecords("in memory", schema=raw)
    specs = source.TensorAdapter().OriginalTypeSpecs()
    to_analyze = source.Project(tft.get_analyze_input_columns(function, specs))
    version = code_version(user_function, custom_config, raw.SerializeToString(deterministic=True))
    kept = KeptAnalyses(SpanStore.of_environment(), version, function, specs)
    temporary = os.path.join(transform_graph.uri, ".temp")

    def compute(pipeline: beam.Pipeline) -> None:
        # Unlike the stock component, without deep copies of what a second phase reads: TFT 1.16
        # makes them in a way that its Beam no longer supports.
        with tft_beam.Context(temp_dir=temporary):
            if kept.store.uri:
                learned = kept.analyze(pipeline, learned_from, to_analyze)
            else:
                rows = read_batches(pipeline, "Analyze", learned_from, to_analyze)
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
                with tft_beam.Context(passthrough_keys={FILE}):
                    for split, files in applied_to.items():
                        folder = split_uri(transformed_examples.uri, split)
                        transform_split(pipeline, split, files, read, learned, folder)

    try:
        try:
            run_in_process(compute, beam_pipeline)
        except Exception as error:
            if not (kept.used and _is_of_worker(error)):
                raise
            logging.warning(
                "Transform failed with the kept analyses; it analyzes all data again", exc_info=True
            )
            for uri in (transform_graph.uri, transformed_examples.uri):
                tf.io.gfile.rmtree(uri)
                tf.io.gfile.makedirs(uri)
            kept.ignored = True
            run_in_process(compute, beam_pipeline)
    except Exception as error:
        if user_error := from_worker_traceback(_raised(error)):
            raise user_error from None
        raise
    tf.io.gfile.rmtree(temporary)
    transformed_examples.split_names = json.dumps(list(applied_to))
    stopwatch.stop(transform_graph)


def _raised(error: Exception) -> str:
    return "".join(traceback.format_exception_only(error))


def _is_of_worker(error: Exception) -> bool:
    """Whether a Beam worker failed, and not by a user error: kept accumulators may not fit.

    False, for instance, if this process is being stopped.
    """
    raised = _raised(error)
    return "[while running" in raised and from_worker_traceback(raised) is None
