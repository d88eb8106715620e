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

from closeloop.models.schedules import SCHEDULES, ScheduledWorkflow


async def apply_schedules(client: Client) -> list[str]:
    """Create or update every schedule of the table; returns their ids."""
    for repeated in SCHEDULES:
        schedule = _schedule(repeated)
        try:
            await client.create_schedule(repeated.id, schedule)
        except ScheduleAlreadyRunningError:
            await client.get_schedule_handle(repeated.id).update(_keeping_pause(schedule))
    return [repeated.id for repeated in SCHEDULES]


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
