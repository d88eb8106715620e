"""A database of a test's own with live closes, and the activities of research over it."""

import dataclasses
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import RowMapping
from temporalio.testing import ActivityEnvironment

from closeloop.activities.attribution import attribute
from closeloop.activities.research import ResearchActivities
from closeloop.gateways.language_model import AnthropicModel, LanguageModel, TokenPrices
from closeloop.models.policy import LearningPolicy
from closeloop.models.research import BookStudy, Studied
from closeloop.store.database import Sessions
from tests.closes import closed
from tests.gateways.messages_api import KEY, MessagesApi, messages_api
from tests.store.databases import query, scratch_database, sessions_on

AS_OF = datetime(2026, 11, 1, tzinfo=UTC)
# A dollar a thousand tokens of input, ten of output: figures that a person can add up.
PRICES = TokenPrices(Decimal(1000), Decimal(10_000))
COST = Decimal(3)  # of the fake's 1,000 tokens in and 200 out
RICH = Decimal(1_000_000)


@dataclass
class Laboratory:
    """A database of one test with live closes, and the activities of research over it."""

    dsn: str
    sessions: Sessions
    api: MessagesApi
    policy: LearningPolicy = dataclasses.field(default_factory=LearningPolicy)

    async def close(self, position_id: str, *, book: str = "b", by: str | None = None, **changes: Any) -> None:
        """A close, attributed by a workflow's run (live) unless ``by`` says otherwise."""
        async with self.sessions.begin() as session:
            position = closed(book, position_id, **changes)
            await attribute(session, [position], self.policy, datetime.now(UTC), by or str(uuid.uuid4()))

    async def pattern(self, count: int, *, lift: float, book: str = "b", day: int = 0) -> None:
        """Imported trades of one pattern, a day apart in turn over 40 days: those on solana earn ``lift`` R more."""
        async with self.sessions.begin() as session:
            names = [f"{book}-{day}-{i}" for i in range(count)]
            closes = [
                closed(
                    book,
                    name,
                    opened_at=f"2026-0{1 + i % 40 // 20}-{1 + i % 20:02}T00:00:00Z",
                    closed_at=f"2026-0{1 + i % 40 // 20}-{1 + i % 20:02}T06:00:00Z",
                )
                for i, name in enumerate(names)
            ]
            await attribute(session, closes, self.policy, datetime.now(UTC), uuid.uuid4().hex)
        rows = [
            {
                "position_id": name,
                "chain": "solana" if i % 2 else "base",
                # Deterministic noise without a day effect.
                "rr": (lift if i % 2 else 0.0) + ((i * 7919) % 101 - 50) / 50,
            }
            for i, name in enumerate(names)
        ]
        await query(
            self.sessions,
            "INSERT INTO pattern_trade_events (book_id, position_id, action_index, pattern_key, action_category, "
            "symbol, scope, rr, pnl, opened_at, closed_at, policy_hash) "
            "SELECT a.book_id, a.position_id, action, 'k', 'entry', a.symbol, "
            "jsonb_build_object('chain', r.chain), r.rr, r.rr, a.opened_at, a.closed_at, 'h' "
            "FROM json_to_recordset(CAST(:rows AS json)) r (position_id text, chain text, rr float8) "
            "JOIN attributions a ON (a.book_id, a.position_id) = (:book, r.position_id) "
            "CROSS JOIN generate_series(0, 1) action",
            rows=json.dumps(rows),
            book=book,
        )

    @asynccontextmanager
    async def model(self, patience: float = 30.0) -> AsyncIterator[AnthropicModel]:
        """The gateway to the fake."""
        model = AnthropicModel(name="claude-test", key=KEY, base_url=self.api.url, timeout=patience, prices=PRICES)
        try:
            yield model
        finally:
            await model.close()

    async def run(
        self,
        what: str,
        model: LanguageModel | None,
        *,
        budget: Decimal = RICH,
        book: str = "b",
        as_of: datetime = AS_OF,
        run: str = "run",
        attempt: int = 1,
    ) -> Studied:
        """One attempt of an activity."""
        environment = ActivityEnvironment()
        environment.info = dataclasses.replace(environment.info, workflow_run_id=run, attempt=attempt)
        activities = ResearchActivities(self.sessions, self.policy, model, budget)
        found: Studied = await environment.run(getattr(activities, what), BookStudy(book=book, as_of=as_of))
        return found

    async def rows(self, where: str = "true") -> list[RowMapping]:
        """What was said."""
        return await query(self.sessions, f"SELECT * FROM llm_learning WHERE {where} ORDER BY id")

    async def calls(self) -> list[RowMapping]:
        """What was asked."""
        return await query(self.sessions, "SELECT * FROM llm_calls ORDER BY call_id")


@asynccontextmanager
async def laboratory(dsn: str) -> AsyncIterator[Laboratory]:
    """An empty one."""
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions, messages_api() as api:
        yield Laboratory(scratch, sessions, api)
