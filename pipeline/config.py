"""All settings of a run: meaning, defaults for any model, and allowed values.

Those of the data are in `pipeline.data_config`, those of the network in `pipeline.network_config`,
those of fairness in `pipeline.fairness_config`, those of explanations in
`pipeline.explanation_config`, those of champion and challenger in `pipeline.challenger_config`,
those of tuning in `pipeline.tuning_config`, those of Kubeflow in `pipeline.kubeflow_config`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from ml.tasks import Kind, Task
from pipeline.challenger_config import ChallengerConfig
from pipeline.data_config import DataConfig
from pipeline.explanation_config import ExplanationConfig
from pipeline.fairness_config import FairnessConfig
from pipeline.free_tables import join_space, lay_space, type_network
from pipeline.kubeflow_config import KubeflowConfig
from pipeline.layers import ConfigError as ConfigError
from pipeline.layers import list_keys, merge, parse_setting, read_toml
from pipeline.model_folders import MODEL_VARIABLE, default_model, read_model_layer
from pipeline.network_config import PruningConfig, QuantizationConfig, TrainingConfig
from pipeline.setting_types import (
    CHECKED,
    Classes,
    Column,
    Count,
    Features,
    FileMode,
    Growth,
    Limit,
    Minutes,
    Name,
    NetworkSettings,
    OptionalColumn,
    Positive,
    RunParameter,
    SecretPlace,
    Share,
    Switch,
    Text,
    Thresholds,
)
from pipeline.tuning_config import TuningConfig, known_settings
from pipeline.vertex_config import VertexConfig

# The Beam node of the prediction pipeline.
BATCH_PREDICTOR = "BatchPredictor"


@dataclass(frozen=True, config=CHECKED)
class GateConfig:
    """The anomalies that stop a run: all errors of DataGate, except those in `warn_only`.

    The schema limits the drift and the absence of each feature. docs/data-gate.md has measurements.

    Attributes:
      schema: Path of the curated schema.
      warn_only: Types of anomaly (of TFMD's `AnomalyInfo`, or DataGate's own) that do not stop the
        run, or `feature:TYPE`.
      max_missing_change: Largest difference of the share of rows without a value from that of the
        served model's training data.
      max_duplicates: Largest share of the new month's rows that repeat another row, above the share
        in as many rows of the window.
      max_error_growth: Largest growth from the window to the new month, as a factor, of the squared
        error of a numeric feature predicted from the other features.
      min_label_relation: Share of its gain over a constant in the window, by the task's first
        metric, that a linear prediction of the label must keep in the new month.
    """

    schema: Text
    warn_only: tuple[str, ...] = ()
    max_missing_change: Annotated[float, Field(gt=0, le=1)] = 0.2
    max_duplicates: Share = 0.005
    max_error_growth: Growth = 40.0
    min_label_relation: Share = 0.25


@dataclass(frozen=True, config=CHECKED)
class CompressionConfig:
    """The limits that a compressed model must meet to be blessed.

    Attributes:
      max_loss: Largest loss of the task's first metric (AUC, accuracy, RMSE) against the float
        model: a difference, or, for a regression, a share of the float model's value. Without it:
        0.005 for a binary task, 0.01 for classes, 0.02 for a regression.
      max_slice_loss: The same for every slice that is large enough. Without it: 0.02, 0.04, 0.05.
      max_bytes: Largest size of `model.tflite`, in bytes; 0 for no limit.
      max_p99_ms: Highest 99th percentile of its time per row, in milliseconds; 0 for no limit.
      min_sparsity: Smallest share of the float model's weights that are zero or removed.
    """

    max_loss: Limit | None = None
    max_slice_loss: Limit | None = None
    max_bytes: RunParameter[Count] = 0
    max_p99_ms: RunParameter[Limit] = 0.0
    min_sparsity: RunParameter[Share] = 0.0


@dataclass(frozen=True, config=CHECKED)
class EvaluationConfig:
    """The thresholds that a model must meet on the month `as_of` to be blessed.

    Attributes:
      thresholds: By metric, the worst value that is allowed, or the lowest and the highest: of
        `auc`, `auc_pr`, `log_loss`, `calibration` (a binary task), `accuracy`, `macro_auc`,
        `log_loss`, `calibration` (classes), or `rmse`, `mae`, `r2`, `bias` (a regression). They go
        over the task's own: AUC 0.5 and calibration 0.5 to 2; macro AUC 0.5 and the same; R² 0. A
        worst value must be met at the worse end of the metric's 95% interval: the fewer the rows,
        the better the value has to be. See [evaluation.md](evaluation.md).
      slice_thresholds: The same for every slice that is large enough, by value alone. The task's
        own: AUC 0.5 for a binary task.
      min_slice_examples: Slices with fewer rows are not evaluated.
      max_loss: Largest loss of the task's first metric against the served model: a difference, or,
        for a regression, a share of the served model's value. Without it: 0.005 for a binary task,
        0.01 for classes, 0.02 for a regression.
      confidence: Confidence at which such a loss, against the served or the float model, counts,
        such as 0.95; 0 counts any measured loss.
      baselines: Whether the model has to beat a constant and the best single column, and to come
        near gradient boosting; see [evaluation.md](evaluation.md#baselines).
      max_baseline_loss: Largest loss of the task's first metric against gradient boosting: a
        difference, or, for a regression, a share of its value. Without it: 0.02 for a binary task
        and for classes, 0.1 for a regression.
    """

    thresholds: Thresholds = field(default_factory=dict)
    slice_thresholds: Thresholds = field(default_factory=dict)
    min_slice_examples: Positive = 500
    max_loss: Limit | None = None
    confidence: Annotated[float, Field(ge=0, lt=1)] = 0.0
    baselines: Switch = True
    max_baseline_loss: Limit | None = None


@dataclass(frozen=True, config=CHECKED)
class ServingConfig:
    """The limits of a model on a real server, and the storage of versions.

    Attributes:
      rows: Rows of the month `as_of` to send as requests.
      tolerance: Largest absolute difference of a server's prediction from the model's own; of a
        regression in standard deviations of the label.
      max_p50_ms: Highest median time of a request for one row, in milliseconds; 0 for no limit.
      max_p99_ms: Highest 99th percentile of that time; 0 for no limit.
      max_startup_seconds: Longest time until the server is ready; 0 for no limit.
      max_memory_mb: Highest peak of the server's memory, in MB; 0 for no limit.
      timeout_seconds: Longest time to load a model, and to respond, before it fails.
      warmup_rows: Rows of the warm-up requests, which a server runs when it loads a version.
      sign: Whether versions are signed.
      signing_key: The private key: its file, env:NAME for an environment variable, or a PKCS #11
        URI; "" for a file of the output directory, made on first use.
      signing_password: Its password: env:NAME or a file; "" for a key without password.
      public_keys: Public keys, or folders of them (*.pub), that the served version is verified with
        before it becomes the baseline. None means that of the private key, or all in the output
        directory's folder of keys.
      file_mode: Mode of the files of pushed versions, independent of the umask.
      encrypt: Whether versions are encrypted.
      encryption_keys: File of the keys that encrypt and decrypt versions and decrypt the request
        log; "" for the variable `FLIGHTDECK_ENCRYPTION_KEYS`.
      keep_versions: Newest versions to keep, besides those with a label; 0 for all.
    """

    rows: Positive = 200
    tolerance: Annotated[float, Field(gt=0, le=1)] = 0.005
    max_p50_ms: Limit = 0.0
    max_p99_ms: Limit = 0.0
    max_startup_seconds: Limit = 0.0
    max_memory_mb: Limit = 0.0
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    warmup_rows: Annotated[int, Field(ge=0, le=1000)] = 10
    sign: Switch = True
    signing_key: SecretPlace = ""
    signing_password: SecretPlace = ""
    public_keys: tuple[str, ...] = ()
    file_mode: FileMode = "0644"
    encrypt: Switch = False
    encryption_keys: str = ""
    keep_versions: Count = 10


@dataclass(frozen=True, config=CHECKED)
class MonitorConfig:
    """The limits of monitoring; see [monitoring.md](monitoring.md).

    The schema limits the difference of a feature from the training data and from the period before.

    Attributes:
      days: Length of the period, unless both ends are named.
      min_rows: A period of fewer rows raises no alarm and is no baseline.
      max_missing_change: Largest difference of the share of rows without a value from that of the
        training data, and of the period before.
      max_unseen: Largest share of rows with a category that the training data does not have.
      max_error_growth: Largest growth since the period before, as a factor, of the squared error of
        a numeric feature predicted from the other features.
      max_prediction_drift: Largest Jensen-Shannon divergence of the predictions from those of the
        period before.
      max_mean_ratio: Largest ratio, either way, of the mean predicted probability of a class and
        its share of the training labels.
      max_mean_shift: Largest difference of the mean prediction of a regression from the mean
        training label, in standard deviations of the label.
      thresholds: Worst live values of metrics, on the labels that have arrived, or the lowest and
        the highest, by metric of the task; three standard deviations allow for chance. What is not
        set is the task's default (docs/monitoring.md).
      slice_thresholds: The same for every slice that is large enough.
      min_slice_rows: The metrics of slices, and of periods, with fewer labelled rows are not
        evaluated.
    """

    days: Annotated[int, Field(ge=1, le=3660)] = 28
    min_rows: Positive = 2000
    max_missing_change: Annotated[float, Field(gt=0, le=1)] = 0.2
    max_unseen: Share = 0.03
    max_error_growth: Growth = 40.0
    max_prediction_drift: Annotated[float, Field(gt=0, le=1)] = 0.15
    max_mean_ratio: Growth = 2.0
    max_mean_shift: Annotated[float, Field(gt=0)] = 0.5
    thresholds: Thresholds = field(default_factory=dict)
    slice_thresholds: Thresholds = field(default_factory=dict)
    min_slice_rows: Positive = 500


@dataclass(frozen=True, config=CHECKED)
class Config:
    """The settings of a run.

    Attributes:
      model: Folder of the model below `models/`, or a package with dots elsewhere. Its
        `config.toml` goes over the engine's defaults. The default model is the one that
        `FLIGHTDECK_MODEL` names, else the one whose `config.toml` says `default = true`.
      model_name: Name of the model in the Serving directory and for clients.
      task: What the model predicts: "binary" (the probability of the second class), "multiclass"
        (the probability of each class) or "regression" (a number).
      label: Feature that the model predicts.
      features: Features of a request: those that the model reads.
      classes: The label's values in the order of their ids, written as text; the second of a binary
        task is the positive one. None for a regression; of a binary task 0 and 1, or false and
        true.
      class_names: What TensorFlow Serving's Classify calls the classes; none for their values.
      prediction: Name of the model's output.
      weight: Transformed feature with the training weight of a row; "" for `example_weight`.
      example_weight: Raw feature with the weight of a row in training and evaluation; "" if all
        weigh the same.
      slices: Features by whose values the model is evaluated.
      keep_runs: Number of newest runs whose artifacts, logs and records are kept, besides those
        that the Serving directory and the cache need; 0 for all.
      beam_args: Arguments of the Beam nodes (`--runner=...`).
      node_beam_args: Arguments of single Beam nodes, by id; they override `beam_args`. Those of
        `BatchPredictor` are for `predict`.
      node_timeout_minutes: Time after which a node (on Kubeflow: an attempt) is stopped and fails;
        0 for no limit.
      node_timeouts: The same for single nodes of the training pipeline, by id.
      network: Settings of the model's own network, such as the number of its units, by name. The
        model's `config.toml` lists them all; other layers change values, but not their type.
    """

    model: Text
    model_name: Name
    label: Column
    features: Features
    prediction: Name
    data: DataConfig
    gate: GateConfig
    task: Kind = "binary"
    classes: Classes = ()
    class_names: tuple[Text, ...] = ()
    weight: str = ""
    example_weight: OptionalColumn = ""
    slices: tuple[str, ...] = ()
    keep_runs: Count = 10
    beam_args: tuple[str, ...] = (
        # By its full name: Beam's default DirectRunner first tries to download another runner.
        "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
        # For remote workers; without it TFX packages itself for every Beam node.
        "--setup_file=./setup.py",
    )
    node_beam_args: dict[str, tuple[str, ...]] = field(default_factory=dict)
    node_timeout_minutes: Minutes = 1440.0
    node_timeouts: dict[str, Minutes] = field(default_factory=dict)
    network: NetworkSettings = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    pruning: PruningConfig = field(default_factory=PruningConfig)
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    fairness: FairnessConfig = field(default_factory=FairnessConfig)
    explanation: ExplanationConfig = field(default_factory=ExplanationConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    challenger: ChallengerConfig = field(default_factory=ChallengerConfig)
    kubeflow: KubeflowConfig = field(default_factory=KubeflowConfig)
    vertex: VertexConfig = field(default_factory=VertexConfig)

    def __post_init__(self) -> None:
        task = self.make_task()
        task.check_thresholds("evaluation.thresholds", self.evaluation.thresholds)
        task.check_thresholds("evaluation.slice_thresholds", self.evaluation.slice_thresholds)
        task.check_thresholds("monitor.thresholds", self.monitor.thresholds)
        task.check_thresholds("monitor.slice_thresholds", self.monitor.slice_thresholds)
        try:
            task.check_training(self.training.loss, self.training.class_weights)
        except ValueError as error:
            raise ValueError(f"training.{error}") from error
        self.tuning.check(self.network)
        self.fairness.check(task)
        self.challenger.check(task)
        self.explanation.check_groups(self.features)
        if self.label in self.features:
            raise ValueError(f"features: {self.label!r} is the label, which no request has")

    def make_task(self) -> Task:
        """The task of the model."""
        return Task(
            kind=self.task,
            label=self.label,
            classes=self.classes,
            class_names=self.class_names,
            weight=self.weight,
            example_weight=self.example_weight,
        )

    @property
    def prediction_beam_args(self) -> tuple[str, ...]:
        """Arguments of the Beam job of batch predictions."""
        return (*self.beam_args, *self.node_beam_args.get(BATCH_PREDICTOR, ()))

    def node_timeout_seconds(self, node_id: str) -> float:
        """Time limit of a node; infinite for none."""
        return self.node_timeouts.get(node_id, self.node_timeout_minutes) * 60 or math.inf


def load_config(path: str | None = None, settings: Iterable[str] = ()) -> Config:
    """Loads and checks a configuration.

    The model's `config.toml` overrides the engine's defaults, the file overrides both, and the
    settings override all.

    Example:
      >>> load_config(settings=["training.epochs=3"]).training.epochs
      3

    Args:
      path: TOML file with keys of `Config`; None for none.
      settings: `key=value` each, see `parse_setting`; a key inside a table is dotted, as in
        `training.epochs=3`. `model=NAME` chooses the model.

    Returns:
      The configuration.

    Raises:
      ConfigError: If a value is not allowed; the message has key, value, what is allowed, and
        source.
    """
    layers = [read_toml(path)] if path else []
    layers += [parse_setting(setting) for setting in settings]
    named = [layer for layer in layers if "model" in layer.values]
    if named:
        model = read_model_layer(named[-1].values["model"], named[-1].source)
    else:
        # Only one that the variable names may not be there.
        model = read_model_layer(default_model(), MODEL_VARIABLE)
    network = model.values.get("network")
    known = known_settings(network if isinstance(network, Mapping) else {})
    prepared = lay_space([join_space(layer) for layer in [model, *layers]], known)
    return merge(Config, [prepared[0], *(type_network(layer, model) for layer in prepared[1:])])


def config_keys() -> list[str]:
    """All dotted keys of the configuration; <name> stands for a key of your choice."""
    return list_keys(Config)
