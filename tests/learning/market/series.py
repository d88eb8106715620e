"""Series of bars for tests: the one with expected values, and others that are awkward."""

import csv

import numpy as np

from closeloop.learning.market.bars import Bars
from closeloop.models.market_policy import MarketPolicy
from tests.learning.market.golden import FOLDER

POLICY = MarketPolicy()


def expected_series() -> Bars:
    """The 1,500 hourly bars of expected/engine.json."""
    with (FOLDER / "engine_series.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    return Bars.of((int(row[0]), *map(float, row[1:])) for row in rows)


def random_series(seed: int, n: int, kind: str = "walk") -> Bars:
    """n minutes. ``walk``: without a trend; ``up``, ``down``: with one; ``coarse``: prices rounded, so that many are
    equal; ``halting``: stretches without any movement or volume; ``still``: one price, no volume."""
    rng = np.random.default_rng(seed)
    drift = {"up": 0.0002, "down": -0.0002}.get(kind, 0.0)
    moves = rng.normal(drift, 0.002, n)
    volume = rng.lognormal(3.0, 1.0, n)
    wicks = rng.random((2, n)) * 0.001
    if kind in ("halting", "still"):
        halted = np.ones(n, bool) if kind == "still" else np.repeat(rng.random(n // 40 + 1) < 0.4, 40)[:n]
        moves[halted], volume[halted], wicks[:, halted] = 0.0, 0.0, 0.0
    close = 100 * np.exp(np.cumsum(moves))
    if kind == "coarse":
        close = np.round(close * 2) / 2
        wicks[:] = 0.0
    before = np.concatenate((close[:1], close[:-1]))
    high, low = np.maximum(before, close) * (1 + wicks[0]), np.minimum(before, close) * (1 - wicks[1])
    return Bars(1_700_000_040 // 60 * 60 + 60 * np.arange(n, dtype=np.int64), before, high, low, close, volume)
