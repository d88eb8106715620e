"""How each workflow is started: name, id, queue, attributes and summary, written once for every door.

A function a workflow. ``services/launching.py`` starts what it returns; schedules and child workflows read it too.
"""

import uuid
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)

from closeloop.models.approvals import ApprovalRequest
from closeloop.models.corpus import CorpusReport, CorpusRequest
from closeloop.models.decisions import FillReport, FillRequest
from closeloop.models.forecasts import ResolutionReport, ResolutionRequest
from closeloop.models.imports import ImportReport, ImportRequest
from closeloop.models.lessons import LessonReport, LessonRequest
from closeloop.models.market_contexts import MarketBackfillReport, MarketBackfillRequest
from closeloop.models.market_runs import MarketReport, MarketRequest
from closeloop.models.meta import MetaRequest
from closeloop.models.overrides import OverrideReport, OverrideRequest
from closeloop.models.periods import PeriodicTask
from closeloop.models.positions import (
    ClosedPosition,
    CloseReport,
    KarmaRebuildReport,
    KarmaRebuildRequest,
    ReceivedReport,
    ReceivedRequest,
)
from closeloop.models.producers import Heartbeat
from closeloop.models.research import ResearchReport, ResearchRequest
from closeloop.models.retention import RetentionReport, RetentionRequest
from closeloop.models.search_attributes import BOOK, LIFECYCLE, position_attributes
from closeloop.models.sentences import opening_line, short
from closeloop.models.values import utc_text
from closeloop.models.weights import CycleRequest

TASK_QUEUE = "closeloop"
MARKET_TASK_QUEUE = "closeloop-market"
# A queue of its own, so that slow calls of a language model never occupy the workers of the other queues.
LLM_TASK_QUEUE = "closeloop-llm"


@dataclass(frozen=True)
class Launch:
    """What Temporal's client needs to start a workflow.

    ``reuse`` says what happens where a finished workflow has the id, ``conflict`` where a running one has it.
    """

    workflow: str
    message: BaseModel | None
    id: str
    summary: str
    result: type[Any] | None = None
    task_queue: str = TASK_QUEUE
    attributes: TypedSearchAttributes = field(default_factory=lambda: TypedSearchAttributes([]))
    reuse: WorkflowIDReusePolicy = WorkflowIDReusePolicy.ALLOW_DUPLICATE
    conflict: WorkflowIDConflictPolicy = WorkflowIDConflictPolicy.FAIL


def position_close_id(position: ClosedPosition) -> str:
    """The same close has the same id: starting it twice is harmless. Another close of the position runs, and fails."""
    book, position_id = position.key
    return f"position-close/{book}/{position_id}/{utc_text(position.closed_at)}"


def position_close(position: ClosedPosition) -> Launch:
    """May run again after it has finished: the database attributes once, and the report says ``already_attributed``."""
    return Launch(
        workflow="PositionCloseWorkflow",
        message=position,
        id=position_close_id(position),
        summary=opening_line(position),
        result=CloseReport,
        attributes=position_attributes(position),
    )


def received_closes() -> Launch:
    """One run at a time: a close that comes while it runs is told to it by the signal ``more``."""
    return Launch(
        workflow="ReceivedClosesWorkflow",
        message=ReceivedRequest(),
        id="received-closes",
        summary="Attribute closes that came in numbers by the HTTP door",
        result=ReceivedReport,
        attributes=_attributes("received-closes"),
        conflict=WorkflowIDConflictPolicy.USE_EXISTING,
    )


def backfill(request: ImportRequest, content: str, total: int, source: str) -> Launch:
    """``content`` is the digest of the file: the same file is the same import while one is under way."""
    return Launch(
        workflow="BackfillWorkflow",
        message=request,
        id=f"import/{content[:24]}",
        summary=f"Import {total} closes from {source}"[:200],
        result=ImportReport,
        attributes=_attributes("import"),
    )


def karma_rebuild(request: KarmaRebuildRequest) -> Launch:
    """Each rebuild is a run of its own."""
    return Launch(
        workflow="KarmaRebuildWorkflow",
        message=request,
        id=f"karma-rebuild/{request.book or 'all'}/{_new()}",
        summary=f"Rebuild karma of {request.book or 'every book'}",
        result=KarmaRebuildReport,
        attributes=_attributes("karma", request.book),
    )


def weight_cycle(request: CycleRequest, cycle_id: str) -> Launch:
    """A cycle is held once, by its record: a run after the first goes on from that, or tries again what failed."""
    return Launch(
        workflow="WeightAdjustmentWorkflow",
        message=request,
        id=f"weights/{cycle_id}",
        summary=f"Weights of {request.book}, cycle {cycle_id}",
        attributes=_attributes("weights", request.book),
    )


def approval(request: ApprovalRequest) -> Launch:
    """What waits for an operator waits once: a run after the first looks at the record and goes on from that."""
    return Launch(
        workflow="ApprovalWorkflow",
        message=request,
        id=request.workflow_id,
        summary=short(request.proposal),
        attributes=_attributes(request.kind, request.book),
    )


def heartbeat(message: Heartbeat) -> Launch:
    """The heartbeat's own id, where it has one, makes counting it twice impossible; the workflow's need not."""
    return Launch(
        workflow="HeartbeatWorkflow",
        message=message,
        id=f"heartbeat/{message.book}/{uuid.uuid4().hex}",
        summary=f"{message.producer_id}: {message.successes} successes, {message.failures} failures"[:200],
        result=bool,
        attributes=_attributes("heartbeat", message.book),
    )


def forecast_resolution(request: ResolutionRequest, as_of: datetime) -> Launch:
    """Asked for twice at the same instant, the second one joins the first."""
    return Launch(
        workflow="ForecastResolutionWorkflow",
        message=request,
        id=f"forecast-resolution/{as_of:%Y-%m-%dT%H:%M:%S.%fZ}",
        summary=f"Resolve forecasts as of {as_of:%Y-%m-%d %H:%M} UTC",
        result=ResolutionReport,
        attributes=_attributes("forecast-resolution"),
        conflict=WorkflowIDConflictPolicy.USE_EXISTING,
    )


def meta_forecast(request: MetaRequest) -> Launch:
    """The meta-producer speaks once for an instant."""
    return Launch(
        workflow="MetaForecastWorkflow",
        message=request,
        id=f"meta-forecast/{request.as_of:%Y-%m-%dT%H:%M:%S.%fZ}",
        summary=f"The meta-producer as of {request.as_of:%Y-%m-%d %H:%M} UTC",
        attributes=_attributes("meta"),
    )


def decision_outcomes(request: FillRequest, as_of: datetime) -> Launch:
    """Asked for twice at the same instant, the second one joins the first."""
    return Launch(
        workflow="DecisionOutcomesWorkflow",
        message=request,
        id=f"decision-outcomes/{as_of:%Y-%m-%dT%H:%M:%S.%fZ}",
        summary=f"Fill in outcomes of decisions as of {as_of:%Y-%m-%d %H:%M} UTC",
        result=FillReport,
        attributes=_attributes("decision-outcomes"),
        conflict=WorkflowIDConflictPolicy.USE_EXISTING,
    )


def lesson_building(request: LessonRequest) -> Launch:
    """Each building is a run of its own."""
    return Launch(
        workflow="LessonBuildingWorkflow",
        message=request,
        id=f"lessons/{request.book or 'all'}/{_new()}",
        summary=f"Build lessons of {request.book or 'every book'}",
        result=LessonReport,
        attributes=_attributes("lessons", request.book),
    )


def override_materialization(request: OverrideRequest) -> Launch:
    """Each run is a run of its own."""
    return Launch(
        workflow="OverrideMaterializationWorkflow",
        message=request,
        id=f"overrides/{request.book or 'all'}/{_new()}",
        summary=f"Bring overrides of {request.book or 'every book'} in line with lessons",
        result=OverrideReport,
        attributes=_attributes("overrides", request.book),
    )


def research(request: ResearchRequest) -> Launch:
    """Each run is a run of its own, on the queue of the language model."""
    return Launch(
        workflow="LlmResearchWorkflow",
        message=request,
        id=f"research/{request.book or 'all'}/{_new()}",
        summary=f"Study what closed in {request.book or 'every book'}",
        result=ResearchReport,
        task_queue=LLM_TASK_QUEUE,
        attributes=_attributes("research", request.book),
    )


def corpus(request: CorpusRequest) -> Launch:
    """Each run is a run of its own."""
    return Launch(
        workflow="CorpusWorkflow",
        message=request,
        id=f"corpus/{_new()}",
        summary="Score, promote and archive skills",
        result=CorpusReport,
        attributes=_attributes("corpus"),
    )


def market(request: MarketRequest) -> Launch:
    """One run of a timeframe that was asked for by hand at a time: asked for twice, the second one joins the first."""
    return Launch(
        workflow="MarketWorkflow",
        message=request,
        id=f"market/{request.timeframe}",
        summary=f"The market's bars and states of {request.timeframe}",
        result=MarketReport,
        attributes=_attributes("market"),
        conflict=WorkflowIDConflictPolicy.USE_EXISTING,
    )


def market_backfill(request: MarketBackfillRequest) -> Launch:
    """One run of a book at a time: asked for twice, the second one joins the first."""
    return Launch(
        workflow="MarketBackfillWorkflow",
        message=request,
        id=f"market-backfill/{request.book}",
        summary=f"Fill in what closes of {request.book} did not say of the market",
        result=MarketBackfillReport,
        attributes=_attributes("market", request.book),
        conflict=WorkflowIDConflictPolicy.USE_EXISTING,
    )


def retention(request: RetentionRequest) -> Launch:
    """Each run is a run of its own."""
    return Launch(
        workflow="RetentionWorkflow",
        message=request,
        id=f"retention/{_new()}",
        summary="Let old events, lesson history and levers leave the database",
        result=RetentionReport,
        attributes=_attributes("retention"),
    )


def periodic_work(task: PeriodicTask, as_of: datetime) -> Launch:
    """The work of a period runs once: again only where it failed or was ended."""
    match task:
        case PeriodicTask.lessons:
            launch = lesson_building(LessonRequest(as_of=as_of, by_schedule=True))
        case PeriodicTask.corpus:
            launch = corpus(CorpusRequest(as_of=as_of))
        case PeriodicTask.retention:
            launch = retention(RetentionRequest(as_of=as_of, by_schedule=True))
    return replace(
        launch, id=f"{task}/{as_of:%Y-%m-%dT%H:%M:%SZ}", reuse=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
    )


def _attributes(lifecycle: str, book: str | None = None) -> TypedSearchAttributes:
    pairs = [SearchAttributePair(LIFECYCLE, lifecycle)]
    if book:
        pairs.append(SearchAttributePair(BOOK, book))
    return TypedSearchAttributes(pairs)


def _new() -> str:
    return uuid.uuid4().hex[:8]
