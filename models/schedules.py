"""What runs repeatedly: one table, which ``closeloop schedules apply`` (and ``closeloop dev``) brings to the server."""

from dataclasses import dataclass
from datetime import timedelta

from pydantic import BaseModel
from temporalio.client import ScheduleOverlapPolicy

from closeloop.models.decisions import FillRequest
from closeloop.models.forecasts import ResolutionRequest
from closeloop.models.launches import LLM_TASK_QUEUE, TASK_QUEUE
from closeloop.models.market import Timeframe
from closeloop.models.market_runs import MarketRequest
from closeloop.models.market_sources import MarketMode
from closeloop.models.overrides import OverrideRequest
from closeloop.models.periods import DueWorkRequest, PeriodicTask
from closeloop.models.positions import CatchUpRequest
from closeloop.models.research import ResearchRequest

DISPATCH_EVERY = timedelta(minutes=15)
"""How often it is asked what of daily and weekly work is due."""
DISPATCH_OFFSET = timedelta(minutes=2)
"""After the full quarter: by then the catch-up has attributed what was on record before it."""

LEAST_CATCH_UP = timedelta(minutes=10)
MISSED_DISPATCH = timedelta(minutes=1)  # the next one asks the same


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
    offset: timedelta = timedelta(0)

    @property
    def catch_up(self) -> timedelta:
        """For how long a run that was missed because the server was off is made up: so long that it is the last one."""
        return MISSED_DISPATCH if self.offset else max(self.every, LEAST_CATCH_UP)


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
        every=DISPATCH_EVERY,  # each book's cycle begins once in its week or month, at the first look
        offset=DISPATCH_OFFSET,
        overlap=ScheduleOverlapPolicy.SKIP,  # the next look asks the same
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
        workflow="DueWorkWorkflow",
        argument=DueWorkRequest(task=PeriodicTask.corpus),
        every=DISPATCH_EVERY,
        offset=DISPATCH_OFFSET,
        overlap=ScheduleOverlapPolicy.SKIP,  # the next look asks the same
        summary="Once a day: score, promote and archive skills",
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
        id="closeloop/decision-outcomes",
        workflow="DecisionOutcomesWorkflow",
        argument=FillRequest(),
        every=timedelta(hours=1),  # so that what becomes due is told the same hour; what was missed comes with it
        overlap=ScheduleOverlapPolicy.SKIP,  # the next run finds what this one leaves
        summary="Fill in what became of the market after each decision",
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
        workflow="DueWorkWorkflow",
        argument=DueWorkRequest(task=PeriodicTask.lessons),
        every=DISPATCH_EVERY,
        offset=DISPATCH_OFFSET,
        overlap=ScheduleOverlapPolicy.SKIP,  # the next look asks the same
        summary="Every six hours: build the lessons of every book",
    ),
    ScheduledWorkflow(
        id="closeloop/retention",
        workflow="DueWorkWorkflow",
        argument=DueWorkRequest(task=PeriodicTask.retention),
        every=DISPATCH_EVERY,
        offset=DISPATCH_OFFSET,
        overlap=ScheduleOverlapPolicy.SKIP,  # the next look asks the same
        summary="Once a day: let old events and lesson history leave the database",
    ),
    ScheduledWorkflow(
        id="closeloop/overrides",
        workflow="OverrideMaterializationWorkflow",
        argument=OverrideRequest(),
        every=timedelta(hours=2),
        overlap=ScheduleOverlapPolicy.SKIP,  # the next look sees all that this one would have seen
        summary="Bring overrides in line with lessons",
    ),
)


def _market(timeframe: Timeframe, seconds: int, summary: str) -> ScheduledWorkflow:
    return ScheduledWorkflow(
        id=f"closeloop/market-{timeframe}",
        workflow="MarketWorkflow",
        argument=MarketRequest(timeframe=timeframe),
        every=timeframe.step,
        offset=timedelta(seconds=seconds),
        overlap=ScheduleOverlapPolicy.SKIP,  # the next run finds what this one leaves
        summary=summary,
    )


# Some seconds after the bar has ended: its source has it then; and after the run of the minutes that it is made of.
MARKET_SCHEDULES = (
    _market(Timeframe.m1, 15, "The market's minutes: collect, then bars and states"),
    _market(Timeframe.h1, 40, "The market's hours"),
    _market(Timeframe.d1, 75, "The market's days"),
)


def schedules_of(market: MarketMode) -> tuple[ScheduledWorkflow, ...]:
    """What repeats where CLOSELOOP_MARKET is this."""
    return SCHEDULES if market == "off" else SCHEDULES + MARKET_SCHEDULES
