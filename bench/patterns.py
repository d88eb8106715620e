"""A match against 10,000 stored overrides, in the database, in turns with a scan that filters in Python."""

import random
import time
import uuid
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.lessons import LearningLesson, LessonRun
from closeloop.models.overrides import ProposedOverride
from closeloop.store.database import Sessions
from closeloop.store.rows import execute, insertion

OVERRIDES = 10_000
PATTERNS = 20
DIMENSIONS = [f"dimension_{i:02}" for i in range(28)]
VALUES = 4
MATCHES = 400
WARM_UP = 20
EXPIRES_AT = datetime(2100, 1, 1, tzinfo=UTC)


async def match(sessions: Sessions) -> tuple[float, float]:
    """Print both; returns (p99 of the match in the database in ms, how many times a scan in Python takes as long).

    All overrides are of one book, over 20 patterns; then all of one pattern, which is the worst that can be.
    """
    spread = await _measure(sessions, PATTERNS)
    await _measure(sessions, 1)
    return spread


async def _measure(sessions: Sessions, patterns: int) -> tuple[float, float]:
    book = f"bench-{uuid.uuid4().hex[:8]}"
    rng = random.Random(patterns)
    await store_overrides(sessions, book, patterns, rng)
    inside, whole, scans = [], [], []
    async with sessions() as session:
        for number in range(WARM_UP + MATCHES):
            pattern, scope = f"p{rng.randrange(patterns)}", {d: f"v{rng.randrange(VALUES)}" for d in DIMENSIONS}
            started = time.perf_counter()
            found = await store.overrides.matching(
                session, book, pattern, "entry", scope, EXPIRES_AT - timedelta(days=1)
            )
            took = time.perf_counter() - started
            started = time.perf_counter()
            scanned = await _scan(session, book, pattern, scope)
            scan = time.perf_counter() - started
            assert [row["override_id"] for row in found] == scanned
            if number >= WARM_UP:
                whole.append(took * 1000)
                scans.append(scan * 1000)
                inside.append(await _in_the_database(session, book, pattern, scope))
    print(f"Match against {OVERRIDES} stored overrides of {patterns} patterns, scopes of {len(DIMENSIONS)} dimensions")
    for name, times in (("in the database", inside), ("with the round trip", whole), ("scan in Python", scans)):
        print(f"  {name:<24} p50 {_percentile(times, 0.5):7.2f} ms   p99 {_percentile(times, 0.99):7.2f} ms")
    return _percentile(inside, 0.99), _percentile(scans, 0.5) / _percentile(whole, 0.5)


async def store_overrides(sessions: Sessions, book: str, patterns: int, rng: random.Random) -> None:
    """Put 10,000 overrides of a book on record, over so many patterns."""
    now = datetime.now(UTC)
    of_all = {"book_id": book, "as_of": now, "policy_hash": "bench"}
    scopes: dict[str, tuple[str, dict[str, str]]] = {}
    while len(scopes) < OVERRIDES:
        scope = {d: f"v{rng.randrange(VALUES)}" for d in sorted(rng.sample(DIMENSIONS, rng.choice((1, 2, 2, 3, 3))))}
        pattern = f"p{rng.randrange(patterns)}"
        scopes.setdefault(f"{pattern}/{scope}", (pattern, scope))
    lessons = [
        {
            "lesson_id": uuid.uuid4().hex[:16],
            "pattern_key": pattern,
            "action_category": "entry",
            "scope": scope,
            "n": 50,
            "avg_rr": 1.0,
            "win_rate": 0.5,
            "edge_raw": 1.0,
            "actionable": True,
            "status": "active",
            "factors": {},
            "newest_trade_at": now,
            "version": 1,
            **of_all,
        }
        for pattern, scope in scopes.values()
    ]
    overrides = [
        ProposedOverride(
            override_id=str(lesson["lesson_id"]),
            lesson_id=str(lesson["lesson_id"]),
            lesson_version=1,
            pattern_key=pattern,
            action_category="entry",
            scope=scope,
            anchor=store.overrides.conditions(scope)[0],
            size_multiplier=1.1,
            threshold_adjustments={"ts_threshold": -0.01},
            confidence=0.5,
            expires_at=EXPIRES_AT,
            run="bench",
            book_id=book,
            as_of=now,
            policy_hash="bench",
        )
        for lesson, (pattern, scope) in zip(lessons, scopes.values(), strict=True)
    ]
    async with sessions.begin() as session:
        await session.execute(text("INSERT INTO books (book_id) VALUES (:book)"), {"book": book})
        await execute(session, insertion(LessonRun, [{"version": 1, "workflow_run": "bench", "report": {}} | of_all]))
        await execute(session, insertion(LearningLesson, lessons))
        await store.overrides.add(session, overrides)
    async with sessions() as session:
        await session.execute(text("ANALYZE pm_overrides"))
        await session.commit()


async def _scan(session: AsyncSession, book: str, pattern: str, scope: dict[str, str]) -> list[str]:
    rows = await session.execute(
        text(
            "SELECT override_id, pattern_key, action_category, scope, size_multiplier, threshold_adjustments, "
            "confidence FROM pm_overrides WHERE book_id = :book AND status = 'active'"
        ),
        {"book": book},
    )
    return sorted(
        row.override_id
        for row in rows
        if row.pattern_key == pattern
        and row.action_category == "entry"
        and all(scope.get(dimension) == value for dimension, value in row.scope.items())
    )


async def _in_the_database(session: AsyncSession, book: str, pattern: str, scope: dict[str, str]) -> float:
    """Planning and execution of the statement, as PostgreSQL measures them (ms)."""
    values = store.overrides.matching_values(book, pattern, "entry", scope, EXPIRES_AT - timedelta(days=1))
    [plan] = (
        await session.execute(text(f"EXPLAIN (ANALYZE, TIMING off, FORMAT JSON) {store.overrides.MATCHING}"), values)
    ).scalar_one()
    return float(plan["Planning Time"] + plan["Execution Time"])


def _percentile(times: list[float], share: float) -> float:
    return sorted(times)[int(len(times) * share)]
