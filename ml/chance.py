"""How far a small sample may be from its population by chance."""

import math

import numpy as np
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from ml.statistics import Statistics, count_present, find_feature

# Rate at which one comparison blocks a sample that is only small.
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
    """The part of a drift that the number of rows and the ends of their range explain.

    A sample drifts from its population, by the quantile `1 - FALSE_ALARMS` of a parametric
    bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 6.5). Samples are drawn
    from the distribution that the baseline's statistics describe, and compared with it. The
    variance of a difference of two shares is p (1 - p) (1 / n + 1 / m), so samples of n m / (n + m)
    rows represent two samples of n and m rows. By the triangle inequality, an L-infinity distance
    is at most the distance of the two distributions plus this quantile; a Jensen-Shannon divergence
    is close to that.

    TFDV counts numbers in ten bins over the range of each data set, so one extreme value that a
    sample has or lacks moves all other values to other bins. The excess of the drift over that in
    the baseline's bins (and one bin below and one above them) is explained by this.

    Args:
      feature: The feature in the schema.
      drift: TFDV's drift, by the feature's comparator.
      new: Statistics of the new data.
      baseline: Statistics of the data that it is compared with.

    Returns:
      The part of the drift, in the same measure; 0 if the statistics hold no distribution of the
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
    values, known = spread_values(here.num_stats), spread_values(there.num_stats)
    if not len(values) or not len(known):
        return 0.0
    edges = np.linspace(there.num_stats.min, there.num_stats.max, _BINS + 1)
    shares = _count(known, edges)
    in_same_bins = float(jensen_shannon(_count(values, edges), shares))
    return max(0.0, drift - in_same_bins) + divergence_by_chance(shares, rows)


def divergence_by_chance(shares: np.ndarray, rows: float) -> float:
    """The Jensen-Shannon divergence of a sample from its own distribution, by chance.

    Args:
      shares: The distribution, shape [bins].
      rows: Size of the sample; see `effective_rows`.
    """
    return _quantile(jensen_shannon(_draw(shares, rows), shares))


def share_by_chance(rows: float) -> float:
    """Largest distance of a share in some rows from the true share (Hoeffding 1963, theorem 2)."""
    return math.sqrt(math.log(2 / FALSE_ALARMS) / (2 * rows)) if rows else 1.0


def is_more(count: float, rows: float, limit: float) -> bool:
    """Whether `count` of `rows` is evidence for a true share above `limit`.

    It is if so many or more would be improbable with the true share `limit`.
    """
    from scipy.stats import binom  # Takes half a second, and each command imports this module.

    return bool(count > limit * rows and binom.sf(count - 1, rows, limit) < FALSE_ALARMS)


def effective_rows(rows: float, others: float) -> float:
    """Size of one sample that differs from its distribution as two samples from each other."""
    return rows * others / (rows + others) if rows and others else 0.0


def auc_deviation(positive: int, negative: int) -> float:
    """The standard deviation of the AUC of random labels (Mann and Whitney, 1947).

    Args:
      positive: Number of labels 1; more than 0.
      negative: Number of labels 0; more than 0.
    """
    return math.sqrt((positive + negative + 1) / (12 * positive * negative))


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The Jensen-Shannon divergence of two distributions, 0 to 1, as TFDV measures it.

    Args:
      first: Probabilities, shape [..., bins].
      second: The other's.
    """
    from scipy.spatial.distance import jensenshannon

    # Of nearly equal distributions SciPy may take the root of -1e-17.
    with np.errstate(invalid="ignore"):
        distance = jensenshannon(first, second, base=2, axis=-1)
    divergence: np.ndarray = np.nan_to_num(distance) ** 2
    return divergence


def _draw(shares: np.ndarray, rows: float) -> np.ndarray:
    """Shares in random samples of a distribution, shape [samples, bins]."""
    size = max(1, int(rows))
    return np.random.default_rng(_SEED).multinomial(size, shares, _SAMPLES) / size


def _quantile(drifts: np.ndarray) -> float:
    return float(np.quantile(drifts, 1 - FALSE_ALARMS))


def spread_values(stats: statistics_pb2.NumericStatistics) -> np.ndarray:
    """A thousand values with the distribution of a feature; none if the statistics lack it.

    The histogram's bins of equal width show the tails, the quantiles the values that many rows
    have.
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
