"""Lessons on record as if they had been mined, and overrides made of them, for tests."""

import dataclasses
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.activities.lessons import lesson_id
from closeloop.activities.overrides import OverrideActivities
from closeloop.models.lessons import LearningLesson, LessonGroup, LessonRun
from closeloop.models.overrides import (
    Materialized,
    MaterializeOverrides,
    OverrideMatch,
    OverrideMatchRequest,
    OverrideView,
)
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import Book
from closeloop.services.overrides import match
from closeloop.store.database import Sessions
from tests.activities.patterning import AS_OF, PATTERN, POLICY

SCOPE = {"chain": "solana"}
UNREAD_HASH = "nobody reads it"


async def mined(sessions: Sessions, book: str, *lessons: Mapping[str, Any], as_of: datetime = AS_OF) -> list[str]:
    """Write lessons as a run's next version: actionable, of 200 trades, with an effect of 0.5 R. Returns their ids."""
    async with sessions.begin() as session:
        await store.rows.execute(session, store.rows.insertion(Book, [{"book_id": book}], on_conflict="DO NOTHING"))
        await store.lessons.hold(session, book)
        last = await store.lessons.last_run(session, book)
        version = last.version + 1 if last else 1
        of_all = {"book_id": book, "version": version, "as_of": as_of, "policy_hash": UNREAD_HASH}
        rows = [lesson_row(book, of_all, changes) for changes in lessons]
        keys = sorted({(row["pattern_key"], row["action_category"]) for row in rows} or {(PATTERN, "entry")})
        groups = [
            LessonGroup(
                book_id=book,
                pattern_key=p,
                action_category=a,
                trades=1,
                version=version,
                policy_hash=UNREAD_HASH,
            )
            for p, a in keys
        ]
        run = LessonRun(**of_all, workflow_run=uuid.uuid4().hex, report={})
        await store.lessons.write(session, run, groups, [LearningLesson(**row) for row in rows], [])
    return [row["lesson_id"] for row in rows]


def lesson_row(book: str, of_all: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """An actionable lesson of 200 trades with an effect of 0.5 R, as a row; ``of_all``: the columns of its run."""
    row: dict[str, Any] = {
        "pattern_key": PATTERN,
        "action_category": "entry",
        "scope": SCOPE,
        "n": 200,
        "avg_rr": 0.5,
        "variance": 1.0,
        "win_rate": 0.6,
        "edge_raw": 0.5,
        "effect": 0.5,
        "effect_low": 0.3,
        "effect_high": 0.7,
        "half_life_hours": None,
        "p": 0.0001,
        "q": 0.01,
        "actionable": True,
        "explained_by": None,
        "status": "active",
        "edge_score": 0.2,
        "factors": {},
        "newest_trade_at": AS_OF - timedelta(days=1),
        **of_all,
        **changes,
    }
    row.setdefault("effect_now", row["effect"])
    row["lesson_id"] = lesson_id(book, (row["pattern_key"], row["action_category"]), row["scope"])
    return row


async def materialize(
    sessions: Sessions,
    client: Client,
    book: str,
    as_of: datetime = AS_OF,
    *,
    policy: LearningPolicy = POLICY,
    run: str | None = None,
) -> Materialized:
    """Bring a book's overrides in line, as a workflow's run (of that id) would."""
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, workflow_run_id=run or uuid.uuid4().hex)
    activities = OverrideActivities(sessions, policy, client)
    report: Materialized = await environment.run(activities.materialize, MaterializeOverrides(book=book, as_of=as_of))
    return report


async def overrides(sessions: Sessions, book: str) -> list[OverrideView]:
    """All of a book, also closed ones."""
    async with sessions() as session:
        return await store.overrides.listing(session, book, closed=True)


async def matched(
    sessions: Sessions, book: str, scope: Mapping[str, Any], at: datetime = AS_OF, **changes: Any
) -> OverrideMatch:
    """What the overrides say of an entry in a scope."""
    request = {"book": book, "pattern_key": PATTERN, "action_category": "entry", "scope": dict(scope)} | changes
    async with sessions() as session:
        return await match(session, OverrideMatchRequest.model_validate(request), at, POLICY)
