"""Karma rebuilt from the attributions: in order, whole, and beside live closes."""

import asyncio
import itertools
import random
import uuid

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.activities.attribution import attribute
from closeloop.activities.karma import KarmaActivities
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import ClosedPosition, KarmaRebuildRequest
from closeloop.store.database import Sessions
from tests.activities.attributing import NOW, POLICY, attributed, karma_of_book
from tests.activities.test_concurrency import sequential
from tests.closes import closed, series
from tests.learning.plain_karma import karma_of
from tests.store.databases import (
    backend,
    query,
    scratch_database,
    sessions_on,
    wait_until_blocked,
    wait_until_it_blocks,
)
from tests.waiting import PATIENCE


async def rebuild(sessions: Sessions, book: str | None, policy: LearningPolicy = POLICY) -> dict[str, int]:
    activities = KarmaActivities(sessions, policy)
    report = await ActivityEnvironment().run(activities.rebuild_karma, KarmaRebuildRequest(book=book))
    return report.producers


async def test_rebuilt_karma_follows_the_closing_times(book: str, sessions: Sessions) -> None:
    positions = series(book, 60)
    shuffled = random.Random(3).sample(positions, len(positions))
    for i in range(0, len(shuffled), 7):
        await attributed(sessions, *shuffled[i : i + 7])
    live, expected = await karma_of_book(sessions, book), sequential(positions)
    assert {name: row[1:] for name, row in live.items()} == {name: row[1:] for name, row in expected.items()}
    assert live != expected, "out of order, the average is another one"
    assert await rebuild(sessions, book) == {book: 2}
    assert await karma_of_book(sessions, book) == expected
    await rebuild(sessions, book)
    assert await karma_of_book(sessions, book) == expected


async def test_a_book_that_cannot_be_rebuilt_holds_up_no_other(dsn: str) -> None:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as own:
        for name in ("a", "b", "c"):
            await attributed(own, *series(name, 3))
        await query(own, "ALTER TABLE producer_karma ADD CONSTRAINT b_is_broken CHECK (book_id <> 'b') NOT VALID")
        activities = KarmaActivities(own, POLICY)
        report = await ActivityEnvironment().run(activities.rebuild_karma, KarmaRebuildRequest())
        assert report.producers == {"a": 2, "c": 2}
        assert list(report.failed) == ["b"]
        assert "b_is_broken" in report.failed["b"]
        with pytest.raises(ApplicationError, match="b_is_broken"):
            await ActivityEnvironment().run(activities.rebuild_karma, KarmaRebuildRequest(book="b"))


async def test_ties_are_ordered_by_the_bytes_of_the_position_id(book: str, sessions: Sessions) -> None:
    """'Z' < 'a' < 'é' < '𝔘' by bytes; a dictionary's order would be another one."""
    pnl = {"a": "1", "Z": "-1", "é": "-1", "𝔘": "1", "10": "1", "9": "-1"}
    for name, money in pnl.items():
        await attributed(sessions, closed(book, name, realized_pnl=money))
    await rebuild(sessions, book)
    outcomes = [int(pnl[name]) for name in ("10", "9", "Z", "a", "é", "𝔘")]
    expected = karma_of(outcomes, POLICY.karma.start, POLICY.karma.alpha)
    assert await karma_of_book(sessions, book) == {"ta": (expected, 3, 3, 6)}


async def test_a_rebuild_uses_the_policy_and_drops_what_no_attribution_supports(book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(book, realized_pnl="-1"))
    await query(
        sessions,
        "INSERT INTO producer_karma (book_id, producer_id, karma, wins, losses, trades) "
        "VALUES (:b, 'ghost', 9, 9, 0, 9)",
        b=book,
    )
    await rebuild(sessions, book, LearningPolicy(karma_start=0.5, karma_alpha=0.5))
    assert await karma_of_book(sessions, book) == {"ta": (-0.25, 0, 1, 1)}


async def test_an_unknown_book_has_no_producers(book: str, sessions: Sessions) -> None:
    assert await rebuild(sessions, book) == {book: 0}


async def test_every_book_is_rebuilt_where_none_is_named(dsn: str) -> None:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        positions = {name: series(name, 12) for name in ("a", "b")}
        for of_book in positions.values():
            for position in reversed(of_book):
                await attributed(sessions, position)
        await attributed(sessions, closed("silent", signals=None))
        assert await rebuild(sessions, None) == {"a": 2, "b": 2, "silent": 0}
        for name, of_book in positions.items():
            assert await karma_of_book(sessions, name) == sequential(of_book)


async def test_a_rebuild_waits_for_the_close_under_way(book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(book, "p-0", realized_pnl="-1"))
    async with sessions() as live:
        pid = await backend(live)
        await attribute(live, [closed(book, "p-1", realized_pnl="-1")], POLICY, NOW, "live")
        rebuilding = asyncio.create_task(rebuild(sessions, book))
        await wait_until_it_blocks(sessions, pid)
        await live.commit()
        await rebuilding
    two_losses = karma_of([-1, -1], POLICY.karma.start, POLICY.karma.alpha)
    assert await karma_of_book(sessions, book) == {"ta": (two_losses, 0, 2, 2)}


async def test_a_close_waits_for_the_rebuild_under_way(book: str, sessions: Sessions) -> None:
    """The rebuild's transaction, held open: what it would overwrite must not be added before it is over."""
    await attributed(sessions, closed(book, "p-0", realized_pnl="-1"))
    async with sessions() as rebuilding, sessions() as live:
        pid = await backend(live)
        await store.karma.lock_book(rebuilding, book)
        closing = asyncio.create_task(attribute(live, [closed(book, "p-1", realized_pnl="-1")], POLICY, NOW, "live"))
        await wait_until_blocked(sessions, [pid])
        await store.karma.replace(rebuilding, book, {"ta": (0.5, 0, 1)})
        await rebuilding.commit()
        await closing
        await live.commit()
    assert await karma_of_book(sessions, book) == {"ta": (0.95 * 0.5 - 0.05, 0, 2, 2)}


async def test_rebuilds_racing_with_closes_lose_no_step(book: str, sessions: Sessions) -> None:
    positions = series(book, 2000)
    waiting = random.Random(5).sample(positions, len(positions))
    closed_ones: list[ClosedPosition] = []
    rebuilt = 0

    async def engine() -> None:
        while waiting and (rebuilt < 8 or len(closed_ones) < 100):
            position = waiting.pop()
            await attributed(sessions, position)
            closed_ones.append(position)
            await asyncio.sleep(0.005)

    engines = [asyncio.create_task(engine()) for _ in range(4)]
    while not all(task.done() for task in engines):
        await rebuild(sessions, book)
        rebuilt += 1
    await asyncio.gather(*engines)
    expected = sequential(closed_ones)
    found = await karma_of_book(sessions, book)
    assert {name: row[1:] for name, row in found.items()} == {name: row[1:] for name, row in expected.items()}
    await rebuild(sessions, book)
    assert await karma_of_book(sessions, book) == expected


async def test_a_rebuild_gets_its_turn_while_closes_keep_coming(book: str, sessions: Sessions) -> None:
    """Closes that overlap without a gap hold the book's shared lock all the time: the rebuild must not starve."""
    numbers = itertools.count()
    busy, over = asyncio.Event(), asyncio.Event()

    async def engine() -> None:
        while not over.is_set():
            number = next(numbers)
            await attributed(sessions, closed(book, f"p-{number}", conviction=None))
            if number >= 24:
                busy.set()

    engines = [asyncio.create_task(engine()) for _ in range(8)]
    try:
        async with asyncio.timeout(PATIENCE):
            await busy.wait()
            assert await rebuild(sessions, book) == {book: 1}
    finally:
        over.set()
        await asyncio.gather(*engines)


async def test_rebuilds_of_one_book_at_once_take_turns(book: str, sessions: Sessions) -> None:
    positions = series(book, 20)
    await attributed(sessions, *positions)
    await asyncio.gather(*(rebuild(sessions, book) for _ in range(6)))
    assert await karma_of_book(sessions, book) == sequential(positions)


async def test_a_rebuild_holds_up_no_other_book(book: str, sessions: Sessions) -> None:
    other = f"{book}-{uuid.uuid4().hex[:4]}"
    await attributed(sessions, closed(book), closed(other, "p-0"))
    async with sessions() as rebuilding:
        await store.karma.lock_book(rebuilding, book)
        async with asyncio.timeout(PATIENCE):
            await attributed(sessions, closed(other))
    assert (await karma_of_book(sessions, other))["ta"][3] == 2
