"""What a Temporal namespace must know before closeloop runs on it: search attributes."""

import asyncio

from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from closeloop.models import search_attributes
from closeloop.services.search_attributes import lacking, type_of
from closeloop.workers.stack.home import StackError


async def missing_search_attributes(client: Client) -> list[str]:
    """Names of those that the namespace does not have. Raises StackError if it has one with another type."""
    missing, of_another_type = await lacking(client)
    for key in search_attributes.ALL:
        if key.name in of_another_type:
            raise StackError(
                f"The namespace {client.namespace} has the search attribute {key.name} with another type than "
                f"{key.indexed_value_type.name}: remove it there, or use a namespace of closeloop's own."
            )
    return missing


async def register_search_attributes(client: Client) -> list[str]:
    """Register what is missing and wait until the server knows it; returns what was added."""
    missing = await missing_search_attributes(client)
    if missing:
        wanted = {key.name: type_of(key) for key in search_attributes.ALL if key.name in missing}
        try:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=client.namespace, search_attributes=wanted)
            )
        except RPCError as error:
            if error.status != RPCStatusCode.ALREADY_EXISTS:  # somebody else was quicker
                raise
        while await missing_search_attributes(client):  # noqa: ASYNC110 (the server has no event to wait for)
            await asyncio.sleep(0.1)
    return missing
