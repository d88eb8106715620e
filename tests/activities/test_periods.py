"""What of weekly, monthly and daily work is due, by the record: whenever it is looked for, and once."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event
from temporalio.client import Client

from closeloop import store
from closeloop.activities.attribution import attribute
from closeloop.activities.periods import PeriodicActivities
from closeloop.models.periods import DueAnswer, DueQuestion, PeriodicStatus, PeriodicTask, WorkDone
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import ClosedPosition
from closeloop.models.weights import Cadence, CurrentCycle, CurrentCyclesRequest, CycleState, WeightsVerdict
from closeloop.services import periods
from tests.activities.attributing import accepted
from tests.activities.weighing import BALANCED, DAY, HOUR, Desk, close, desk_on, history
from tests.store.databases import query

NOW = datetime.now(UTC)
MONDAY = Cadence.weekly.begins(NOW)
FIRST = Cadence.monthly.begins(NOW)
BEFORE = FIRST - 20 * DAY
"""Before the week and the month that have begun: when the books here were created."""


@pytest.fixture
async def desk(dsn: str, client: Client, tmp_path: Any) -> Any:
    """A desk with books of its own only."""
    async with desk_on(dsn, client, tmp_path) as desk:
        yield desk


async def make(desk: Desk, *books: str, created: datetime = BEFORE, cadence: str = "weekly") -> None:
    async with desk.sessions.begin() as session:
        for book in books:
            await store.books.hold(session, book)
            await store.books.set_preset(session, book, "balanced", BALANCED, cadence)
    await query(
        desk.sessions, "UPDATE books SET created_at = :at WHERE book_id = ANY(:books)", at=created, books=list(books)
    )


async def learn(desk: Desk, rows: Sequence[ClosedPosition]) -> None:
    async with desk.sessions.begin() as session:
        for answer in await attribute(session, rows, LearningPolicy(), datetime.now(UTC), "a test"):
            accepted(answer)


async def due(desk: Desk, at: datetime = NOW, **changes: Any) -> list[CurrentCycle]:
    return await desk.cycles().books_due(CurrentCyclesRequest(as_of=at, **changes))


def week(book: str, at: datetime = NOW) -> str:
    return f"{book}/{Cadence.weekly.period(at)}"


async def begin(desk: Desk, cycle: CurrentCycle) -> Any:
    assert cycle.as_of is not None
    return await desk.open(cycle.book, cycle.as_of, workflow_id=f"weights/{cycle.cycle_id}")


# -- weight cycles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cadence", "at", "begins", "ends"),
    [
        ("weekly", "2026-11-25T10:02", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("weekly", "2026-11-23T00:00", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("weekly", "2027-01-01T23:59", "2026-12-28T00:00", "2027-01-04T00:00"),
        ("monthly", "2026-11-25T10:02", "2026-11-01T00:00", "2026-12-01T00:00"),
        ("monthly", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
    ],
)
def test_the_beginning_of_a_period_lies_in_it(cadence: str, at: str, begins: str, ends: str) -> None:
    at_, begins_, ends_ = (datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (at, begins, ends))
    kind = Cadence(cadence)
    assert (kind.begins(at_), kind.ends(at_)) == (begins_, ends_)
    assert kind.period(begins_) == kind.period(at_) != kind.period(ends_)


async def test_a_stack_that_was_off_at_midnight_decides_as_of_midnight(desk: Desk) -> None:
    """The cycle sees what a run on time would have seen: of two books that differ only since, it says the same."""
    on_time, late = "on-time", "late"
    await make(desk, on_time, late)
    for book in (on_time, late):
        await learn(desk, history(book, MONDAY))
    since = [MONDAY + (NOW - MONDAY) * i / 30 for i in range(1, 31)]
    flipped = [close(late, f"later-{i}", at, -5.0, {"onchain": 0.9, "social": 0.1}) for i, at in enumerate(since)]
    await learn(desk, flipped)
    found = await due(desk)
    assert [(one.cycle_id, one.as_of) for one in found] == [(week(late), MONDAY), (week(on_time), MONDAY)]
    cycles = {one.book: await begin(desk, one) for one in found}
    assert cycles[late].state == CycleState.proposed
    assert cycles[late].as_of == MONDAY
    assert (cycles[late].new, cycles[late].evidence) == (cycles[on_time].new, cycles[on_time].evidence)
    performance = [(await desk.view(one.cycle_id)).performance_n for one in cycles.values()]
    assert performance[0] == performance[1]
    assert await due(desk) == []


async def test_only_the_period_that_has_begun_is_due(desk: Desk) -> None:
    """Of a stack that was off for weeks: an old cycle would propose what is out of date."""
    await make(desk, "b", created=BEFORE - 60 * DAY)
    await desk.open("b", MONDAY - 28 * DAY)
    assert [one.cycle_id for one in await due(desk)] == [week("b")]


async def test_books_have_their_own_cadence(desk: Desk) -> None:
    await make(desk, "w")
    await make(desk, "m", cadence="monthly")
    found = {one.book: (one.cycle_id, one.as_of) for one in await due(desk)}
    assert found == {"w": (week("w"), MONDAY), "m": (f"m/{NOW:%Y-%m}", FIRST)}


async def test_a_cycle_that_somebody_ran_is_that_of_its_period(desk: Desk) -> None:
    """Also where the book's cadence was changed since: a cycle of the month's beginning would come after it."""
    await make(desk, "b")
    await desk.open("b", max(MONDAY, NOW - HOUR))
    assert await due(desk) == []
    await make(desk, "b", cadence="monthly")
    assert await due(desk) == []


async def test_a_new_book_is_left_alone_until_midnight_unless_somebody_asks(desk: Desk) -> None:
    created = NOW - timedelta(minutes=1)
    await make(desk, "new", created=created)
    midnight = created.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
    assert await due(desk, min(NOW, midnight - timedelta(seconds=1))) == []
    assert [one.as_of for one in await due(desk, NOW, by_hand=True)] == [NOW]
    if Cadence.weekly.begins(midnight) == MONDAY:
        assert [one.as_of for one in await due(desk, midnight + HOUR)] == [midnight]


async def test_a_backfill_speaks_as_of_its_own_time(desk: Desk) -> None:
    await make(desk, "b", created=NOW)
    at = NOW - 40 * DAY
    assert [(one.cycle_id, one.as_of) for one in await due(desk, at)] == [(week("b", at), at)]


async def test_a_cycle_that_cannot_begin_is_tried_each_hour(desk: Desk) -> None:
    await make(desk, "b")
    async with desk.sessions.begin() as session:
        await store.failures.failed(session, "weights", "b", "policy: floor and ceiling leave no weights")
    assert await due(desk) == []
    assert [one.cycle_id for one in await due(desk, by_hand=True)] == [week("b")]
    await query(desk.sessions, "UPDATE failing_work SET last_at = last_at - interval '61 minutes'")
    assert [one.cycle_id for one in await due(desk)] == [week("b")]


async def test_what_is_approved_late_is_in_force_from_then_on(desk: Desk) -> None:
    """Not from some hour after ``as_of``: positions that were opened meanwhile had the weights before."""
    await make(desk, "b")
    await learn(desk, history("b", MONDAY))
    [one] = await due(desk)
    cycle = await begin(desk, one)
    said = datetime.now(UTC)
    assert (await desk.decide(cycle, WeightsVerdict.approve, at=said)).accepted
    active = await desk.active("b")
    assert active is not None
    assert (active.source, active.since) == ("learned", said)


async def test_looking_all_day_costs_a_statement_each_time(desk: Desk) -> None:
    books = [f"b-{i:03}" for i in range(40)]
    await make(desk, *books)
    found = await due(desk)
    assert [one.book for one in found] == books
    for one in found:
        await begin(desk, one)
    statements: list[str] = []

    def count(*execution: Any) -> None:
        statements.append(execution[2])

    event.listen(desk.engine.sync_engine, "before_cursor_execute", count)
    try:
        for _ in range(96):
            assert await due(desk) == []
    finally:
        event.remove(desk.engine.sync_engine, "before_cursor_execute", count)
    assert len(statements) == 96
    assert not any(word in sql for sql in statements for word in ("INSERT", "UPDATE", "DELETE"))


async def test_when_work_was_done_last_and_is_due_next(desk: Desk) -> None:
    """As ``closeloop status`` tells it."""

    async def standing() -> dict[str, PeriodicStatus]:
        async with desk.sessions() as session:
            return {one.work: one for one in await periods.standing(session, NOW)}

    before = await standing()
    assert list(before) == ["weights", "corpus", "lessons", "retention"]
    assert {one.last_done_at for one in before.values()} == {None}
    assert (before["weights"].due, before["weights"].next_at) == (0, MONDAY + 7 * DAY)  # there is no book
    midnight = PeriodicTask.corpus.begins(NOW)
    assert (before["corpus"].due, before["corpus"].next_at) == (1, midnight)

    await make(desk, "a", "b")
    await begin(desk, (await due(desk))[0])
    await PeriodicActivities(desk.sessions).work_done(
        WorkDone(task=PeriodicTask.corpus, as_of=midnight, workflow_id="corpus/x")
    )
    after = await standing()
    assert (after["weights"].due, after["weights"].next_at, after["weights"].last_as_of) == (1, MONDAY, MONDAY)
    assert (after["corpus"].due, after["corpus"].next_at, after["corpus"].last_as_of) == (0, midnight + DAY, midnight)
    await begin(desk, (await due(desk))[0])
    assert ((await standing())["weights"].due, (await standing())["weights"].next_at) == (0, MONDAY + 7 * DAY)


# -- the corpus and lessons --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "at", "begins"),
    [
        (PeriodicTask.corpus, "2026-11-25T10:02", "2026-11-25T00:00"),
        (PeriodicTask.corpus, "2026-11-25T00:00", "2026-11-25T00:00"),
        (PeriodicTask.lessons, "2026-11-25T10:02", "2026-11-25T06:00"),
        (PeriodicTask.lessons, "2026-11-25T23:59", "2026-11-25T18:00"),
    ],
)
def test_work_speaks_as_of_the_beginning_of_its_period(task: PeriodicTask, at: str, begins: str) -> None:
    at_, begins_ = (datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (at, begins))
    assert task.begins(at_) == begins_


@pytest.mark.parametrize("task", list(PeriodicTask))
async def test_work_is_due_once_in_a_period(desk: Desk, task: PeriodicTask) -> None:
    work = PeriodicActivities(desk.sessions)
    begins = task.begins(NOW)

    async def look(at: datetime, by_hand: bool = False) -> DueAnswer:
        return await work.work_due(DueQuestion(task=task, at=at, by_hand=by_hand))

    async def done(as_of: datetime) -> None:
        await work.work_done(WorkDone(task=task, as_of=as_of, workflow_id=f"{task}/x"))

    assert await look(NOW) == DueAnswer(as_of=begins)
    await done(begins - 9 * task.length)
    assert (await look(NOW)).as_of == begins  # of nine periods that were missed, the last
    await done(begins)
    assert await look(begins + task.length - timedelta(minutes=13)) == DueAnswer(as_of=None, done=begins)
    assert (await look(NOW, by_hand=True)).as_of == NOW
    assert (await look(begins + task.length)).as_of == begins + task.length
    await done(begins - task.length)  # one that took long: what was done since stands
    assert (await look(begins)).as_of is None
    [row] = await query(desk.sessions, "SELECT as_of FROM periodic_work")
    assert row["as_of"] == begins
