"""The luck of periods and symbols against the same trade by trade, on random cells."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from closeloop.learning.candidates import CandidateTests, Periods
from closeloop.learning.cube import iceberg_cube
from closeloop.learning.lessons import candidate_lesson
from closeloop.learning.selection import Selection
from closeloop.learning.trades import Trade, group_of
from closeloop.models.lessons import LessonStatus
from closeloop.models.policy import MiningPolicy
from tests.learning.plain_luck import Cell, PlainLuck, plain_luck

POLICY = MiningPolicy(min_trades=12, min_cell_trades=3, min_days=2)


@dataclass
class Market:
    """What a random book is drawn from: how many days, symbols, and the luck of both."""

    days: int
    symbols: int
    luck: float


MARKETS = [
    Market(40, 14, 0.5),
    Market(340, 6, 0.8),  # blocks of 12 weeks, too
    Market(340, 30, 0.0),
    Market(60, 1, 0.5),
    Market(60, 2, 0.5),
    Market(30, 3, 1.0),
    Market(9, 12, 0.5),  # two weeks
    Market(700, 40, 0.7),
]


def trades_of(market: Market, seed: int, n: int = 400) -> list[Trade]:
    """Three dimensions: one of a symbol, one of a week, one of a trade; some are absent."""
    rng = np.random.default_rng(seed)
    of_symbol, of_week = rng.integers(0, 3, market.symbols), rng.integers(0, 3, market.days // 7 + 1)
    symbol_luck, week_luck = rng.normal(0, market.luck, market.symbols), rng.normal(0, market.luck, len(of_week))
    days = np.concatenate(([0, market.days - 1], rng.integers(0, market.days, n - 2)))
    trades = []
    for number, day in enumerate(days.tolist()):
        symbol = int(rng.integers(0, market.symbols))
        scope: dict[str, Any] = {"s": of_symbol[symbol], "w": of_week[day // 7], "z": rng.integers(-1, 3)}
        rr = float(rng.normal(0, 1) + symbol_luck[symbol] + week_luck[day // 7])
        at = (20_000 + day) * 86_400.0 + number % 1000
        named = {name: f"v{value}" for name, value in scope.items() if value >= 0}
        trades.append(Trade(f"t{number:04d}", f"S{symbol}", rr, at, 1.0, named))
    return trades


def of_candidate(
    trades: list[Trade], tests: CandidateTests, candidate: int, split_by: list[dict[str, str]]
) -> PlainLuck:
    """What the candidate's luck is by the text."""

    def meets(trade: Trade, conditions: dict[str, str]) -> bool:
        return all(trade.scope.get(name) == value for name, value in conditions.items())

    cells: dict[tuple[bool, ...], Cell] = {}
    wanted = tests.cube.named(candidate)
    for trade in trades:
        cell = cells.setdefault(tuple(meets(trade, each) for each in split_by), ([], []))
        cell[not meets(trade, wanted)].append(trade)
    least = POLICY.min_cell_trades
    usable = [cell for cell in cells.values() if min(map(len, cell)) >= least]
    variance, freedom = float(tests.variance[candidate]), float(tests.freedom[candidate])
    return plain_luck(usable, trades, variance, freedom, POLICY)


@pytest.mark.parametrize("splits", [0, 1, 2])
@pytest.mark.parametrize("market", MARKETS, ids=str)
def test_the_same_as_trade_by_trade(market: Market, splits: int) -> None:
    raised = 0
    for seed in range(3):
        trades = trades_of(market, seed)
        tests = CandidateTests(iceberg_cube(group_of("k", "entry", trades), POLICY), POLICY)
        tests.run()
        split_by = []
        for number in np.random.default_rng(seed).choice(tests.cube.size, splits, replace=False).tolist():
            split_by.append(tests.cube.named(number))
            tests.split(number)
        for candidate in np.flatnonzero(~np.isnan(tests.effect)).tolist():
            by_trades = tests.p[candidate], tests.half_width[candidate]
            wanted, found = of_candidate(trades, tests, candidate, split_by), tests.weighed(candidate)
            assert found.by_luck.found.p[0] == pytest.approx(wanted.p, rel=1e-6, abs=1e-300)
            assert found.by_luck.found.half_width[0] == pytest.approx(wanted.half_width, rel=1e-6)
            assert bool(found.by_luck.few_symbols[0]) is wanted.confined
            parts = {"symbol": found.by_luck.symbols, **found.by_luck.periods}
            assert parts.keys() == wanted.parts.keys()
            for name, part in parts.items():
                plain = wanted.parts[name]
                of_part = [each[0] for each in (part.clusters, part.effective, part.variance)]
                assert of_part == pytest.approx([plain.clusters, plain.effective, plain.variance], rel=1e-6, abs=1e-12)
            # Raised to the largest, whoever else of its branch is raised with it.
            tests.raise_p(np.array([candidate]), 1.0)
            by_day = found.by_day
            assert tests.p[candidate] == max(by_trades[0], by_day.p[0], found.by_luck.found.p[0])
            assert tests.half_width[candidate] == max(
                by_trades[1], np.nan_to_num(by_day.half_width[0], nan=0.0), found.by_luck.found.half_width[0]
            )
            raised += wanted.p > max(by_trades[0], by_day.p[0])
    assert raised


def test_many_at_once_are_the_same_as_one_by_one() -> None:
    group = group_of("k", "entry", trades_of(MARKETS[-1], 5))
    together, alone = (CandidateTests(iceberg_cube(group, POLICY), POLICY) for _ in range(2))
    for tests in (together, alone):
        tests.run()
    every = np.arange(together.cube.size)
    together.raise_p(every, 1.0)
    for candidate in every.tolist():
        alone.raise_p(np.array([candidate]), 1.0)
    assert together.p.tolist() == alone.p.tolist()
    assert together.half_width.tolist() == alone.half_width.tolist()
    assert (together.p > 0.05).any()
    assert np.isinf(together.half_width).any() == (together.p == 1).any()


def test_above_the_limit_a_p_is_not_raised_by_luck() -> None:
    tests = CandidateTests(iceberg_cube(group_of("k", "entry", trades_of(MARKETS[0], 0)), POLICY), POLICY)
    tests.run()
    candidate = int(np.argmax(tests.p - 2 * np.isnan(tests.effect)))
    by_trades, found = float(tests.p[candidate]), tests.weighed(candidate)
    tests.raise_p(np.array([candidate]), by_trades / 2)
    assert tests.p[candidate] == max(by_trades, found.by_day.p[0])


def test_whatever_is_accepted_has_had_its_luck_weighed() -> None:
    """Also where the family's threshold lies far above every significant p: few candidates, large edges."""
    accepted = 0
    for market in (Market(60, 3, 1.0), Market(200, 12, 1.0), Market(340, 30, 0.0)):
        for seed in range(4):
            trades = [
                replace(each, rr=each.rr + 2.0 * (each.scope.get("z") == "v1")) for each in trades_of(market, seed)
            ]
            cube = iceberg_cube(group_of("k", "entry", trades), POLICY)
            tests, again = CandidateTests(cube, POLICY), CandidateTests(cube, POLICY)
            tests.run()
            again.run()
            selection = Selection([tests], POLICY)
            selection.run()
            for lesson in selection.accepted[0]:
                [number] = [i for i in range(cube.size) if cube.named(i) == lesson.conditions]
                by_trades, weighed = float(again.p[number]), again.weighed(number)
                assert lesson.p == max(by_trades, weighed.by_day.p[0], weighed.by_luck.found.p[0])
                again.split(number)
                accepted += 1
    assert accepted > 10


def test_blocks_of_weeks_start_on_mondays_and_quarters_need_48_weeks() -> None:
    monday = 20_000 // 28 * 28 - 3 + 28  # (day + 3) div 28 begins
    days = monday + np.array([0, 6, 7, 27, 28])
    periods = Periods.of(days, POLICY)
    assert {name: starts.tolist() for name, starts in periods.starts.items()} == {
        "week": [0, 2, 3, 4],
        "four_weeks": [0, 4],
    }
    for span, wanted in ((335, False), (336, True)):
        assert ("quarter" in Periods.of(monday + np.arange(span), POLICY).starts) is wanted
    before_1970 = Periods.of(np.arange(-10, 400), POLICY)
    assert {starts[0] for starts in before_1970.starts.values()} == {0}


def test_a_condition_within_days_and_symbols_loses_nothing_to_their_luck() -> None:
    """A symbol's luck of sd 0.5 is in the scatter; that of the contrast is hardly touched."""
    rng = np.random.default_rng(0)
    n = 4_000
    symbol, inside = rng.integers(0, 20, n), rng.random(n) < 0.5
    rr = rng.normal(0, 1, n) + rng.normal(0, 0.5, 20)[symbol]
    trades = [
        Trade(f"t{i:05d}", f"S{symbol[i]}", float(rr[i]), 1.7e9 + i * 4_000, 1.0, {"z": f"v{int(inside[i])}"})
        for i in range(n)
    ]
    tests = CandidateTests(iceberg_cube(group_of("k", "entry", trades), POLICY), POLICY)
    tests.run()
    found = tests.weighed(0).by_luck
    assert found.found.error[0] < 1.1 * np.sqrt(tests.variance[0])
    assert found.symbols.variance[0] > 0


def test_how_many_symbols_a_lesson_of_symbols_needs() -> None:
    for inside, outside, told in ((3, 3, True), (2, 4, False), (3, 9, True), (3, 12, False), (5, 40, True)):
        trades = [
            Trade(
                f"t{i:05d}",
                f"S{i % (inside + outside):02d}",
                float(np.sin(i)) + (i % (inside + outside) < inside),
                1.7e9 + i * 40_000,
                1.0,
                {"z": f"v{int(i % (inside + outside) < inside)}"},
            )
            for i in range(50 * (inside + outside))
        ]
        tests = CandidateTests(iceberg_cube(group_of("k", "entry", trades), POLICY), POLICY)
        tests.run()
        found = tests.weighed(0)
        assert bool(found.by_luck.few_symbols[0]) is not told
        assert (found.by_luck.found.p[0] == 1.0) is not told
        assert math.isinf(found.by_luck.found.half_width[0]) is not told
        assert {found.inside["symbol"], found.outside["symbol"]} == {inside, outside}
        tests.raise_p(np.array([0]), 1.0)
        lesson = candidate_lesson(tests, 0, LessonStatus.shadow, 1.0)
        assert lesson.effect is not None
        assert (lesson.effect_low is not None, lesson.effect_high is not None) == (told, told)  # bounds are numbers
