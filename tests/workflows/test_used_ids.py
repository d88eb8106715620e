"""Different closes under one id, at once and through both doors: one stays, and every other one fails visibly."""

import asyncio

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from closeloop.models.positions import ClosedPosition
from closeloop.services.positions import start_close
from closeloop.store.database import Sessions
from tests.activities.attributing import tally
from tests.closes import closed, message
from tests.waiting import PATIENCE
from tests.workflows.test_backfill import backfill, stage

pytestmark = pytest.mark.usefixtures("worker")


async def close(client: Client, position: ClosedPosition) -> str:
    """What became of a close that was started: ``attributed``, or the type of its error."""
    handle = await start_close(client, position)
    try:
        report = await asyncio.wait_for(handle.result(), PATIENCE)
    except WorkflowFailureError as failed:
        return str(failed.cause.type) if isinstance(failed.cause, ApplicationError) else repr(failed.cause)
    assert not report.already_attributed
    return "attributed"


async def test_of_different_closes_under_one_id_one_is_attributed(
    book: str, client: Client, sessions: Sessions
) -> None:
    def cycle(hour: int) -> dict[str, str]:
        return {"closed_at": f"2026-01-02T{hour:02}:00:00Z", "realized_pnl": str(hour)}

    import_id = await stage(sessions, [message(book, **cycle(hour)) for hour in (20, 21)])
    report, *live = await asyncio.gather(
        backfill(client, import_id), *(close(client, closed(book, **cycle(hour))) for hour in range(1, 9))
    )
    imported = report.books[book].attributed
    assert imported + live.count("attributed") == 1
    assert set(live) <= {"attributed", "PositionConflict"}
    assert report.rejected == 2 - imported
    assert (await tally(sessions, book)).attributions == 1


async def test_of_two_currencies_through_both_doors_one_is_the_books(
    book: str, client: Client, sessions: Sessions
) -> None:
    import_id = await stage(sessions, [message(book, f"i-{i}", currency="EUR") for i in range(3)])
    report, *live = await asyncio.gather(
        backfill(client, import_id), *(close(client, closed(book, f"p-{i}", currency="BTC")) for i in range(6))
    )
    taken = (report.books[book].attributed, live.count("attributed"))
    assert taken in ((3, 0), (0, 6))
    assert set(live) <= {"attributed", "CurrencyConflict"}
