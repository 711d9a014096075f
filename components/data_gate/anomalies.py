"""Names, writes and describes DataGate's anomalies."""

import os

from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx import v1 as tfx

from ml.artifacts import anomalies_uri
from ml.comparisons import DATA_SET, Anomaly
from storage.errors import UserError

# Types of anomalies that TFDV does not have.
OWN_TYPES = frozenset(
    {
        "CLASS_NOT_IN_TRAIN",
        "CLASS_RARE",
        "CONSTANT",
        "DRIFT_NEAR_THRESHOLD",
        "DUPLICATE_ROWS",
        "LABEL_LEAK",
        "LABEL_UNRELATED",
        "LABEL_UNUSABLE",
        "MISSING_RATE_CHANGED",
        "RELATION_CHANGED",
        "UNSEEN_VALUES",
        "VALUE_VANISHED",
        "WEIGHT_UNUSABLE",
    }
)
ANOMALY_TYPES = frozenset(anomalies_pb2.AnomalyInfo.Type.keys()) | OWN_TYPES
SHOWN = 10


def parse_warn_only(entries: list[str]) -> frozenset[str]:
    """Checks the names of anomalies that do not block.

    Raises:
      UserError: If an entry is neither a type of anomaly nor `feature:TYPE`.
    """
    for entry in entries:
        if entry.rpartition(":")[2] not in ANOMALY_TYPES:
            raise UserError(
                f"{entry!r} is not an anomaly; allowed are the types of tensorflow_metadata's "
                "AnomalyInfo, such as ENUM_TYPE_UNEXPECTED_STRING_VALUES, or feature:TYPE, or "
                f"{', '.join(sorted(OWN_TYPES))}"
            )
    return frozenset(entries)


def write_anomalies(
    artifact: tfx.dsl.Artifact,
    split: str,
    result: anomalies_pb2.Anomalies,
    found: list[Anomaly],
) -> None:
    """Writes TFDV's anomalies and the gate's own in the layout of ExampleValidator."""
    # TFDV quotes some names in its keys, such as 'trip.miles'.
    keys = {info.path.step[0]: key for key, info in result.anomaly_info.items() if info.path.step}
    for info in result.anomaly_info.values():
        info.severity = anomalies_pb2.AnomalyInfo.UNKNOWN
    for anomaly in found:
        if anomaly.feature == DATA_SET:
            info = result.dataset_anomaly_info
        else:
            info = result.anomaly_info[keys.get(anomaly.feature, anomaly.feature)]
        info.severity = max(info.severity, anomaly.severity)
        if anomaly.type in OWN_TYPES:
            info.reason.add(
                type=anomalies_pb2.AnomalyInfo.CUSTOM_VALIDATION,
                short_description=anomaly.type,
                description=anomaly.description,
            )
    path = anomalies_uri(artifact, split)
    tfx.dsl.io.fileio.makedirs(os.path.dirname(path))
    with tfx.dsl.io.fileio.open(path, "wb") as file:
        file.write(result.SerializeToString())


def describe_blocking(blocking: list[Anomaly]) -> str:
    """The message of a stopped run: the number of anomalies, and the first of them."""
    count = "1 blocking anomaly" if len(blocking) == 1 else f"{len(blocking)} blocking anomalies"
    lines = [f"{count} in the data:"]
    lines += [f"  {anomaly}" for anomaly in blocking[:SHOWN]]
    if len(blocking) > SHOWN:
        lines.append(f"  and {len(blocking) - SHOWN} more")
    return "\n".join(lines)
