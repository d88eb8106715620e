"""Advisory locks of PostgreSQL: every name in one place, so that no two uses meet by accident.

Each is held until the transaction ends.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

# One upgrade of the schema at a time, whoever else is starting.
SCHEMA = "427021005669"
# One run at a time plans or touches the corpus's files.
CORPUS = "495723310188"
# One reservation of the language model's budget at a time, so that none overlooks another.
MODEL_BUDGET = "7105645"
# One resolution of forecasts writes at a time.
FORECAST_RESOLUTION = "hashtextextended('closeloop/forecast-resolution', 0)"


def book_karma(column: str) -> str:
    """Karma of a book (SQL naming the book): shared by those who add to it, alone by who rebuilds it."""
    return f"hashtextextended({column}, 271828)"


async def one_at_a_time(session: AsyncSession, lock: str) -> None:
    """Wait for one of the locks above, and hold it."""
    await session.execute(text(f"SELECT pg_advisory_xact_lock({lock})"))


async def book_performance(session: AsyncSession, book: str) -> None:
    """One run at a time adds up the performance of a book's producers."""
    await _of_book(session, "hashtextextended('closeloop/performance/' || :book, 0)", book)


async def book_lessons(session: AsyncSession, book: str) -> None:
    """One run or decision at a time changes the lessons and overrides of a book."""
    await _of_book(session, "hashtextextended(:book, 314159)", book)


async def _of_book(session: AsyncSession, lock: str, book: str) -> None:
    await session.execute(text(f"SELECT pg_advisory_xact_lock({lock})"), {"book": book})
