"""Running an activity for one book after the other: a book that fails is reported, and the others have their turn."""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import contextmanager

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from closeloop.workflows.retries import LONGEST_TRANSACTION, ONE_BOOK

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.lessons import LessonActivities
    from closeloop.models.bounded import add_failure
    from closeloop.models.lessons import BooksPage

BOOKS_A_PAGE = 1_000


async def books_with_patterns(summary: str) -> AsyncIterator[str]:
    """Books that have actions to learn from, asked for page by page: all of them may be too large an answer."""
    by_the_page, after = workflow.patched("books-by-the-page"), None
    while True:
        found = await workflow.execute_activity_method(
            LessonActivities.books,
            *([BooksPage(after=after, limit=BOOKS_A_PAGE)] if by_the_page else []),
            start_to_close_timeout=LONGEST_TRANSACTION,
            retry_policy=ONE_BOOK,
            summary=summary,
        )
        for book in found.books:
            yield book
        if not by_the_page or len(found.books) < BOOKS_A_PAGE:
            return
        after = found.books[-1]


@contextmanager
def reporting(book: str, failed: dict[str, str], *, asked_for: bool, fatal: Collection[str] = ()) -> Iterator[None]:
    """Put the reason for which a book's activity failed into ``failed``, so that the next book has its turn.

    The failure is raised instead where the book was asked for by name, or where its type is in ``fatal``: that failure
    would meet every book. Where the run is cancelled, that is raised.
    """
    try:
        yield
    except ActivityError as error:
        if is_cancelled_exception(error):
            raise
        cause = error.cause
        if asked_for or (isinstance(cause, ApplicationError) and cause.type in fatal):
            raise cause or error from None  # the workflow fails with the typed error itself
        add_failure(failed, book, reason_of(error))


def reason_of(error: ActivityError) -> str:
    """The message of the error with which an activity failed."""
    cause = error.cause
    return cause.message if isinstance(cause, ApplicationError) else str(cause)


def sentences_of(failed: Mapping[str, str]) -> list[str]:
    """Book and reason of each failure, for the audit trail."""
    return [f"{book}: {reason}" for book, reason in failed.items()]
