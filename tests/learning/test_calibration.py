"""Performance from sums: against plain Python over the outcomes themselves, and by simulation."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from statistics import fmean

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from closeloop.learning.calibration import (
    ALL,
    BINS,
    COLUMNS,
    Performance,
    bin_of,
    dense,
    performance,
    reliability,
    sums,
    with_all,
)
from closeloop.learning.intervals import wilson_interval
from closeloop.models.policy import ProducersPolicy
from tests.learning import plain_scores
from tests.learning.plain_scores import Outcome, independent_shares

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
HOUR = 3_600_000_000
DAY = 24 * HOUR
DECOMPOSED = ("reliability", "resolution", "uncertainty", "within_bin_variance", "within_bin_covariance")

POLICY, OF_ANY = ProducersPolicy(), ProducersPolicy(min_outcomes=1)

# Round confidences make edges of bins, ties and constant columns common.
confidences = st.one_of(st.integers(0, 20).map(lambda k: k / 20), st.floats(0, 1))
outcome_lists = st.lists(st.tuples(confidences, st.booleans()), min_size=1, max_size=60)


def summed(outcomes: Sequence[Outcome], share: float = 1.0) -> NDArray[np.float64]:
    """Sums of one group, shape (1, BINS, columns)."""
    p, o = np.array([p for p, _ in outcomes]), np.array([o for _, o in outcomes])
    return sums(np.zeros(len(p), np.int64), p, o, np.full(len(p), share), 1)


def scored(outcomes: Sequence[Outcome], share: float = 1.0) -> Performance:
    return performance(summed(outcomes, share), OF_ANY)


def same(one: Performance, other: Performance, abs_: float = 1e-9) -> bool:
    return all(
        np.allclose(getattr(one, f.name), getattr(other, f.name), rtol=0, atol=abs_, equal_nan=True)
        for f in fields(Performance)
    )


# -- scores ------------------------------------------------------------------------------------------------------------


@untimed
@given(outcome_lists)
@example([(0.3, True), (0.3, False), (0.7, True)])
@example([(1.0, True), (0.9, False), (0.0, False)])
def test_every_score_is_that_of_the_outcomes(outcomes: list[Outcome]) -> None:
    found = scored(outcomes)
    assert (found.outcomes[0], found.correct[0]) == (len(outcomes), sum(o for _, o in outcomes))
    for name, expected in plain_scores.scores(outcomes).items():
        assert getattr(found, name)[0] == pytest.approx(expected, abs=1e-12), name


@untimed
@given(outcome_lists)
def test_the_decomposition_is_an_identity(outcomes: list[Outcome]) -> None:
    found = scored(outcomes)
    rel, res, unc, wbv, wbc = (getattr(found, name)[0] for name in DECOMPOSED)
    brier = math.fsum((p - o) ** 2 for p, o in outcomes) / len(outcomes)
    assert rel - res + unc + wbv - wbc == pytest.approx(brier, abs=1e-12)
    assert min(rel, res, unc, wbv) >= -1e-15


@pytest.mark.parametrize("kind", ["spread", "constant", "two values"])
def test_the_identity_holds_over_a_million_outcomes_added_up_by_day(kind: str) -> None:
    rng = np.random.default_rng(5)
    n = 1_000_000
    p = {"spread": rng.random(n), "constant": np.full(n, 0.7), "two values": rng.choice([0.1, 0.3], n)}[kind]
    o = rng.random(n) < p
    by_day = sums(np.arange(n) * 90 // n, p, o, np.ones(n), 90)
    found = performance(by_day.sum(axis=0, keepdims=True), POLICY)
    rel, res, unc, wbv, wbc = (getattr(found, name)[0] for name in DECOMPOSED)
    brier = math.fsum(((p - o) ** 2).tolist()) / n
    assert rel - res + unc + wbv - wbc == pytest.approx(brier, abs=1e-12)
    assert found.brier[0] == pytest.approx(brier, abs=1e-12)
    assert found.log_score[0] == pytest.approx(
        math.fsum(plain_scores.log_score(x, y) for x, y in zip(p.tolist(), o.tolist(), strict=True)) / n, abs=1e-11
    )
    assert np.isnan(found.correlation[0]) == (kind == "constant")


@untimed
@given(st.lists(st.tuples(st.integers(0, 100).map(lambda k: k / 100), st.booleans()), min_size=2, max_size=60))
def test_correlation_is_that_of_the_outcomes_and_undefined_without_variance(outcomes: list[Outcome]) -> None:
    expected = plain_scores.confidence_correlation(outcomes)
    found = scored(outcomes).correlation[0]
    assert np.isnan(found) if expected is None else found == pytest.approx(expected, abs=1e-6)


@untimed
@given(st.lists(st.tuples(confidences, st.booleans()), min_size=2, max_size=60))
def test_means_come_with_their_standard_errors(outcomes: list[Outcome]) -> None:
    found = scored(outcomes)
    values = {
        "brier_se": [(p - o) ** 2 for p, o in outcomes],
        "log_score_se": [plain_scores.log_score(p, o) for p, o in outcomes],
        "mean_confidence_se": [p for p, _ in outcomes],
    }
    for name, of in values.items():
        # A variance from sums is exact to about 1e-15, so its root to about 1e-7.
        assert getattr(found, name)[0] == pytest.approx(plain_scores.standard_error(of), abs=2e-7), name


@untimed
@given(outcome_lists, st.randoms(), st.integers(1, 7))
def test_sums_add_up_whatever_the_order_and_the_days(outcomes: list[Outcome], rng: random.Random, days: int) -> None:
    shuffled = rng.sample(outcomes, len(outcomes))
    parts: dict[int, list[Outcome]] = defaultdict(list)
    for outcome in shuffled:
        parts[rng.randrange(days)].append(outcome)
    added = np.concatenate([summed(part) for part in parts.values()]).sum(axis=0, keepdims=True)
    # The square root in standard errors turns a rounding of 1e-17 into one of 1e-9.
    assert same(performance(added, OF_ANY), scored(outcomes), abs_=1e-6)
    rows = [(k, of[k]) for part in parts.values() for of in [summed(part)[0]] for k in range(BINS) if of[k].any()]
    gathered = dense(
        np.zeros(len(rows), np.int64), np.array([k for k, _ in rows]), np.array([row for _, row in rows]), 1
    )
    assert np.allclose(gathered, added)


def test_groups_are_kept_apart() -> None:
    rng = np.random.default_rng(3)
    group, p, o = rng.integers(0, 4, 500), rng.random(500), rng.random(500) < 0.5
    together = sums(group, p, o, np.ones(500), 5)
    for g in range(4):
        mine = group == g
        alone = sums(np.zeros(mine.sum(), np.int64), p[mine], o[mine], np.ones(mine.sum()), 1)[0]
        assert np.allclose(together[g], alone)
    assert not together[4].any()


def test_on_few_outcomes_only_the_counts_are_known() -> None:
    few, enough = [(0.6, True)] * 4, [(0.6, True), (0.7, False)] * 3
    found = performance(np.concatenate([summed(few), summed(enough), summed([])]), POLICY)
    assert found.outcomes.tolist() == [4, 6, 0]
    assert found.correct.tolist() == [4, 3, 0]
    assert found.independent.tolist() == [4, 6, 0]
    for field in fields(Performance)[3:]:
        assert np.isnan(getattr(found, field.name)).tolist() == [True, False, True], field.name


def test_edges_of_bins_belong_to_the_bin_above_and_one_to_the_last() -> None:
    edges = [k / 10 for k in range(1, 10)]
    assert bin_of(np.array(edges)).tolist() == list(range(1, 10))
    assert bin_of(np.nextafter(edges, 0)).tolist() == list(range(9))
    assert bin_of(np.array([0.0, 1.0])).tolist() == [0, 9]


def test_reliability_is_each_bin() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(0.3, 0.8, 400)
    outcomes = list(zip(p.tolist(), (rng.random(400) < p).tolist(), strict=True))
    bins = reliability(summed(outcomes)[0])
    expected = plain_scores.in_bins(outcomes)
    assert [(b.low, b.high) for b in bins] == [(k / 10, (k + 1) / 10) for k in range(10)]
    for k, found in enumerate(bins):
        inside = expected.get(k, [])
        assert found.outcomes == found.independent == len(inside)
        if not inside:
            assert (found.mean_confidence, found.hit_rate, found.hit_low, found.hit_high) == (None,) * 4
            continue
        assert found.mean_confidence == pytest.approx(fmean(p for p, _ in inside))
        assert found.hit_rate == pytest.approx(fmean(o for _, o in inside))
        assert (found.hit_low, found.hit_high) == pytest.approx(wilson_interval(sum(o for _, o in inside), len(inside)))


# -- how well a perfect forecaster is calibrated -----------------------------------------------------------------------


@pytest.mark.parametrize(("n", "about"), [(30, 0.16), (100, 0.09), (1000, 0.03)])
def test_a_perfect_forecaster_shows_the_error_that_is_printed_beside_it(n: int, about: float) -> None:
    rng = np.random.default_rng(n)
    forecasters = 2000
    p = rng.uniform(0.3, 0.95, n * forecasters)
    group = np.repeat(np.arange(forecasters), n)
    found = performance(sums(group, p, rng.random(len(p)) < p, np.ones(len(p)), forecasters), POLICY)
    assert found.calibration_error.mean() == pytest.approx(about, rel=0.05)
    assert found.calibration_error_if_perfect.mean() == pytest.approx(found.calibration_error.mean(), rel=0.03)


@untimed
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 20)), min_size=1, max_size=5))
def test_the_error_if_perfect_is_the_mean_of_binomials(bins: list[tuple[int, int]]) -> None:
    outcomes = [(min(1.0, k / 10 + 0.05), i % 2 == 0) for k, n in dict(bins).items() for i in range(n)]
    if not outcomes:
        return
    expected = 0.0
    for inside in plain_scores.in_bins(outcomes).values():
        n, p = len(inside), fmean(p for p, _ in inside)
        expected += sum(stats.binom.pmf(k, n, p) * abs(k / n - p) for k in range(n + 1)) * n / len(outcomes)
    assert scored(outcomes).calibration_error_if_perfect[0] == pytest.approx(expected, abs=1e-9)


# -- outcomes that overlap ---------------------------------------------------------------------------------------------


def shares(targets: Sequence[int], horizon: int) -> NDArray[np.float64]:
    return independent_shares(np.zeros(len(targets), np.int64), np.array(targets, np.int64), horizon)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=40), st.integers(1, 60))
def test_shares_add_up_to_the_time_covered_in_horizons(targets: list[int], horizon: int) -> None:
    covered = {moment for t in targets for moment in range(t - horizon, t)}
    assert shares(targets, horizon).sum() == pytest.approx(len(covered) / horizon)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=40, unique=True), st.integers(1, 60))
def test_as_many_as_do_not_overlap_or_more(targets: list[int], horizon: int) -> None:
    assert math.floor(shares(targets, horizon).sum() + 1e-9) >= apart(targets, horizon)


@given(st.integers(1, 12), st.integers(1, 300), st.integers(1, 5))
def test_evenly_spaced_they_are_as_many_as_do_not_overlap(per_horizon: int, n: int, step: int) -> None:
    targets = [i * step for i in range(n)]
    outcomes = [(0.5, True)] * n
    p, o = np.array([p for p, _ in outcomes]), np.array([o for _, o in outcomes])
    horizon = per_horizon * step
    found = performance(sums(np.zeros(n, np.int64), p, o, shares(targets, horizon), 1), OF_ANY)
    assert found.independent[0] == apart(targets, horizon)


def apart(targets: Sequence[int], horizon: int) -> int:
    """The most outcomes of which no two overlap: take the earliest, then the next that starts after it."""
    count, free_at = 0, -math.inf
    for target in sorted(targets):
        if target - horizon >= free_at:
            count, free_at = count + 1, target
    return count


def test_streams_and_horizons_do_not_mix_and_order_does_not_matter() -> None:
    rng = np.random.default_rng(9)
    stream = rng.integers(0, 5, 300)
    target = rng.permutation(3000)[:300]
    horizon = np.array([10, 20, 50, 100, 200])[stream]
    found = independent_shares(stream, target, horizon)
    for s in range(5):
        assert np.allclose(found[stream == s], shares(target[stream == s].tolist(), int(horizon[stream == s][0])))
    order = rng.permutation(300)
    assert np.allclose(independent_shares(stream[order], target[order], horizon[order]), found[order])


def test_intervals_of_overlapping_outcomes_hold_the_truth() -> None:
    """Longs on a random walk, twelve of them a horizon: a true hit rate of one half."""
    rng = np.random.default_rng(4)
    walks, steps, horizon = 400, 960, 12
    path = np.cumsum(rng.normal(size=(walks, steps + horizon)), axis=1)
    o = (path[:, horizon:] > path[:, :-horizon]).ravel()
    group = np.repeat(np.arange(walks), steps)
    share = independent_shares(group, np.tile(np.arange(steps), walks), horizon)
    p = np.full(len(o), 0.5)
    holds = []
    for of in (share, np.ones(len(o))):
        found = performance(sums(group, p, o, of, walks), POLICY)
        holds.append(np.mean((found.hit_low <= 0.5) & (found.hit_high >= 0.5)))
    assert holds[0] > 0.93
    assert holds[1] < 0.6  # as if they were independent


def test_repeating_every_forecast_adds_no_certainty() -> None:
    rng = np.random.default_rng(8)
    target, p, o = np.arange(50) * HOUR, rng.random(50), rng.random(50) < 0.5
    zeros = np.zeros(200, np.int64)
    once = performance(sums(zeros[:50], p, o, shares(target.tolist(), HOUR), 1), POLICY)
    four = [np.tile(column, 4) for column in (target, p, o)]
    often = performance(sums(zeros, four[1], four[2], independent_shares(zeros, four[0], HOUR), 1), POLICY)
    assert (often.outcomes[0], often.independent[0]) == (200, 50)
    assert (often.hit_low[0], often.hit_high[0]) == pytest.approx((once.hit_low[0], once.hit_high[0]))
    assert often.brier_se[0] == pytest.approx(once.brier_se[0], rel=0.02)


# -- all assets, horizons, regimes -------------------------------------------------------------------------------------


def test_all_adds_everything_up_but_what_is_independent() -> None:
    rng = np.random.default_rng(6)
    keys = np.array([[a, b, c, d] for a in range(2) for b in range(3) for c in range(2) for d in range(2)])
    keys = keys[rng.permutation(len(keys))[:19]]
    of = rng.random((19, BINS, len(COLUMNS)))
    place = COLUMNS.index("independent")
    found_keys, found = with_all(keys, of)
    rows = dict(zip(map(tuple, found_keys.tolist()), found, strict=True))
    assert len(rows) == len(found_keys)
    expected = {
        (a, b if e & 1 else ALL, c if e & 2 else ALL, d if e & 4 else ALL)
        for a, b, c, d in keys.tolist()
        for e in range(8)
    }
    assert set(rows) == expected
    for key, row in rows.items():
        inside = [i for i, k in enumerate(keys.tolist()) if all(x in (ALL, y) for x, y in zip(key, k, strict=True))]
        others = [i for i in range(len(COLUMNS)) if i != place]
        assert np.allclose(row[:, others], of[inside][:, :, others].sum(axis=0))
        of_stream: dict[tuple[int, int], float] = defaultdict(float)
        for i in inside:
            of_stream[keys[i, 1], keys[i, 2]] += of[i, :, place].sum()
        assert row[:, place].sum() == pytest.approx(max(of_stream.values()))
        assert np.allclose(
            row[:, place] * sum(of_stream.values()), of[inside][:, :, place].sum(axis=0) * max(of_stream.values())
        )


def test_all_of_nothing_is_nothing() -> None:
    keys, of = with_all(np.empty((0, 4), np.int64), np.empty((0, BINS, len(COLUMNS))))
    assert (keys.shape, of.shape) == ((0, 4), (0, BINS, len(COLUMNS)))
    assert performance(of, POLICY).hit_rate.shape == (0,)
