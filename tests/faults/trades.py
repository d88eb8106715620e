"""Trades for the fault tests, and what must have become of them: computed here by the formula, not by the project."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from tests.closes import message
from tests.faults.stack_process import StackProcess
from tests.waiting import PATIENCE, until

Trade = dict[str, Any]
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


def trades(book: str, count: int) -> list[Trade]:
    """Closes five minutes apart, in a shuffled order, each signalled by two of four producers."""
    chance = random.Random(book)
    made = []
    for i in range(count):
        opened = BEGIN + timedelta(minutes=5 * i)
        names = chance.sample(("ta", "flow", "news", "onchain"), 2)
        made.append(
            message(
                book,
                f"p-{i:06}",
                opened_at=opened.isoformat(),
                closed_at=(opened + timedelta(hours=2)).isoformat(),
                realized_pnl=str(chance.randint(-90_000, 110_000) / Decimal(10_000)),
                signals=[{"signal_id": f"s-{i}-{name}", "producer_id": name} for name in names],
            )
        )
    chance.shuffle(made)
    return made


def repeats(rows: Sequence[Trade]) -> int:
    """How many are the same trade as another one: all have one symbol, direction, size, time held and prices."""
    return len(rows) - len({Decimal(row["realized_pnl"]) for row in rows})


def jsonl(rows: Sequence[Trade]) -> str:
    """As a file holds them."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def karma_in_order(rows: Sequence[Trade]) -> dict[str, float]:
    """The sequential EMA, by the time of the close: ``0.95 karma + 0.05 outcome``, from 1."""
    karma: dict[str, float] = {}
    for row in sorted(rows, key=lambda r: (r["closed_at"], r["position_id"])):
        outcome = 1 if Decimal(row["realized_pnl"]) > 0 else -1
        for name in sorted({signal["producer_id"] for signal in row["signals"]}):
            karma[name] = 0.95 * karma.get(name, 1.0) + 0.05 * outcome
    return karma


async def assert_attributed_once(stack: StackProcess, book: str, rows: Sequence[Trade]) -> None:
    """Counts and sums are exact, and there is one event of each type for each position."""
    stored = await stack.sql(
        "SELECT count(*), count(*) FILTER (WHERE direction_correct), sum(realized_pnl) FROM attributions "
        "WHERE book_id = $1",
        book,
    )
    pnl = [Decimal(row["realized_pnl"]) for row in rows]
    assert tuple(stored[0]) == (len(rows), sum(value > 0 for value in pnl), sum(pnl))
    assert [tuple(row) for row in await stack.sql("SELECT count(*) FROM positions WHERE book_id = $1", book)] == [
        (len(rows),)
    ]
    currency = await stack.sql("SELECT currency FROM books WHERE book_id = $1", book)
    assert [tuple(row) for row in currency] == [("USDT",)]
    events = await stack.sql(
        "SELECT type, count(*) AS count, count(DISTINCT payload ->> 'position_id') AS positions FROM events "
        "WHERE payload ->> 'book' = $1 GROUP BY type ORDER BY type",
        book,
    )
    assert [tuple(row) for row in events] == [
        ("attribution.outcome.v1", len(rows), len(rows)),
        ("learning.outcome.v1", len(rows), len(rows)),
    ]
    expected: dict[str, tuple[int, int]] = {}
    for row in rows:
        for name in {signal["producer_id"] for signal in row["signals"]}:
            wins, trades_ = expected.get(name, (0, 0))
            expected[name] = (wins + (Decimal(row["realized_pnl"]) > 0), trades_ + 1)
    karma = await stack.sql("SELECT producer_id, wins, losses, trades FROM producer_karma WHERE book_id = $1", book)
    assert {row["producer_id"]: (row["wins"], row["trades"]) for row in karma} == expected
    assert all(row["wins"] + row["losses"] == row["trades"] for row in karma)


async def assert_karma_in_order(stack: StackProcess, book: str, rows: Sequence[Trade]) -> None:
    """Karma is the sequential EMA."""
    assert await _karma(stack, book) == pytest.approx(karma_in_order(rows), abs=1e-12)


async def assert_karma_steps_chain(stack: StackProcess, book: str) -> None:
    """Each step of karma began where the one before it ended, and the last is what is stored: no update was lost."""
    events = await stack.sql(
        "SELECT payload FROM events WHERE type = 'attribution.outcome.v1' AND payload ->> 'book' = $1 ORDER BY id", book
    )
    karma: dict[str, float] = {}
    for event in events:
        payload = json.loads(event["payload"])
        for step in payload["producers"]:
            assert step["before"] == pytest.approx(karma.get(step["producer_id"], 1.0), abs=1e-12)
            karma[step["producer_id"]] = 0.95 * step["before"] + 0.05 * payload["outcome"]
    assert await _karma(stack, book) == pytest.approx(karma, abs=1e-12)


async def _karma(stack: StackProcess, book: str) -> dict[str, float]:
    rows = await stack.sql("SELECT producer_id, karma FROM producer_karma WHERE book_id = $1", book)
    return {row["producer_id"]: row["karma"] for row in rows}


async def attributed(connection: asyncpg.Connection, book: str) -> int:
    """How many positions of a book are attributed."""
    return int(await connection.fetchval("SELECT count(*) FROM attributions WHERE book_id = $1", book))


@contextlib.asynccontextmanager
async def held(stack: StackProcess, book: str, rows: Sequence[Trade]) -> AsyncIterator[None]:
    """Positions that nobody can record meanwhile: whoever tries waits for a transaction that is never committed.

    So a test can kill something that is certainly in the middle of its work, however fast the machine.
    """
    async with stack.database() as connection:
        # Its currency is known: else the first close would state it, and the others would wait for that one.
        await connection.execute(
            "INSERT INTO books (book_id, currency) VALUES ($1, 'USDT') ON CONFLICT DO NOTHING", book
        )
        transaction = connection.transaction()
        await transaction.start()
        await connection.executemany(
            "INSERT INTO positions (book_id, position_id, symbol, direction, opened_at) "
            "VALUES ($1, $2, 'X', 'long', $3)",
            [(book, row["position_id"], BEGIN) for row in rows],
        )
        yield
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await transaction.rollback()


async def someone_waits(connection: asyncpg.Connection) -> bool:
    """Whether a backend waits for a lock: it reached what is held."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    return bool(await connection.fetchval(query))


def close_id(row: Trade) -> str:
    """The id of the workflow of a close."""
    return f"position-close/{row['book']}/{row['position_id']}/{row['closed_at']}"


async def start_close(client: Client, row: Trade) -> WorkflowHandle[Any, Any]:
    """Start a close by name with JSON, as an engine does."""
    return await client.start_workflow(
        "PositionCloseWorkflow",
        row,
        id=close_id(row),
        task_queue="closeloop",
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )


async def reports(handles: Sequence[WorkflowHandle[Any, Any]]) -> list[Mapping[str, Any]]:
    """What the workflows return, whatever is restarted meanwhile."""
    return list(await asyncio.wait_for(asyncio.gather(*(_report(handle) for handle in handles)), PATIENCE))


async def _report(handle: WorkflowHandle[Any, Any]) -> Mapping[str, Any]:
    while True:
        try:
            report: Mapping[str, Any] = await handle.result()
        except RPCError:  # the server is away
            await asyncio.sleep(0.2)
        else:
            return report


async def until_attributed(stack: StackProcess, book: str, count: int) -> None:
    """Wait until that many positions of a book are attributed."""
    async with stack.database() as connection:

        async def enough() -> bool:
            return await attributed(connection, book) >= count

        await until(f"{count} attributed in {book}", enough, every=0.01)


async def until_someone_waits(stack: StackProcess) -> None:
    """Wait until a backend waits for what is held."""
    async with stack.database() as connection:
        await until("somebody waits for what is held", lambda: someone_waits(connection), every=0.01)
