"""Which work of the periods that have begun is due, and when it was done last: by the record."""

from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.periods import PeriodicStatus, PeriodicTask
from closeloop.models.weights import WEIGHTS, Cadence, CurrentCycle, CurrentCyclesRequest
from closeloop.store.weights import BookWithoutCycle

BOOKS_READ_AT_ONCE = 1_000
FAILED_CYCLE_AGAIN_AFTER = timedelta(hours=1)  # a cycle that could not be begun is tried again by the schedule
BACKFILLED_AFTER = timedelta(days=1)  # a run that was due so long ago is a schedule's backfill
DUE_COUNTED = 1_000


async def cycles_due(session: AsyncSession, request: CurrentCyclesRequest) -> list[CurrentCycle]:
    """The cycle of the period that each book is in, by its own cadence, where it lacks one; a page of them.

    A cycle speaks as of the beginning of its period, whenever it is looked for. Earlier periods are not made up: what
    they would propose is overtaken by what happened since.
    """
    due: list[CurrentCycle] = []
    after, now = request.after, datetime.now(UTC)
    failed_before = None if request.by_hand else now - FAILED_CYCLE_AGAIN_AFTER
    while books := await store.weights.without_cycle(session, request.as_of, after, BOOKS_READ_AT_ONCE, failed_before):
        after = books[-1].book
        for book in books:
            as_of = _as_of_due(book, request, now)
            if as_of is not None:
                name = f"{book.book}/{Cadence(book.cadence).period(as_of)}"
                due.append(CurrentCycle(book=book.book, cycle_id=name, as_of=as_of))
        if len(books) < BOOKS_READ_AT_ONCE or (request.limit is not None and len(due) >= request.limit):
            break
    return due[: request.limit]


def _as_of_due(book: BookWithoutCycle, request: CurrentCyclesRequest, now: datetime) -> datetime | None:
    """As of when a book's cycle of this period is due; None: not yet.

    Usually that is the beginning of the period. A book that was created later is looked at for the first time as of
    the next midnight, so that whoever sets it up or imports its past is left alone until then, or when somebody starts
    the run by hand. A run of long ago (a backfill) speaks as of its own time.
    """
    at = request.as_of
    if now - at > BACKFILLED_AFTER:
        return at
    begins = Cadence(book.cadence).begins(at)
    if book.created_at <= begins:
        return begins
    if request.by_hand:
        return at
    midnight = book.created_at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return midnight if midnight <= at else None


async def standing(session: AsyncSession, at: datetime) -> list[PeriodicStatus]:
    """When each kind of work was done last, and when it is due next."""
    newest = await store.weights.newest_cycle(session)
    due = await cycles_due(session, CurrentCyclesRequest(as_of=at, limit=DUE_COUNTED))
    cadences = await store.books.cadences(session) or [Cadence.weekly]
    weights = PeriodicStatus(
        work=WEIGHTS,
        last_as_of=newest[0] if newest else None,
        last_done_at=newest[1] if newest else None,
        next_at=min((one.as_of for one in due if one.as_of), default=min(cadence.ends(at) for cadence in cadences)),
        due=len(due),
    )
    return [weights, *[await _of(session, task, at) for task in PeriodicTask]]


async def _of(session: AsyncSession, task: PeriodicTask, at: datetime) -> PeriodicStatus:
    last, begins = await store.periods.last_done(session, task), task.begins(at)
    due = last is None or last.as_of < begins
    return PeriodicStatus(
        work=str(task),
        last_as_of=last.as_of if last else None,
        last_done_at=last.done_at if last else None,
        next_at=begins if due else begins + task.length,
        due=int(due),
    )
