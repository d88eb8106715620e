"""What repeats is what the table says, however often it is applied, and an operator's pause stays."""

import asyncio
from datetime import timedelta
from pathlib import Path

from temporalio.client import (
    Client,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)

from closeloop.models.market import Timeframe
from closeloop.models.market_runs import MarketRequest
from closeloop.models.positions import CatchUpReport
from closeloop.models.schedules import MARKET_SCHEDULES, SCHEDULES
from closeloop.services.temporal_looks import look
from closeloop.store.database import open_engine, sessions_of
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.schedules import apply_schedules
from closeloop.workers.wiring import WORKFLOWS
from tests.activities.attributing import OF_THE_CLOSE, engine_writes
from tests.store.databases import query, scratch_database
from tests.waiting import PATIENCE, eventually
from tests.workers.namespaces import own_namespace
from tests.workers.own_worker import own_worker

IDS = [repeated.id for repeated in SCHEDULES]
MARKET = [repeated.id for repeated in MARKET_SCHEDULES]


async def test_the_schedules_are_those_of_the_table(client: Client) -> None:
    own = await own_namespace(client)
    assert await apply_schedules(own) == IDS
    for repeated in SCHEDULES:
        schedule = (await own.get_schedule_handle(repeated.id).describe()).schedule
        assert [(i.every, i.offset or timedelta(0)) for i in schedule.spec.intervals] == [
            (repeated.every, repeated.offset)
        ]
        assert (schedule.policy.overlap, schedule.policy.catchup_window) == (repeated.overlap, repeated.catch_up)
        assert not schedule.state.paused
        action = schedule.action
        assert isinstance(action, ScheduleActionStartWorkflow)
        assert action.workflow == repeated.workflow
        assert action.task_queue == repeated.task_queue
        expected = [] if repeated.argument is None else [repeated.argument]
        assert await own.data_converter.decode(action.args, [type(argument) for argument in expected]) == expected
        assert repeated.workflow in {workflow.__name__ for workflow in WORKFLOWS}


def test_a_missed_close_is_looked_for_every_five_minutes() -> None:
    [catch_up] = [repeated for repeated in SCHEDULES if repeated.workflow == "CatchUpWorkflow"]
    assert catch_up.every == timedelta(minutes=5)


async def test_applying_again_changes_nothing(client: Client) -> None:
    own = await own_namespace(client)
    await apply_schedules(own)
    before = {name: state_of(await own.get_schedule_handle(name).describe()) for name in IDS}
    assert await apply_schedules(own) == IDS
    assert {name: state_of(await own.get_schedule_handle(name).describe()) for name in IDS} == before

    async def listed() -> list[str]:
        return sorted([schedule.id async for schedule in await own.list_schedules()])

    assert await eventually(listed, lambda ids: ids == sorted(IDS)) == sorted(IDS)


async def test_what_was_changed_by_hand_is_put_back_and_what_is_paused_stays_paused(client: Client) -> None:
    own = await own_namespace(client)
    await apply_schedules(own)
    handle = own.get_schedule_handle(SCHEDULES[0].id)

    def slower_and_paused(current: ScheduleUpdateInput) -> ScheduleUpdate:
        schedule = current.description.schedule
        schedule.spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(days=1))])
        schedule.state.paused, schedule.state.note = True, "the exchange is down"
        return ScheduleUpdate(schedule=schedule)

    await handle.update(slower_and_paused)
    await apply_schedules(own)
    schedule = (await handle.describe()).schedule
    assert [interval.every for interval in schedule.spec.intervals] == [SCHEDULES[0].every]
    assert (schedule.state.paused, schedule.state.note) == (True, "the exchange is down")


async def test_the_market_repeats_where_it_is_on(client: Client) -> None:
    """Its schedules come with the mode, go with it, and are as applied in between."""
    own = await own_namespace(client)
    await register_search_attributes(own)
    for mode in ("recorded", "sources"):
        assert await apply_schedules(own, mode) == [*IDS, *MARKET]  # type: ignore[arg-type]
    for repeated, timeframe in zip(MARKET_SCHEDULES, Timeframe, strict=True):
        schedule = (await own.get_schedule_handle(repeated.id).describe()).schedule
        assert schedule.spec.intervals == [ScheduleIntervalSpec(every=timeframe.step, offset=repeated.offset)]
        assert schedule.policy.overlap == ScheduleOverlapPolicy.SKIP
        action = schedule.action
        assert isinstance(action, ScheduleActionStartWorkflow)
        [argument] = await own.data_converter.decode(action.args, [MarketRequest])
        assert (action.workflow, argument) == ("MarketWorkflow", MarketRequest(timeframe=timeframe))
        assert repeated.offset >= timedelta(seconds=10), "a candle is used from 10 s after its end on"
    looked = await look(own, "sources")
    assert looked.schedules is not None
    assert [one.id for one in looked.schedules] == [*IDS, *MARKET]
    assert looked.troubles == []
    [trouble] = (await look(own, "off")).troubles
    assert trouble.sentence == f"{', '.join(MARKET)} run, though CLOSELOOP_MARKET is off here"
    for _ in range(2):
        assert await apply_schedules(own) == IDS
    looked = await look(own, "off")
    assert looked.schedules is not None
    assert ([one.id for one in looked.schedules], looked.troubles) == (IDS, [])
    [trouble] = (await look(own, "recorded")).troubles
    assert trouble.sentence == f"missing: {', '.join(MARKET)}; nothing starts their work"


async def test_a_scheduled_run_starts_what_was_missed(dsn: str, client: Client, tmp_path: Path) -> None:
    own = await own_namespace(client)
    await register_search_attributes(own)
    await apply_schedules(own)
    handle = own.get_schedule_handle("closeloop/catch-up")
    async with scratch_database(dsn) as scratch:
        engine = open_engine(scratch, pool_size=4)
        sessions = sessions_of(engine)
        await engine_writes(sessions, "b", **OF_THE_CLOSE)
        async with own_worker(own, engine, tmp_path):
            await handle.trigger()
            actions = await eventually(lambda: runs(handle), bool)
            run = own.get_workflow_handle(actions[0], result_type=CatchUpReport)
            assert await asyncio.wait_for(run.result(), PATIENCE) == CatchUpReport(started=1)
            name = f"position-close/b/p-1/{OF_THE_CLOSE['closed_at']}"
            await asyncio.wait_for(own.get_workflow_handle(name).result(), PATIENCE)
        assert len(await query(sessions, "SELECT 1 FROM attributions")) == 1
        await engine.dispose()


async def runs(schedule: ScheduleHandle) -> list[str]:
    """Ids of the workflows that a schedule started."""
    recent = [result.action for result in (await schedule.describe()).info.recent_actions]
    return [action.workflow_id for action in recent if isinstance(action, ScheduleActionExecutionStartWorkflow)]


def state_of(description: ScheduleDescription) -> tuple[object, ...]:
    schedule = description.schedule
    action = schedule.action
    assert isinstance(action, ScheduleActionStartWorkflow)
    return schedule.spec, schedule.policy, schedule.state, action.workflow, action.id, action.task_queue, action.args
