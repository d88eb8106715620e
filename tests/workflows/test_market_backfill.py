"""A backfill goes through a book's closes by position, says what became of them, and may be asked for twice."""

import asyncio

import pytest
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy

from closeloop.models import launches
from closeloop.models.errors import RunFailed
from closeloop.models.market_contexts import MarketBackfillReport, MarketBackfillRequest
from closeloop.services import market_contexts
from closeloop.store.database import Sessions
from tests.activities.attributing import attributed
from tests.closes import closed
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("worker")


async def test_a_book_without_states_as_of_its_openings(book: str, client: Client, sessions: Sessions) -> None:
    """No test has a market in that century."""
    old = {"opened_at": "1907-01-01T00:00:00Z", "closed_at": "1907-01-02T00:00:00Z"}
    await attributed(
        sessions,
        closed(book, "a", **old),
        closed(book, "b", **old, entry_context={"regime_states": {"btc_macro": "S1"}}),
    )
    heard: list[MarketBackfillReport] = []
    report = await asyncio.wait_for(market_contexts.backfill(client, book, heard.append), PATIENCE)
    assert (report.closes, report.filled, report.sent, report.no_states) == (2, 0, 1, 1)
    assert report.sentence == (
        f"book {book}: 2 closes, 0 filled in from states as of their opening; 1 came with states of their own; 1 not, "
        "opened 1907-01-01 00:00 to 1907-01-01 00:00 UTC: there are no published states as of then"
    )
    memo = await (await client.get_workflow_handle(f"market-backfill/{book}").describe()).memo()
    assert memo["outcome"] == report.sentence
    again = await asyncio.wait_for(market_contexts.backfill(client, book), PATIENCE)
    assert again == report


async def test_it_goes_on_where_the_run_before_stopped(book: str, client: Client, sessions: Sessions) -> None:
    await attributed(sessions, *(closed(book, name) for name in ("a", "b", "c")))
    so_far = MarketBackfillReport(book=book, closes=2, no_states=2, last="b")
    request = MarketBackfillRequest(book=book, so_far=so_far)
    report: MarketBackfillReport = await client.execute_workflow(
        "MarketBackfillWorkflow",
        request,
        id=f"goes-on/{book}",
        task_queue="closeloop",
        result_type=MarketBackfillReport,
    )
    assert (report.closes, report.last) == (3, "c")


async def test_a_book_that_nobody_knows(client: Client) -> None:
    with pytest.raises(RunFailed, match="There is no book nobody-knows"):
        await asyncio.wait_for(market_contexts.backfill(client, "nobody-knows"), PATIENCE)


def test_asked_for_twice_it_is_one_run() -> None:
    launch = launches.market_backfill(MarketBackfillRequest(book="b"))
    assert (launch.id, launch.conflict) == ("market-backfill/b", WorkflowIDConflictPolicy.USE_EXISTING)
