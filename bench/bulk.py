"""Bulk imports against COPY of the rows that they write, and against a loop of plain transactions."""

import asyncio
import statistics
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil
from pydantic_core import to_json
from temporalio.client import Client

from bench.closes import closes
from bench.copying import IMPORT, copying
from closeloop import store
from closeloop.activities.attribution import attribute_and_learn
from closeloop.models.imports import ImportReport, ImportRequest
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import AttributedClose, ClosedPosition
from closeloop.store.database import Sessions
from closeloop.store.imports import StagedRow
from closeloop.workers.wiring import learners_of

LOOP_CLOSES = 500
IMPORT_CLOSES = 10_000
MEMORY_CLOSES = 100_000
ROUNDS = 5


@dataclass
class ImportFigures:
    """What was measured: medians over the rounds, each round compared with its neighbours."""

    of_copy: float
    of_loop: float
    per_second: float


async def bulk(client: Client, sessions: Sessions, dsn: str) -> ImportFigures:
    """Print the rates of imports, of COPY and of the loop, in turns."""
    loop_rates, copy_rates, bulk_rates = [], [], []
    for number in range(ROUNDS):
        book = f"bench-{uuid.uuid4().hex[:8]}-bulk"
        bulk_rates.append(await _backfill(client, sessions, closes(book, IMPORT_CLOSES, number, actions=False)))
        copy_rates.append(IMPORT_CLOSES / await copying(dsn, book, IMPORT))
        loop_rates.append(await _one_by_one(sessions, closes(f"{book}-loop", LOOP_CLOSES, number, actions=False)))
    print(
        f"Bulk: backfills of {IMPORT_CLOSES} closes in turns with COPY of what they wrote and {LOOP_CLOSES} in a loop"
    )
    print(f"  COPY of the rows         {statistics.median(copy_rates):7.0f}/s (the same tables and indexes, fsync on)")
    print(f"  BackfillWorkflow         {statistics.median(bulk_rates):7.0f}/s (with the karma rebuild at its end)")
    print(f"  loop of transactions     {statistics.median(loop_rates):7.0f}/s")
    rich_book = f"bench-{uuid.uuid4().hex[:8]}-rich"
    rich = await _backfill(client, sessions, closes(rich_book, IMPORT_CLOSES))
    rich_copy = IMPORT_CLOSES / await copying(dsn, rich_book, IMPORT)
    print(f"  with two actions each    {rich:7.0f}/s (a scope of 25 dimensions, two rows of patterns a close;")
    print(f"                           COPY of those {rich_copy:.0f}/s)")
    return ImportFigures(
        of_copy=statistics.median(b / c for c, b in zip(copy_rates, bulk_rates, strict=True)),
        of_loop=statistics.median(b / o for o, b in zip(loop_rates, bulk_rates, strict=True)),
        per_second=statistics.median(bulk_rates),
    )


async def memory(client: Client, sessions: Sessions, worker: psutil.Process, book: str) -> tuple[float, float]:
    """(MiB before, highest MiB) of the worker while a large import of this book runs."""
    before = highest = worker.memory_info().rss / 2**20
    run = asyncio.create_task(_backfill(client, sessions, closes(book, MEMORY_CLOSES)))
    while not run.done():
        await asyncio.wait((run,), timeout=0.2)
        highest = max(highest, worker.memory_info().rss / 2**20)
    print(f"Memory of the worker during a backfill of {MEMORY_CLOSES} closes at {run.result():.0f}/s")
    print(f"  before {before:.0f} MiB, at most {highest:.0f} MiB")
    return before, highest


async def _one_by_one(sessions: Sessions, positions: Sequence[ClosedPosition]) -> float:
    policy = LearningPolicy()
    learners = learners_of(policy)
    started = time.perf_counter()
    for position in positions:
        async with sessions.begin() as session:
            [answer], report = await attribute_and_learn(
                session, [position], policy, datetime.now(UTC), "bench", learners
            )
            assert isinstance(answer, AttributedClose), answer
            assert not report.failed, report
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
