"""Calibration: of the forecasts with a confidence of 70 %, did 70 % come true?

Everything that :func:`performance` reports is computed from sums that add up: over the days of a window, over regimes,
over workers. So the sums of a day are stored once, and a window costs a sum over days, however many outcomes it holds.

Outcomes whose horizons overlap are not independent: their returns share the part of the horizon that they have in
common, and have it as their correlation. So n outcomes are worth n² / Σᵢⱼ (part shared) independent ones: the variance
of their mean is that of so many (the "design effect" of Kish 1965). What an outcome adds to the double sum, its
overlap, is 1 and twice the part shared with each earlier one of its producer x asset x horizon; it adds up over days
and is computed in SQL (``store/performance.py``). Evenly spaced, k to a horizon, n are worth n / k, as many as do not
overlap; at random times (a Poisson process) that many, too; where forecasts crowd into some hours, fewer: a mean over
all of them is mostly one over these hours. What comes true is correlated less than returns are (signs 2/π arcsin), so
on prices without memory they are not too many.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from closeloop.learning.correlation import pearson_of
from closeloop.learning.intervals import wilson_intervals
from closeloop.learning.scoring import brier, log_score
from closeloop.models.policy import ProducersPolicy

BINS: Final = 10
BIN_EDGES: Final = tuple(k / BINS for k in range(1, BINS))
"""Inner edges of the bins [k/10, (k+1)/10); the last bin is closed. SQL: ``width_bucket(confidence, BIN_EDGES)``."""

COLUMNS: Final = (
    "outcomes",
    "correct",
    "overlap",
    "confidence",
    "confidence_squared",
    "confidence_correct",
    "brier_squared",
    "log_score",
    "log_score_squared",
)
"""What is summed over the outcomes of a bin, the last axis of every array of sums: 1, correct (0 or 1), overlap (see
the module), p, p², p where correct, (p - correct)⁴, log score, its square. The sum of the Brier scores is not stored:
it is Σp² - 2 Σp·correct + Σcorrect."""

ALL: Final = -1
"""The code that stands for all assets, all horizons, or all regimes that forecasts named."""

_OVERLAP: Final = COLUMNS.index("overlap")
_MIN_CONFIDENCE_VARIANCE: Final = 1e-10  # below which sums cannot tell it from rounding: a deviation of 1e-5


def bin_of(confidence: NDArray[np.float64]) -> NDArray[np.intp]:
    """Bin 0 to 9 of each confidence, by comparison with k/10 (multiplying by ten would round some across an edge).

    >>> bin_of(np.array([0.0, 0.1, 0.3, 0.7, 1.0])).tolist()
    [0, 1, 3, 7, 9]
    """
    return np.searchsorted(BIN_EDGES, confidence, side="right")


def sums(
    group: NDArray[np.int64],
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_],
    overlap: NDArray[np.float64],
    groups: int,
) -> NDArray[np.float64]:
    """Sums of ``groups`` groups of outcomes, shape (groups, BINS, len(COLUMNS)); ``group`` codes 0 to groups - 1."""
    log_scores = log_score(confidence, correct)
    columns = {
        "outcomes": np.ones(len(confidence)),
        "correct": correct.astype(np.float64),
        "overlap": overlap,
        "confidence": confidence,
        "confidence_squared": confidence**2,
        "confidence_correct": np.where(correct, confidence, 0.0),
        "brier_squared": brier(confidence, correct) ** 2,
        "log_score": log_scores,
        "log_score_squared": log_scores**2,
    }
    return _added(group * BINS + bin_of(confidence), [columns[name] for name in COLUMNS], groups)


def dense(
    group: NDArray[np.int64], bins: NDArray[np.int64], rows: NDArray[np.float64], groups: int
) -> NDArray[np.float64]:
    """Add rows of sums, shape (rows, len(COLUMNS)), each of a group and a bin, to an array (groups, BINS, COLUMNS).

    Rows of the same group and bin (of several days) add up: this is how stored rows become a window.
    """
    return _added(group * BINS + bins, list(rows.T), groups)


def _added(cell: NDArray[np.int64], columns: list[NDArray[np.float64]], groups: int) -> NDArray[np.float64]:
    """Columns added up by cell, group x bin."""
    added = np.empty((groups * BINS, len(COLUMNS)))
    for place, column in enumerate(columns):
        added[:, place] = np.bincount(cell, weights=column, minlength=groups * BINS)
    return added.reshape(groups, BINS, len(COLUMNS))


def with_all(keys: NDArray[np.int64], sums: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sums of every producer x asset x horizon x regime, and of each with :data:`ALL` assets, horizons and regimes.

    ``keys`` (streams, 4) codes producer, asset, horizon, regime, none of them negative, each row once; returns keys and
    sums with the further rows. Regimes add up in every column. Over assets and horizons, outcomes of one time overlap,
    and assets move together, by an amount that is not measured: there the standard errors of the streams (asset x
    horizon) are added up, √overlap each, as if all of them moved as one. No correlation between them makes it larger,
    so the outcomes are never worth fewer than that; where assets move apart they are worth more.
    """
    any_regime = keys.copy()
    any_regime[:, 3] = ALL
    regimes, order, starts = _grouped(any_regime)
    keys = np.concatenate([keys, regimes])
    sums = np.concatenate([sums, np.add.reduceat(sums[order], starts, axis=0)])
    all_keys, all_sums = [keys], [sums]
    if not len(keys):
        return keys, sums
    of_bin = np.sqrt(sums[:, :, _OVERLAP])
    of_stream = np.sqrt(sums[:, :, _OVERLAP].sum(axis=1))
    for pooled in ([1], [2], [1, 2]):
        pool_keys = keys.copy()
        pool_keys[:, pooled] = ALL
        pools, order, starts = _grouped(pool_keys)
        pool_sums = np.add.reduceat(sums[order], starts, axis=0)
        of_pool = np.add.reduceat(of_stream[order], starts) ** 2
        bins = np.add.reduceat(of_bin[order], starts, axis=0) ** 2
        # The bins add up to what the pool has: never to more than it (Minkowski's inequality), so that each is raised.
        pool_sums[:, :, _OVERLAP] = bins * (of_pool / bins.sum(axis=1))[:, None]
        all_keys.append(pools)
        all_sums.append(pool_sums)
    return np.concatenate(all_keys), np.concatenate(all_sums)


def _grouped(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.intp]]:
    """Distinct rows, the order that brings equal rows together, and where each distinct row starts in it."""
    order = np.lexsort(keys.T[::-1])
    ordered = keys[order]
    is_first = np.ones(len(keys), np.bool_)
    is_first[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    starts = np.flatnonzero(is_first)
    return ordered[starts], order, starts


@dataclass(frozen=True)
class Performance:
    """Scores of g groups of outcomes, an array (g,) each; NaN where undefined, or on fewer outcomes than are needed.

    ``independent``: as many as the outcomes are worth (see the module), whole, from 1 to ``outcomes``; the
    Wilson 95 % interval ``hit_low``, ``hit_high`` and the standard errors ``*_se`` use it.
    ``brier`` = ``reliability`` - ``resolution`` + ``uncertainty`` + ``within_bin_variance`` -
    ``within_bin_covariance`` (Murphy 1973; Stephenson, Coelho & Jolliffe 2008), an identity.
    ``calibration_error`` is the expected calibration error, Σ n_k |ō_k - p̄_k| / n over the bins, and
    ``calibration_error_if_perfect`` what a perfectly calibrated forecaster with these bins would show on average.
    ``correlation`` is Pearson's, of confidence and correctness; NaN where either does not vary (confidences whose
    standard deviation is below 1e-5 count as equal: sums cannot tell less from rounding).
    """

    outcomes: NDArray[np.int64]
    correct: NDArray[np.int64]
    independent: NDArray[np.int64]
    hit_rate: NDArray[np.float64]
    hit_low: NDArray[np.float64]
    hit_high: NDArray[np.float64]
    mean_confidence: NDArray[np.float64]
    mean_confidence_se: NDArray[np.float64]
    brier: NDArray[np.float64]
    brier_se: NDArray[np.float64]
    reliability: NDArray[np.float64]
    resolution: NDArray[np.float64]
    uncertainty: NDArray[np.float64]
    within_bin_variance: NDArray[np.float64]
    within_bin_covariance: NDArray[np.float64]
    log_score: NDArray[np.float64]
    log_score_se: NDArray[np.float64]
    calibration_error: NDArray[np.float64]
    calibration_error_if_perfect: NDArray[np.float64]
    correlation: NDArray[np.float64]


def performance(sums: NDArray[np.float64], producers: ProducersPolicy) -> Performance:
    """Performance of g groups from their sums, shape (g, BINS, len(COLUMNS)); on fewer outcomes only the counts."""
    n, hits, overlap, p, pp, po, brier_squared, logs, logs_squared = (sums[:, :, i] for i in range(len(COLUMNS)))
    total, total_hits = n.sum(axis=1), hits.sum(axis=1)
    independent = _worth(total, overlap.sum(axis=1))
    known = total >= producers.min_outcomes
    with np.errstate(divide="ignore", invalid="ignore"):

        def mean(column: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.where(known, column.sum(axis=1) / total, np.nan)

        def standard_error(mean: NDArray[np.float64], mean_square: NDArray[np.float64]) -> NDArray[np.float64]:
            variance = np.maximum(0.0, mean_square - mean**2) * total / (total - 1)
            error: NDArray[np.float64] = np.sqrt(variance / independent)
            return error

        hit_rate, mean_p = mean(hits), mean(p)
        hit_low, hit_high = wilson_intervals(hit_rate, independent)
        brier, log_mean = mean(pp - 2 * po + hits), mean(logs)
        # Empty bins: 0 of everything, so dividing by 1 keeps them out of every sum.
        size = np.maximum(n, 1.0)
        bin_p, bin_hits = p / size, hits / size
        gap = np.abs(bin_hits - bin_p)
        variance = mean(pp) - mean_p**2
        covariance = mean(po) - mean_p * hit_rate
        varies = (variance > _MIN_CONFIDENCE_VARIANCE) & (total_hits > 0) & (total_hits < total)
        return Performance(
            outcomes=_counts(total),
            correct=_counts(total_hits),
            independent=_counts(independent),
            hit_rate=hit_rate,
            hit_low=hit_low,
            hit_high=hit_high,
            mean_confidence=mean_p,
            mean_confidence_se=standard_error(mean_p, mean(pp)),
            brier=brier,
            brier_se=standard_error(brier, mean(brier_squared)),
            reliability=mean(n * gap**2),
            resolution=mean(n * (bin_hits - hit_rate[:, None]) ** 2),
            uncertainty=hit_rate * (1 - hit_rate),
            within_bin_variance=mean(pp - p * bin_p),
            within_bin_covariance=2 * mean(po - bin_hits * p),
            log_score=log_mean,
            log_score_se=standard_error(log_mean, mean(logs_squared)),
            calibration_error=mean(n * gap),
            calibration_error_if_perfect=mean(n * _mean_deviation(_worth(n, overlap), bin_p)),
            correlation=pearson_of(covariance, np.where(varies, variance, np.nan), hit_rate * (1 - hit_rate)),
        )


def _worth(outcomes: NDArray[np.float64], overlap: NDArray[np.float64]) -> NDArray[np.float64]:
    """Independent outcomes, rounded down, but for the rounding of the sums themselves; at least 1 where any."""
    worth = outcomes**2 / np.maximum(overlap, np.finfo(np.float64).tiny)
    return np.clip(np.floor(worth + 1e-6), np.minimum(outcomes, 1.0), outcomes)


def _counts(column: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(column).astype(np.int64)


def _mean_deviation(trials: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    """E|X/n - p| of a binomial X (n, p), exactly, by De Moivre's formula (Diaconis & Zabell 1991)."""
    above = np.floor(trials * p) + 1
    inside = (trials > 0) & (p > 0) & (p < 1)
    n, k, q = np.where(inside, trials, 1.0), np.where(inside, above, 1.0), np.where(inside, p, 0.5)
    ways = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    return np.where(inside, 2 * k / n * np.exp(ways + k * np.log(q) + (n - k + 1) * np.log1p(-q)), 0.0)


@dataclass(frozen=True)
class Bin:
    """A point of the reliability diagram: of ``outcomes`` said with about ``mean_confidence``, ``hit_rate`` came true.

    The Wilson 95 % interval uses the ``independent`` ones. Means are None in an empty bin.
    """

    low: float
    high: float
    outcomes: int
    independent: int
    mean_confidence: float | None
    hit_rate: float | None
    hit_low: float | None
    hit_high: float | None


def reliability(sums: NDArray[np.float64]) -> list[Bin]:
    """The reliability diagram of one group from its sums, shape (BINS, len(COLUMNS)): all ten bins, in order."""
    n, hits, p = (sums[:, COLUMNS.index(name)] for name in ("outcomes", "correct", "confidence"))
    independent = _worth(n, sums[:, _OVERLAP])
    with np.errstate(invalid="ignore"):
        rate, mean = hits / n, p / n
    low, high = wilson_intervals(rate, independent)
    return [
        Bin(
            low=k / BINS,
            high=(k + 1) / BINS,
            outcomes=round(n[k]),
            independent=round(independent[k]),
            mean_confidence=_known(mean[k]),
            hit_rate=_known(rate[k]),
            hit_low=_known(low[k]),
            hit_high=_known(high[k]),
        )
        for k in range(BINS)
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
