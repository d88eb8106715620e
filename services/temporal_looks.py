"""What is wrong on a Temporal server that answers: namespace, search attributes, schedules, workflows that failed.

Each look is bounded in time and size and stands for itself: where one cannot be had, that is what is told.
"""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import (
    Client,
    ScheduleActionStartWorkflow,
    ScheduleDescription,
    WorkflowExecution,
    WorkflowHistoryEventFilterType,
)
from temporalio.service import RPCError, RPCStatusCode

from closeloop.models.launches import LLM_TASK_QUEUE, MARKET_TASK_QUEUE, TASK_QUEUE
from closeloop.models.market_sources import MarketMode
from closeloop.models.schedules import MARKET_SCHEDULES, SCHEDULES, ScheduledWorkflow, schedules_of
from closeloop.models.sentences import short
from closeloop.models.status import FailedWorkflow, FailedWorkflows, ScheduleStatus, TemporalLooks, Trouble
from closeloop.services import search_attributes

T = TypeVar("T")

LOOK_SECONDS = 5.0  # for each look; they go on at the same time
FAILED_WITHIN = timedelta(days=1)
FAILED_LISTED = 10
LOCAL_ADDRESSES = ("127.0.0.1:7233", "localhost:7233")  # which Temporal's CLI assumes
PASSING_REASONS = {
    RPCStatusCode.PERMISSION_DENIED: "this client may not ask",
    RPCStatusCode.UNAUTHENTICATED: "this client may not ask",
    RPCStatusCode.UNIMPLEMENTED: "the server does not offer it",
}


async def namespace_is_missing(client: Client) -> bool:
    """Whether the server has no such namespace; False also where it does not tell this client."""
    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as error:
        return error.status is RPCStatusCode.NOT_FOUND
    return False


def namespace_remedy(client: Client) -> str:
    """What to do where the namespace is missing."""
    return (
        f"'{temporal_cli(client, 'operator namespace create', namespace=False)} --namespace {client.namespace} "
        "--retention 90d' creates it, then 'closeloop search-attributes apply' and 'closeloop schedules apply'; "
        "or TEMPORAL_NAMESPACE names another"
    )


async def look(client: Client, market: MarketMode = "off") -> TemporalLooks:
    """Every look at a namespace that is there. ``market``: what this process is told of the market's schedules."""
    looks = TemporalLooks()
    troubles: list[list[Trouble]] = [[], [], []]
    await asyncio.gather(
        _told("search attributes", _search_attributes(client, looks, troubles[0]), troubles[0]),
        _told("schedules", _schedules(client, looks, troubles[1], market), troubles[1]),
        _told("failed workflows", _failed_workflows(client, looks, troubles[2]), troubles[2]),
    )
    looks.troubles = [trouble for found in troubles for trouble in found]
    return looks


async def _told(about: str, work: Awaitable[None], troubles: list[Trouble]) -> None:
    try:
        await asyncio.wait_for(work, LOOK_SECONDS)
    except Exception as error:  # whatever it is, the other looks are told
        remedy = "ask again, or look in Temporal's UI"
        troubles.append(Trouble(about=about, sentence=f"cannot be told ({why(error)})", remedy=remedy))


async def _search_attributes(client: Client, looks: TemporalLooks, troubles: list[Trouble]) -> None:
    about, found = "search attributes", await search_attributes.lacking(client)
    looks.missing_search_attributes = found.missing
    if found.missing:
        sentence = f"missing: {', '.join(found.missing)}; workflows fail without them"
        troubles.append(Trouble(about=about, sentence=sentence, remedy="'closeloop search-attributes apply' adds them"))
    if found.of_another_type:
        sentence = f"of another type than closeloop's: {', '.join(found.of_another_type)}; workflows fail"
        remedy = "remove them from the namespace, or give closeloop a namespace of its own (TEMPORAL_NAMESPACE)"
        troubles.append(Trouble(about=about, sentence=sentence, remedy=remedy))


async def _schedules(client: Client, looks: TemporalLooks, troubles: list[Trouble], market: MarketMode) -> None:
    wanted = {one.id for one in schedules_of(market)}
    looked = await asyncio.gather(*(_schedule(client, one) for one in SCHEDULES + MARKET_SCHEDULES))
    looks.schedules = found = [one for one in looked if one.there or one.id in wanted]
    apply = "'closeloop schedules apply' sets them up"
    if missing := [one.id for one in found if not one.there]:
        sentence = f"missing: {', '.join(missing)}; nothing starts their work"
        troubles.append(Trouble(about="schedules", sentence=sentence, remedy=apply))
    if changed := [one.id for one in found if one.there and not one.as_applied]:
        sentence = f"not as this version has them: {', '.join(changed)}"
        troubles.append(Trouble(about="schedules", sentence=sentence, remedy=apply))
    if unwanted := [one.id for one in found if one.id not in wanted]:
        sentence = f"{', '.join(unwanted)} run, though CLOSELOOP_MARKET is off here"
        remedy = "set it here as the workers have it, or 'closeloop schedules apply' removes them"
        troubles.append(Trouble(about="schedules", sentence=sentence, remedy=remedy))
    for one in found:
        if one.paused:
            sentence = f"{one.id} is paused" + (f" ({one.note})" if one.note else "") + ": its work is not started"
            unpause = f"{temporal_cli(client, 'schedule toggle')} --schedule-id {one.id} --unpause --reason WHY"
            troubles.append(Trouble(about="schedules", sentence=sentence, remedy=f"'{unpause}' goes on with it"))


async def _schedule(client: Client, wanted: ScheduledWorkflow) -> ScheduleStatus:
    try:
        found = await client.get_schedule_handle(wanted.id).describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return ScheduleStatus(id=wanted.id, there=False)
    state, recent, upcoming = found.schedule.state, found.info.recent_actions, found.info.next_action_times
    return ScheduleStatus(
        id=wanted.id,
        there=True,
        as_applied=_is_as_applied(found, wanted),
        paused=state.paused,
        note=short(state.note or "", 200) if state.paused else "",
        last_at=recent[-1].started_at if recent else None,
        next_at=upcoming[0] if upcoming and not state.paused else None,
    )


def _is_as_applied(found: ScheduleDescription, wanted: ScheduledWorkflow) -> bool:
    action, spec = found.schedule.action, found.schedule.spec
    intervals = [(one.every, one.offset or timedelta(0)) for one in spec.intervals]
    workflow = action.workflow if isinstance(action, ScheduleActionStartWorkflow) else None
    return (workflow, intervals) == (wanted.workflow, [(wanted.every, wanted.offset)])


async def _failed_workflows(client: Client, looks: TemporalLooks, troubles: list[Trouble]) -> None:
    since = datetime.now(UTC) - FAILED_WITHIN
    queues = ", ".join(f"'{queue}'" for queue in (TASK_QUEUE, MARKET_TASK_QUEUE, LLM_TASK_QUEUE))
    query = (
        f"ExecutionStatus IN ('Failed', 'TimedOut') AND CloseTime > '{since:%Y-%m-%dT%H:%M:%SZ}' "
        f"AND TaskQueue IN ({queues})"
    )
    counted = (await client.count_workflows(query)).count
    listed = client.list_workflows(query, page_size=FAILED_LISTED, limit=FAILED_LISTED)
    newest = [execution async for execution in listed] if counted else []
    described = list(await asyncio.gather(*(_failed(client, execution) for execution in newest)))
    described.sort(key=lambda one: one.closed_at or since, reverse=True)
    looks.failed_workflows = FailedWorkflows(since=since, count=counted, newest=described)
    if counted:
        sentence = f"{counted} failed since {since:%Y-%m-%d %H:%M} UTC" + (
            f", the newest {len(described)} are listed" if counted > len(described) else ""
        )
        remedy = "docs/operating.md says what each error means, the Temporal UI shows them (ExecutionStatus = 'Failed')"
        troubles.append(Trouble(about="failed workflows", sentence=sentence, remedy=remedy))


async def _failed(client: Client, execution: WorkflowExecution) -> FailedWorkflow:
    try:
        events = client.get_workflow_handle(execution.id, run_id=execution.run_id).fetch_history_events(
            page_size=1, event_filter_type=WorkflowHistoryEventFilterType.CLOSE_EVENT
        )
        reason = _reason_of(await anext(aiter(events)))
    except (RPCError, StopAsyncIteration) as error:  # its history is gone, or may not be read
        reason = f"why cannot be told ({why(error)})"
    return FailedWorkflow(
        workflow_id=execution.id,
        run_id=execution.run_id,
        workflow=execution.workflow_type,
        closed_at=execution.close_time,
        reason=short(reason, 300),
    )


def _reason_of(event: HistoryEvent) -> str:
    if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
        return "timed out"
    failure: Failure = event.workflow_execution_failed_event_attributes.failure
    while failure.HasField("cause"):  # what an activity or a child failed for
        failure = failure.cause
    kind = failure.application_failure_info.type
    return f"{kind}: {failure.message}" if kind else failure.message


def temporal_cli(client: Client, command: str, namespace: bool = True) -> str:
    """A command of Temporal's CLI for this server and namespace."""
    address = client.service_client.config.target_host
    options = "" if address in LOCAL_ADDRESSES else f" --address {address}"
    if namespace and client.namespace != "default":
        options += f" --namespace {client.namespace}"
    return f"temporal {command}{options}"


def why(error: BaseException) -> str:
    """Why a look could not be had, in a few words."""
    if isinstance(error, RPCError):
        return PASSING_REASONS.get(error.status, short(error.message, 200))
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return f"no answer within {LOOK_SECONDS:.0f} s"
    return type(error).__name__
