"""Sizes follow an edge that fades: what is left of it as of the run sizes, and nothing where it is gone."""

import random
from datetime import datetime, timedelta

import pytest
from temporalio.client import Client

from closeloop.models.lessons import LessonStatus, LessonView
from closeloop.models.overrides import OverrideStatus
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import ClosedPosition
from closeloop.store.database import Sessions
from tests.activities.overriding import matched, materialize, overrides
from tests.activities.patterning import DIMENSIONS, FIRST, build, learn, trade
from tests.activities.test_lessons import lessons, of

SCOPE = {"vol_bucket": "v1"}
START, HALF_LIFE = 2.5, 300.0  # R at the first trade, hours
DAYS, A_DAY = 120, 12


def closes(book: str, half_life: float | None, start: float, sd: float = 0.5) -> list[ClosedPosition]:
    """Twelve closes a day of noise; those in the scope earn ``start`` R more, fading."""
    rng = random.Random(11)
    made = []
    for i in range(DAYS * A_DAY):
        hours = i * 24 / A_DAY
        scope = {dimension: f"v{rng.randrange(3)}" for dimension in DIMENSIONS}
        rr = rng.gauss(0, sd)
        if scope.items() >= SCOPE.items():
            rr += start * (1.0 if half_life is None else 2 ** (-hours / half_life))
        made.append(trade(book, f"{book}-{i:05}", rr, scope, FIRST + timedelta(hours=hours)))
    return made


async def mined_as_of(sessions: Sessions, book: str, at: datetime, policy: LearningPolicy | None = None) -> LessonView:
    assert (await build(sessions, book, at, policy=policy or LearningPolicy())).version is not None
    [found] = [view for view in of(await lessons(sessions, book), LessonStatus.active) if view.scope == SCOPE]
    return found


async def test_a_fading_edge_is_sized_by_what_is_left(book: str, sessions: Sessions, client: Client) -> None:
    await learn(sessions, closes(book, HALF_LIFE, START))
    multipliers, lefts = [], []
    for day in (30, 45):
        at = FIRST + timedelta(days=day)
        found = await mined_as_of(sessions, book, at)
        left = START * 2 ** (-24 * day / HALF_LIFE)
        assert (found.half_life_hours, found.effect_now) == (
            pytest.approx(HALF_LIFE, rel=0.25),
            pytest.approx(left, abs=0.15),
        )
        assert found.effect_now is not None
        assert found.effect_now_low is not None
        assert found.effect_now_high is not None
        assert found.effect_now_low < found.effect_now < found.effect_now_high
        assert found.effect is not None
        assert found.effect > 2 * found.effect_now, "its mean over all of its trades"
        assert found.actionable is (found.effect_now >= 0.05)
        await materialize(sessions, client, book, at)
        answer = await matched(sessions, book, SCOPE, at)
        shrunk = found.effect_now * found.n / (found.n + 50)
        assert answer.size_multiplier == pytest.approx(1 + 0.2 * shrunk)
        # Between two minings it stays as it is, also where overrides are made again.
        later = at + timedelta(days=2)
        await materialize(sessions, client, book, later)
        assert (await matched(sessions, book, SCOPE, later)).size_multiplier == answer.size_multiplier
        multipliers.append(answer.size_multiplier)
        lefts.append(found.effect_now)
    assert multipliers[0] > multipliers[1] > 1.0, (multipliers, lefts)
    at = FIRST + timedelta(days=DAYS + 1)
    found = await mined_as_of(sessions, book, at)
    assert found.effect is not None
    assert found.effect > 0.2, "as its mean it would still size"
    assert found.effect_now == pytest.approx(0.0, abs=0.01)
    assert not found.actionable
    await materialize(sessions, client, book, at)
    assert {each.status for each in await overrides(sessions, book)} & {
        OverrideStatus.active,
        OverrideStatus.pending,
    } == set()
    assert (await matched(sessions, book, SCOPE, at)).size_multiplier == 1.0


async def test_an_interval_with_0_in_it_sizes_nothing(book: str, sessions: Sessions, client: Client) -> None:
    """The lesson is accepted, and enough of it is left: only the interval of what is left decides."""
    await learn(sessions, closes(book, HALF_LIFE, 1.5, sd=1.0))
    at = FIRST + timedelta(days=18)
    for level, sizes in ((0.90, True), (1 - 1e-12, False)):
        found = await mined_as_of(sessions, book, at, LearningPolicy.model_validate({"decay": {"interval": level}}))
        assert found.effect_now is not None
        assert found.effect_now > 0.3
        assert found.effect_now_low is not None
        assert (found.effect_now_low > 0) is sizes
        assert found.actionable is sizes
        await materialize(sessions, client, book, at)
        assert ((await matched(sessions, book, SCOPE, at)).size_multiplier > 1.0) is sizes


async def test_an_edge_that_lasts_is_sized_by_its_effect(book: str, sessions: Sessions, client: Client) -> None:
    await learn(sessions, closes(book, None, 0.8))
    for day in (60, DAYS + 1):
        at = FIRST + timedelta(days=day)
        found = await mined_as_of(sessions, book, at)
        assert found.half_life_hours is None
        assert found.effect_now == found.effect == pytest.approx(0.8, abs=0.25)
        assert (found.effect_now_low, found.effect_now_high) == (None, None)
        assert found.actionable
        await materialize(sessions, client, book, at)
        assert found.effect is not None
        shrunk = found.effect * found.n / (found.n + 50)
        assert (await matched(sessions, book, SCOPE, at)).size_multiplier == pytest.approx(1 + 0.2 * shrunk)
