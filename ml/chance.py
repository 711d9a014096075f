"""What chance alone explains: how far a sample of few rows may be from what it was drawn from."""

import math

import numpy as np
from scipy.stats import binom
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

# Of one comparison: so often it blocks a sample that lacks nothing but rows.
FALSE_ALARMS = 0.001

_SAMPLES = 4000
_SEED = 13
_SAME_RANGE = 0.01  # Of a range: ends that are no further apart are the same.
_BINS = 10  # Of equal width, as TFDV's standard histogram has them.
_STEPS = 256
_SMALLEST_STEP = 1e-6


def drift_by_chance(
    feature: schema_pb2.Feature,
    new: statistics_pb2.DatasetFeatureStatisticsList,
    baseline: statistics_pb2.DatasetFeatureStatisticsList,
) -> float:
    """The drift that a sample of the new data's size shows where nothing drifts.

    It is the quantile `1 - FALSE_ALARMS` of a parametric bootstrap (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, 6.5): samples are drawn from the distribution that the
    baseline's statistics describe, and compared with it as TFDV compares. The variance of a
    difference of two shares is p (1 - p) (1 / n + 1 / m), so samples of n m / (n + m) rows stand
    for two samples of n and m rows. By the triangle inequality, an L-infinity distance is at most
    the distance of the two distributions plus this; a Jensen-Shannon divergence is close to it.

    Args:
      feature: The feature in the schema.
      new: Statistics of the new data.
      baseline: Statistics of what it is compared with.

    Returns:
      The drift, in the measure of the feature's comparator; 0 where the statistics hold no
      distribution of the feature.
    """
    name = feature.name
    here, there = _find(new, name), _find(baseline, name)
    if here is None or there is None:
        return 0.0
    rows = effective_rows(_present(here), _present(there))
    if rows < 1:
        return 0.0
    random = np.random.default_rng(_SEED)
    buckets = there.string_stats.rank_histogram.buckets
    if buckets:
        shares = np.array([bucket.sample_count for bucket in buckets])
        shares /= shares.sum()
        drawn = random.multinomial(int(rows), shares, _SAMPLES) / int(rows)
        comparators = (feature.drift_comparator, feature.skew_comparator)
        if any(comparator.HasField("infinity_norm") for comparator in comparators):
            drifts = np.abs(drawn - shares).max(axis=1)
        else:
            drifts = jensen_shannon(drawn, shares)
    elif there.num_stats.histograms:
        drifts = _numeric_drifts(here.num_stats, there.num_stats, int(rows), random)
    else:
        return 0.0
    return float(np.quantile(drifts, 1 - FALSE_ALARMS))


def divergence_by_chance(shares: np.ndarray, rows: float) -> float:
    """The Jensen-Shannon divergence that a sample shows from the distribution it was drawn from.

    Args:
      shares: The distribution, shape [bins].
      rows: Size of the sample, as of `effective_rows`.
    """
    random = np.random.default_rng(_SEED)
    drawn = random.multinomial(max(1, int(rows)), shares, _SAMPLES) / max(1, int(rows))
    return float(np.quantile(jensen_shannon(drawn, shares), 1 - FALSE_ALARMS))


def share_by_chance(rows: float) -> float:
    """How far a share in so many rows may be from the true share (Hoeffding, 1963, theorem 2)."""
    return math.sqrt(math.log(2 / FALSE_ALARMS) / (2 * rows)) if rows else 1.0


def is_more(count: float, rows: float, limit: float) -> bool:
    """Whether more than a share `limit` of all rows is such, by `count` of the `rows` seen.

    That is: as many or more would hardly be seen, were `limit` the true share.
    """
    return bool(count > limit * rows and binom.sf(count - 1, rows, limit) < FALSE_ALARMS)


def effective_rows(rows: float, others: float) -> float:
    """Size of one sample that differs from its distribution as two samples from each other."""
    return rows * others / (rows + others) if rows and others else 0.0


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The Jensen-Shannon divergence of two distributions, 0 to 1, as TFDV measures it.

    Args:
      first: Probabilities, shape [..., bins].
      second: The other's.
    """
    middle = (first + second) / 2

    def divergence(part: np.ndarray) -> np.ndarray:
        ratio = np.divide(part, middle, out=np.ones_like(middle), where=part > 0)
        return np.sum(part * np.log2(ratio), axis=-1)

    return (divergence(first) + divergence(second)) / 2


def _find(
    statistics: statistics_pb2.DatasetFeatureStatisticsList, name: str
) -> statistics_pb2.FeatureNameStatistics | None:
    (data,) = statistics.datasets
    return next((feature for feature in data.features if feature.path.step == [name]), None)


def _present(feature: statistics_pb2.FeatureNameStatistics) -> float:
    return float(getattr(feature, feature.WhichOneof("stats")).common_stats.num_non_missing)


def _numeric_drifts(
    new: statistics_pb2.NumericStatistics,
    baseline: statistics_pb2.NumericStatistics,
    rows: int,
    random: np.random.Generator,
) -> np.ndarray:
    """Divergences of samples of a number from what they were drawn from, shape [samples].

    TFDV makes ten bins of equal width over the range of each data set, and then spreads each over
    the bins of both, so that a narrower range alone makes a divergence. Where the new data has one,
    each sample has its own; else all have the same. They are drawn from what lies midway between
    the two: the new data may differ somewhat, and what is rare in one may be rarer in the other.
    """
    parts = [_distribution(stats) for stats in (new, baseline)]
    values, index = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    shares = np.bincount(index.reshape(-1), np.concatenate([part[1] for part in parts])) / 2
    shares /= shares.sum()
    if len(values) == 1:
        return np.zeros(_SAMPLES)
    lowest, highest = values[0], values[-1]
    drawn = random.multinomial(rows, shares, _SAMPLES)
    low, high = np.full(_SAMPLES, lowest), np.full(_SAMPLES, highest)
    slack = _SAME_RANGE * (highest - lowest)
    if new.min > baseline.min + slack or new.max < baseline.max - slack:
        seen = drawn > 0
        low = values[seen.argmax(axis=1)]
        high = values[len(values) - 1 - seen[:, ::-1].argmax(axis=1)]
    drifts = np.ones(_SAMPLES)  # Of a sample with one value: no bin of any width has it.
    ranges, which = np.unique(np.stack([low, high]), axis=1, return_inverse=True)
    whole = np.linspace(lowest, highest, _BINS + 1)
    for index, (start, end) in enumerate(ranges.T):
        if start < end:
            edges = np.linspace(start, end, _BINS + 1)
            union = np.union1d(edges, whole)
            there = which.reshape(-1) == index
            drifts[there] = jensen_shannon(
                _spread(union, edges, _count(values, drawn[there], edges)),
                _spread(union, whole, _count(values, shares, whole)),
            )
    return drifts


def _count(values: np.ndarray, counts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How much is in each bin of a histogram, shape [..., bins]."""
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _BINS - 1)
    counted: np.ndarray = counts @ np.eye(_BINS)[bins]
    return counted


def _spread(union: np.ndarray, edges: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The shares of a histogram in finer bins, shape [..., bins]."""
    start = np.zeros((*counts.shape[:-1], 1))
    cumulative = np.concatenate([start, np.cumsum(counts, axis=-1)], axis=-1)
    cumulative /= cumulative[..., -1:]
    # Where each finer edge lies between two of the histogram's own.
    place = np.interp(union, edges, np.arange(len(edges)))
    left = np.minimum(place.astype(int), len(edges) - 2)
    part = place - left
    reached = cumulative[..., left] * (1 - part) + cumulative[..., left + 1] * part
    spread: np.ndarray = np.diff(reached, axis=-1)
    return spread


def _distribution(stats: statistics_pb2.NumericStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Values, in order, and how often each is, as both histograms of a number tell.

    The bins of equal width say how much is far out, the quantiles which single values many have.
    """
    points = []
    for histogram in stats.histograms:
        counts = np.array([bucket.sample_count for bucket in histogram.buckets])
        if not counts.sum():
            continue
        cumulative = np.cumsum(counts) / counts.sum()
        points.append((histogram.buckets[0].low_value, 0.0))
        points += zip((b.high_value for b in histogram.buckets), cumulative, strict=True)
    values, below = np.array(sorted(points)).T
    tail = np.geomspace(_SMALLEST_STEP, 1 / _STEPS, 32)
    steps = np.unique(np.concatenate([np.linspace(0, 1, _STEPS + 1), tail, 1 - tail]))
    middles = (steps[:-1] + steps[1:]) / 2
    drawn = np.interp(middles, np.maximum.accumulate(below), values)
    distinct, index = np.unique(drawn, return_inverse=True)
    shares = np.bincount(index, np.diff(steps))
    return distinct, shares / shares.sum()
