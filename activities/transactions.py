"""Transactions of activities, with database errors made into what Temporal should do about them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.exceptions import ApplicationError

from store.database import Sessions
from store.errors import is_permanent


@asynccontextmanager
async def transaction(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """One transaction. What can never succeed is raised as a non-retryable error; the rest Temporal retries."""
    try:
        async with sessions.begin() as session:
            yield session
    except SQLAlchemyError as error:
        if is_permanent(error):
            # The driver's message without the statement's parameters: they do not belong in a history.
            reason = str(getattr(error, "orig", error)).splitlines()[0]
            raise ApplicationError(reason, type="DatabaseRefused", non_retryable=True) from None
        raise ApplicationError(
            f"database: {type(error).__name__}: {str(getattr(error, 'orig', error))[:300]}"
        ) from None
