"""Search attributes: registered by closeloop itself, once, and found by an operator's query."""

import asyncio
from collections.abc import Callable

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError

from closeloop.models import search_attributes
from closeloop.models.launches import TASK_QUEUE
from closeloop.services.positions import start_close
from closeloop.workers.registration import missing_search_attributes, register_search_attributes
from closeloop.workers.stack.home import StackError
from tests.closes import closed, message
from tests.waiting import PATIENCE, eventually
from tests.workers.namespaces import own_namespace

NAMES = [key.name for key in search_attributes.ALL]


async def test_what_is_missing_is_registered_once(client: Client) -> None:
    own = await own_namespace(client)
    assert await missing_search_attributes(own) == NAMES
    assert await register_search_attributes(own) == NAMES
    assert await missing_search_attributes(own) == []
    assert await register_search_attributes(own) == []


async def test_only_what_is_missing_is_registered(client: Client) -> None:
    own = await own_namespace(client)
    await add(own, "Book", IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD)
    assert await register_search_attributes(own) == [name for name in NAMES if name != "Book"]
    assert await missing_search_attributes(own) == []


async def test_workers_that_start_at_once_do_not_disturb_each_other(client: Client) -> None:
    own = await own_namespace(client)
    async with asyncio.timeout(PATIENCE):
        added = await asyncio.gather(*(register_search_attributes(own) for _ in range(5)))
    assert all(set(names) <= set(NAMES) for names in added)
    assert await missing_search_attributes(own) == []


async def test_an_attribute_of_another_type_is_reported_and_not_waited_for(client: Client) -> None:
    own = await own_namespace(client)
    await add(own, "Book", IndexedValueType.INDEXED_VALUE_TYPE_TEXT)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises((RPCError, RuntimeError, StackError), match="Book"):
            await register_search_attributes(own)


async def add(client: Client, name: str, kind: IndexedValueType.ValueType) -> None:
    await client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(namespace=client.namespace, search_attributes={name: kind})
    )


QUERIES: dict[str, Callable[[str], str]] = {
    "by book": lambda book: f'Book = "{book}"',
    "by lifecycle": lambda book: f'Book = "{book}" AND Lifecycle = "position"',
    "by symbol and side": lambda book: f'Book = "{book}" AND Symbol = "ETH/USDT" AND Direction = "short"',
    "by producer": lambda book: f'Book = "{book}" AND Producers = "flow"',
    "by result": lambda book: f'Book = "{book}" AND RMultiple < -0.5',
    "by time": lambda book: f'Book = "{book}" AND ClosedAt > "2026-01-02T00:00:00Z"',
}


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("by_name", [True, False], ids=["started by name", "started by closeloop"])
async def test_closes_are_found_by_what_an_operator_asks_for(by_name: bool, book: str, client: Client) -> None:
    shorts = {
        "symbol": "ETH/USDT",
        "direction": "short",
        "closed_at": "2026-01-03T00:00:00Z",
        "realized_pnl": "-4",
        "signals": [{"signal_id": "s", "producer_id": name} for name in ("flow", "ta")],
    }
    if by_name:
        for name, changes in (("p-1", {}), ("p-2", shorts)):
            await client.execute_workflow(
                "PositionCloseWorkflow",
                message(book, name, **changes),
                id=f"position-close/{book}/{name}",
                task_queue=TASK_QUEUE,
            )
    else:
        for position in (closed(book, "p-1"), closed(book, "p-2", **shorts)):
            await (await start_close(client, position)).result()
    first, second = f"position-close/{book}/p-1", f"position-close/{book}/p-2"
    if not by_name:
        first, second = f"{first}/2026-01-01T06:00:00Z", f"{second}/2026-01-03T00:00:00Z"
    for name, query in QUERIES.items():
        expected = {first, second} if name in ("by book", "by lifecycle") else {second}
        assert await listed(client, query(book), expected) == expected, name
    assert [w.id async for w in client.list_workflows(f'Book = "{book}-other"')] == []


async def listed(client: Client, query: str, expected: set[str]) -> set[str]:
    """What an operator's query finds, once visibility has caught up."""

    async def look() -> set[str]:
        return {workflow.id async for workflow in client.list_workflows(query)}

    return await eventually(look, lambda found: found == expected)
