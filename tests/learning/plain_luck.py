"""The luck of periods and symbols trade by trade, as docs/algorithms.md, section 8, has it."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from closeloop.learning.trades import Trade
from closeloop.models.policy import MiningPolicy

Cell = tuple[list[Trade], list[Trade]]


@dataclass
class Parts:
    """One clustering: clusters, how many the difference rests on, variance, degrees of freedom, the sum of squared
    weights of its clusters over their trades; ``unknown``: p is 1."""

    clusters: int
    effective: float
    variance: float
    freedom: float
    per_trade: float
    unknown: bool = False


@dataclass
class PlainLuck:
    p: float
    half_width: float
    parts: dict[str, Parts]
    confined: bool


def _day(trade: Trade) -> int:
    return math.floor(trade.entered_at / 86_400)


def clusterings(trades: Sequence[Trade], mining: MiningPolicy) -> dict[str, Callable[[Trade], Any]]:
    days = [_day(trade) for trade in trades]
    found: dict[str, Callable[[Trade], Any]] = {
        "symbol": lambda t: t.symbol,
        "day": _day,
        "week": lambda t: (_day(t) + 3) // 7,
        "four_weeks": lambda t: (_day(t) + 3) // 28,
    }
    if max(days) - min(days) + 1 >= 7 * mining.quarter_weeks:
        found["quarter"] = lambda t: (_day(t) + 3) // 84
    return found


def plain_luck(
    cells: Sequence[Cell], trades: Sequence[Trade], variance: float, freedom: float, mining: MiningPolicy
) -> PlainLuck:
    """``cells``: the usable ones, inside and outside; ``trades``: all of the group; ``variance`` of the difference and
    its degrees of ``freedom`` where trades are independent."""
    w = [len(a) * len(b) / (len(a) + len(b)) for a, b in cells]
    rows: list[tuple[Trade, float, float]] = []  # with a_i and r_i
    d = 0.0
    for cell, weight in zip(cells, w, strict=True):
        means = [math.fsum(t.rr for t in side) / len(side) for side in cell]
        share = weight / sum(w)
        d += share * (means[0] - means[1])
        for side, mean, sign in zip(cell, means, (1, -1), strict=True):
            rows += [(t, sign * share / len(side), t.rr - mean) for t in side]
    s2 = math.fsum(r * r for _, _, r in rows) / (len(rows) - 2 * len(cells))
    aa = math.fsum(a * a for _, a, _ in rows)
    parts = {name: _parts(rows, key, s2, aa, mining) for name, key in clusterings(trades, mining).items()}
    symbol = parts["symbol"]
    confined = symbol.freedom < mining.min_symbol_freedom and symbol.per_trade > mining.max_symbol_share * aa
    p, half_width = 0.0, 0.0
    for name, part in parts.items():
        if name == "symbol":
            continue
        if confined or symbol.unknown or part.unknown:
            p, half_width = 1.0, math.inf
            continue
        three = [(variance, freedom), (symbol.variance, symbol.freedom), (part.variance, part.freedom)]
        total = sum(v for v, _ in three)
        free = total**2 / sum(v * v / f for v, f in three if v > 0)
        p = max(p, 2 * float(stats.t.cdf(-abs(d) / math.sqrt(total), free)))
        half_width = max(half_width, float(stats.t.ppf(0.975, free)) * math.sqrt(total))
    return PlainLuck(p, half_width, parts, confined)


def _parts(
    rows: Sequence[tuple[Trade, float, float]], key: Callable[[Trade], Any], s2: float, aa: float, mining: MiningPolicy
) -> Parts:
    clusters: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for trade, a, r in rows:
        clusters[key(trade)].append((a, r))
    n = [len(each) for each in clusters.values()]
    big_a = [math.fsum(a for a, _ in each) for each in clusters.values()]
    m = [math.fsum(r for _, r in each) / len(each) for each in clusters.values()]
    count = len(clusters)
    a2, a4 = sum(a**2 for a in big_a), sum(a**4 for a in big_a)
    per_trade = sum(a * a / k for a, k in zip(big_a, n, strict=True))
    if count < 2 or a2 <= 1e-12 * aa:
        return Parts(count, 0.0, 0.0, count - 2, per_trade)
    effective = a2**2 / a4
    freedom = min(count - 2, effective - 1)
    if count == 2:
        return Parts(count, effective, 0.0, freedom, per_trade, a2 > aa)
    omega = [1 / (1 / k + mining.luck_variance) for k in n]
    total = sum(omega)
    e = total**2 / sum(x * x for x in omega)
    middle = sum(x * y for x, y in zip(omega, m, strict=True)) / total
    q = sum(x * (y - middle) ** 2 for x, y in zip(omega, m, strict=True)) * max(e - 1, 0.5) / max(e - 2, 0.5)
    expected = s2 * sum(x * (1 - x / total) / k for x, k in zip(omega, n, strict=True))
    tau2 = max(0.0, (q - expected) / sum(x * (1 - x / total) for x in omega))
    return Parts(count, effective, tau2 * a2, freedom, per_trade)
