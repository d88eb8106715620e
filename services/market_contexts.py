"""What the market was when positions were opened: filling in what closes did not say, and showing it."""

import asyncio
import contextlib
from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.service import RPCError

from closeloop import store
from closeloop.models import launches
from closeloop.models.market_contexts import ContextView, MarketBackfillReport, MarketBackfillRequest
from closeloop.services import books
from closeloop.services.launching import result, start

ASKED_EVERY_SECONDS = 1.0
Told = Callable[[MarketBackfillReport], None]


async def backfill(client: Client, book: str, told: Told | None = None) -> MarketBackfillReport:
    """Fill in what a book's closes did not say, in a workflow, and wait for it; ``told`` hears of it meanwhile.

    Where one of the book is under way, that is waited for. Raises RunFailed with what it failed for.
    """
    handle = await start(client, launches.market_backfill(MarketBackfillRequest(book=book)))
    waiting = asyncio.ensure_future(result(handle))
    try:
        while told is not None:
            done, _ = await asyncio.wait((waiting,), timeout=ASKED_EVERY_SECONDS)
            if done:
                break
            with contextlib.suppress(RPCError, WorkflowQueryFailedError):  # it goes on without being watched
                told(await handle.query("so_far", result_type=MarketBackfillReport))
        report: MarketBackfillReport = await waiting
        return report
    finally:
        waiting.cancel()


async def listing(
    session: AsyncSession, book: str, last: int | None = None, before: str | None = None
) -> list[ContextView]:
    """Contexts that were filled in, of a book, by position; at most the ``last`` of those before the position
    ``before``. Raises NotOnRecord."""
    await books.find(session, book)
    return await store.market_contexts.listing(session, book, last, before)
