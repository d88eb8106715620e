"""A book's weights walked through its history, cycle by cycle, with one rule or another of going back to the preset.

Each proposal counts as approved at once. A cycle reads what had closed by its instant, as a cycle of the book does, and
asks the same functions.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from closeloop.learning.guard import conviction, guard_reading
from closeloop.learning.overfitting import CyclePerformance, CycleTrade, cycle_performance, degradation_streak
from closeloop.learning.proposals import evidence_of, propose
from closeloop.learning.weights import DomainCorrelation
from closeloop.models.policy import WeightsPolicy
from closeloop.models.weights import Cadence, Weights

Rule = Literal["seed", "guarded", "none", "preset"]
RULES: tuple[Rule, ...] = ("seed", "guarded", "none", "preset")


@dataclass(frozen=True, kw_only=True)
class DatedTrade(CycleTrade):
    """A trade and its times. ``scored_at``: since when its scores are known, where they came after its close."""

    opened_at: datetime
    closed_at: datetime
    scored_at: datetime | None = None

    def as_known(self, at: datetime) -> "DatedTrade":
        """Without its scores where those came after ``at``."""
        return self if self.scored_at is None or self.scored_at <= at else replace(self, scores={})


@dataclass
class Walk:
    """What a rule has come to so far. ``in_force``: the weights after each cycle, those before the first one first."""

    rule: Rule
    in_force: list[Weights]
    learned: list[bool] = field(default_factory=lambda: [False])
    reverts: list[datetime] = field(default_factory=list)
    learned_cycles: int = 0
    _since: datetime | None = None
    _restored: datetime | None = None
    _streak: int = 0
    _wealth: list[float] | None = None
    _last_of_preset: CyclePerformance | None = None
    _last_of_learned: CyclePerformance | None = None

    def cycle(self, as_of: datetime, before: datetime | None, past: "_Past") -> None:
        """One cycle: evaluate what closed since ``before``, then go back to the preset, or propose and approve."""
        policy = past.policy
        weights, preset = self.in_force[-1], self.in_force[0]
        if self._due(past.closed(before, as_of, self._since), weights, preset, policy):
            self.reverts.append(as_of)
            self._since = self._restored = as_of
            self._streak, self._wealth = 0, None
            self._enter(preset, learned=False)
            return
        n, evidence = past.evidence(as_of, self._restored)
        proposal = propose(weights, evidence, n=n, first_close=past.first_close, as_of=as_of, policy=policy)
        if proposal.new is None or self.rule == "preset":
            self._enter(weights, learned=self.learned[-1])
            return
        self._since = as_of
        self._enter(proposal.new, learned=True)

    def _enter(self, weights: Weights, *, learned: bool) -> None:
        self.in_force.append(weights)
        self.learned.append(learned)

    def _due(self, trades: Sequence[CycleTrade], weights: Weights, preset: Weights, policy: WeightsPolicy) -> bool:
        """Whether the rule goes back to the preset after a cycle with these trades."""
        found = cycle_performance(trades)
        counts = found.n >= policy.min_cycle_positions
        if not self.learned[-1]:
            self._last_of_preset = found if counts else self._last_of_preset
            self._last_of_learned = None
            return False
        self.learned_cycles += 1
        if self.rule == "guarded":
            reading = guard_reading(self._wealth, trades, weights, preset, policy)
            self._wealth = reading.wealth
            return reading.evidence >= reading.threshold
        if self.rule != "seed":
            return False
        earlier = self._last_of_learned or self._last_of_preset
        self._streak = degradation_streak(self._streak, found, earlier, policy)
        self._last_of_learned = found if counts else self._last_of_learned
        return self._streak >= policy.degrading_cycles


def cycle_instants(first_close: datetime, until: datetime, cadence: Cadence) -> Iterator[datetime]:
    """When cycles would have begun: with each period after that of the first close, up to ``until``.

    >>> first, until = (datetime.fromisoformat(f"2026-01-{day}T00:00:00Z") for day in ("08", "20"))
    >>> [f"{at:%m-%d}" for at in cycle_instants(first, until, Cadence.weekly)]
    ['01-12', '01-19']
    """
    at = first_close
    while True:
        try:
            at = cadence.ends(at)
        except OverflowError:
            return
        if at > until:
            return
        yield at


def walks(
    trades: Sequence[DatedTrade],
    preset: Weights,
    cycles: Sequence[datetime],
    policy: WeightsPolicy,
    told: Callable[[int], None] = lambda _: None,
) -> list[Walk]:
    """A walk for each rule. ``trades`` by ``closed_at``; ``told`` hears how many cycles have been walked.

    Raises InfeasibleBounds.
    """
    found, past = [Walk(rule, [preset]) for rule in RULES], _Past(trades, preset, policy)
    before = None
    for done, as_of in enumerate(cycles, start=1):
        for walk in found:
            walk.cycle(as_of, before, past)
        before = as_of
        told(done)
    return found


class _Past:
    """What had closed by an instant. Walks that look at the same window share its evidence."""

    def __init__(self, trades: Sequence[DatedTrade], preset: Weights, policy: WeightsPolicy) -> None:
        self.policy = policy
        self.first_close = trades[0].closed_at if trades else None
        self._trades, self._preset = trades, preset
        self._closes = [trade.closed_at for trade in trades]
        self._as_of: datetime | None = None
        self._known: dict[datetime | None, tuple[int, Mapping[str, DomainCorrelation]]] = {}

    def closed(self, after: datetime | None, until: datetime, opened_from: datetime | None) -> list[DatedTrade]:
        """Closed in (after, until] and opened at or after ``opened_from``, as store.weights.closes_between has it."""
        begin = 0 if after is None else bisect_right(self._closes, after)
        trades = self._trades[begin : bisect_right(self._closes, until)]
        return [trade.as_known(until) for trade in trades if opened_from is None or trade.opened_at >= opened_from]

    def evidence(self, as_of: datetime, opened_from: datetime | None) -> tuple[int, Mapping[str, DomainCorrelation]]:
        """How many trades the window of ``as_of`` holds, and what they say of each domain."""
        if as_of != self._as_of:
            self._as_of, self._known = as_of, {}
        if opened_from not in self._known:
            window = self.closed(as_of - timedelta(days=self.policy.window_days), as_of, opened_from)
            self._known[opened_from] = len(window), evidence_of(window, self._preset, self.policy)
        return self._known[opened_from]


# -- what a walk made --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """What each trade made, sized by conviction under a walk's weights, and the number of the cycle that it was opened
    after (0: before the first)."""

    values: list[float]
    cycles: list[int]


def made(walk: Walk, trades: Sequence[DatedTrade], cycles: Sequence[datetime], outcomes: Sequence[float]) -> Made:
    """The outcome of each trade times its size under the weights in force when it was opened.

    Sizes are proportional to conviction, and their mean over the trades that were opened between two cycles is 1; where
    the weights had no conviction in any of those, each has the size 1.
    """
    opened = [bisect_right(cycles, trade.opened_at) for trade in trades]
    sizes = [conviction(trade, walk.in_force[cycle]) for trade, cycle in zip(trades, opened, strict=True)]
    whole: defaultdict[int, float] = defaultdict(float)
    count: defaultdict[int, int] = defaultdict(int)
    for cycle, size in zip(opened, sizes, strict=True):
        whole[cycle] += size
        count[cycle] += 1
    values = [
        (size * count[cycle] / whole[cycle] if whole[cycle] > 0 else 1.0) * outcome
        for cycle, size, outcome in zip(opened, sizes, outcomes, strict=True)
    ]
    return Made(values, opened)


def mean_and_error(values: Sequence[float], cycles: Sequence[int]) -> tuple[float | None, float | None]:
    """Mean, and its standard error clustered by cycle (Liang and Zeger 1986, Biometrika 73); None where undefined.

    >>> mean_and_error([1.0, 3.0], [0, 1])
    (2.0, 1.0)
    """
    n = len(values)
    if n == 0:
        return None, None
    mean = math.fsum(values) / n
    residuals: defaultdict[int, float] = defaultdict(float)
    for cycle, value in zip(cycles, values, strict=True):
        residuals[cycle] += value - mean
    groups = len(residuals)
    if groups < 2:
        return mean, None
    return mean, math.sqrt(math.fsum(r * r for r in residuals.values()) * groups / (groups - 1)) / n
