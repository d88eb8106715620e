"""Books: one for each strategy."""

from collections.abc import Collection, Mapping
from datetime import datetime

from pydantic_core import to_json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.books import BookSummary, BookView
from closeloop.models.positions import Book
from closeloop.models.weights import Cadence
from closeloop.store.rows import Write, execute, insertion

_COLUMNS = "book_id AS book, preset, preset_weights, cadence, currency, created_at, archived_at, archived_by"


def not_archived(column: str) -> str:
    """SQL: the book that ``column`` names is not archived. The list of those is read once, whatever the plan."""
    return f"{column} <> ALL (ARRAY(SELECT book_id FROM books WHERE archived_at IS NOT NULL))"  # noqa: S608


async def archived(session: AsyncSession, books: Collection[str]) -> dict[str, BookView]:
    """Those of these books that are archived. None of them changes that until the transaction ends.

    Whoever writes something that a book takes in asks here first: a removal under way is waited for, and one that
    comes later waits.
    """
    query = text(
        f"SELECT {_COLUMNS} FROM books WHERE book_id = ANY(CAST(:books AS text[])) "  # noqa: S608
        "ORDER BY book_id FOR KEY SHARE"
    )
    rows = (await session.execute(query, {"books": sorted(books)})).mappings()
    return {row["book"]: BookView.model_validate(dict(row)) for row in rows if row["archived_at"] is not None}


async def hold_alone(session: AsyncSession, book: str) -> BookView | None:
    """Lock a book's row until the transaction ends, also against whatever the book takes in; None if there is none.

    Closes, forecasts and the like that are being written are waited for, and later ones wait.
    """
    query = text(f"SELECT {_COLUMNS} FROM books WHERE book_id = :book FOR UPDATE")  # noqa: S608
    row = (await session.execute(query, {"book": book})).mappings().first()
    return None if row is None else BookView.model_validate(dict(row))


async def set_archived(session: AsyncSession, book: str, at: datetime | None, by: str | None) -> None:
    """Archive a book, or (None) bring it back. The caller holds it alone."""
    await session.execute(
        text("UPDATE books SET archived_at = :at, archived_by = :by WHERE book_id = :book"),
        {"book": book, "at": at, "by": by},
    )


def creating(books: Collection[str]) -> Write | None:
    """The write that creates those of these books that do not exist: the first message that names a book creates it."""
    return insertion(Book, [{"book_id": b} for b in sorted(books)], on_conflict="(book_id) DO NOTHING")


async def currencies(session: AsyncSession, books: Collection[str]) -> dict[str, str | None]:
    """The currency of each of these books that exists; None where no close has stated one."""
    query = text("SELECT book_id, currency FROM books WHERE book_id = ANY(:books)")
    return {row.book_id: row.currency for row in await session.execute(query, {"books": sorted(books)})}


async def state_currencies(session: AsyncSession, stated: Mapping[str, str | None]) -> None:
    """Give books (created where they do not exist) their first currency; a book that has one keeps it.

    Locks the rows, by name, until the transaction ends: of two transactions the second reads what the first one stated.
    """
    await execute(
        session,
        insertion(
            Book,
            [{"book_id": book, "currency": stated[book]} for book in sorted(stated)],
            on_conflict="(book_id) DO UPDATE SET currency = excluded.currency "
            "WHERE books.currency IS NULL AND excluded.currency IS NOT NULL",
        ),
    )


async def names(session: AsyncSession, limit: int | None = None) -> list[str]:
    """All books, archived ones too, or the first ``limit``, by name."""
    query = text("SELECT book_id FROM books ORDER BY book_id LIMIT CAST(:n AS bigint)")
    return list((await session.execute(query, {"n": limit})).scalars())


async def learning(session: AsyncSession) -> list[str]:
    """Books that are not archived, by name."""
    query = text("SELECT book_id FROM books WHERE archived_at IS NULL ORDER BY book_id")
    return list((await session.execute(query)).scalars())


async def existing(session: AsyncSession, books: Collection[str]) -> set[str]:
    """Those of these books that exist."""
    query = text("SELECT book_id FROM books WHERE book_id = ANY(CAST(:books AS text[]))")
    return set((await session.execute(query, {"books": list(books)})).scalars())


async def on_record(session: AsyncSession, book: str) -> bool:
    """Whether anything of a book is on record: it is set up, or an engine wrote a position or a conviction of it."""
    query = text(
        "SELECT EXISTS (SELECT FROM books WHERE book_id = :book) "
        "OR EXISTS (SELECT FROM positions WHERE book_id = :book) "
        "OR EXISTS (SELECT FROM conviction_scores WHERE book_id = :book)"
    )
    return bool((await session.execute(query, {"book": book})).scalar_one())


async def hold(session: AsyncSession, book: str) -> BookView:
    """Lock a book's row until the transaction ends, so that one decision on it is made at a time; returns the book.

    A book that does not exist is created. The lock does not hold up closes: they only refer to the row.
    """
    await execute(session, creating([book]))
    query = text(f"SELECT {_COLUMNS} FROM books WHERE book_id = :book FOR NO KEY UPDATE")  # noqa: S608
    return BookView.model_validate(dict((await session.execute(query, {"book": book})).mappings().one()))


async def find(session: AsyncSession, book: str) -> BookView | None:
    """A book by its name; None if there is none."""
    query = text(f"SELECT {_COLUMNS} FROM books WHERE book_id = :book")  # noqa: S608
    row = (await session.execute(query, {"book": book})).mappings().first()
    return None if row is None else BookView.model_validate(dict(row))


async def listing(session: AsyncSession, last: int | None = None, before: str | None = None) -> list[BookSummary]:
    """Books by name; at most the ``last`` ones of those that come before ``before``."""
    result = await session.execute(
        text(
            f"SELECT * FROM (SELECT {_COLUMNS}, "  # noqa: S608
            "(SELECT count(*) FROM attributions a WHERE a.book_id = b.book_id) AS positions "
            "FROM books b WHERE CAST(:before AS text) IS NULL OR book_id < :before "
            "ORDER BY book_id DESC LIMIT CAST(:last AS bigint)) page ORDER BY book"
        ),
        {"last": last, "before": before},
    )
    return [BookSummary.model_validate(dict(row)) for row in result.mappings()]


async def cadences(session: AsyncSession) -> list[Cadence]:
    """The cadences that books have which are not archived."""
    result = await session.execute(
        text("SELECT DISTINCT cadence FROM books WHERE archived_at IS NULL ORDER BY cadence")
    )
    return [Cadence(name) for name in result.scalars()]


async def set_preset(
    session: AsyncSession, book: str, preset: str, weights: dict[str, float], cadence: str | None
) -> None:
    """Store a book's preset, the preset's weights as they are now and, unless it is None, the cadence.

    The caller holds the book.
    """
    await session.execute(
        text(
            "UPDATE books SET preset = :preset, preset_weights = CAST(:weights AS jsonb), "
            "cadence = coalesce(:cadence, cadence) WHERE book_id = :book"
        ),
        {"book": book, "preset": preset, "weights": to_json(weights).decode(), "cadence": cadence},
    )
