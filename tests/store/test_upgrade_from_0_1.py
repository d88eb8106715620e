"""What waited, and what was decided, in a database of 0.1 (revision 0006) is decided and stays so after the upgrade."""

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from closeloop import store
from closeloop.models.approvals import ApprovalAnswer, ApprovalKey, ApprovalState, ApprovalView, RecordApproval
from closeloop.models.lessons import LearningLesson, LessonRun
from closeloop.models.overrides import PmOverride
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import Book
from closeloop.services import approvals
from closeloop.services.override_decisions import override_key
from closeloop.store.database import Sessions, open_engine
from closeloop.store.schema import MIGRATIONS
from closeloop.workers.wiring import SUBJECTS
from tests.activities.overriding import lesson_row
from tests.store.databases import query, scratch_database, sessions_on

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LESSON_OF_0_1 = [
    name
    for name in LearningLesson.model_fields
    if name not in ("effect_now", "effect_now_low", "effect_now_high", "evidence")
]
OF_0_1 = [name for name in PmOverride.model_fields if name != "deadline"]


class Upgrade:
    """A database of 0.1 that is filled, then upgraded."""

    def __init__(self, dsn: str, sessions: Sessions) -> None:
        self._dsn = dsn
        self.sessions = sessions

    async def override(self, name: str, **changes: object) -> ApprovalKey:
        """A row of 0.1: by default it waits for an operator, since ``NOW``."""
        lesson = await self._lesson({"scope": {"chain": name}})
        row = PmOverride(
            override_id=name,
            book_id="b",
            pattern_key="p",
            action_category="entry",
            scope={"chain": name},
            anchor=f"chain={name}",
            size_multiplier=1.5,
            threshold_adjustments={},
            confidence=0.9,
            expires_at=NOW + 1000 * HOUR,
            lesson_id=lesson,
            lesson_version=1,
            run=uuid.uuid4().hex,
            as_of=NOW,
            policy_hash=LearningPolicy().flat_hash,
            created_at=NOW,
            **({"status": "pending"} | changes),
        )
        write = store.rows.insertion(PmOverride, [row.model_dump(include=set(OF_0_1))])
        async with self.sessions.begin() as session:
            await store.rows.execute(session, write)
        return override_key("b", name)

    async def _lesson(self, changes: Mapping[str, Any]) -> str:
        """A lesson of 0.1, of the book's first run; returns its id."""
        of_run = {"book_id": "b", "version": 1, "as_of": NOW, "policy_hash": "of 0.1"}
        lesson = lesson_row("b", of_run, changes)
        runs = [of_run | {"workflow_run": "of 0.1", "report": {}}]
        rows = store.rows
        async with self.sessions.begin() as session:
            for model, written in (
                (Book, [{"book_id": "b"}]),
                (LessonRun, runs),
                (LearningLesson, [{column: lesson[column] for column in LESSON_OF_0_1}]),
            ):
                await rows.execute(session, rows.insertion(model, written, on_conflict="DO NOTHING"))
        return str(lesson["lesson_id"])

    async def run(self) -> None:
        await store.schema.upgrade(self._dsn)

    async def show(self, key: ApprovalKey) -> ApprovalView:
        async with self.sessions() as session:
            return await approvals.show(session, SUBJECTS, key.workflow_id)

    async def waiting(self) -> Sequence[str]:
        async with self.sessions() as session:
            return [view.id for view in await approvals.waiting(session, SUBJECTS)]

    async def decide(
        self, key: ApprovalKey, verdict: str | None, at: datetime, deadline: datetime | None = None
    ) -> ApprovalAnswer:
        said = {"verdict": verdict, "operator": "ann" if verdict else "", "at": at, "deadline": deadline}
        record = RecordApproval.model_validate(key.model_dump() | said)
        async with self.sessions.begin() as session:
            return await approvals.decide(session, approvals.subject_of(SUBJECTS, key), record)


@pytest.fixture
async def upgrade(dsn: str) -> AsyncIterator[Upgrade]:
    def back_to_0_1(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "0006")

    async with scratch_database(dsn) as scratch:
        engine = open_engine(scratch, pool_size=1)
        async with engine.begin() as connection:
            await connection.run_sync(back_to_0_1)
        await engine.dispose()
        async with sessions_on(scratch) as sessions:
            yield Upgrade(scratch, sessions)


async def test_an_override_that_waits_is_decided_as_its_workflow_told_operators(upgrade: Upgrade) -> None:
    """Until when it waits was the policy's of then, which only its workflow knows: here 240 hours, or 2."""
    patient, brief = [await upgrade.override(name) for name in ("patient", "brief")]
    late, unasked, nobody = [await upgrade.override(name) for name in ("late", "unasked", "nobody")]
    await upgrade.run()
    assert set(await upgrade.waiting()) == {"patient", "brief", "late", "unasked", "nobody"}
    answer = await upgrade.decide(patient, "approve", NOW + 100 * HOUR, NOW + 240 * HOUR)
    assert (answer.accepted, answer.state) == (True, ApprovalState.approved)
    answer = await upgrade.decide(brief, "approve", NOW + 3 * HOUR, NOW + 2 * HOUR)
    assert (answer.accepted, answer.state) == (False, ApprovalState.pending)
    answer = await upgrade.decide(late, "approve", NOW + 240 * HOUR, NOW + 240 * HOUR)
    assert (answer.accepted, answer.state) == (False, ApprovalState.pending)
    answer = await upgrade.decide(unasked, "reject", NOW + HOUR)
    assert (answer.accepted, answer.state) == (True, ApprovalState.rejected)
    answer = await upgrade.decide(nobody, None, NOW + 240 * HOUR, NOW + 240 * HOUR)
    assert (answer.accepted, answer.state) == (True, ApprovalState.expired)
    [row] = await query(upgrade.sessions, "SELECT decided_at FROM pm_overrides WHERE override_id = 'nobody'")
    assert row["decided_at"] == NOW + 240 * HOUR


async def test_what_was_decided_stays_decided_and_its_last_word_may_be_repeated(upgrade: Upgrade) -> None:
    """A worker of 0.1 may have died between the commit and its answer: the next attempt is made by one of today."""
    word = {"decided_by": "ann", "decided_at": NOW + HOUR, "note": None}
    approved = await upgrade.override("approved", status="active", verdict="approve", **word)
    ended = {"status": "ended", "ended_at": NOW + HOUR}
    rejected = await upgrade.override("rejected", status="rejected", verdict="reject", ended_at=NOW + HOUR, **word)
    expired = await upgrade.override("expired", verdict="expired", decided_at=NOW + HOUR, **ended)
    await upgrade.run()
    assert await upgrade.waiting() == []
    for key, verdict, state in ((approved, "approve", "approved"), (rejected, "reject", "rejected")):
        assert (await upgrade.show(key)).state == state
        answer = await upgrade.decide(key, verdict, NOW + HOUR)
        assert (answer.accepted, answer.state) == (True, state)
        answer = await upgrade.decide(key, "approve", NOW + 2 * HOUR)
        assert (answer.accepted, answer.state) == (False, state)
    answer = await upgrade.decide(expired, None, NOW + HOUR)
    assert (answer.accepted, answer.state) == (True, ApprovalState.expired)
    async with upgrade.sessions() as session:
        refused = await store.overrides.rejected_or_expired(session, "b")
    assert len(refused) == 2, "asked about again only where the lesson changes"


async def test_one_that_was_withdrawn_while_its_workflow_waits_is_withdrawn(upgrade: Upgrade) -> None:
    """Its workflow of 0.1 asks when it is told to look, hears a word, or its deadline passes: none may fail it."""
    ended = {"status": "ended", "ended_at": NOW + HOUR, "reason": "its lesson is no longer actionable"}
    key = await upgrade.override("withdrawn", **ended)
    in_force = await upgrade.override("small", status="active")
    await upgrade.run()
    assert (await upgrade.show(key)).state is ApprovalState.withdrawn
    for verdict in ("approve", None):
        answer = await upgrade.decide(key, verdict, NOW + 2 * HOUR, NOW + 72 * HOUR)
        assert (answer.accepted, answer.state) == (False, ApprovalState.withdrawn)
        assert "its lesson is no longer actionable" in answer.reason
    with pytest.raises(approvals.NotOnRecord):
        await upgrade.show(in_force)
