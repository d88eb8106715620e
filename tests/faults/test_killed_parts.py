"""A part of the stack is killed in the middle of its work and started again: nothing is lost, nothing is doubled."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import WorkflowAlreadyStartedError

from closeloop import store
from closeloop.gateways.trades import FileRun, FileTrade, Noted, TradeFile
from closeloop.models.policy import ImportsPolicy
from closeloop.services import imports
from closeloop.services.imports import ImportSource
from tests.faults.stack_process import Result, StackProcess, alive
from tests.faults.trades import (
    Trade,
    assert_attributed_once,
    assert_karma_in_order,
    assert_karma_steps_chain,
    attributed,
    held,
    jsonl,
    repeats,
    reports,
    start_close,
    trades,
    until_attributed,
    until_someone_waits,
)
from tests.store.databases import sessions_on
from tests.waiting import until


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[StackProcess]:
    stack = StackProcess()
    try:
        yield await stack.start()
    finally:
        await stack.close()


@dataclass
class KilledPart:
    """What was killed: what was stored of it by then, and what the command or the workflows said in the end."""

    rows: list[Trade]
    stored: int
    answers: list[Any]


@dataclass
class Kills:
    """See ``kills``."""

    stack: StackProcess
    other: StackProcess
    backfill: KilledPart
    live: KilledPart
    everything: KilledPart
    noted: KilledPart


@pytest.fixture(scope="module")
async def other() -> AsyncIterator[StackProcess]:
    """A second stack, starting."""
    other = StackProcess()
    try:
        await other.launch()
        yield other
    finally:
        await other.close()


@pytest.fixture(scope="module")
async def kills(other: StackProcess, stack: StackProcess, tmp_path_factory: pytest.TempPathFactory) -> Kills:
    """Three kills side by side: each waits out the time after which Temporal gives up on a silent worker."""
    folder = tmp_path_factory.mktemp("imports")
    (backfill, live, noted), everything = await asyncio.gather(
        _kill_worker(stack, folder), _kill_everything(other, folder)
    )
    return Kills(stack, other, backfill, live, everything, noted)


async def _kill_worker(stack: StackProcess, folder: Path) -> tuple[KilledPart, KilledPart, KilledPart]:
    history, live, noted = trades("history", 2100), trades("live", 60), trades("noted", 2100)
    file = folder / "history.jsonl"
    file.write_text(jsonl(history))
    client = await stack.client()
    async with (
        held(stack, "history", history[-1:]),
        held(stack, "noted", noted[-1:]),
        held(stack, "live", live[:5]),
        sessions_on(stack.database_url) as sessions,
    ):
        importing = asyncio.create_task(stack.cli("import", "jsonl", file, "--json"))
        engine_s = await Client.connect(
            client.service_client.config.target_host, data_converter=pydantic_data_converter
        )
        async with sessions() as session:
            running = await imports.begin(engine_s, session, _of_a_backtest(noted), ImportsPolicy())
        await until_attributed(stack, "history", 1)
        await until_attributed(stack, "noted", 1)
        await until_someone_waits(stack)
        handles = await asyncio.gather(*(start_close(client, row) for row in live))
        await until_attributed(stack, "live", 10)
        worker = stack.child("worker")
        worker.send_signal(signal.SIGKILL)
        await until("worker gone", lambda: not alive(worker))
        async with stack.database() as connection:
            stored = [await attributed(connection, book) for book in ("history", "live", "noted")]
    answers = await reports(handles)
    report = await imports.outcome(running)
    return (
        KilledPart(history, stored[0], [await importing]),
        KilledPart(live, stored[1], answers),
        KilledPart(noted, stored[2], [running, report]),
    )


def _of_a_backtest(rows: list[Trade]) -> ImportSource:
    """Every third trade was corrected and every seventh noted by the reader, every eleventh has a bad field that only
    the worker finds; at each hundredth, one is still open."""

    def read() -> Iterator[FileTrade]:
        for i, row in enumerate(rows):
            notes = (Noted("enter_tag", "too long"),) if i % 7 == 0 else ()
            message = row | ({"max_drawdown_pct": "deep"} if i % 11 == 0 else {})
            yield FileTrade("noted", i, message, corrected=i % 3 == 0, notes=notes)
            if i % 100 == 0:
                yield FileTrade("noted", i, still_open=True)

    return imports.trades_source(TradeFile(read(), {"noted": FileRun(run_id="killed")}), "freqtrade", "killed.json")


async def _kill_everything(stack: StackProcess, folder: Path) -> KilledPart:
    rows = trades("resumed", 2100)
    file = folder / "resumed.jsonl"
    file.write_text(jsonl(rows))
    await stack.until_line("ready")
    async with held(stack, "resumed", rows[-1:]):
        importing = asyncio.create_task(stack.cli("import", "jsonl", file, "--json"))
        await until_attributed(stack, "resumed", 1)
        await until_someone_waits(stack)
        await stack.kill_everything()
    assert stack.listening() == []
    await stack.start()
    async with stack.database() as connection:
        stored = await attributed(connection, "resumed")
    return KilledPart(rows, stored, [await importing])


async def test_worker_killed_in_the_middle_of_a_backfill(kills: Kills) -> None:
    await _assert_import_exact(kills.stack, "history", kills.backfill)


async def test_worker_killed_in_the_middle_of_live_closes(kills: Kills) -> None:
    rows = kills.live.rows
    assert 0 < kills.live.stored < len(rows)
    found = {report["outcome"]["position_id"] for report in kills.live.answers}
    assert found == {row["position_id"] for row in rows}
    await assert_attributed_once(kills.stack, "live", rows)
    await assert_karma_steps_chain(kills.stack, "live")
    await kills.stack.json("karma", "rebuild", "--book", "live")
    await assert_karma_in_order(kills.stack, "live", rows)


async def test_worker_killed_in_the_middle_of_an_import_with_notes(kills: Kills) -> None:
    """What was noted, corrected and left out is counted once, whoever counted it."""
    rows, (running, report) = kills.noted.rows, kills.noted.answers
    assert 0 < kills.noted.stored < len(rows)
    places = range(len(rows))
    corrected, still_open = sum(i % 3 == 0 for i in places), sum(i % 100 == 0 for i in places)
    assert report.rejected == 0
    assert report.books["noted"].model_dump() == {
        "read": len(rows) + still_open,
        "attributed": len(rows),
        "already_attributed": 0,
        "still_open": still_open,
        "repeated": repeats(rows),
        "corrected": corrected,
    }
    async with sessions_on(kills.stack.database_url) as sessions, sessions() as session:
        found = [(note.index, note.field) async for _, note in store.imports.notes(session, running.import_id)]
    assert found == [
        (i, field) for i in places for field, n in (("enter_tag", 7), ("max_drawdown_pct", 11)) if i % n == 0
    ]
    await assert_attributed_once(kills.stack, "noted", rows)
    await assert_karma_in_order(kills.stack, "noted", rows)


async def test_everything_killed_in_the_middle_of_an_import(kills: Kills) -> None:
    """After the next start the import goes on by itself, and the command that waited for it sees it through."""
    await _assert_import_exact(kills.other, "resumed", kills.everything)


async def _assert_import_exact(stack: StackProcess, book: str, killed: KilledPart) -> None:
    result: Result = killed.answers[0]
    assert 0 < killed.stored < len(killed.rows)
    assert result.status == 0, result.err
    count = len(killed.rows)
    counts = {"read": count, "attributed": count, "already_attributed": 0, "still_open": 0, "corrected": 0}
    counts["repeated"] = repeats(killed.rows)
    counts |= {"rejected": [], "noted": []}
    assert result.json()["books"] == {book: counts}
    await assert_attributed_once(stack, book, killed.rows)
    await assert_karma_in_order(stack, book, killed.rows)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "stopped"])
async def test_postgres_ends_while_closes_are_started(
    stack: StackProcess, number: signal.Signals, tmp_path: Path
) -> None:
    live_book, history_book = f"live-{number.name}", f"history-{number.name}"
    live, history = trades(live_book, 60), trades(history_book, 2100)
    file = tmp_path / "history.jsonl"
    file.write_text(jsonl(history))
    client = await stack.client()
    restarts = len([line for line in stack.lines if line.startswith("postgres  up again")])
    async with held(stack, history_book, history[-1:]), held(stack, live_book, live[:3]):
        importing = asyncio.create_task(stack.cli("import", "jsonl", file, "--json"))
        await until_attributed(stack, history_book, 1)
        await until_someone_waits(stack)
        handles = await asyncio.gather(*(start_close(client, row) for row in live[:30]))
        await until_attributed(stack, live_book, 5)
        server = stack.child("postgres")
        server.send_signal(number)
        await until("server gone", lambda: not alive(server))
        handles += await asyncio.gather(*(start_close(client, row) for row in live[30:]))
    await stack.until_line("postgres  up again", restarts + 1)
    await reports(handles)
    await assert_attributed_once(stack, live_book, live)
    await assert_karma_steps_chain(stack, live_book)
    result = await importing
    assert result.status == 0, result.err
    assert result.json()["books"][history_book]["attributed"] == len(history)
    await assert_attributed_once(stack, history_book, history)
    await assert_karma_in_order(stack, history_book, history)


async def test_temporal_killed_while_closes_are_under_way(stack: StackProcess) -> None:
    rows = trades("temporal", 30)
    client = await stack.client()
    async with held(stack, "temporal", rows[:3]):
        handles = await asyncio.gather(*(start_close(client, row) for row in rows))
        await until_attributed(stack, "temporal", 3)
        stack.child("temporal").send_signal(signal.SIGKILL)
        await stack.until_line("temporal  up again")
    assert len(await reports(handles)) == len(rows)
    await assert_attributed_once(stack, "temporal", rows)
    await assert_karma_steps_chain(stack, "temporal")


async def test_twenty_clients_start_one_position_at_once(stack: StackProcess) -> None:
    row = trades("twenty", 1)[0]
    clients = await asyncio.gather(*(stack.client() for _ in range(20)))
    handles = await asyncio.gather(*(start_close(client, row) for client in clients))
    found = await reports(handles)
    assert {report["outcome"]["position_id"] for report in found} == {row["position_id"]}
    await assert_attributed_once(stack, "twenty", [row])
    await assert_karma_in_order(stack, "twenty", [row])


async def test_twenty_clients_of_which_one_may_start(stack: StackProcess) -> None:
    """An engine may ask Temporal to refuse a second start: 19 get that answer, and the position is attributed."""
    row = trades("one-of-twenty", 1)[0]
    clients = await asyncio.gather(*(stack.client() for _ in range(20)))
    async with held(stack, "one-of-twenty", [row]):
        started = await asyncio.gather(
            *(
                client.start_workflow(
                    "PositionCloseWorkflow",
                    row,
                    id="position-close/one-of-twenty/p",
                    task_queue="closeloop",
                    id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                )
                for client in clients
            ),
            return_exceptions=True,
        )
    assert sum(isinstance(answer, WorkflowAlreadyStartedError) for answer in started) == 19
    await clients[0].get_workflow_handle("position-close/one-of-twenty/p").result()
    await assert_attributed_once(stack, "one-of-twenty", [row])


async def test_the_same_import_twice_at_once(stack: StackProcess, tmp_path: Path) -> None:
    rows = trades("twice", 1000)
    file = tmp_path / "twice.jsonl"
    file.write_text(jsonl(rows))
    results = await asyncio.gather(*(stack.cli("import", "jsonl", file, "--json") for _ in range(2)))
    assert [result.status for result in results] == [0, 0], results
    for result in results:
        counts = result.json()["books"]["twice"]
        assert counts["read"] == counts["attributed"] + counts["already_attributed"] == len(rows)
    await assert_attributed_once(stack, "twice", rows)
    await assert_karma_in_order(stack, "twice", rows)


async def test_two_imports_of_the_same_trades_in_another_order_at_once(stack: StackProcess, tmp_path: Path) -> None:
    """Two files are two imports, which do run at once: what one attributes, the other finds attributed."""
    rows = trades("mirrored", 1200)
    for name, order in (("forth", rows), ("back", rows[::-1])):
        (tmp_path / name).write_text(jsonl(order))
    imports = (stack.cli("import", "jsonl", tmp_path / name, "--json") for name in ("forth", "back"))
    results = await asyncio.gather(*imports)
    assert [result.status for result in results] == [0, 0], results
    counts = [result.json()["books"]["mirrored"] for result in results]
    assert sum(c["attributed"] for c in counts) == len(rows)
    assert sum(c["already_attributed"] for c in counts) == len(rows)
    await assert_attributed_once(stack, "mirrored", rows)
    await assert_karma_in_order(stack, "mirrored", rows)
