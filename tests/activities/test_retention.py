"""What is old enough leaves the database into an archive: nothing is lost, nothing is there twice, the rest stays."""

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.models.events import LEAVING_TYPES, EventType
from closeloop.models.forecasts import Forecast
from closeloop.models.retention import ARCHIVE_UNWRITABLE, Leaving, LeftBatch
from closeloop.models.sentences import closing_line
from closeloop.services import storage
from tests.activities.attributing import attributed
from tests.activities.forecasting import forecast
from tests.activities.levering import give, naming
from tests.activities.retaining import DAY, NOW, POLICY, Store, ordered, store_on
from tests.store.databases import query


@pytest.fixture
async def kept(dsn: str, tmp_path: Path) -> AsyncIterator[Store]:
    """A database and an archive of the test's own."""
    async with store_on(dsn, tmp_path / "archive") as kept:
        yield kept


async def append(kept: Store, kind: EventType, about: str) -> None:
    async with kept.sessions.begin() as session:
        await store.events.append(session, (kind, about, {"book": "b", "about": about}))


class TestEvents:
    async def test_those_of_closes_and_forecasts_leave_once_they_are_old(self, kept: Store) -> None:
        await kept.close("old", "young")
        for kind in EventType:
            await append(kept, kind, "made up")
        await kept.age(91, "dedupe_key NOT LIKE '%/b/young'")
        await kept.age(89, "dedupe_key LIKE '%/b/young'")
        before = await kept.rows()
        old = [row for row in before if row["type"] in LEAVING_TYPES and "young" not in row["dedupe_key"]]
        [left] = await kept.leave()
        assert (left.rows, left.more) == (len(old), False) == (6, False)
        assert ordered(await kept.archived()) == ordered(old)
        assert ordered(await kept.rows() + old) == ordered(before)
        assert await kept.leave() == [LeftBatch()]

    async def test_archives_are_readable_by_their_owner_only(self, kept: Store) -> None:
        await kept.close("p")
        await kept.age(91)
        await kept.leave()
        [file] = list(kept.folder.iterdir())
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700

    async def test_batches_are_bounded_and_hold_each_line_once(self, kept: Store) -> None:
        await kept.close(*(f"p-{n:02}" for n in range(10)))
        await kept.age(91)
        before = await kept.rows()
        left = await kept.leave(batch_rows=7)
        assert [one.rows for one in left] == [7, 7, 6]
        assert ordered(await kept.archived()) == ordered(before)
        assert await kept.rows() == []

    async def test_two_runs_at_once(self, kept: Store) -> None:
        await kept.close(*(f"p-{n:02}" for n in range(20)))
        await kept.age(91)
        before = await kept.rows()

        async def run() -> None:
            while await kept.rows():
                with contextlib.suppress(ApplicationError):  # the other one was quicker: Temporal tries again
                    await kept.leave(batch_rows=3)

        await asyncio.gather(run(), run())
        assert ordered(await kept.archived()) == ordered(before)

    async def test_an_event_of_a_clock_that_was_wrong_hides_none_behind_it(self, kept: Store) -> None:
        await kept.close("first", "second")
        await kept.age(91)
        await kept.age(-9_999, "dedupe_key LIKE '%/b/first'")
        [left] = await kept.leave()
        assert left.rows == 2
        assert {row["dedupe_key"].rsplit("/", 1)[1] for row in await kept.rows()} == {"first"}

    async def test_without_an_archive_they_are_gone(self, kept: Store) -> None:
        await kept.close("p")
        await kept.age(91)
        assert await kept.leave(archive=False) == [LeftBatch(rows=2)]
        assert await kept.rows() == []
        assert not kept.folder.exists()
        [row] = await query(kept.sessions, "SELECT file, folder, rows, bytes FROM archives WHERE done_at IS NOT NULL")
        assert dict(row) == {"file": None, "folder": None, "rows": 2, "bytes": 0}

    async def test_for_ever(self, kept: Store) -> None:
        await kept.close("p")
        await kept.age(36_000)
        assert await kept.leave(events_days=None) == [LeftBatch()]
        assert len(await kept.rows()) == 2


class TestWhatTheDatabaseRefuses:
    """The trigger, whoever asks."""

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM events WHERE type = 'learning.lessons.built.v1'",
            "DELETE FROM events WHERE dedupe_key = 'forecast.v1/young'",
            "UPDATE events SET source = 'somebody else'",
            "TRUNCATE events",
        ],
    )
    async def test_a_marked_transaction_may_delete_no_other(self, kept: Store, statement: str) -> None:
        await append(kept, EventType.lessons_built, "old")
        await append(kept, EventType.forecast, "young")
        await kept.age(91, "dedupe_key LIKE '%/old'")
        async with kept.sessions() as session:
            await session.execute(text("SET LOCAL closeloop.archiving = '2100-01-01'"))
            with pytest.raises(DBAPIError, match="append-only"):
                await session.execute(text(statement))
        assert len(await kept.rows()) == 2

    async def test_the_mark_ends_with_its_batch(self, kept: Store) -> None:
        await kept.close("p", "q")
        await kept.age(91)
        ids = [(row["id"],) for row in await kept.rows()]
        async with kept.sessions() as session:
            assert await store.retention.delete(session, Leaving.events, ids[:1], NOW - 90 * DAY) == 1
            with pytest.raises(DBAPIError, match="append-only: DELETE refused"):
                await session.execute(text("DELETE FROM events"))

    async def test_none_that_is_younger_than_the_horizon(self, kept: Store) -> None:
        await kept.close("p")
        await kept.age(91)
        ids = [(row["id"],) for row in await kept.rows()]
        async with kept.sessions() as session:
            with pytest.raises(DBAPIError, match="append-only"):
                await store.retention.delete(session, Leaving.events, ids, NOW - 92 * DAY)


class TestOnceOnly:
    """What is sent again after its event has left is known by its row, and gets no second event."""

    async def test_a_close(self, kept: Store) -> None:
        [first] = await kept.close("p")
        await kept.age(91)
        await kept.leave()
        [again] = await kept.close("p")
        assert first.karma
        assert (again.already_attributed, again.karma, again.outcome) == (True, [], first.outcome)
        assert closing_line(again.outcome, again.karma).count("; its karma steps have left the database") == 1
        assert await kept.rows() == []
        [karma] = await query(kept.sessions, "SELECT trades FROM producer_karma WHERE producer_id = 'ta'")
        assert karma["trades"] == 1

    async def test_a_close_among_others(self, kept: Store) -> None:
        await kept.close("old")
        await kept.age(91)
        await kept.leave()
        [old, new, again] = await kept.close("old", "new", "new")
        assert ([one.already_attributed for one in (old, new, again)], old.karma) == ([True, False, True], [])
        assert new.karma == again.karma != []
        assert {row["payload"]["position_id"] for row in await kept.rows()} == {"new"}

    async def test_a_forecast(self, kept: Store) -> None:
        said: Forecast = forecast("f-1")
        for expected in ({said.key}, set()):
            async with kept.sessions.begin() as session:
                assert (await store.forecasts.record(session, [said])).new == expected
            await kept.age(91)
            await kept.leave()
            assert await kept.rows() == []
        assert [row["dedupe_key"] for row in await kept.archived()] == [f"forecast.v1/{said.book}/f-1"]


class TestWhatFails:
    async def test_a_folder_that_cannot_be_written(self, kept: Store) -> None:
        await kept.close("p")
        await kept.age(91)
        kept.folder.write_text("a file in its place")
        with pytest.raises(ApplicationError, match="nothing was deleted") as caught:
            await kept.leave()
        assert caught.value.type == ARCHIVE_UNWRITABLE
        assert len(await kept.rows()) == 2
        [failing] = await kept.failing()
        assert (failing["task"], failing["subject"]) == ("retention", "events")
        assert str(kept.folder) in failing["reason"]
        assert "CLOSELOOP_ARCHIVE" in failing["reason"]
        await kept.leave(Leaving.lesson_history)  # there is nothing to write for it: the other table is not held up
        kept.folder.unlink()
        [left] = await kept.leave()
        assert left.rows == 2
        assert await kept.failing() == []
        [counted] = await query(kept.sessions, "SELECT count(*) AS n FROM archives")
        assert counted["n"] == 1

    async def test_what_an_attempt_left_behind_counts_for_nothing(self, kept: Store) -> None:
        await kept.close("p")
        await kept.age(91)
        before = await kept.rows()
        kept.folder.mkdir()
        (kept.folder / "events-left.jsonl.gz").write_bytes(b"complete, but not committed")
        (kept.folder / ".events-part.jsonl.gz.part").write_bytes(b"half")
        (kept.folder / "events-of-somebody-else.jsonl.gz").write_bytes(b"stays")
        async with kept.sessions.begin() as session:
            for name in ("events-left.jsonl.gz", "events-part.jsonl.gz"):
                await store.retention.begin(session, Leaving.events, NOW, str(kept.folder), name)
        await kept.leave()
        assert ordered(await kept.archived()) == ordered(before)
        assert len(list(kept.folder.iterdir())) == 2
        assert (kept.folder / "events-of-somebody-else.jsonl.gz").exists()


RUN = (
    "INSERT INTO lesson_runs (book_id, version, as_of, workflow_run, policy_hash, report) "
    "VALUES ('b', 1, :at, 'r', 'x', '{}')"
)
LESSON = (
    "INSERT INTO learning_lessons (lesson_id, book_id, pattern_key, action_category, scope, n, avg_rr, win_rate, "
    "edge_raw, actionable, status, factors, newest_trade_at, version, as_of, policy_hash) VALUES "
    "('l', 'b', 'k', 'entry', '{}', 1, 0.1, 1, 0.1, true, 'active', '{}', :at, 1, :at, 'x')"
)
LINE = (
    "INSERT INTO lesson_history (lesson_id, version, as_of, n, avg_rr, edge_raw, actionable, status, policy_hash) "
    "VALUES (:lesson, :version, :at, 1, 0.1, 0.1, true, :status, 'x')"
)


class TestLessonHistory:
    @pytest.mark.parametrize(
        ("lines", "stay"),
        [
            # (age in days, status) of versions 1, 2, ...; which of them stay with 365 days
            (
                [(400, "active"), (390, "active"), (380, "active"), (10, "active")],
                [3, 4],
            ),  # 3 was in force at the horizon
            ([(400, "active")], [1]),
            ([(400, "active"), (10, "active")], [1, 2]),
            ([(400, "active"), (390, "active"), (380, "retired")], [2, 3]),  # the newest accepted one stays
            ([(300, "active"), (200, "active")], [1, 2]),
        ],
    )
    async def test_what_was_in_force_in_the_kept_days_stays(
        self, kept: Store, lines: list[tuple[int, str]], stay: list[int]
    ) -> None:
        await kept.close("p")
        await query(kept.sessions, RUN, at=NOW)
        await query(kept.sessions, LESSON, at=NOW)
        for version, (days, status) in enumerate(lines, 1):
            await query(kept.sessions, LINE, lesson="l", version=version, at=NOW - days * DAY, status=status)
        before = await kept.rows(Leaving.lesson_history)
        await kept.leave(Leaving.lesson_history)
        after = await kept.rows(Leaving.lesson_history)
        assert sorted(row["version"] for row in after) == stay
        assert ordered(after + await kept.archived(Leaving.lesson_history)) == ordered(before)


async def test_levers_leave_unless_a_close_was_filled_in_from_them(kept: Store) -> None:
    for name, days in (("named-old", 91), ("old", 91), ("young", 89)):
        await give(kept.sessions, "b", name, given_at=NOW - days * DAY)
    await attributed(kept.sessions, naming("b", "named-old"))
    before = await kept.rows(Leaving.market_levers)
    [left] = await kept.leave(Leaving.market_levers)
    after = await kept.rows(Leaving.market_levers)
    assert (left.rows, {row["levers_id"] for row in after}) == (1, {"named-old", "young"})
    assert ordered(after + await kept.archived(Leaving.market_levers)) == ordered(before)
    await kept.leave(Leaving.market_levers, levers_days=None)
    assert await kept.rows(Leaving.market_levers) == after


async def test_the_storage_report(kept: Store) -> None:
    await kept.close("old", "young")
    await kept.age(91, "dedupe_key LIKE '%/b/old'")
    async with kept.sessions() as session:
        before = await storage.report(session, POLICY.retention, NOW, None)
    assert {table.table for table in before.tables} >= {"events", "attributions", "archives"}
    assert before.database_bytes > sum(table.bytes for table in before.tables) > 0
    assert before.by_policy_of == "this command: no worker lives"
    assert [(one.table, one.rows, one.days, one.counted_to_the_end) for one in before.leaving] == [
        (Leaving.events, 2, 90, True),
        (Leaving.lesson_history, 0, 365, True),
        (Leaving.market_levers, 0, 90, True),
    ]
    assert [(one.rows, one.files, one.until) for one in before.archives] == [(0, 0, None)] * 3
    await kept.leave()
    async with kept.sessions() as session:
        after = await storage.report(session, POLICY.retention, NOW, None)
    events = after.archives[0]
    assert (events.rows, events.files, events.until, events.unfinished) == (2, 1, NOW - 90 * DAY, 0)
    assert events.folders == [str(kept.folder)]
    assert events.bytes == sum(file.stat().st_size for file in kept.folder.iterdir())
    assert after.leaving[0].rows == 0
    assert after.leaving[0].next_at - NOW <= timedelta(days=1)
