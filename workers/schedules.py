"""The schedules of ``models/schedules.py`` on the server."""

from collections.abc import Callable

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from closeloop.models.market_sources import MarketMode
from closeloop.models.schedules import MARKET_SCHEDULES, ScheduledWorkflow, schedules_of


async def apply_schedules(client: Client, market: MarketMode = "off") -> list[str]:
    """Create or update every schedule of the table, those of the market as ``market`` says; returns their ids.

    Where it is off, the market's are removed.
    """
    wanted = schedules_of(market)
    for repeated in wanted:
        schedule = _schedule(repeated)
        try:
            await client.create_schedule(repeated.id, schedule)
        except ScheduleAlreadyRunningError:
            await client.get_schedule_handle(repeated.id).update(_keeping_pause(schedule))
    for repeated in MARKET_SCHEDULES:
        if repeated not in wanted:
            try:
                await client.get_schedule_handle(repeated.id).delete()
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
    return [repeated.id for repeated in wanted]


def _schedule(repeated: ScheduledWorkflow) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            repeated.workflow,
            args=[] if repeated.argument is None else [repeated.argument],
            id=repeated.id,
            task_queue=repeated.task_queue,
            static_summary=repeated.summary,
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=repeated.every, offset=repeated.offset)]),
        policy=SchedulePolicy(overlap=repeated.overlap, catchup_window=repeated.catch_up),
    )


def _keeping_pause(schedule: Schedule) -> Callable[[ScheduleUpdateInput], ScheduleUpdate]:
    def updater(current: ScheduleUpdateInput) -> ScheduleUpdate:
        # A schedule that an operator paused stays paused after an upgrade.
        schedule.state = current.description.schedule.state
        return ScheduleUpdate(schedule=schedule)

    return updater
