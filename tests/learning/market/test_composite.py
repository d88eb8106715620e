"""Composites: expected values; the rule read aloud, minute by minute; and the same in parts of any length."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeloop.learning.market.bars import Bars, accept
from closeloop.learning.market.composite import FOR_EVER, Composite, CompositeCarry, Spans, composite
from closeloop.models.policy import MarketPolicy
from tests.learning.market.golden import golden

STALE_MINUTES = 10
POLICY = MarketPolicy(member_stale_hours=STALE_MINUTES / 60)
MEAN = MarketPolicy(member_stale_hours=STALE_MINUTES / 60, composite="mean_of_prices")
EXPECTED = golden("composite")
Row = tuple[int, float, float, int]  # minute, open, close, volume
Rows = Mapping[str, Sequence[Row]]
Read = list[tuple[int, float, float, float, int]]  # minute, open, close, volume, components


def bars(rows: Sequence[Row]) -> Bars:
    return Bars.of([(60 * m, o, max(o, c), min(o, c), c, float(v)) for m, o, c, v in rows])


def made(rows: Rows, policy: MarketPolicy = POLICY, **given: Any) -> Composite:
    return composite({name: bars(each) for name, each in rows.items()}, policy, **given)


def read(found: Composite) -> Read:
    columns = (found.bars.start // 60, found.bars.open, found.bars.close, found.bars.volume, found.component_count)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def read_aloud(rows: Rows, least: int, spans: Mapping[str, Spans]) -> Read:
    """The rule, minute by minute."""
    at = {name: {m: (o, c, v) for m, o, c, v in each} for name, each in rows.items()}
    reference: dict[str, float] = {}
    last: dict[str, int] = {}
    index: float | None = None
    found: Read = []

    def belongs(name: str, minute: int) -> bool:
        return any(start <= 60 * minute < end for start, end in spans[name])

    for minute in sorted({m for each in at.values() for m in each}):
        for name in list(reference):
            if minute - last[name] > STALE_MINUTES or not all(belongs(name, m) for m in range(last[name], minute + 1)):
                del reference[name]
        here = {name: at[name][minute] for name in at if minute in at[name] and belongs(name, minute)}
        members = len(reference)
        booked = [name for name in here if name in reference]
        volume = sum(v for _, _, v in here.values())
        entering = [name for name in here if name not in reference]
        if index is None:
            reference |= {name: c for name, (_, c, _) in here.items()}
            if len(reference) >= least:
                index = 100.0
                found.append((minute, index, index, volume, len(here)))
        else:
            if members >= least and booked:
                moves = [math.fsum(math.log(here[n][i] / reference[n]) for n in booked) / members for i in (0, 1)]
                found.append((minute, index * math.exp(moves[0]), index * math.exp(moves[1]), volume, len(booked)))
                index = found[-1][2]
                reference |= {name: here[name][1] for name in booked}
            reference |= {name: here[name][1] for name in entering}
        last |= dict.fromkeys(here, minute)
    return found


_NAMES = ("a", "b", "c", "d", "e")
_PRICE = st.integers(1, 400).map(lambda n: n / 8)
_ROWS = st.fixed_dictionaries(
    {
        name: st.dictionaries(st.integers(0, 60), st.tuples(_PRICE, _PRICE, st.integers(0, 9)), max_size=30).map(
            lambda found: [(minute, *found[minute]) for minute in sorted(found)]
        )
        for name in _NAMES
    }
)
_SPAN = st.tuples(st.integers(0, 60), st.integers(1, 60)).map(lambda span: (60 * span[0], 60 * (span[0] + span[1])))
_SPANS = st.fixed_dictionaries({name: st.just([(0, FOR_EVER)]) | st.lists(_SPAN, max_size=3) for name in _NAMES})
_LEAST = st.integers(1, 4)


def policy_of(least: int, how: str = "log_index") -> MarketPolicy:
    return MarketPolicy.model_validate(POLICY.model_dump() | {"min_components": least, "composite": how})


def test_expected() -> None:
    taken = {name: accept(Bars.of(map(tuple, rows)), 60, 1.0, 2**40) for name, rows in EXPECTED["components"].items()}
    assert {name: vars(each.counters) for name, each in taken.items()} == EXPECTED["counters"]
    found = composite({name: each.bars for name, each in taken.items()}, POLICY)
    wanted = EXPECTED["expected"]
    assert found.bars.start.tolist() == [each["t"] for each in wanted]
    assert found.component_count.tolist() == [each["component_count"] for each in wanted]
    for name, key in (("open", "o"), ("high", "h"), ("low", "l"), ("close", "c"), ("volume", "v")):
        assert getattr(found.bars, name) == pytest.approx([each[key] for each in wanted], rel=1e-9), name


@given(_ROWS, _LEAST, _SPANS)
def test_as_the_rule_says(rows: Rows, least: int, spans: Mapping[str, Spans]) -> None:
    found, wanted = read(made(rows, policy_of(least), memberships=spans)), read_aloud(rows, least, spans)
    assert [(each[0], each[3], each[4]) for each in found] == [(each[0], each[3], each[4]) for each in wanted]
    for each, right in zip(found, wanted, strict=True):
        assert each[1:3] == pytest.approx(right[1:3], rel=1e-9)


@given(
    _ROWS, _LEAST, _SPANS, st.lists(st.integers(0, 61), max_size=20), st.sampled_from(["log_index", "mean_of_prices"])
)
def test_in_parts_as_at_once(rows: Rows, least: int, spans: Mapping[str, Spans], cuts: list[int], how: str) -> None:
    """Bit for bit; and what comes later changes nothing before it."""
    policy = policy_of(least, how)
    whole = made(rows, policy, memberships=spans)
    carry, parts = CompositeCarry(), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 61], strict=True):
        some = {name: [row for row in each if start <= row[0] < end] for name, each in rows.items()}
        part = made(some, policy, carry=carry, memberships=spans)
        parts += read(part)
        carry = part.carry
        before = {name: [row for row in each if row[0] < end] for name, each in rows.items()}
        assert read(made(before, policy, memberships=spans)) == parts
    assert parts == read(whole)
    assert carry == whole.carry


def test_neither_the_dearest_nor_the_order_of_components_matters() -> None:
    steady = [(minute, 1.0, 1.0, 1) for minute in range(5)]
    doubling = [(minute, 3000.0 * 2**minute, 3000.0 * 2**minute, 1) for minute in range(5)]
    found = made({"cheap": steady, "dear": doubling, "other": steady})
    assert found.bars.close == pytest.approx([100 * 2 ** (minute / 3) for minute in range(5)])
    again = made({"other": steady, "dear": doubling, "cheap": steady})
    assert read(again) == read(found)


def test_who_comes_and_goes_moves_nothing() -> None:
    steady = [(minute, 1.0, 1.0, 1) for minute in range(60)]
    guest = [(minute, 900.0, 900.0, 1) for minute in range(10, 20)]
    found = made({"a": steady, "b": steady, "c": steady, "guest": guest})
    assert set(found.bars.close.tolist()) == {100.0}
    assert found.component_count[[9, 10, 11, 19, 20]].tolist() == [3, 3, 4, 4, 3]
    mean = made({"a": steady, "b": steady, "c": steady, "guest": guest}, MEAN)
    assert mean.bars.close[[9, 10]].tolist() == [1.0, 903 / 4]


def test_a_member_that_leaves_the_bucket_takes_its_later_moves_with_it() -> None:
    steady = [(minute, 1.0, 1.0, 1) for minute in range(20)]
    leaving = [(minute, 1.0, 1.0 if minute < 10 else 9.0, 1) for minute in range(20)]
    always = [(0, FOR_EVER)]
    memberships = {"a": always, "b": always, "c": always, "leaving": [(0, 600)]}
    rows = {"a": steady, "b": steady, "c": steady, "leaving": leaving}
    assert set(made(rows, memberships=memberships).bars.close.tolist()) == {100.0}
    assert made(rows).bars.close[-1] > 100
    # A membership that is renewed at the second it ends goes on.
    renewed = memberships | {"leaving": [(600, FOR_EVER), (0, 600)]}
    assert read(made(rows, memberships=renewed)) == read(made(rows))


def test_a_move_that_no_bar_took_waits() -> None:
    one = [(0, 1.0, 1.0, 1), (5, 2.0, 2.0, 1)]
    steady = [(minute, 1.0, 1.0, 1) for minute in range(6)]
    found = made({"a": one, "b": steady, "c": steady})
    assert found.bars.close.tolist() == pytest.approx([100.0] * 5 + [100 * 2 ** (1 / 3)])
    assert found.bars.high[5] == found.bars.close[5]


def test_too_few() -> None:
    steady = [(minute, 1.0, 1.0, 1) for minute in range(6)]
    assert len(made({"a": steady, "b": steady}).bars) == 0
    assert len(made({}).bars) == 0
    assert made({}).carry == CompositeCarry()


def test_a_late_bar_is_told() -> None:
    carry = made({"a": [(5, 1.0, 1.0, 1)]}).carry
    with pytest.raises(ValueError, match="start again"):
        made({"b": [(5, 1.0, 1.0, 1)]}, carry=carry)


def test_the_mean_is_of_the_newest_prices() -> None:
    rows = {"a": [(0, 1.0, 1.0, 1), (1, 2.0, 3.0, 1)], "b": [(0, 4.0, 4.0, 1)], "c": [(0, 7.0, 7.0, 1)]}
    found = made(rows, MEAN)
    assert read(found) == [(0, 4.0, 4.0, 3.0, 3), (1, 13 / 3, 14 / 3, 1.0, 1)]


def test_a_million_minutes_stay_in_bounds() -> None:
    """No drift of rounding: the index of one price path, thrice, is that path."""
    close = 50 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 1e-3, 1_000_000)))
    start = 60 * np.arange(len(close))
    path = Bars(start, close, close, close, close, np.ones(len(close)))
    found = composite({"a": path, "b": path, "c": path}, POLICY)
    assert np.abs(found.bars.close / close * close[0] / 100 - 1).max() < 1e-9
