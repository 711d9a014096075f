"""The training DAG, from spans to a pushed version. Every node is an executor."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import json_format
from tfx import v1 as tfx

from components.baseline_evaluator import BaselineEvaluator
from components.compression_evaluator import CompressionEvaluator
from components.data_gate.component import DataGate
from components.evaluator.component import Evaluator
from components.explainer.component import Explainer
from components.import_schema_gen import ImportSchemaGen
from components.pruner.component import Pruner
from components.pusher import Pusher
from components.quantizer.component import Quantizer
from components.served_model import ServedModel
from components.serving_validator.component import ServingValidator
from components.span_example_gen.component import SpanExampleGen
from components.statistics_gen import StatisticsGen
from components.trainer.component import Trainer
from components.transform.component import Transform
from components.tuner.component import Tuner
from pipeline.config import BATCH_PREDICTOR, Config
from pipeline.evaluation import make_compression_eval_config, make_eval_config
from pipeline.layers import ConfigError
from pipeline.metadata import connect
from pipeline.model import SAVE_FN, Model
from pipeline.model_folders import read_card
from pipeline.schema_checks import check_schema
from storage.errors import SurroundingsError
from storage.names import RAW_SIGNATURE

PIPELINE_NAME = "flightdeck"
# The nodes that depend on the data alone: neither on a model nor on what is served.
DATA_NODES = (
    *("ImportSchemaGen", "SpanExampleGen", "StatisticsGen", "ExampleValidator"),
    *("BaselineEvaluator", "Transform"),
)
# The node that measures times, which other nodes would change.
TIMED_NODE = "ServingValidator"


def create_pipeline(
    config: Config,
    *,
    pipeline_root: str,
    serving_dir: str,
    fingerprint: str = "",
    served_version: int = 0,
    run_key: str = "",
    origin: str = "",
    signing_key: str = "",
    encryption_keys: str = "",
    public_keys: Sequence[str] = (),
    metadata_path: str | None = None,
    enable_cache: bool = True,
    pipeline_name: str = PIPELINE_NAME,
) -> tfx.dsl.Pipeline:
    """Builds the training pipeline.

    Example:
      create_pipeline(load_config(), pipeline_root="output/artifacts", serving_dir="output/serving")

    Args:
      config: The settings of the run.
      pipeline_root: URI under which TFX keeps artifacts.
      serving_dir: URI of the Serving directory.
      fingerprint: Fingerprint of the window of spans, if the caller has resolved it; part of the
        cache key of SpanExampleGen.
      served_version: The served version, part of the cache key of ServedModel; with 0 ServedModel
        looks it up.
      run_key: Identifies data, configuration and code; kept with the pushed version.
      origin: What the version is made from, as a JSON object; kept with it.
      signing_key: File of the private key that signs pushed versions, made on first use; "" leaves
        them unsigned.
      encryption_keys: File of the keys that versions are encrypted and decrypted with; "" for the
        environment.
      public_keys: Public keys, or folders of them, that the served version is verified with. With
        none it is not verified.
      metadata_path: SQLite file of ML Metadata; None if the orchestrator has its own.
      enable_cache: Whether nodes whose inputs and parameters did not change come from the cache.
      pipeline_name: Name of the pipeline, part of all cache keys.

    Returns:
      The pipeline.

    Raises:
      ConfigError: If the schema does not fit the configuration, see `check_schema`, or the model's
        `card.md` cannot be read.
    """
    check_schema(config)
    model = Model.load(config)
    custom_config = json.dumps(model.custom_config)
    training = _as_parameters(config.training)
    schema_gen = ImportSchemaGen(
        schema_file=config.gate.schema,
        label=model.task.label,
        features=json.dumps(model.raw_features),
        time_column=model.time_column,
        example_weight=model.task.example_weight,
    )
    example_gen = SpanExampleGen(
        schema=schema_gen.outputs["schema"],
        data_uri=config.data.uri,
        layout=config.data.source.layout,
        as_of=config.data.as_of,
        window=config.data.window,
        eval_days=config.data.eval_days,
        eval_share=config.data.eval_share,
        test_share=config.data.test_share,
        key_columns=json.dumps(config.data.key_columns),
        fingerprint=fingerprint,
    )
    statistics_gen = StatisticsGen(
        examples=example_gen.outputs["examples"], schema=schema_gen.outputs["schema"]
    )
    example_validator = tfx.components.ExampleValidator(
        statistics=statistics_gen.outputs["statistics"], schema=schema_gen.outputs["schema"]
    )
    served_model = ServedModel(
        serving_dir=serving_dir,
        model_name=config.model_name,
        version=served_version,
        encryption_keys=encryption_keys,
        public_keys=json.dumps(public_keys),
    )
    data_gate = DataGate(
        examples=example_gen.outputs["examples"],
        statistics=statistics_gen.outputs["statistics"],
        schema=schema_gen.outputs["schema"],
        served_statistics=served_model.outputs["statistics"],
        environment="TRAINING",
        warn_only=json.dumps(config.gate.warn_only),
        features=json.dumps(model.raw_features),
        task=model.task.to_json(),
        max_missing_change=config.gate.max_missing_change,
        max_duplicates=config.gate.max_duplicates,
        max_error_growth=config.gate.max_error_growth,
        min_label_relation=config.gate.min_label_relation,
    )
    transform = Transform(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        preprocessing_fn=model.preprocessing_fn,
        custom_config=custom_config,
        analyze=json.dumps(["train"]),
        transform=json.dumps(["train", "eval"]),
    )
    transform.add_upstream_node(data_gate)
    baseline_evaluator = None
    if config.evaluation.baselines:
        baseline_evaluator = BaselineEvaluator(
            examples=example_gen.outputs["examples"],
            statistics=statistics_gen.outputs["statistics"],
            schema=schema_gen.outputs["schema"],
            task=model.task.to_json(),
            features=json.dumps(model.raw_features),
            split="test",
        )
        baseline_evaluator.add_upstream_node(data_gate)
    network = json.dumps(config.network)
    tuner = None
    if config.tuning.trials:
        tuner = Tuner(
            examples=transform.outputs["transformed_examples"],
            transform_graph=transform.outputs["transform_graph"],
            schema=schema_gen.outputs["schema"],
            run_fn=model.run_fn,
            custom_config=custom_config,
            task=model.task.to_json(),
            network=network,
            space=json.dumps(config.tuning.distributions(config.network)),
            **_as_parameters(config.tuning, without="space"),
            **_as_parameters(config.training, without="warm_start"),
        )
    trainer = Trainer(
        run_fn=model.run_fn,
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema_gen.outputs["schema"],
        train_args=tfx.proto.TrainArgs(splits=["train"]),
        eval_args=tfx.proto.EvalArgs(splits=["eval"]),
        settings=training | ({"network": network} if config.network else {}),
        custom_config=model.custom_config,
        hyperparameters=tuner.outputs["best_hyperparameters"] if tuner else None,
        # Only for a warm start, because it is part of the cache key.
        base_model=served_model.outputs["model"] if config.training.warm_start else None,
    )
    learning = {
        "save_fn": SAVE_FN,
        "custom_config": custom_config,
        "task": model.task.to_json(),
        "loss": config.training.loss,
        "class_weights": training["class_weights"],
        "batch_size": config.training.batch_size,
        "seed": config.training.seed,
        "rows_in_memory": config.training.rows_in_memory,
    }
    max_loss = _or_default(config.compression.max_loss, model.task.max_loss)
    pruner = Pruner(
        model=trainer.outputs["model"],
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        max_loss=max_loss,
        **learning,
        **_as_parameters(config.pruning),
    )
    quantizer = Quantizer(
        model=pruner.outputs["pruned_model"],
        float_model=trainer.outputs["model"],
        examples=example_gen.outputs["examples"],
        transformed_examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        signature=RAW_SIGNATURE,
        max_loss=max_loss,
        **learning,
        **_as_parameters(config.quantization),
    )
    compression_evaluator = CompressionEvaluator(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        model=quantizer.outputs["quantized_model"],
        float_model=trainer.outputs["model"],
        report=quantizer.outputs["report"],
        eval_config=json_format.MessageToJson(
            make_compression_eval_config(
                config.compression, config.evaluation.min_slice_examples, model
            )
        ),
        task=model.task.to_json(),
        split="test",
        max_bytes=config.compression.max_bytes,
        max_p99_ms=config.compression.max_p99_ms,
        min_sparsity=config.compression.min_sparsity,
        confidence=config.evaluation.confidence,
    )
    evaluator = Evaluator(
        examples=example_gen.outputs["examples"],
        model=quantizer.outputs["quantized_model"],
        baseline_model=served_model.outputs["model"],
        schema=schema_gen.outputs["schema"],
        eval_config=json_format.MessageToJson(make_eval_config(config.evaluation, model)),
        task=model.task.to_json(),
        split="test",
        confidence=config.evaluation.confidence,
        fairness=config.fairness.to_json(),
        max_baseline_loss=_or_default(
            config.evaluation.max_baseline_loss, model.task.max_baseline_loss
        ),
        **({"baselines": baseline_evaluator.outputs["baselines"]} if baseline_evaluator else {}),
    )
    serving_validator = ServingValidator(
        model=quantizer.outputs["quantized_model"],
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        model_name=config.model_name,
        task=model.task.to_json(),
        split="test",
        rows=config.serving.rows,
        tolerance=config.serving.tolerance,
        max_p50_ms=config.serving.max_p50_ms,
        max_p99_ms=config.serving.max_p99_ms,
        max_startup_seconds=config.serving.max_startup_seconds,
        max_memory_mb=config.serving.max_memory_mb,
        timeout_seconds=config.serving.timeout_seconds,
        warmup_rows=config.serving.warmup_rows,
    )
    explainer = None
    if config.explanation.enabled:
        explainer = Explainer(
            examples=example_gen.outputs["examples"],
            model=quantizer.outputs["quantized_model"],
            # Only for the limit that needs it, because it is part of the cache key.
            served_model=served_model.outputs["model"] if config.explanation.max_move < 1 else None,
            model_name=config.model_name,
            task=model.task.to_json(),
            slices=json.dumps(config.slices),
            split="test",
            **_explanation_parameters(config),
        )
    # After the evaluations and explanations, which would slow down the requests that it times.
    serving_validator.add_upstream_nodes(
        [compression_evaluator, evaluator, *([explainer] if explainer else [])]
    )
    pusher = Pusher(
        model=quantizer.outputs["quantized_model"],
        blessing=evaluator.outputs["blessing"],
        compression_blessing=compression_evaluator.outputs["blessing"],
        infra_blessing=serving_validator.outputs["blessing"],
        compression_report=quantizer.outputs["report"],
        evaluation=evaluator.outputs["evaluation"],
        examples=example_gen.outputs["examples"],
        statistics=statistics_gen.outputs["statistics"],
        schema=schema_gen.outputs["schema"],
        serving_dir=serving_dir,
        model_name=config.model_name,
        run_key=run_key,
        origin=origin,
        signing_key=signing_key,
        encrypt=config.serving.encrypt,
        encryption_keys=encryption_keys,
        signing_password=config.serving.signing_password,
        file_mode=config.serving.file_mode,
        keep_versions=config.serving.keep_versions,
        **({"tuning": tuner.outputs["report"]} if tuner else {}),
        card=read_card(config.model),
        transform_graph=transform.outputs["transform_graph"],
        model_run=trainer.outputs["model_run"],
        pruning_report=pruner.outputs["report"],
        **(
            {
                "explanations": explainer.outputs["explanations"],
                "explanation_blessing": explainer.outputs["blessing"],
            }
            if explainer
            else {}
        ),
    )
    components = [
        schema_gen,
        example_gen,
        statistics_gen,
        example_validator,
        served_model,
        data_gate,
        transform,
        *([baseline_evaluator] if baseline_evaluator else []),
        *([tuner] if tuner else []),
        trainer,
        pruner,
        quantizer,
        compression_evaluator,
        evaluator,
        *([explainer] if explainer else []),
        serving_validator,
        pusher,
    ]
    _set_beam_args(components, config.node_beam_args)
    known = [component.id for component in components]
    if unknown := sorted(config.node_timeouts.keys() - set(known)):
        # Not a ConfigError: time limits are not part of the run key, by which a schedule notices a
        # corrected configuration.
        raise SurroundingsError(
            f"node_timeouts.{unknown[0]}: no such node; they are {', '.join(known)}"
        )
    return tfx.dsl.Pipeline(
        pipeline_name=pipeline_name,
        pipeline_root=pipeline_root,
        components=components,
        enable_cache=enable_cache,
        metadata_connection_config=connect(metadata_path),
        beam_pipeline_args=list(config.beam_args),
    )


def _or_default(value: float | None, default: float) -> float:
    return default if value is None else value


def _explanation_parameters(config: Config) -> dict[str, Any]:
    parameters = dataclasses.asdict(config.explanation)
    del parameters["enabled"]
    return parameters | {"groups": json.dumps(config.explanation.groups)}


def _set_beam_args(components: Sequence[Any], node_args: Mapping[str, Sequence[str]]) -> None:
    """Adds Beam arguments to single nodes, after those of the pipeline.

    Raises:
      ConfigError: If a name is not that of a Beam node.
    """
    nodes = {c.id: c for c in components if isinstance(c, tfx.types.BaseBeamComponent)}
    for name, args in node_args.items():
        if name == BATCH_PREDICTOR:
            continue  # It is in another pipeline.
        if name not in nodes:
            known = ", ".join([*nodes, BATCH_PREDICTOR])
            raise ConfigError(f"node_beam_args.{name}: no such Beam node; they are {known}")
        nodes[name].with_beam_pipeline_args(list(args))


def _as_parameters(config: Any, without: str = "") -> dict[str, Any]:
    """Converts a table of the configuration to component parameters: tuples become JSON."""
    return {
        name: json.dumps(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
        if name != without
    }
