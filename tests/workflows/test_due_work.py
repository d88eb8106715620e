"""Work of a period through real schedules: on a machine that was off at the beginning, once, whoever else looks."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleBackfill,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
)

from closeloop import store
from closeloop.activities.attribution import attribute
from closeloop.models.corpus import CorpusRequest
from closeloop.models.lessons import LessonRequest
from closeloop.models.periods import DueWorkReport, PeriodicTask, WorkDone
from closeloop.models.policy import LearningPolicy
from closeloop.models.retention import Leaving, RetentionReport, RetentionRequest, TableLeft
from closeloop.models.schedules import DISPATCH_EVERY, DISPATCH_OFFSET
from closeloop.models.weights import Cadence, DispatchReport
from closeloop.store.database import Sessions, open_engine, sessions_of
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.schedules import apply_schedules
from tests.activities.attributing import accepted
from tests.activities.patterning import learn, trades
from tests.closes import closed
from tests.store.databases import query, scratch_database
from tests.waiting import PATIENCE, eventually
from tests.workers.namespaces import own_namespace
from tests.workers.own_worker import own_worker

DAY = timedelta(days=1)
NOW = datetime.now(UTC)
PATTERN = "pm.uptrend.S1.buy_flag"


@dataclass
class Machine:
    """A namespace and a database of the test's own, with schedules that run only when the test says so."""

    client: Client
    engine: AsyncEngine
    sessions: Sessions
    folder: Path

    def schedule(self, name: str) -> ScheduleHandle:
        return self.client.get_schedule_handle(f"closeloop/{name}")

    async def tick(self, name: str, first: datetime, last: datetime) -> list[str]:
        """Let a schedule run as at each of its times from ``first`` to ``last``, all at once; the ids of its runs."""
        times = range(int((last - first) / DISPATCH_EVERY) + 1)
        backfill = ScheduleBackfill(
            start_at=first - timedelta(seconds=1),
            end_at=last + timedelta(seconds=1),
            overlap=ScheduleOverlapPolicy.ALLOW_ALL,
        )
        await self.schedule(name).backfill(backfill)
        ids = [f"closeloop/{name}-{first + i * DISPATCH_EVERY:%Y-%m-%dT%H:%M:%SZ}" for i in times]

        async def missing() -> set[str]:
            listed = self.client.list_workflows(f"WorkflowId STARTS_WITH 'closeloop/{name}-'")
            return set(ids) - {found.id async for found in listed}

        assert await eventually(missing, lambda those: not those) == set()
        return ids

    async def reports(self, runs: Sequence[str], kind: type[Any]) -> list[Any]:
        handles = [self.client.get_workflow_handle(run, result_type=kind) for run in runs]
        return [await asyncio.wait_for(handle.result(), PATIENCE) for handle in handles]

    async def workflows(self, kind: str) -> list[str]:
        return [found.id async for found in self.client.list_workflows(f"WorkflowType = '{kind}'")]

    async def learn(self, book: str, **closes: datetime) -> None:
        actions = [{"pattern_key": PATTERN, "action_category": "entry"}]
        rows = [
            closed(
                book,
                name,
                opened_at=(at - timedelta(hours=1)).isoformat(),
                closed_at=at.isoformat(),
                entry_context={"actions": actions},
            )
            for name, at in closes.items()
        ]
        async with self.sessions.begin() as session:
            for answer in await attribute(session, rows, LearningPolicy(), datetime.now(UTC), "a test"):
                accepted(answer)


@pytest.fixture
async def machine(dsn: str, client: Client, tmp_path: Path) -> AsyncIterator[Machine]:
    own = await own_namespace(client)
    await register_search_attributes(own)
    await apply_schedules(own)
    async with scratch_database(dsn) as scratch:
        engine = open_engine(scratch, pool_size=10)
        made = Machine(own, engine, sessions_of(engine), tmp_path)
        for name in ("weights", "corpus", "lessons", "retention"):
            await made.schedule(name).pause()
        yield made
        for name in ("weights", "corpus", "lessons", "retention"):
            await made.schedule(name).delete()
        await engine.dispose()


async def test_the_corpus_of_a_day_at_whose_beginning_the_machine_was_off(machine: Machine) -> None:
    """It is tended once, as of midnight: what closed since is tomorrow's."""
    skill = machine.folder / "corpus" / "skills" / "pending" / f"{PATTERN}.md"
    skill.parent.mkdir(parents=True)
    skill.write_text("# A skill\nscore: 0\n")
    midnight = PeriodicTask.corpus.begins(NOW) - DAY
    await machine.learn("b", before=midnight - timedelta(seconds=1), at=midnight, after=midnight + timedelta(hours=8))
    async with machine.sessions.begin() as session:
        long_ago = WorkDone(task=PeriodicTask.corpus, as_of=midnight - 9 * DAY, workflow_id="corpus/then")
        await store.periods.done(session, long_ago)
    woke = midnight + timedelta(hours=9) + DISPATCH_OFFSET
    async with own_worker(machine.client, machine.engine, machine.folder):
        [report] = await machine.reports(await machine.tick("corpus", woke, woke), DueWorkReport)
    assert report.as_of == midnight
    assert report.workflow_id == f"corpus/{midnight:%Y-%m-%dT%H:%M:%SZ}"
    matches = await query(machine.sessions, "SELECT position_id FROM pattern_matches WHERE applied ORDER BY 1")
    assert [row["position_id"] for row in matches] == ["at", "before"]
    assert "score: 2" in skill.read_text()
    [row] = await query(machine.sessions, "SELECT task, as_of, workflow_id FROM periodic_work")
    assert dict(row) == {"task": "corpus", "as_of": midnight, "workflow_id": report.workflow_id}


async def test_looking_all_day_starts_the_work_once(machine: Machine) -> None:
    """The 96 looks of a day, all at once: of those that race one starts the work, the others find it started."""
    midnight = PeriodicTask.corpus.begins(NOW) - DAY
    async with own_worker(machine.client, machine.engine, machine.folder):
        looks = await machine.tick("corpus", midnight + DISPATCH_OFFSET, midnight + DAY - timedelta(minutes=13))
        assert len(looks) == 96
        reports = await machine.reports(looks, DueWorkReport)
        started = f"corpus/{midnight:%Y-%m-%dT%H:%M:%SZ}"
        assert [one.workflow_id for one in reports if one.workflow_id] == [started]
        assert await eventually(lambda: machine.workflows("CorpusWorkflow"), bool) == [started]
    assert len(await query(machine.sessions, "SELECT 1 FROM periodic_work")) == 1


async def test_work_that_was_ended_is_due_at_the_next_look(machine: Machine) -> None:
    begins = PeriodicTask.lessons.begins(NOW) - PeriodicTask.lessons.length
    first, second = (begins + DISPATCH_OFFSET + i * DISPATCH_EVERY for i in range(2))
    name = f"lessons/{begins:%Y-%m-%dT%H:%M:%SZ}"
    async with own_worker(machine.client, machine.engine, machine.folder):
        # No worker answers on this queue, so that it can be ended in its middle.
        work = await machine.client.start_workflow(
            "LessonBuildingWorkflow", LessonRequest(as_of=begins, by_schedule=True), id=name, task_queue="nobody"
        )
        [report] = await machine.reports(await machine.tick("lessons", first, first), DueWorkReport)
        assert report.workflow_id is None  # it runs already
        await work.terminate("by mistake")
        [report] = await machine.reports(await machine.tick("lessons", second, second), DueWorkReport)
        assert (report.workflow_id, report.as_of) == (name, begins)
    [row] = await query(machine.sessions, "SELECT as_of FROM periodic_work")
    assert row["as_of"] == begins


async def test_lessons_that_somebody_built_since_the_period_began_stand(machine: Machine) -> None:
    """The work of the period has nothing to do for that book, and fails for none."""
    begins = PeriodicTask.lessons.begins(NOW) - PeriodicTask.lessons.length
    look = begins + DISPATCH_OFFSET
    await learn(machine.sessions, trades("b", 100))
    async with own_worker(machine.client, machine.engine, machine.folder):
        request = LessonRequest(book="b", as_of=NOW)
        await machine.client.execute_workflow("LessonBuildingWorkflow", request, id="by-hand", task_queue="closeloop")
        assert len(await query(machine.sessions, "SELECT 1 FROM lesson_runs")) == 1
        [report] = await machine.reports(await machine.tick("lessons", look, look), DueWorkReport)
        built = await machine.client.get_workflow_handle(report.workflow_id).result()
    assert built["failed"] == {}
    assert await query(machine.sessions, "SELECT 1 FROM failing_work") == []
    assert len(await query(machine.sessions, "SELECT 1 FROM lesson_runs")) == 1


async def test_old_events_leave_once_a_day(machine: Machine) -> None:
    """As of midnight, by the policy of the worker: what is 90 days old then, and not what became so since."""
    midnight = PeriodicTask.retention.begins(NOW)
    woke = midnight + DISPATCH_OFFSET
    await machine.learn("b", old=NOW - DAY, young=NOW - DAY)
    async with machine.sessions.begin() as session:
        await session.execute(text("SET LOCAL session_replication_role = replica"))  # events are append-only
        age = text("UPDATE events SET ts = :at WHERE dedupe_key LIKE :about")
        await session.execute(age, {"at": midnight - 90 * DAY - timedelta(seconds=1), "about": "%/old"})
        await session.execute(age, {"at": midnight - 90 * DAY, "about": "%/young"})
    async with own_worker(machine.client, machine.engine, machine.folder):
        [report] = await machine.reports(await machine.tick("retention", woke, woke), DueWorkReport)
        handle = machine.client.get_workflow_handle(report.workflow_id, result_type=RetentionReport)
        done = await handle.result()
    assert report.workflow_id == f"retention/{midnight:%Y-%m-%dT%H:%M:%SZ}"
    assert (done.as_of, done.failed, done.left[Leaving.events].rows) == (midnight, {}, 2)
    assert {row["about"] for row in await query(machine.sessions, "SELECT dedupe_key AS about FROM events")} == {
        "learning.outcome.v1/b/young",
        "attribution.outcome.v1/b/young",
    }
    assert len(list((machine.folder / "archive").iterdir())) == 1
    [row] = await query(machine.sessions, "SELECT as_of FROM periodic_work WHERE task = 'retention'")
    assert row["as_of"] == midnight


async def test_retention_goes_on_where_the_run_before_stopped(machine: Machine) -> None:
    """What the run before a continue-as-new did is in the report; a table that it had done is not asked for again."""
    so_far = RetentionReport(as_of=NOW, left={Leaving.events: TableLeft(rows=7, batches=1, bytes=70)})
    request = RetentionRequest(as_of=NOW, by_schedule=True, so_far=so_far, done=[Leaving.events])
    await machine.learn("b", old=NOW - DAY)
    async with machine.sessions.begin() as session:
        await session.execute(text("SET LOCAL session_replication_role = replica"))  # events are append-only
        await session.execute(text("UPDATE events SET ts = :at"), {"at": NOW - 91 * DAY})
    async with own_worker(machine.client, machine.engine, machine.folder):
        report: RetentionReport = await machine.client.execute_workflow(
            "RetentionWorkflow", request, id="goes-on", task_queue="closeloop", result_type=RetentionReport
        )
    assert report == so_far
    assert report.sentence == "7 rows of events left, 70 bytes of archive"
    assert len(await query(machine.sessions, "SELECT 1 FROM events")) == 2
    assert len(await query(machine.sessions, "SELECT 1 FROM periodic_work WHERE task = 'retention'")) == 1


async def test_a_week_at_whose_beginning_the_machine_was_off(machine: Machine) -> None:
    """Dispatchers that race begin one cycle for each book, as of Monday; a book of today waits for midnight."""
    monday = Cadence.weekly.begins(NOW)
    last = NOW - (NOW - monday - DISPATCH_OFFSET) % DISPATCH_EVERY
    first = max(last - 7 * DISPATCH_EVERY, min(last, monday + DISPATCH_OFFSET))
    async with machine.sessions.begin() as session:
        for book in ("a", "b", "new"):
            await store.books.hold(session, book)
    await query(machine.sessions, "UPDATE books SET created_at = :at WHERE book_id <> 'new'", at=monday - 30 * DAY)
    week = Cadence.weekly.period(monday)

    async def cycles() -> dict[str, datetime]:
        rows = await query(machine.sessions, "SELECT cycle_id, as_of FROM weight_cycles")
        return {row["cycle_id"]: row["as_of"] for row in rows}

    async with own_worker(machine.client, machine.engine, machine.folder):
        reports = await machine.reports(await machine.tick("weights", first, last), DispatchReport)
        expected = {f"a/{week}": monday, f"b/{week}": monday}
        assert {name for report in reports for name in report.started} == set(expected)
        assert await eventually(cycles, lambda found: found == expected) == expected
        await machine.schedule("weights").trigger()  # somebody wants that of the new book now
        found = await eventually(cycles, lambda found: len(found) == 3)
        assert found.items() >= expected.items()
        assert found[f"new/{week}"] > NOW


async def test_schedules_of_an_older_version_get_the_new_cadence(client: Client) -> None:
    own = await own_namespace(client)
    for name, workflow, arguments in (
        ("weights", "WeightDispatchWorkflow", []),
        ("corpus", "CorpusWorkflow", [CorpusRequest()]),
        ("lessons", "LessonBuildingWorkflow", [LessonRequest()]),
    ):
        await own.create_schedule(
            f"closeloop/{name}",
            Schedule(
                action=ScheduleActionStartWorkflow(
                    workflow, args=arguments, id=f"closeloop/{name}", task_queue="closeloop"
                ),
                spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=DAY)]),
                policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.BUFFER_ONE, catchup_window=timedelta(minutes=10)),
                state=ScheduleState(paused=name == "corpus", note="the disk is full"),
            ),
        )
    await apply_schedules(own)
    for name, workflow in (
        ("weights", "WeightDispatchWorkflow"),
        ("corpus", "DueWorkWorkflow"),
        ("lessons", "DueWorkWorkflow"),
    ):
        schedule = (await own.get_schedule_handle(f"closeloop/{name}").describe()).schedule
        assert isinstance(schedule.action, ScheduleActionStartWorkflow)
        assert schedule.action.workflow == workflow
        assert [(i.every, i.offset) for i in schedule.spec.intervals] == [(DISPATCH_EVERY, DISPATCH_OFFSET)]
        assert schedule.policy.overlap == ScheduleOverlapPolicy.SKIP
        assert (schedule.state.paused, schedule.state.note) == (name == "corpus", "the disk is full")
