"""Simulated books in a simulated market: states that come and go, and R that has to do with one of them, or with none.
``tests/learning/market/test_worth.py`` counts what is made of them, and ``make simulate`` on a larger scale."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from closeloop.learning.market.worth import Openings, looked_at, worth
from closeloop.learning.scope import REGIME_STATE_DIMENSIONS
from closeloop.models.policy import MiningPolicy, WorthPolicy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
HOURS = {"macro": 24.0 * 20, "meso": 30.0, "micro": 0.5}
"""Mean length of a spell (hours)."""
START = 20_000 * 86_400.0
SYMBOLS = 20


def chain(rng: np.random.Generator, hours: Floats, mean: float) -> Ints:
    """A state (n,) of four at each of these hours (ascending), which changes after ``mean`` hours on average."""
    end = float(hours[-1]) + 1.0
    changes = np.cumsum(rng.exponential(mean, int(2 * end / mean) + 50))
    states = rng.integers(0, 4, len(changes) + 1)
    return states[np.searchsorted(changes, hours)]


def autoregressive(rng: np.random.Generator, hours: Floats, coefficient: float, sd: float) -> Floats:
    """Luck of the day of each of these hours (n,): a stationary autoregression from day to day."""
    steps = int(hours[-1] // 24.0) + 1
    x = np.empty(steps)
    x[0] = rng.normal()
    noise = rng.normal(size=steps) * np.sqrt(1 - coefficient**2)
    for place in range(1, steps):
        x[place] = coefficient * x[place - 1] + noise[place]
    return sd * x[(hours // 24.0).astype(np.int64)]


def book(
    seed: int,
    n: int = 1000,
    days: int = 300,
    kind: str = "normal",
    *,
    coefficient: float = 0.0,
    luck: float = 0.0,
    of_symbol: float = 0.0,
    together: bool = False,
    clustered: bool = False,
    hours: Mapping[str, float] = HOURS,
    planted: tuple[str, int, float] | None = None,
) -> Openings:
    """``n`` trades in ``days`` days of 20 symbols in four buckets; R has an sd of about 1, or is of another ``kind``.

    ``luck``: sd of each day's (R), which persists with ``coefficient`` from day to day; ``of_symbol``: of a symbol.
    ``together``: drivers agree most of the time, and all buckets do; ``clustered``: trades come in bursts of five.
    ``planted``: dimension, state and what is added to R in it.
    """
    rng = np.random.default_rng(seed)
    at = rng.uniform(0, 24 * days, n)
    if clustered:  # trades come in bursts of a few hours
        at = np.repeat(rng.uniform(0, 24 * days, n // 5 + 1), 5)[:n] + rng.uniform(0, 3, n)
    at = np.sort(at)
    symbols = rng.integers(0, SYMBOLS, n)
    buckets = symbols % 4
    states: dict[str, Ints] = {}
    for dimension in REGIME_STATE_DIMENSIONS:
        driver, horizon = dimension.split("_")
        if driver == "bucket":
            states[dimension] = np.empty(n, np.int64)
            shared = chain(rng, at, hours[horizon])
            for bucket in range(4):
                of = buckets == bucket
                states[dimension][of] = (shared if together else chain(rng, at, hours[horizon]))[of]
        else:
            states[dimension] = chain(rng, at, hours[horizon])
    if together:
        for horizon in HOURS:  # what is one market: drivers mostly agree
            for driver in ("alt", "btcd", "bucket"):
                states[f"{driver}_{horizon}"] = np.where(
                    chain(rng, at, hours[horizon]) > 0, states[f"btc_{horizon}"], states[f"{driver}_{horizon}"]
                )
    rr = rng.normal(0.0, 1.0, n)
    if kind == "skewed":
        rr = np.where(rng.random(n) < 0.38, rng.exponential(1.7, n), -1.0)
    if kind == "heavy":
        rr = np.where(rng.random(n) < 0.1, rng.exponential(9.0, n), -1.0)
    if kind == "spread":  # as good in each state, but not as wild
        rr = rr * np.where(states["btc_macro"] == 0, 2.5, 0.7)
    rr = rr + autoregressive(rng, at, coefficient, luck) if luck else rr
    rr = rr + rng.normal(0, of_symbol, SYMBOLS)[symbols]
    if planted is not None:
        dimension, state, lift = planted
        rr = rr + lift * (states[dimension] == state)
    return Openings(rr, START + 3600 * at, symbols, buckets, states)


def told(openings: Openings, numbers: WorthPolicy | None = None) -> list[tuple[str, str]]:
    """(dimension, state) of what is told from noise."""
    numbers = numbers or WorthPolicy()
    found = worth(openings, numbers, MiningPolicy())
    return [(each.dimension, str(each.state)) for each in found if each.q is not None and each.q <= numbers.max_q]


def told_at_any_look(openings: Openings) -> bool:
    """Whether something is told from noise in one of all looks that are taken as the book grows."""
    numbers = WorthPolicy()
    looks = {looked_at(n, numbers) for n in range(2 * numbers.min_trades, len(openings.rr) + 1)}
    return any(told(openings.first(n)) for n in sorted(looks))


def power(seed: int, n: int, days: int, horizon: str, lift: float) -> bool:
    """Whether a state that is worth ``lift`` R is told from noise, beside luck of days that lasts (sd 0.3 R, AR .9)."""
    found = book(seed, n, days, luck=0.3, coefficient=0.9, planted=(f"btc_{horizon}", 2, lift))
    return (f"btc_{horizon}", "S2") in told(found)


NOISE: dict[str, Callable[[int], Openings]] = {
    "independent, normal": lambda seed: book(seed),
    "-1 R or winners, skewed": lambda seed: book(seed, kind="skewed"),
    "-1 R or rare winners of 9 R": lambda seed: book(seed, kind="heavy"),
    "as good in each state, not as wild": lambda seed: book(seed, kind="spread"),
    "luck of days, sd 0.5 R": lambda seed: book(seed, luck=0.5),
    "luck of symbols, sd 0.4 R": lambda seed: book(seed, of_symbol=0.4),
    "luck that lasts as states do (AR .98)": lambda seed: book(seed, luck=0.5, coefficient=0.98),
    "the same, 0.7 R, trades in bursts": lambda seed: book(seed, luck=0.7, coefficient=0.98, clustered=True),
    "the same, drivers move together": lambda seed: book(seed, luck=0.7, coefficient=0.98, together=True),
    "the same, 5,000 trades in 600 days": lambda seed: book(
        seed, n=5_000, days=600, luck=0.7, coefficient=0.98, together=True
    ),
    "the same, skewed, 300 trades in 600 days": lambda seed: book(
        seed, n=300, days=600, kind="skewed", luck=0.7, coefficient=0.98, together=True
    ),
}
