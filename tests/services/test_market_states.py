"""States as an operator is shown them: what levers use and what they do not, and stretches of one state."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from closeloop.models.errors import NotAcceptable, NotOnRecord
from closeloop.models.market import Driver, RegimeBar, Timeframe
from closeloop.models.market_levers import LeversRequest, StateGiven
from closeloop.models.market_views import ChannelView, StateRun
from closeloop.models.policy import LearningPolicy
from closeloop.services import market_levers, market_states
from closeloop.store.database import Sessions
from closeloop.store.rows import execute, insertion
from tests.services.markets import market, put_state

NOW = datetime(2026, 5, 4, 12, 0, 30, tzinfo=UTC)
HOUR = NOW.replace(second=0)
BTC, NANO, H1, M1, D1 = Driver.btc, Driver.nano, Timeframe.h1, Timeframe.m1, Timeframe.d1
POLICY = LearningPolicy()
SOME = [0.0]  # a bar with indicators: one without any, in a later revision, was withdrawn


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


@pytest.fixture
async def sessions(dsn: str) -> AsyncIterator[Sessions]:
    async with market(dsn) as sessions:
        yield sessions


async def shown(sessions: Sessions, instant: datetime = NOW, **of: Any) -> dict[str, ChannelView]:
    async with sessions() as session:
        found = await market_states.as_of(session, instant, POLICY, **of)
    return {f"{one.driver}/{one.timeframe}": one for one in found}


async def test_what_is_shown_is_what_levers_use(sessions: Sessions) -> None:
    await put_state(sessions, BTC, D1, HOUR - minutes(60), "S3", flags=["trim_flag"])
    await put_state(sessions, BTC, H1, HOUR, "S0", prev_state="S2")
    await put_state(sessions, BTC, H1, HOUR + minutes(60), "S3")  # has not ended
    await put_state(sessions, BTC, M1, HOUR - minutes(5), "S1")  # half a minute too old
    await put_state(sessions, Driver.btc_d, M1, HOUR - minutes(25), "S1", provisional=True)
    await put_state(sessions, Driver.alt, H1, HOUR, "S3", computed_at=NOW + minutes(9))
    await put_state(sessions, NANO, H1, HOUR - minutes(60), "S0", indicators=SOME)
    await put_state(sessions, NANO, H1, HOUR - minutes(60), "S3", revision=1, indicators=SOME)
    await put_state(sessions, NANO, H1, HOUR, "S2", indicators=SOME)
    await put_state(sessions, NANO, H1, HOUR, None, revision=1)  # withdrawn
    await put_state(sessions, Driver.mid, H1, HOUR - minutes(60), None, indicators=SOME)
    await put_state(sessions, Driver.mid, H1, HOUR, "S4", published=False, indicators=SOME)
    found = await shown(sessions)
    assert [(name, one.state, one.used, one.warming_up, one.stale) for name, one in found.items()] == [
        ("BTC/1m", "S1", False, False, True),
        ("BTC/1h", "S0", True, False, False),
        ("BTC/1d", "S3", True, False, False),
        ("ALT/1h", "S3", True, False, False),
        ("nano/1h", "S3", True, False, False),
        ("mid/1h", "S4", False, True, False),
        ("BTC.d/1m", "S1", True, False, False),
    ]
    assert (found["BTC/1h"].prev_state, found["BTC/1d"].flags) == ("S2", ["trim_flag"])
    assert (found["nano/1h"].revision, found["nano/1h"].bar_end) == (1, HOUR - minutes(60))
    assert (found["ALT/1h"].known_then, found["BTC/1h"].known_then) == (False, True)
    assert (found["mid/1h"].bars, found["mid/1h"].bars_needed) == (2, 333)

    async with sessions() as session:
        levers = await market_levers.as_of(session, LeversRequest(bucket="nano", timeframe="1h"), NOW, POLICY.levers)
    used = {name: one.state for name, one in found.items() if one.used}
    assert {f"{one.driver}/{one.timeframe}": one.state for one in levers.contributions} == used
    said = [StateGiven.model_validate_json(one.model_dump_json()) for one in found.values()]
    what_if = market_levers.what_if(LeversRequest(bucket="nano", timeframe="1h"), said, POLICY.levers)
    assert (what_if.A, what_if.E, what_if.missing) == (levers.A, levers.E, levers.missing)


async def test_as_of_an_instant_and_of_what_was_asked_for(sessions: Sessions) -> None:
    await put_state(sessions, BTC, H1, HOUR - minutes(60), "S1")
    await put_state(sessions, BTC, H1, HOUR, "S2")
    await put_state(sessions, BTC, H1, HOUR, "S3", revision=1, computed_at=NOW)
    for instant, state in ((HOUR - minutes(1), "S1"), (NOW - timedelta(seconds=9), "S2"), (NOW, "S3")):
        assert (await shown(sessions, instant))["BTC/1h"].state == state
    assert await shown(sessions, HOUR - minutes(61)) == {}
    assert await shown(sessions, drivers=[NANO]) == {}
    assert await shown(sessions, timeframes=[M1]) == {}


async def bars(sessions: Sessions, count: int, driver: Driver = BTC, timeframe: Timeframe = H1) -> None:
    """Bars until HOUR: ten of each state in turn, the first ten without one."""
    rows = [
        {
            "driver": driver,
            "timeframe": timeframe,
            "timestamp": HOUR - (count - place) * timeframe.step,
            **dict.fromkeys(("open_usd", "high_usd", "low_usd", "close_usd"), Decimal(100 + place)),
        }
        for place in range(count)
    ]
    async with sessions.begin() as session:
        await execute(session, insertion(RegimeBar, rows))
    names = [None if place < 10 else f"S{place // 10 % 4}" for place in range(count)]
    for place, name in enumerate(names):
        await put_state(
            sessions, driver, timeframe, HOUR - (count - 1 - place) * timeframe.step, name, indicators=SOME,
            prev_state=names[place - 1] if place else None, published=place >= 15,
            flags=["trim_flag"] if place % 10 == 1 else [],
        )  # fmt: skip


async def runs(sessions: Sessions, until: datetime = NOW, since: datetime | None = None, **of: Any) -> list[StateRun]:
    async with sessions() as session:
        return await market_states.history(session, until, since, **of)


async def test_stretches_of_one_state(sessions: Sessions) -> None:
    await bars(sessions, 45)
    await put_state(sessions, BTC, H1, HOUR - 7 * H1.step, "S3", revision=1, indicators=SOME, prev_state="S3")
    found = await runs(sessions)
    assert [(one.state, one.prev_state, one.bars, one.published, one.revision) for one in found] == [
        ("S1", None, 10, 5, 0), ("S2", "S1", 10, 10, 0), ("S3", "S2", 10, 10, 1), ("S0", "S3", 5, 5, 0),
    ]  # fmt: skip
    assert [one.to for one in found] == [one.from_ for one in found[1:]] + [HOUR]
    assert found[0].flags == {"trim_flag": 1}
    assert not any(one.began_earlier for one in found)

    assert await runs(sessions, last=2) == found[2:]
    assert await runs(sessions, until=found[2].from_) == found[:2]
    cut = await runs(sessions, since=found[1].from_ + 3 * H1.step)
    assert [(one.bars, one.began_earlier) for one in cut] == [(7, True), (10, False), (5, False)]
    assert await runs(sessions, timeframes=[M1]) == await runs(sessions, drivers=[NANO]) == []
    with pytest.raises(NotAcceptable, match="--since must be before --until"):
        await runs(sessions, since=NOW)


async def test_the_course_of_price_states_and_levers(sessions: Sessions) -> None:
    await bars(sessions, 45)
    request = LeversRequest(bucket="nano", timeframe="1h")
    since = NOW - 40 * H1.step
    async with sessions() as session:
        course = await market_states.course(session, BTC, H1, request, since, NOW, POLICY.levers)
        assert [(bar.close, bar.state) for bar in course.bars[:6]] == [
            (105.0, None), (106.0, None), (107.0, None), (108.0, None), (109.0, None), (110.0, "S1"),
        ]  # fmt: skip
        assert [bar.published for bar in course.bars].index(True) == 10
        assert course.bars[-1].start == int((HOUR - H1.step).timestamp())
        assert len(course.levers) == 40
        for instant, a, e in course.levers[::7]:
            levers = await market_levers.as_of(session, request, instant, POLICY.levers)
            assert (a, e) == (levers.A, levers.E)
        with pytest.raises(NotOnRecord, match="no bars of nano 1h"):
            await market_states.course(session, NANO, H1, request, since, NOW, POLICY.levers)
        with pytest.raises(NotAcceptable, match="nano, small, mid, big"):
            await market_states.course(
                session, BTC, H1, LeversRequest(bucket="huge", timeframe="1h"), since, NOW, POLICY.levers
            )
