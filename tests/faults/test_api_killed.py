"""The API is killed before a commit, after it, and under load; two of them are as one."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from closeloop.models.tokens import Scope
from closeloop.workers.settings import Settings
from tests.api.doors import ApiProcess, api_on, start_api
from tests.closes import message
from tests.faults.door_campaign import Campaign
from tests.faults.stack_process import StackProcess
from tests.ports import reserve_ports
from tests.store.databases import query, scratch_database
from tests.waiting import until


@pytest.fixture
async def scratch(dsn: str) -> AsyncIterator[str]:
    async with scratch_database(dsn) as scratch:
        yield scratch


@pytest.fixture
async def nowhere(tmp_path: Path) -> dict[str, str]:
    """Settings by which nothing that follows from a message is started: no Temporal is there."""
    return {"home": str(tmp_path), "TEMPORAL_ADDRESS": f"127.0.0.1:{reserve_ports(1)[0]}"}


async def send(api: ApiProcess, token: str) -> asyncio.StreamWriter:
    """Send a close, and do not read what is answered."""
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    body = json.dumps(message("b")).encode()
    head = (
        f"POST /v1/positions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    return writer


async def counts(api: ApiProcess) -> tuple[int, int]:
    [row] = await query(
        api.sessions, "SELECT (SELECT count(*) FROM positions) AS positions, (SELECT count(*) FROM inbox) AS inbox"
    )
    return row["positions"], row["inbox"]


async def waits_for_a_lock(api: ApiProcess) -> bool:
    sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(await query(api.sessions, sql))


@pytest.mark.parametrize("table", ["positions", "inbox"])
async def test_killed_before_the_commit_nothing_is_there_and_sent_again_it_is_accepted(
    scratch: str, nowhere: dict[str, str], table: str
) -> None:
    api = await start_api(scratch, **nowhere)
    token = await api.token(Scope.ingest)
    holder = await asyncpg.connect(scratch)
    try:
        async with holder.transaction():
            await holder.execute(f"LOCK TABLE {table} IN SHARE MODE")
            unread = await send(api, token)
            await until("the API waits for the table", lambda: waits_for_a_lock(api))
            api.process.kill()
            await api.process.wait()
            unread.close()
        assert await counts(api) == (0, 0)
        async with api_on(scratch, **nowhere) as after:
            answered = await after.ask("POST", "/v1/positions", message("b"), token)
            assert (answered.status, answered.body["status"]) == (202, "accepted")
        assert await counts(api) == (1, 1)
    finally:
        await api.stop()
        await holder.close()


async def test_killed_after_the_commit_it_is_there_and_sent_again_a_duplicate(
    scratch: str, nowhere: dict[str, str]
) -> None:
    api = await start_api(scratch, **nowhere)
    try:
        token = await api.token(Scope.ingest)
        unread = await send(api, token)

        async def committed() -> bool:
            return await counts(api) == (1, 1)

        await until("it is committed", committed)
        api.process.kill()
        await api.process.wait()
        unread.close()
        async with api_on(scratch, **nowhere) as after:
            answered = await after.ask("POST", "/v1/positions", message("b"), token)
            assert (answered.status, answered.body["status"]) == (200, "duplicate")
        assert await counts(api) == (1, 1)
    finally:
        await api.stop()


async def test_two_of_them_behind_one_address_are_as_one(scratch: str, nowhere: dict[str, str]) -> None:
    async with api_on(scratch, **nowhere) as one, api_on(scratch, **nowhere) as other:
        token = await one.token(Scope.ingest, Scope.read)
        answers = await asyncio.gather(
            *(
                api.ask("POST", "/v1/positions", [message("b", f"p-{n}", size=size) for n in range(40)], token)
                for size in ("1", "1", "2", "2")
                for api in (one, other)
            )
        )
        assert {answered.status for answered in answers} == {202}
        for n in range(40):
            statuses = sorted(answered.body["results"][n]["status"] for answered in answers)
            assert statuses == ["accepted"] + ["conflict"] * 4 + ["duplicate"] * 3
        assert await counts(one) == (40, 40)
        tags = {(await api.ask("GET", "/v1/weights?book=b", None, token)).headers["etag"] for api in (one, other)}
        assert len(tags) == 1


@pytest.mark.usefixtures("settings")
async def test_nothing_is_lost_or_doubled_while_parts_are_killed_under_load(settings: Settings) -> None:
    stack = StackProcess(with_api=True)
    try:
        await stack.start()
        campaign = Campaign(items=6_000, batch=25)
        await campaign.run(stack, seed=3)
        await campaign.settled(stack)
        assert campaign.troubles == {"postgres": 2, "api": 2}
    finally:
        await stack.close()
