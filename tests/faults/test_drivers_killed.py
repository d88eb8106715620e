"""Who proposes, approves or reverts weights of drivers is killed at each boundary: all of it happened, or nothing."""

import asyncio
import signal

from temporalio.client import Client

from closeloop.models.policy import LearningPolicy
from closeloop.services import market_drivers
from closeloop.store.database import Sessions
from closeloop.workers.settings import Settings
from tests.activities.patterning import attribute_all
from tests.services.test_market_evidence import LATER, switching
from tests.store.databases import query, scratch_database, sessions_on
from tests.waiting import PATIENCE
from tests.workers.processes import line, script

POLICY = LearningPolicy()
Standing = tuple[list[str], list[float], list[str]]


async def one_run(settings: Settings, dsn: str, step: str, book: str, die_at: int) -> int | None:
    """How many boundaries it passed; None where it was killed."""
    arguments = (step, dsn, book, LATER.isoformat(), str(die_at))
    async with script("tests.faults.drivers_process", *arguments, home=settings.home) as process:
        told = await line(process)
        status = await asyncio.wait_for(process.wait(), PATIENCE)
    assert status == (0 if told else -signal.SIGKILL)
    return int(told) if told else None


async def standing(sessions: Sessions) -> Standing:
    """States of the proposals; BTC's factor in each version; types of events."""
    states = await query(sessions, "SELECT state FROM driver_proposals ORDER BY number")
    versions = await query(sessions, "SELECT factors FROM driver_factors ORDER BY version")
    told = "type LIKE 'market.drivers%' OR type = 'learning.approval.approved.v1'"
    events = await query(sessions, f"SELECT type FROM events WHERE {told} ORDER BY id")
    return (
        [row["state"] for row in states],
        [row["factors"].get("BTC", 1.0) for row in versions],
        [row["type"] for row in events],
    )


async def test_killed_at_each_boundary(dsn: str, settings: Settings, client: Client, book: str) -> None:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        await attribute_all(sessions, switching(book))
        async with sessions() as session:
            assert (await market_drivers.status(session, POLICY.levers, book, LATER)).version == 0
        expected = {
            "propose": (["pending"], [], []),
            "approve": (["approved"], [1.25], ["learning.approval.approved.v1"]),
            "revert": (["approved"], [1.25, 1.0], ["learning.approval.approved.v1", "market.drivers.reverted.v1"]),
        }
        before: Standing = ([], [], [])
        for step, after in expected.items():
            deaths = 0
            while await one_run(settings, scratch, step, book, deaths + 1) is None:
                deaths += 1
                found = await standing(sessions)
                assert found in (before, after), (step, deaths, found)
                if found == after:
                    break  # it was committed: the next would find it done
            assert deaths >= 2, step
            assert await one_run(settings, scratch, step, book, 0) is not None
            assert await standing(sessions) == after, step
            before = after
        await client.get_workflow_handle(f"drivers/{book}/1").terminate()
