"""Pivots, levels and EDX straight from their definitions: for each bar again, over all that was before it."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class PlainPivot(NamedTuple):
    confirmed: int
    side: int
    bar: int
    price: float


def pivots(closes: Sequence[float], spans: Sequence[float], first: int) -> list[PlainPivot]:
    """Of bars from ``first`` on, which has the first ATR; ``spans``: a of each bar."""
    found: list[PlainPivot] = []
    last, since, sides = first, first, [1, -1]
    for i in range(first, len(closes)):
        for side in sides:
            if since > i:
                continue
            extreme = max(range(since, i + 1), key=lambda j, side=side: (side * closes[j], -j))  # type: ignore[misc]
            if side * (closes[extreme] - closes[i]) >= 1.2 * spans[extreme] and i - last >= 4:
                found.append(PlainPivot(i, side, extreme, closes[extreme]))
                last, since, sides = extreme, extreme + 1, [-side]
                break
    return found


def levels(prices: Sequence[float], a: float) -> list[tuple[float, int]]:
    """Of pivots' prices, the oldest first."""
    groups: list[list[float]] = []
    for price in prices:
        near = [(abs(price - sum(group) / len(group)), i) for i, group in enumerate(groups)]
        near = [each for each in near if each[0] <= 0.5 * a]
        if near:
            groups[min(near)[1]].append(price)
        else:
            groups.append([price])
    return [(sum(group) / len(group), len(group)) for group in groups]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, x))))


class Spot(NamedTuple):
    """What EDX takes of a bar."""

    close: float
    volume: float
    u: float
    s250: float
    s333: float
    ema144: float
    ema250: float
    ema333: float


def edx(bars: Sequence[Spot], at: int, age: int, found: Sequence[PlainPivot]) -> list[float]:
    """EDX of bar ``at`` of S3 and, from an age of 10 on, its four parts."""
    if age < 10:
        return [0.5]
    windows = [_window(bars, at, w, found) for w in (age, 2 * age // 3, age // 3) if w >= 10]
    parts = []
    for x in zip(*windows, strict=True):
        if len(x) == 3 and x[2] > x[1] > x[0]:
            parts.append(0.2 * x[0] + 0.3 * x[1] + 0.5 * x[2])
        elif len(x) >= 2:
            parts.append(0.3 * x[0] + 0.7 * x[1] if x[1] > x[0] else (x[0] + x[1]) / 2)
        else:
            parts.append(x[0])
    return [(0.30 * parts[0] + 0.25 * parts[1] + 0.20 * parts[2] + 0.10 * parts[3]) / 0.85, *parts]


def _window(bars: Sequence[Spot], at: int, w: int, found: Sequence[PlainPivot]) -> tuple[float, float, float, float]:
    inside = range(at - w + 1, at + 1)
    slow = 1 - sum(sigma((bars[i].s250 + bars[i].s333) / 2 / (0.015 * bars[i].u)) for i in inside) / w
    verdicts = []
    for i, pivot in enumerate(found):
        before = [other for other in found[:i] if other.side == pivot.side]
        if pivot.confirmed in inside and before:
            verdicts.append(pivot.price > before[-1].price)
    structure = 1 - sum(verdicts) / len(verdicts) if len(verdicts) >= 2 else 0.5
    anchored = []
    for end in range(at - 9, at + 1):
        span = range(inside[0], end + 1)
        volume = math.fsum(bars[i].volume for i in span)
        anchored.append(math.fsum(bars[i].close * bars[i].volume for i in span) / volume if volume > 0 else math.nan)
    if any(map(math.isnan, anchored)):
        participation = 0.5
    else:
        slope = math.fsum((j - 4.5) * value for j, value in enumerate(anchored)) / 82.5
        participation = sigma(-slope / anchored[-1] / bars[at].u / 0.02)

    def apart(i: int) -> float:
        b = bars[i]
        return ((b.ema144 - b.ema333) / b.ema333 + (b.ema250 - b.ema333) / b.ema333) / 2

    compression = sigma(-sum((apart(i) - apart(i - 1)) / bars[i].u for i in inside) / w / 0.006)
    return slow, structure, participation, compression
