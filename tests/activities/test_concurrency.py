"""Many at once, on real connections: everything is counted once, and nobody waits for another in a circle."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from decimal import Decimal

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.activities.attribution import attribute, attribute_and_learn
from closeloop.activities.patterns import PatternEvents
from closeloop.models.convictions import RecordedConviction
from closeloop.models.events import EventType
from closeloop.models.positions import AttributedClose, ClosedPosition, LearnReport
from closeloop.services.recorded_closes import RefusedClose
from closeloop.store.database import Sessions
from tests.activities.attributing import (
    NOW,
    POLICY,
    Tally,
    accepted,
    attributed,
    attributing,
    engine_writes,
    karma_of_book,
    position_row,
    refused,
    tally,
)
from tests.closes import closed, series
from tests.learning.plain_karma import karma_of
from tests.store.databases import backend, query, wait_until_blocked

Answers = list[AttributedClose | RefusedClose]


async def overlapping(sessions: Sessions, one: ClosedPosition, other: ClosedPosition, commit: bool) -> Answers:
    """Attribute ``one``, begin to attribute ``other`` meanwhile, then end the first transaction; both answers."""
    await meet(sessions, one.book)  # or the second would wait for the book already, and for nothing else
    async with sessions() as first, sessions() as second:
        pid = await backend(second)
        [answer] = await attribute(first, [one], POLICY, NOW, "the first")
        waiting = asyncio.create_task(attribute(second, [other], POLICY, NOW, "the second"))
        await wait_until_blocked(sessions, [pid])
        await (first.commit() if commit else first.rollback())
        [second_answer] = await waiting
        await second.commit()
        return [answer, second_answer]


async def test_two_identical_transactions_at_once_attribute_once(book: str, sessions: Sessions) -> None:
    first, second = await overlapping(sessions, closed(book), closed(book), commit=True)
    assert not accepted(first).already_attributed
    assert accepted(second).already_attributed
    assert accepted(second).outcome == accepted(first).outcome
    assert await karma_of_book(sessions, book) == {"ta": (1.0, 1, 0, 1)}
    assert await tally(sessions, book) == Tally(1, 1, 1, 1, convictions=1)


async def test_the_second_attributes_where_the_first_is_rolled_back(book: str, sessions: Sessions) -> None:
    _, second = await overlapping(sessions, closed(book, realized_pnl="3"), closed(book), commit=False)
    assert not accepted(second).already_attributed
    assert accepted(second).outcome.realized_pnl == 10
    assert await karma_of_book(sessions, book) == {"ta": (1.0, 1, 0, 1)}
    assert await tally(sessions, book) == Tally(1, 1, 1, 1, convictions=1)


async def test_other_content_at_the_same_time_is_refused(book: str, sessions: Sessions) -> None:
    first, second = await overlapping(sessions, closed(book), closed(book, realized_pnl="3"), commit=True)
    accepted(first)
    assert refused(second).reason.endswith("differing: realized_pnl")
    assert (await position_row(sessions, book))["realized_pnl"] == 10
    assert await tally(sessions, book) == Tally(1, 1, 1, 1, convictions=1)


async def test_two_closes_of_a_new_producer_at_once_both_count(book: str, sessions: Sessions) -> None:
    one, other = closed(book, "p-1", realized_pnl="-1"), closed(book, "p-2", realized_pnl="-1")
    first, second = await overlapping(sessions, one, other, commit=True)
    assert accepted(second).karma[0].before == accepted(first).karma[0].after
    two_losses = karma_of([-1, -1], POLICY.karma.start, POLICY.karma.alpha)
    assert await karma_of_book(sessions, book) == {"ta": (two_losses, 0, 2, 2)}


async def test_an_open_row_is_completed_once_by_two_closes_at_once(book: str, sessions: Sessions) -> None:
    await engine_writes(sessions, book)
    first, second = await overlapping(sessions, closed(book), closed(book), commit=True)
    assert not accepted(first).already_attributed
    assert accepted(second).already_attributed
    assert await tally(sessions, book) == Tally(1, 1, 1, 1, convictions=1)


async def test_twenty_identical_transactions_of_a_new_book_attribute_once(book: str, sessions: Sessions) -> None:
    answers = await asyncio.gather(*(attributed(sessions, closed(book)) for _ in range(20)))
    assert sorted(answer.already_attributed for [answer] in answers) == [False] + [True] * 19
    assert await karma_of_book(sessions, book) == {"ta": (1.0, 1, 0, 1)}
    assert await tally(sessions, book) == Tally(1, 1, 1, 1, convictions=1)


async def test_karma_of_closes_in_order_is_the_sequential_average(book: str, sessions: Sessions) -> None:
    positions = series(book, 30)
    for position in positions:
        await attributed(sessions, position)
    assert await karma_of_book(sessions, book) == sequential(positions)


async def test_karma_of_one_batch_is_the_sequential_average_whatever_its_order(book: str, sessions: Sessions) -> None:
    positions = series(book, 200)
    shuffled = random.Random(1).sample(positions, len(positions))
    await attributed(sessions, *shuffled)
    assert await karma_of_book(sessions, book) == sequential(positions)


@pytest.mark.parametrize("seed", [1, 2])
async def test_overlapping_batches_in_different_orders_end_exact(seed: int, book: str, sessions: Sessions) -> None:
    """Shared positions, producers, convictions and books; each position lies in about three of the batches."""
    chance = random.Random(seed)
    books = [f"{book}-a", f"{book}-b"]
    for name in books:
        await meet(sessions, name)
    positions = [
        position.model_copy(
            update={"conviction": closed(name, f"shared-{i % 7}", realized_pnl=position.realized_pnl).conviction}
        )
        for name in books
        for i, position in enumerate(series(name, 60))
    ]
    batches = []
    for _ in range(3):
        order = chance.sample(positions, len(positions))
        batches += [order[i : i + 12] for i in range(0, len(order), 12)]
    answers = await asyncio.gather(*(attributed(sessions, *batch) for batch in batches))
    flat = [answer for batch in answers for answer in batch]
    assert sum(not answer.already_attributed for answer in flat) == len(positions)
    for name in books:
        of_book = [p for p in positions if p.book == name]
        assert await tally(sessions, name) == Tally(60, 60, 60, 60, convictions=7)
        expected = {name: counts[1:] for name, counts in sequential(of_book).items()}
        assert {name: counts[1:] for name, counts in (await karma_of_book(sessions, name)).items()} == expected
        [row] = await query(sessions, "SELECT sum(realized_pnl) AS s FROM attributions WHERE book_id = :b", b=name)
        assert row["s"] == sum((p.realized_pnl for p in of_book), Decimal(0))


async def test_batches_that_share_convictions_in_different_roles_do_not_deadlock(book: str, sessions: Sessions) -> None:
    """One batch brings conviction a and names b; the other one brings b and names a.

    A third transaction holds both of them up where each has locked its first conviction, so that the circle, if there
    is one, is closed every time.
    """
    scores = {"onchain": 0.5}
    recorded = [
        RecordedConviction(book=book, conviction_id=name, cycle_id=name, symbol="BTC/USDT", domain_scores=scores)
        for name in ("a", "b")
    ]

    def batch(prefix: str, brings: str, names: str) -> list[ClosedPosition]:
        log = {"cycle_id": f"held-{brings}", "domain_scores": scores}
        return [
            closed(book, f"{prefix}-1", conviction={"conviction_id": brings} | log),
            closed(book, f"{prefix}-2", conviction={"conviction_id": names}),
        ]

    held = [c.model_copy(update={"cycle_id": f"held-{c.conviction_id}", "conviction_id": "held"}) for c in recorded]
    await meet(sessions, book)
    async with sessions.begin() as session:
        await store.convictions.record_ahead(session, recorded)
    async with sessions() as third, sessions() as one, sessions() as other:
        await store.convictions.record_ahead(third, held)
        backends = [await backend(one), await backend(other)]
        running = [
            asyncio.create_task(attribute(one, batch("p", "a", "b"), POLICY, NOW, "one")),
            asyncio.create_task(attribute(other, batch("q", "b", "a"), POLICY, NOW, "other")),
        ]
        await wait_until_blocked(sessions, backends)
        await third.rollback()

        ends = await asyncio.gather(
            *(to_the_end(session, task) for session, task in zip((one, other), running, strict=True)),
            return_exceptions=True,
        )
    assert [error for error in ends if isinstance(error, BaseException)] == []
    assert (await tally(sessions, book)).attributions == 4


async def test_refused_and_accepted_closes_of_one_position_never_mix(book: str, sessions: Sessions) -> None:
    """Ten versions of one position at once: one of them is attributed, whole."""
    versions = [closed(book, realized_pnl=str(i), risk=str(i + 1), regime_at_entry=f"r-{i}") for i in range(10)]
    answers = [answer for [answer] in await asyncio.gather(*(attributing(sessions, v) for v in versions))]
    [won] = [i for i, answer in enumerate(answers) if isinstance(answer, AttributedClose)]
    row = await position_row(sessions, book)
    assert (row["realized_pnl"], row["risk"], row["regime_at_entry"]) == (won, won + 1, f"r-{won}")
    reasons = Counter(refused(answer).reason.split("differing: ")[1] for i, answer in enumerate(answers) if i != won)
    assert reasons == {"realized_pnl, risk, regime_at_entry": 9}
    assert await tally(sessions, book) == Tally(1, 1, 1, 1, convictions=1)


async def to_the_end(session: AsyncSession, attribution: Awaitable[Answers]) -> None:
    await attribution
    await session.commit()


async def meet(sessions: Sessions, book: str) -> None:
    await query(sessions, "INSERT INTO books (book_id) VALUES (:book)", book=book)


def sequential(positions: list[ClosedPosition]) -> dict[str, tuple[float, int, int, int]]:
    """Karma by producer as the definition has it: each producer's outcomes by (closed_at, position_id)."""
    outcomes: dict[str, list[int]] = {}
    for position in sorted(positions, key=lambda p: (p.closed_at, p.position_id.encode())):
        for producer in position.producers:
            outcomes.setdefault(producer, []).append(1 if position.realized_pnl > 0 else -1)
    return {
        producer: (karma_of(ys, POLICY.karma.start, POLICY.karma.alpha), ys.count(1), ys.count(-1), len(ys))
        for producer, ys in outcomes.items()
    }


async def test_learners_that_tell_of_the_same_dimensions_do_not_wait_in_a_circle(book: str, sessions: Sessions) -> None:
    """Two transactions whose closes have the same new dimensions, in another order; a third one holds up both."""

    def closes(name: str, dimensions: str) -> list[ClosedPosition]:
        of_all = {"timeframe": "1h", "actions": [{"pattern_key": "p", "action_category": "entry"}]}
        return [
            closed(
                book,
                f"{name}-{i}",
                signals=[],
                conviction=None,
                entry_context={"scope": {dimension: "x"}} | of_all,
            )
            for i, dimension in enumerate(dimensions)
        ]

    async def learning(session: AsyncSession, positions: list[ClosedPosition]) -> LearnReport:
        _, report = await attribute_and_learn(session, positions, POLICY, NOW, "a test", [PatternEvents(POLICY)])
        await session.commit()
        return report

    await meet(sessions, book)
    async with sessions() as holding, sessions() as first, sessions() as second:
        pids = [await backend(first), await backend(second)]
        about = f"{book}/m"
        await store.events.append(holding, (EventType.scope_dimension_unknown, about, {"book": book}))
        both = asyncio.gather(learning(first, closes("a", "zmb")), learning(second, closes("c", "bmz")))
        await wait_until_blocked(sessions, pids)
        await holding.rollback()
        assert await both == [LearnReport(learned=["pattern-events"])] * 2
