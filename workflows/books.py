"""Going over books in a workflow, an activity each: a book that fails is reported and holds up none of the others."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception


@contextmanager
def reporting(book: str, failed: dict[str, str], *, asked_for: bool, fatal: Collection[str] = ()) -> Iterator[None]:
    """Put what a book's activity failed for into ``failed``, so that the next book has its turn.

    Raised instead: the failure of a book that was asked for by name, and one of a type in ``fatal``, which would meet
    every book. A cancelled run ends, and reports no book.
    """
    try:
        yield
    except ActivityError as error:
        if is_cancelled_exception(error):
            raise
        cause = error.cause
        if asked_for or (isinstance(cause, ApplicationError) and cause.type in fatal):
            raise cause or error from None  # the workflow fails with the typed error itself
        failed[book] = reason_of(error)


def reason_of(error: ActivityError) -> str:
    """What an activity failed for."""
    cause = error.cause
    return cause.message if isinstance(cause, ApplicationError) else str(cause)


def sentences_of(failed: Mapping[str, str]) -> list[str]:
    """For the audit trail, a sentence a book."""
    return [f"{book}: {reason}" for book, reason in failed.items()]
