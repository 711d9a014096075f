"""What chance alone explains: how far a sample of few rows may be from what it was drawn from."""

import math

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from ml.statistics import Statistics, count_present, find_feature

# How often one comparison blocks a sample that lacks nothing but rows.
FALSE_ALARMS = 0.001

_SAMPLES = 4000
_SEED = 13
_BINS = 10  # Of equal width, as TFDV's standard histogram has them.
_QUANTILES = (np.arange(1000) + 0.5) / 1000


def drift_by_chance(
    feature: schema_pb2.Feature,
    drift: float,
    new: Statistics,
    baseline: Statistics,
) -> float:
    """How much of a drift is explained by the number of rows, and by the ends of their range.

    A sample drifts from what it was drawn from: by the quantile `1 - FALSE_ALARMS` of a parametric
    bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 6.5). Samples are drawn
    from the distribution that the baseline's statistics describe, and compared with it. The
    variance of a difference of two shares is p (1 - p) (1 / n + 1 / m), so samples of n m / (n + m)
    rows stand for two samples of n and m rows. By the triangle inequality, an L-infinity distance
    is at most the distance of the two distributions plus this; a Jensen-Shannon divergence is close
    to it.

    TFDV counts a number in ten bins over the range of each data set, so that one value far out,
    which a sample has or lacks, moves all others to other bins. What the drift is more than that in
    the baseline's bins (and one below, and one above them) is explained by this.

    Args:
      feature: The feature in the schema.
      drift: What TFDV measured, by the feature's comparator.
      new: Statistics of the new data.
      baseline: Statistics of what it is compared with.

    Returns:
      The part of the drift, in its measure; 0 where the statistics hold no distribution of the
      feature.
    """
    here, there = find_feature(new, feature.name), find_feature(baseline, feature.name)
    if here is None or there is None:
        return 0.0
    rows = effective_rows(count_present(here), count_present(there))
    if rows < 1:
        return 0.0
    if buckets := there.string_stats.rank_histogram.buckets:
        shares = np.array([bucket.sample_count for bucket in buckets])
        shares /= shares.sum()
        comparators = (feature.drift_comparator, feature.skew_comparator)
        if any(comparator.HasField("infinity_norm") for comparator in comparators):
            return _quantile(np.abs(_draw(shares, rows) - shares).max(axis=1))
        return divergence_by_chance(shares, rows)
    values, known = _quantiles(here.num_stats), _quantiles(there.num_stats)
    if not len(values) or not len(known):
        return 0.0
    edges = np.linspace(there.num_stats.min, there.num_stats.max, _BINS + 1)
    shares = _count(known, edges)
    in_same_bins = float(jensen_shannon(_count(values, edges), shares))
    return max(0.0, drift - in_same_bins) + divergence_by_chance(shares, rows)


def divergence_by_chance(shares: np.ndarray, rows: float) -> float:
    """The Jensen-Shannon divergence that a sample shows from the distribution it was drawn from.

    Args:
      shares: The distribution, shape [bins].
      rows: Size of the sample, as of `effective_rows`.
    """
    return _quantile(jensen_shannon(_draw(shares, rows), shares))


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


def auc_deviation(positive: int, negative: int) -> float:
    """The standard deviation of the AUC of labels that follow from nothing (Mann, Whitney 1947).

    Args:
      positive: How many labels are 1; more than 0.
      negative: How many are 0; more than 0.
    """
    return math.sqrt((positive + negative + 1) / (12 * positive * negative))


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The Jensen-Shannon divergence of two distributions, 0 to 1, as TFDV measures it.

    Args:
      first: Probabilities, shape [..., bins].
      second: The other's.
    """
    # Where distributions are all but equal, rounding makes SciPy take the root of -1e-17.
    with np.errstate(invalid="ignore"):
        distance = jensenshannon(first, second, base=2, axis=-1)
    divergence: np.ndarray = np.nan_to_num(distance) ** 2
    return divergence


def _draw(shares: np.ndarray, rows: float) -> np.ndarray:
    """The shares in samples of a distribution, shape [samples, bins]."""
    size = max(1, int(rows))
    return np.random.default_rng(_SEED).multinomial(size, shares, _SAMPLES) / size


def _quantile(drifts: np.ndarray) -> float:
    return float(np.quantile(drifts, 1 - FALSE_ALARMS))


def _quantiles(stats: statistics_pb2.NumericStatistics) -> np.ndarray:
    """A thousand values as they are distributed; none where the statistics say nothing of it.

    The histogram's bins of equal width say how much is far out, the quantiles which single values
    many rows have.
    """
    points = []
    for histogram in stats.histograms:
        counts = np.array([bucket.sample_count for bucket in histogram.buckets])
        if counts.sum():
            points.append((histogram.buckets[0].low_value, 0.0))
            ends = (bucket.high_value for bucket in histogram.buckets)
            points += zip(ends, np.cumsum(counts) / counts.sum(), strict=True)
    if not points or not np.isfinite(points).all():
        return np.array([])
    values, below = np.array(sorted(points)).T
    return np.interp(_QUANTILES, np.maximum.accumulate(below), values)


def _count(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The shares of values below the first edge, in each bin, and above the last, shape [bins+2].

    The last bin holds its upper edge.
    """
    starts = np.append(edges[:-1], np.nextafter(edges[-1], np.inf))
    bins = np.searchsorted(starts, values, side="right")
    return np.bincount(bins, minlength=len(edges) + 1) / len(values)
