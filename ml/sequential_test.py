"""A sequential test of a mean: it may be looked at after each value, and ended whenever it decides.

A test of fixed size, looked at every day until it is significant, finds a difference where there is
none far more often than its level says. This one keeps its level over all looks together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# The verdicts.
BETTER = "better"
WORSE = "worse"
NOT_YET = "not yet"
# Of a test that ends without one.
UNDECIDED = "undecided"

# Variance of the normal prior of the mean, in variances of a value. With 1 the test decides at 7
# values on a mean of 1.8 standard deviations, at 30 on 0.6, at 365 on 0.18.
_PRIOR = 1.0


@dataclass(frozen=True)
class Look:
    """What the values so far say about their mean.

    Attributes:
      mean: Their mean.
      low: Lower end of the confidence sequence; -inf while there are too few values.
      high: Upper end.
      e_value: Evidence against a mean of 0: a bet on it being 0 would have lost so many times its
        stake. It is at least 1 / alpha where the confidence sequence excludes 0.
      values: Number of values.
    """

    mean: float
    low: float
    high: float
    e_value: float
    values: int

    @property
    def verdict(self) -> str:
        """BETTER if the mean is above 0, WORSE if it is below, NOT_YET while either may be."""
        if self.low > 0:
            return BETTER
        return WORSE if self.high < 0 else NOT_YET


def look(values: np.ndarray, alpha: float) -> Look:
    """Tests whether the mean of independent values is 0, at all looks together at level `alpha`.

    It is the mixture sequential probability ratio test (mSPRT) with a normal prior (Robbins,
    "Statistical Methods Related to the Law of the Iterated Logarithm", 1970; Johari, Koomen,
    Pekelis and Walsh, "Always Valid Inference", Operations Research 70(3), 2022,
    https://arxiv.org/abs/1512.04922), in the form for values of an unknown variance: the likelihood
    ratio of the t statistic, with the prior on the mean in standard deviations (Lai, "On Confidence
    Sequences", Annals of Statistics 4(2), 1976; Hendriksen, de Heide and Grünwald, "Optional
    Stopping with Bayes Factors", Bayesian Analysis 16(3), 2021, https://arxiv.org/abs/1807.09077;
    Wang and Ramdas, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown
    variance", 2024, https://arxiv.org/abs/2310.03722). For n values, t their t statistic and g the
    variance of the prior, the ratio is

        (1 + n g)^(-1/2) * ((1 + t² / (n - 1)) / (1 + t² / ((n - 1) (1 + n g))))^(n / 2)

    It is a nonnegative martingale of mean 1 where the mean is 0, so by Ville's inequality it ever
    reaches 1 / alpha with a probability of at most alpha. That is exact for normal values of any
    variance, and holds the better for others the more rows are summed in a value: give it sums of
    rows that belong together, such as those of a day, not single rows. Scale does not matter.

    Example:
      >>> found = look(np.array([0.9, 1.2, 1.0, 1.1, 0.8, 1.0, 1.3]), alpha=0.05)
      >>> found.verdict, round(found.low, 2), round(found.high, 2)
      ('better', 0.74, 1.34)

    Args:
      values: float [values], finite, independent of each other.
      alpha: Probability of ever deciding if the mean is 0, above 0 and below 1.

    Returns:
      Mean, confidence sequence (its coverage at all looks together is 1 - alpha), and evidence.
    """
    number = len(values)
    if number < 2:
        mean = float(values.mean()) if number else math.nan
        return Look(mean, -math.inf, math.inf, 1.0, number)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(number)
    shrunk = 1 + number * _PRIOR
    needed = math.exp(2 / number * (math.log(shrunk) / 2 - math.log(alpha)))
    half = math.inf
    if needed < shrunk:
        half = error * math.sqrt((number - 1) * (needed - 1) / (1 - needed / shrunk))
    return Look(mean, mean - half, mean + half, _e_value(mean, error, number), number)


def _e_value(mean: float, error: float, number: int) -> float:
    shrunk = 1 + number * _PRIOR
    if not error:
        quotient = shrunk if mean else 1.0  # The limit for a large t.
    else:
        spread = (mean / error) ** 2 / (number - 1)
        quotient = (1 + spread) / (1 + spread / shrunk)
    exponent = number / 2 * math.log(quotient) - math.log(shrunk) / 2
    return math.exp(min(exponent, 700.0))
