"""Indicators, pivots, levels and EDX against TA-Lib, pandas and plain definitions."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import talib

from closeloop.learning.market.bars import Bars
from closeloop.learning.market.engine import Rows, advance
from closeloop.learning.market.indicators import EMA_LENGTHS, slope
from closeloop.learning.market.pivots import Search, levels_of, search
from closeloop.learning.market.uptrend import above, below
from closeloop.models.market import Flag, Timeframe
from tests.learning.market import plain_engine
from tests.learning.market.series import POLICY, expected_series, random_series


def _rows(bars: Bars) -> Rows:
    return advance(None, bars, Timeframe.m1, POLICY)[0]


@pytest.mark.parametrize("kind", ["expected", "walk", "up", "coarse"])
def test_atr_adx_and_rsi_are_talibs(kind: str) -> None:
    bars = expected_series() if kind == "expected" else random_series(3, 3_000, kind)
    found = _rows(bars).indicators
    ohlc = (bars.high, bars.low, bars.close)
    for name, wanted in (
        ("atr", talib.ATR(*ohlc, 14)),
        ("adx", talib.ADX(*ohlc, 14)),
        ("rsi", talib.RSI(bars.close, 14)),
    ):
        assert np.isnan(wanted).sum() in (14, 27)
        np.testing.assert_allclose(found[name], wanted, rtol=1e-9, atol=1e-9, err_msg=name)


def test_averages_are_pandas_ewm_and_become_talibs() -> None:
    bars = random_series(5, 6_000)
    found = _rows(bars).indicators
    for n in EMA_LENGTHS:
        wanted = pd.Series(bars.close).ewm(span=n, adjust=False).mean().to_numpy()
        np.testing.assert_allclose(found[f"ema{n}"], wanted, rtol=1e-9)
        # TA-Lib's is seeded with a mean of n values: a gap that shrinks by 1 - k a bar.
        theirs = talib.EMA(bars.close, n)
        gap = abs(found[f"ema{n}"][n - 1] - theirs[n - 1]) * (1 - 2 / (n + 1)) ** (len(bars) - n)
        assert abs(found[f"ema{n}"][-1] - theirs[-1]) <= gap + 1e-9 * bars.close[-1]


def test_slopes_are_of_the_least_squares_line() -> None:
    x = np.random.default_rng(0).normal(size=(2, 40))
    found = slope(x)
    assert found.shape == (2, 31)
    for row in range(2):
        for i in range(31):
            assert found[row, i] == pytest.approx(np.polyfit(np.arange(10), x[row, i : i + 10], 1)[0], rel=1e-9)
    assert slope(np.full(10, 0.1)).tolist() == [0.0]


def test_what_is_derived_from_averages() -> None:
    x = _rows(random_series(8, 900)).indicators
    for i in (19, 40, 899):
        for n in (60, 144, 250, 333):
            assert x[f"ds{n}"][i] == pytest.approx(x[f"s{n}"][i] - x[f"s{n}"][i - 10], rel=1e-9)
        for n in (20, 60, 144, 250, 333):
            fit = np.polyfit(np.arange(10), x[f"ema{n}"][i - 9 : i + 1], 1)[0]
            assert x[f"s{n}"][i] == pytest.approx(fit / x[f"ema{n}"][i], rel=1e-6)
        for name, fast, slow in (("fast", 20, 60), ("mid", 60, 144)):
            gap = (x[f"ema{fast}"] - x[f"ema{slow}"]) / x[f"ema{slow}"]
            assert x[f"sep_{name}"][i] == pytest.approx(gap[i], rel=1e-9)
            assert x[f"dsep_{name}"][i] == pytest.approx(gap[i] - gap[i - 5], rel=1e-6, abs=1e-12)
    assert x["atr_mean20"][500] == pytest.approx(x["atr"][481:501].mean(), rel=1e-9)
    first = {name: int(np.flatnonzero(np.isfinite(values))[0]) for name, values in x.items()}
    assert first == {
        **{f"ema{n}": 0 for n in EMA_LENGTHS}, **{f"s{n}": 9 for n in (20, 60, 144, 250, 333)},
        **{f"ds{n}": 19 for n in (60, 144, 250, 333)}, "sep_fast": 0, "sep_mid": 0, "dsep_fast": 5, "dsep_mid": 5,
        "atr": 14, "atr_mean20": 33, "rsi": 14, "adx": 27, "rsi_slope": 23, "adx_slope": 36, "vol_z": 0,
    }  # fmt: skip


def test_volume_z() -> None:
    bars = random_series(6, 400)
    found = _rows(bars).indicators["vol_z"]
    x, a = np.log(1 + bars.volume), 2 / 65
    mean, variance = x[0], 0.0
    for i in range(400):
        before = mean
        if i:
            mean = (1 - a) * mean + a * x[i]
            variance = (1 - a) * (variance + a * (x[i] - before) * (x[i] - mean))
        wanted = min(6.0, max(-4.0, (x[i] - mean) / variance**0.5)) if i >= 64 else 0.0
        assert found[i] == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_a_tie_is_neither_above_nor_below() -> None:
    x, y = np.array([100.0 + 9e-8, 100.0 + 2e-7, -100.0, 5.0]), np.array([100.0, 100.0, -100.0, 4.0])
    assert above(x, y).tolist() == [False, True, False, True]
    assert below(y, x).tolist() == [False, True, False, True]


@pytest.mark.parametrize("kind", ["walk", "up", "coarse", "halting"])
@pytest.mark.parametrize("seed", range(6))
def test_pivots_and_levels_are_as_defined(kind: str, seed: int) -> None:
    bars = random_series(seed, 700, kind)
    rows = _rows(bars)
    spans = np.maximum(rows.indicators["atr"], 1e-6 * bars.close).tolist()
    wanted = plain_engine.pivots(bars.close.tolist(), spans, 14)
    assert [(p.confirmed, p.side, p.bar, p.price) for p in rows.pivots] == wanted
    assert len(wanted) > 10
    for i in range(1, len(wanted) + 1):
        prices, a = [p.price for p in wanted[max(0, i - 24) : i]], spans[wanted[i - 1].confirmed]
        found, plain = levels_of(prices, a), plain_engine.levels(prices, a)
        assert [touches for _, touches in found] == [touches for _, touches in plain]
        assert [price for price, _ in found] == pytest.approx([price for price, _ in plain], rel=1e-12)


def test_a_pivot_that_had_to_wait_for_its_four_bars_leaves_the_next_where_it_stands() -> None:
    # Few bars swing, far: extremes lie closer together than four bars, and are confirmed one after the other.
    rng = np.random.default_rng(2)
    close = 100 * np.exp(np.cumsum(rng.choice([-0.03, 0.03, 0.001, -0.001], 3_000, p=[0.15, 0.15, 0.35, 0.35])))
    spans = (0.01 * close).tolist()
    _, found = search(Search(), close[14:].tolist(), spans[14:], 14)
    pivots = [each.pivot for each in found]
    wanted = plain_engine.pivots(close.tolist(), spans, 14)
    assert [(p.confirmed, p.side, p.bar, p.price) for p in pivots] == wanted
    assert any(b.bar < a.confirmed for a, b in pairwise(pivots))


def test_of_two_levels_as_near_the_older_is_joined() -> None:
    assert levels_of([100.0, 102.0, 101.0], 2.0) == ((100.5, 2), (102.0, 1))
    assert levels_of([102.0, 100.0, 101.0], 2.0) == ((101.5, 2), (100.0, 1))
    assert levels_of([100.0, 101.0000001], 2.0) == ((100.0, 1), (101.0000001, 1))


@pytest.mark.parametrize("kind", ["walk", "up", "coarse", "halting"])
def test_edx_is_as_defined(kind: str) -> None:
    bars = random_series(12, 2_500, kind)
    rows = _rows(bars)
    x = rows.indicators
    u = np.maximum(x["atr"], 1e-6 * bars.close) / bars.close
    columns = (bars.close, bars.volume, u, x["s250"], x["s333"], x["ema144"], x["ema250"], x["ema333"])
    spots = [plain_engine.Spot(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]
    pivots = [plain_engine.PlainPivot(*pivot[:4]) for pivot in rows.pivots]
    age, checked = -1, 0
    for i in range(len(bars)):
        age = age + 1 if rows.state[i] == 3 else -1
        if age < 0 or (age > 45 and i % 37):
            continue
        wanted = plain_engine.edx(spots, i, age, pivots)
        found = [float(rows.edx[i]), *(float(part[i]) for part in rows.edx_parts.values())]
        assert found[: len(wanted)] == pytest.approx(wanted, rel=1e-9, abs=1e-9)
        checked += len(wanted) > 1
    assert checked > 20


@pytest.mark.parametrize("seed", range(3))
def test_flags_keep_to_their_states(seed: int) -> None:
    bars = random_series(seed, 20_000)
    rows = _rows(bars)
    allowed: dict[Flag, set[Any]] = {
        Flag.buy_signal: {1}, Flag.buy_flag: {2, 3}, Flag.trim_flag: {2, 3}, Flag.first_dip_buy_flag: {3},
        Flag.emergency_exit: {3}, Flag.reclaimed_ema333: {3},
    }  # fmt: skip
    for flag, states in allowed.items():
        assert set(rows.state[rows.flags[flag]].tolist()) <= states
        assert rows.flags[flag].any()
    entered = np.flatnonzero((rows.state == 3) & (rows.prev_state != 3))
    spells = np.searchsorted(entered, np.flatnonzero(rows.flags[Flag.first_dip_buy_flag]), side="right")
    assert len(set(spells.tolist())) == len(spells)
    exits, back = rows.flags[Flag.emergency_exit], rows.flags[Flag.reclaimed_ema333]
    assert np.array_equal(back[1:], exits[:-1] & ~exits[1:] & (rows.state[1:] == 3))
