"""Timeframe coefficients: by timeframe a decayed mean of R, and the weight that follows from it."""

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.patterns import Coefficients
from closeloop.services import books
from closeloop.services.cursors import in_book


async def listing(
    session: AsyncSession, book: str | None = None, *, last: int | None = None, before: str | None = None
) -> list[Coefficients]:
    """Coefficients by book and module.

    Only the ``last`` of those before the module ``before``: its id where a book is given, else BOOK/ID. Raises
    NotOnRecord and NotAcceptable.
    """
    await books.find_if_named(session, book)
    cursor = None if before is None else "/".join(in_book(book, before))
    return await store.patterns.configs(session, book, last, cursor)
