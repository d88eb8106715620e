"""Whether the parts of a stack are up: database, schema, Temporal, workers, the HTTP door."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from closeloop import store
from closeloop.gateways.door import why_not_ready
from closeloop.models.errors import ServiceError
from closeloop.models.failures import FailingView
from closeloop.models.launches import LLM_TASK_QUEUE, MARKET_TASK_QUEUE, TASK_QUEUE
from closeloop.models.market_sources import MarketStatus
from closeloop.models.periods import PeriodicStatus
from closeloop.models.status import (
    Addresses,
    ApiStatus,
    PostgresStatus,
    QueueStatus,
    SchemaStatus,
    Status,
    TemporalLooks,
    TemporalStatus,
    WorkerStatus,
)
from closeloop.models.workers import PoliciesInUse, WorkerView
from closeloop.services import market_status, periods, temporal_looks, workers

# A worker that polled a queue within this time is taken for alive. It polls for workflow tasks again within 70 s, when
# a long poll ends by itself. The market queue has one slot: while an activity runs in it, the worker does not poll, so
# there every worker counts that the server remembers (5 minutes).
WORKFLOW_POLL_AT_MOST_AGO = timedelta(seconds=75)
ACTIVITY_POLL_AT_MOST_AGO = timedelta(minutes=5)
TEMPORAL_ANSWERS_WITHIN_SECONDS = 10
FAILING_LISTED = 50


async def status(
    addresses: Addresses,
    database: Callable[[], AbstractAsyncContextManager[AsyncSession]],
    temporal: Callable[[], AbstractAsyncContextManager[Client]],
) -> Status:
    """Look at every part. ``database`` and ``temporal`` connect; why they cannot is the answer, never an error."""
    postgres = PostgresStatus(data=addresses.postgres_data)
    schema = SchemaStatus(needed=store.schema.newest())
    failing: list[FailingView] = []
    unreadable = 0
    periodic: list[PeriodicStatus] = []
    running: list[WorkerView] = []
    policies = PoliciesInUse()
    market: MarketStatus | None = None
    try:
        async with database() as session:
            postgres.version = await store.database.server_version(session)
            postgres.up = True
            schema.revision = await store.schema.revision(session)
            schema.up = schema.revision == schema.needed
            schema.newer = schema.revision is not None and not store.schema.is_known(schema.revision)
            if schema.up:
                failing = await store.failures.listing(session, FAILING_LISTED)
                unreadable = await store.unreadable.count(session)
                running, policies = await workers.live(session), await workers.policies_in_use(session)
                periodic = await periods.standing(session, datetime.now(UTC))
                market = await market_status.standing(session, addresses.market, datetime.now(UTC))
    except Exception as error:  # whatever it is, it is the answer
        postgres.reason = _reason(error)
    server = TemporalStatus(address=addresses.temporal, ui=addresses.temporal_ui)
    looks = TemporalLooks()
    worker = WorkerStatus(task_queue=TASK_QUEUE, ends=addresses.worker_ends)
    try:
        async with asyncio.timeout(TEMPORAL_ANSWERS_WITHIN_SECONDS), temporal() as client:
            if await temporal_looks.namespace_is_missing(client):
                server.reason = f"there is no namespace {client.namespace}"
                server.remedy = temporal_looks.namespace_remedy(client)
            else:
                looking = asyncio.create_task(temporal_looks.look(client, addresses.market))
                try:
                    server.up = True
                    worker.queues = [
                        QueueStatus(task_queue=queue, workers=await _pollers(client, queue))
                        for queue in (TASK_QUEUE, MARKET_TASK_QUEUE, LLM_TASK_QUEUE)
                    ]
                    worker.workers = worker.queues[0].workers
                    # The server remembers a worker for a while after its end: the stack knows better of its own.
                    waits = worker.ends is not None and worker.ends.next_at is not None
                    worker.up = all(queue.workers for queue in worker.queues) and not waits
                    worker.reason = "the stack's worker has ended, and is tried again" if waits else None
                finally:
                    looks = await looking
    except Exception as error:
        server.reason = _reason(error)
    api = None
    if addresses.api is not None:
        reason = await why_not_ready(addresses.api)
        api = ApiStatus(up=reason is None, reason=reason, url=addresses.api)
    parts_are_up = postgres.up and schema.up and server.up and worker.up and (api is None or api.up)
    return Status(
        home=addresses.home,
        stack_running=addresses.stack_running,
        up=parts_are_up and not looks.missing_search_attributes,
        postgres=postgres,
        schema_=schema,
        temporal=server,
        worker=worker,
        api=api,
        failing=failing,
        unreadable_positions=unreadable,
        running_workers=running,
        policies=policies,
        periodic=periodic,
        market=market,
        **dict(looks),
    )


async def _pollers(client: Client, queue: str) -> list[str]:
    """Identities of the workers that polled lately."""
    only_activities = queue == MARKET_TASK_QUEUE
    kind = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY if only_activities else TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    description = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind)
    )
    earliest = datetime.now(UTC) - (ACTIVITY_POLL_AT_MOST_AGO if only_activities else WORKFLOW_POLL_AT_MOST_AGO)
    return sorted(
        {poller.identity for poller in description.pollers if poller.last_access_time.ToDatetime(tzinfo=UTC) > earliest}
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ServiceError):
        return str(error)
    if isinstance(error, RPCError):
        return f"refused or does not answer ({temporal_looks.why(error)})"
    return "does not answer" if isinstance(error, OSError | TimeoutError | RuntimeError) else type(error).__name__
