"""Staging an import from an input that pauses or that fails, or whose connection is lost meanwhile."""

import asyncio
import threading
import time
from collections.abc import Iterator

import asyncpg
import pytest
from sqlalchemy import text
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from closeloop.models.errors import NotPossibleNow, Unavailable
from closeloop.models.policy import ImportsPolicy
from closeloop.services import imports
from closeloop.services.imports import STAGED_ROWS_AT_ONCE
from closeloop.store.database import Sessions, session_for
from tests.activities.attributing import tally
from tests.closes import series
from tests.store.databases import query
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("worker")
ROWS = STAGED_ROWS_AT_ONCE + 100
POLICY = ImportsPolicy()
STAGED = "SELECT count(*) AS rows FROM import_rows WHERE payload LIKE :book"


def lines(book: str, at: int, pause: threading.Event | None = None, seconds: float = 0) -> Iterator[tuple[int, bytes]]:
    """Lines of closes; before the one ``at`` it waits, as who reads a pipe does: nothing else goes on meanwhile."""
    for index, position in enumerate(series(book, ROWS)):
        if index == at and pause is not None:
            pause.wait()
        elif index == at:
            time.sleep(seconds)
        yield index, position.model_dump_json(exclude_none=True).encode()


@pytest.mark.parametrize("at", [50, STAGED_ROWS_AT_ONCE + 50])
async def test_a_pause_longer_than_a_transaction_may_be_idle(book: str, client: Client, dsn: str, at: int) -> None:
    async with session_for(dsn) as session:
        async with session.begin():  # of this connection, the only one: 2 minutes otherwise
            await session.execute(text("SET idle_in_transaction_session_timeout = '1500ms'"))
        given = imports.jsonl_source(lines(book, at, seconds=2.5), "-")
        running = await imports.begin(client, session, given, POLICY)
    assert (await imports.outcome(running)).books[book].attributed == ROWS


async def test_a_connection_that_is_lost_in_a_pause_is_replaced(
    book: str, client: Client, dsn: str, sessions: Sessions
) -> None:
    lost = threading.Event()

    async def lose(pid: int) -> None:
        connection = await asyncpg.connect(dsn)
        first = "SELECT EXISTS (SELECT 1 FROM import_rows WHERE payload LIKE $1)"
        await until("the first batch", lambda: connection.fetchval(first, f"%{book}%"))
        await connection.execute("SELECT pg_terminate_backend($1, 60000)", pid)
        await connection.close()
        lost.set()

    async with session_for(dsn) as session:
        async with session.begin():
            pid = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        losing = threading.Thread(target=lambda: asyncio.run(lose(pid)))
        losing.start()
        given = imports.jsonl_source(lines(book, STAGED_ROWS_AT_ONCE + 50, lost), "-")
        running = await imports.begin(client, session, given, POLICY)
        losing.join()
    assert (await imports.outcome(running)).books[book].attributed == ROWS
    assert (await tally(sessions, book)).attributions == ROWS


async def test_an_input_that_fails_in_the_middle_leaves_nothing(book: str, client: Client, sessions: Sessions) -> None:
    def breaking() -> Iterator[tuple[int, bytes]]:
        yield from lines(book, 0)
        raise KeyboardInterrupt

    async with sessions() as session:
        with pytest.raises(KeyboardInterrupt):
            await imports.begin(client, session, imports.jsonl_source(breaking(), "-"), POLICY)
    assert [row["rows"] for row in await query(sessions, STAGED, book=f"%{book}%")] == [0]
    assert await query(sessions, "SELECT 1 FROM books WHERE book_id = :book", book=book) == []


async def test_what_was_dropped_meanwhile_is_refused_with_a_sentence(
    book: str, client: Client, sessions: Sessions, dsn: str
) -> None:
    dropped = threading.Event()

    async def drop() -> None:
        connection = await asyncpg.connect(dsn)
        gone = "DELETE FROM imports WHERE import_id IN (SELECT import_id FROM import_rows WHERE payload LIKE $1)"

        async def is_gone() -> bool:
            return str(await connection.execute(gone, f"%{book}%")) != "DELETE 0"

        await until("the first batch", is_gone)
        await connection.close()
        dropped.set()

    dropping = threading.Thread(target=lambda: asyncio.run(drop()))
    dropping.start()
    async with sessions() as session:
        given = imports.jsonl_source(lines(book, STAGED_ROWS_AT_ONCE + 50, dropped), "-")
        with pytest.raises(NotPossibleNow, match="the input said nothing for more than 24 hours"):
            await imports.begin(client, session, given, POLICY)
    dropping.join()
    assert [row["rows"] for row in await query(sessions, STAGED, book=f"%{book}%")] == [0]


async def test_temporal_away_after_staging_is_said_and_the_rows_stay(
    book: str, client: Client, sessions: Sessions
) -> None:
    nowhere = await Client.connect(
        client.service_client.config.target_host,
        namespace="no-such-namespace",
        data_converter=pydantic_data_converter,
    )
    async with sessions() as session:
        with pytest.raises(Unavailable, match="the input is staged, and Temporal refused or does not answer"):
            await imports.begin(nowhere, session, imports.jsonl_source(lines(book, 0), "-"), POLICY)
    assert [row["rows"] for row in await query(sessions, STAGED, book=f"%{book}%")] == [ROWS]
