"""What a person can vary in a run: frozen dataclasses, a TOML file and `key=value` over them."""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import json
import math
import re
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from storage.errors import UserError

_CHECKED = ConfigDict(extra="forbid", validate_default=True)


def _check_month(month: int) -> int:
    if month and not (190001 <= month <= 299912 and 1 <= month % 100 <= 12):
        raise ValueError("a month YYYYMM is expected, or 0 for the newest")
    return month


def _match(pattern: str, expected: str) -> AfterValidator:
    """Checks that a text is empty, or matches a pattern as a whole."""

    def check(text: str) -> str:
        if text and not re.fullmatch(pattern, text):
            raise ValueError(f"{expected} is expected, or nothing")
        return text

    return AfterValidator(check)


def _check_secret_place(place: str) -> str:
    if place.startswith("fd:"):
        raise ValueError("a node has no descriptors of the runner: env:NAME or a file is expected")
    return place


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Minutes = Annotated[float, Field(ge=0, le=60 * 24 * 365)]
_DNS_NAME = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
Cpu = Annotated[str, _match(r"[0-9]+(\.[0-9]+)?|[0-9]+m", 'processors such as "2" or "500m"')]
Memory = Annotated[str, _match(r"[0-9]+(\.[0-9]+)?([KMGT]i|[kMGT])", 'memory such as "4Gi"')]
EnvName = Annotated[str, _match(r"[A-Za-z_]\w*", "the name of an environment variable")]
Mode = Literal["none", "float16", "dynamic_range", "int8", "qat", "pqat"]


class ConfigError(UserError):
    """A configuration key that does not exist, or a value that is not allowed."""


@dataclass(frozen=True, config=_CHECKED)
class DataConfig:
    """Which data a run reads.

    Attributes:
      uri: Directory that holds one folder `span-YYYYMM` per month.
      time_column: Timestamp column by which the last days of the window are held out.
      as_of: Month that the Evaluator judges on, YYYYMM; 0 means the newest there is.
      window: Months before `as_of` to learn from.
      eval_days: Days at the end of the window held out for early stopping.
    """

    uri: str = "data/flights"
    time_column: str = "time_hour"
    as_of: Annotated[int, AfterValidator(_check_month)] = 0
    window: Annotated[int, Field(ge=1, le=120)] = 6
    eval_days: Annotated[int, Field(ge=1, le=90)] = 7


@dataclass(frozen=True, config=_CHECKED)
class GateConfig:
    """Which anomalies stop a run: all that DataGate calls errors, but for `warn_only`.

    How far a feature may drift, and how often it may be absent, is said in the schema; see
    docs/data-gate.md for what was measured.

    Attributes:
      schema: Path of the curated schema.
      warn_only: Types of anomaly (of TFMD's `AnomalyInfo`, or DataGate's own) that do not stop the
        run, or `feature:TYPE`.
      max_missing_change: How far the share of rows without a value may be from the served model's.
      max_duplicates: Share of the new month's rows that may repeat another row.
      max_error_growth: How many times worse (in squared error) than in the window a number may
        follow from the other features in the new month.
      min_label_relation: Share of its AUC above 0.5 in the window that a linear prediction of the
        label must keep in the new month.
    """

    schema: str = "schema/schema.pbtxt"
    warn_only: tuple[str, ...] = ()
    max_missing_change: Annotated[float, Field(gt=0, le=1)] = 0.35
    max_duplicates: Share = 0.005
    max_error_growth: Annotated[float, Field(gt=1)] = 40
    min_label_relation: Share = 0.25


@dataclass(frozen=True, config=_CHECKED)
class TrainingConfig:
    """How the network learns.

    Attributes:
      epochs: Most passes over the split `train`.
      batch_size: Rows per step.
      learning_rate: Adam's learning rate at the start, from which it falls along a cosine to 0.
      dropout: Share of each dense layer's inputs that are dropped while learning.
      l2: Weight of the L2 penalty on the dense kernels.
      patience: Epochs without a lower log loss on `eval` before learning stops.
      seed: Seed of all random choices.
      warm_start: How much of the served model's weights the network starts from: 0 for none of
        them, 1 for nothing else. See docs/replay.md for what that does.
    """

    epochs: Annotated[int, Field(ge=1, le=1000)] = 5
    batch_size: Annotated[int, Field(ge=1)] = 1024
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    l2: Annotated[float, Field(ge=0)] = 1e-3
    patience: Annotated[int, Field(ge=1)] = 2
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 7
    warm_start: Share = 0.0


@dataclass(frozen=True, config=_CHECKED)
class PruningConfig:
    """How many weights become zero, and how; see `components.pruner`.

    Attributes:
      target_sparsity: Share of the weights of the dense layers that become zero; 0 for none.
      schedule: "polynomial", from none to the target, or "constant".
      frequency: Steps between two choices of the weights that are zero.
      block_size: Inputs and outputs of a dense layer whose weights become zero together.
      m_by_n: [2, 4] makes 2 of every 4 consecutive weights zero, instead of `target_sparsity`.
      layers: Names or types of layers; none named means all dense layers but the output.
      epochs: Passes over `train` to fine-tune in.
      learning_rate: Adam's learning rate at the start.
    """

    target_sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.84
    schedule: Literal["polynomial", "constant"] = "polynomial"
    frequency: Annotated[int, Field(ge=1)] = 20
    block_size: tuple[Positive, Positive] = (1, 1)
    m_by_n: tuple[Positive, Positive] | tuple[()] = ()
    layers: tuple[str, ...] = ()
    epochs: Annotated[int, Field(ge=1, le=1000)] = 4
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 3e-4


@dataclass(frozen=True, config=_CHECKED)
class QuantizationConfig:
    """How the TFLite model stores and multiplies numbers; see `components.quantizer`.

    Attributes:
      mode: One of the modes, or "auto" for the best of `auto_modes`.
      auto_modes: What "auto" chooses from.
      policy: Whether "auto" takes the smallest or the fastest.
      weight_bits: How many of its 8 bits a weight uses; with fewer the file compresses better.
      sparse: 1 to store weights that are mostly zero without the zeros, 0 to store them all.
      representative_rows: Training examples that the ranges of activations are taken from.
      epochs: Passes over `train` in the modes "qat" and "pqat".
      learning_rate: Adam's learning rate at the start.
    """

    mode: Literal[Mode, "auto"] = "int8"
    auto_modes: tuple[Mode, ...] = ("float16", "dynamic_range", "int8", "qat", "pqat")
    policy: Literal["smallest", "fastest"] = "smallest"
    weight_bits: Annotated[int, Field(ge=5, le=8)] = 5
    sparse: Annotated[int, Field(ge=0, le=1)] = 1
    representative_rows: Positive = 2000
    epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4


@dataclass(frozen=True, config=_CHECKED)
class CompressionConfig:
    """What the compressed model must keep and may cost, or it is not blessed.

    Attributes:
      max_auc_loss: How much lower than the float model's its AUC may be.
      max_slice_auc_loss: The same for every slice that is large enough.
      max_bytes: Largest size of `model.tflite`; 0 for no limit.
      max_p99_ms: Highest 99th percentile of the time it takes for one row; 0 for no limit.
      min_sparsity: Smallest share of zeros among its weights.
    """

    max_auc_loss: Share = 0.005
    max_slice_auc_loss: Share = 0.02
    max_bytes: Annotated[int, Field(ge=0)] = 0
    max_p99_ms: Annotated[float, Field(ge=0)] = 0.0
    min_sparsity: Share = 0.0


@dataclass(frozen=True, config=_CHECKED)
class EvaluationConfig:
    """What a model must reach on the month `as_of` to be blessed.

    Attributes:
      min_auc: Lowest AUC overall.
      min_slice_auc: Lowest AUC of every slice (one carrier, one origin) that is large enough.
      min_slice_examples: Slices with fewer rows are reported, not judged.
      min_calibration: Lowest ratio of mean prediction to label rate.
      max_calibration: Highest such ratio.
      max_auc_loss: How much lower the AUC may be than that of the model being served.
    """

    min_auc: Share = 0.62
    min_slice_auc: Share = 0.55
    min_slice_examples: Annotated[int, Field(ge=1)] = 500
    min_calibration: Annotated[float, Field(ge=0)] = 0.4
    max_calibration: Annotated[float, Field(gt=0)] = 2.5
    max_auc_loss: Share = 0.005


@dataclass(frozen=True, config=_CHECKED)
class ServingConfig:
    """What a model must do on a real server to be blessed, and how versions are kept.

    Attributes:
      rows: Rows of the month `as_of` that the server is asked about.
      tolerance: How far its answers may be from the model's own.
      max_p50_ms: Highest median time of a request about one row; 0 for no limit.
      max_p99_ms: Highest 99th percentile of that; 0 for no limit.
      max_startup_seconds: Longest time until the server is ready; 0 for no limit.
      max_memory_mb: Highest peak of its memory, in MB; 0 for no limit.
      timeout_seconds: How long a model may take to load or to answer before it is taken to hang.
      warmup_rows: Rows that each server asks a version about before its clients do.
      sign: 1 to sign versions, 0 to leave them unsigned.
      signing_key: The private key: its file, env:NAME for an environment variable, or a PKCS #11
        URI; "" for a file of the output directory, made on first use.
      signing_password: Where its password is: env:NAME or a file; "" for a key without.
      public_keys: Public keys, or folders of them (*.pub), of whoever may have signed the served
        version, which becomes the baseline; none for that of the private key, or for all in the
        output directory's folder of keys.
      file_mode: Mode of the files of pushed versions, whatever the umask; 0640 for readers of the
        same group alone.
      encrypt: 1 to encrypt versions, 0 to leave them plain.
      encryption_keys: File of the keys that versions are encrypted with, and that versions and the
        request log are decrypted with; "" for the variable `FLIGHTDECK_ENCRYPTION_KEYS`.
      keep_versions: Newest versions to keep, besides those with a label; 0 for all.
    """

    rows: Positive = 200
    tolerance: Annotated[float, Field(gt=0, le=1)] = 0.005
    max_p50_ms: Annotated[float, Field(ge=0)] = 0.0
    max_p99_ms: Annotated[float, Field(ge=0)] = 0.0
    max_startup_seconds: Annotated[float, Field(ge=0)] = 0.0
    max_memory_mb: Annotated[float, Field(ge=0)] = 0.0
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    warmup_rows: Annotated[int, Field(ge=0, le=1000)] = 10
    sign: Annotated[int, Field(ge=0, le=1)] = 1
    signing_key: Annotated[str, AfterValidator(_check_secret_place)] = ""
    signing_password: Annotated[str, AfterValidator(_check_secret_place)] = ""
    public_keys: tuple[str, ...] = ()
    file_mode: Literal["0600", "0640", "0644", "0660", "0664"] = "0644"
    encrypt: Annotated[int, Field(ge=0, le=1)] = 0
    encryption_keys: str = ""
    keep_versions: Annotated[int, Field(ge=0)] = 10


@dataclass(frozen=True, config=_CHECKED)
class MonitorConfig:
    """What alarms when requests and answers are looked at; see docs/monitoring.md.

    How far a feature may be from the training data, and from the period before, is said in the
    schema.

    Attributes:
      min_rows: A period of fewer rows raises no alarm, and is compared with none.
      max_missing_change: How far the share of rows without a value may be from the training data's,
        and from the period before.
      max_unseen: Share of rows that may have a category that the training data does not have.
      max_error_growth: How many times worse (in squared error) than in the period before a number
        may follow from the other features.
      max_prediction_drift: Jensen-Shannon divergence that predictions may have from those of the
        period before.
      max_mean_ratio: How many times higher or lower the mean prediction may be than the label rate
        of the training data.
      min_auc: Lowest live AUC, where labels have arrived; three standard deviations are granted.
      min_slice_auc: Lowest live AUC of every slice that is large enough; the same.
      min_slice_rows: Slices with fewer labelled rows are left out, and so is the whole.
      max_calibration: How many times higher or lower the mean prediction may be than the rate of
        the labels that have arrived.
    """

    min_rows: Positive = 2000
    max_missing_change: Annotated[float, Field(gt=0, le=1)] = 0.35
    max_unseen: Share = 0.03
    max_error_growth: Annotated[float, Field(gt=1)] = 40
    max_prediction_drift: Annotated[float, Field(gt=0, le=1)] = 0.15
    max_mean_ratio: Annotated[float, Field(gt=1)] = 2.5
    min_auc: Share = 0.58
    min_slice_auc: Share = 0.5
    min_slice_rows: Positive = 500
    max_calibration: Annotated[float, Field(gt=1)] = 3.0


@dataclass(frozen=True, config=_CHECKED)
class NodeConfig:
    """What one node gets on Kubeflow, over what `KubeflowConfig` says of all.

    Attributes:
      cpu: Processors, as Kubernetes writes them: "2" or "500m"; "" for no request and no limit.
      memory: Memory, as Kubernetes writes it: "4Gi"; "" for no request and no limit.
      accelerator: Name of the resource, as in "nvidia.com/gpu"; "" for none.
      accelerators: How many of them.
      retries: How often a failed task is tried again; -1 for as often as those of all nodes.
    """

    cpu: Cpu = ""
    memory: Memory = ""
    accelerator: Annotated[
        str, _match(rf"{_DNS_NAME}/[A-Za-z0-9][\w.-]*", 'a resource such as "nvidia.com/gpu"')
    ] = ""
    accelerators: Positive = 1
    retries: Annotated[int, Field(ge=-1, le=10)] = -1


@dataclass(frozen=True, config=_CHECKED)
class KubeflowConfig:
    """Where the pipeline runs on Kubeflow, and with what.

    Attributes:
      image: The project's image, by digest: `registry/name@sha256:...`.
      volume_claim: PersistentVolumeClaim that all tasks see; "" for none.
      mount_path: Where they see it. `data.uri` and `serving_dir`, where they are relative, and the
        signing key are on it.
      serving_dir: Serving directory: a path on the volume, or `gs://...` or `s3://...`.
      span_store: Where what was made of a month is kept for later runs, as `serving_dir` is; "" for
        nowhere, and so is a relative path without a volume.
      pipeline_root: Where Kubeflow keeps artifacts; "" for where it is set up to.
      cpu: Processors for each node, as in `NodeConfig`.
      memory: Memory for each node.
      retries: How often a failed task is tried again.
      cache: 1 to take tasks whose inputs, parameters and image did not change from the cache.
      uncached: Nodes that always run, because what they look at is not among their inputs.
      env: Environment variables of all tasks.
      secret_env: Environment variables of all tasks that come from a Secret, as "name/key".
      nodes: What single nodes get otherwise, by id.
    """

    image: Annotated[
        str, _match(r"[^\s@]+@sha256:[0-9a-f]{64}", "an image by digest, name@sha256:...,")
    ] = ""
    volume_claim: Annotated[str, _match(_DNS_NAME, "the name of a PersistentVolumeClaim")] = ""
    mount_path: Annotated[str, Field(min_length=2), _match(r"/\S+", "an absolute path")] = (
        "/mnt/flightdeck"
    )
    serving_dir: Annotated[str, Field(min_length=1)] = "serving_model"
    span_store: str = "span_store"
    pipeline_root: Annotated[
        str,
        _match(
            r"(gs|s3|minio)://[^\s/*?[\\]+(/[^\s*?[\\]*)?",
            "gs://..., s3://... or minio://... (without * ? [ \\)",
        ),
    ] = ""
    cpu: Cpu = ""
    memory: Memory = ""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    cache: Annotated[int, Field(ge=0, le=1)] = 1
    uncached: tuple[str, ...] = ("SpanExampleGen", "ServedModel", "Pusher")
    env: dict[EnvName, str] = field(default_factory=dict)
    secret_env: dict[EnvName, Annotated[str, Field(pattern=rf"^{_DNS_NAME}/[\w.-]+$")]] = field(
        default_factory=dict
    )
    # What DataGate stops, it would stop again.
    nodes: dict[str, NodeConfig] = field(
        default_factory=lambda: {"DataGate": NodeConfig(retries=0)}
    )


@dataclass(frozen=True, config=_CHECKED)
class Config:
    """The settings of a run; a part of them to each table.

    Attributes:
      model: Folder of the model's code below `models/`, or the import path of one elsewhere.
      model_name: Name of the model in the Serving directory and to its clients.
      keep_runs: Newest runs whose artifacts, logs and records an output directory keeps, besides
        what versions in the Serving directory and the cache need; 0 for all.
      beam_args: Arguments of the Beam nodes (`--runner=...`).
      node_beam_args: Arguments of single Beam nodes, by id, after `beam_args` and over them.
      node_timeout_minutes: How long a node may take before it is stopped and fails; 0 for any time.
        On Kubeflow, each attempt may.
      node_timeouts: The same of single nodes of the training pipeline, by id.
    """

    model: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$")] = "flights"
    model_name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "flight_delay"
    keep_runs: Annotated[int, Field(ge=0)] = 10
    beam_args: tuple[str, ...] = (
        # Named in full: Beam's default DirectRunner first tries to download another runner.
        "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
        # What remote workers install; without it TFX packages itself anew for every Beam node.
        "--setup_file=./setup.py",
    )
    node_beam_args: dict[str, tuple[str, ...]] = field(default_factory=dict)
    node_timeout_minutes: Minutes = 1440.0
    node_timeouts: dict[str, Minutes] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    pruning: PruningConfig = field(default_factory=PruningConfig)
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    kubeflow: KubeflowConfig = field(default_factory=KubeflowConfig)

    def node_timeout_seconds(self, node_id: str) -> float:
        """How long a node may take; infinite if it may take any time."""
        return self.node_timeouts.get(node_id, self.node_timeout_minutes) * 60 or math.inf


def load_config(path: str | None = None, settings: Iterable[str] = ()) -> Config:
    """Reads a configuration.

    Args:
      path: TOML file with the keys of `Config`; None for the defaults.
      settings: `key=value` each, over the file; a key inside a table is dotted, as in
        `training.epochs=3`, and a list is written as JSON.

    Returns:
      The configuration.

    Raises:
      ConfigError: Naming the key, the value and what is allowed.
    """
    values = _read_toml(path) if path else {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting!r}: expected key=value, as in training.epochs=3")
        _put(values, key.strip(), value.strip())
    _check_keys(values, Config)
    try:
        return TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(e) for e in error.errors())) from error


def config_keys(kind: Any = Config, prefix: str = "") -> list[str]:
    """All dotted keys of the configuration; <name> stands for one that is free to choose."""
    if get_origin(kind) is dict:
        return config_keys(get_args(kind)[1], f"{prefix}.<name>")
    if not dataclasses.is_dataclass(kind):
        return [prefix]
    dot = "." if prefix else ""
    hints = get_type_hints(kind)
    return [key for name in hints for key in config_keys(hints[name], f"{prefix}{dot}{name}")]


def _read_toml(path: str) -> dict[str, Any]:
    try:
        content = Path(path).read_bytes()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError("it is UTF-16: save it as UTF-8")
        return tomllib.loads(content.decode("utf-8-sig"))  # Some editors begin with such a mark.
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"configuration file {path}: line {line} is not UTF-8: save it as UTF-8"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"configuration file {path}: {error}") from error


def _put(values: dict[str, Any], key: str, text: str) -> None:
    *tables, name = key.split(".")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{key}: {table} is not a table")
        values = inner
    values[name] = _parse_list(key, text) if text.startswith("[") else text


def _parse_list(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{key} = {text!r}: not a JSON list: {error}") from error


def _check_keys(values: Mapping[str, Any], kind: Any, prefix: str = "") -> None:
    hints = get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
    for name, value in values.items():
        key = prefix + name
        hint = hints.get(name) if hints else get_args(kind)[1]
        if hint is None:
            near = difflib.get_close_matches(key, config_keys(), n=1, cutoff=0.5)
            guess = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"{key}: no such key; {guess}the keys are {', '.join(config_keys())}")
        if dataclasses.is_dataclass(hint) or get_origin(hint) is dict:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{key} = {value!r}: a table is expected, as in {key}.name=value")
            _check_keys(value, hint, f"{key}.")
        elif isinstance(value, bool):  # pydantic takes it for the number 0 or 1
            raise ConfigError(f"{key} = {value!r}: no key is true or false")
        elif any("\0" in str(v) for v in (value if isinstance(value, list) else [value])):
            # Neither a path nor an argument may have it.
            raise ConfigError(f"{key} = {value!r}: no value has a NUL character")


def _explain(error: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    given = error["input"]
    shown = f" = {given!r}" if not isinstance(given, Mapping | types.SimpleNamespace) else ""
    return f"{key}{shown}: {error['msg'].removeprefix('Value error, ')}"
