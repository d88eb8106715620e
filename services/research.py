"""Research: running it, listing its observations, reports and hypotheses, and what they cost today."""

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.learning.research import STATISTICS
from closeloop.models import launches
from closeloop.models.errors import NotOnRecord
from closeloop.models.launches import LLM_TASK_QUEUE
from closeloop.models.research import (
    ResearchReport,
    ResearchRequest,
    ResearchStatus,
    ResearchView,
    StatementKind,
    StatementStatus,
)
from closeloop.services import books, workers
from closeloop.services.launching import run as run_launch
from closeloop.services.workers import LIVES_FOR


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


async def status(session: AsyncSession, within: timedelta = LIVES_FOR) -> ResearchStatus:
    """Which model writes, by what the workers that live say, and what this UTC day has spent of its budget (USD).

    ``within``: a worker that was not seen for so long has not spoken.
    """
    today = await store.model_calls.spending(session)
    setups = {
        worker.name: worker.research
        for worker in await workers.live(session, within)
        if LLM_TASK_QUEUE in worker.queues
    }
    first = next(iter(setups.values()), None)
    return ResearchStatus(
        model=None if first is None else first.model if first.key_present else STATISTICS,
        budget_usd_per_day=None if first is None else first.budget_usd_per_day,
        spent_today_usd=today.spent_usd,
        left_today_usd=None if first is None else max(first.budget_usd_per_day - today.spent_usd, Decimal(0)),
        calls_today=today.calls,
        outcomes_today=today.outcomes,
        workers=setups,
    )
