"""Simulated books: markets that persist without any edge, and planted edges. What mining makes of them is counted by
``tests/learning/test_mining_simulation.py``, and on a larger scale by ``make simulate``."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from closeloop.learning.mining import mine
from closeloop.learning.trades import Group
from closeloop.models.lessons import LessonStatus
from closeloop.models.policy import MiningPolicy
from tests.learning.trades import EIGHT, columns_of, noise

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
HALF = 4  # of eight dimensions, those that persist as the luck does
TRADES, DAYS, SYMBOLS = 5_000, 200, 20


def accepted(group: Group, mining: MiningPolicy | None = None) -> list[dict[str, str]]:
    """Conditions of the lessons that are accepted, in the order of acceptance."""
    lessons = mine([group], mining or MiningPolicy()).lessons
    return [dict(each.conditions) for each in lessons if each.status is LessonStatus.active]


def _group(
    rng: np.random.Generator,
    n: int,
    days: int,
    symbols: int = SYMBOLS,
    *,
    of_day: Floats | None = None,
    day_codes: Ints | None = None,
    of_symbol: Floats | None = None,
    symbol_codes: Ints | None = None,
    shares: Floats | None = None,
) -> Group:
    """Trades of rr ~ N(0, 1) in eight dimensions of four values, with effects of days and symbols.

    The first dimensions are ``day_codes`` (days, k) or ``symbol_codes`` (symbols, k), the others independent.
    """
    codes, day = rng.integers(0, 4, (n, len(EIGHT))), rng.integers(0, days, n)
    symbol = rng.choice(symbols, n, p=shares)
    rr = rng.normal(0.0, 1.0, n)
    if of_day is not None:
        rr = rr + of_day[day]
    if of_symbol is not None:
        rr = rr + of_symbol[symbol]
    for per, code in ((day_codes, day), (symbol_codes, symbol)):
        if per is not None:
            codes[:, : per.shape[1]] = per[code]
    return columns_of(codes, rr, day, symbol=symbol)


def autoregressive(rng: np.random.Generator, n: int, coefficient: float, sd: float) -> Floats:
    """A stationary autoregression of first order (n,) with this standard deviation."""
    x = np.empty(n)
    x[0] = rng.normal()
    for place in range(1, n):
        x[place] = coefficient * x[place - 1] + np.sqrt(1 - coefficient**2) * rng.normal()
    return sd * x


def spells(rng: np.random.Generator, days: int, mean: float, k: int = HALF) -> Ints:
    """k dimensions of four values that change after ``mean`` days on average (days, k)."""
    codes = rng.integers(0, 4, (days, k))
    stays = rng.random((days, k)) >= 1 / mean
    for day in range(1, days):
        codes[day] = np.where(stays[day], codes[day - 1], codes[day])
    return codes


def week_shock(seed: int, n: int = TRADES, days: int = DAYS, sd: float = 0.3, k: int = 2) -> Group:
    """Each week has luck of its own, and ``k`` dimensions are constant within a week."""
    rng = np.random.default_rng(seed)
    week = np.arange(days) // 7
    codes = rng.integers(0, 4, (int(week.max()) + 1, k))
    return _group(rng, n, days, of_day=rng.normal(0, sd, len(codes))[week], day_codes=codes[week])


def dominant_symbol(seed: int, n: int = TRADES) -> Group:
    """One of 20 symbols has 70 % of the trades; each has luck of its own, and half of the dimensions are a symbol's."""
    rng = np.random.default_rng(seed)
    shares = np.full(SYMBOLS, 0.3 / (SYMBOLS - 1))
    shares[0] = 0.7
    codes = rng.integers(0, 4, (SYMBOLS, HALF))
    return _group(rng, n, DAYS, of_symbol=rng.normal(0, 0.2, SYMBOLS), symbol_codes=codes, shares=shares)


def drift(seed: int, n: int = TRADES, days: int = DAYS) -> Group:
    """R rises by half an R over the time, and a dimension is the quarter of it."""
    rng = np.random.default_rng(seed)
    codes = (np.arange(days) * 4 // days)[:, None]
    return _group(rng, n, days, of_day=np.linspace(-0.25, 0.25, days), day_codes=codes)


def regimes(
    seed: int, n: int = TRADES, days: int = DAYS, coefficient: float = 0.9, sd: float = 0.5, mean: float = 10.0
) -> Group:
    """R follows an autoregression from day to day, and half of the dimensions are regimes of ``mean`` days."""
    rng = np.random.default_rng(seed)
    return _group(rng, n, days, of_day=autoregressive(rng, days, coefficient, sd), day_codes=spells(rng, days, mean))


def random_walk(seed: int, n: int = TRADES, days: int = 400) -> Group:
    """R is a random walk in steps of sd 0.05 from day to day, and a dimension is the quarter of the time."""
    rng = np.random.default_rng(seed)
    codes = (np.arange(days) * 4 // days)[:, None]
    return _group(rng, n, days, of_day=np.cumsum(rng.normal(0, 0.05, days)), day_codes=codes)


def two_years(seed: int, n: int = TRADES) -> Group:
    """R follows an autoregression of 0.98 over 730 days, and half of the dimensions are regimes of 30 days."""
    return regimes(seed, n, 730, 0.98, 0.5, 30.0)


def symbol_effects(seed: int, n: int = TRADES, symbols: int = SYMBOLS, sd: float = 0.5) -> Group:
    """Each symbol has luck of its own, and half of the dimensions are constant within a symbol."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (symbols, HALF))
    return _group(rng, n, DAYS, symbols, of_symbol=rng.normal(0, sd, symbols), symbol_codes=codes)


def small_family(seed: int, n: int = 300) -> Group:
    """Three symbols with effects of +0.9, 0 and -0.9 R; one dimension is a symbol's, the other independent."""
    rng = np.random.default_rng(seed)
    symbol, code = rng.integers(0, 3, n), rng.integers(0, 3, n)
    rr = rng.normal(0.0, 1.0, n) + np.array([0.9, 0.0, -0.9])[symbol]
    return columns_of(np.stack((symbol, code), axis=1), rr, rng.integers(0, 60, n), EIGHT[:2], symbol=symbol)


PERSISTING: Mapping[str, Callable[[int], Group]] = {
    "a shock common to a week, sd .3; 2 dimensions": week_shock,
    "a shock common to a week, sd .3; 4 dimensions": lambda seed: week_shock(seed, k=4),
    "one symbol has 70 % of the trades, symbols sd .2": dominant_symbol,
    "drift beside a calendar dimension": drift,
    "regimes of ten days, AR .9, sd .5": regimes,
    "20 symbols with effects, sd .5": symbol_effects,
    "random walk beside a calendar dimension, 400 days": random_walk,
    "two years of AR .98, sd .5": two_years,
    "3 symbols with effects, sd .5": lambda seed: symbol_effects(seed, symbols=3),
    "5 symbols with effects, sd .5": lambda seed: symbol_effects(seed, symbols=5),
}
# Where more than one lesson in ten runs is false (docs/patterns.md has the figures).
HARDER = frozenset({"a shock common to a week, sd .3; 4 dimensions"})
INDEPENDENT: Mapping[str, Callable[[int], Group]] = {
    "normal noise": lambda seed: noise("normal", seed),
    "skewed noise: -1 R stops, exponential winners": lambda seed: noise("skewed", seed),
    "a shock common to a day, sd .5": lambda seed: noise("day", seed),
}

# Trades, conditions, and the smallest edge (R) that is found exactly in 80 % of 20 seeds.
POWER = ((1_000, 1, 0.4), (1_000, 2, 0.8), (5_000, 1, 0.2), (5_000, 2, 0.4), (5_000, 3, 0.8))


def with_edge(seed: int, n: int, conditions: int, lift: float) -> tuple[Group, dict[str, str]]:
    """Trades of 20 symbols on 200 days with one planted edge, and its conditions."""
    rng = np.random.default_rng(seed)
    codes, day, symbol = rng.integers(0, 4, (n, 8)), rng.integers(0, DAYS, n), rng.integers(0, SYMBOLS, n)
    rr = rng.normal(0.0, 1.0, n) + lift * np.all(codes[:, :conditions] == 1, axis=1)
    return columns_of(codes, rr, day, symbol=symbol), dict.fromkeys(EIGHT[:conditions], "v1")


def found_exactly(seed: int, n: int, conditions: int, lift: float, mining: MiningPolicy | None = None) -> bool:
    """Whether the planted edge is accepted as planted."""
    group, planted = with_edge(seed, n, conditions, lift)
    return planted in accepted(group, mining)


def regime_edge_found(seed: int, days: int, lift: float, mining: MiningPolicy | None = None) -> bool:
    """Whether an edge is accepted that holds in one value of a regime of ten days; the market does not persist."""
    rng = np.random.default_rng(seed)
    codes = spells(rng, days, 10.0)
    group = _group(rng, TRADES, days, of_day=lift * (codes[:, 0] == 1), day_codes=codes)
    return {EIGHT[0]: "v1"} in accepted(group, mining)
