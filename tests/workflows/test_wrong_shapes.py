"""What an engine in any language may send by mistake fails at once, with a type; nothing is retried for ever."""

import asyncio
import inspect
import uuid
from typing import Any, cast

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.converter import DataConverter
from temporalio.exceptions import ActivityError, ApplicationError

from closeloop.models.launches import TASK_QUEUE
from closeloop.store.database import Sessions
from closeloop.workers.wiring import WORKFLOWS
from tests.activities.attributing import Tally, tally
from tests.closes import message
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("worker")

# Those that take a message; what a workflow without one is sent is nobody's mistake.
NAMES = [found.__name__ for found in WORKFLOWS if len(inspect.signature(cast(Any, found).run).parameters) > 1]
# Arguments as another client sends them; null and bytes travel in encodings of their own.
SHAPES: dict[str, list[Any]] = {
    "nothing": [],
    "null": [None],
    "a text": ["closed"],
    "a number": [1],
    "a list": [[]],
    "bytes": [b"{}"],
    "two messages": [{"book": "b"}, {"book": "b"}],
}


async def end(handle: WorkflowHandle[Any, Any]) -> str:
    """How it ended: the type of its error, or what is wrong with that."""
    try:
        await asyncio.wait_for(handle.result(), PATIENCE)
    except WorkflowFailureError as failed:
        cause: BaseException | None = failed.cause
        while isinstance(cause, ActivityError):
            cause = cause.cause
        if isinstance(cause, ApplicationError) and cause.type:
            return "failed with a type"
        return f"failed with {cause!r}"
    except TimeoutError:
        await handle.terminate("it would be retried for ever")
        return "did not end"
    return "succeeded"


async def test_arguments_of_the_wrong_shape_fail_at_once(client: Client) -> None:
    plain = await Client.connect(client.service_client.config.target_host, data_converter=DataConverter.default)
    asked = [(name, shape) for name in NAMES for shape in SHAPES]
    handles = [
        await plain.start_workflow(name, args=SHAPES[shape], id=f"wrong/{uuid.uuid4().hex}", task_queue=TASK_QUEUE)
        for name, shape in asked
    ]
    ends = await asyncio.gather(*(end(handle) for handle in handles))
    wrong = {key: how for key, how in zip(asked, ends, strict=True) if how != "failed with a type"}
    assert wrong == {}


FIELDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown direction": ("PositionCloseWorkflow", {"direction": "sideways"}, "direction"),
    "naive time": ("PositionCloseWorkflow", {"opened_at": "2026-01-01T00:00:00"}, "opened_at"),
    "close before open": ("PositionCloseWorkflow", {"closed_at": "2025-01-01T00:00:00Z"}, "closed_at"),
    "close in the future": ("PositionCloseWorkflow", {"closed_at": "2999-01-01T00:00:00Z"}, "closed_at"),
    "not a number": ("PositionCloseWorkflow", {"realized_pnl": "NaN"}, "realized_pnl"),
    "infinite": ("PositionCloseWorkflow", {"realized_pnl": "Infinity"}, "realized_pnl"),
    "no size": ("PositionCloseWorkflow", {"size": None}, "size"),
    "a boolean as money": ("PositionCloseWorkflow", {"realized_pnl": True}, "realized_pnl"),
    "book that is none": ("PositionCloseWorkflow", {"book": "my book"}, "book"),
    "no scores to record": (
        "ConvictionWorkflow",
        {"conviction_id": "c", "cycle_id": "y", "domain_scores": {}},
        "domain_scores",
    ),
    "no cycle": ("ConvictionWorkflow", {"conviction_id": "c", "domain_scores": {"x": 1}}, "cycle_id"),
    "an import without an id": ("BackfillWorkflow", {"import_id": None}, "import_id"),
    "a book for the rebuild that is none": ("KarmaRebuildWorkflow", {"book": "my book"}, "book"),
    "no limit": ("CatchUpWorkflow", {"limit": 0}, "limit"),
}


async def test_a_wrong_field_is_named_and_nothing_is_stored(book: str, client: Client, sessions: Sessions) -> None:
    async def reason(workflow: str, change: dict[str, Any]) -> str:
        handle = await client.start_workflow(
            workflow, message(book) | change, id=f"wrong/{uuid.uuid4().hex}", task_queue=TASK_QUEUE
        )
        with pytest.raises(WorkflowFailureError) as failed:
            await asyncio.wait_for(handle.result(), PATIENCE)
        assert isinstance(failed.value.cause, ApplicationError), failed.value.cause
        assert failed.value.cause.type in ("ValidationError", "PositionRefused")
        return failed.value.cause.message

    reasons = await asyncio.gather(*(reason(workflow, change) for workflow, change, _ in FIELDS.values()))
    unnamed = {
        name: told for (name, (_, _, field)), told in zip(FIELDS.items(), reasons, strict=True) if field not in told
    }
    assert unnamed == {}
    assert await tally(sessions, book) == Tally(0, 0, 0, 0, convictions=0)


async def test_a_bad_optional_field_costs_the_field_and_the_memo_says_so(book: str, client: Client) -> None:
    bad = {"risk": 0, "exit_reason": "", "signals": [{"signal_id": "s"}, {"signal_id": "s", "producer_id": "ta"}]}
    handle = await client.start_workflow(
        "PositionCloseWorkflow", message(book) | bad, id=f"wrong/{uuid.uuid4().hex}", task_queue=TASK_QUEUE
    )
    result = await asyncio.wait_for(handle.result(), PATIENCE)
    assert result["outcome"]["rr"] is None
    assert result["outcome"]["producers"] == ["ta"]
    assert [note["field"] for note in result["noted"]] == ["risk", "exit_reason", "signals.0.producer_id"]
    memo = await (await handle.describe()).memo()
    assert all(field in memo["noted"] for field in ("risk: ", "exit_reason: ", "signals.0.producer_id: "))


async def test_a_field_of_tomorrow_is_left_alone(book: str, client: Client) -> None:
    result = await client.execute_workflow(
        "PositionCloseWorkflow",
        message(book) | {"added_later": {"by": "a newer engine"}},
        id=f"position-close/{book}/p-1",
        task_queue=TASK_QUEUE,
    )
    assert result["outcome"]["position_id"] == "p-1"


async def test_the_result_speaks_the_documented_json(book: str, client: Client) -> None:
    """Money as text, every other quantity as a number."""
    result = await client.execute_workflow(
        "PositionCloseWorkflow", message(book), id=f"position-close/{book}/p-1", task_queue=TASK_QUEUE
    )
    outcome = result["outcome"]
    assert outcome["realized_pnl"] == "10.0"
    assert (outcome["rr"], outcome["max_drawdown_pct"], outcome["time_held_hours"]) == (2.0, 0.4, 6.0)
    assert outcome["direction_correct"] is True


EDGES: dict[str, dict[str, Any]] = {
    "as many producers as a message holds": {
        "signals": [
            {"signal_id": "s", "producer_id": f"a producer whose name is long, number {i:04}"} for i in range(900)
        ]
    },
    "names of 200 bytes that are 50 characters": {
        "position_id": "𝔘" * 50,
        "symbol": "𝔅" * 50,
        "exit_reason": "𝔈" * 50,
        "conviction": {"conviction_id": "ℭ" * 66, "domain_scores": {"𝔇" * 50: 0.5}},
        "signals": [{"signal_id": "𝔖" * 50, "producer_id": f"{'𝔓' * 49}{i}"} for i in range(10)],
    },
    "as long as a message may be": {"entry_context": {"notes": ["x" * 1000] * 250}},
    "the largest amounts": dict.fromkeys(("entry_price", "exit_price", "size", "realized_pnl"), "9" * 31)
    | {"risk": "1E-60"},
}


@pytest.mark.parametrize("edge", EDGES)
async def test_what_is_allowed_at_the_edge_is_attributed(
    edge: str, book: str, client: Client, sessions: Sessions
) -> None:
    handle = await client.start_workflow(
        "PositionCloseWorkflow", message(book, **EDGES[edge]), id=f"wrong/{uuid.uuid4().hex}", task_queue=TASK_QUEUE
    )
    assert await end(handle) == "succeeded"
    assert (await tally(sessions, book)).attributions == 1


async def test_a_conviction_with_the_longest_names_is_recorded(book: str, client: Client) -> None:
    conviction = {
        "book": book,
        "conviction_id": "ℭ" * 66,
        "cycle_id": "𝔜" * 50,
        "symbol": "𝔅" * 50,
        "domain_scores": {"𝔇" * 50: 0.5},
    }
    handle = await client.start_workflow(
        "ConvictionWorkflow", conviction, id=f"wrong/{uuid.uuid4().hex}", task_queue=TASK_QUEUE
    )
    assert await end(handle) == "succeeded"


async def test_a_value_that_the_database_cannot_hold_fails_with_a_type(book: str, client: Client) -> None:
    """It passes the door as a zero, and PostgreSQL holds no number with a hundred thousand decimals."""
    handle = await client.start_workflow(
        "PositionCloseWorkflow",
        message(book, realized_pnl="0E-99999"),
        id=f"wrong/{uuid.uuid4().hex}",
        task_queue=TASK_QUEUE,
    )
    assert await end(handle) in ("failed with a type", "succeeded")
