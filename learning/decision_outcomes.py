"""What became of the market after a decision: excursions, volatility, and whether the decision was right.

Times are seconds since 1970, prices floats, returns and excursions percent.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LEAST_COVERAGE = 0.9
"""The share of a window that candles of an interval have to cover, so that its extremes are told."""
MEDIAN_OF_NORMAL = 0.6745
"""Half of a normal distribution lies within so many standard deviations."""
LEAST_HOURS = 100
"""Hourly returns of the week before (of 168) that a band for HOLD needs."""
DAY = 86_400
HOUR = 3_600


@dataclass(frozen=True)
class Candles:
    """Candles of one interval (seconds), by their ends (sorted): arrays of one length. ``volume`` may hold NaN."""

    interval: int
    ends: Ints
    high: Floats
    low: Floats
    close: Floats
    volume: Floats


@dataclass(frozen=True)
class Window:
    """What a window of candles shows: extremes (NaN-free) and volatility where it is covered, else None of each."""

    coverage: float
    high: float | None = None
    low: float | None = None
    volatility: float | None = None


def window(series: list[Candles], begin: int, end: int) -> Window:
    """Extremes of the candles that start at or after ``begin`` and end by ``end``, and their volatility.

    The finest interval that covers 90 % of the window is used; where none does, only the largest coverage is told.
    Volatility is percent a day: the root mean square of log returns of consecutive candles, scaled to a day.

    >>> ends, high, low = np.array([100, 200, 300]), np.array([2.0, 4.0, 3.0]), np.array([1.0, 2.0, 2.0])
    >>> c = Candles(100, ends, high, low, low, ends * 1.0)
    >>> w = window([c], 0, 300)
    >>> w.coverage, w.high, w.low
    (1.0, 4.0, 1.0)
    >>> window([c], 150, 300).coverage
    0.6666666666666666
    """
    if end <= begin:
        return Window(0.0)
    best = 0.0
    for candles in sorted(series, key=lambda one: one.interval):
        first = int(np.searchsorted(candles.ends, begin + candles.interval))
        last = int(np.searchsorted(candles.ends, end, side="right"))
        coverage = max(0, last - first) * candles.interval / (end - begin)
        if coverage >= LEAST_COVERAGE:
            part = slice(first, last)
            return Window(
                coverage,
                float(candles.high[part].max()),
                float(candles.low[part].min()),
                _volatility(candles.ends[part], candles.close[part], candles.interval),
            )
        best = max(best, coverage)
    return Window(best)


def _volatility(ends: Ints, close: Floats, interval: int) -> float | None:
    consecutive = np.diff(ends) == interval
    returns = np.diff(np.log(close))[consecutive]
    if not len(returns):
        return None
    return float(100 * math.sqrt(np.mean(returns**2) * DAY / interval))


def excursions(reference: float, side: int, high: float, low: float) -> tuple[float, float]:
    """The most favourable and the most adverse excursion, percent of ``reference``, >= 0; ``side`` is 1 or -1.

    >>> excursions(100.0, 1, 110.0, 95.0)
    (10.0, 5.0)
    >>> excursions(100.0, -1, 110.0, 95.0)
    (5.0, 10.0)
    """
    up = max(0.0, 100 * (high - reference) / reference)
    down = max(0.0, 100 * (reference - low) / reference)
    return (up, down) if side > 0 else (down, up)


def accuracy(decision_type: str, side: int, return_pct: float, band: float | None) -> float | None:
    """1 where a decision was right, 0 where it was wrong; None for IGNORE, and for HOLD without a band.

    HOLD is right where the return (percent) lies within the ``band``: half of what chance would bring.

    >>> accuracy("BUY", 1, 0.1, None), accuracy("SELL", -1, 0.0, None), accuracy("HOLD", 1, 2.0, 2.0)
    (1.0, 0.0, 1.0)
    """
    if decision_type == "IGNORE":
        return None
    if decision_type == "HOLD":
        return None if band is None else float(abs(return_pct) <= band)
    return float(side * return_pct > 0)


def hold_band(series: list[Candles], decided_at: int, horizon_hours: int) -> float | None:
    """The band of HOLD in percent: 0.6745 sigma of the hourly log returns of the 7 days before, over the horizon.

    None where fewer than 100 pairs of closes on consecutive full hours are on record.
    """
    closes: dict[int, float] = {}
    for candles in sorted(series, key=lambda one: -one.interval):
        first, last = np.searchsorted(candles.ends, [decided_at - 7 * DAY, decided_at + 1])
        on_hour = np.flatnonzero(candles.ends[first:last] % HOUR == 0) + first
        closes.update(zip(candles.ends[on_hour].tolist(), candles.close[on_hour].tolist(), strict=True))
    returns = [math.log(close / closes[at - HOUR]) for at, close in closes.items() if at - HOUR in closes]
    if len(returns) < LEAST_HOURS:
        return None
    return MEDIAN_OF_NORMAL * 100 * float(np.std(returns, ddof=1)) * math.sqrt(horizon_hours)


def volume_accuracy(series: list[Candles], decided_at: int, predicted: float) -> float | None:
    """How near the expected ratio of volume came: max(0, 1 - |ln(actual / predicted)|).

    ``actual``: volume of the day after over that of a day of the 7 days before, of the finest interval that covers 90 %
    of both with volumes. None where there is none, or where one of the volumes is 0.
    """
    if predicted <= 0:
        return None
    for candles in sorted(series, key=lambda one: one.interval):
        after = _volume(candles, decided_at, decided_at + DAY)
        before = _volume(candles, decided_at - 7 * DAY, decided_at)
        if after and before:
            return max(0.0, 1 - abs(math.log(after / before / predicted)))
    return None


def _volume(candles: Candles, begin: int, end: int) -> float | None:
    """Mean volume of the candles within, where 90 % of the time has one."""
    first = int(np.searchsorted(candles.ends, begin + candles.interval))
    last = int(np.searchsorted(candles.ends, end, side="right"))
    found = candles.volume[first:last]
    found = found[np.isfinite(found)]
    if len(found) * candles.interval < LEAST_COVERAGE * (end - begin):
        return None
    return float(found.mean())
