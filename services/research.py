"""Research: running it, listing its observations, reports and hypotheses, and what they cost today."""

from collections.abc import AsyncIterator
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.learning.research import STATISTICS
from closeloop.models import launches
from closeloop.models.errors import NotOnRecord
from closeloop.models.research import (
    ResearchReport,
    ResearchRequest,
    ResearchStatus,
    ResearchView,
    StatementKind,
    StatementStatus,
)
from closeloop.services import books
from closeloop.services.launching import run as run_launch


async def run(client: Client, request: ResearchRequest) -> ResearchReport:
    """Study the live closes since the last run in a workflow, and wait for its report.

    Raises RunFailed where the model refuses, or a book that was asked for by name cannot be studied.
    """
    launch = launches.research(request)
    failed = "The run failed; what it had read is kept, and the next run goes on from there. The reason"
    report: ResearchReport = await run_launch(client, launch, failed)
    return report


async def listing(
    session: AsyncSession,
    book: str | None = None,
    *,
    kind: StatementKind | None = None,
    status: StatementStatus | None = None,
    last: int | None = None,
    before: str | None = None,
) -> AsyncIterator[ResearchView]:
    """Observations, reports and hypotheses, oldest first, streamed: the newest ``last`` before the id ``before``.

    Raises NotOnRecord.
    """
    await books.find_if_named(session, book)
    cursor = None if before is None else (await find(session, before)).id
    async for view in store.research.listing(session, book, kind, status, last, cursor):
        yield view


async def find(session: AsyncSession, row_id: int | str) -> ResearchView:
    """An observation, report or hypothesis by its id. Raises NotOnRecord."""
    number = str(row_id)
    # Nothing else can be the number of a row: PostgreSQL's bigint has at most 19 digits.
    view = await store.research.find(session, int(number)) if number.isascii() and number.isdigit() else None
    if view is None:
        raise NotOnRecord(f"There is no research with the id {row_id}: 'closeloop research list' shows what there is.")
    return view


async def status(session: AsyncSession, model: str | None, budget: Decimal) -> ResearchStatus:
    """Which model writes (``statistics`` where it is None), and what this UTC day has spent of its budget (USD)."""
    today = await store.model_calls.spending(session)
    return ResearchStatus(
        model=model or STATISTICS,
        budget_usd_per_day=budget,
        spent_today_usd=today.spent_usd,
        left_today_usd=max(budget - today.spent_usd, Decimal(0)),
        calls_today=today.calls,
        outcomes_today=today.outcomes,
    )
