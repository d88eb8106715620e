"""Runs: which backtest or bot the positions of a book come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.runs import BookRun, RunKind
from closeloop.store.rows import execute, insertion


@dataclass(frozen=True)
class Run:
    """What an import said of the run that made its trades; ``content`` is the digest of what was imported."""

    kind: RunKind
    run_id: str | None
    begins: datetime
    ends: datetime
    currency: str | None
    source: str
    content: str


@dataclass(frozen=True)
class Span:
    """The attributed positions of a book: how many, the first ``opened_at``, the last ``closed_at``."""

    positions: int
    begins: datetime
    ends: datetime


async def record(session: AsyncSession, import_id: str, book: str, run: Run) -> None:
    """Store what an import says of its run."""
    row = {
        "book_id": book,
        "import_id": import_id,
        "kind": run.kind,
        "run_id": run.run_id,
        "begins": run.begins,
        "ends": run.ends,
        "currency": run.currency,
        "source": run.source,
        "content": run.content,
    }
    await execute(session, insertion(BookRun, [row]))


async def of_book(session: AsyncSession, book: str) -> Sequence[Run]:
    """The runs whose positions a book holds, as each import named its own, the first recorded first."""
    result = await session.execute(
        text(
            "SELECT kind, run_id, begins, ends, currency, source, content FROM book_runs "
            "WHERE book_id = :book ORDER BY id"
        ),
        {"book": book},
    )
    return [Run(**{**row, "kind": RunKind(row["kind"])}) for row in result.mappings()]


async def unfinished(session: AsyncSession, book: str, apart_from: str) -> str | None:
    """The source of an import of a run into this book that has rows waiting; None if there is none.

    The import ``apart_from`` is not looked at.
    """
    result = await session.execute(
        text(
            "SELECT i.source FROM book_runs r JOIN imports i USING (import_id) "
            "WHERE r.book_id = :book AND i.import_id <> :id AND i.done < i.total ORDER BY r.id LIMIT 1"
        ),
        {"book": book, "id": apart_from},
    )
    return result.scalar_one_or_none()


async def span(session: AsyncSession, book: str) -> Span | None:
    """The attributed positions of a book; None if it has none."""
    result = await session.execute(
        text(
            "SELECT count(*) AS positions, min(opened_at) AS begins, max(closed_at) AS ends "
            "FROM attributions WHERE book_id = :book"
        ),
        {"book": book},
    )
    row = result.mappings().one()
    return Span(**row) if row["positions"] else None


async def positions_between(session: AsyncSession, book: str, begins: datetime, ends: datetime) -> int:
    """How many attributed positions of a book opened after ``begins`` and closed before ``ends``."""
    query = text(
        "SELECT count(*) FROM attributions WHERE book_id = :book AND opened_at > :begins AND closed_at < :ends"
    )
    return int((await session.execute(query, {"book": book, "begins": begins, "ends": ends})).scalar_one())


async def currency(session: AsyncSession, book: str) -> str | None:
    """The currency of a book: the first that was stated; None where none was."""
    query = text(
        "SELECT coalesce((SELECT currency FROM books WHERE book_id = :book), (SELECT currency FROM book_runs "
        "WHERE book_id = :book AND currency IS NOT NULL ORDER BY id LIMIT 1))"
    )
    return (await session.execute(query, {"book": book})).scalar_one_or_none()
