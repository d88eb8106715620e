"""Temporal namespaces of a test's own, and waiting for what a server tells eventually."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client

T = TypeVar("T")


async def own_namespace(client: Client) -> Client:
    """A client of a new namespace on the session's server: nobody polls it, and it has no search attributes yet."""
    name = f"own-{uuid.uuid4().hex[:12]}"
    retention = Duration()
    retention.FromTimedelta(timedelta(days=1))
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=retention)
    )
    return await Client.connect(
        client.service_client.config.target_host, namespace=name, data_converter=client.data_converter
    )


async def eventually(look: Callable[[], Awaitable[T]], found: Callable[[T], bool], seconds: float = 30) -> T:
    """Look until what is there is what was awaited; after the deadline, what is there then (for an assertion)."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        seen = await look()
        if found(seen) or asyncio.get_running_loop().time() > deadline:
            return seen
        await asyncio.sleep(0.05)
