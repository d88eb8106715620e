"""Falling performance is counted cycle by cycle; noise falls three times in a row as often as is documented."""

import random

import pytest

from closeloop.learning.overfitting import (
    ClosedTrade,
    CyclePerformance,
    cycle_performance,
    degradation_streak,
    is_lower,
)
from closeloop.models.policy import WeightsPolicy


def in_money(mean: float, n: int = 10) -> CyclePerformance:
    return CyclePerformance(n, mean, None)


def in_r(mean: float, n: int = 10, money: float = 0.0) -> CyclePerformance:
    return CyclePerformance(n, money, mean)


@pytest.mark.parametrize(
    ("trades", "wanted"),
    [
        ([], CyclePerformance(0, None, None)),
        ([ClosedTrade(4.0, 2.0), ClosedTrade(-2.0, -1.0)], CyclePerformance(2, 1.0, 0.5)),
        ([ClosedTrade(4.0, 2.0), ClosedTrade(-2.0, None)], CyclePerformance(2, 1.0, None)),
        ([ClosedTrade(0.0, 0.0)], CyclePerformance(1, 0.0, 0.0)),
        ([ClosedTrade(1e16, None), ClosedTrade(1.0, None), ClosedTrade(-1e16, None)], CyclePerformance(3, 1 / 3, None)),
    ],
)
def test_performance(trades: list[ClosedTrade], wanted: CyclePerformance) -> None:
    assert cycle_performance(trades) == wanted
    assert cycle_performance(trades[::-1]) == wanted


@pytest.mark.parametrize(
    ("current", "earlier", "lower"),
    [
        (in_money(1.0), in_money(2.0), True),
        (in_money(2.0), in_money(1.0), False),
        (in_money(1.0), in_money(1.0), False),
        (in_r(0.5, money=9.0), in_r(0.6, money=1.0), True),  # R decides, not money
        (in_r(0.6, money=1.0), in_r(0.5, money=9.0), False),
        (in_r(0.5, money=9.0), in_money(1.0), False),  # one cycle without R: money decides
        (in_money(1.0), in_r(0.5, money=9.0), True),
    ],
)
def test_what_is_lower(current: CyclePerformance, earlier: CyclePerformance, lower: bool) -> None:
    assert is_lower(current, earlier) is lower


def test_a_cycle_without_positions_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="without positions"):
        is_lower(CyclePerformance(0, None, None), in_money(1.0))
    with pytest.raises(ValueError, match="without positions"):
        is_lower(in_money(1.0), CyclePerformance(0, None, None))


@pytest.mark.parametrize(
    ("streak", "current", "earlier", "wanted"),
    [
        (0, in_money(1.0), in_money(2.0), 1),
        (2, in_money(1.0), in_money(2.0), 3),
        (2, in_money(2.0), in_money(1.0), 0),
        (2, in_money(1.0), in_money(1.0), 0),  # as good as before is not lower
        (2, in_money(-9.0, n=4), in_money(2.0), 2),  # too few positions
        (2, in_money(9.0, n=4), in_money(2.0), 2),
        (2, in_money(1.0, n=5), in_money(2.0), 3),  # just enough
        (2, CyclePerformance(0, None, None), in_money(2.0), 2),
        (1, in_money(1.0), None, 1),  # nothing to compare with
    ],
)
def test_the_streak(streak: int, current: CyclePerformance, earlier: CyclePerformance | None, wanted: int) -> None:
    assert degradation_streak(streak, current, earlier, WeightsPolicy(min_cycle_positions=5)) == wanted


def test_pure_noise_reverts_about_every_28_to_30_learned_cycles() -> None:
    """What docs/algorithms.md, the module and docs/operating.md must tell a user. After each revert one cycle goes by
    under the preset, with which the first learned one is compared."""
    rng = random.Random(20260101)

    def cycle() -> CyclePerformance:
        return cycle_performance([ClosedTrade(pnl, pnl) for pnl in (rng.gauss(0, 1) for _ in range(6))])

    lengths = []
    while len(lengths) < 1000:
        earlier, streak, learned = cycle(), 0, 0
        while streak < 3:
            current = cycle()
            streak = degradation_streak(streak, current, earlier, WeightsPolicy(min_cycle_positions=5))
            earlier, learned = current, learned + 1
        lengths.append(learned)
    mean = sum(lengths) / len(lengths)
    assert 26.5 < mean < 31.5, mean  # its standard error is about 0.8
    assert min(lengths) == 3
