"""Workers of weight cycles are killed, with SIGKILL, while a proposal waits and between apply and overlay."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from temporalio.client import Client, WorkflowHandle

from closeloop.models.approvals import ApprovalAnswer
from closeloop.models.weights import CycleRequest, CycleState, CycleView
from tests.activities.weighing import AS_OF, BALANCED, Desk, desk_on, history, learn_from
from tests.faults.weights_worker import READY
from tests.store.databases import query
from tests.waiting import PATIENCE, eventually
from tests.workers.processes import line, script


@pytest.fixture
async def desk(dsn: str, client: Client, tmp_path: Path) -> AsyncIterator[Desk]:
    """Of the test's own: a look at the overlays sees no other book."""
    async with desk_on(dsn, client, tmp_path) as desk:
        yield desk


@asynccontextmanager
async def worker(desk: Desk, queue: str, mode: str = "lives") -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker process, killed at the end as everywhere else here."""
    address = desk.client.service_client.config.target_host
    arguments = (address, desk.dsn, queue, str(desk.folder), mode)
    async with script("tests.faults.weights_worker", *arguments, home=desk.folder) as process:
        assert await line(process) == READY
        yield process


async def killed(process: asyncio.subprocess.Process) -> None:
    assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL


async def proposing(desk: Desk, book: str, queue: str) -> tuple[WorkflowHandle[Any, Any], CycleView]:
    await learn_from(desk, history(book))
    handle: WorkflowHandle[Any, Any] = await desk.client.start_workflow(
        "WeightAdjustmentWorkflow",
        CycleRequest(book=book, as_of=AS_OF, deadline=timedelta(hours=1)),
        id=f"weights/{book}/2026-W15",
        task_queue=queue,
    )
    return handle, await desk.until(f"{book}/2026-W15", "proposed")


async def look_at_overlays(desk: Desk, book: str, queue: str) -> dict[str, Any]:
    report: dict[str, Any] = await desk.client.execute_workflow(
        "OverlayWatchWorkflow", id=f"overlays/{book}", task_queue=queue
    )
    return report


async def test_killed_while_a_proposal_waits(desk: Desk, book: str) -> None:
    """One signal is sent while nothing runs; an update asks the worker that comes after."""
    queue = f"weights-{book}"
    other = f"{book}-2"
    async with worker(desk, queue) as process:
        handle, view = await proposing(desk, book, queue)
        second, _ = await proposing(desk, other, queue)
        for waiting in (handle, second):
            await waiting.query("cycle")  # no task of theirs is under way: its timeout would be waited for
        process.kill()
        await killed(process)
    await handle.signal("approve", {"operator": "ann", "note": "while it was dead"})
    async with worker(desk, queue):
        found = await desk.until(view.cycle_id, "applied")
        assert (found.decided_by, found.note) == ("ann", "while it was dead")
        assert await desk.weights(book) == view.new
        word = {"verdict": "approve", "operator": "bob", "note": ""}
        answer = await asyncio.wait_for(second.execute_update("decide", word, result_type=ApprovalAnswer), PATIENCE)
        assert answer.accepted
    assert await desk.kinds(book) == await desk.kinds(other) == ["proposed", "applied"]


@pytest.mark.parametrize("mode", ["before", "after"])
async def test_killed_between_apply_and_overlay(desk: Desk, book: str, mode: str) -> None:
    """It is repaired at the next look, and not taken for a revert."""
    queue = f"weights-{book}"
    file = desk.folder / f"learned_weights.{book}.yaml"
    async with worker(desk, queue, mode) as process:
        handle, view = await proposing(desk, book, queue)
        await handle.signal("approve", {"operator": "ann"})
        await killed(process)
    assert (await desk.view(view.cycle_id)).state == CycleState.applied
    assert await desk.weights(book) == view.new
    assert file.exists() == (mode == "after")
    async with worker(desk, queue):
        assert await look_at_overlays(desk, book, queue) == {"repaired": [book], "deleted": [], "failed": {}}
        assert yaml.safe_load(file.read_text())["weights"] == view.new
        assert (await desk.view(view.cycle_id)).state == CycleState.applied
        await handle.signal("revert", {"operator": "bob"})
        await desk.until(view.cycle_id, "reverted")
    assert await desk.weights(book) == BALANCED
    assert await desk.kinds(book) == ["proposed", "applied", "reverted"]


async def test_a_file_deleted_while_no_worker_ran_is_a_revert(desk: Desk, book: str) -> None:
    queue = f"weights-{book}"
    file = desk.folder / f"learned_weights.{book}.yaml"
    async with worker(desk, queue) as process:
        handle, view = await proposing(desk, book, queue)
        await handle.signal("approve", {"operator": "ann"})
        assert await eventually(lambda: overlay_on_record(desk, book), bool)
        await handle.query("cycle")
        process.kill()
        await killed(process)
    file.unlink()
    async with worker(desk, queue):
        report = await look_at_overlays(desk, book, queue)
        assert report["deleted"] == [{"cycle_id": view.cycle_id, "book": book}]
        assert (await asyncio.wait_for(handle.result(), PATIENCE))["state"] == "reverted"
    assert await desk.weights(book) == BALANCED


async def overlay_on_record(desk: Desk, book: str) -> bool:
    rows = await query(desk.sessions, "SELECT overlay FROM weight_versions WHERE book_id = :book", book=book)
    return [row["overlay"] for row in rows] == ["written"]
