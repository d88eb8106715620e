"""Every workflow, run by a sandboxed worker beside a live asyncpg pool. Run by test_sandbox.py.

A C extension that the sandbox imported twice would crash this process: its exit status tells.
"""

import asyncio
import contextlib
import os
import sys
import traceback
from typing import Any

import asyncpg
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError

from closeloop import store
from closeloop.store.database import sessions_of
from closeloop.store.imports import StagedRow
from closeloop.workers.addresses import database_url
from closeloop.workers.settings import Settings
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import WORKFLOWS, connect_temporal, open_database
from tests.closes import closed, message
from tests.workers.own_worker import own_worker

QUERIES = 4


async def main(book: str) -> None:
    settings = Settings.load()
    client = await connect_temporal(settings, Telemetry(settings))
    engine = open_database(settings)
    sessions = sessions_of(engine)
    async with sessions.begin() as session:
        await store.imports.create(session, book, "every workflow")
        row = StagedRow(0, 0, closed(book, "p-2").model_dump_json(exclude_none=True))
        await store.imports.stage(session, book, [row], [])
    arguments: dict[str, list[Any]] = {
        "PositionCloseWorkflow": [message(book, "p-1")],
        "ConvictionWorkflow": [
            {"book": book, "conviction_id": "c", "cycle_id": "y", "symbol": "X", "domain_scores": {"onchain": 1}}
        ],
        "BackfillWorkflow": [{"import_id": book}],
        "KarmaRebuildWorkflow": [{"book": book}],
        "CatchUpWorkflow": [{}],
        "MarketBackfillWorkflow": [{"book": book}],
    }
    over = asyncio.Event()

    async def keep_asking(pool: "asyncpg.Pool[asyncpg.Record]") -> int:
        answers = 0
        while not over.is_set():
            answers += await pool.fetchval("SELECT 1")
        return answers

    async with asyncpg.create_pool(database_url(settings), min_size=QUERIES, max_size=QUERIES) as pool:
        asking = [asyncio.create_task(keep_asking(pool)) for _ in range(QUERIES)]
        queue = f"sandbox-{book}"
        async with own_worker(client, engine, settings.home, task_queue=queue):
            for workflow in WORKFLOWS:
                name = workflow.__name__
                handle = await client.start_workflow(
                    name, args=arguments.get(name, []), id=f"sandbox/{book}/{name}", task_queue=queue
                )
                if name in arguments:
                    await handle.result()
                else:
                    await first_task(handle)
                print(f"ran {name}", flush=True)
        over.set()
        assert all(await asyncio.gather(*asking))
    await engine.dispose()


async def first_task(handle: WorkflowHandle[Any, Any]) -> None:
    """The sandbox has imported and begun the workflow: what its own lifecycle's tests go on with is not needed here.

    A task fails where the workflow's module cannot be imported or raises what is no failure of the workflow's own.
    """
    async for event in handle.fetch_history_events(wait_new_event=True):
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
            raise AssertionError(f"{handle.id}: {event.workflow_task_failed_event_attributes.failure.message}")
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            break
    with contextlib.suppress(RPCError):  # it may have ended by itself
        await handle.terminate()


if __name__ == "__main__":
    status = 1
    try:
        asyncio.run(main(sys.argv[1]))
        status = 0
    except Exception:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)
