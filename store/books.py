"""Books: one for each strategy."""

from collections.abc import Collection, Sequence

from pydantic_core import to_json
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.positions import Book
from closeloop.store.rows import Write, execute, insertion


def meeting(books: Collection[str]) -> Write | None:
    """Make sure that these books exist: a book is set up by the first message that names it."""
    return insertion(Book, [{"book_id": b} for b in sorted(books)], on_conflict="(book_id) DO NOTHING")


async def names(session: AsyncSession) -> list[str]:
    """All books, by name."""
    return list((await session.execute(text("SELECT book_id FROM books ORDER BY book_id"))).scalars())


async def hold(session: AsyncSession, book: str) -> RowMapping:
    """Meet a book and hold it for a decision until the transaction ends; closes go on meanwhile."""
    await execute(session, meeting([book]))
    result = await session.execute(
        text("SELECT book_id, preset, preset_weights, cadence FROM books WHERE book_id = :book FOR NO KEY UPDATE"),
        {"book": book},
    )
    return result.mappings().one()


async def find(session: AsyncSession, book: str) -> RowMapping | None:
    """A book's row."""
    query = text("SELECT book_id AS book, preset, preset_weights, cadence, created_at FROM books WHERE book_id = :book")
    return (await session.execute(query, {"book": book})).mappings().first()


async def listing(session: AsyncSession) -> Sequence[RowMapping]:
    """All books with how many positions were attributed in each."""
    result = await session.execute(
        text(
            "SELECT book_id AS book, preset, preset_weights, cadence, created_at, "
            "(SELECT count(*) FROM attributions a WHERE a.book_id = b.book_id) AS positions "
            "FROM books b ORDER BY book_id"
        )
    )
    return result.mappings().all()


async def set_preset(
    session: AsyncSession, book: str, preset: str, weights: dict[str, float], cadence: str | None
) -> None:
    """Settle a book's preset (and cadence, where it is given). The caller holds the book."""
    await session.execute(
        text(
            "UPDATE books SET preset = :preset, preset_weights = CAST(:weights AS jsonb), "
            "cadence = coalesce(:cadence, cadence) WHERE book_id = :book"
        ),
        {"book": book, "preset": preset, "weights": to_json(weights).decode(), "cadence": cadence},
    )
