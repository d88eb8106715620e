"""The schedules: one table, which ``closeloop schedules apply`` (and ``closeloop dev``) creates on the server."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from pydantic import BaseModel
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)

from closeloop.models.corpus import CorpusRequest
from closeloop.models.forecasts import ResolutionRequest
from closeloop.models.launches import LLM_TASK_QUEUE, TASK_QUEUE
from closeloop.models.lessons import LessonRequest
from closeloop.models.overrides import OverrideRequest
from closeloop.models.positions import CatchUpRequest
from closeloop.models.research import ResearchRequest


@dataclass(frozen=True)
class ScheduledWorkflow:
    """A workflow that runs at an interval. ``overlap`` says what happens while the last run is still going."""

    id: str
    workflow: str
    argument: BaseModel | None
    every: timedelta
    overlap: ScheduleOverlapPolicy
    summary: str
    task_queue: str = TASK_QUEUE


SCHEDULES = (
    ScheduledWorkflow(
        id="closeloop/catch-up",
        workflow="CatchUpWorkflow",
        argument=CatchUpRequest(),
        every=timedelta(minutes=5),
        overlap=ScheduleOverlapPolicy.SKIP,  # the run under way sees the same rows
        summary="Find closed positions without an attribution",
    ),
    ScheduledWorkflow(
        id="closeloop/weights",
        workflow="WeightDispatchWorkflow",
        argument=None,
        every=timedelta(days=1),  # each book's cycle begins once in its week or month, at the first look
        overlap=ScheduleOverlapPolicy.BUFFER_ONE,
        summary="Begin the weight cycle of every book whose week or month is new",
    ),
    ScheduledWorkflow(
        id="closeloop/overlays",
        workflow="OverlayWatchWorkflow",
        argument=None,
        every=timedelta(minutes=5),
        overlap=ScheduleOverlapPolicy.SKIP,  # the next look sees the same files
        summary="Are the overlay files as they were written?",
    ),
    ScheduledWorkflow(
        id="closeloop/corpus",
        workflow="CorpusWorkflow",
        argument=CorpusRequest(),
        every=timedelta(days=1),
        overlap=ScheduleOverlapPolicy.SKIP,  # the run under way sees the same files
        summary="Score, promote and archive skills",
    ),
    ScheduledWorkflow(
        id="closeloop/forecast-resolution",
        workflow="ForecastResolutionWorkflow",
        argument=ResolutionRequest(),
        every=timedelta(minutes=30),
        overlap=ScheduleOverlapPolicy.SKIP,  # the next run finds what this one leaves
        summary="Resolve every forecast whose horizon has elapsed",
    ),
    ScheduledWorkflow(
        id="closeloop/research",
        workflow="LlmResearchWorkflow",
        argument=ResearchRequest(),
        every=timedelta(hours=1),
        overlap=ScheduleOverlapPolicy.SKIP,  # what the run under way leaves, the next one finds
        summary="Read what closed, look the books over, test hypotheses",
        task_queue=LLM_TASK_QUEUE,
    ),
    ScheduledWorkflow(
        id="closeloop/lessons",
        workflow="LessonBuildingWorkflow",
        argument=LessonRequest(),
        every=timedelta(hours=6),
        overlap=ScheduleOverlapPolicy.SKIP,  # the next look sees all that this one would have seen
        summary="Build the lessons of every book",
    ),
    ScheduledWorkflow(
        id="closeloop/overrides",
        workflow="OverrideMaterializationWorkflow",
        argument=OverrideRequest(),
        every=timedelta(hours=2),
        overlap=ScheduleOverlapPolicy.SKIP,  # as with lessons
        summary="Bring overrides in line with lessons",
    ),
)


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
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=repeated.every)]),
        policy=SchedulePolicy(overlap=repeated.overlap, catchup_window=timedelta(minutes=10)),
    )


def _keeping_pause(schedule: Schedule) -> Callable[[ScheduleUpdateInput], ScheduleUpdate]:
    def updater(current: ScheduleUpdateInput) -> ScheduleUpdate:
        # A schedule that an operator paused stays paused after an upgrade.
        schedule.state = current.description.schedule.state
        return ScheduleUpdate(schedule=schedule)

    return updater
