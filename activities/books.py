"""Doing work for one book after the other: a book that fails is reported, and the others have their turn."""

from collections.abc import Awaitable, Callable, Iterable

from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities.transactions import DATABASE_AWAY, transaction
from closeloop.models.events import EventType
from closeloop.store.database import Sessions


async def each_book(
    sessions: Sessions, task: str, books: Iterable[str], work: Callable[[str], Awaitable[None]]
) -> dict[str, str]:
    """Do ``work`` for one book after the other; returns why each book that failed did, by book.

    A failure is also appended as an event; ``task`` names the work in it, such as ``performance``. Where the database
    did not answer, the book is not at fault: once every book has had its turn, that error is raised, and Temporal
    retries the activity. ``work`` must therefore be harmless to repeat.
    """
    failed: dict[str, str] = {}
    passing: ApplicationError | None = None
    for book in books:
        try:
            await work(book)
        except ApplicationError as error:
            if error.type == DATABASE_AWAY:
                passing = error
                continue
            failed[book] = error.message
        except Exception as error:  # whatever is wrong with one book, the others are due
            failed[book] = f"{type(error).__name__}: {error}"[:300]
        if book in failed:
            activity.logger.exception("%s of book %s failed", task, book)
            await tell_failed(sessions, task, book, failed[book])
        activity.heartbeat(book)
    if passing is not None:
        raise passing
    return failed


async def tell_failed(sessions: Sessions, task: str, book: str, reason: str) -> None:
    """Append the event of a book whose work failed, once for a workflow run, however often its activity is retried."""
    about = f"{task}/{book}/{activity.info().workflow_run_id}"
    async with transaction(sessions) as session:
        payload = {"book": book, "task": task, "reason": reason}
        await store.events.append(session, (EventType.book_failed, about, payload))
