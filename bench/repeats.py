"""Noticing trades that are one again under another id: what it adds to reading a book's trades, and to an import."""

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from bench.closes import closes
from closeloop import store
from closeloop.activities.attribution import attribute_and_learn
from closeloop.models.policy import LearningPolicy, SameTrade
from closeloop.store.database import Sessions
from closeloop.workers.wiring import learners_of

ROUNDS = 3
BATCH = 1_000  # closes of an import that are looked at together


@dataclass(frozen=True)
class RepeatFigures:
    """Ratios of times: ``reading`` a book's trades for mining with and without it, and ``attributing`` closes with it
    and without."""

    reading: float
    attributing: float


async def repeats(sessions: Sessions, book: str) -> RepeatFigures:
    """Print and return them, for a book that holds a large import of :mod:`bench.closes`."""
    found: dict[SameTrade, list[float]] = {"never": [], "exact": []}
    for _ in range(ROUNDS):
        for rule, times in found.items():
            started = time.perf_counter()
            trades = await _read(sessions, book, rule)
            times.append(time.perf_counter() - started)
    never, exact = (statistics.median(found[rule]) for rule in ("never", "exact"))
    print(f"Trades that are one again under another id, looked for among {trades} actions of {book}")
    print(f"  trades read for mining   {never:7.2f} s without, {exact:.2f} s with it")
    policy = LearningPolicy()
    learners = learners_of(policy)
    attributed, counted = [], []
    for number in range(ROUNDS):
        rows = [
            row.model_copy(update={"position_id": f"new-{number}-{row.position_id}"})
            for row in closes(book, BATCH, 1_000 + number)
        ]
        async with sessions.begin() as session:
            started = time.perf_counter()
            await attribute_and_learn(session, rows, policy, datetime.now(UTC), "bench", learners)
            between = time.perf_counter()
            again = await store.repeats.count(session, "exact", [row.key for row in rows])
            attributed.append(between - started)
            counted.append(time.perf_counter() - between)
            assert sum(again.values()) == 0, again
    print(f"  {BATCH} closes            {_ms(attributed)} ms attributed, {_ms(counted)} ms looked for")
    ratio = statistics.median((a + c) / a for a, c in zip(attributed, counted, strict=True))
    return RepeatFigures(exact / never, ratio)


async def _read(sessions: Sessions, book: str, rule: SameTrade) -> int:
    """What a build of lessons asks of the database, read to the end; how many actions."""
    as_of, count = datetime.now(UTC), 0
    async with sessions() as session:
        groups = await store.patterns.groups(session, book, as_of, rule)
        wanted = [(group.pattern_key, group.action_category) for group in groups]
        async for batch in store.patterns.trades(session, book, as_of, wanted, rule):
            count += len(batch)
    return count


def _ms(seconds: Iterable[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f}"
