"""Learners: they learn in the attribution's transaction, each of them once, and none of them can undo it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.testing import ActivityEnvironment

from closeloop.activities.attribution import attribute_and_learn
from closeloop.activities.learners import Learner, LearnerActivities
from closeloop.models.positions import ClosedPosition, LearnReport, LearnRequest, PositionKey, PositionOutcome
from closeloop.store.database import Sessions
from tests.activities.attributing import NOW, POLICY, Tally, accepted, karma_of_book, tally
from tests.activities.patterning import attribute_all, learn_missed, owed
from tests.closes import closed
from tests.store.databases import query, scratch_database, sessions_on

BOOK = "learners"
CONTEXT = {"timeframe": "1h"}
# Errors of a learner's own, and what is told of them.
BROKEN = {
    "raises": ("", RuntimeError("out of ideas"), "RuntimeError: out of ideas"),
    "raises at length": ("", KeyError("x" * 2000), "KeyError: 'xxx"),
    "breaks a constraint": ("INSERT INTO books VALUES (NULL)", None, "null value in column"),
    "breaks arithmetic": ("SELECT 1 / 0", None, "division by zero"),
    "reads a table that is not there": ("SELECT 1 FROM nowhere", None, 'relation "nowhere" does not exist'),
    "takes too long": ("DO $$ BEGIN RAISE EXCEPTION 'timeout' USING ERRCODE = '57014'; END $$", None, "timeout"),
    "waits too long": ("DO $$ BEGIN RAISE EXCEPTION 'busy' USING ERRCODE = '55P03'; END $$", None, "busy"),
    "finds no file": ("", FileNotFoundError("model.bin"), "FileNotFoundError: model.bin"),
    "is not answered by another service": ("", ConnectionError("reset"), "ConnectionError: reset"),
    "waits in vain": ("", TimeoutError(), "TimeoutError"),
}


class Writing:
    """A learner that writes the outcomes it is given into a table, then fails in the way it was made to."""

    def __init__(self, name: str, then: str = "", error: Exception | None = None) -> None:
        self.name = name
        self._then = then
        self._error = error

    async def take_in(
        self, session: AsyncSession, outcomes: Sequence[PositionOutcome], contexts: Mapping[PositionKey, Any]
    ) -> None:
        for outcome in outcomes:
            await session.execute(
                text("INSERT INTO learned VALUES (:name, :id, :timeframe)"),
                {"name": self.name, "id": outcome.position_id, "timeframe": contexts[outcome.key]["timeframe"]},
            )
        if self._then:
            await session.execute(text(self._then))
        if self._error:
            raise self._error


@pytest.fixture
async def own(dsn: str) -> AsyncIterator[Sessions]:
    """A database with a table for the learners of these tests."""
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        await query(sessions, "CREATE TABLE learned (learner text, position_id text, timeframe text)")
        yield sessions


async def close(sessions: Sessions, learners: Sequence[Learner], *positions: ClosedPosition) -> LearnReport:
    """Attribute and learn in one transaction, as an activity does."""

    async def transaction() -> LearnReport:
        async with sessions.begin() as session:
            answers, report = await attribute_and_learn(session, positions, POLICY, NOW, "a test", learners)
            assert all(accepted(answer) for answer in answers)
            return report

    return await ActivityEnvironment().run(transaction)


async def learned(sessions: Sessions) -> list[tuple[str, str]]:
    rows = await query(sessions, "SELECT * FROM learned ORDER BY position_id, learner")
    assert all(row["timeframe"] == "1h" for row in rows)
    return [(row["position_id"], row["learner"]) for row in rows]


async def test_every_learner_is_given_every_new_outcome_once(own: Sessions) -> None:
    positions = [closed(BOOK, name, entry_context=CONTEXT) for name in ("p-2", "p-1")]
    learners = [Writing("b"), Writing("a")]
    assert await close(own, learners, *positions, positions[0]) == LearnReport(learned=["b", "a"])
    assert await close(own, learners, *positions) == LearnReport(learned=["b", "a"]), "they have learned it before"
    assert await learned(own) == [("p-1", "a"), ("p-1", "b"), ("p-2", "a"), ("p-2", "b")]
    assert await owed(own, BOOK) == []


@pytest.mark.parametrize("case", BROKEN)
async def test_a_learner_that_fails_leaves_nothing_but_its_row_in_unlearned_and_the_attribution_stands(
    case: str, own: Sessions
) -> None:
    then, error, reason = BROKEN[case]
    position = closed(BOOK, entry_context=CONTEXT)
    learners = [Writing("first"), Writing("broken", then, error), Writing("last")]
    for _ in range(2):
        report = await close(own, learners, position)
        assert report.learned == ["first", "last"]
        assert list(report.failed) == ["broken"]
        assert reason in report.failed["broken"]
        assert len(report.failed["broken"]) <= 500
    assert await learned(own) == [("p-1", "first"), ("p-1", "last")], "what the broken one wrote was rolled back"
    assert await tally(own, BOOK) == Tally(1, 1, 1, 1, convictions=1)
    assert await karma_of_book(own, BOOK) == {"ta": (1.0, 1, 0, 1)}
    assert await owed(own, BOOK) == [("broken", "p-1")]
    missed = await learn_missed(own, None, learners)
    assert missed.learned == {"first": 0, "broken": 0, "last": 0}
    assert reason in missed.failed["broken"], "whoever waits for the catch-up, an import, is not held up for ever"
    assert await owed(own, BOOK) == [("broken", "p-1")]
    mended = [Writing("first"), Writing("broken"), Writing("last")]
    assert (await learn_missed(own, None, mended)).learned["broken"] == 0, "it is left alone for a while"
    [postponed] = await query(own, "SELECT attempts, next_attempt_at > now() AS later FROM unlearned")
    assert dict(postponed) == {"attempts": 1, "later": True}
    await query(own, "UPDATE unlearned SET next_attempt_at = now()")
    assert (await learn_missed(own, None, mended)).learned == {"first": 0, "broken": 1, "last": 0}
    assert await learned(own) == [("p-1", "broken"), ("p-1", "first"), ("p-1", "last")]


async def test_a_close_that_is_sent_again_is_learned_by_the_learner_that_failed_on_it(own: Sessions) -> None:
    position = closed(BOOK, entry_context=CONTEXT)
    await close(own, [Writing("fine"), Writing("broken", error=RuntimeError())], position)
    mended = [Writing("fine"), Writing("broken")]
    assert await close(own, mended, position) == LearnReport(learned=["fine", "broken"])
    assert await learned(own) == [("p-1", "broken"), ("p-1", "fine")]
    assert await owed(own, BOOK) == []


# Errors that end the whole transaction, raised on a connection that is fine or gone afterwards.
ENDING = {
    "deadlock": "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$",
    "cannot be serialized": "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$",
    "the connection is lost": "SELECT pg_terminate_backend(pg_backend_pid())",
}


@pytest.mark.parametrize("case", ENDING)
async def test_an_error_that_ends_the_transaction_undoes_the_whole_so_that_it_is_tried_again(
    case: str, own: Sessions
) -> None:
    position = closed(BOOK, entry_context=CONTEXT)
    with pytest.raises(SQLAlchemyError):
        await close(own, [Writing("first"), Writing("away", ENDING[case])], position)
    assert await learned(own) == []
    assert await tally(own, BOOK) == Tally(0, 0, 0, 0, convictions=0)
    assert await owed(own, BOOK) == []


# Workflows of 0.1 -----------------------------------------------------------------------------------------------------


async def ask(sessions: Sessions, learners: Sequence[Learner], *names: str) -> LearnReport:
    request = LearnRequest(position=PositionKey(book=BOOK, position_id="p-1"), learners=list(names))
    return await ActivityEnvironment().run(LearnerActivities(sessions, learners).learn, request)


async def test_older_workflows_ask_for_their_learners_one_by_one(own: Sessions) -> None:
    names = ["first", "broken", "last", "from a newer worker"]
    await attribute_all(own, [closed(BOOK, entry_context=CONTEXT)], names)
    learners = [Writing("first"), Writing("broken", error=RuntimeError("not yet")), Writing("last"), Writing("other")]
    for _ in range(2):
        report = await ask(own, learners, *names)
        assert report.learned == ["first", "last"]
        assert report.failed == {
            "broken": "RuntimeError: not yet",
            "from a newer worker": "this worker does not have it",
        }
    assert await learned(own) == [("p-1", "first"), ("p-1", "last")]
    assert await owed(own, BOOK) == [("broken", "p-1"), ("from a newer worker", "p-1")]
    assert await ask(own, []) == LearnReport()
