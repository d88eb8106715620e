"""Indicators of a series of bars (J. W. Wilder 1978 for ATR, RSI and ADX, as TA-Lib computes them), bar after bar.

What is recursive runs through plain loops over Python floats, so that a bar gives the same bits however the series is
cut into chunks; what looks back a fixed number of bars is computed by numpy in a fixed order, over the last
``HISTORY`` bars of the chunk before and the chunk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from closeloop.learning.market.bars import Bars, Floats
from closeloop.learning.market.squash import clamp

EMA_LENGTHS = (20, 30, 50, 60, 144, 250, 333)
SLOPES_OF = (20, 60, 144, 250, 333)
WILDER = 14
HISTORY = 19  # bars: ATR's mean of 20; a slope of 10 values, 10 bars ago
_SLOPE = 10  # values
_SLOPE_BARS_AGO = 10
_SEPARATION_BARS_AGO = 5
_ATR_MEAN = 20
_VOLUME_WEIGHT = 2 / 65
_VOLUME_FROM_BAR = 64
_NO_VARIANCE = 1e-12
_NOTHING = 1e-12  # of the close: movement up to which there was none
LEAST_ATR = 1e-6  # of the close
# Rows of what is kept: the averages, then these.
_ATR, _RSI, _ADX = (len(EMA_LENGTHS) + i for i in range(3))
REMEMBERED = len(EMA_LENGTHS) + 3

NAMES = (
    *(f"ema{n}" for n in EMA_LENGTHS),
    *(f"s{n}" for n in SLOPES_OF),
    *(f"ds{n}" for n in SLOPES_OF if n != 20),
    "sep_fast", "sep_mid", "dsep_fast", "dsep_mid",
    "atr", "atr_mean20", "rsi", "adx", "rsi_slope", "adx_slope", "vol_z",
)  # fmt: skip


class Averages(NamedTuple):
    """What the recursions hold after the newest bar. Wilder's means and sums hold a sum until they have begun."""

    high: float
    low: float
    close: float
    ema: tuple[float, ...]
    atr: float
    gain: float
    loss: float
    true_range: float
    rise: float
    fall: float
    adx: float
    volume_mean: float
    volume_variance: float


@dataclass(frozen=True, slots=True)
class Indicators:
    """Of n bars: ``values`` by name (n,), NaN where there is none yet; ``a`` is the ATR, at least ``LEAST_ATR`` of the
    close, and ``u`` that by the close; ``step``: by how much the mean separation of EMA144 and EMA250 from EMA333 has
    changed since the bar before. ``averages`` and ``history`` (REMEMBERED, HISTORY): what the next chunk needs."""

    values: dict[str, Floats]
    a: Floats
    u: Floats
    step: Floats
    averages: Averages
    history: Floats


def indicators(averages: Averages | None, history: Floats | None, bars: Bars, seen: int) -> Indicators:
    """The indicators of ``bars``, at least one, that follow ``seen`` others; of the first, the state is None."""
    if averages is None or history is None:
        averages, history = _before(bars), np.full((REMEMBERED, HISTORY), np.nan)
    ema, ema_rows = _emas(averages.ema, bars.close.tolist())
    moves = max(0, seen - 1)  # bars before with a bar before them
    high, low, close = (
        np.concatenate(((was,), x))
        for was, x in ((averages.high, bars.high), (averages.low, bars.low), (averages.close, bars.close))
    )
    first = int(not seen)  # the first bar of all has no move
    change = (close[1:] - close[:-1])[first:]
    up, down = (high[1:] - high[:-1])[first:], (low[:-1] - low[1:])[first:]
    before, high, low = close[first:-1], high[first + 1 :], low[first + 1 :]
    ranges = np.maximum(np.maximum(high - low, np.abs(before - high)), np.abs(before - low)).tolist()
    rises = np.where((up > down) & (up > 0), up, 0.0).tolist()
    falls = np.where((down > up) & (down > 0), down, 0.0).tolist()
    atr, atr_row = _wilder_mean(averages.atr, ranges, moves)
    gain, gains = _wilder_mean(averages.gain, np.maximum(change, 0.0).tolist(), moves)
    loss, losses = _wilder_mean(averages.loss, np.maximum(-change, 0.0).tolist(), moves)
    true_range, range_sums = _wilder_sum(averages.true_range, ranges, moves)
    rise, rise_sums = _wilder_sum(averages.rise, rises, moves)
    fall, fall_sums = _wilder_sum(averages.fall, falls, moves)
    at = close[first + 1 :]
    rsi = _share(np.array(gains), np.array(losses), at)
    dx = _directional(np.array(range_sums), np.array(rise_sums), np.array(fall_sums), at)
    # DX begins with bar 14, the 14th move.
    late = max(0, WILDER - 1 - moves)
    adx, adx_row = _wilder_mean(averages.adx, dx[late:].tolist(), max(0, moves - (WILDER - 1)))
    mean, variance, vol_z = _volumes(averages, bars.volume, seen)
    none = [np.nan] * first
    rows = np.array(
        (*ema_rows, none + atr_row, none + rsi.tolist(), none + [np.nan] * min(late, len(dx)) + adx_row), dtype=float
    )
    held = np.concatenate((history, rows), axis=1)
    last = (float(bars.high[-1]), float(bars.low[-1]), float(bars.close[-1]))
    after = Averages(*last, ema, atr, gain, loss, true_range, rise, fall, adx, mean, variance)
    values, step = _derived(held, len(bars.close))
    values["vol_z"] = vol_z
    a = np.maximum(values["atr"], LEAST_ATR * bars.close)
    return Indicators({name: values[name] for name in NAMES}, a, a / bars.close, step, after, held[:, -HISTORY:].copy())


def slope(x: Floats) -> Floats:
    """Slope a bar of the least-squares line through each 10 values in a row, along the last axis: (..., n + 9) to
    (..., n). Opposite values are taken off each other first: of equal values it is exactly 0."""
    n = x.shape[-1] - (_SLOPE - 1)
    total = 4.5 * (x[..., 9:] - x[..., :n])
    for half in range(4):  # weights 3.5 to 0.5
        total += (3.5 - half) * (x[..., 8 - half : 8 - half + n] - x[..., 1 + half : 1 + half + n])
    return total / 82.5  # the sum of squares of -4.5, -3.5, ..., 4.5


def _before(bars: Bars) -> Averages:
    """The state that makes the first bar begin where it stands."""
    high, low, close = float(bars.high[0]), float(bars.low[0]), float(bars.close[0])
    return Averages(
        high, low, close, (close,) * len(EMA_LENGTHS), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
        float(np.log1p(bars.volume[:1])[0]), 0.0,
    )  # fmt: skip


def _emas(before: Sequence[float], closes: list[float]) -> tuple[tuple[float, ...], list[list[float]]]:
    """EMAs with k = 2 / (n + 1), seeded with the first close."""
    rows = []
    for was, n in zip(before, EMA_LENGTHS, strict=True):
        k = 2 / (n + 1)
        rows.append(_recursion(closes, was, lambda y, x, k=k: y + k * (x - y)))  # type: ignore[misc]
    return tuple(row[-1] for row in rows), rows


def _recursion(values: list[float], was: float, step: Callable[[float, float], float]) -> list[float]:
    """y <- step(y, x) for each x; without the y it begins with."""
    return list(accumulate(values, step, initial=was))[1:]


def _wilder_mean(state: float, values: list[float], before: int) -> tuple[float, list[float]]:
    """Wilder's mean of values of which ``before`` came earlier: first the mean of 14, then y <- (13 y + x) / 14."""
    row: list[float] = []
    early = min(len(values), max(0, WILDER - before))
    for count, x in enumerate(values[:early], before + 1):
        state += x
        if count == WILDER:
            state /= WILDER
        row.append(state if count == WILDER else np.nan)
    row += _recursion(values[early:], state, lambda y, x: (y * (WILDER - 1) + x) / WILDER)
    return (row[-1] if len(values) > early else state), row


def _wilder_sum(state: float, values: list[float], before: int) -> tuple[float, list[float]]:
    """Wilder's sum of values of which ``before`` came earlier: of the first 13, then S <- S - S / 14 + x."""
    early = min(len(values), max(0, WILDER - 1 - before))
    for x in values[:early]:
        state += x
    row = [np.nan] * early + _recursion(values[early:], state, lambda y, x: y - y / WILDER + x)
    return (row[-1] if len(values) > early else state), row


def _share(gain: Floats, loss: Floats, close: Floats) -> Floats:
    """RSI: gains of gains and losses, in percent; 50 where nothing moved."""
    both = gain + loss
    still = both <= _NOTHING * close
    return np.where(still, 50.0, 100.0 * (gain / np.where(still, 1.0, both)))


def _directional(ranges: Floats, rise: Floats, fall: Floats, close: Floats) -> Floats:
    """DX from the smoothed sums; 0 where nothing moved."""
    still = ranges <= _NOTHING * close
    safe = np.where(still, 1.0, ranges)
    plus, minus = 100.0 * (rise / safe), 100.0 * (fall / safe)
    still |= rise + fall <= _NOTHING * close
    return np.where(still, 0.0, 100.0 * (np.abs(minus - plus) / np.where(still, 1.0, plus + minus)))


def _volumes(averages: Averages, volume: Floats, seen: int) -> tuple[float, float, Floats]:
    """The exponentially weighted mean and variance of ln(1 + volume) after the bars, and z by bar."""
    x = np.log1p(volume)
    weight = _VOLUME_WEIGHT
    means = _recursion(x.tolist(), averages.volume_mean, lambda y, v: y + weight * (v - y))
    after = np.array(means)
    before = np.concatenate(((averages.volume_mean,), after[:-1]))
    spread = (weight * (x - before) * (x - after)).tolist()
    variances = _recursion(spread, averages.volume_variance, lambda y, d: (1 - weight) * (y + d))
    variance = np.array(variances)
    known = (variance > _NO_VARIANCE) & (np.arange(seen, seen + len(x)) >= _VOLUME_FROM_BAR)
    z = clamp((x - after) / np.sqrt(np.where(known, variance, 1.0)), -4.0, 6.0)
    return means[-1], variances[-1], np.where(known, z, 0.0)


def _derived(held: Floats, n: int) -> tuple[dict[str, Floats], Floats]:
    """What follows from the last bars: ``held`` (REMEMBERED, HISTORY + n) to values (n,), and the separation's step."""
    ema = dict(zip(EMA_LENGTHS, held, strict=False))
    values = {f"ema{length}": row[HISTORY:] for length, row in ema.items()}
    rows = [EMA_LENGTHS.index(length) for length in SLOPES_OF]
    slopes = slope(held[[*rows, _RSI, _ADX]])  # of the last 10 bars of the history on
    relative = slopes[: len(rows)] / held[rows, _SLOPE - 1 :]
    for i, length in enumerate(SLOPES_OF):
        values[f"s{length}"] = relative[i, _SLOPE_BARS_AGO:]
        if length != SLOPES_OF[0]:
            values[f"ds{length}"] = relative[i, _SLOPE_BARS_AGO:] - relative[i, :n]
    values["rsi_slope"], values["adx_slope"] = slopes[-2:, _SLOPE_BARS_AGO:]
    for name, fast, slow in (("fast", 20, 60), ("mid", 60, 144)):
        gap = (ema[fast] - ema[slow]) / ema[slow]
        values[f"sep_{name}"] = gap[HISTORY:]
        values[f"dsep_{name}"] = gap[HISTORY:] - gap[HISTORY - _SEPARATION_BARS_AGO :][:n]
    atr = held[_ATR]
    total = atr[HISTORY:].copy()
    for back in range(1, _ATR_MEAN):
        total += atr[HISTORY - back :][:n]
    values["atr"], values["atr_mean20"] = atr[HISTORY:], total / _ATR_MEAN
    values["rsi"], values["adx"] = held[_RSI, HISTORY:], held[_ADX, HISTORY:]
    apart = ((ema[144] - ema[333]) / ema[333] + (ema[250] - ema[333]) / ema[333]) / 2
    return values, apart[HISTORY:] - apart[HISTORY - 1 :][:n]
