"""Looks things up in the statistics that TFDV makes of a data set."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

from tensorflow_metadata.proto.v0 import statistics_pb2

Statistics: TypeAlias = statistics_pb2.DatasetFeatureStatisticsList


def find_feature(statistics: Statistics, name: str) -> statistics_pb2.FeatureNameStatistics | None:
    """The statistics of a feature; None where there are none, since no row has a value."""
    (data,) = statistics.datasets
    return next((feature for feature in data.features if feature.path.step == [name]), None)


def count_present(feature: statistics_pb2.FeatureNameStatistics) -> int:
    """How many rows have a value of a feature."""
    return int(getattr(feature, feature.WhichOneof("stats")).common_stats.num_non_missing)


def missing_rates(statistics: Statistics) -> dict[str, float]:
    """The share of rows without a value, by feature."""
    (data,) = statistics.datasets
    return {
        feature.path.step[0]: 1 - count_present(feature) / data.num_examples
        for feature in data.features
    }


def categories(statistics: Statistics, name: str) -> dict[str, float]:
    """How many rows have each category of a feature."""
    feature = find_feature(statistics, name)
    buckets = feature.string_stats.rank_histogram.buckets if feature else ()
    return {bucket.label: bucket.sample_count for bucket in buckets}


def restrict(statistics: Statistics, names: Collection[str]) -> Statistics:
    """The statistics of some features alone."""
    kept = Statistics()
    kept.CopyFrom(statistics)
    (data,) = kept.datasets
    features = [feature for feature in data.features if feature.path.step[0] in names]
    del data.features[:]
    data.features.extend(features)
    return kept
