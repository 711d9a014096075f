"""DataGate: stops the run when the data is not what the schema says, or has drifted too far."""

import json
from dataclasses import asdict, dataclass

from tfx import v1 as tfx

from components.data_gate.anomalies import (
    SHOWN,
    describe_blocking,
    parse_warn_only,
    write_anomalies,
)
from components.data_gate.gate import Gate
from ml.artifacts import load_schema, load_statistics
from ml.comparisons import Anomaly, Drift, nearest_limit, only
from ml.examples import read_rows
from storage.errors import BlockingAnomalies

_TRAINING_SAMPLE = 10_000


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
    label: tfx.dsl.components.Parameter[str],
    max_missing_change: tfx.dsl.components.Parameter[float],
    max_duplicates: tfx.dsl.components.Parameter[float],
    max_error_growth: tfx.dsl.components.Parameter[float],
    min_label_relation: tfx.dsl.components.Parameter[float],
) -> None:
    """Fails on blocking anomalies, and so keeps every node that is ordered behind it from running.

    Each split is validated against the schema. The splits `train` and `test` are also compared with
    the training statistics of the model being served: by the drift comparators that the schema sets
    (L-infinity distance for categorical features, Jensen-Shannon divergence for numeric ones), by
    the share of rows without a value, and by the categories that are no longer there. Of `test`,
    the new month, the rows themselves are looked at too: for duplicates, and for what `Relations`
    tells by `train`.

    What chance alone explains in so few rows is a warning: see `ml.chance`.

    Args:
      examples: The splits, gzipped TFRecords; rows are looked at where it has `train` and `test`.
      statistics: Statistics of every split.
      schema: What the data should be.
      served_statistics: Statistics of the split `train` of the model being served; may be empty.
      anomalies: Component `outputs` contains: the anomalies of each split that do not block, in the
        layout of ExampleValidator, and `GateFacts`.
      environment: Environment of the schema to validate in.
      warn_only: JSON list of anomalies that are reported and do not block: a type of
        `ANOMALY_TYPES`, or `feature:TYPE` for one feature alone.
      features: JSON list of the features whose relations are compared: those that the model reads.
      label: The feature that the model predicts, 0 or 1; "" compares no label.
      max_missing_change: How far the share of rows without a value may move.
      max_duplicates: Share of the rows of `test` that may repeat another row.
      max_error_growth: How many times the squared error may grow with which a number is predicted
        from the other features.
      min_label_relation: Share of its AUC above 0.5 that a linear prediction of the label must
        keep.

    Raises:
      BlockingAnomalies: Naming split, feature, anomaly and numbers of each blocking anomaly.
      UserError: If `warn_only` names a type that does not exist, or `features` or `label` a feature
        that the schema does not have.
    """
    exceptions = parse_warn_only(json.loads(warn_only))
    gate = Gate(
        schema=load_schema(schema),
        features=tuple(json.loads(features)),
        label=label,
        max_missing_change=max_missing_change,
        max_duplicates=max_duplicates,
        max_error_growth=max_error_growth,
        min_label_relation=min_label_relation,
        environment=environment,
    )
    served = load_statistics(served_statistics, "train")
    learned = load_statistics(statistics, "train")
    drift = None
    found: list[Anomaly] = []
    with_rows = set(json.loads(examples.split_names))
    for split in json.loads(statistics.split_names):
        result, of_split = gate.check_statistics(split, load_statistics(statistics, split), served)
        drift = nearest_limit(result) or drift
        if split == "test" and learned and {"train", "test"} <= with_rows:
            rows = read_rows(examples, "test", gate.schema)
            step = max(1, learned.datasets[0].num_examples // _TRAINING_SAMPLE)
            before = read_rows(examples, "train", only(gate.related, gate.schema), step)
            of_split += gate.check_rows(split, rows, before)
        found += of_split
        write_anomalies(anomalies, split, result, of_split)
    anomalies.split_names = statistics.split_names
    blocking = [anomaly for anomaly in found if anomaly.blocks(exceptions)]
    if blocking:
        raise BlockingAnomalies(describe_blocking(blocking))
    shown = tuple(map(str, found[:SHOWN]))
    GateFacts(len(found), shown, served is not None, drift).attach(anomalies)


@dataclass(frozen=True)
class GateFacts:
    """What a DataGate has seen that let the run pass.

    Attributes:
      warnings: How many anomalies there are; none of them blocks.
      shown: The first of them, a line each.
      compared: Whether there is a served model, with whose training data the new data was compared.
      drift: The drift from that data which comes nearest to its limit; None without any.
    """

    warnings: int
    shown: tuple[str, ...]
    compared: bool
    drift: Drift | None

    def attach(self, anomalies: tfx.dsl.Artifact) -> None:
        """Keeps them with the artifact that the gate made, as JSON."""
        anomalies.set_string_custom_property("facts", json.dumps(asdict(self)))

    @classmethod
    def of(cls, anomalies: tfx.dsl.Artifact) -> "GateFacts":
        """Reads what was kept with an artifact."""
        facts = json.loads(anomalies.get_string_custom_property("facts"))
        drift = facts["drift"] and Drift(*facts["drift"])
        return cls(facts["warnings"], tuple(facts["shown"]), facts["compared"], drift)
