"""Makes the schema of a new model: types, presence, ranges, domains, and limits of drift."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from ml.comparisons import drifts
from ml.statistics import Statistics
from orchestration.new_model.columns import Column, Kind, Role
from orchestration.new_model.reading import SPAN, Look

_ENOUGH = 200  # Rows of a period to measure drift with.
_MARGIN = 2.0  # Limits are so many times what was measured,
_LEAST_LIMIT = 0.05  # but not less than this,
_LARGEST_LIMIT = 0.6  # and columns that drift further have none.
_MOST_PERIODS = 7
_ROWS = 30_000
_ROOM = 0.5  # Ranges are wider than the data by this share of their width.
_LISTED = 1000
_LONGEST_LISTED = 1024  # Bytes: TFDV's statistics have one placeholder for all longer texts.
_LESS_PRESENT = 0.75  # Of the smallest share of rows with a value that a span has.


def make_schema(look: Look, columns: Sequence[Column]) -> str:
    """Makes the schema of all columns that a model uses, as text with comments.

    Args:
      look: The data.
      columns: All columns with their roles.
    """
    time = look.source.time_column
    used = [c for c in columns if c.role is not Role.LEFT_OUT or c.name == time]
    schema = schema_pb2.Schema()
    present = _least_present(look)
    for column in used:
        _add(schema, column, present.get(column.name, 1.0))
    measured = _measure_drift(look, schema)
    limits = {}
    for feature in schema.feature:
        comparator = _comparator(feature)
        if comparator is None or feature.name not in measured:
            continue
        limit = max(_LEAST_LIMIT, math.ceil(measured[feature.name] * _MARGIN * 100) / 100)
        if limit <= _LARGEST_LIMIT:
            comparator.threshold = limit
            limits[feature.name] = limit
    for feature in schema.feature:
        if feature.name not in limits:
            feature.ClearField("drift_comparator")
    return _write(look, schema, measured)


def feature_kind(column: Column) -> int:
    """The TFMD type of a column: whole numbers that may be absent are floats."""
    kind = column.facts.kind
    if kind is Kind.TEXT:
        return schema_pb2.BYTES
    if kind in (Kind.NUMBER, Kind.VECTOR):
        return schema_pb2.FLOAT
    if column.facts.missing and column.role is not Role.LABEL:
        return schema_pb2.FLOAT
    return schema_pb2.INT


def _least_present(look: Look) -> dict[str, float]:
    """The smallest share of rows with a value, of all rows and of each span, by column."""
    sample = look.sample
    counts = sample[SPAN].value_counts()
    spans = [sample[sample[SPAN] == span] for span in counts[counts >= _ENOUGH].index]
    shares = [part.notna().mean() for part in (sample, *spans)]
    return {
        str(name): float(share) for name, share in pd.concat(shares, axis=1).min(axis=1).items()
    }


def _add(schema: schema_pb2.Schema, column: Column, least_present: float) -> None:
    facts = column.facts
    feature = schema.feature.add(name=facts.name, type=feature_kind(column))
    present = math.floor(least_present * _LESS_PRESENT * 100) / 100
    feature.presence.min_fraction = 1 if not facts.missing else present
    feature.presence.min_count = 1
    if facts.kind is Kind.VECTOR or not facts.missing:
        feature.shape.dim.add(size=facts.length)
    else:
        feature.value_count.min = feature.value_count.max = 1
    if facts.kind is Kind.TEXT:
        values = [value for value, _ in facts.values]
        longest = max((len(value.encode()) for value in values), default=0)
        if facts.distinct <= _LISTED and longest <= _LONGEST_LISTED:
            feature.domain = facts.name
            schema.string_domain.add(name=facts.name, value=sorted(values))
            feature.distribution_constraints.min_domain_mass = (
                1.0 if column.role is Role.LABEL else 0.95
            )
        return
    if facts.kind is Kind.VECTOR or facts.kind is Kind.TIME:
        return
    low, high = _range(facts.minimum or 0.0, facts.maximum or 0.0, column.role is Role.LABEL)
    if facts.kind is Kind.BOOLEAN:
        low, high = 0.0, 1.0
    if feature.type == schema_pb2.INT:
        feature.int_domain.min, feature.int_domain.max = math.floor(low), math.ceil(high)
    else:
        domain = feature.float_domain
        domain.min, domain.max = _round_out(low, high)
        domain.disallow_nan = domain.disallow_inf = True


def _range(low: float, high: float, exact: bool) -> tuple[float, float]:
    """A range with room for what the data do not show; a number that is never negative stays so."""
    if exact:
        return low, high
    room = _ROOM * (high - low)
    return (max(0.0, low - room) if low >= 0 else low - room), high + room


def _round_out(low: float, high: float) -> tuple[float, float]:
    """Two digits of the width, away from the middle."""
    width = high - low or abs(high) or 1.0
    unit = 10.0 ** (math.floor(math.log10(width)) - 1)
    return math.floor(low / unit) * unit, math.ceil(high / unit) * unit


def _comparator(feature: schema_pb2.Feature) -> schema_pb2.FeatureComparator | None:
    """Where the limit of a feature's drift is written; None of vectors and times."""
    if feature.shape.dim and feature.shape.dim[0].size > 1:
        return None
    if feature.type == schema_pb2.BYTES:
        return feature.drift_comparator.infinity_norm
    if feature.WhichOneof("domain_info") is None:
        return None
    return feature.drift_comparator.jensen_shannon_divergence


def _measure_drift(look: Look, schema: schema_pb2.Schema) -> dict[str, float]:
    """The largest drift of a period from all before it, as DataGate measures it, by feature."""
    with_limits = schema_pb2.Schema()
    with_limits.CopyFrom(schema)
    for feature in with_limits.feature:
        if (comparator := _comparator(feature)) is not None:
            comparator.threshold = 1.0
    names = [f.name for f in schema.feature if f.name in look.sample]
    options = tfdv.StatsOptions(schema=with_limits)
    spans = sorted(look.rows)[-_MOST_PERIODS:]
    sample = look.sample[look.sample[SPAN].isin(spans)]
    sample = sample.iloc[:: max(1, len(sample) // _ROWS)]
    measured: dict[str, float] = {}
    for number, span in list(enumerate(spans))[1:]:
        before = sample[sample[SPAN].isin(spans[:number])][names]
        now = sample[sample[SPAN] == span][names]
        if min(len(before), len(now)) < _ENOUGH:
            continue
        earlier, later = (_statistics(part, options) for part in (before, now))
        found = tfdv.validate_statistics(later, with_limits, previous_statistics=earlier)
        for drift in drifts(found):
            measured[drift.feature] = max(measured.get(drift.feature, 0.0), drift.value)
    return measured


def _statistics(rows: pd.DataFrame, options: tfdv.StatsOptions) -> Statistics:
    rows = rows.copy()
    for name in rows.select_dtypes("datetimetz").columns:
        rows[name] = rows[name].astype("int64") // 10**9
    numbers = rows.select_dtypes(np.floating).columns
    rows = rows.astype(dict.fromkeys(numbers, np.float32))
    return tfdv.generate_statistics_from_dataframe(rows, options, n_jobs=1)


def _write(look: Look, schema: schema_pb2.Schema, measured: dict[str, float]) -> str:
    """The schema as text, with what was measured beside each limit."""
    parts = [
        f"""\
# The schema of {look.source.uri}, as the data suggested it: change it by hand, and say why in the
# commit.
#
# Presence of 1 means that every row has a value. Ranges are wider than the data by half their
# width. Drift is that of a new period from the training data of the served model; "measured" is
# the largest drift of a period from all before it in these data.
"""
    ]
    for feature in schema.feature:
        if feature.HasField("drift_comparator"):
            parts.append(f"# measured: {measured[feature.name]:.3f}\n")
        parts.append(_text(schema_pb2.Schema(feature=[feature])))
    parts += [_text(schema_pb2.Schema(string_domain=[domain])) for domain in schema.string_domain]
    return "".join(parts)


def _text(schema: schema_pb2.Schema) -> str:
    return str(text_format.MessageToString(schema, as_utf8=True))
