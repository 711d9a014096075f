"""DataGate's checks of the statistics of a split."""

from collections.abc import Iterator, Sequence

from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from components.data_gate.anomalies import SHOWN
from ml.chance import effective_rows, share_by_chance
from ml.comparisons import ERROR, WARNING, Anomaly, drifts, improbable
from ml.statistics import Statistics, categories, count_present, find_feature, missing_rates

# Smaller deviations, relative to the values, are rounding of 32-bit numbers.
_STEADY = 1e-5
# Share of a limit from which drift is a warning.
WARN_FROM = 0.7
# A category with this share of the served rows does not vanish by chance or season.
_VANISHING_SHARE = 0.01


def find_unseen(split: str, new: Statistics, expected: schema_pb2.Schema) -> Iterator[Anomaly]:
    """Warns of values outside a domain that are few enough for the schema to allow."""
    domains = {domain.name: set(domain.value) for domain in expected.string_domain}
    for feature in expected.feature:
        known = domains.get(feature.domain)
        values = categories(new, feature.name)
        if known is None or not values:
            continue
        unseen = {value: count for value, count in values.items() if value not in known}
        if (
            0
            < sum(unseen.values())
            <= (1 - feature.distribution_constraints.min_domain_mass) * sum(values.values())
        ):
            named = ", ".join(sorted(unseen)[:SHOWN])
            text = f"{sum(unseen.values()):,.0f} rows have values outside the domain: {named}"
            yield Anomaly(split, feature.name, "UNSEEN_VALUES", WARNING, text)


def find_nothing_to_learn(
    split: str,
    new: Statistics,
    features: Sequence[str],
) -> Iterator[Anomaly]:
    """Warns of features that have one value, or none, in all training rows."""
    for name in features:
        text = _describe_constant(find_feature(new, name))
        if text:
            text += "; the model can learn nothing from it"
            yield Anomaly(split, name, "CONSTANT", WARNING, text)


def _describe_constant(feature: statistics_pb2.FeatureNameStatistics | None) -> str:
    """Describes the only value of a feature; empty if it varies."""
    count = count_present(feature) if feature else 0
    if feature is None or not count:
        return "no row has a value"
    stats, texts = feature.num_stats, feature.string_stats
    if feature.HasField("num_stats"):
        if stats.std_dev > _STEADY * max(abs(stats.min), abs(stats.max)):
            return ""
        return f"all of {count:,} values are {stats.min:g}, or as good as that"
    return f"all of {count:,} values are {texts.top_values[0].value!r}" if texts.unique == 1 else ""


def find_near_limits(split: str, result: anomalies_pb2.Anomalies) -> Iterator[Anomaly]:
    """Warns of drift that does not block yet."""
    for feature, value, threshold in drifts(result):
        if WARN_FROM * threshold < value <= threshold:
            text = f"drift {value:.3f}; more than {threshold:g} blocks"
            yield Anomaly(split, feature, "DRIFT_NEAR_THRESHOLD", WARNING, text)


def find_missing(
    split: str,
    new: Statistics,
    served: Statistics,
    limit: float,
) -> Iterator[Anomaly]:
    """Compares the shares of rows without a value."""
    now, before = missing_rates(new), missing_rates(served)
    rows = effective_rows(new.datasets[0].num_examples, served.datasets[0].num_examples)
    for feature in sorted(now.keys() & before.keys()):
        change = abs(now[feature] - before[feature])
        if change > WARN_FROM * limit:
            text = (
                f"{now[feature]:.1%} of the rows have no value, {before[feature]:.1%} of the "
                f"served model's training data; a change by more than {limit:.0%} blocks"
            )
            granted = limit + share_by_chance(rows) if change > limit else limit
            if limit < change <= granted:
                text += f" ({granted:.0%} for so few rows)"
            severity = ERROR if change > granted else WARNING
            yield Anomaly(split, feature, "MISSING_RATE_CHANGED", severity, text)


def find_vanished(
    split: str,
    new: Statistics,
    served: Statistics,
    expected: schema_pb2.Schema,
) -> Iterator[Anomaly]:
    """Finds categories that many rows had and none has now, for instance after a rename."""
    for feature in expected.feature:
        if not feature.drift_comparator.HasField("infinity_norm"):
            continue
        now, before = categories(new, feature.name), categories(served, feature.name)
        rows, rows_before = sum(now.values()), sum(before.values())
        for value in sorted(before.keys() - now.keys()):
            share = before[value] / rows_before
            if share >= _VANISHING_SHARE and improbable(1 - share, rows):
                text = f"no row has {value!r}; {share:.1%} of the served model's training data had"
                yield Anomaly(split, feature.name, "VALUE_VANISHED", ERROR, text)
