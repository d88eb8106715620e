"""Doing work for one book after the other: a book that fails is reported, and the others have their turn."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities.transactions import DATABASE_AWAY, transaction
from closeloop.models.bounded import add_failure
from closeloop.models.errors import BookArchived, NotOnRecord
from closeloop.models.events import EventType
from closeloop.models.positions import BOOK_ARCHIVED
from closeloop.services import books
from closeloop.store.database import Sessions


async def each_book(
    sessions: Sessions, task: str, names: Iterable[str], work: Callable[[str], Awaitable[None]]
) -> dict[str, str]:
    """Do ``work`` for one book after the other; returns why each book that failed did, by book.

    A failure is also appended as an event; ``task`` names the work in it, such as ``performance``. Where the database
    did not answer, the book is not at fault: once every book has had its turn, that error is raised, and Temporal
    retries the activity. ``work`` must therefore be harmless to repeat. At most 100 failures are named.
    """
    failed: dict[str, str] = {}
    passing: ApplicationError | None = None
    for book in names:
        try:
            await work(book)
            await succeeded(sessions, task, book)
        except ApplicationError as error:
            if error.type == DATABASE_AWAY:
                passing = error
                continue
            if error.type == BOOK_ARCHIVED:
                continue  # it was removed meanwhile
            reason = error.message
        except Exception as error:  # whatever is wrong with one book, the others are due
            reason = f"{type(error).__name__}: {error}"[:300]
        else:
            activity.heartbeat(book)
            continue
        activity.logger.error("%s of book %s failed: %s", task, book, reason)
        add_failure(failed, book, reason)
        await tell_failed(sessions, task, book, reason)
        activity.heartbeat(book)
    if passing is not None:
        raise passing
    return failed


@asynccontextmanager
async def on_record(sessions: Sessions, task: str, subject: str, *, refusal: str | None = None) -> AsyncIterator[None]:
    """Put on record whether work for one book or proposal fails, for ``closeloop status``; the error goes on.

    ``refusal``: the type of error that is no failure of the work but what was asked for by mistake.
    """
    try:
        yield
    except ApplicationError as error:
        if error.type not in (DATABASE_AWAY, refusal):
            await _failing(sessions, task, subject, error.message)
        raise
    except Exception as error:
        await _failing(sessions, task, subject, f"{type(error).__name__}: {error}")
        raise
    await succeeded(sessions, task, subject)


async def known_book(session: AsyncSession, name: str, refused: str) -> None:
    """Raise an error of the type ``refused``, not to be retried, where there is no such book, or it was removed.

    Nothing creates one. The book's row stays as it is until the transaction ends.
    """
    try:
        await books.find(session, name)
        await books.refuse_archived(session, name)
    except (NotOnRecord, BookArchived) as error:
        raise ApplicationError(str(error), type=refused, non_retryable=True) from None


async def check_open(session: AsyncSession, name: str) -> None:
    """For what a book takes in, in the caller's transaction: raise an error, not to be retried, if it was removed."""
    try:
        await books.refuse_archived(session, name)
    except BookArchived as error:
        raise ApplicationError(str(error), type=BOOK_ARCHIVED, non_retryable=True) from None


async def _failing(sessions: Sessions, task: str, subject: str, reason: str) -> None:
    async with transaction(sessions) as session:
        await store.failures.failed(session, task, subject, reason[:300])


async def succeeded(sessions: Sessions, task: str, subject: str) -> None:
    """The last attempt at a task did not fail for this subject."""
    async with transaction(sessions) as session:
        await store.failures.succeeded(session, task, subject)


async def tell_failed(sessions: Sessions, task: str, book: str, reason: str) -> None:
    """Append the event of a book whose work failed, once for a workflow run, however often its activity is retried."""
    about = f"{task}/{book}/{activity.info().workflow_run_id}"
    async with transaction(sessions) as session:
        payload = {"book": book, "task": task, "reason": reason}
        await store.failures.failed(session, task, book, reason)
        await store.events.append(session, (EventType.book_failed, about, payload))
