"""Advisory locks of PostgreSQL. All their keys stand here, so that two purposes never share one by accident.

Each is held until the transaction ends.
"""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.market import Driver, Timeframe

# One process at a time upgrades the schema, also where several start together.
SCHEMA = "427021005669"
# One run at a time plans or touches the corpus's files.
CORPUS = "495723310188"
# One call of the language model is reserved at a time: two reservations that did not see each other could exceed the
# budget together.
MODEL_BUDGET = "7105645"
# One run at a time lets rows leave the database. Whoever has it knows what became of the run before.
RETENTION = "hashtextextended('closeloop/retention', 0)"
# One resolution of forecasts writes at a time.
FORECAST_RESOLUTION = "hashtextextended('closeloop/forecast-resolution', 0)"

# One import of the buckets' tokens at a time: two that did not see each other could leave one in two buckets.
MARKET_TOKENS = "hashtextextended('closeloop/market-tokens', 0)"


def book_karma(column: str) -> str:
    """The key of a book's karma, for ``column``, SQL that names the book.

    A close takes the lock shared; a rebuild takes it alone, so that no close changes what it recomputes.
    """
    return f"hashtextextended({column}, 271828)"


async def one_at_a_time(session: AsyncSession, lock: str) -> None:
    """Wait for one of the locks above, and hold it."""
    await session.execute(text(f"SELECT pg_advisory_xact_lock({lock})"))


async def prices_of(session: AsyncSession, asset: str) -> None:
    """Lock which gaps of an asset's prices are real: two imports that did not see each other could both be wrong."""
    await session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('closeloop/prices/' || :asset, 0))"), {"asset": asset}
    )


async def market_series(
    session: AsyncSession, timeframe: Timeframe, drivers: Sequence[Driver], *, wait: bool = False
) -> list[Driver]:
    """Lock series of the market, one at a time computes each; those that are free, or with ``wait`` all."""
    key = "hashtextextended('closeloop/market/' || driver || '/' || :timeframe, 0)"
    held = f"pg_advisory_xact_lock({key}) IS NOT NULL" if wait else f"pg_try_advisory_xact_lock({key})"
    result = await session.execute(
        text(f"SELECT driver, {held} AS held FROM unnest(CAST(:drivers AS text[])) AS d (driver)"),  # noqa: S608
        {"drivers": [driver.value for driver in drivers], "timeframe": timeframe.value},
    )
    free = {row.driver for row in result if row.held}
    return [driver for driver in drivers if driver.value in free]


async def book_lessons(session: AsyncSession, book: str) -> None:
    """Lock the lessons and overrides of a book: one run or decision at a time changes them."""
    await _of_book(session, "hashtextextended(:book, 314159)", book)


async def book_runs(session: AsyncSession, book: str) -> None:
    """Lock the runs of a book: one import at a time finds out whether its run is the book's, and records it."""
    await _of_book(session, "hashtextextended('closeloop/runs/' || :book, 0)", book)


async def book_messages(session: AsyncSession, book: str, kind: str) -> None:
    """Lock a book's messages of a kind: one transaction at a time finds out which are new, and adds them."""
    await _of_book(session, "hashtextextended('closeloop/inbox/' || :book, 0)", f"{book}/{kind}")


async def _of_book(session: AsyncSession, lock: str, book: str) -> None:
    await session.execute(text(f"SELECT pg_advisory_xact_lock({lock})"), {"book": book})
