"""Nothing is missed: what an engine wrote into the database and left there is attributed, and nothing blocks it.

Each test has a database and a namespace of its own: the catch-up reads every book there is.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.worker import Worker

from closeloop import store
from closeloop.activities.positions import CATCH_UP_PAGE_ROWS
from closeloop.models.imports import ImportReport
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.positions import CatchUpReport, CatchUpRequest
from closeloop.services import positions
from closeloop.store.database import Sessions, open_engine, sessions_of
from closeloop.store.imports import StagedRow
from closeloop.workers.registration import register_search_attributes
from tests.activities.attributing import OF_THE_CLOSE, Sql, engine_writes, karma_of_book
from tests.closes import message
from tests.store.databases import query, scratch_database
from tests.waiting import PATIENCE
from tests.workers.namespaces import own_namespace
from tests.workers.own_worker import own_worker

ELSEWHERE = "a queue beside the closes'"


@dataclass
class Apart:
    """A database and a namespace in which nothing else happens."""

    client: Client
    engine: AsyncEngine
    sessions: Sessions
    folder: Path

    def worker(self, task_queue: str = TASK_QUEUE) -> Worker:
        return own_worker(self.client, self.engine, self.folder, task_queue=task_queue)

    async def catch_up(self, **request: int) -> CatchUpReport:
        """Run the workflow on the closes' queue, if a worker polls it."""
        return await self._run(CatchUpRequest(**request), TASK_QUEUE)

    async def look_only(self, **request: int) -> CatchUpReport:
        """Run the workflow on a queue of its own: the closes that it starts stay as they are, without a worker."""
        async with self.worker(task_queue=ELSEWHERE):
            return await self._run(CatchUpRequest(**request), ELSEWHERE)

    async def _run(self, request: CatchUpRequest, queue: str) -> CatchUpReport:
        return await asyncio.wait_for(
            self.client.execute_workflow(
                "CatchUpWorkflow",
                request,
                id=f"catch-up/{uuid.uuid4().hex}",
                task_queue=queue,
                result_type=CatchUpReport,
            ),
            PATIENCE,
        )

    async def ended(self, book: str, position_id: str) -> WorkflowExecutionStatus | None:
        """How a position's workflow ended."""
        prefix = f"position-close/{book}/{position_id}/"
        [name] = [w.id async for w in self.client.list_workflows() if w.id.startswith(prefix)]
        handle = self.client.get_workflow_handle(name)
        try:
            await asyncio.wait_for(handle.result(), PATIENCE)
        except Exception:
            return (await handle.describe()).status
        return WorkflowExecutionStatus.COMPLETED

    async def outcomes(self) -> dict[tuple[str, str], Any]:
        """Every attribution by (book, position)."""
        rows = await query(self.sessions, "SELECT * FROM attributions")
        return {(row["book_id"], row["position_id"]): row for row in rows}

    async def unattributable(self) -> dict[str, list[str]]:
        """By position that cannot be read, the reasons in its events."""
        rows = await query(self.sessions, "SELECT payload FROM events WHERE type = 'position.unattributable.v1'")
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row["payload"]["position_id"], []).append(row["payload"]["reason"])
        return found


@pytest.fixture
async def apart(dsn: str, client: Client, tmp_path: Path) -> AsyncIterator[Apart]:
    own = await own_namespace(client)
    await register_search_attributes(own)
    async with scratch_database(dsn) as scratch:
        engine = open_engine(scratch, pool_size=8)
        yield Apart(own, engine, sessions_of(engine), tmp_path)
        await engine.dispose()


async def test_rows_that_an_engine_wrote_are_attributed(apart: Apart) -> None:
    whole = message("b", "whole")
    await engine_writes(apart.sessions, "b", "bare", **OF_THE_CLOSE)
    await engine_writes(
        apart.sessions,
        "b",
        "whole",
        **OF_THE_CLOSE | {"risk": "5.0", "regime_at_entry": "BULL", "conviction_id": "c-whole"},
        conviction=json.dumps(whole["conviction"]),
        signals=json.dumps(whole["signals"]),
        entry_context=json.dumps(whole["entry_context"]),
    )
    await engine_writes(apart.sessions, "a", "by id", **OF_THE_CLOSE | {"conviction_id": "c-whole"})
    await engine_writes(apart.sessions, "b", "still open")
    async with apart.worker():
        assert await apart.catch_up() == CatchUpReport(started=3)
        for key in (("b", "bare"), ("b", "whole"), ("a", "by id")):
            assert await apart.ended(*key) == WorkflowExecutionStatus.COMPLETED
        outcomes = await apart.outcomes()
        assert {key: row["conviction_status"] for key, row in outcomes.items()} == {
            ("b", "bare"): "none",
            ("b", "whole"): "inline",
            ("a", "by id"): "unknown",
        }
        assert outcomes["b", "whole"]["rr"] == 2.0
        assert await karma_of_book(apart.sessions, "b") == {"ta": (1.0, 1, 0, 1)}
        assert await apart.catch_up() == CatchUpReport()
        assert await apart.outcomes() == outcomes


async def test_what_is_started_shows_in_the_audit_trail_like_any_close(apart: Apart) -> None:
    await engine_writes(apart.sessions, "b", **OF_THE_CLOSE)
    async with apart.worker():
        await apart.catch_up()
        await apart.ended("b", "p-1")
    description = await apart.client.get_workflow_handle(f"position-close/b/p-1/{OF_THE_CLOSE['closed_at']}").describe()
    assert await description.static_summary() == "BTC/USDT long closed +10 [b]"
    assert {pair.key.name: pair.value for pair in description.typed_search_attributes}["Book"] == "b"


UNREADABLE: dict[str, tuple[dict[str, str | None], str]] = {
    "sideways": ({"direction": "sideways"}, "direction"),
    "upper case": ({"direction": "LONG"}, "direction"),
    "no price": ({"exit_price": None}, "exit_price"),
    "no result": ({"realized_pnl": "NaN"}, "realized_pnl"),
    "infinite": ({"realized_pnl": "-Infinity"}, "realized_pnl"),
    "nothing": ({"size": "0"}, "size"),
    "backwards": ({"opened_at": "2026-01-02T00:00:00Z"}, "closed_at"),
    "before our time": ({"opened_at": "1700-01-01T00:00:00Z", "closed_at": "1700-01-02T00:00:00Z"}, "opened_at"),
    "no symbol": ({"symbol": ""}, "symbol"),
}


async def test_rows_that_cannot_be_read_are_reported_once_and_block_no_other(apart: Apart) -> None:
    for name, (columns, _) in UNREADABLE.items():
        await engine_writes(apart.sessions, "b", name, **OF_THE_CLOSE | columns)
    await engine_writes(apart.sessions, "a book of mine", "its name", **OF_THE_CLOSE)
    await engine_writes(apart.sessions, "b", "good", **OF_THE_CLOSE | {"closed_at": "2026-02-01T00:00:00Z"})
    async with apart.worker():
        report = await apart.catch_up()
        number = len(UNREADABLE) + 1
        assert report == CatchUpReport(started=1, unattributable=number, newly_unattributable=number)
        assert await apart.ended("b", "good") == WorkflowExecutionStatus.COMPLETED
        for _ in range(2):
            told = await apart.unattributable()
            assert {name: len(reasons) for name, reasons in told.items()} == dict.fromkeys([*UNREADABLE, "its name"], 1)
            report = await apart.catch_up()
            assert report == CatchUpReport(unattributable=len(UNREADABLE) + 1)
    for name, (_, field) in UNREADABLE.items():
        assert field in told[name][0]
    assert told["its name"][0].startswith("book: ")


BAD_OPTIONAL: dict[str, tuple[dict[str, str | None], str]] = {
    "not signals": ({"signals": '{"ta": 1}'}, "signals"),
    "half a signal": ({"signals": '[{"signal_id": "s"}]'}, "signals.0.producer_id"),
    "not a conviction": ({"conviction": '"strong"'}, "conviction"),
    "strong": (
        {"conviction": '{"conviction_id": "c", "domain_scores": {"x": 2}}'},
        "conviction.domain_scores.x",
    ),
    "drawdown": ({"max_drawdown_pct": "-1"}, "max_drawdown_pct"),
}


async def test_a_bad_optional_column_costs_the_column_and_the_memo_says_so(apart: Apart) -> None:
    for name, (columns, _) in BAD_OPTIONAL.items():
        await engine_writes(apart.sessions, "b", name, **OF_THE_CLOSE | columns)
    async with apart.worker():
        assert await apart.catch_up() == CatchUpReport(started=len(BAD_OPTIONAL))
        for name, (_, field) in BAD_OPTIONAL.items():
            assert await apart.ended("b", name) == WorkflowExecutionStatus.COMPLETED
            closed_at = OF_THE_CLOSE["closed_at"]
            handle = apart.client.get_workflow_handle(f"position-close/b/{name}/{closed_at}")
            assert f"{field}: " in (await (await handle.describe()).memo())["noted"]
        assert await apart.catch_up() == CatchUpReport()


async def test_a_row_that_is_put_right_is_attributed(apart: Apart) -> None:
    await engine_writes(apart.sessions, "b", **OF_THE_CLOSE | {"direction": "LONG"})
    async with apart.worker():
        assert await apart.catch_up() == CatchUpReport(unattributable=1, newly_unattributable=1)
        assert await apart.catch_up() == CatchUpReport(unattributable=1)
        await query(apart.sessions, "UPDATE positions SET direction = lower(direction)")
        assert await apart.catch_up() == CatchUpReport(started=1)
        assert await apart.ended("b", "p-1") == WorkflowExecutionStatus.COMPLETED
        assert await apart.catch_up() == CatchUpReport()


# Instants that PostgreSQL holds and Python does not; the last is a mistake that engines make.
BEYOND_PYTHON = {
    "infinity": Sql("'infinity'"),
    "minus infinity": Sql("'-infinity'"),
    "before Christ": Sql("'0044-03-15 00:00:00+00 BC'"),
    "milliseconds taken for seconds": Sql("to_timestamp(1767225600000)"),
}


async def test_instants_beyond_python_block_no_other(apart: Apart) -> None:
    for name, instant in BEYOND_PYTHON.items():
        await engine_writes(apart.sessions, "b", f"closed {name}", **OF_THE_CLOSE | {"closed_at": instant})
        await engine_writes(apart.sessions, "b", f"opened {name}", **OF_THE_CLOSE | {"opened_at": instant})
    await engine_writes(apart.sessions, "b", "good", **OF_THE_CLOSE | {"closed_at": "2026-02-01T00:00:00Z"})
    async with apart.worker():
        report = await apart.catch_up()
        assert (report.started, report.running_already) == (1, 0)
        assert await apart.ended("b", "good") == WorkflowExecutionStatus.COMPLETED
    assert list(await apart.outcomes()) == [("b", "good")]
    told = await apart.unattributable()
    # A close of the far future is not due yet; every other one is told.
    due = [f"opened {name}" for name in BEYOND_PYTHON] + ["closed minus infinity", "closed before Christ"]
    assert {name: len(reasons) for name, reasons in told.items() if name in due} == dict.fromkeys(due, 1)


async def test_a_row_with_many_producers_blocks_no_other(apart: Apart) -> None:
    """A search attribute holds 2,048 bytes: the names of some hundred producers are more."""
    signals = [{"signal_id": "s", "producer_id": f"a producer with a longer name, {i:03}"} for i in range(200)]
    early = {"opened_at": "2025-12-31T00:00:00Z", "closed_at": "2025-12-31T06:00:00Z"}
    await engine_writes(apart.sessions, "b", "wide", **OF_THE_CLOSE | early, signals=json.dumps(signals))
    await engine_writes(apart.sessions, "b", "good", **OF_THE_CLOSE)
    async with apart.worker():
        assert (await apart.catch_up()).started == 2
        assert await apart.ended("b", "wide") == WorkflowExecutionStatus.COMPLETED
        assert await apart.ended("b", "good") == WorkflowExecutionStatus.COMPLETED
    assert len(await karma_of_book(apart.sessions, "b")) == 200


async def test_pages_follow_each_other_and_what_runs_already_is_counted(apart: Apart) -> None:
    """More rows than a page has, many of the same instant; books and ids in an order that only bytes have."""
    names = ["a", "Z", "é", "𝔘", "10", "9", " "]
    count = CATCH_UP_PAGE_ROWS + 57
    rows = [
        {
            "book_id": f"{'bB-'[i % 3]}",
            "position_id": f"{names[i % 7]}{i}",
            "minute": i // 50,
        }
        for i in range(count)
    ]
    await query(
        apart.sessions,
        "INSERT INTO positions (book_id, position_id, symbol, direction, opened_at, closed_at, entry_price, "
        "exit_price, size, realized_pnl) SELECT book_id, position_id, 'X', 'long', '2026-01-01 00\\:00+00', "
        "timestamptz '2026-01-01 01\\:00+00' + minute * interval '1 minute', 1, 2, 1, 1 "
        "FROM json_to_recordset(CAST(:rows AS json)) AS r(book_id text, position_id text, minute int)",
        rows=json.dumps(rows),
    )
    await engine_writes(apart.sessions, "b", "odd", **OF_THE_CLOSE | {"closed_at": "2026-01-01T01:00:30Z", "size": "0"})
    assert await apart.look_only() == CatchUpReport(started=count, unattributable=1, newly_unattributable=1)
    assert await apart.look_only() == CatchUpReport(running_already=count, unattributable=1)


async def test_at_most_the_limit_is_started(apart: Apart) -> None:
    for i in range(7):
        close = OF_THE_CLOSE | {"closed_at": f"2026-01-01T0{9 - i}:00:00Z"}
        await engine_writes(apart.sessions, "b", f"p-{i}", **close)
    assert await apart.look_only(limit=3) == CatchUpReport(started=3)
    running = [w.id async for w in apart.client.list_workflows('WorkflowType = "PositionCloseWorkflow"')]
    assert set(running) <= {f"position-close/b/p-{i}/2026-01-01T0{9 - i}:00:00Z" for i in (6, 5, 4)}, (
        "the oldest come first"
    )
    report = await apart.look_only(limit=3)
    assert report == CatchUpReport(started=3, running_already=3), "the next run goes on where this one ended"


async def test_a_close_in_the_future_is_not_started_again_and_again(apart: Apart) -> None:
    later = {"closed_at": Sql("clock_timestamp() + interval '1 hour'")}
    await engine_writes(apart.sessions, "b", **OF_THE_CLOSE | later)
    assert (await apart.look_only()).started == 0


async def test_an_import_that_was_staged_and_left_is_started_once(apart: Apart) -> None:
    """The command that staged it died before it could start it; another of the same content runs meanwhile."""

    async def staged(name: str, content: str, seconds: int) -> None:
        async with apart.sessions.begin() as session:
            await store.imports.create(session, name, "jsonl left.jsonl")
            row = StagedRow(0, 0, json.dumps(message("b", "p-1")))
            await store.imports.stage(session, name, [row], [])
            await store.imports.complete(session, name, content)
        ago = f"UPDATE imports SET staged_at = now() - interval '{seconds} seconds' WHERE import_id = :id"
        await query(apart.sessions, ago, id=name)

    await staged("just now", "a" * 64, 10)
    await staged("left", "b" * 64, 1_000)
    await staged("its like", "b" * 64, 900)
    async with apart.sessions.begin() as session:
        await store.imports.create(session, "still read", "jsonl -")
    assert (await apart.look_only()).imports == 1
    assert (await apart.look_only()).imports == 1, "it runs, and no worker has taken it up yet"
    async with apart.worker():
        report = await apart.client.get_workflow_handle(f"import/{'b' * 24}", result_type=ImportReport).result()
        assert (report.import_id, report.books["b"].attributed) == ("left", 1)
        assert (await apart.catch_up()).imports == 1, "its like was waiting for its end"
        report = await apart.client.get_workflow_handle(f"import/{'b' * 24}", result_type=ImportReport).result()
        assert (report.import_id, report.books["b"].already_attributed) == ("its like", 1)
        assert (await apart.catch_up()).imports == 0
    rows = await query(apart.sessions, "SELECT import_id FROM imports WHERE started_at IS NULL ORDER BY 1")
    assert [row["import_id"] for row in rows] == ["just now", "still read"]


async def test_many_rows_that_cannot_be_read_are_read_and_told_once(
    apart: Apart, caplog: pytest.LogCaptureFixture
) -> None:
    many = 20_000
    await query(
        apart.sessions,
        "INSERT INTO positions (book_id, position_id, symbol, direction, opened_at, closed_at, entry_price, "
        "exit_price, size, realized_pnl) SELECT 'b', 'p-' || n, 'X', 'sideways', '2026-01-01', "
        "CASE n % 2 WHEN 0 THEN timestamptz '2026-01-02' ELSE '-infinity' END, 1, 1, 1, 1 "
        "FROM generate_series(1, :many) n",
        many=many,
    )
    await engine_writes(apart.sessions, "b", "good", **OF_THE_CLOSE)

    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "temporalio.activity"]

    async with apart.worker():
        found = CatchUpReport(started=1, unattributable=many, newly_unattributable=many)
        assert await apart.catch_up() == found
        [line] = told()
        assert line.startswith("20000 positions on record cannot be read as closes")
        assert len(line) < 1_000
        written = "SELECT CAST(xmin AS text) AS row FROM unreadable_positions UNION ALL "
        written += "SELECT CAST(xmin AS text) FROM events WHERE type = 'position.unattributable.v1' ORDER BY 1"
        before = await query(apart.sessions, written)
        assert len(before) == 2 * many
        assert await apart.catch_up() == CatchUpReport(unattributable=many)
        assert told() == [line]
        assert await query(apart.sessions, written) == before

        await query(apart.sessions, "UPDATE positions SET direction = 'upwards' WHERE position_id IN ('p-2', 'p-3')")
        await query(apart.sessions, "UPDATE positions SET direction = 'long' WHERE position_id = 'p-4'")
        await query(apart.sessions, "DELETE FROM positions WHERE position_id = 'p-6'")
        changed = CatchUpReport(started=1, unattributable=many - 2, newly_unattributable=2)
        assert await apart.catch_up() == changed
        assert await apart.ended("b", "p-4") == WorkflowExecutionStatus.COMPLETED
        assert len(told()) == 2
    async with apart.sessions() as session:
        first, second = await positions.unreadable(session, book="b", last=2)
        assert (first.position_id, second.position_id) == ("p-9998", "p-9999")
        [before_it] = await positions.unreadable(session, last=1, before=first.name)
        assert before_it.position_id == "p-9997"
        assert first.reason.startswith("direction: ")
    async with apart.sessions() as session:
        assert await positions.read_again(session, "b") == many - 2
    async with apart.worker():
        assert (await apart.catch_up()).newly_unattributable == many - 2
    assert len(await apart.unattributable()) == many


async def test_a_row_that_is_refused_as_it_stands_is_started_once(apart: Apart) -> None:
    await engine_writes(apart.sessions, "b", "in euros", **OF_THE_CLOSE, currency="EUR")
    await engine_writes(apart.sessions, "b", "in dollars", **OF_THE_CLOSE | {"closed_at": "2026-01-02T00:00:00Z"})
    async with apart.worker():
        assert (await apart.catch_up()).started == 2
        for name in ("in euros", "in dollars"):
            assert await apart.ended("b", name) == WorkflowExecutionStatus.COMPLETED
        await engine_writes(apart.sessions, "b", "in yen", **OF_THE_CLOSE, currency="JPY")
        assert (await apart.catch_up()).started == 1
        assert await apart.ended("b", "in yen") == WorkflowExecutionStatus.FAILED
        assert await apart.catch_up() == CatchUpReport(unattributable=1)
        assert "currency: JPY" in (await apart.unattributable())["in yen"][0]
        # A close that is sent with other content is refused, and says nothing of the row on record.
        await engine_writes(apart.sessions, "b", "good", **OF_THE_CLOSE, currency="EUR")
        sent = message("b", "good", currency="JPY", realized_pnl="7")
        with pytest.raises(WorkflowFailureError):
            await apart.client.execute_workflow(
                "PositionCloseWorkflow", sent, id=f"sent/{uuid.uuid4().hex}", task_queue=TASK_QUEUE
            )
        assert await apart.catch_up() == CatchUpReport(started=1, unattributable=1)
        await query(apart.sessions, "UPDATE positions SET currency = 'EUR' WHERE position_id = 'in yen'")
        assert await apart.catch_up() == CatchUpReport(started=1)
