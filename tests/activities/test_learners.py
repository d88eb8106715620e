"""Learners run after the attribution, each in its own transaction: what fails is reported and hides no other."""

from collections.abc import AsyncIterator, Sequence

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.testing import ActivityEnvironment

from closeloop.activities.learners import Learner, LearnerActivities
from closeloop.models.positions import LearnReport, LearnRequest, PositionKey, PositionOutcome
from closeloop.store.database import Sessions
from tests.activities.attributing import attributed, tally
from tests.closes import closed
from tests.store.databases import query, scratch_database, sessions_on

BOOK = "learners"


class Writing:
    """Writes down what it was told, then does what it was made to do."""

    def __init__(self, name: str, then: str = "", error: Exception | None = None) -> None:
        self.name = name
        self._then = then
        self._error = error

    async def learn(self, session: AsyncSession, outcomes: Sequence[PositionOutcome]) -> None:
        for outcome in outcomes:
            await session.execute(
                text("INSERT INTO learned VALUES (:name, :id, :rr)"),
                {"name": self.name, "id": outcome.position_id, "rr": outcome.rr},
            )
        if self._then:
            await session.execute(text(self._then))
        if self._error:
            raise self._error


@pytest.fixture
async def own(dsn: str) -> AsyncIterator[Sessions]:
    """A database with an attributed close and a table for the learners of these tests."""
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        await query(sessions, "CREATE TABLE learned (learner text, position_id text, rr float8)")
        await attributed(sessions, closed(BOOK))
        yield sessions


async def learn(sessions: Sessions, learners: Sequence[Learner], *names: str, position_id: str = "p-1") -> LearnReport:
    request = LearnRequest(position=PositionKey(book=BOOK, position_id=position_id), learners=list(names))
    return await ActivityEnvironment().run(LearnerActivities(sessions, learners).learn, request)


async def test_every_named_learner_is_told_of_the_outcome(own: Sessions) -> None:
    report = await learn(own, [Writing("a"), Writing("b"), Writing("not asked")], "b", "a")
    assert report == LearnReport(learned=["b", "a"])
    rows = await query(own, "SELECT * FROM learned ORDER BY learner")
    assert [dict(row) for row in rows] == [{"learner": name, "position_id": "p-1", "rr": 2.0} for name in ("a", "b")]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (Writing("broken", error=RuntimeError("out of ideas")), "RuntimeError: out of ideas"),
        (Writing("broken", error=KeyError("x" * 2000)), "KeyError: 'xxx"),
        (Writing("broken", error=FileNotFoundError("its own file")), "FileNotFoundError: its own file"),
        (Writing("broken", then="SELECT * FROM not_there"), 'relation "not_there" does not exist'),
        (Writing("broken", then="INSERT INTO books VALUES (NULL)"), "null value in column"),
        (Writing("broken", then="SELECT 1 / 0"), "division by zero"),
    ],
    ids=[
        "raises",
        "raises at length",
        "misses a file",
        "asks for what is not there",
        "breaks a constraint",
        "breaks arithmetic",
    ],
)
async def test_one_that_always_fails_is_reported_and_leaves_nothing(
    broken: Writing, reason: str, own: Sessions
) -> None:
    before = await tally(own, BOOK)
    for _ in range(2):
        report = await learn(own, [Writing("first"), broken, Writing("last")], "first", "broken", "last")
        assert report.learned == ["first", "last"]
        assert list(report.failed) == ["broken"]
        assert reason in report.failed["broken"]
        assert len(report.failed["broken"]) <= 500
    names = [row["learner"] for row in await query(own, "SELECT learner FROM learned ORDER BY learner")]
    assert names == ["first", "first", "last", "last"], "what the broken one wrote was rolled back"
    assert await tally(own, BOOK) == before


async def test_a_learner_that_this_worker_does_not_have_is_reported(own: Sessions) -> None:
    report = await learn(own, [Writing("a")], "a", "from a newer worker")
    assert report.learned == ["a"]
    assert report.failed == {"from a newer worker": "this worker does not have it"}


async def test_without_learners_there_is_nothing_to_do(own: Sessions) -> None:
    assert await learn(own, []) == LearnReport()
