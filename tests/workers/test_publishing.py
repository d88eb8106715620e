"""A worker says that it lives while it does, and goes on working where it cannot say so."""

import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from closeloop.models.launches import TASK_QUEUE
from closeloop.models.policy import LearningPolicy
from closeloop.services import workers
from closeloop.store.database import Sessions
from closeloop.workers.publishing import beat_of, published
from closeloop.workers.settings import Settings
from tests.services.running import beat
from tests.store.databases import query, scratch_database, sessions_on
from tests.waiting import until
from tests.workers.processes import line, script

OFTEN = timedelta(milliseconds=50)


@pytest.fixture
async def own(dsn: str) -> AsyncIterator[tuple[str, Sessions]]:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        yield scratch, sessions


async def seen(sessions: Sessions) -> list[object]:
    return [row["last_seen"] for row in await query(sessions, "SELECT last_seen FROM running_workers")]


async def test_it_is_on_record_before_it_works_kept_fresh_and_gone_at_the_end(own: tuple[str, Sessions]) -> None:
    dsn, sessions = own
    async with published(dsn, beat("w-1"), OFTEN):
        [first] = await seen(sessions)

        async def later() -> bool:
            return await seen(sessions) > [first]

        await until("it is seen again", later)
    assert await seen(sessions) == []


async def test_it_goes_on_where_it_cannot_say_so_and_says_so_again_when_it_can(
    own: tuple[str, Sessions], caplog: pytest.LogCaptureFixture
) -> None:
    dsn, sessions = own
    await query(sessions, "ALTER TABLE running_workers RENAME TO hidden")
    with caplog.at_level(logging.WARNING):
        async with published(dsn, beat("w-1"), OFTEN):  # it is worked here all the same
            await query(sessions, "ALTER TABLE hidden RENAME TO running_workers")

            async def told() -> bool:
                return len(await seen(sessions)) == 1

            await until("it is on record", told)
            await query(sessions, "ALTER TABLE running_workers RENAME TO hidden")
    assert {record.message for record in caplog.records} == {"cannot say that this worker lives"}


async def test_a_database_that_is_away_stops_no_worker() -> None:
    async with published("postgresql://u:secret@127.0.0.1:9/none", beat("w-1"), OFTEN):
        worked = True
    assert worked


async def test_a_killed_worker_disappears_after_its_time(own: tuple[str, Sessions], home: Path) -> None:
    dsn, sessions = own
    within = timedelta(seconds=2)

    async def lives() -> bool:
        async with sessions() as session:
            return bool(await workers.live(session, within))

    async with script("tests.workers.published_worker", dsn, home=home) as process:
        assert await line(process) == "ready"
        assert await lives()
        process.kill()
        await process.wait()

    async def gone() -> bool:
        return not await lives()

    await until("the killed one is gone", gone)
    assert len(await seen(sessions)) == 1  # its row is there, and counts no more


def test_what_it_says_of_itself_holds_no_key() -> None:
    settings = Settings.model_validate({"anthropic_api_key": "sk-very-secret"})
    said = beat_of(settings, LearningPolicy(), [TASK_QUEUE])
    assert said.research.key_present is True
    assert "sk-very-secret" not in said.model_dump_json()
    assert said.policy_hash == LearningPolicy().policy_hash
