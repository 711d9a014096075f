"""DataGate: stops the run when the data breaks the schema or has drifted too far."""

import json
from dataclasses import asdict, dataclass

from tfx import v1 as tfx

from components.data_gate.anomalies import (
    SHOWN,
    describe_blocking,
    parse_warn_only,
    write_anomalies,
)
from components.data_gate.gate import MOST_ROWS, TRAINING_SAMPLE, Gate
from components.data_gate.reading import read_split
from ml.artifacts import load_schema, load_statistics, split_files
from ml.comparisons import Anomaly, Drift, nearest_limit, only
from ml.tasks import Task
from storage.errors import BlockingAnomalies


@tfx.dsl.components.component
def DataGate(
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    statistics: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ExampleStatistics],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    served_statistics: tfx.dsl.components.InputArtifact[
        tfx.types.standard_artifacts.ExampleStatistics
    ],
    anomalies: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.ExampleAnomalies],
    environment: tfx.dsl.components.Parameter[str],
    warn_only: tfx.dsl.components.Parameter[str],
    features: tfx.dsl.components.Parameter[str],
    task: tfx.dsl.components.Parameter[str],
    max_missing_change: tfx.dsl.components.Parameter[float],
    max_duplicates: tfx.dsl.components.Parameter[float],
    max_error_growth: tfx.dsl.components.Parameter[float],
    min_label_relation: tfx.dsl.components.Parameter[float],
) -> None:
    """Fails on blocking anomalies, so that no node behind it runs.

    Every split is validated against the schema, and its labels against the task. The splits `train`
    and `test` are also compared with the training statistics of the served model: by the schema's
    drift comparators (L-infinity distance for categorical features, Jensen-Shannon divergence for
    numeric ones), by the share of rows without a value, and by categories that have vanished. In
    `train`, no feature may predict the label alone. The rows of `test`, the new month, are checked
    for duplicates, and for changed relations between the features (see `Relations`).

    An anomaly that chance explains is a warning: see `ml.chance`.

    Example:
      data_gate = DataGate(
          examples=example_gen.outputs["examples"],
          statistics=statistics_gen.outputs["statistics"],
          schema=schema_gen.outputs["schema"],
          served_statistics=served_model.outputs["statistics"],
          environment="TRAINING",
          warn_only="[]",
          features='["distance", "temp"]',
          task=task.to_json(),
          max_missing_change=0.35,
          max_duplicates=0.01,
          max_error_growth=4.0,
          min_label_relation=0.5,
      )

    Args:
      examples: The splits, gzipped TFRecords; rows are checked if it has `train` and `test`.
      statistics: Statistics of every split.
      schema: The schema of the data.
      served_statistics: Statistics of the split `train` of the model being served; may be empty.
      anomalies: Component `outputs` contains: the anomalies of each split that do not block, in the
        layout of ExampleValidator, and `GateFacts`.
      environment: Environment of the schema to validate in.
      warn_only: JSON list of anomalies that are reported but do not block: a type of
        `ANOMALY_TYPES`, or `feature:TYPE` for one feature.
      features: JSON list of the features whose relations are compared: those that the model reads.
      task: What the model predicts, as `Task.to_json` writes it.
      max_missing_change: Largest change of the share of rows without a value.
      max_duplicates: Largest share of the rows of `test` that repeat another row, above that of as
        many rows of `train`.
      max_error_growth: Largest growth, as a factor, of the squared error of a numeric feature
        predicted from the other features.
      min_label_relation: Share of its gain over a constant, by the task's headline metric, that a
        linear prediction of the label must keep.

    Raises:
      BlockingAnomalies: If an anomaly blocks; the message has split, feature, type and figures.
      UserError: If `warn_only` names a type that does not exist, or `features` or `task` a feature
        that the schema does not have.
    """
    exceptions = parse_warn_only(json.loads(warn_only))
    gate = Gate(
        schema=load_schema(schema),
        features=tuple(json.loads(features)),
        task=Task.from_json(task),
        max_missing_change=max_missing_change,
        max_duplicates=max_duplicates,
        max_error_growth=max_error_growth,
        min_label_relation=min_label_relation,
        environment=environment,
    )
    served = load_statistics(served_statistics, "train")
    drift = None
    found: list[Anomaly] = []
    splits = json.loads(statistics.split_names)
    with_rows = [split for split in splits if split in json.loads(examples.split_names)]
    label_schema = only(gate.label_columns, gate.schema)
    counts = {split: _count_rows(statistics, split) for split in with_rows}
    # Rows are looked at whole if there is a window to compare those of `test` with, and as many of
    # the window as of `test`.
    hashed = {"train": 0, "test": 0}
    if "train" in counts:
        wanted = max(TRAINING_SAMPLE, counts.get("test", 0))
        hashed = {"train": max(1, counts["train"] // wanted), "test": 1}
    read = {
        split: read_split(
            split_files(examples, split),
            gate.schema,
            label_schema,
            hashed=hashed.get(split, 0),
            kept=max(1, count // max(hashed.get(split, 0), 1) // MOST_ROWS),
        )
        for split, count in counts.items()
    }
    window = read.get("train")
    for split in splits:
        result, of_split = gate.check_statistics(split, load_statistics(statistics, split), served)
        drift = nearest_limit(result) or drift
        if split in read:
            of_split += gate.check_labels(
                split, read[split].labels, window.labels if window else None, of_split
            )
        if split == "train" and window:
            of_split += gate.check_window(split, window.rows)
        if split == "test" and split in read and window:
            of_split += gate.check_repeated(split, read[split].hashes, window.hashes)
            of_split += gate.check_rows(split, read[split].rows, window.rows)
        found += of_split
        write_anomalies(anomalies, split, result, of_split)
    anomalies.split_names = statistics.split_names
    blocking = [anomaly for anomaly in found if anomaly.blocks(exceptions)]
    if blocking:
        raise BlockingAnomalies(describe_blocking(blocking))
    shown = tuple(map(str, found[:SHOWN]))
    GateFacts(len(found), shown, served is not None, drift).attach(anomalies)


def _count_rows(statistics: tfx.dsl.Artifact, split: str) -> int:
    found = load_statistics(statistics, split)
    return int(found.datasets[0].num_examples) if found and found.datasets else 0


@dataclass(frozen=True)
class GateFacts:
    """The findings of a DataGate that let the run pass.

    Attributes:
      warnings: Number of anomalies, none of which blocks.
      shown: The first of them, one line each.
      compared: Whether the new data was compared with the training data of a served model.
      drift: The drift that comes nearest to its limit; None without any.
    """

    warnings: int
    shown: tuple[str, ...]
    compared: bool
    drift: Drift | None

    def attach(self, anomalies: tfx.dsl.Artifact) -> None:
        """Stores the facts as JSON in the gate's artifact."""
        anomalies.set_string_custom_property("facts", json.dumps(asdict(self)))

    @classmethod
    def of(cls, anomalies: tfx.dsl.Artifact) -> "GateFacts":
        """Reads the facts of an artifact."""
        facts = json.loads(anomalies.get_string_custom_property("facts"))
        drift = facts["drift"] and Drift(*facts["drift"])
        return cls(facts["warnings"], tuple(facts["shown"]), facts["compared"], drift)
