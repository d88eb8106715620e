"""The forecast loop: resolving in bulk and beside a long history, and adding up what producers are worth."""

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import psutil
from sqlalchemy import text
from temporalio.testing import ActivityEnvironment

from bench.copying import FORECASTS, RESOLUTION, copying
from closeloop.activities.forecasts import ForecastActivities
from closeloop.activities.producers import ProducerActivities
from closeloop.learning.calibration import BINS, COLUMNS
from closeloop.models.forecasts import PagesResolved, ResolvePages
from closeloop.models.policy import LearningPolicy
from closeloop.models.producers import PerformanceRequest
from closeloop.store.database import Sessions

AS_OF = datetime(2026, 6, 30, tzinfo=UTC)
DAYS = 90
ASSETS = 10
DUE_FORECASTS = 100_000
DUE_TURNS = 3
LOOP_FORECASTS = 1_000
HISTORY_OUTCOMES = 1_000_000
PRODUCERS = 20
FEW_FORECASTS = 1_000
ROUNDS = 9

_CANDLES = """
    INSERT INTO price_history (asset, interval_seconds, ends_at, open, high, low, close, volume, source)
    SELECT 'A' || a || '/X', 300, ends_at, 1, 2, 0.5, round((1 + random() / 10)::numeric, 8), 1, 'bench'
    FROM generate_series(1, :assets) a,
         generate_series(CAST(:first AS timestamptz), CAST(:last AS timestamptz), interval '5 minutes') ends_at
"""
# Every producer forecasts every (asset, horizon) in turn, evenly over the days; the last target is the last instant.
_FORECASTS = """
    INSERT INTO forecasts (book_id, forecast_id, producer_id, asset, horizon, action, confidence, issued_at, target_at,
                           regime)
    SELECT :book, :prefix || i, 'p' || i % :producers, 'A' || 1 + (i / :producers) % :assets || '/X',
           (ARRAY['1h', '4h'])[1 + i % 2], (ARRAY['long', 'short', 'flat'])[1 + (random() * 2)::int],
           round((0.3 + random() * 0.65)::numeric, 3), target - ((ARRAY[1, 4])[1 + i % 2]) * interval '1 hour', target,
           (ARRAY['BULL', 'BEAR'])[1 + (random())::int]
    FROM (SELECT i, CAST(:from_at AS timestamptz)
                 + (CAST(:until AS timestamptz) - CAST(:from_at AS timestamptz)) * i / :count AS target
          FROM generate_series(1, :count) i) f
"""
_DUE = """
    INSERT INTO forecast_resolution_state (book_id, forecast_id, asset, target_at)
    SELECT book_id, forecast_id, asset, target_at FROM forecasts
    WHERE book_id = :book AND forecast_id LIKE :prefix || '%'
"""
_OUTCOMES = """
    INSERT INTO forecast_outcomes (book_id, forecast_id, producer_id, asset, horizon, action, confidence, issued_at,
        target_at, price_at_issue, price_at_target, return_pct, direction_correct, brier_score, log_score, regime,
        resolved_at, resolved_by, policy_hash)
    SELECT book_id, forecast_id, producer_id, asset, horizon, action, confidence, issued_at, target_at, 1, 1.01, 1,
           correct, power(confidence - correct::int, 2), -ln(CASE WHEN correct THEN confidence ELSE 1 - confidence END),
           regime, target_at, 'bench', 'bench'
    FROM (SELECT *, random() < confidence AS correct FROM forecasts
          WHERE book_id = :book AND forecast_id LIKE :prefix || '%') f
"""


@dataclass
class ForecastFigures:
    """What was measured."""

    of_copy: float
    bulk_ratio: float
    bulk_seconds: float
    beside_history: float
    from_scratch_ratio: float
    from_scratch_seconds: float
    brought_up_to_date_seconds: float
    memory_mib: float


async def forecasts(sessions: Sessions, dsn: str) -> ForecastFigures:
    """Print what was measured, and return it."""
    first = AS_OF - timedelta(days=DAYS)
    await _run(sessions, _CANDLES, assets=ASSETS, first=first - timedelta(days=1), last=AS_OF)
    alone = await _few(sessions, "alone")
    of_copy, bulk_ratio, bulk_seconds = await _bulk(sessions, dsn)
    print(f"  filling in {HISTORY_OUTCOMES} outcomes of {PRODUCERS} producers")
    await _history(sessions)
    await _run(sessions, "CHECKPOINT")  # what was filled in is written out before anything is measured
    beside = await _few(sessions, "history")
    print(
        f"Resolving {FEW_FORECASTS} due forecasts: {alone:.2f} s with no history, "
        f"{beside:.2f} s beside {HISTORY_OUTCOMES} outcomes"
    )
    ratio, scratch, update, highest = await _performance(sessions, dsn)
    return ForecastFigures(of_copy, bulk_ratio, bulk_seconds, beside / alone, ratio, scratch, update, highest)


async def _run(sessions: Sessions, sql: str, **values: Any) -> None:
    async with sessions.begin() as session:
        await session.execute(text(sql), values)


async def _send(sessions: Sessions, book: str, prefix: str, count: int, days: float = DAYS) -> None:
    await _run(sessions, "INSERT INTO books (book_id) VALUES (:book) ON CONFLICT DO NOTHING", book=book)
    from_at = AS_OF - timedelta(days=days)
    values = {"book": book, "prefix": prefix, "count": count, "producers": PRODUCERS, "assets": ASSETS}
    await _run(sessions, _FORECASTS, **values, from_at=from_at, until=AS_OF - timedelta(minutes=5))


async def _timed(work: Callable[[], Awaitable[Any]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


async def _resolve(sessions: Sessions) -> None:
    activities = ForecastActivities(sessions, LearningPolicy())
    request = ResolvePages(resolution_id="bench", as_of=AS_OF)
    while True:
        pages: PagesResolved = await ActivityEnvironment().run(activities.resolve_pages, request)
        assert pages.left == 0, f"{pages.left} forecasts have no price"
        if pages.after is None:
            return
        request.after = pages.after


async def _few(sessions: Sessions, prefix: str) -> float:
    """Median seconds of resolving a few."""
    seconds = []
    for number in range(ROUNDS):
        await _send(sessions, f"bench-{prefix}", f"{prefix}{number}-", FEW_FORECASTS)
        await _run(sessions, _DUE, book=f"bench-{prefix}", prefix=f"{prefix}{number}-")
        seconds.append(await _timed(lambda: _resolve(sessions)))
    return statistics.median(seconds)


async def _bulk(sessions: Sessions, dsn: str) -> tuple[float, float, float]:
    """(rate / that of COPY, rate / that of the row-by-row method, seconds for all): medians of turns."""
    ours, copies, loops = [], [], []
    for turn in range(DUE_TURNS):
        book = f"bench-{turn}-bulk"
        await _send(sessions, book, "bulk-", DUE_FORECASTS)
        await _run(sessions, _DUE, book=book, prefix="bulk-")
        await _run(sessions, "ANALYZE forecasts, forecast_resolution_state, price_history")
        ours.append(await _timed(lambda: _resolve(sessions)))
        copies.append(await copying(dsn, book, RESOLUTION, referred_to=FORECASTS))
        loops.append(await _one_by_one(sessions, dsn, f"bench-rows-{turn}"))
    print(f"Resolving {DUE_FORECASTS} due forecasts over {ASSETS} assets with local prices, {DUE_TURNS} turns")
    print(f"  one by one (asyncpg)     {LOOP_FORECASTS / statistics.median(loops):7.0f}/s")
    print(
        f"  COPY of the rows         {DUE_FORECASTS / statistics.median(copies):7.0f}/s "
        "(the same tables and indexes, fsync on)"
    )
    print(
        f"  closeloop                {DUE_FORECASTS / statistics.median(ours):7.0f}/s ({statistics.median(ours):.1f} s)"
    )
    of_copy = statistics.median(copied / own for copied, own in zip(copies, ours, strict=True))
    of_loop = statistics.median(
        (DUE_FORECASTS / own) / (LOOP_FORECASTS / single) for single, own in zip(loops, ours, strict=True)
    )
    return of_copy, of_loop, statistics.median(ours)


async def _one_by_one(sessions: Sessions, dsn: str, book: str) -> float:
    await _send(sessions, book, "rows-", LOOP_FORECASTS)
    connection = await asyncpg.connect(dsn)
    try:
        return await _timed(lambda: _row_by_row(connection, book))
    finally:
        await connection.close()


async def _row_by_row(connection: asyncpg.Connection, book: str) -> None:
    """Two look-ups and two writes a forecast, prepared once, each forecast in its own transaction."""
    price = await connection.prepare(
        "SELECT close FROM price_history WHERE asset = $1 AND ends_at <= $2 AND ends_at >= $2 - interval '30 minutes' "
        "ORDER BY ends_at DESC, interval_seconds LIMIT 1"
    )
    outcome = await connection.prepare(
        "INSERT INTO forecast_outcomes (book_id, forecast_id, producer_id, asset, horizon, action, confidence, "
        "issued_at, target_at, price_at_issue, price_at_target, return_pct, direction_correct, brier_score, log_score, "
        "regime, resolved_at, resolved_by, policy_hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, "
        "$13, $14, 0, $15, now(), 'rows', 'rows') ON CONFLICT DO NOTHING"
    )
    event = await connection.prepare(
        "INSERT INTO events (type, source, payload, dedupe_key) VALUES ('forecast.outcome.v1', 'closeloop', "
        "jsonb_build_object('forecast_id', $1::text, 'brier_score', $2::float8), 'bench/' || $3 || '/' || $1) "
        "ON CONFLICT DO NOTHING"
    )
    for f in await connection.fetch("SELECT * FROM forecasts WHERE book_id = $1", book):
        before, after = (
            await price.fetchval(f["asset"], f["issued_at"]),
            await price.fetchval(f["asset"], f["target_at"]),
        )
        change = 100 * (float(after) - float(before)) / float(before)
        right = {"long": change > 0, "short": change < 0, "flat": abs(change) <= 0.25}[f["action"]]
        score = (f["confidence"] - right) ** 2
        async with connection.transaction():
            await outcome.fetch(
                f["book_id"], f["forecast_id"], f["producer_id"], f["asset"], f["horizon"], f["action"],
                f["confidence"], f["issued_at"], f["target_at"], before, after, change, right, score, f["regime"],
            )  # fmt: skip
            await event.fetch(f["forecast_id"], score, book)


async def _history(sessions: Sessions) -> None:
    for part in range(10):
        await _send(sessions, "bench-history", f"h{part}-", HISTORY_OUTCOMES // 10)
        await _run(sessions, _OUTCOMES, book="bench-history", prefix=f"h{part}-")
    await _run(sessions, "ANALYZE forecasts, forecast_outcomes, forecast_resolution_state")


async def _performance(sessions: Sessions, dsn: str) -> tuple[float, float, float, float]:
    """(plain Python / ours from scratch, seconds from scratch, seconds after a few more, highest MiB of memory)."""
    book = "bench-history"
    await _run(sessions, "DELETE FROM performance_due")
    await _run(
        sessions,
        "INSERT INTO performance_due SELECT :book, d FROM generate_series(CAST(:first AS date), "
        "CAST(:last AS date), interval '1 day') d",
        book=book, first=(AS_OF - timedelta(days=DAYS + 1)).date(), last=AS_OF.date(),
    )  # fmt: skip
    activities = ProducerActivities(sessions, LearningPolicy())
    request = PerformanceRequest(as_of=AS_OF, books=[book])

    async def update() -> None:
        await ActivityEnvironment().run(activities.update_performance, request)

    process = psutil.Process()
    highest = process.memory_info().rss
    work = asyncio.create_task(_timed(update))
    while not work.done():
        await asyncio.wait((work,), timeout=0.05)
        highest = max(highest, process.memory_info().rss)
    scratch = work.result()
    seconds = []
    for number in range(ROUNDS):
        await _send(sessions, book, f"new{number}-", FEW_FORECASTS, days=1)
        await _run(sessions, _DUE, book=book, prefix=f"new{number}-")
        await _resolve(sessions)
        seconds.append(await _timed(update))
    connection = await asyncpg.connect(dsn)
    try:
        plain = await _timed(lambda: _plain_python(connection, book))
    finally:
        await connection.close()
    after_few = statistics.median(seconds)
    print(f"Performance and agreement over {HISTORY_OUTCOMES} outcomes of {PRODUCERS} producers")
    print(f"  plain Python             {plain:7.1f} s")
    print(f"  closeloop from scratch   {scratch:7.1f} s, at most {highest / 2**20:.0f} MiB")
    print(f"  after {FEW_FORECASTS} more outcomes  {after_few:7.2f} s")
    return plain / scratch, scratch, after_few, highest / 2**20


async def _plain_python(connection: asyncpg.Connection, book: str) -> None:
    """Load the rows and group them: the same sums of every slice and bin, and agreement by a block's last forecasts."""
    after = AS_OF - timedelta(days=DAYS)
    width = len(COLUMNS)
    sums: defaultdict[tuple[str, str, str, str], list[float]] = defaultdict(lambda: [0.0] * (width * BINS))
    before: dict[tuple[str, str, str], datetime] = {}
    last: dict[tuple[str, str, int], dict[str, tuple[datetime, str, bool]]] = defaultdict(dict)
    async with connection.transaction():
        async for row in connection.cursor(
            "SELECT producer_id, asset, horizon, regime, action, confidence, issued_at, target_at, direction_correct, "
            "brier_score, log_score FROM forecast_outcomes "
            "WHERE book_id = $1 AND target_at > $2 AND target_at <= $3 AND NOT shadow ORDER BY target_at, forecast_id",
            book, after, AS_OF, prefetch=10_000,
        ):  # fmt: skip
            producer, asset, horizon, regime, action, confidence, issued_at, target_at, right, brier, log = row
            place = width * min(int(confidence * BINS), BINS - 1)
            stream = (producer, asset, horizon)
            gap = (target_at - before.get(stream, after)) / (target_at - issued_at)
            before[stream] = target_at
            of_one = (1, right, min(1.0, gap), confidence, confidence**2, confidence * right, brier**2, log, log**2)
            for a in (asset, ""):
                for h in (horizon, ""):
                    for r in (regime, ""):
                        slot = sums[producer, a, h, r]
                        for column, value in enumerate(of_one, place):
                            slot[column] += value
            spoken = last[asset, horizon, int(issued_at.timestamp()) // 7200]
            if producer not in spoken or spoken[producer][0] <= issued_at:
                spoken[producer] = (issued_at, action, right)
    pairs: defaultdict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0] * 6)
    for (asset, horizon, _), spoken in last.items():
        ranked = sorted(spoken.items())
        for i, (first, (_, one, right_one)) in enumerate(ranked):
            for second, (_, other, right_other) in ranked[i + 1 :]:
                counts = pairs[asset, horizon, first, second]
                counts[0] += 1
                counts[1] += one == other
                counts[2 if one == other else 4] += right_one
                counts[3 if one == other else 5] += right_other
