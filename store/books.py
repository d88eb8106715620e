"""Books: one for each strategy."""

from collections.abc import Collection

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from models.positions import Book
from store.rows import Write, insertion


def meeting(books: Collection[str]) -> Write | None:
    """Make sure that these books exist: a book is set up by the first message that names it."""
    return insertion(Book, [{"book_id": b} for b in sorted(books)], on_conflict="(book_id) DO NOTHING")


async def names(session: AsyncSession) -> list[str]:
    """All books, by name."""
    return list((await session.execute(text("SELECT book_id FROM books ORDER BY book_id"))).scalars())


async def lock(session: AsyncSession, book: str) -> bool:
    """Hold off attributions of this book until the transaction ends; False if there is no such book.

    An attribution's foreign key takes a shared lock on the book's row; this takes the exclusive one. Statements after
    it see every attribution that was committed, and none is under way.
    """
    result = await session.execute(text("SELECT 1 FROM books WHERE book_id = :book FOR UPDATE"), {"book": book})
    return result.first() is not None
