"""Performance from sums: against plain Python over the outcomes themselves, and by simulation."""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
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
from tests.learning.plain_scores import Outcome, overlaps

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
HOUR = 3_600_000_000
DAY = 24 * HOUR
DECOMPOSED = ("reliability", "resolution", "uncertainty", "within_bin_variance", "within_bin_covariance")

POLICY, OF_ANY = ProducersPolicy(), ProducersPolicy(min_outcomes=1)

# Round confidences make edges of bins, ties and constant columns common.
confidences = st.one_of(st.integers(0, 20).map(lambda k: k / 20), st.floats(0, 1))
outcome_lists = st.lists(st.tuples(confidences, st.booleans()), min_size=1, max_size=60)


def summed(outcomes: Sequence[Outcome], overlap: float = 1.0) -> NDArray[np.float64]:
    """Sums of one group, shape (1, BINS, columns)."""
    p, o = np.array([p for p, _ in outcomes]), np.array([o for _, o in outcomes])
    return sums(np.zeros(len(p), np.int64), p, o, np.full(len(p), overlap), 1)


def scored(outcomes: Sequence[Outcome], overlap: float = 1.0) -> Performance:
    return performance(summed(outcomes, overlap), OF_ANY)


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


def worth(targets: Sequence[int], horizon: int) -> int:
    """Independent outcomes of one stream, as they are counted."""
    n = len(targets)
    found = overlaps(np.zeros(n, np.int64), np.array(targets, np.int64), horizon)
    rows = sums(np.zeros(n, np.int64), np.full(n, 0.5), np.ones(n, np.bool_), found, 1)
    return int(performance(rows, OF_ANY).independent[0])


def apart(targets: Sequence[int], horizon: int) -> int:
    """The most outcomes of which no two overlap: take the earliest, then the next that starts after it."""
    count, free_at = 0, -math.inf
    for target in sorted(targets):
        if target - horizon >= free_at:
            count, free_at = count + 1, target
    return count


@given(st.lists(st.integers(0, 500), min_size=1, max_size=40), st.integers(1, 60))
def test_overlaps_add_up_to_what_all_pairs_share(targets: list[int], horizon: int) -> None:
    shared = [max(0, horizon - abs(a - b)) / horizon for a in targets for b in targets]
    found = overlaps(np.zeros(len(targets), np.int64), np.array(targets), horizon)
    assert found.sum() == pytest.approx(math.fsum(shared))
    assert worth(targets, horizon) == max(1, math.floor(len(targets) ** 2 / math.fsum(shared) + 1e-6))


@given(st.integers(1, 12), st.integers(1, 300), st.integers(1, 5))
def test_evenly_spaced_they_are_as_many_as_do_not_overlap(per_horizon: int, n: int, step: int) -> None:
    targets = [i * step for i in range(n)]
    most = apart(targets, per_horizon * step)
    assert most - 1 <= worth(targets, per_horizon * step) <= most


@pytest.mark.parametrize("per_horizon", [0.5, 1, 3, 12])
def test_at_random_times_they_are_as_many_as_do_not_overlap(per_horizon: float) -> None:
    rng = np.random.default_rng(1)
    targets = np.sort(rng.integers(0, 2000 * HOUR, round(2000 * per_horizon))).tolist()
    assert worth(targets, HOUR) == pytest.approx(apart(targets, HOUR), rel=0.05)


def test_a_busy_stretch_counts_as_what_it_is() -> None:
    """100 alone, and 200 within ten horizons: a mean over all is mostly one over these ten."""
    targets = [*range(0, 20000, 200), *range(5050, 6050, 5)]
    assert apart(targets, 100) > 100
    assert 20 < worth(targets, 100) < 30


def test_streams_and_horizons_do_not_mix_and_order_does_not_matter() -> None:
    rng = np.random.default_rng(9)
    stream = rng.integers(0, 5, 300)
    target = rng.permutation(3000)[:300]
    horizon = np.array([10, 20, 50, 100, 200])[stream]
    found = overlaps(stream, target, horizon)
    for s in range(5):
        mine = stream == s
        alone = overlaps(np.zeros(mine.sum(), np.int64), target[mine], int(horizon[mine][0]))
        assert np.allclose(found[mine], alone)
    order = rng.permutation(300)
    assert np.allclose(overlaps(stream[order], target[order], horizon[order]), found[order])


def even(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.arange(0, 80, 1 / 12)


def poisson(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.uniform(0, 100, rng.poisson(100))


def irregular(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.cumsum(rng.uniform(0.1, 1.9, 100))


def sessions(rng: np.random.Generator) -> NDArray[np.float64]:
    """Eight hours of a day, every ten minutes, over four hours."""
    return (6 * np.arange(30)[:, None] + np.arange(0, 2, 1 / 24)).ravel()


def bursts(rng: np.random.Generator) -> NDArray[np.float64]:
    """Of one to 200 forecasts each, most of them small."""
    starts = rng.uniform(0, 200, 100)
    sizes = np.minimum(1 + (2 * rng.pareto(1.2, 100)).astype(int), 200)
    return np.repeat(starts, sizes) + rng.uniform(0, 0.2, sizes.sum())


def busy_stretch(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.concatenate([np.arange(0, 200, 2.0), np.arange(90, 100, 1 / 20)])


@pytest.mark.parametrize(
    ("issued", "of_disjoint", "of_all"),
    # The share of intervals that hold the truth, in percent: with the outcomes that do not overlap, and with all.
    [
        (even, 98, 49),
        (poisson, 96, 84),
        (irregular, 97, 88),
        (sessions, 99, 35),
        (bursts, 59, 21),
        (busy_stretch, 67, 44),
    ],
)
def test_intervals_hold_the_truth_whenever_forecasts_are_issued(
    issued: Callable[[np.random.Generator], NDArray[np.float64]], of_disjoint: int, of_all: int
) -> None:
    """Longs on a random walk, over a horizon of 1: a true hit rate of one half."""
    rng = np.random.default_rng(4)
    walks, ticks = 300, 240
    all_hits, group, targets, most = [], [], [], []
    for walk in range(walks):
        at = np.rint(np.sort(issued(rng)) * ticks).astype(np.int64)
        path = np.cumsum(rng.normal(size=at[-1] + ticks + 1))
        all_hits.append(path[at + ticks] > path[at])
        group.append(np.full(len(at), walk))
        targets.append(at + ticks)
        most.append(np.full(len(at), apart(targets[-1].tolist(), ticks) / len(at)))
    o, of = np.concatenate(all_hits), np.concatenate(group)
    p = np.full(len(o), 0.5)
    holds = []
    for overlap in (overlaps(of, np.concatenate(targets), ticks), 1 / np.concatenate(most), np.ones(len(o))):
        found = performance(sums(of, p, o, overlap, walks), POLICY)
        holds.append(100 * np.mean((found.hit_low <= 0.5) & (found.hit_high >= 0.5)))
    assert 94 < holds[0] <= 100
    assert holds[1:] == pytest.approx([of_disjoint, of_all], abs=4)


def test_repeating_every_forecast_adds_no_certainty() -> None:
    rng = np.random.default_rng(8)
    target, p, o = np.arange(50) * HOUR, rng.random(50), rng.random(50) < 0.5
    zeros = np.zeros(200, np.int64)
    once = performance(sums(zeros[:50], p, o, overlaps(zeros[:50], target, HOUR), 1), POLICY)
    four = [np.tile(column, 4) for column in (target, p, o)]
    often = performance(sums(zeros, four[1], four[2], overlaps(zeros, four[0], HOUR), 1), POLICY)
    assert (often.outcomes[0], often.independent[0]) == (200, 50)
    assert (often.hit_low[0], often.hit_high[0]) == pytest.approx((once.hit_low[0], once.hit_high[0]))
    assert often.brier_se[0] == pytest.approx(once.brier_se[0], rel=0.02)


# -- all assets, horizons, regimes -------------------------------------------------------------------------------------


def test_all_adds_everything_up_but_what_is_independent() -> None:
    rng = np.random.default_rng(6)
    keys = np.array([[a, b, c, d] for a in range(2) for b in range(3) for c in range(2) for d in range(2)])
    keys = keys[rng.permutation(len(keys))[:19]]
    of = rng.random((19, BINS, len(COLUMNS)))
    place = COLUMNS.index("overlap")
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
        assert row[:, place].sum() == pytest.approx(sum(math.sqrt(one) for one in of_stream.values()) ** 2)
        of_bins = [of[i][:, place] for i in inside]
        assert np.all(row[:, place] >= np.sum(of_bins, axis=0) - 1e-9)


@pytest.mark.parametrize("together", [True, False])
def test_over_assets_the_interval_holds_the_truth_however_they_move(together: bool) -> None:
    """A crowd of small assets beside a large one: what they are worth is right where all move as one, else too few."""
    rng = np.random.default_rng(12)
    books, sizes = 1500, np.array([400, *[40] * 9])
    group = np.repeat(np.arange(10), sizes)
    at = np.concatenate([np.arange(size) * (400 // size) for size in sizes])
    moves = rng.random((books, 400 if together else len(at))) < 0.5
    o = moves[:, at] if together else moves
    keys = np.array([[0, asset, 0, 0] for asset in range(10)])
    right, counted = 0, set()
    for book in range(books):
        found_keys, found = with_all(keys, sums(group, np.full(len(at), 0.5), o[book], np.ones(len(at)), 10))
        [pooled] = np.flatnonzero((found_keys == [0, ALL, ALL, ALL]).all(axis=1))
        scores = performance(found[pooled : pooled + 1], POLICY)
        counted.add(int(scores.independent[0]))
        right += int(scores.hit_low[0] <= 0.5 <= scores.hit_high[0])
    assert counted == {97}  # of 760 outcomes, 400 of them of one asset
    assert right / books > (0.94 if together else 0.999)
