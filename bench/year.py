"""``python -m bench.year``: a year of 10,000 closes a day in an embedded PostgreSQL, and what asking takes at its end.

The closes of one day are attributed and learned from as a worker does it. The other days are copies of its rows, made
by ``INSERT ... SELECT`` into the real tables with their indexes and triggers: simulated, and past Temporal. Queries are
the functions that commands and activities call; each is timed at the end of the first week and at the end.
"""

import argparse
import asyncio
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession

from bench.closes import closes
from closeloop import store
from closeloop.activities.attribution import attribute_and_learn
from closeloop.activities.retention import RetentionActivities
from closeloop.gateways.archive import ArchiveFolder
from closeloop.models.events import EventType
from closeloop.models.policy import LearningPolicy
from closeloop.models.retention import Leaving, LeavingBatch
from closeloop.models.weights import CurrentCyclesRequest
from closeloop.services import convictions, periods, storage, workers
from closeloop.services.producers import listing as producers_listing
from closeloop.store.database import Sessions, open_engine, sessions_of
from closeloop.workers.stack.home import Home
from closeloop.workers.stack.postgres import LocalPostgres
from closeloop.workers.wiring import learners_of

BOOKS = 10
BOOKS_WITH_ACTIONS = 2  # the closes of the others say nothing of patterns
LESSONS = 20  # accepted lessons of a book; each run of six hours changes something of all of them
ROUNDS = 5
WEEK = 7
BATCHES = 10
# The tables that a close has rows in; a table comes after those that it refers to.
TABLES = ("positions", "attributions", "conviction_scores", "conviction_log", "pattern_trade_events", "events")
KEYS = {"position_id", "conviction_id", "cycle_id", "id", "dedupe_key"}


async def main(days: int, closes_a_day: int) -> None:
    """Fill, measure after a week, fill on, measure again."""
    folder = Path(tempfile.mkdtemp(prefix="closeloop-year-"))
    folder.chmod(0o755)
    home = Home(folder)
    home.create()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        postgres = LocalPostgres(home, int(probe.getsockname()[1]))
    server = await postgres.start()
    try:
        await store.schema.upgrade(postgres.dsn)
        engine = open_engine(postgres.dsn)
        connection = await asyncpg.connect(postgres.dsn, command_timeout=None)
        first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days)
        await _first_day(sessions_of(engine), first, closes_a_day)
        await _keep_template(connection)
        measured = []
        for begin, end in ((1, min(WEEK, days)), (min(WEEK, days), days)):
            started = time.perf_counter()
            await _fill(connection, first, begin, end)
            rate = closes_a_day * (end - begin) / max(time.perf_counter() - started, 1e-9)
            print(f"day {end}: {closes_a_day * end:,} closes on record; filled at {rate:,.0f} closes/s", flush=True)
            await connection.execute("VACUUM ANALYZE")
            await _print_sizes(connection)
            measured.append(await _ask(sessions_of(engine), first + timedelta(days=end)))
        print(f"\n{'query':<58}{'week 1':>10}{'day ' + str(days):>10}{'ratio':>8}   (median of {ROUNDS}, ms)")
        for name, before in measured[0].items():
            after = measured[1][name]
            print(f"{name:<58}{before:>10.2f}{after:>10.2f}{after / before:>8.1f}")
        await _let_leave(sessions_of(engine), folder / "archive", first + timedelta(days=days))
        await connection.close()
        await engine.dispose()
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)
        if postgres.data.exists():
            shutil.rmtree(postgres.data.parent, ignore_errors=True)


def _book(number: int) -> str:
    return f"book-{number:02}"


async def _first_day(sessions: Sessions, first: datetime, closes_a_day: int) -> None:
    """Attribute the closes of the first day, in batches as an import does it."""
    policy = LearningPolicy()
    learners = learners_of(policy)
    of_book = closes_a_day // BOOKS
    apart = timedelta(hours=20) / of_book  # each is held for three hours: all of them close on the first day
    for number in range(BOOKS):
        rows = closes(_book(number), of_book, number, number < BOOKS_WITH_ACTIONS, first, apart)
        for at in range(0, of_book, 500):
            async with sessions.begin() as session:
                _, report = await attribute_and_learn(
                    session, rows[at : at + 500], policy, datetime.now(UTC), "bench", learners
                )
                assert not report.failed, report


async def _keep_template(connection: asyncpg.Connection) -> None:
    for table in TABLES:
        await connection.execute(f"CREATE TEMP TABLE day_of_{table} AS SELECT * FROM {table}")  # noqa: S608


async def _fill(connection: asyncpg.Connection, first: datetime, begin: int, end: int) -> None:
    """Copy the first day's rows for the days from ``begin`` to before ``end``; each day commits."""
    copies = []
    for table in TABLES:
        names, values = [], []
        for row in await connection.fetch(
            "SELECT column_name AS name, data_type AS type FROM information_schema.columns WHERE table_schema = "
            "'public' AND table_name = $1 AND is_identity = 'NO' AND is_generated = 'NEVER' ORDER BY ordinal_position",
            table,
        ):
            name = row["name"]
            names.append(name)
            if row["type"] == "timestamp with time zone":
                value = f"{name} + $1::int * interval '1 day'"
                if name in ("ts", "recorded_at", "attributed_at"):  # when a close was taken in
                    value = "$2::timestamptz + ($1::int + 0.9) * interval '1 day'"
            elif name in KEYS:
                value = f"{name} || '-' || $1::int"
            elif name == "payload":
                value = "jsonb_set(payload, '{position_id}', to_jsonb((payload ->> 'position_id') || '-' || $1::int))"
            else:
                value = name
            values.append(value)
        copies.append(
            f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} FROM day_of_{table}"  # noqa: S608
        )
    for day in range(begin, end):
        async with connection.transaction():
            for copy in copies:
                await connection.execute(copy, day, *([first] if "$2" in copy else []))
            await _lessons(connection, first, day)


async def _lessons(connection: asyncpg.Connection, first: datetime, day: int) -> None:
    """What four runs of a day leave where something of each accepted lesson changed."""
    runs = (
        "SELECT 'book-' || lpad(b::text, 2, '0') AS book_id, $2::int * 4 + r AS version, "  # noqa: S608
        "$1::timestamptz + $2::int * interval '1 day' + r * interval '6 hours' AS as_of "
        f"FROM generate_series(0, {BOOKS_WITH_ACTIONS - 1}) b, generate_series(0, 3) r"
    )
    await connection.execute(
        "INSERT INTO lesson_runs (book_id, version, as_of, workflow_run, policy_hash, report) "  # noqa: S608
        f"SELECT book_id, version, as_of, 'bench-' || version, 'bench', '{{}}' FROM ({runs}) r",
        first,
        day,
    )
    said = "50, 0.4, 0.4, 0.3, 48, 0.001, 0.01, true, 'active', 0.2, 'bench'"
    columns = "as_of, n, avg_rr, edge_raw, effect, half_life_hours, p, q, actionable, status, edge_score, policy_hash"
    await connection.execute(
        "INSERT INTO learning_lessons (lesson_id, book_id, pattern_key, action_category, scope, win_rate, factors, "  # noqa: S608
        f"newest_trade_at, version, {columns}) "
        f"SELECT book_id || '-' || l, book_id, 'pm.uptrend.S1.buy_flag', 'entry', '{{}}', 0.6, '{{}}', as_of, version, "
        f"as_of, {said} FROM ({runs}) r, generate_series(1, {LESSONS}) l WHERE version % 4 = 0 "
        "ON CONFLICT (lesson_id) DO NOTHING",
        first,
        day,
    )
    await connection.execute(
        f"INSERT INTO lesson_history (lesson_id, version, {columns}) "  # noqa: S608
        f"SELECT book_id || '-' || l, version, as_of, {said} FROM ({runs}) r, generate_series(1, {LESSONS}) l",
        first,
        day,
    )


async def _let_leave(sessions: Sessions, folder: Path, now: datetime) -> None:
    """Let a few batches of events leave, and count what would leave at once."""
    policy = LearningPolicy()
    activities = RetentionActivities(sessions, policy, ArchiveFolder(folder))
    rows = size = 0
    started = time.perf_counter()
    for _ in range(BATCHES):
        left = await activities.let_leave(LeavingBatch(table=Leaving.events, as_of=now))
        rows, size = rows + left.rows, size + left.bytes
    seconds = time.perf_counter() - started
    print(f"\nretention: {rows:,} events left in {BATCHES} batches, {rows / seconds:,.0f}/s", end="")
    print(f", {size / max(rows, 1):.0f} bytes of archive each")
    async with sessions() as session:
        started = time.perf_counter()
        report = await storage.report(session, policy.retention, now, None)
        seconds = time.perf_counter() - started
    print(
        f"storage: told in {seconds * 1000:.0f} ms; " + "; ".join(f"{one.table} {one.rows:,}" for one in report.leaving)
    )


async def _print_sizes(connection: asyncpg.Connection) -> None:
    closes_on_record = await connection.fetchval("SELECT count(*) FROM attributions")
    rows = await connection.fetch(
        "SELECT relname, reltuples::bigint AS rows, pg_total_relation_size(oid) AS bytes, pg_indexes_size(oid) AS "
        "indexes FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace "
        "AND pg_total_relation_size(oid) > 1000000 ORDER BY 3 DESC"
    )
    print(f"  {'table':<24}{'rows':>14}{'MiB':>10}{'indexes MiB':>13}{'bytes a close':>15}")
    for row in rows:
        print(
            f"  {row['relname']:<24}{row['rows']:>14,}{row['bytes'] / 2**20:>10.1f}{row['indexes'] / 2**20:>13.1f}"
            f"{row['bytes'] / closes_on_record:>15.0f}"
        )
    total = sum(row["bytes"] for row in rows)
    print(f"  {'together':<24}{'':>14}{total / 2**20:>10.1f}{'':>13}{total / closes_on_record:>15.0f}", flush=True)


async def _ask(sessions: Sessions, now: datetime) -> dict[str, float]:
    """Median time of each query (ms). ``now``: the end of what is on record."""
    policy = LearningPolicy()
    learners = learners_of(policy)
    rich, plain = _book(0), _book(BOOKS - 1)
    numbers = iter(range(1_000_000))

    async def status(session: AsyncSession) -> None:
        await store.failures.listing(session, 50)
        await store.unreadable.count(session)
        await workers.live(session)
        await periods.standing(session, now)

    async def events(session: AsyncSession, kind: str | None = None, book: str | None = None) -> None:
        assert len([one async for one in store.events.listing(session, kind, book, 20)]) == 20

    async def outcomes(session: AsyncSession, book: str | None) -> None:
        assert len([one async for one in store.attributions.listing(session, book, 20)]) == 20

    async def cycle(session: AsyncSession) -> None:
        await store.weights.first_close(session, plain, now)
        rows = await store.weights.closes_between(
            session, plain, now - timedelta(days=policy.weights.window_days), now, None
        )
        assert rows

    async def mining(session: AsyncSession) -> None:
        groups = await store.patterns.groups(session, rich, now, policy.mining.same_trade)
        asked = [(row.pattern_key, row.action_category) for row in groups[:1]]
        async for _ in store.patterns.trades(session, rich, now, asked, policy.mining.same_trade):
            pass

    async def catch_up(session: AsyncSession) -> None:
        await store.unreadable.forget_changed(session)
        await store.positions.oldest_unattributed(session)
        await store.positions.impossible(session, 200)
        await store.positions.unattributed(session, None, 200)
        await convictions.complete_closes(session, datetime.now(UTC))
        await store.imports.drop_older_than(session, 30)
        await store.imports.drop_abandoned(session, 24)
        for learner in learners:
            await store.patterns.missed(session, learner.name, None, None, 200)

    async def karma(session: AsyncSession) -> None:
        async for _ in store.karma.outcomes_in_order(session, plain):
            pass

    async def close(session: AsyncSession) -> None:
        number = next(numbers)
        rows = closes(f"{plain}-live", 1, number, False, now - timedelta(days=1), timedelta(seconds=1))
        sent = [row.model_copy(update={"position_id": f"live-{now:%j}-{number}"}) for row in rows]
        await attribute_and_learn(session, sent, policy, datetime.now(UTC), "bench", learners)

    asked: dict[str, Callable[[AsyncSession], Awaitable[Any]]] = {
        "attribute one close (of a batch of one)": close,
        "status: what it reads of the database": status,
        "events --last 20": events,
        "events --last 20 --type learning.outcome.v1": lambda s: events(s, EventType.learning_outcome),
        "events --last 20 --book": lambda s: events(s, None, plain),
        "outcomes --last 20": lambda s: outcomes(s, None),
        "outcomes --last 20 --book": lambda s: outcomes(s, plain),
        "outcomes summary of a book (all of its closes)": lambda s: store.attributions.summary(s, plain),
        "weight cycle: the closes of its window": cycle,
        "dispatcher: which cycles are due": lambda s: periods.cycles_due(s, CurrentCyclesRequest(as_of=now)),
        "producers": lambda s: producers_listing(s, policy, now),
        "lessons: groups and trades of a book (all of its closes)": mining,
        "overrides match": lambda s: store.overrides.matching(s, rich, "pm.uptrend.S1.buy_flag", "entry", {}, now),
        "catch-up: what is left": catch_up,
        "karma rebuild: what it reads (all closes of a book)": karma,
    }
    measured = {}
    for name, ask in asked.items():
        times = []
        for _ in range(ROUNDS):
            async with sessions() as session:
                await session.connection()
                started = time.perf_counter()
                await ask(session)
                await session.commit()
                times.append((time.perf_counter() - started) * 1000)
        measured[name] = statistics.median(times)
    return measured


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--days", type=int, default=365)
    arguments.add_argument("--closes-a-day", type=int, default=10_000)
    given = arguments.parse_args()
    asyncio.run(main(given.days, given.closes_a_day))
