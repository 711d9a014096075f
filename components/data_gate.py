"""DataGate: stops the run when the data is not what the schema says, or has drifted too far."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2
from tfx import v1 as tfx

from components.artifacts import load_schema, load_statistics
from components.errors import BlockingAnomalies, UserError

ANOMALY_TYPES = frozenset(anomalies_pb2.AnomalyInfo.Type.keys())

_SHOWN = 10


@tfx.dsl.components.component
def DataGate(
    statistics: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ExampleStatistics],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    served_statistics: tfx.dsl.components.InputArtifact[
        tfx.types.standard_artifacts.ExampleStatistics
    ],
    anomalies: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.ExampleAnomalies],
    environment: tfx.dsl.components.Parameter[str] = "TRAINING",
    warn_only: tfx.dsl.components.Parameter[str] = "[]",
) -> None:
    """Fails on blocking anomalies, and so keeps every node that is ordered behind it from running.

    Each split is validated against the schema. The split `train` is also compared with the training
    statistics of the model being served, by the drift comparators that the schema sets (L-infinity
    distance for categorical features, Jensen-Shannon divergence for numeric ones).

    Args:
      statistics: Statistics of every split.
      schema: What the data should be.
      served_statistics: Statistics of the split `train` of the model being served; may be empty.
      anomalies: Component `outputs` contains: the anomalies of each split that do not block, in the
        layout of ExampleValidator.
      environment: Environment of the schema to validate in.
      warn_only: JSON list of anomalies that are reported and do not block: a type of
        `anomalies_pb2.AnomalyInfo.Type`, or `feature:TYPE` for one feature alone.

    Raises:
      BlockingAnomalies: Naming split, feature, anomaly and numbers of each blocking anomaly.
      UserError: If `warn_only` names a type that does not exist.
    """
    exceptions = parse_warn_only(json.loads(warn_only))
    expected = load_schema(schema)
    served = load_statistics(served_statistics, "train")
    found: list[Anomaly] = []
    split_names = json.loads(statistics.split_names)
    for split in split_names:
        result = tfdv.validate_statistics(
            load_statistics(statistics, split),
            expected,
            environment=environment,
            previous_statistics=served if split == "train" else None,
        )
        found.extend(_read_anomalies(split, result, expected))
        folder = os.path.join(anomalies.uri, f"Split-{split}")
        tfx.dsl.io.fileio.makedirs(folder)
        with tfx.dsl.io.fileio.open(os.path.join(folder, "SchemaDiff.pb"), "wb") as file:
            file.write(result.SerializeToString())
    anomalies.split_names = statistics.split_names
    blocking = [anomaly for anomaly in found if anomaly.blocks(exceptions)]
    if blocking:
        raise BlockingAnomalies(_describe(blocking))
    anomalies.set_int_custom_property("warnings", len(found))
    anomalies.set_string_custom_property("drift", "compared" if served else "nothing served yet")


@dataclass(frozen=True)
class Anomaly:
    """One reason why one feature of one split is not what it should be."""

    split: str
    feature: str
    type: str
    severity: int
    description: str

    def blocks(self, warn_only: frozenset[str]) -> bool:
        """Whether it stops the run: TFDV calls it an error, and no exception names it."""
        named = {self.type, f"{self.feature}:{self.type}"}
        return self.severity == anomalies_pb2.AnomalyInfo.ERROR and not named & warn_only

    def __str__(self) -> str:
        return f"{self.split}: {self.feature}: {self.type}: {self.description}"


def parse_warn_only(entries: list[str]) -> frozenset[str]:
    """Checks the names of anomalies that are not to block.

    Raises:
      UserError: If an entry is neither a type of anomaly nor `feature:TYPE`.
    """
    for entry in entries:
        if entry.rpartition(":")[2] not in ANOMALY_TYPES:
            raise UserError(
                f"{entry!r} is not an anomaly; allowed are the types of tensorflow_metadata's "
                "AnomalyInfo, such as ENUM_TYPE_UNEXPECTED_STRING_VALUES, or feature:TYPE"
            )
    return frozenset(entries)


def _read_anomalies(
    split: str, found: anomalies_pb2.Anomalies, schema: schema_pb2.Schema
) -> Iterator[Anomaly]:
    """The anomalies of one split, those of the whole data set first."""
    if found.HasField("dataset_anomaly_info"):
        yield from _read_reasons(split, "(data set)", found.dataset_anomaly_info, "")
    allowed = {feature.name: _allowed(feature) for feature in schema.feature}
    for feature, info in sorted(found.anomaly_info.items()):
        yield from _read_reasons(split, feature, info, allowed.get(feature, ""))


def _read_reasons(
    split: str, feature: str, info: anomalies_pb2.AnomalyInfo, allowed: str
) -> Iterator[Anomaly]:
    for reason in info.reason:
        name = anomalies_pb2.AnomalyInfo.Type.Name(reason.type)
        about_range = name.startswith(("INT_TYPE", "FLOAT_TYPE"))
        description = f"{reason.description} {allowed}" if about_range else reason.description
        yield Anomaly(split, feature, name, info.severity, description.strip())


def _allowed(feature: schema_pb2.Feature) -> str:
    """What the schema says of a feature, as part of a message."""
    kind = feature.WhichOneof("domain_info")
    if kind in ("int_domain", "float_domain"):
        domain = getattr(feature, kind)
        return f"The schema allows {domain.min:g} to {domain.max:g}."
    return ""


def _describe(blocking: list[Anomaly]) -> str:
    lines = [f"{len(blocking)} blocking anomal{'y' if len(blocking) == 1 else 'ies'} in the data:"]
    lines += [f"  {anomaly}" for anomaly in blocking[:_SHOWN]]
    if len(blocking) > _SHOWN:
        lines.append(f"  and {len(blocking) - _SHOWN} more")
    return "\n".join(lines)
