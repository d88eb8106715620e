"""What status tells of a Temporal server that answers: each trouble with its remedy, and none hides another."""

import asyncio
import shlex
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest
from temporalio.client import (
    Client,
    ScheduleIntervalSpec,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
    WorkflowFailureError,
)
from temporalio.service import RPCError, RPCStatusCode

from closeloop.models import search_attributes
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.schedules import SCHEDULES
from closeloop.models.status import Addresses, Status
from closeloop.services.status import status
from closeloop.services.temporal_looks import FAILED_LISTED
from closeloop.store.database import open_engine, session_for
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.schedules import apply_schedules
from closeloop.workers.stack.temporal import binary
from tests.waiting import PATIENCE, eventually
from tests.workers.namespaces import own_namespace
from tests.workers.own_worker import own_worker


async def look(dsn: str, home: Path, client: Client) -> Status:
    @asynccontextmanager
    async def temporal() -> AsyncIterator[Client]:
        yield client

    addresses = Addresses(home=home, stack_running=True, postgres_data=None, temporal=None, temporal_ui=None)
    return await status(addresses, lambda: session_for(dsn), temporal)


def told(seen: Status, about: str) -> list[str]:
    return [f"{one.sentence}; {one.remedy}" for one in seen.troubles if one.about == about]


async def test_an_empty_namespace(dsn: str, client: Client, home: Path) -> None:
    own = await own_namespace(client)
    seen = await look(dsn, home, own)
    assert (seen.temporal.up, seen.up) == (True, False)
    names = [key.name for key in search_attributes.ALL]
    assert seen.missing_search_attributes == names
    [sentence] = told(seen, "search attributes")
    assert all(name in sentence for name in names)
    assert "closeloop search-attributes apply" in sentence
    assert seen.schedules is not None
    assert [(one.id, one.there) for one in seen.schedules] == [(one.id, False) for one in SCHEDULES]
    [sentence] = told(seen, "schedules")
    assert all(one.id in sentence for one in SCHEDULES)
    assert "closeloop schedules apply" in sentence
    assert seen.failed_workflows is not None
    assert (seen.failed_workflows.count, seen.failed_workflows.newest) == (0, [])

    await register_search_attributes(own)
    await apply_schedules(own)
    seen = await look(dsn, home, own)
    assert (seen.missing_search_attributes, seen.troubles) == ([], [])


async def test_a_namespace_that_is_not_set_up(dsn: str, client: Client, home: Path) -> None:
    nowhere = await Client.connect(client.service_client.config.target_host, namespace="nowhere")
    seen = await look(dsn, home, nowhere)
    assert (seen.temporal.up, seen.up) == (False, False)
    assert seen.temporal.reason == "there is no namespace nowhere"
    assert seen.temporal.remedy is not None
    assert "operator namespace create" in seen.temporal.remedy
    assert "--namespace nowhere" in seen.temporal.remedy
    assert seen.postgres.up


async def test_a_paused_schedule_and_the_command_that_goes_on_with_it(dsn: str, client: Client, home: Path) -> None:
    own = await own_namespace(client)
    await register_search_attributes(own)
    await apply_schedules(own)
    await own.get_schedule_handle("closeloop/weights").pause(note="the exchange is down")
    seen = await look(dsn, home, own)
    [trouble] = seen.troubles
    assert "closeloop/weights is paused (the exchange is down)" in trouble.sentence
    assert seen.schedules is not None
    paused = {one.id: (one.paused, one.next_at is None) for one in seen.schedules}
    assert paused == {one.id: (one.id == "closeloop/weights",) * 2 for one in SCHEDULES}
    command = shlex.split(trouble.remedy.split("'")[1])
    assert command[0] == "temporal"
    done = await asyncio.to_thread(
        subprocess.run, [str(binary()), *command[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (await look(dsn, home, own)).troubles == []


async def test_a_schedule_of_an_older_version(dsn: str, client: Client, home: Path) -> None:
    own = await own_namespace(client)
    await register_search_attributes(own)
    await apply_schedules(own)

    def daily(current: ScheduleUpdateInput) -> ScheduleUpdate:
        schedule = current.description.schedule
        schedule.spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(days=1))])
        return ScheduleUpdate(schedule=schedule)

    await own.get_schedule_handle("closeloop/corpus").update(daily)
    [sentence] = told(await look(dsn, home, own), "schedules")
    assert "closeloop/corpus" in sentence
    assert "closeloop/weights" not in sentence
    assert "closeloop schedules apply" in sentence


async def test_workflows_that_failed(dsn: str, client: Client, home: Path, tmp_path: Path) -> None:
    """All are counted, the newest are listed with what they failed for, the newest first."""
    own = await own_namespace(client)
    await register_search_attributes(own)
    await apply_schedules(own)
    late = await own.start_workflow(
        "CorpusWorkflow", id="late", task_queue=TASK_QUEUE, execution_timeout=timedelta(seconds=1)
    )
    with pytest.raises(WorkflowFailureError):
        await asyncio.wait_for(late.result(), PATIENCE)
    engine = open_engine(dsn, pool_size=4)
    names = [f"wrong-{i:02}" for i in range(FAILED_LISTED + 1)]
    async with own_worker(own, engine, tmp_path):
        for name in names:
            with pytest.raises(WorkflowFailureError):
                await own.execute_workflow("LessonBuildingWorkflow", {"book": "?!"}, id=name, task_queue=TASK_QUEUE)
        request = {"book": "no-such-book", "as_of": "2026-01-01T00:00:00Z"}
        with pytest.raises(WorkflowFailureError):
            await own.execute_workflow("LessonBuildingWorkflow", request, id="last", task_queue=TASK_QUEUE)
    await engine.dispose()
    wanted = len(names) + 2

    async def seen() -> Status:
        return await look(dsn, home, own)

    def whole(found: Status) -> bool:
        return found.failed_workflows is not None and found.failed_workflows.count >= wanted

    found = (await eventually(seen, whole)).failed_workflows
    assert found is not None
    assert found.count == wanted
    assert [one.workflow_id for one in found.newest] == ["last", *reversed(names)][:FAILED_LISTED]
    assert found.newest[0].reason.startswith("LessonsRefused: ")
    assert "no-such-book" in found.newest[0].reason
    assert all("book" in one.reason for one in found.newest)
    [sentence] = told(await seen(), "failed workflows")
    assert str(wanted) in sentence


async def test_a_workflow_that_timed_out(dsn: str, client: Client, home: Path) -> None:
    own = await own_namespace(client)
    await own.start_workflow("CorpusWorkflow", id="late", task_queue=TASK_QUEUE, execution_timeout=timedelta(seconds=1))

    async def seen() -> Status:
        return await look(dsn, home, own)

    found = await eventually(seen, lambda one: bool(one.failed_workflows and one.failed_workflows.count))
    assert found.failed_workflows is not None
    assert [(one.workflow_id, one.reason) for one in found.failed_workflows.newest] == [("late", "timed out")]


class Restricted(Client):
    """A client whose server does not let it ask for search attributes, and never answers how many workflows failed."""

    @property
    def operator_service(self) -> NoReturn:
        raise RPCError("Request unauthorized.", RPCStatusCode.PERMISSION_DENIED, b"")

    async def count_workflows(self, *_: Any, **__: Any) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError


async def test_what_cannot_be_told_hides_nothing_else(dsn: str, client: Client, home: Path) -> None:
    own = await own_namespace(client)
    await register_search_attributes(own)
    await apply_schedules(own)
    await own.get_schedule_handle("closeloop/corpus").pause(note="a full disk")
    seen = await look(dsn, home, Restricted(own.service_client, namespace=own.namespace))
    assert seen.temporal.up
    assert (seen.missing_search_attributes, seen.failed_workflows) == (None, None)
    assert "cannot be told (this client may not ask)" in told(seen, "search attributes")[0]
    assert "cannot be told (no answer within 5 s)" in told(seen, "failed workflows")[0]
    assert "closeloop/corpus is paused (a full disk)" in told(seen, "schedules")[0]
