"""What waits for an operator, whatever its subject: the part of the SQL that every subject's listing shares."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import TextClause, text


@dataclass(frozen=True)
class WaitingPage:
    """Which proposals that wait a listing asks for, in the order (deadline, ``kind/book/id``).

    ``book``: of this book only. ``last``: at most so many, those with the latest deadlines. ``before``: only those that
    come before this (deadline, ``kind/book/id``). None of any of them sets no limit.
    """

    book: str | None = None
    last: int | None = None
    before: tuple[datetime, str] | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of :func:`waiting_page`."""
        deadline, name = self.before or (None, None)
        return {"book": self.book, "last": self.last, "before_deadline": deadline, "before_name": name}


def waiting_page(pending: str, name: str) -> TextClause:
    """The statement of a page, soonest deadline first.

    ``pending`` selects everything of a subject that waits, with a ``book`` and a ``deadline``; ``name`` is the SQL of
    ``kind/book/id`` over its columns. Both are written by the caller, never data.
    """
    return text(
        f'SELECT * FROM (SELECT * FROM (SELECT p.*, ({name}) COLLATE "C" AS place FROM ({pending}) p) named '  # noqa: S608
        "WHERE (CAST(:book AS text) IS NULL OR book = :book) AND (CAST(:before_deadline AS timestamptz) IS NULL "
        'OR (deadline, place) < (CAST(:before_deadline AS timestamptz), CAST(:before_name AS text) COLLATE "C")) '
        "ORDER BY deadline DESC, place DESC LIMIT CAST(:last AS bigint)) page ORDER BY deadline, place"
    )
