"""Temporal namespaces of a test's own."""

import asyncio
import uuid
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

# What a loaded server says of a call that it may have carried out.
PASSING = (
    RPCStatusCode.CANCELLED,
    RPCStatusCode.UNKNOWN,
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.RESOURCE_EXHAUSTED,
)


async def own_namespace(client: Client) -> Client:
    """A client of a new namespace on the session's server: nobody polls it, and it has no search attributes yet."""
    name = f"own-{uuid.uuid4().hex[:12]}"
    retention = Duration()
    retention.FromTimedelta(timedelta(days=1))
    request = RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=retention)
    for attempt in range(10):
        try:
            await client.workflow_service.register_namespace(request)
            break
        except RPCError as error:
            if error.status == RPCStatusCode.ALREADY_EXISTS:  # the attempt before was carried out after all
                break
            if error.status not in PASSING or attempt == 9:
                raise
            await asyncio.sleep(0.2 * 2**attempt)
    return await Client.connect(
        client.service_client.config.target_host, namespace=name, data_converter=client.data_converter
    )
