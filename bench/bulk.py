"""Bulk imports against the same rows attributed and learned one by one in a loop of plain transactions."""

import asyncio
import statistics
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

import psutil
from pydantic_core import to_json
from temporalio.client import Client

from bench.closes import closes
from closeloop import store
from closeloop.activities.attribution import attribute
from closeloop.activities.learners import BulkLearner
from closeloop.models.imports import ImportReport, ImportRequest
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import AttributedClose, ClosedPosition
from closeloop.store.database import Sessions
from closeloop.store.imports import StagedRow
from closeloop.workers.wiring import learners_of

ONE_BY_ONE = 500
BULK = 10_000
LARGE = 100_000
ROUNDS = 3


async def bulk(client: Client, sessions: Sessions) -> tuple[float, float]:
    """Print both rates; returns (backfill / loop, positions per second of the backfill)."""
    loop_rates, bulk_rates = [], []
    for number in range(ROUNDS):
        run = f"bench-{uuid.uuid4().hex[:8]}"
        loop_rates.append(await _one_by_one(sessions, closes(f"{run}-loop", ONE_BY_ONE, number, actions=False)))
        bulk_rates.append(await _backfill(client, sessions, closes(f"{run}-bulk", BULK, number, actions=False)))
    print(f"Bulk: backfills of {BULK} closes in turns with {ONE_BY_ONE} in a loop of plain transactions")
    print(f"  loop of transactions     {statistics.median(loop_rates):7.0f}/s")
    print(f"  BackfillWorkflow         {statistics.median(bulk_rates):7.0f}/s (with the karma rebuild at its end)")
    rich = await _backfill(client, sessions, closes(f"bench-{uuid.uuid4().hex[:8]}", BULK))
    print(f"  with two actions each    {rich:7.0f}/s (a scope of 25 dimensions, two rows of patterns a close)")
    ratio = statistics.median(b / o for o, b in zip(loop_rates, bulk_rates, strict=True))
    return ratio, statistics.median(bulk_rates)


async def memory(client: Client, sessions: Sessions, worker: psutil.Process) -> tuple[float, float]:
    """(MiB before, highest MiB) of the worker while a large import runs."""
    before = highest = worker.memory_info().rss / 2**20
    run = asyncio.create_task(_backfill(client, sessions, closes(f"bench-{uuid.uuid4().hex[:8]}", LARGE)))
    while not run.done():
        await asyncio.wait((run,), timeout=0.2)
        highest = max(highest, worker.memory_info().rss / 2**20)
    print(f"Memory of the worker during a backfill of {LARGE} closes at {run.result():.0f}/s")
    print(f"  before {before:.0f} MiB, at most {highest:.0f} MiB")
    return before, highest


async def _one_by_one(sessions: Sessions, positions: Sequence[ClosedPosition]) -> float:
    policy = LearningPolicy()
    learners = [learner for learner in learners_of(policy) if isinstance(learner, BulkLearner)]
    started = time.perf_counter()
    for position in positions:
        async with sessions.begin() as session:
            [answer] = await attribute(session, [position], policy, datetime.now(UTC), "bench")
            assert isinstance(answer, AttributedClose), answer
            for learner in learners:
                await learner.take_in(session, [answer.outcome], {position.key: position.entry_context})
    return len(positions) / (time.perf_counter() - started)


async def _backfill(client: Client, sessions: Sessions, positions: Sequence[ClosedPosition]) -> float:
    import_id = uuid.uuid4().hex
    async with sessions.begin() as session:
        await store.imports.create(session, import_id, "bench")
        for start in range(0, len(positions), 2_000):
            rows = [
                StagedRow(start + i, start + i, to_json(position).decode())
                for i, position in enumerate(positions[start : start + 2_000])
            ]
            await store.imports.stage(session, import_id, rows, [])
    started = time.perf_counter()
    report: ImportReport = await client.execute_workflow(
        "BackfillWorkflow",
        ImportRequest(import_id=import_id),
        id=f"import/{import_id}",
        task_queue=TASK_QUEUE,
        result_type=ImportReport,
    )
    seconds = time.perf_counter() - started
    attributed = sum(counts.attributed for counts in report.books.values())
    assert attributed == len(positions), f"{attributed} of {len(positions)} attributed"
    return len(positions) / seconds
