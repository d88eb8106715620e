"""Closes that came in numbers are attributed in chunks: each once, also those that come meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowHandle

from closeloop.activities.positions import TOGETHER_FROM
from closeloop.models.positions import CatchUpReport, CatchUpRequest, ClosedPosition, ReceivedReport
from closeloop.models.tokens import Scope, TokenView
from closeloop.services.inbox import INTAKES, Arrived, Sender, take_in
from closeloop.services.positions import start_received
from closeloop.store.database import Sessions, open_engine, sessions_of
from closeloop.workers.registration import register_search_attributes
from tests.activities.attributing import OF_THE_CLOSE, engine_writes
from tests.closes import message
from tests.store.databases import query, scratch_database
from tests.waiting import PATIENCE, eventually
from tests.workers.namespaces import own_namespace
from tests.workers.own_worker import own_worker

TOKEN = TokenView(
    name="ann", token_id="t", scopes=list(Scope), books=None, created_at=datetime.now(UTC), expires_at=None,
    revoked_at=None, last_used_at=None, state="valid",
)  # fmt: skip


class Apart:
    """A database and a namespace in which nothing else happens."""

    def __init__(self, client: Client, sessions: Sessions) -> None:
        self.client = client
        self.sessions = sessions

    async def receive(self, *messages: dict[str, object]) -> list[ClosedPosition]:
        """What the door does."""
        async with self.sessions.begin() as session:
            arrived = [Arrived("positions", one) for one in messages]
            taken = await take_in(session, arrived, Sender(TOKEN, "r"), datetime.now(UTC), INTAKES)
        return taken.closes

    async def report(self) -> ReceivedReport:
        """Ask for it, and wait until it has nothing left."""
        await start_received(self.client)
        handle: WorkflowHandle[object, ReceivedReport] = self.client.get_workflow_handle(
            "received-closes", result_type=ReceivedReport
        )
        return await asyncio.wait_for(handle.result(), PATIENCE)

    async def attributed(self) -> int:
        [row] = await query(self.sessions, "SELECT count(*) AS n FROM attributions")
        return int(row["n"])


@pytest.fixture
async def apart(dsn: str, client: Client, tmp_path: Path) -> AsyncIterator[Apart]:
    own = await own_namespace(client)
    await register_search_attributes(own)
    async with scratch_database(dsn) as scratch:
        engine = open_engine(scratch, pool_size=8)
        async with own_worker(own, engine, tmp_path):
            yield Apart(own, sessions_of(engine))
        await engine.dispose()


def closes(first: int, count: int) -> list[dict[str, object]]:
    return [message("b", f"p-{n:05}") for n in range(first, first + count)]


async def test_all_of_them_once_with_their_karma(apart: Apart) -> None:
    for begin in range(0, 2_500, 500):
        await apart.receive(*closes(begin, 500))
    report = await apart.report()
    assert (report.attributed, report.refused) == (2_500, 0)
    assert await apart.attributed() == 2_500
    [karma] = await query(apart.sessions, "SELECT trades FROM producer_karma WHERE producer_id = 'ta'")
    assert karma["trades"] == 2_500
    again = await apart.report()
    assert (again.attributed, again.refused) == (0, 0)


async def test_one_that_is_refused_or_unreadable_stops_no_other(apart: Apart) -> None:
    await apart.receive(*closes(0, 20))
    await engine_writes(apart.sessions, "b", "in euros", **OF_THE_CLOSE, currency="EUR")
    await engine_writes(apart.sessions, "b", "sideways", **OF_THE_CLOSE | {"direction": "sideways"})
    await apart.receive(*closes(20, 20))
    report = await apart.report()
    assert (report.attributed, report.refused) == (40, 1)
    left = await query(apart.sessions, "SELECT position_id FROM positions WHERE NOT attributed ORDER BY 1")
    assert [row["position_id"] for row in left] == ["in euros", "sideways"]
    remembered = await query(apart.sessions, "SELECT position_id, reason FROM unreadable_positions")
    assert [row["position_id"] for row in remembered] == ["in euros"]  # the other is the catch-up's to tell
    assert "currency" in remembered[0]["reason"]
    assert (await apart.report()).refused == 0


async def test_what_comes_while_it_runs_is_taken_along(apart: Apart) -> None:
    await apart.receive(*closes(0, 1_500))
    await start_received(apart.client)
    for begin in range(1_500, 3_000, 250):
        await apart.receive(*closes(begin, 250))
        await start_received(apart.client)
    assert await eventually(apart.attributed, lambda n: n == 3_000) == 3_000


async def test_the_catch_up_leaves_many_to_it(apart: Apart) -> None:
    for begin in range(0, TOGETHER_FROM, 500):
        await apart.receive(*closes(begin, 500))
    report = await apart.client.execute_workflow(
        "CatchUpWorkflow", CatchUpRequest(), id="catch-up/test", task_queue="closeloop", result_type=CatchUpReport
    )
    assert (report.started, report.together) == (0, True)
    assert await eventually(apart.attributed, lambda n: n == TOGETHER_FROM) == TOGETHER_FROM


async def test_rows_that_an_engine_wrote_for_a_book_that_nobody_set_up(apart: Apart) -> None:
    many = TOGETHER_FROM + 200
    await query(
        apart.sessions,
        "INSERT INTO positions (book_id, position_id, symbol, direction, opened_at, closed_at, entry_price, "
        "exit_price, size, realized_pnl) SELECT 'unheard.of', 'p-' || n, 'X', 'long', '2026-01-01', "
        "timestamptz '2026-01-02' + n * interval '1 second', 1, 1, 1, 1 FROM generate_series(1, :many) n",
        many=many,
    )
    report = await apart.client.execute_workflow(
        "CatchUpWorkflow", CatchUpRequest(), id="catch-up/rows", task_queue="closeloop", result_type=CatchUpReport
    )
    assert report.together
    assert await eventually(apart.attributed, lambda n: n == many) == many
    books = await query(apart.sessions, "SELECT book_id FROM books")
    assert [row["book_id"] for row in books] == ["unheard.of"]
