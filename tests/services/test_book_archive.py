"""A removed book learns no more and refuses what it is sent; what it has stays, and it can be brought back."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError

from closeloop import store
from closeloop.models.approvals import ApprovalState
from closeloop.models.books import BookChanged
from closeloop.models.convictions import RecordedConviction
from closeloop.models.errors import BookArchived, NotOnRecord
from closeloop.models.forecasts import Forecast
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.overrides import OverrideStatus
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import BOOK_ARCHIVED, AttributedClose
from closeloop.models.weights import CurrentCyclesRequest, CycleState, WeightsVerdict
from closeloop.services import approvals, book_archive, books, convictions, forecasts, meta
from closeloop.services.override_decisions import OverrideProposal
from closeloop.services.recorded_closes import RefusedClose
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.wiring import SUBJECTS
from tests.activities.attributing import attributed, attributing, engine_writes, tally
from tests.activities.overriding import matched, materialize, mined, overrides
from tests.activities.weighing import AS_OF, BALANCED, DAY, Desk, desk_on, history, learn_from
from tests.closes import closed, message
from tests.store.databases import backend, query, wait_until_it_blocks
from tests.workers.namespaces import own_namespace

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
async def desk(dsn: str, client: Client, tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk with a namespace of its own: its worker must not serve the session's workflows."""
    own = await own_namespace(client)
    await register_search_attributes(own)
    async with desk_on(dsn, own, tmp_path) as desk:
        yield desk


async def remove(desk: Desk, book: str, by: str = "ann") -> BookChanged:
    return await book_archive.remove(desk.client, desk.sessions, SUBJECTS, book, by, "a trial")


async def restore(desk: Desk, book: str) -> BookChanged:
    return await book_archive.restore(desk.sessions, book, "bob")


def forecast(book: str, name: str = "f-1") -> Forecast:
    return Forecast(
        forecast_id=name,
        book=book,
        producer_id="p",
        asset="BTC/USDT",
        horizon="1h",
        action="long",
        confidence=0.6,
        issued_at=NOW - timedelta(days=1),
    )


async def test_it_refuses_what_it_is_sent_and_keeps_what_it_has(desk: Desk, book: str) -> None:
    await attributed(desk.sessions, closed(book, "before"))
    changed = await remove(desk, book)
    assert (changed.book.archived_by, changed.withdrawn, changed.overrides) == ("ann", [], 0)
    assert "was removed already, by ann" in (await remove(desk, book, "bob")).sentence
    before = await tally(desk.sessions, book)
    new, known, other = await attributing(
        desk.sessions, closed(book, "after"), closed(book, "before"), closed(f"{book}-2", "after")
    )
    assert isinstance(new, RefusedClose)
    assert new.kind == BOOK_ARCHIVED
    assert f"'closeloop books restore {book} --by NAME' brings it back" in new.reason
    assert isinstance(known, AttributedClose)
    assert known.already_attributed, "an attempt that is repeated after the removal is answered as before"
    assert isinstance(other, AttributedClose)
    assert await tally(desk.sessions, book) == before

    async with desk.sessions() as session:
        added = await forecasts.add(session, [(0, forecast(book)), (1, forecast(f"{book}-2"))], NOW)
        assert (added.added, [one.index for one in added.rejected]) == (1, [0])
        assert "was removed by ann" in added.rejected[0].reason
    async with desk.sessions.begin() as session:
        with pytest.raises(BookArchived):
            await forecasts.record(session, forecast(book), NOW)
    said = RecordedConviction(book=book, conviction_id="c", cycle_id="y", symbol="X", domain_scores={"onchain": 1})
    async with desk.sessions.begin() as session:
        with pytest.raises(BookArchived):
            await convictions.record(session, [said])
    async with desk.sessions.begin() as session:
        with pytest.raises(BookArchived):
            await books.set_up(session, LearningPolicy(), book, None, None)
    with pytest.raises(BookArchived):
        await meta.propose(desk.client, desk.sessions, LearningPolicy(), book, NOW)
    with pytest.raises(ApplicationError, match="was removed by ann"):
        await desk.open(book)
    with pytest.raises(NotOnRecord):
        await remove(desk, "nosuch")

    assert (await restore(desk, book)).book.archived_at is None
    [again] = await attributed(desk.sessions, closed(book, "after"))
    assert not again.already_attributed
    kinds = "SELECT type, payload FROM events WHERE type LIKE 'learning.book.%' ORDER BY id"
    removed, back = await query(desk.sessions, kinds)
    assert (removed["type"], removed["payload"]["operator"]) == ("learning.book.archived.v1", "ann")
    assert (back["type"], back["payload"]["operator"]) == ("learning.book.restored.v1", "bob")
    assert back["payload"]["removed_by"] == "ann"


async def test_nobody_works_for_it(desk: Desk, book: str) -> None:
    other = f"{book}-2"
    await learn_from(desk, history(book))
    await learn_from(desk, history(other))
    await engine_writes(
        desk.sessions, book, "left", closed_at="2026-01-02", entry_price="1", exit_price="2", size="1", realized_pnl="1"
    )
    async with desk.sessions() as session:
        for name in (book, other):
            await forecasts.add(session, [(0, forecast(name))], NOW)

    async def due() -> set[str]:
        """Books that something would be done for."""
        found = {one.book for one in await desk.cycles().books_due(CurrentCyclesRequest(as_of=AS_OF))}
        async with desk.sessions() as session:
            found |= {row.key.book for row in (await store.positions.unattributed(session, None, 10)).rows}
            found |= {f.book for f in await store.resolution.due_with_prices(session, NOW, DAY, None, 10)}
            found |= set(await store.books.learning(session))
            found |= set(await store.research.books_due(session, NOW, 10))
            found |= set(await store.meta.books(session, NOW, 3 * DAY))
            found |= set(await store.performance.books_with_outcomes(session))
            found |= set(await store.patterns.books(session))
            assert (await store.positions.oldest_unattributed(session) is None) == (book not in found)
        return found

    assert await due() == {book, other}
    await remove(desk, book)
    assert await due() == {other}
    await restore(desk, book)
    assert await due() == {book, other}


async def test_nothing_that_it_had_learned_stays_in_force(desk: Desk, book: str) -> None:
    await learn_from(desk, history(book))
    cycle = await desk.open(book)
    assert (await desk.decide(cycle, WeightsVerdict.approve)).accepted
    await desk.look()
    file = desk.overlays()._overlays.path(book)
    assert file.exists()
    small, large = {"chain": "solana"}, {"chain": "base"}
    await mined(desk.sessions, book, {"scope": small, "effect": 0.05}, {"scope": large, "effect": 3.0})
    async with desk.worker(TASK_QUEUE):
        await materialize(desk.sessions, desk.client, book)
        async with desk.sessions() as session:
            [waiting] = await approvals.waiting(session, SUBJECTS, book=book)
        assert (await matched(desk.sessions, book, small)).size_multiplier != 1
        changed = await remove(desk, book)
        assert changed.preset_restored
        assert (changed.withdrawn, changed.overrides) == ([waiting.workflow_id], 1)
        handle = desk.client.get_workflow_handle(waiting.workflow_id)
        assert await handle.result() == ApprovalState.withdrawn, "it was told, and waits no longer"
    assert await desk.weights(book) == BALANCED
    assert (await desk.view(cycle.cycle_id)).state == CycleState.reverted
    assert (await desk.look()).repaired == [book]
    assert not file.exists()
    async with desk.sessions() as session:
        assert await store.overrides.books(session) == []
    assert {one.status for one in await overrides(desk.sessions, book)} == {OverrideStatus.ended}
    async with desk.sessions.begin() as session:
        found = await approvals.find(session, OverrideProposal(), waiting)
    assert (found.state, found.outcome) == (ApprovalState.withdrawn, "withdrawn: the book was removed")
    with pytest.raises(ApplicationError, match="was removed by ann"):
        await materialize(desk.sessions, desk.client, book)
    await restore(desk, book)
    assert await desk.weights(book) == BALANCED
    assert (await materialize(desk.sessions, desk.client, book, datetime.now(UTC))).active >= 0


async def test_a_proposal_of_weights_is_withdrawn(desk: Desk, book: str) -> None:
    await learn_from(desk, history(book))
    cycle = await desk.open(book)
    assert cycle.state == CycleState.proposed
    assert (await remove(desk, book)).withdrawn == [f"weights/{cycle.cycle_id}"]
    answer = await desk.decide(cycle, WeightsVerdict.approve)
    assert (answer.accepted, answer.state) == (False, ApprovalState.withdrawn)
    assert "the book was removed" in answer.reason
    assert await desk.active(book) is None
    assert "expired" in await desk.kinds(book)


async def test_a_close_in_flight_is_attributed_before_or_refused_after(desk: Desk, book: str) -> None:
    """Whichever holds the book first; the other waits for it."""
    await attributed(desk.sessions, closed(book, "first"))
    async with desk.sessions() as closing:
        await store.books.archived(closing, [book])
        pid = await backend(closing)
        removing = asyncio.create_task(remove(desk, book))
        await wait_until_it_blocks(desk.sessions, pid)
        await closing.execute(text("SELECT 1"))
        assert not removing.done()
        await closing.commit()
        await removing
    await restore(desk, book)
    async with desk.sessions() as archiving:
        await store.books.hold_alone(archiving, book)
        pid = await backend(archiving)
        attribution = asyncio.create_task(attributing(desk.sessions, closed(book, "second")))
        await wait_until_it_blocks(desk.sessions, pid)
        await store.books.set_archived(archiving, book, NOW, "ann")
        await archiving.commit()
        [answer] = await attribution
    assert isinstance(answer, RefusedClose)
    assert (await tally(desk.sessions, book)).attributions == 1


async def test_closes_beside_a_removal_are_attributed_once_or_not_at_all(desk: Desk, book: str) -> None:
    await attributed(desk.sessions, closed(book, "p-000"))
    names = [f"p-{n:03}" for n in range(1, 60)]

    async def close(name: str) -> bool:
        [answer] = await attributing(desk.sessions, closed(book, name))
        return isinstance(answer, AttributedClose)

    async def close_all() -> list[bool]:
        return list(await asyncio.gather(*(close(name) for name in names)))

    taken, _ = await asyncio.gather(close_all(), remove(desk, book))
    counts = await tally(desk.sessions, book)
    assert counts.positions == counts.attributions == counts.attribution_events == 1 + sum(taken)
    await restore(desk, book)
    assert all(await close_all())
    counts = await tally(desk.sessions, book)
    assert counts.positions == counts.attributions == counts.attribution_events == 1 + len(names)


@pytest.mark.usefixtures("worker")
async def test_a_workflow_of_a_close_fails_with_a_type(
    book: str, client: Client, sessions: "store.database.Sessions"
) -> None:
    await attributed(sessions, closed(book, "before"))
    await book_archive.remove(client, sessions, SUBJECTS, book, "ann")
    for workflow, argument in (
        ("PositionCloseWorkflow", message(book, "after")),
        ("HeartbeatWorkflow", {"book": book, "producer_id": "p", "successes": 1}),
        ("ForecastWorkflow", forecast(book).model_dump(mode="json")),
        (
            "ConvictionWorkflow",
            {"book": book, "conviction_id": "c", "cycle_id": "y", "symbol": "X", "domain_scores": {"onchain": 1}},
        ),
    ):
        with pytest.raises(WorkflowFailureError) as failed:
            await client.execute_workflow(
                workflow, argument, id=f"removed/{workflow}/{uuid.uuid4().hex}", task_queue=TASK_QUEUE
            )
        cause = failed.value.cause
        cause = cause.cause if isinstance(cause, ActivityError) else cause
        assert isinstance(cause, ApplicationError)
        assert cause.type == BOOK_ARCHIVED
