"""Simulated books whose domains are right, stop being right, or never were: what each rule of going back to the preset
makes of them. ``tests/learning/test_weight_walks.py`` pins the order of the rules, ``make simulate`` prints the table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from closeloop.learning.weight_walks import RULES, DatedTrade, Rule, made, walks
from closeloop.models.policy import WeightsPolicy

BALANCED = {"curator": 0.25, "onchain": 0.25, "tradfi": 0.20, "social": 0.15, "technical": 0.10, "events": 0.05}
TRUTH = {"social": 1.0, "technical": 1.0, "curator": -1.0}
"""R per unit of score: two domains that the preset gives little are right, one of those that it gives most is wrong."""

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
WEEK, HELD = timedelta(days=7), timedelta(days=1)
CYCLES, FLIP = 100, 50
TRADES = 20  # a week
SCORE_SD, NOISE_SD = 0.5, 1.0
CASES: dict[str, tuple[float, int | None]] = {
    "stable truth": (1.0, None),
    f"it flips at cycle {FLIP}": (1.0, FLIP),
    "stable truth, half as strong": (0.5, None),
    f"half as strong, it flips at cycle {FLIP}": (0.5, FLIP),
    "no truth": (0.0, None),
}
"""How strong the truth is, and after which cycle it flips."""


def book(seed: int, strength: float, flips_after: int | None) -> list[DatedTrade]:
    """Trades by close: R = ``strength`` x Σ truth x score + N(0, 1).

    After ``flips_after`` weeks what was right is wrong, and the other way round.
    """
    rng, trades = np.random.default_rng(seed), []
    for number in range(CYCLES * TRADES):
        opened = BEGIN + WEEK * (number / TRADES)
        flipped = flips_after is not None and opened >= BEGIN + WEEK * flips_after
        scores = dict(zip(BALANCED, np.clip(rng.normal(0, SCORE_SD, len(BALANCED)), -1, 1).tolist(), strict=True))
        truth = strength * math.fsum(each * scores[domain] for domain, each in TRUTH.items())
        r = (-truth if flipped else truth) + float(rng.normal(0, NOISE_SD))
        trades.append(DatedTrade(pnl=10 * r, rr=r, won=r > 0, scores=scores, opened_at=opened, closed_at=opened + HELD))
    return trades


@dataclass(frozen=True)
class Gain:
    """R a trade more than under the preset, over all cycles and over those after ``FLIP``; ``reverts`` in all."""

    whole: float
    later: float
    reverts: float


def gains(seed: int, case: str) -> dict[Rule, Gain]:
    """What each rule made of a book of this case, each proposal being approved at once.

    A trade counts with its R times its conviction under the weights in force; sizes have the mean 1 in each week.
    """
    trades = book(seed, *CASES[case])
    cycles = [BEGIN + WEEK * (number + 1) for number in range(CYCLES)]
    outcomes = [trade.rr or 0.0 for trade in trades]
    found = walks(trades, BALANCED, cycles, WeightsPolicy())
    values = {walk.rule: np.array(made(walk, trades, cycles, outcomes).values) for walk in found}
    later = np.array([trade.opened_at >= BEGIN + WEEK * FLIP for trade in trades])
    apart = {rule: each - values["preset"] for rule, each in values.items()}
    return {
        walk.rule: Gain(float(apart[walk.rule].mean()), float(apart[walk.rule][later].mean()), len(walk.reverts))
        for walk in found
    }


def mean_gains(seeds: Sequence[int], case: str) -> dict[Rule, tuple[Gain, Gain]]:
    """Means over the seeds by rule (``reverts`` in 100 cycles), and their standard errors."""
    runs = [gains(seed, case) for seed in seeds]
    found = {}
    for rule in RULES:
        figures = np.array([(run[rule].whole, run[rule].later, run[rule].reverts * 100 / CYCLES) for run in runs])
        errors = figures.std(axis=0, ddof=1) / math.sqrt(len(runs))
        found[rule] = Gain(*figures.mean(axis=0).tolist()), Gain(*errors.tolist())
    return found
