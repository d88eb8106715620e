"""Closes with actions and scopes, and the activities that learn patterns from them, for tests."""

import dataclasses
import random
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping
from temporalio.testing import ActivityEnvironment

from closeloop.activities.attribution import attribute
from closeloop.activities.learners import Learner, learn_owed
from closeloop.activities.lessons import LessonActivities
from closeloop.activities.patterns import MissedActivities, PatternEvents, TimeframeCoefficients
from closeloop.models.lessons import BuildLessons, BuiltLessons
from closeloop.models.patterns import LearnMissed, LearnMissedReport
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import ClosedPosition
from closeloop.store.database import Sessions
from tests.closes import closed
from tests.store.databases import query

POLICY = LearningPolicy()
LEARNERS: tuple[Learner, ...] = (PatternEvents(POLICY), TimeframeCoefficients(POLICY))
NAMES = [learner.name for learner in LEARNERS]
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
AS_OF = datetime(2026, 6, 1, tzinfo=UTC)
DIMENSIONS = ("chain", "mcap_bucket", "vol_bucket", "age_bucket")
PATTERN = "pm.uptrend.S1.buy_flag"
EDGE = {"chain": "v0", "vol_bucket": "v1"}


def trade(book: str, position_id: str, rr: float, scope: Mapping[str, Any], at: datetime, **context: Any) -> Any:
    """A close of one hour with one entry action; ``rr`` is in R."""
    return closed(
        book,
        position_id,
        opened_at=(at - timedelta(hours=1)).isoformat(),
        closed_at=at.isoformat(),
        realized_pnl=str(round(rr, 6)),
        risk="1",
        entry_context={
            "timeframe": "1h",
            "scope": dict(scope),
            "actions": [{"pattern_key": PATTERN, "action_category": "entry", "at": at.isoformat()}],
        }
        | context,
    )


def trades(
    book: str, count: int, seed: int = 1, edge: Mapping[str, str] | None = None, lift: float = 1.0, first: int = 0
) -> list[ClosedPosition]:
    """Closes an hour apart, four dimensions of three values; those in ``edge`` earn ``lift`` R more."""
    rng = random.Random(seed)
    made = []
    for i in range(first, first + count):
        scope = {dimension: f"v{rng.randrange(3)}" for dimension in DIMENSIONS}
        rr = rng.gauss(0, 1)
        if edge and all(scope[dimension] == value for dimension, value in edge.items()):
            rr += lift
        made.append(trade(book, f"{book}-{i:05}", rr, scope, FIRST + timedelta(hours=i)))
    return made


def of_three_symbols(book: str, count: int = 300) -> list[ClosedPosition]:
    """Closes an hour apart of three symbols with luck of their own; the chain is a symbol's, the rest is noise."""
    rng = random.Random(7)
    made = []
    for i in range(count):
        place = rng.randrange(3)
        scope = {"chain": f"v{place}", "vol_bucket": f"v{rng.randrange(3)}"}
        rr = rng.gauss((0.9, 0.0, -0.9)[place], 1)
        at = FIRST + timedelta(hours=i)
        made.append(trade(book, f"{book}-{i:05}", rr, scope, at).model_copy(update={"symbol": f"T{place}/USDT"}))
    return made


async def attribute_all(
    sessions: Sessions, positions: Sequence[ClosedPosition], learners: Sequence[str] = NAMES
) -> None:
    """Attribute closes as an import does: the learners owe them."""
    for start in range(0, len(positions), 1_000):
        async with sessions.begin() as session:
            await attribute(session, positions[start : start + 1_000], POLICY, datetime.now(UTC), "a test", learners)


async def learn_missed(
    sessions: Sessions, books: list[str] | None, learners: Sequence[Learner] = LEARNERS
) -> LearnMissedReport:
    """Let the learners take in what they owe."""
    activities = MissedActivities(sessions, learners)
    report: LearnMissedReport = await ActivityEnvironment().run(activities.learn_missed, LearnMissed(books=books))
    return report


async def learn(sessions: Sessions, positions: Sequence[ClosedPosition]) -> None:
    """Attribute closes and learn from them."""
    await attribute_all(sessions, positions)
    await learn_missed(sessions, sorted({position.book for position in positions}))


async def build(
    sessions: Sessions,
    book: str,
    as_of: datetime = AS_OF,
    *,
    force: bool = False,
    policy: LearningPolicy = POLICY,
    run: str | None = None,
) -> BuiltLessons:
    """Build a book's lessons, as a workflow's run (of that id) would."""
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, workflow_run_id=run or uuid.uuid4().hex)
    activities = LessonActivities(sessions, policy)
    report: BuiltLessons = await environment.run(activities.build, BuildLessons(book=book, as_of=as_of, force=force))
    return report


async def facts(sessions: Sessions, book: str) -> list[RowMapping]:
    """A book's actions, by position and index."""
    sql = "SELECT * FROM pattern_trade_events WHERE book_id = :book ORDER BY position_id, action_index"
    return await query(sessions, sql, book=book)


async def owed(sessions: Sessions, book: str) -> list[tuple[str, str]]:
    """(learner, position) of the rows in ``unlearned``."""
    sql = "SELECT learner, position_id FROM unlearned WHERE book_id = :book ORDER BY 1, 2"
    return [(row["learner"], row["position_id"]) for row in await query(sessions, sql, book=book)]


async def config(sessions: Sessions, book: str) -> dict[str, Any]:
    """A book's coefficients, as an engine reads them."""
    rows = await query(sessions, "SELECT config_data FROM learning_configs WHERE book_id = :book", book=book)
    return rows[0]["config_data"] if rows else {}


async def tell(sessions: Sessions, learner: Learner, outcomes: Sequence[Any]) -> None:
    """Tell a learner of outcomes in a transaction of its own."""
    async with sessions.begin() as session:
        await learn_owed(session, learner, outcomes)


async def events_of(sessions: Sessions, book: str, kind: str) -> list[dict[str, Any]]:
    """Payloads of a book's events of a type."""
    sql = "SELECT payload FROM events WHERE type = :kind AND payload ->> 'book' = :book ORDER BY id"
    return [row["payload"] for row in await query(sessions, sql, kind=kind, book=book)]
