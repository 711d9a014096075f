"""The monitoring DAG: from a request log to a report on a version."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from tfx import v1 as tfx

from components.import_schema_gen import ImportSchemaGen
from components.request_example_gen import RequestExampleGen
from components.served_model import ServedModel
from components.serving_monitor.component import ServingMonitor
from components.statistics_gen import StatisticsGen
from components.traffic_example_gen import TrafficExampleGen
from pipeline.config import Config
from pipeline.metadata import connect
from pipeline.model import Model

PIPELINE_NAME = "flightdeck-monitoring"


def create_monitoring_pipeline(
    config: Config,
    *,
    pipeline_root: str,
    serving_dir: str,
    log_uri: str,
    version: int,
    since: int,
    until: int,
    days: int,
    public_keys: Sequence[str] = (),
    metadata_path: str | None = None,
    pipeline_name: str = PIPELINE_NAME,
) -> tfx.dsl.Pipeline:
    """Builds the pipeline that monitors requests to a version and its predictions.

    Args:
      config: Schema, data and thresholds.
      pipeline_root: URI under which TFX keeps artifacts.
      serving_dir: URI of the Serving directory.
      log_uri: Directory of the request log.
      version: The version; 0 for the one with the most requests.
      since: Start of the period, in seconds since the Unix epoch; 0 for `days` before `until`.
      until: End of the period; 0 for `days` after `since`. If both are 0: the newest complete one.
      days: Length of the period unless both are given.
      public_keys: Public keys, or folders of them, that the version is verified with. With none its
        training statistics are not verified.
      metadata_path: SQLite file of ML Metadata; None if the orchestrator has its own.
      pipeline_name: Name of the pipeline.

    Returns:
      The pipeline, without caching: a log grows, and labels arrive.
    """
    model = Model.load(config)
    features = json.dumps(model.raw_features)
    schema_gen = ImportSchemaGen(
        schema_file=config.gate.schema,
        label=model.task.label,
        features=features,
        time_column=model.time_column,
        example_weight=model.task.example_weight,
    )
    log: dict[str, Any] = {
        "schema": schema_gen.outputs["schema"],
        "log_uri": log_uri,
        "model_name": config.model_name,
        "serving_dir": serving_dir,
        "features": features,
        "output": model.prediction,
        "data_uri": config.data.uri,
        "layout": config.data.source.layout,
        "task": model.task.to_json(),
        "encryption_keys": config.serving.encryption_keys,
    }
    example_gen = RequestExampleGen(version=version, since=since, until=until, days=days, **log)
    statistics_gen = StatisticsGen(
        examples=example_gen.outputs["examples"], schema=schema_gen.outputs["schema"]
    )
    served_model = ServedModel(
        serving_dir=serving_dir,
        model_name=config.model_name,
        version=version,
        encryption_keys=config.serving.encryption_keys,
        public_keys=json.dumps(public_keys),
        requests=example_gen.outputs["examples"],
    )
    traffic_gen = TrafficExampleGen(**log)
    monitor = ServingMonitor(
        examples=example_gen.outputs["examples"],
        statistics=statistics_gen.outputs["statistics"],
        schema=schema_gen.outputs["schema"],
        served_statistics=served_model.outputs["statistics"],
        model_name=config.model_name,
        features=features,
        output=model.prediction,
        task=model.task.to_json(),
        slices=json.dumps(model.slices),
        traffic=traffic_gen.outputs["examples"],
        **monitor_settings(config, model),
    )
    return tfx.dsl.Pipeline(
        pipeline_name=pipeline_name,
        pipeline_root=pipeline_root,
        components=[
            schema_gen,
            example_gen,
            statistics_gen,
            served_model,
            traffic_gen,
            monitor,
        ],
        enable_cache=False,
        metadata_connection_config=connect(metadata_path),
        beam_pipeline_args=list(config.beam_args),
    )


def monitor_settings(config: Config, model: Model) -> dict[str, Any]:
    """The parameters of ServingMonitor that are settings; the task's thresholds are defaults."""
    settings, task = dataclasses.asdict(config.monitor), model.task
    del settings["days"]  # That of RequestExampleGen.
    settings["thresholds"] = json.dumps({**task.thresholds, **settings["thresholds"]})
    settings["slice_thresholds"] = json.dumps(
        {**task.slice_thresholds, **settings["slice_thresholds"]}
    )
    settings["challenger"] = json.dumps(config.challenger.comparison)
    return settings
