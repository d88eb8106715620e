"""Which of closeloop's search attributes a Temporal namespace has."""

from typing import Any, NamedTuple

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey

from closeloop.models import search_attributes


class Lacking(NamedTuple):
    """Names of those that a namespace does not have, and of those that it has with another type."""

    missing: list[str]
    of_another_type: list[str]


async def lacking(client: Client) -> Lacking:
    """What the client's namespace lacks. Raises RPCError where the server does not tell."""
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    found = {key.name: known.custom_attributes.get(key.name) for key in search_attributes.ALL}
    return Lacking(
        [key.name for key in search_attributes.ALL if found[key.name] is None],
        [key.name for key in search_attributes.ALL if found[key.name] not in (None, type_of(key))],
    )


def type_of(key: SearchAttributeKey[Any]) -> IndexedValueType.ValueType:
    """The type as Temporal's API has it."""
    return IndexedValueType.ValueType(int(key.indexed_value_type))
