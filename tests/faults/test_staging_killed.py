"""Who stages an import is killed, with SIGKILL, in the middle of its input: nothing counts, and nobody is held up."""

import asyncio
import signal
from pathlib import Path

import pytest
from temporalio.client import Client

from closeloop import store
from closeloop.gateways.trades import FileRun, FileTrade, TradeFile
from closeloop.models.policy import ImportsPolicy
from closeloop.services import imports
from closeloop.services.imports import STAGING_KEPT_HOURS
from closeloop.store.database import Sessions
from tests.activities.attributing import tally
from tests.closes import closed
from tests.faults.staging_process import ROWS, source
from tests.store.databases import query
from tests.waiting import PATIENCE
from tests.workers.processes import line, script

pytestmark = pytest.mark.usefixtures("worker")
STAGED = "SELECT i.import_id FROM imports i JOIN import_rows r USING (import_id) WHERE r.payload LIKE :book"


async def test_killed_between_batches_nothing_counts_and_the_file_is_imported_once(
    book: str, client: Client, sessions: Sessions, dsn: str, home: Path
) -> None:
    async with script("tests.faults.staging_process", dsn, book, home=home) as process:
        assert await line(process) == "waiting"
        process.kill()
        assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL
    left = await query(sessions, STAGED, book=f"%{book}%")
    assert 2_000 <= len(left) < ROWS
    assert (await tally(sessions, book)).attributions == 0

    other = FileTrade(book, 0, closed(book, "of another run").model_dump(mode="json", exclude_none=True))
    for given in (
        source(book, pause=False),
        imports.trades_source(TradeFile([other], {book: FileRun(run_id="r1")}), "freqtrade", "b.json"),
    ):
        async with sessions() as session:
            running = await imports.begin(client, session, given, ImportsPolicy())
        assert not running.joined
        report = await imports.outcome(running)
        assert report.books[book].attributed == report.books[book].read == running.total
    assert (await tally(sessions, book)).attributions == ROWS + 1

    [import_id] = {row["import_id"] for row in left}
    old = "UPDATE imports SET touched_at = now() - interval '25 hours' WHERE import_id = :id"
    await query(sessions, old, id=import_id)
    async with sessions.begin() as session:
        assert await store.imports.drop_abandoned(session, STAGING_KEPT_HOURS) >= 1
    assert await query(sessions, STAGED, book=f"%{book}%") == []
    assert (await tally(sessions, book)).attributions == ROWS + 1
