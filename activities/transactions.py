"""Transactions of activities, with database errors made into what Temporal should do about them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.exceptions import ApplicationError

from store.database import Sessions
from store.errors import DATABASE_ERRORS, is_permanent

REFUSED = "DatabaseRefused"


@asynccontextmanager
async def transaction(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """One transaction. What can never succeed is raised as a non-retryable error; the rest Temporal retries."""
    try:
        async with sessions.begin() as session:
            yield session
    except DATABASE_ERRORS as error:
        # The driver's message without the statement's parameters: they do not belong in a history.
        reason = str(getattr(error, "orig", error)).split("\n", 1)[0][:300] or type(error).__name__
        if is_permanent(error):
            raise ApplicationError(reason, type=REFUSED, non_retryable=True) from None
        raise ApplicationError(f"the database: {reason}", type="DatabaseAway") from None
