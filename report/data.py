"""The data of a run: rows and spans, drift against its limits, statistics by feature."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from ml.file_names import ANOMALIES_FILE
from ml.statistics import Statistics, count_present
from report.reading import Absent, find, read_message, statistics_file
from report.run import Artifact, Run

_SPLITS = ("train", "eval", "test")
# Features of which a page shows statistics; those that matter most first.
_MOST_FEATURES = 150
_MOST_DRIFTS = 100


def describe_data(run: Run) -> dict[str, Any]:
    """What the template shows of the data."""
    drifts, drift_note = [], ""
    try:
        drifts = _largest_drifts(run)
    except Absent as absent:
        drift_note = str(absent)
    return {
        "splits": _splits(run),
        "notes": _notes(run),
        "drifts": drifts[:_MOST_DRIFTS],
        "drift_note": drift_note,
        **_features(run, {drift["feature"]: drift["ratio"] for drift in drifts}),
    }


def nearest_drift(run: Run) -> dict[str, Any] | None:
    """The drift that is highest relative to its limit; None if nothing was compared."""
    try:
        return next(iter(_largest_drifts(run)), None)
    except Absent:
        return None


def _largest_drifts(run: Run) -> list[dict[str, Any]]:
    """Of each feature the drift of the split that drifted most, the highest first."""
    found: dict[str, dict[str, Any]] = {}
    for drift in _drifts(run):
        known = found.get(drift["feature"])
        if known is None or known["ratio"] < drift["ratio"]:
            found[drift["feature"]] = drift
    return sorted(found.values(), key=lambda drift: (-drift["ratio"], drift["feature"]))


def _splits(run: Run) -> list[dict[str, Any]]:
    examples = run.output("SpanExampleGen", "examples")
    rows = _property(examples, "rows", {})
    spans = _property(examples, "spans", run.months)
    names = [name for name in _SPLITS if name in rows or name in spans]
    return [{"name": n, "rows": rows.get(n), "spans": list(spans.get(n, ()))} for n in names]


def _notes(run: Run) -> list[str]:
    examples = run.output("SpanExampleGen", "examples")
    notes = []
    if split := examples and examples.properties.get("split"):
        notes.append(f"Rows without a time were split {split}.")
    for name, text in (
        ("left_out", "Left out, for the schema lacks them: {}."),
        ("rounded", "Rounded, for a 32-bit float holds whole numbers up to 16,777,216: {}."),
    ):
        if found := _property(examples, name, []):
            notes.append(text.format(", ".join(map(str, found))))
    for name in ("ExampleValidator", "DataGate"):
        if (node := run.node(name)) and node.state != "failed":
            notes += [f"{name}: {line}" for line in node.details]
    return notes


def _property(artifact: Artifact | None, name: str, default: Any) -> Any:
    """A property that holds JSON of the type of `default`."""
    try:
        value = json.loads((artifact.properties if artifact else {})[name])
    except (KeyError, TypeError, ValueError):
        return default
    return value if isinstance(value, type(default)) else default


def _drifts(run: Run) -> Iterator[dict[str, Any]]:
    anomalies = find(run, "DataGate", "anomalies")
    for split in ("train", "test"):
        name = f"Split-{split}/{ANOMALIES_FILE}"
        found = read_message(anomalies, name, anomalies_pb2.Anomalies)
        for info in found.drift_skew_info:
            for measured in (*info.drift_measurements, *info.skew_measurements):
                limit = measured.threshold
                yield {
                    "split": split,
                    "feature": ".".join(info.path.step),
                    "value": measured.value,
                    "limit": limit,
                    "ratio": measured.value / limit if limit else 0.0,
                }


def _features(run: Run, ratios: dict[str, float]) -> dict[str, Any]:
    try:
        artifact = find(run, "StatisticsGen", "statistics")
        sources = {"train": _load(artifact, "train"), "test": _load(artifact, "test")}
    except Absent as absent:
        nothing = {"features": [], "more_features": 0, "blocking": False, "sources": []}
        return {**nothing, "features_note": str(absent)}
    if served := run.output("ServedModel", "statistics"):
        with suppress(Absent):  # Nothing was served then.
            sources["served"] = _load(served, "train")
    known = {name: source for name, source in sources.items() if source.datasets}
    by_source = {
        name: {".".join(f.path.step) or f.name: f for f in source.datasets[0].features}
        for name, source in known.items()
    }
    rows = {name: source.datasets[0].num_examples for name, source in known.items()}
    named = _named_in(run.reasons)
    names = sorted(
        {name for features in by_source.values() for name in features},
        key=lambda name: (name not in named, -ratios.get(name, 0.0), name),
    )
    shown = [
        {
            "name": name,
            "blocking": name in named,
            "kind": next(
                (_kind(by_source[s][name]) for s in by_source if name in by_source[s]), ""
            ),
            "of": {
                source: _describe(features[name], rows[source]) if name in features else None
                for source, features in by_source.items()
            },
        }
        for name in names[:_MOST_FEATURES]
    ]
    return {
        "features": shown,
        "more_features": max(len(names) - _MOST_FEATURES, 0),
        "features_note": "",
        "blocking": any(feature["blocking"] for feature in shown),
        "sources": list(by_source),
    }


def _load(artifact: Artifact, split: str) -> Statistics:
    return read_message(
        artifact, statistics_file(split), statistics_pb2.DatasetFeatureStatisticsList
    )


def _named_in(reasons: tuple[str, ...]) -> set[str]:
    """Features that reasons name, as in `test: distance: TYPE: ...`."""
    return {parts[1].strip() for line in reasons if len(parts := line.split(":")) > 3}


def _kind(feature: Any) -> str:
    return str(statistics_pb2.FeatureNameStatistics.Type.Name(feature.type)).lower()


def _describe(feature: Any, rows: float) -> dict[str, Any]:
    """Share of rows without a value, and either mean and deviation or the most frequent value."""
    present = count_present(feature)
    found: dict[str, Any] = {"missing": 1 - present / rows if rows else None}
    if feature.HasField("num_stats"):
        stats = feature.num_stats
        found |= {"mean": stats.mean, "deviation": stats.std_dev, "low": stats.min}
        found["high"] = stats.max
    elif feature.HasField("string_stats"):
        stats = feature.string_stats
        found["unique"] = stats.unique
        if stats.top_values and present:
            top = stats.top_values[0]
            found |= {"top": top.value, "share": top.frequency / present}
    return found
