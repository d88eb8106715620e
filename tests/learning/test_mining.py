"""Mining against an independent computation in plain Python, and in whatever order the trades come."""

import itertools
import math
import random
import statistics
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from closeloop.learning.candidates import compare
from closeloop.learning.lessons import Lesson
from closeloop.learning.mining import is_due, mine
from closeloop.learning.trades import Trade, group_of
from closeloop.models.lessons import LessonStatus
from closeloop.models.policy import MiningPolicy
from tests.learning.plain_luck import PlainLuck, plain_luck
from tests.learning.trades import DAY, grouped, planted, trades_of

SMALL = MiningPolicy(min_trades=12, min_cell_trades=3, min_days=4)
Conditions = tuple[tuple[str, str], ...]


def random_trades(seed: int, n: int = 300, lift: float = 1.8) -> list[Trade]:
    """Three dimensions of three values, some of them absent, a twin of one dimension, a planted edge, ten days."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, 3, (n, 4))
    codes[:, 3] = codes[:, 0]  # a twin: selects the same trades
    rr = np.round(rng.normal(0.2, 1.0, n), 2) + lift * ((codes[:, 0] == 1) & (codes[:, 1] == 2))
    rr = rr + 0.5 * lift * (codes[:, 2] == 0)
    return trades_of(codes, rr, rng.integers(0, 30, n), ("b", "c", "d", "e"))


class Oracle:
    """The selection of docs/algorithms.md, section 8, trade by trade."""

    def __init__(self, trades: list[Trade], mining: MiningPolicy) -> None:
        self.mining = mining
        self.trades = sorted(trades, key=lambda trade: trade.trade_id)
        self.candidates = self._candidates()
        self.cells: dict[str, tuple[bool, ...]] = {trade.trade_id: () for trade in self.trades}
        self.raised: set[Conditions] = set()
        self.tests = {each: self.test(each) for each in self.candidates}
        self.accepted: list[tuple[Conditions, float, float, float]] = []

    def inside(self, conditions: Conditions, trade: Trade) -> bool:
        return all(trade.scope.get(name) == value for name, value in conditions)

    def _candidates(self) -> list[Conditions]:
        pairs = sorted({pair for trade in self.trades for pair in trade.scope.items()})
        found: dict[frozenset[str], Conditions] = {}
        for size in range(1, (self.mining.max_conditions or len(pairs)) + 1):
            for conditions in itertools.combinations(pairs, size):
                chosen = frozenset(trade.trade_id for trade in self.trades if self.inside(conditions, trade))
                if min(len(chosen), len(self.trades) - len(chosen)) >= self.mining.min_trades:
                    found.setdefault(chosen, conditions)
        return list(found.values())

    def _usable(self, conditions: Conditions) -> list[tuple[list[Trade], list[Trade]]]:
        cells: dict[tuple[bool, ...], tuple[list[Trade], list[Trade]]] = defaultdict(lambda: ([], []))
        for trade in self.trades:
            cells[self.cells[trade.trade_id]][not self.inside(conditions, trade)].append(trade)
        least = self.mining.min_cell_trades
        return [(a, b) for a, b in cells.values() if len(a) >= least and len(b) >= least]

    def test(self, conditions: Conditions) -> tuple[float, float]:
        """(p, effect)."""
        cells = self._usable(conditions)
        sizes = [sum(len(side[k]) for side in cells) for k in (0, 1)]
        if min(sizes) < self.mining.min_trades:
            return 1.0, math.nan
        effect, welch, pooled, freedom = self._errors(cells)
        p = 2 * stats.t.sf(abs(effect) / math.sqrt(welch), freedom)
        return max(float(p), 2 * float(stats.norm.sf(abs(effect) / math.sqrt(pooled)))), effect

    def by_luck(self, conditions: Conditions) -> PlainLuck:
        cells = self._usable(conditions)
        _, welch, pooled, freedom = self._errors(cells)
        return plain_luck(cells, self.trades, max(welch, pooled), freedom, self.mining)

    def _errors(self, cells: list[tuple[list[Trade], list[Trade]]]) -> tuple[float, float, float, float]:
        """(effect, Welch's variance, the pooled variance, Welch's degrees of freedom)."""
        weights = [len(a) * len(b) / (len(a) + len(b)) for a, b in cells]
        total, effect, welch, pooled, below = sum(weights), 0.0, 0.0, 0.0, 0.0
        for w, (a, b) in zip(weights, cells, strict=True):
            x, y = [t.rr for t in a], [t.rr for t in b]
            effect += w / total * (statistics.fmean(x) - statistics.fmean(y))
            vx, vy = statistics.variance(x), statistics.variance(y)
            ex, ey = (w / total) ** 2 * vx / len(x), (w / total) ** 2 * vy / len(y)
            welch += ex + ey
            below += ex**2 / (len(x) - 1) + ey**2 / (len(y) - 1)
            both = ((len(x) - 1) * vx + (len(y) - 1) * vy) / (len(x) + len(y) - 2)
            pooled += (w / total) ** 2 * both * (1 / len(x) + 1 / len(y))
        return effect, welch, pooled, welch**2 / below

    def by_day(self, conditions: Conditions) -> float:
        cells = self._usable(conditions)
        weights = [len(a) * len(b) / (len(a) + len(b)) for a, b in cells]
        adds: dict[int, float] = defaultdict(float)
        days: tuple[set[int], set[int]] = (set(), set())
        for w, sides in zip(weights, cells, strict=True):
            for sign, side in zip((1, -1), sides, strict=True):
                mean = statistics.fmean(t.rr for t in side)
                for t in side:
                    adds[int(t.entered_at // DAY)] += sign * w / sum(weights) * (t.rr - mean) / len(side)
            for side, seen in zip(sides, days, strict=True):
                seen |= {int(t.entered_at // DAY) for t in side}
        g = min(map(len, days))
        if g < self.mining.min_days:
            return 1.0
        error = math.sqrt(sum(a * a for a in adds.values()) * g / (g - 1))
        return 2 * float(stats.t.sf(abs(self.test(conditions)[1]) / error, g - 1))

    def q(self) -> dict[Conditions, float]:
        p = [self.tests[each][0] for each in self.candidates]
        return dict(zip(self.candidates, stats.false_discovery_control(p, method="bh").tolist(), strict=True))

    def qualifying(self) -> list[Conditions]:
        while True:
            q = self.q()
            new = {each for each in self.candidates if q[each] <= self.mining.max_q} - self.raised
            for each in new:
                p, effect = self.tests[each]
                self.tests[each] = max(p, self.by_day(each), self.by_luck(each).p), effect
            self.raised |= new
            if not new:
                least = self.mining.min_effect
                return [c for c in self.candidates if q[c] <= self.mining.max_q and abs(self.tests[c][1]) >= least]

    def run(self) -> "Oracle":
        while qualifying := self.qualifying():
            best = min(qualifying, key=lambda each: (self.tests[each][0], len(each), each))
            self.accepted.append((best, self.tests[best][1], self.tests[best][0], self.q()[best]))
            for trade in self.trades:
                self.cells[trade.trade_id] += (self.inside(best, trade),)
            self.raised = set()
            self.tests = {each: self.test(each) for each in self.candidates}
        return self


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limit", [1, 3, None])
def test_the_same_as_trade_by_trade(seed: int, limit: int | None) -> None:
    policy = SMALL.model_copy(update={"max_conditions": limit})
    trades = random_trades(seed, lift=0.0 if seed == 5 else 1.8)
    wanted, mined = Oracle(trades, policy).run(), mine([group_of("k", "entry", trades)], policy)
    assert mined.candidates == len(wanted.candidates)
    found = [each for each in mined.lessons if each.status is LessonStatus.active]
    assert [tuple(each.conditions.items()) for each in found] == [each[0] for each in wanted.accepted]
    assert seed == 5 or found
    for lesson, (_, effect, p, q) in zip(found, wanted.accepted, strict=True):
        assert (lesson.effect, lesson.p, lesson.q) == pytest.approx((effect, p, q), rel=1e-9)


def test_what_is_told_of_a_lesson() -> None:
    trades = random_trades(1)
    group = group_of("k", "entry", trades)
    lessons = mine([group], SMALL).lessons
    assert [each.status for each in lessons[:2]] == [LessonStatus.baseline, LessonStatus.active]
    assert {each.status for each in lessons} == set(LessonStatus) - {LessonStatus.retired}
    for lesson in lessons:
        inside = [t for t in trades if all(t.scope.get(d) == v for d, v in lesson.conditions.items())]
        rr = [t.rr for t in inside]
        assert sorted(t.trade_id for t in inside) == [group.trade_ids[row] for row in group.rows(lesson.conditions)]
        assert lesson.n == len(rr)
        assert (lesson.avg_rr, lesson.variance) == pytest.approx((statistics.fmean(rr), statistics.variance(rr)))
        assert lesson.win_rate == pytest.approx(sum(r > 0 for r in rr) / len(rr))
        assert lesson.edge_raw == lesson.avg_rr
        if lesson.status is LessonStatus.active:
            assert lesson.effect is not None and lesson.effect_low is not None and lesson.effect_high is not None  # noqa: PT018
            assert lesson.effect_low < lesson.effect < lesson.effect_high
            assert lesson.effect_low > 0 or lesson.effect_high < 0
    told = stats.ttest_1samp(group.rr, 0.0)
    assert lessons[0].p == pytest.approx(told.pvalue)
    assert lessons[0].effect_low == pytest.approx(told.confidence_interval().low)


def _bits(lesson: Lesson) -> str:
    return repr(lesson)  # every digit of every number


def test_the_same_bits_in_any_order() -> None:
    trades = random_trades(2) + [replace(t, scope={"b": "v1"}) for t in random_trades(2)[:5]]  # some come twice
    wanted = None
    for seed in range(4):
        shuffled = [
            replace(t, scope=dict(random.Random(seed).sample(list(t.scope.items()), len(t.scope)))) for t in trades
        ]
        random.Random(seed).shuffle(shuffled)
        groups = [group_of("k", "entry", shuffled), group_of("a", "exit", random_trades(3)[::-1])]
        random.Random(seed).shuffle(groups)
        bits = [_bits(each) for each in mine(groups, SMALL).lessons]
        assert len(bits) > 4
        wanted = wanted or bits
        assert bits == wanted


def test_a_trade_counts_once_however_many_actions_it_had() -> None:
    trades = random_trades(4)
    once, thrice = group_of("k", "entry", trades), group_of("k", "entry", trades * 3)
    assert once.trade_ids == thrice.trade_ids
    assert list(map(_bits, mine([thrice], SMALL).lessons)) == list(map(_bits, mine([once], SMALL).lessons))


def test_one_family_for_all_groups() -> None:
    """The same p weighs less among the candidates of another group, too."""
    group, other = (
        group_of("k", "entry", random_trades(1, lift=0.6)),
        group_of("z", "entry", random_trades(5, lift=0.0)),
    )
    alone, together = mine([group], SMALL), mine([group, other], SMALL)
    assert together.candidates == alone.candidates + mine([other], SMALL).candidates
    first, second = (next(x for x in m.lessons if x.status is LessonStatus.active) for m in (alone, together))
    assert (first.conditions, first.p) == (second.conditions, second.p)
    assert second.q == pytest.approx(first.q * together.candidates / alone.candidates)


def test_many_values_of_many_dimensions() -> None:
    """More combinations than trades: found by sorting instead of in a table, with the same result."""
    rng = np.random.default_rng(0)
    n, values = 30_000, 300
    codes = rng.integers(0, values, (n, 2))
    codes = np.column_stack((codes, rng.integers(0, 2, n)))
    rr = rng.normal(0, 1, n) + 4.0 * ((codes[:, 0] == 7) & (codes[:, 2] == 1))
    group = grouped(codes, rr, rng.integers(0, 200, n), ("x", "y", "z"))
    found = [each for each in mine([group], MiningPolicy()).lessons if each.status is LessonStatus.active]
    assert [dict(each.conditions) for each in found] in ([{"x": "v7"}], [{"x": "v7", "z": "v1"}])
    assert found[0].n == len(group.rows(found[0].conditions))


def _constant(value: float) -> list[Trade]:
    return [replace(trade, rr=value) for trade in random_trades(0)]


@pytest.mark.parametrize(
    "trades",
    [
        [],
        random_trades(0)[:1],
        random_trades(0)[:20],
        _constant(0.0),
        _constant(0.1),
        _constant(-1.0),
        [replace(trade, scope={}) for trade in random_trades(0)],
        [replace(trade, scope={"chain": "solana"}) for trade in random_trades(0)],  # nothing is outside
    ],
)
def test_where_there_is_nothing_to_learn(trades: list[Trade]) -> None:
    lessons = mine([group_of("k", "entry", trades)], SMALL).lessons
    assert [each.status for each in lessons] == [LessonStatus.baseline] * bool(trades)
    for lesson in lessons:
        assert 0 <= lesson.p <= 1


def test_no_groups() -> None:
    assert mine([], SMALL).lessons == []


def test_no_variance_at_all_is_a_certainty() -> None:
    trades = [replace(t, rr=2.1 if t.scope.get("b") == "v1" else 0.1) for t in random_trades(0)]
    lesson = mine([group_of("k", "entry", trades)], SMALL).lessons[1]
    assert dict(lesson.conditions) == {"b": "v1"}  # its twin selects the same trades, and comes later
    assert (lesson.p, lesson.q, lesson.variance, lesson.effect) == (0.0, 0.0, 0.0, pytest.approx(2.0))


def test_a_small_selection_without_a_winner_is_no_certainty() -> None:
    """40 stops in a row among trades of which 38 % win: Welch's t test sees no variance in them, and is sure."""
    rng = np.random.default_rng(0)
    rr = np.where(rng.random(3_000) < 0.38, rng.exponential(1.7, 3_000), -1.0)
    rr[:40] = np.where(np.arange(40) < 39, -1.0, -0.9)
    inside, every = np.zeros((3, 1, 1)), np.zeros((3, 1))
    inside[:, 0, 0], every[:, 0] = (40, rr[:40].sum(), (rr[:40] ** 2).sum()), (3_000, rr.sum(), (rr**2).sum())
    welch = stats.ttest_ind(rr[:40], rr[40:], equal_var=False).pvalue
    both = stats.ttest_ind(rr[:40], rr[40:]).statistic
    p = compare(inside, every, MiningPolicy()).p[0]
    assert p == pytest.approx(2 * stats.norm.sf(abs(both)), rel=1e-9)
    assert p > 1e3 * welch


def test_few_days_prove_nothing() -> None:
    """An edge of one condition that held on nine days only, and on ten."""
    rng = np.random.default_rng(0)
    for days, found in ((9, False), (10, True)):
        codes, day = rng.integers(0, 2, (2_000, 1)), rng.integers(0, 100, 2_000)
        codes[day >= days] = 0
        group = grouped(codes, rng.normal(0, 0.2, 2_000) + codes[:, 0], day, ("x",))
        lessons = mine([group], MiningPolicy()).lessons
        assert any(each.status is LessonStatus.active for each in lessons) is found


def test_a_limit_of_dimensions_keeps_the_known_ones() -> None:
    codes = np.random.default_rng(0).integers(0, 3, (300, 3))
    group = grouped(codes, np.arange(300.0), np.arange(300) % 20, ("aaa", "chain", "zzz"))
    mined = mine([group], MiningPolicy(max_dimensions=2))
    assert mined.left_out == {("k", "entry"): ("zzz",)}
    assert mine([group], MiningPolicy(max_dimensions=1)).left_out == {("k", "entry"): ("aaa", "zzz")}


def test_a_large_mean_costs_no_digits() -> None:
    group = planted([({"A_mode": "v0"}, 0.8)], 2_000, 1.0, 3)
    far = replace(group, rr=group.rr + 1e7)
    near = [each for each in mine([group], MiningPolicy()).lessons if each.status is LessonStatus.active]
    lessons = [each for each in mine([far], MiningPolicy()).lessons if each.status is LessonStatus.active]
    assert [(dict(each.conditions), each.p) for each in lessons] == [
        (dict(each.conditions), pytest.approx(each.p, rel=1e-5)) for each in near
    ]


def test_a_group_is_due_after_a_tenth_of_new_trades() -> None:
    policy = MiningPolicy()
    assert is_due(1, None, policy)
    assert [is_due(n, 1000, policy) for n in (1000, 1099, 1100)] == [False, False, True]
    assert [is_due(n, 5, policy) for n in (5, 6)] == [False, True]


def test_regimes_of_trades() -> None:
    group = grouped(
        np.array([[0, 1], [-1, 1], [-1, -1]]), np.zeros(3), np.zeros(3, np.int64), ("btc_macro", "btc_meso")
    )
    regimes = group.signatures
    assert [regimes.values[code] for code in regimes.codes] == ["macro=v0|meso=v1", "meso=v1", ""]
