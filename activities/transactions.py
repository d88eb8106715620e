"""Transactions of activities, in which database errors become errors that Temporal retries, or does not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.exceptions import ApplicationError

from closeloop.store.database import Sessions
from closeloop.store.errors import DATABASE_ERRORS, is_permanent

DATABASE_REFUSED = "DatabaseRefused"
DATABASE_AWAY = "DatabaseAway"


@asynccontextmanager
async def transaction(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """One transaction, committed at the end.

    Raises ApplicationError: non-retryable where the same statement would always fail, otherwise one that is retried.
    """
    async with sessions() as session:
        try:
            await session.connection()
        except DATABASE_ERRORS as error:
            raise _for_temporal(error) from None
        try:
            yield session
            await session.commit()
        except SQLAlchemyError as error:
            raise _for_temporal(error) from None


def _for_temporal(error: BaseException) -> ApplicationError:
    # The driver's message without the statement's parameters: they do not belong in a history.
    reason = str(getattr(error, "orig", error)).split("\n", 1)[0][:300] or type(error).__name__
    if is_permanent(error):
        return ApplicationError(reason, type=DATABASE_REFUSED, non_retryable=True)
    return ApplicationError(f"the database: {reason}", type=DATABASE_AWAY)
