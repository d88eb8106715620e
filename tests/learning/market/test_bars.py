"""Bars: what is accepted, the same in chunks of any size as at once, and the same as by the rule read aloud."""

import math
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeloop.learning.market.bars import Accepted, Bars, Counters, SpikeCarry, accept

NOW = 10**9
LIMIT = 0.20
Row = tuple[int, float, float, float, float, float]


def flat(minute: int, price: float, volume: float = 1.0) -> Row:
    return minute * 60, price, price, price, price, volume


def taken(rows: list[Row], limit: float = LIMIT, now: int = NOW, carry: SpikeCarry | None = None) -> Accepted:
    return accept(Bars.of(rows), 60, limit, now, carry)


def rows_of(bars: Bars) -> list[Any]:
    return list(zip(*(getattr(bars, name).tolist() for name in Bars.__dataclass_fields__), strict=True))


def read_aloud(closes: list[float], limit: float) -> list[bool]:
    """Which closes of a series are used, one after the other."""
    used: list[bool] = []
    last, before = None, None
    for close in closes:
        near_last = last is None or abs(math.log(close / last)) <= limit
        near_dropped = before is not None and abs(math.log(close / before)) <= limit
        used.append(near_last or near_dropped)
        if used[-1]:
            last, before = close, None
        else:
            before = close
    return used


# Steps of thirds of the limit: no two closes lie so that rounding decides.
_STEPS = st.lists(st.sampled_from([-4.1, -2.2, -0.7, 0.0, 0.4, 0.7, 2.3, 4.1, 8.3]), min_size=1, max_size=40)


def closes_of(steps: list[float]) -> list[float]:
    return [100.0 * math.exp(LIMIT * level) for level in np.cumsum(steps)]


class TestRefused:
    @pytest.mark.parametrize(
        ("row", "counted"),
        [
            ((61, 1.0, 1.0, 1.0, 1.0, 1.0), {"off_grid": 1}),
            ((NOW // 60 * 60, 1.0, 1.0, 1.0, 1.0, 1.0), {"unfinished": 1}),
            ((60, 0.0, 1.0, 1.0, 1.0, 1.0), {"not_positive": 1}),
            ((60, 1.0, math.inf, 1.0, 1.0, 1.0), {"not_positive": 1}),
            ((60, 1.0, 1.0, -1.0, 1.0, 1.0), {"not_positive": 1}),
            ((60, 1.0, 1.0, 1.0, math.nan, 1.0), {"not_positive": 1}),
            ((60, 1.0, 0.9, 1.1, 1.0, 1.0), {"high_below_low": 1}),
        ],
    )
    def test_for_one_reason_each(self, row: Row, counted: dict[str, int]) -> None:
        found = taken([row])
        assert len(found.bars) == 0
        assert found.counters == Counters(**counted)
        assert found.carry == SpikeCarry()

    def test_a_bar_that_ends_now_has_ended(self) -> None:
        assert len(taken([flat(0, 1.0)], now=60).bars) == 1
        assert len(taken([flat(0, 1.0)], now=59).bars) == 0


class TestMended:
    def test_open_and_close_widen_the_range(self) -> None:
        found = taken([(60, 1.05, 1.0, 0.95, 0.93, 1.0)])
        assert rows_of(found.bars) == [(60, 1.05, 1.05, 0.93, 0.93, 1.0)]
        assert found.counters == Counters(repaired=1)

    @pytest.mark.parametrize("volume", [-1.0, math.nan, math.inf])
    def test_a_bad_volume_is_none(self, volume: float) -> None:
        found = taken([flat(1, 1.0, volume)])
        assert found.bars.volume.tolist() == [0.0]
        assert found.counters == Counters(repaired=1)

    def test_of_several_of_one_start_the_last_received(self) -> None:
        found = taken([flat(2, 1.0, 1.0), flat(1, 1.0), flat(2, 1.1, 2.0), flat(2, 1.05, 3.0)])
        assert rows_of(found.bars) == [flat(1, 1.0), flat(2, 1.05, 3.0)]
        assert found.counters == Counters(duplicates=2)

    def test_a_refused_bar_replaces_none(self) -> None:
        assert rows_of(taken([flat(1, 1.0), flat(1, -1.0)]).bars) == [flat(1, 1.0)]


class TestSpikes:
    def test_one_is_dropped(self) -> None:
        found = taken([flat(1, 100.0), flat(2, 1200.0), flat(3, 101.0)])
        assert found.bars.close.tolist() == [100.0, 101.0]
        assert found.counters == Counters(spikes=1)

    def test_confirmed_it_carries_the_whole_move(self) -> None:
        found = taken([flat(1, 100.0), flat(2, 1200.0), flat(3, 1190.0), flat(4, 1000.0)])
        assert found.bars.close.tolist() == [100.0, 1190.0, 1000.0]
        assert found.counters == Counters(spikes=1)

    def test_two_apart_confirm_nothing(self) -> None:
        found = taken([flat(1, 100.0), flat(2, 1200.0), flat(3, 100.0), flat(4, 1200.0), flat(5, 90.0)])
        assert found.bars.close.tolist() == [100.0, 100.0, 90.0]

    def test_a_wick_is_cut(self) -> None:
        found = taken([(60, 100.0, 5000.0, 1.0, 110.0, 1.0), flat(2, 110.0)])
        assert found.bars.high[0] == pytest.approx(110.0 * math.exp(LIMIT), rel=1e-12)
        assert found.bars.low[0] == pytest.approx(100.0 * math.exp(-LIMIT), rel=1e-12)
        assert found.counters == Counters(wicks=1)

    @given(_STEPS)
    def test_as_the_rule_says(self, steps: list[float]) -> None:
        closes = closes_of(steps)
        found = taken([flat(minute, close) for minute, close in enumerate(closes)])
        used = read_aloud(closes, LIMIT)
        assert found.bars.start.tolist() == [60 * minute for minute, one in enumerate(used) if one]
        assert found.counters == Counters(spikes=used.count(False))

    @given(_STEPS, st.lists(st.integers(1, 5), min_size=40, max_size=40))
    def test_in_chunks_as_at_once(self, steps: list[float], sizes: list[int]) -> None:
        """Bit for bit; and a beginning says nothing else for what comes after it."""
        rows = [
            (minute * 60, close * 1.01, close * 1.7, close * 0.4, close, 1.0)
            for minute, close in enumerate(closes_of(steps))
        ]
        whole = taken(rows)
        carry, parts, counters, at = SpikeCarry(), [], Counters(), 0
        for size in sizes:
            part = taken(rows[at : at + size], carry=carry)
            parts, counters, carry, at = [*parts, part.bars], counters + part.counters, part.carry, at + size
            assert rows_of(Bars.joined(parts)) == rows_of(taken(rows[:at]).bars)
        assert rows_of(Bars.joined(parts)) == rows_of(whole.bars)
        assert (counters, carry) == (whole.counters, whole.carry)

    def test_taken_up_again_at_any_accepted_bar(self) -> None:
        rows = [flat(minute, close) for minute, close in enumerate([1.0, 9.0, 8.9, 8.8, 1.0, 8.7])]
        whole = rows_of(taken(rows).bars)
        for row in whole:
            rest = [each for each in rows if each[0] > row[0]]
            again = taken(rest, carry=SpikeCarry(row[0], row[4]))
            assert rows_of(again.bars) == [each for each in whole if each[0] > row[0]]

    def test_a_late_bar_is_told(self) -> None:
        carry = taken([flat(2, 1.0)]).carry
        with pytest.raises(ValueError, match="start again"):
            taken([flat(2, 1.0)], carry=carry)


def test_nothing() -> None:
    found = taken([])
    assert (len(found.bars), found.counters, found.carry) == (0, Counters(), SpikeCarry())
    carry = SpikeCarry(60, 1.0, 9.0)
    assert taken([], carry=carry).carry == carry


def test_bars_are_of_one_length() -> None:
    bars = Bars.of([flat(1, 1.0), flat(2, 2.0)])
    with pytest.raises(ValueError, match="one length"):
        replace(bars, close=bars.close[:1])
    assert rows_of(bars[1:]) == rows_of(bars[bars.close > 1.5]) == [flat(2, 2.0)]
    assert sum(astuple(Counters())) == 0
