"""Parameters of components that a test does not care about: the configuration's defaults."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from pipeline.config import (
    CompressionConfig,
    GateConfig,
    ServingConfig,
    load_config,
)
from pipeline.explanation_config import ExplanationConfig
from pipeline.network_config import PruningConfig, QuantizationConfig, TrainingConfig

LAYOUT = load_config().data.source.layout
_GATE, _SERVING, _TRAINING = GateConfig(schema="-"), ServingConfig(), TrainingConfig()
_TASK = load_config().make_task().to_json()
_FIT = {
    "custom_config": "{}",
    "loss": "",
    "class_weights": "",
    "batch_size": _TRAINING.batch_size,
    "seed": _TRAINING.seed,
    "rows_in_memory": _TRAINING.rows_in_memory,
}


def _parameters(table: Any, *without: str) -> dict[str, Any]:
    return {
        name: json.dumps(value) if isinstance(value, tuple) else value
        for name, value in asdict(table).items()
        if name not in without
    }


DEFAULTS: dict[str, dict[str, Any]] = {
    "SpanExampleGen": {
        "layout": LAYOUT,
        "as_of": 0,
        "window": 6,
        "eval_days": 7,
        "eval_share": 0.1,
        "test_share": 0.2,
        "key_columns": "[]",
        "fingerprint": "",
    },
    "DataGate": {
        "environment": "TRAINING",
        "features": "[]",
        **_parameters(_GATE, "schema"),
    },
    "Transform": {
        "custom_config": "{}",
        "analyze": '["train"]',
        "transform": '["train", "eval"]',
    },
    "Pruner": _FIT | _parameters(PruningConfig()) | {"max_loss": 0.005},
    "Quantizer": _FIT
    | _parameters(QuantizationConfig())
    | {"signature": "raw_features", "max_loss": 0.005},
    "CompressionEvaluator": {
        "split": "test",
        "confidence": 0.0,
        **_parameters(CompressionConfig(), "max_loss", "max_slice_loss"),
    },
    "ServingValidator": {
        "task": _TASK,
        "split": "test",
        **{
            name: getattr(_SERVING, name)
            for name in (
                *("rows", "tolerance", "max_p50_ms", "max_p99_ms", "max_startup_seconds"),
                *("max_memory_mb", "timeout_seconds", "warmup_rows"),
            )
        },
    },
    "Pusher": {
        "run_key": "",
        "origin": "",
        "signing_key": "",
        "signing_password": "",
        "encrypt": False,
        "encryption_keys": "",
        "file_mode": "0644",
        "keep_versions": 0,
        "card": "",
    },
    "Explainer": {
        "model_name": "model_name",
        "slices": "[]",
        "split": "test",
        **_parameters(ExplanationConfig(), "enabled"),
        "groups": "{}",
    },
    "ServedModel": {"version": 0, "public_keys": "[]", "encryption_keys": ""},
    "ServingMonitor": {"challenger": "{}"},
    "RequestExampleGen": {
        "data_uri": "",
        "layout": LAYOUT,
        "task": load_config().make_task().to_json(),
        "encryption_keys": "",
    },
}
