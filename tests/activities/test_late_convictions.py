"""Convictions that come after the closes that name them are taken in, once, as far as they were believed at entry."""

import asyncio
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.activities.attribution import attribute
from closeloop.models.convictions import ConvictionsReport, RecordedConviction
from closeloop.models.positions import ClosedPosition
from closeloop.services import convictions
from closeloop.store.database import Sessions
from tests.activities.attributing import NOW, POLICY, attributed, attributing, refused
from tests.activities.patterning import config, learn, owed
from tests.activities.patterning import trades as closes_with_context
from tests.closes import closed
from tests.store.databases import backend, query, wait_until_it_blocks

OPENED = datetime(2026, 1, 1, tzinfo=UTC)  # when the closes of these tests were opened
SCORES = {"onchain": -0.25, "social": 0.1}
BY_ID = {"conviction_id": "c-1"}
BY_CYCLE = {"conviction_id": "c-never-recorded", "cycle_id": "cycle-1"}
INLINE = {"conviction_id": "c-1", "cycle_id": "cycle-1", "magnitude": 5.0, "domain_scores": SCORES}


def conviction(book: str, **changes: Any) -> RecordedConviction:
    return RecordedConviction.model_validate(INLINE | {"book": book, "symbol": "BTC/USDT"} | changes)


async def record(sessions: Sessions, *came: RecordedConviction) -> ConvictionsReport:
    async with sessions.begin() as session:
        return await convictions.record(session, came)


async def catch_up(sessions: Sessions) -> int:
    """As the catch-up does it; the closes of other tests, too, if any wait."""
    async with sessions.begin() as session:
        now, since = await store.late_convictions.next_look(session)
    completed = 0
    while True:
        async with sessions.begin() as session:
            page = await convictions.complete_closes(session, since)
            if page is None:
                await store.late_convictions.looked(session, now)
                return completed
        completed += page


async def believed(sessions: Sessions, book: str) -> dict[str, tuple[str, Any, str | None]]:
    """What attributions say of convictions: position -> status, scores, cycle."""
    rows = await query(
        sessions,
        "SELECT position_id, conviction_status, domain_scores_at_entry, cycle_id FROM attributions WHERE book_id = :b",
        b=book,
    )
    return {r["position_id"]: (r["conviction_status"], r["domain_scores_at_entry"], r["cycle_id"]) for r in rows}


async def outcomes(sessions: Sessions, book: str) -> dict[str, tuple[int | None, datetime | None]]:
    rows = await query(sessions, "SELECT id, outcome, outcome_ts FROM conviction_scores WHERE book_id = :b", b=book)
    return {r["id"]: (r["outcome"], r["outcome_ts"]) for r in rows}


async def told(sessions: Sessions, book: str) -> list[dict[str, Any]]:
    rows = await query(
        sessions,
        "SELECT payload FROM events WHERE type = 'attribution.completed.v1' AND payload ->> 'book' = :b ORDER BY id",
        b=book,
    )
    return [row["payload"] for row in rows]


@pytest.mark.parametrize("named", [BY_ID, BY_CYCLE], ids=["by its id", "by its cycle"])
async def test_what_was_believed_is_completed_once(named: dict[str, Any], book: str, sessions: Sessions) -> None:
    position = closed(book, conviction=named)
    [before] = await attributed(sessions, position)
    assert (before.outcome.conviction_status, before.outcome.completed_at) == ("unknown", None)
    start = datetime.now(UTC)
    assert await record(sessions, conviction(book)) == ConvictionsReport(added=1, already_recorded=0, completed=1)
    for _ in range(2):
        assert await believed(sessions, book) == {"p-1": ("recorded", SCORES, "cycle-1")}
        assert (await outcomes(sessions, book))[named["conviction_id"]] == (1, position.closed_at)
        [event] = await told(sessions, book)
        assert event["domain_scores_at_entry"] == SCORES
        again = await record(sessions, conviction(book))
        assert (again.added, again.completed) == (0, 0)
        await catch_up(sessions)
    [after] = await attributed(sessions, position)
    assert after.already_attributed
    assert after.outcome.completed_at is not None
    assert after.outcome.completed_at >= start
    unchanged = {"conviction_status", "domain_scores_at_entry", "cycle_id", "completed_at"}
    assert after.outcome.model_dump(exclude=unchanged) == before.outcome.model_dump(exclude=unchanged)


async def test_the_conviction_of_the_message_stays(book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(book, conviction=INLINE))
    report = await record(sessions, conviction(book, conviction_id="c-2", domain_scores={"onchain": 1.0}))
    assert report.completed == await catch_up(sessions) == 0
    assert (await believed(sessions, book))["p-1"] == ("inline", SCORES, None)


async def test_of_two_convictions_of_one_key_the_first_that_came_stands(book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(book, conviction=BY_CYCLE))
    assert (await record(sessions, conviction(book))).completed == 1
    second = conviction(book, conviction_id="c-2", domain_scores={"onchain": 1.0})
    assert (await record(sessions, second)).completed == 0
    assert (await believed(sessions, book))["p-1"] == ("recorded", SCORES, "cycle-1")
    assert len(await told(sessions, book)) == 1


async def test_a_conviction_that_another_close_brings_is_taken_in_by_the_catch_up(
    book: str, sessions: Sessions
) -> None:
    await attributed(sessions, closed(book, "p-1", conviction=BY_ID, realized_pnl="-1"))
    await attributed(sessions, closed(book, "p-2", conviction=INLINE))
    assert await catch_up(sessions) >= 1
    assert (await believed(sessions, book))["p-1"] == ("recorded", SCORES, "cycle-1")


async def test_the_scores_may_come_after_the_name(book: str, sessions: Sessions) -> None:
    """The conviction is on record for another symbol: its cycle is known, this symbol's scores come later."""
    position = closed(book, conviction=BY_ID)
    await attributed(sessions, position)
    assert (await record(sessions, conviction(book, symbol="ETH/USDT"))).completed == 0
    assert await believed(sessions, book) == {"p-1": ("unknown", None, "cycle-1")}
    assert await outcomes(sessions, book) == {"c-1": (1, position.closed_at)}
    assert await told(sessions, book) == []
    assert (await record(sessions, conviction(book, conviction_id="c-2"))).completed == 1
    assert await believed(sessions, book) == {"p-1": ("recorded", SCORES, "cycle-1")}


@pytest.mark.parametrize("late", [True, False], ids=["after its close", "before its close"])
@pytest.mark.parametrize(
    ("formed_at", "status"),
    [
        (OPENED, "recorded"),
        (OPENED + timedelta(microseconds=1), "formed_later"),
        (OPENED + timedelta(days=9), "formed_later"),
    ],
    ids=["at the entry", "just after the entry", "after the close"],
)
async def test_what_was_formed_after_the_entry_was_not_believed_then(
    formed_at: datetime, status: str, late: bool, book: str, sessions: Sessions
) -> None:
    came, position = conviction(book, formed_at=formed_at), closed(book, conviction=BY_ID)
    assert position.opened_at == OPENED
    if late:
        await attributed(sessions, position)
        assert (await record(sessions, came)).completed == 1
        [event] = await told(sessions, book)
        assert event["conviction_status"] == status
    else:
        await record(sessions, came)
        await attributed(sessions, position)
        assert await told(sessions, book) == []
    for _ in range(2):
        scores, outcome = (SCORES, (1, position.closed_at)) if status == "recorded" else (None, (None, None))
        assert await believed(sessions, book) == {"p-1": (status, scores, "cycle-1")}
        assert await outcomes(sessions, book) == {"c-1": outcome}
        await catch_up(sessions)


# In whatever order they come ----------------------------------------------------------------------------------------


def happenings(book: str) -> list[ClosedPosition | RecordedConviction]:
    return [
        closed(book, "p-1", conviction=BY_ID, realized_pnl="3", closed_at="2026-01-02T00:00:00Z"),
        closed(book, "p-2", conviction=BY_ID, realized_pnl="-3", closed_at="2026-01-03T00:00:00Z"),
        closed(
            book, "p-3", conviction={"conviction_id": "c-9", "cycle_id": "cycle-1"}, opened_at="2025-12-01T00:00:00Z"
        ),
        conviction(book, formed_at=OPENED - timedelta(days=1)),
        conviction(book, conviction_id="c-2", symbol="ETH/USDT", domain_scores={"onchain": 1.0}),
    ]


async def take(sessions: Sessions, one: ClosedPosition | RecordedConviction) -> None:
    if isinstance(one, ClosedPosition):
        await attributed(sessions, one)
    else:
        await record(sessions, one)


@pytest.mark.parametrize("order", list(itertools.permutations(range(5)))[::7], ids=lambda o: "".join(map(str, o)))
async def test_the_order_makes_no_difference(order: Sequence[int], book: str, sessions: Sessions) -> None:
    for i in order:
        await take(sessions, happenings(book)[i])
    await catch_up(sessions)
    assert await believed(sessions, book) == {
        "p-1": ("recorded", SCORES, "cycle-1"),
        "p-2": ("recorded", SCORES, "cycle-1"),
        "p-3": ("formed_later", None, "cycle-1"),
    }
    assert await outcomes(sessions, book) == {
        "c-1": (-1, datetime(2026, 1, 3, tzinfo=UTC)),
        "c-2": (None, None),
        "c-9": (1, datetime(2026, 1, 1, 6, tzinfo=UTC)),  # the close itself brought it, and wins
    }
    events = [event["position_id"] for event in await told(sessions, book)]
    assert len(events) == len(set(events))


@pytest.mark.parametrize("first", ["close", "conviction"])
async def test_recorded_at_the_same_time_neither_sees_the_other(first: str, book: str, sessions: Sessions) -> None:
    async with sessions() as closing, sessions() as recording:

        async def close() -> None:
            await attribute(closing, [closed(book, conviction=BY_ID)], POLICY, NOW, "a test")

        async def come() -> None:
            await convictions.record(recording, [conviction(book)])

        for step in (close, come) if first == "close" else (come, close):
            await step()
        for session in (closing, recording) if first == "close" else (recording, closing):
            await session.commit()
    assert (await believed(sessions, book))["p-1"][0] == "unknown"
    await catch_up(sessions)
    assert await believed(sessions, book) == {"p-1": ("recorded", SCORES, "cycle-1")}
    assert (await outcomes(sessions, book))["c-1"][0] == 1
    assert len(await told(sessions, book)) == 1


async def test_completed_by_two_at_once_it_is_completed_once(book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(book, "p-1", conviction=BY_ID))
    await attributed(sessions, closed(book, "p-2", conviction=INLINE))
    async with sessions() as one:
        _, since = await store.late_convictions.next_look(one)
        assert await convictions.complete_closes(one, since)
        other = asyncio.create_task(_complete(sessions, since))
        await wait_until_it_blocks(sessions, await backend(one))
        await one.commit()
        await other
    assert len(await told(sessions, book)) == 1
    assert (await believed(sessions, book))["p-1"] == ("recorded", SCORES, "cycle-1")


async def _complete(sessions: Sessions, since: datetime) -> int | None:
    async with sessions.begin() as session:
        return await convictions.complete_closes(session, since)


async def test_a_look_begins_before_the_last_one(sessions: Sessions) -> None:
    await catch_up(sessions)
    async with sessions() as session:
        now, since = await store.late_convictions.next_look(session)
    assert timedelta(hours=1) <= now - since < timedelta(hours=2)


# What was learned since -----------------------------------------------------------------------------------------------


async def scores_known(session: AsyncSession, book: str, until: datetime) -> list[dict[str, float]]:
    return [c.domain_scores for c in await store.weights.closes_between(session, book, None, until, None)]


async def test_as_of_before_it_came_its_scores_were_not_known(book: str, sessions: Sessions) -> None:
    """What weight cycles correlate."""
    await attributed(sessions, closed(book, conviction=BY_ID))
    async with sessions() as session:
        before = datetime.now(UTC)
        await record(sessions, conviction(book))
        assert await scores_known(session, book, before) == [{}]
        assert await scores_known(session, book, datetime.now(UTC)) == [SCORES]


async def test_nothing_else_is_learned_twice(book: str, sessions: Sessions) -> None:
    """Learners read no conviction: what they took in with the close stays as it is, and karma too."""
    [position] = closes_with_context(book, 1)
    await learn(sessions, [position.model_copy(update={"conviction": closed(book, conviction=BY_ID).conviction})])
    before = await config(sessions, book)
    karma = await query(sessions, "SELECT * FROM producer_karma WHERE book_id = :b", b=book)
    assert (await record(sessions, conviction(book, symbol=position.symbol))).completed == 1
    assert await owed(sessions, book) == []
    assert await config(sessions, book) == before
    assert await query(sessions, "SELECT * FROM producer_karma WHERE book_id = :b", b=book) == karma


async def test_other_content_is_refused_also_after_the_conviction_came(book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(book, conviction=BY_ID))
    await record(sessions, conviction(book))
    [answer] = await attributing(sessions, closed(book, conviction=INLINE))
    assert "conviction" in refused(answer).reason
