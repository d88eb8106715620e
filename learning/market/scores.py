"""Scores and flags of bars, from their indicators, states and levels. All arrays are (n,) unless said otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from closeloop.learning.market.bars import Bools, Floats, Ints
from closeloop.learning.market.indicators import Indicators
from closeloop.learning.market.pivots import LEAST_TOUCHES, Level
from closeloop.learning.market.squash import clamp, sigma
from closeloop.learning.market.uptrend import S1, S2, S3, Walk, above, below
from closeloop.models.market import Flag

_BOOST = 0.25
_FULL_STRENGTH = 3  # touches after the first
_TREND_NEEDED, _TREND_NEEDED_OF_A_DIP = 0.60, 0.50
_TRIM_FROM = 0.65
_DIP_NEEDED = 0.60
_NEAR = 0.5  # of a
_FAST_DIP_UNTIL, _DIP_UNTIL = 6, 12  # bars since S3 was entered
_OX_WEIGHTS = (0.35, 0.20, 0.10, 0.10, 0.10, 0.05, 0.05, 0.05)


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels with two touches or more, bar by bar: (n, m) prices and strengths, NaN where there is none."""

    price: Floats
    strength: Floats

    def boost(self, at: Floats, a: Floats) -> Floats:
        """What the levels within ``a`` of a price add to the trend's strength, up to a quarter."""
        apart = np.abs(self.price - at[:, None]) / a[:, None]
        pulls = np.where(apart <= 1.0, self.strength * (1.0 - apart), 0.0)
        boost: Floats = _BOOST * pulls.max(axis=1, initial=0.0)
        return boost

    def any_within(self, at: Floats, a: Floats) -> Bools:
        """Whether a level lies within ``a`` of a price."""
        near: Bools = np.any(np.abs(self.price - at[:, None]) <= a[:, None], axis=1)
        return near

    def around(self, close: Floats) -> tuple[Floats, Floats]:
        """The nearest level at or below the close, support, and above it, resistance; NaN where there is none."""
        under = np.where(self.price <= close[:, None], self.price, -np.inf).max(axis=1, initial=-np.inf)
        over = np.where(self.price > close[:, None], self.price, np.inf).min(axis=1, initial=np.inf)
        return np.where(np.isfinite(under), under, np.nan), np.where(np.isfinite(over), over, np.nan)


class Memory(NamedTuple):
    """What flags need of the bars before: whether the newest was an ``exiting`` one of S3, and whether this S3 has had
    its first dip."""

    exiting: bool = False
    dipped: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """TS, OX, DX (NaN where there is none) and flags of n bars, with the boosts that TS was given."""

    ts: Floats
    ox: Floats
    dx: Floats
    flags: dict[Flag, Bools]
    boost_ema60: Floats
    boost_ema333: Floats
    memory: Memory


def levels_by_bar(n: int, first: Sequence[Level], later: Sequence[tuple[int, Sequence[Level]]]) -> Levels:
    """The levels of n bars: ``first``, and from each given bar on others; those with too few touches are left out."""
    strong = [
        [(price, min(1.0, (touches - 1) / _FULL_STRENGTH)) for price, touches in levels if touches >= LEAST_TOUCHES]
        for levels in (first, *(levels for _, levels in later))
    ]
    width = max(map(len, strong))
    blank = (np.nan, np.nan)
    table = np.array([levels + [blank] * (width - len(levels)) for levels in strong], dtype=float)
    table = table.reshape(len(strong), width, 2)
    begins = [0, *(at for at, _ in later), n]
    row = np.repeat(np.arange(len(strong)), np.diff(begins))
    return Levels(table[row, :, 0], table[row, :, 1])


def scores(memory: Memory, close: Floats, found: Indicators, states: Walk, edx: Floats, levels: Levels) -> Scores:
    """Scores and flags of n bars. The states are those after each bar's transition."""
    x, a, state, age = found.values, found.a, states.state, states.age
    in_s1, in_s2, in_s3 = state == S1, state == S2, state == S3
    ts = (clamp((x["rsi_slope"] + 5) / 10) + clamp((x["adx_slope"] + 2) / 4)) / 2
    boost60, boost333 = levels.boost(x["ema60"], a), levels.boost(x["ema333"], a)
    ox = _overextension(close, x, a, found.u, in_s3, edx)
    ox = np.where(in_s2 | in_s3, ox, np.nan)
    dx = np.where(in_s3, _depth(close, x, a, edx), np.nan)
    strong60, strong333 = ts + boost60, ts + boost333
    slow = (x["s250"] > 0) | (x["s333"] >= 0)
    exiting = in_s3 & below(close, x["ema333"])
    reclaimed = in_s3 & ~exiting & (age > 0) & np.concatenate(((memory.exiting,), exiting[:-1]))
    off60, off333 = np.abs(close - x["ema60"]), np.abs(close - x["ema333"])
    needed = _DIP_NEEDED + np.where(edx >= 0.7, 0.15, 0.5 * clamp(edx - 0.5, 0.0, 0.2))
    buy_in_s2 = in_s2 & (off333 <= _NEAR * a)
    buy_in_s3 = in_s3 & (dx >= needed) & ~above(close, x["ema144"]) & ~exiting
    near_fast = np.minimum(np.abs(close - x["ema20"]), np.abs(close - x["ema30"])) <= _NEAR * a
    dips = (
        in_s3
        & (age >= 1)
        & ((near_fast & (age <= _FAST_DIP_UNTIL)) | ((off60 <= _NEAR * a) & (age <= _DIP_UNTIL)))
        & ((x["s144"] > 0) | (x["s250"] >= 0))
        & (strong333 >= _TREND_NEEDED_OF_A_DIP)
        & ~exiting
    )
    first_dip, dipped = _first_of_each(memory.dipped, dips, age)
    flags = {
        Flag.buy_signal: in_s1 & (off60 <= a) & ((x["s60"] > 0) | (x["s144"] >= 0)) & (strong60 >= _TREND_NEEDED),
        Flag.buy_flag: (buy_in_s2 | buy_in_s3) & slow & (strong333 >= _TREND_NEEDED),
        Flag.trim_flag: (in_s2 | in_s3) & (ox >= _TRIM_FROM) & levels.any_within(close, a),
        Flag.first_dip_buy_flag: first_dip,
        Flag.emergency_exit: exiting,
        Flag.reclaimed_ema333: reclaimed,
    }
    return Scores(ts, ox, dx, flags, boost60, boost333, Memory(bool(exiting[-1]), dipped))


def _overextension(close: Floats, x: Mapping[str, Floats], a: Floats, u: Floats, in_s3: Bools, edx: Floats) -> Floats:
    """OX: how far the price has run ahead of its averages; in S3 more, the more exhausted it is."""
    parts = sigma(
        np.array(
            (
                (close - x["ema20"]) / (1.5 * a),
                (close - x["ema60"]) / (2 * a),
                (close - x["ema144"]) / (1.5 * a),
                (close - x["ema250"]) / (2 * a),
                x["dsep_fast"] / (0.15 * u),
                x["dsep_mid"] / (0.075 * u),
                _swell(x) - 1,
                -x["s20"] / (0.05 * u),
            )
        )
    )
    total = sum(weight * part for weight, part in zip(_OX_WEIGHTS, parts, strict=True))
    tired = np.where(in_s3, clamp(edx - 0.5, 0.0, 0.5), 0.0)
    return clamp(total * (1 + 0.33 * tired))


def _depth(close: Floats, x: Mapping[str, Floats], a: Floats, edx: Floats) -> Floats:
    """DX: how good a dip is to buy, between EMA144 and EMA333."""
    low, high = np.minimum(x["ema144"], x["ema333"]), np.maximum(x["ema144"], x["ema333"])
    width = high - low
    inside = clamp((close - low) / np.where(width > 0, width, 1.0))
    place = np.where(width > 0, inside, close > low)
    calm, rising, trending, narrow, quiet = sigma(
        np.array(
            (
                (0.9 - _swell(x)) / 0.05,
                x["rsi_slope"] / 0.5,
                x["adx_slope"] / 0.3,
                1.5 - width / a,
                -x["vol_z"],
            )
        )
    )
    relief = (calm + (rising + np.where(x["adx"] >= 18, trending, 0.0)) / 2) / 2
    total = 0.45 * np.exp(-3 * place) * (1 + 0.3 * narrow) + 0.25 * quiet + 0.25 * relief + 0.05 * (x["ds144"] > 0)
    return clamp(total * (1 - 0.5 * clamp(edx - 0.6, 0.0, 0.4)))


def _swell(x: Mapping[str, Floats]) -> Floats:
    """ATR by its mean of 20 bars; 1 where nothing has moved at all."""
    still = x["atr_mean20"] <= 0
    return np.where(still, 1.0, x["atr"] / np.where(still, 1.0, x["atr_mean20"]))


def _first_of_each(dipped: bool, dips: Bools, age: Ints) -> tuple[Bools, bool]:
    """Of the bars that would do, the first of each S3; and whether the newest S3 has had one. ``dipped``: whether that
    of the bar before has."""
    first = np.zeros(len(dips), dtype=bool)
    spell = -age[0] if dipped and age[0] > 0 else None  # the bar that entered the S3 which has had its own
    for at in np.flatnonzero(dips).tolist():
        if at - age[at] != spell:
            first[at] = True
            spell = at - age[at]
    end = len(age) - 1
    return first, bool(age[end] >= 0 and spell is not None and end - age[end] == spell)
