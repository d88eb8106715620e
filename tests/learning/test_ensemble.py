"""The meta-producer and the agreement of pairs, against plain Python that looks at one forecast at a time."""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from closeloop.learning.ensemble import Emission, History, emission, state
from closeloop.learning.scoring import FLAT, LONG, SHORT
from closeloop.models.policy import ForecastsPolicy, MetaPolicy

untimed = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
HOUR = 3_600_000_000


class Row(NamedTuple):
    producer: int
    issued_at: int
    target_at: int
    action: int
    return_pct: float


def columns(rows: Sequence[Row]) -> History:
    return History(
        np.array([r.producer for r in rows], np.int64),
        np.array([r.issued_at for r in rows], np.int64),
        np.array([r.target_at for r in rows], np.int64),
        np.array([r.action for r in rows], np.int8),
        np.array([r.return_pct for r in rows], np.float64),
    )


def right(action: int, return_pct: float, band: float = 0.25) -> bool:
    return {LONG: return_pct > 0, SHORT: return_pct < 0, FLAT: abs(return_pct) <= band}[action]


def stood(rows: Sequence[Row], at: int, back: int) -> dict[int, int]:
    """Where each producer stood: of its forecasts of (at - back, at] the latest, of one instant the last listed."""
    found: dict[int, tuple[int, int]] = {}
    for row in rows:
        if at - back < row.issued_at <= at and row.issued_at >= found.get(row.producer, (-(10**20), 0))[0]:
            found[row.producer] = (row.issued_at, row.action)
    return {producer: action for producer, (_, action) in found.items()}


def plain_episodes(
    rows: Sequence[Row], now: Mapping[int, int], as_of: int, horizon: int, back: int
) -> tuple[list[float], list[float]]:
    """Returns of the episodes, and of every resolved instant."""
    returns = {r.issued_at: r.return_pct for r in rows if r.target_at <= as_of and r.return_pct == r.return_pct}
    taken: list[int] = []
    for at in sorted(returns):
        then = stood(rows, at, back)
        if any(then.get(producer) != action for producer, action in now.items()):
            continue
        if not taken or at - taken[-1] >= max(back, horizon):
            taken.append(at)
    return [returns[at] for at in taken], list(returns.values())


# Small numbers in place of microseconds: collisions, windows and distances are met often.
BACK, HORIZON = 4, 3
META, FORECASTS = MetaPolicy(), ForecastsPolicy()


def meta(back: int) -> MetaPolicy:
    """A state of this many microseconds; two episodes are enough."""
    return MetaPolicy(state_hours=back / HOUR, min_episodes=2)


@st.composite
def histories(draw: st.DrawFn) -> list[Row]:
    """Up to sixty forecasts; drawn by a seed, because lists that shrink well are seldom full."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    moves = rng.choices([-1.0, -0.1, 0.0, 0.25, 0.5, float("nan")], k=60)
    actions = rng.sample([-1, 0, 1], rng.randint(1, 3))
    spoken = [(rng.randrange(3), rng.randrange(60), rng.choice(actions)) for _ in range(rng.randrange(61))]
    return [Row(p, t, t + HORIZON, a, moves[t]) for p, t, a in spoken]


def emitted(rows: Sequence[Row], now: Mapping[int, int], as_of: int, back: int = BACK, **given: int) -> Emission:
    return emission(columns(rows), now, as_of, HORIZON, 500, meta(back), FORECASTS, shadow=False, **given)


@pytest.mark.parametrize("back", [2, 4])
@untimed
@given(histories(), st.dictionaries(st.integers(0, 2), st.sampled_from([-1, 0, 1]), min_size=1), st.integers(0, 65))
def test_episodes_are_the_instants_at_which_everyone_stood_so(
    back: int, rows: list[Row], now: dict[int, int], as_of: int
) -> None:
    found = emitted(rows, now, as_of, back)
    episodes, every = plain_episodes(rows, now, as_of, HORIZON, back)
    n = len(episodes)
    assert found.n == n
    if n == 0:
        assert found == Emission(None, 0, 0, None, None, None, None, "insufficient_data")
        return
    hits = {d: sum(right(d, r) for r in episodes) for d in (LONG, SHORT, FLAT)}
    best = max(hits, key=lambda d: (hits[d], d == LONG, d == SHORT))
    k = hits[best]
    low = binomtest(k, n).proportion_ci(method="wilson").low
    base = sum(right(best, r) for r in every) / len(every)
    assert (found.direction, found.k) == (best, k)
    assert found.share == pytest.approx(k / n)
    assert found.wilson_low == pytest.approx(low, abs=1e-9)
    assert found.base_rate == pytest.approx(base)
    assert found.confidence == pytest.approx((k + 1) / (n + 2))
    speaks = k / n >= 0.6 and low > base
    assert found.abstention == ("insufficient_data" if n < 2 else None if speaks else "low_confidence")


@untimed
@given(histories(), st.integers(0, 65), st.sampled_from([None, 0, 1]))
def test_the_state_is_where_each_producer_stands(rows: list[Row], as_of: int, itself: int | None) -> None:
    expected = stood(rows, as_of, BACK)
    expected.pop(itself, None) if itself is not None else None
    assert state(columns(rows), as_of, meta(BACK), itself=itself) == expected


@untimed
@given(histories(), st.integers(0, 65), st.randoms())
def test_what_comes_after_as_of_changes_nothing(rows: list[Row], as_of: int, rng: random.Random) -> None:
    now = state(columns(rows), as_of, meta(BACK))
    found = emitted(rows, now, as_of)
    # The future as it was, as it might have been, and not at all.
    other = [r if r.target_at <= as_of else r._replace(return_pct=rng.uniform(-5, 5)) for r in rows]
    other = [r if r.issued_at <= as_of else r._replace(action=rng.choice([-1, 0, 1])) for r in other]
    past = [r for r in rows if r.issued_at <= as_of]
    for changed in (other, past):
        assert state(columns(changed), as_of, meta(BACK)) == now
        assert emitted(changed, now, as_of) == found


@untimed
@given(histories(), st.integers(0, 65))
def test_it_never_listens_to_itself(rows: list[Row], as_of: int) -> None:
    others = [r for r in rows if r.producer != 2]
    now = state(columns(rows), as_of, meta(BACK), itself=2)
    assert emitted(rows, now | {2: LONG}, as_of, itself=2) == emitted(others, now, as_of)


# -- the gate ----------------------------------------------------------------------------------------------------------


def market(seed: int, planted: bool, hours: int = 24 * 60, producers: int = 3) -> tuple[list[Row], int]:
    """A coin for a market, producers that speak every hour; planted: it mostly rises when 0 and 1 are long."""
    rng = random.Random(seed)
    rows: list[Row] = []
    for hour in range(hours):
        said = [rng.choice([LONG, SHORT]) for _ in range(producers)]
        rises = 0.85 if planted and said[:2] == [LONG, LONG] else 0.5
        move = 1.0 if rng.random() < rises else -1.0
        rows += [Row(p, hour * HOUR, (hour + 1) * HOUR, action, move) for p, action in enumerate(said)]
    return rows, (hours + 1) * HOUR


def test_a_planted_ensemble_is_found() -> None:
    for seed in range(10):
        rows, as_of = market(seed, planted=True)
        found = emission(columns(rows), {0: LONG, 1: LONG}, as_of, HOUR, len(rows), META, FORECASTS, shadow=False)
        assert (found.direction, found.abstention) == (LONG, None)
        assert found.confidence == pytest.approx(0.85, abs=0.1)
        assert found.base_rate == pytest.approx(0.5 + 0.35 / 4, abs=0.06)


def test_noise_seldom_passes_the_gates() -> None:
    """A 95 % interval lies above the truth 1 time in 40, for each of two directions: about 5 in 100."""
    spoke = 0
    for seed in range(300):
        rows, as_of = market(seed, planted=False, hours=24 * 15)
        now = {0: LONG, 1: SHORT, 2: LONG}
        spoke += emission(columns(rows), now, as_of, HOUR, len(rows), META, FORECASTS, shadow=False).abstention is None
    assert spoke <= 24


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        ({"outcomes_of_book": 499}, "insufficient_data"),
        ({"min_episodes": 10_000}, "insufficient_data"),
        ({"min_share": 0.99}, "low_confidence"),
        ({"shadow": True}, "shadow_mode"),
        ({"shadow": True, "min_share": 0.99}, "low_confidence"),
        ({}, None),
        ({"outcomes_of_book": 500}, None),
    ],
)
def test_reasons_to_abstain(given_: dict[str, float], reason: str | None) -> None:
    rows, as_of = market(1, planted=True)
    in_all, shadow = given_.get("outcomes_of_book", len(rows)), given_.get("shadow", False)
    numbers = {name: given_[name] for name in given_.keys() & MetaPolicy.model_fields.keys()}
    policy = META.model_copy(update=numbers)
    found = emission(columns(rows), {0: LONG, 1: LONG}, as_of, HOUR, in_all, policy, FORECASTS, shadow=shadow)
    assert found.abstention == reason
    # What it would have said is known all the same.
    assert found.direction == LONG
    assert found.confidence == (found.k + 1) / (found.n + 2)


def test_without_forecasts_there_is_no_emission() -> None:
    rows, as_of = market(1, planted=True)
    assert emission(columns(rows), {}, as_of, HOUR, 5000, META, FORECASTS).abstention == "insufficient_data"
    assert emission(columns([]), {0: LONG}, as_of, HOUR, 5000, META, FORECASTS).abstention == "insufficient_data"


def test_a_direction_that_is_common_anyway_is_no_news() -> None:
    rng = random.Random(2)
    moves = [1.0 if rng.random() < 0.8 else -1.0 for _ in range(600)]
    rows = [Row(0, h * HOUR, (h + 1) * HOUR, rng.choice([LONG, SHORT]), move) for h, move in enumerate(moves)]
    found = emission(columns(rows), {0: LONG}, 700 * HOUR, HOUR, 600, META, FORECASTS, shadow=False)
    assert found.share is not None
    assert found.share > 0.6
    assert found.abstention == "low_confidence"


def test_its_confidence_is_worth_what_it_says() -> None:
    """Scored on the next hour, as every forecast is: of what it says with 0.85, about 85 % comes true."""
    came_true, said = [], []
    for seed in range(150):
        rows, as_of = market(seed, planted=True, hours=24 * 30)
        found = emission(columns(rows), {0: LONG, 1: LONG}, as_of, HOUR, len(rows), META, FORECASTS, shadow=False)
        if found.abstention is None and found.direction is not None and found.confidence is not None:
            move = 1.0 if random.Random(f"next {seed}").random() < 0.85 else -1.0
            came_true.append(right(found.direction, move))
            said.append(found.confidence)
    assert len(said) > 140
    assert np.mean(came_true) == pytest.approx(np.mean(said), abs=0.08)
