"""What PostgreSQL refuses is sorted into what may pass later and what never will, by its real errors."""

import asyncio
import socket

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from temporalio.exceptions import ApplicationError

from closeloop.activities.transactions import transaction
from closeloop.store.database import Sessions, open_engine, sessions_of
from closeloop.store.errors import is_permanent, is_unreachable
from tests.store.databases import backend, query, wait_until_it_runs

NEVER = {
    "a number too large for its type": "SELECT CAST('1e200000' AS numeric)",
    "a scale that numeric does not hold": "SELECT CAST('0E-99999' AS numeric)",
    "a NUL inside a text": """SELECT CAST('{"a": "\\u0000"}' AS json) ->> 'a'""",
    "a text that is no number": "SELECT CAST('many' AS integer)",
    "a null where none may be": "INSERT INTO books (book_id) VALUES (NULL)",
    "a book that does not exist": (
        "INSERT INTO producer_karma (book_id, producer_id, karma, wins, losses, trades) "
        "VALUES ('there is no such book', 'p', 1, 0, 0, 0)"
    ),
}
LATER = {
    "a table that is not migrated yet": "SELECT * FROM not_migrated_yet",
    "a statement that took too long": "SET LOCAL statement_timeout = 1; SELECT pg_sleep(5)",
}


@pytest.mark.parametrize("statement", NEVER.values(), ids=NEVER.keys())
async def test_what_can_never_succeed_is_not_retried(statement: str, sessions: Sessions) -> None:
    with pytest.raises(SQLAlchemyError) as refused:
        await execute(sessions, statement)
    assert is_permanent(refused.value)
    assert not is_unreachable(refused.value)
    with pytest.raises(ApplicationError) as raised:
        async with transaction(sessions) as session:
            await session.execute(text(statement.replace(":", "\\:")))
    assert raised.value.type == "DatabaseRefused"
    assert raised.value.non_retryable


@pytest.mark.parametrize("statement", LATER.values(), ids=LATER.keys())
async def test_what_may_pass_is_retried(statement: str, sessions: Sessions) -> None:
    async def attempt() -> None:
        async with transaction(sessions) as session:
            for part in statement.split("; "):
                await session.execute(text(part))

    with pytest.raises(ApplicationError) as raised:
        await attempt()
    assert not raised.value.non_retryable
    assert raised.value.type == "DatabaseAway"


async def test_a_deadlock_is_retried(book: str, sessions: Sessions) -> None:
    await query(sessions, "INSERT INTO books (book_id) VALUES (:a), (:b)", a=f"{book}-a", b=f"{book}-b")
    lock = text("SELECT 1 FROM books WHERE book_id = :book FOR UPDATE")
    ready = asyncio.Barrier(2)

    async def one_then_other(first: str, second: str) -> None:
        async with transaction(sessions) as session:
            await session.execute(lock, {"book": first})
            await ready.wait()
            await session.execute(lock, {"book": second})

    ends = await asyncio.gather(
        one_then_other(f"{book}-a", f"{book}-b"), one_then_other(f"{book}-b", f"{book}-a"), return_exceptions=True
    )
    [error] = [end for end in ends if end is not None]
    assert isinstance(error, ApplicationError)
    assert "deadlock" in error.message
    assert not error.non_retryable


async def test_a_refusal_does_not_repeat_the_values(sessions: Sessions) -> None:
    with pytest.raises(ApplicationError) as raised:
        async with transaction(sessions) as session:
            await session.execute(
                text("INSERT INTO books (book_id) VALUES (:secret), (:secret)"), {"secret": "not for a history"}
            )
    assert raised.value.type == "DatabaseRefused"
    assert "not for a history" not in str(raised.value)


async def test_a_database_that_is_away_is_waited_for() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        engine = open_engine(f"postgresql://nobody:x@127.0.0.1:{nobody.getsockname()[1]}/none", pool_size=1)
        with pytest.raises((OSError, SQLAlchemyError)) as away:
            await execute(sessions_of(engine), "SELECT 1")
        await engine.dispose()
    assert is_unreachable(away.value)
    assert not is_permanent(away.value)


async def test_a_connection_that_is_cut_is_waited_for(sessions: Sessions) -> None:
    async with sessions() as session:
        pid = await backend(session)
        running = asyncio.create_task(session.execute(text("SELECT pg_sleep(60)")))
        await wait_until_it_runs(sessions, pid, "SELECT pg_sleep")
        await query(sessions, "SELECT pg_terminate_backend(:pid)", pid=pid)
        with pytest.raises((OSError, SQLAlchemyError)) as cut:
            await running
        assert is_unreachable(cut.value)
        assert not is_permanent(cut.value)
        await session.invalidate()


async def execute(sessions: Sessions, statement: str) -> None:
    async with sessions.begin() as session:
        await session.execute(text(statement.replace(":", "\\:")))
