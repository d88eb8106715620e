"""Levers on record: by what was known then, written once, whoever asks again and whatever is known since."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from closeloop import store
from closeloop.models.errors import BookArchived, NotAcceptable
from closeloop.models.given_levers import LeversGiven
from closeloop.models.market import Driver, Timeframe
from closeloop.models.market_levers import BucketContext, LeversRequest
from closeloop.models.policy import LeversPolicy
from closeloop.services.given_levers import give, levers_id
from closeloop.store.database import Sessions
from tests.activities.attributing import attributed
from tests.activities.levering import contexts, naming
from tests.services.markets import market, put_state
from tests.store.databases import query

POLICY = LeversPolicy()
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ASKED = LeversRequest(bucket="nano", timeframe="1h", intent={"hi_buy": 0.4})
SECOND = timedelta(seconds=1)


@pytest.fixture
async def own(dsn: str) -> AsyncIterator[Sessions]:
    async with market(dsn) as sessions:
        yield sessions


async def given(
    sessions: Sessions,
    request: LeversRequest = ASKED,
    at: datetime = NOON,
    book: str = "b",
    policy: LeversPolicy = POLICY,
) -> LeversGiven:
    async with sessions.begin() as session:
        return await give(session, book, request, at, policy)


async def test_a_close_is_filled_in_with_what_was_given(own: Sessions) -> None:
    await put_state(own, Driver.btc, Timeframe.h1, NOON - SECOND, "S3", computed_at=NOON)
    await put_state(own, Driver.nano, Timeframe.h1, NOON - SECOND, "S1", computed_at=NOON)
    await put_state(own, Driver.mid, Timeframe.h1, NOON - SECOND, "S0", computed_at=NOON)
    levers = await given(own)
    # hi_buy 0.4 x 0.25; BTC S3 0.20 x 1.0 x 0.40 x 0.55; nano S1 0.25 x 3.0 x 0.40 x 0.55
    assert abs(levers.A - (0.5 + 0.1 + 0.044 + 0.165)) < 1e-12
    assert levers.known_then
    opened = NOON + timedelta(minutes=5)
    close = naming("b", levers.levers_id).model_copy(
        update={"opened_at": opened, "closed_at": opened + timedelta(hours=1)}
    )
    [answer] = await attributed(own, close)
    [context] = await contexts(own, "b")
    assert (answer.noted, context["states"]) == ([], {"btc_meso": "S3", "bucket_meso": "S1"})
    assert (context["a_value"], context["e_value"]) == (levers.A, levers.E)


async def test_the_same_request_is_the_same_row_whatever_is_known_since(own: Sessions) -> None:
    await put_state(own, Driver.btc, Timeframe.h1, NOON - SECOND, "S3", computed_at=NOON)
    first = await given(own)
    await put_state(own, Driver.btc, Timeframe.h1, NOON - SECOND, "S0", revision=1, computed_at=NOON)
    other_policy = LeversPolicy(regime_strength=0.5)
    assert await given(own) == await given(own, policy=other_policy) == first
    assert [row["n"] for row in await query(own, "SELECT count(*) AS n FROM market_levers")] == [1]


async def test_what_was_not_known_then_is_not_used(own: Sessions) -> None:
    """A later revision, by who could not have known it; a bar that had not ended; one that is too old."""
    await put_state(own, Driver.btc, Timeframe.h1, NOON - SECOND, "S3", computed_at=NOON)
    await put_state(own, Driver.btc, Timeframe.h1, NOON - SECOND, "S0", revision=1, computed_at=NOON + SECOND)
    await put_state(own, Driver.alt, Timeframe.h1, NOON + SECOND, "S0")
    await put_state(own, Driver.nano, Timeframe.h1, NOON - timedelta(hours=2, seconds=1), "S0")
    levers = await given(own)
    assert {(each.driver, each.timeframe): each.state for each in levers.contributions} == {("BTC", "1h"): "S3"}
    assert {"ALT/1h", "nano/1h"} <= set(levers.missing)


async def test_of_states_that_nobody_knew_then_the_newest_revision_is_used(own: Sessions) -> None:
    """Candles of one component were imported after another's: the first revision was made of half of them."""
    for revision, state in enumerate(("S0", "S1", "S3")):
        later = NOON + timedelta(days=1 + revision)
        await put_state(own, Driver.alt, Timeframe.h1, NOON - SECOND, state, revision=revision, computed_at=later)
    levers = await given(own)
    assert ([each.state for each in levers.contributions], levers.known_then) == (["S3"], False)


async def test_states_that_were_computed_later_are_told(own: Sessions) -> None:
    await put_state(own, Driver.btc, Timeframe.h1, NOON - SECOND, "S3", computed_at=NOON + timedelta(days=3))
    levers = await given(own)
    assert (len(levers.contributions), levers.known_then) == (1, False)


async def test_two_that_ask_at_once_get_the_same(own: Sessions) -> None:
    await put_state(own, Driver.btc, Timeframe.h1, NOON - SECOND, "S3", computed_at=NOON)
    answers = await asyncio.gather(*(given(own) for _ in range(4)))
    assert all(answer == answers[0] for answer in answers)


async def test_without_any_state_levers_are_neutral(own: Sessions) -> None:
    levers = await given(own, LeversRequest(timeframe="1h"))
    assert (levers.A, levers.E, len(levers.missing)) == (0.5, 0.5, 15)


async def test_what_cannot_be_given(own: Sessions) -> None:
    for request, at in ((LeversRequest(bucket="huge", timeframe="1h"), NOON), (ASKED, datetime.now(UTC) + 60 * SECOND)):
        with pytest.raises(NotAcceptable, match="Levers cannot be given"):
            await given(own, request, at)
    async with own.begin() as session:
        await store.books.hold(session, "b")
        await store.books.set_archived(session, "b", NOON, "ann")
    with pytest.raises(BookArchived, match="book b was removed by ann"):
        await given(own)
    assert await query(own, "SELECT 1 FROM market_levers") == []


def test_an_id_says_what_was_asked() -> None:
    asked = LeversRequest(bucket="nano", timeframe="1h", intent={"hi_buy": 0.4, "sell": 0.1})
    turned = LeversRequest(bucket="nano", timeframe="1h", intent={"sell": 0.1, "hi_buy": 0.4})
    assert levers_id("b", asked, NOON) == levers_id("b", turned, NOON.astimezone())
    others = [
        levers_id("c", asked, NOON),
        levers_id("b", asked, NOON + timedelta(microseconds=1)),
        levers_id("b", asked.model_copy(update={"bucket": None}), NOON),
        levers_id("b", asked.model_copy(update={"timeframe": "4h"}), NOON),
        levers_id("b", asked.model_copy(update={"intent": {}}), NOON),
        levers_id("b", asked.model_copy(update={"context": BucketContext(rank=1)}), NOON),
    ]
    assert len({levers_id("b", asked, NOON), *others}) == 7
