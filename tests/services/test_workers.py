"""Workers that live, and whether they compute with the same policy."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from closeloop.models.policy import KarmaPolicy, LearningPolicy
from closeloop.models.workers import PolicyUse
from closeloop.services import workers
from closeloop.store.database import Sessions
from tests.services.running import publish
from tests.store.databases import query, scratch_database, sessions_on

OTHER = LearningPolicy(karma=KarmaPolicy(alpha=0.1))


@pytest.fixture
async def own(dsn: str) -> AsyncIterator[Sessions]:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        yield sessions


async def aged(own: Sessions, worker_id: str, age: timedelta) -> None:
    sql = "UPDATE running_workers SET last_seen = clock_timestamp() - CAST(:age AS interval) WHERE worker_id = :id"
    await query(own, sql, age=age, id=worker_id)


async def test_nobody_runs(own: Sessions) -> None:
    async with own() as session:
        assert await workers.live(session) == []
        found = await workers.policies_in_use(session)
    assert (found.policies, found.differ, found.warning) == ([], {}, None)


async def test_one_policy_is_nothing_to_say(own: Sessions) -> None:
    async with own.begin() as session:
        for number in (1, 2):
            await publish(session, f"w-{number}", pid=number)
        found = await workers.policies_in_use(session)
    assert found.policies == [PolicyUse(policy_hash=LearningPolicy().policy_hash, workers=["1@host", "2@host"])]
    assert found.warning is None


async def test_two_policies_are_told_apart_with_who_has_which_and_what_to_do(own: Sessions) -> None:
    async with own.begin() as session:
        for number, policy in enumerate((None, OTHER, OTHER), start=1):
            await publish(session, f"w-{number}", policy, pid=number)
        found = await workers.policies_in_use(session)
    ours, theirs = LearningPolicy().policy_hash, OTHER.policy_hash
    assert {use.policy_hash: use.workers for use in found.policies} == {ours: ["1@host"], theirs: ["2@host", "3@host"]}
    values = dict(zip((use.policy_hash for use in found.policies), found.differ["karma.alpha"], strict=True))
    assert (list(found.differ), values) == (["karma.alpha"], {ours: 0.05, theirs: 0.1})
    warning = found.warning
    assert warning is not None
    for said in (ours, theirs, "1@host", "2@host, 3@host", "karma.alpha", "CLOSELOOP_POLICY", "restart"):
        assert said in warning


async def test_a_field_that_an_older_version_does_not_have(own: Sessions) -> None:
    policy = LearningPolicy().model_dump(mode="json")
    del policy["imports"]
    async with own.begin() as session:
        await publish(session, "w-1")
        await publish(session, "w-2", pid=2, policy=policy, policy_hash="0" * 16)
        found = await workers.policies_in_use(session)
    assert found.policies[0].policy_hash == "0" * 16
    assert found.differ["imports.max_new_books"] == [None, 100]


async def test_a_worker_that_was_not_seen_lately_is_dead_and_is_removed_after_a_day(own: Sessions) -> None:
    async with own.begin() as session:
        await publish(session, "w-1")
        await publish(session, "w-2", OTHER, pid=2)
    await aged(own, "w-2", workers.LIVES_FOR)
    async with own() as session:
        assert [view.pid for view in await workers.live(session)] == [1]
        assert (await workers.policies_in_use(session)).warning is None
    await aged(own, "w-2", workers.FORGOTTEN_AFTER)
    async with own.begin() as session:
        await publish(session, "w-1")
    assert [row["worker_id"] for row in await query(own, "SELECT worker_id FROM running_workers")] == ["w-1"]


async def test_it_is_one_row_however_often_it_beats(own: Sessions) -> None:
    async with own.begin() as session:
        for policy in (None, OTHER):
            await publish(session, "w-1", policy)
        [view] = await workers.live(session)
    assert view.policy_hash == OTHER.policy_hash


async def test_the_answer_is_bounded(own: Sessions) -> None:
    async with own.begin() as session:
        for number in range(workers.LISTED + 1):
            await publish(session, f"w-{number}", pid=number, policy={}, policy_hash=f"{number:016}")
        assert len(await workers.live(session)) == workers.LISTED
        found = await workers.policies_in_use(session)
    assert len(found.policies) == 10
