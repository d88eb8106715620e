"""A position closes, through a real Temporal server and a real PostgreSQL."""

import asyncio
import dataclasses

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from closeloop.models.launches import TASK_QUEUE, position_close
from closeloop.models.positions import CloseReport
from closeloop.services.launching import start
from closeloop.services.positions import start_close
from tests.closes import closed, message
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("worker")


async def test_a_close_started_by_name_with_plain_json(book: str, settings: object) -> None:
    plain = await Client.connect(settings_address(settings))
    handle = await plain.start_workflow(
        "PositionCloseWorkflow", message(book), id=f"position-close/{book}/p-1", task_queue=TASK_QUEUE
    )
    report = await handle.result()
    assert report["outcome"]["rr"] == 2.0
    assert report["karma"] == [{"producer_id": "ta", "before": 1.0, "after": 1.0}]
    description = await handle.describe()
    assert (await description.memo())["outcome"] == "BTC/USDT long closed +2.00 R after 6.0 h; karma ta 1→1"
    found = {pair.key.name: pair.value for pair in description.typed_search_attributes}
    assert found["Book"] == book
    assert found["Producers"] == ["ta"]
    assert found["RMultiple"] == 2.0


async def test_bad_json_fails_at_once_instead_of_hanging(book: str, client: Client) -> None:
    handle = await client.start_workflow(
        "PositionCloseWorkflow",
        message(book) | {"direction": "sideways"},
        id=f"position-close/{book}/bad",
        task_queue=TASK_QUEUE,
    )
    with pytest.raises(WorkflowFailureError) as failed:
        await asyncio.wait_for(handle.result(), PATIENCE)
    assert "direction" in str(failed.value.cause)


async def test_other_content_is_refused_by_name_of_the_field(book: str, client: Client) -> None:
    await (await start_close(client, closed(book))).result()
    handle = await start_close(client, closed(book, realized_pnl="11", risk="6"))
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "PositionConflict"
    assert cause.message.endswith("differing: realized_pnl, risk")


async def test_twenty_starts_at_once_attribute_once(book: str, client: Client) -> None:
    joining = WorkflowIDConflictPolicy.USE_EXISTING
    handles = await asyncio.gather(
        *(start(client, dataclasses.replace(position_close(closed(book)), conflict=joining)) for _ in range(20))
    )
    reports: list[CloseReport] = await asyncio.gather(*(handle.result() for handle in handles))
    assert {report.outcome.position_id for report in reports} == {"p-1"}


def settings_address(settings: object) -> str:
    from closeloop.workers.addresses import temporal_config

    return temporal_config(settings)["target_host"]  # type: ignore[arg-type]
