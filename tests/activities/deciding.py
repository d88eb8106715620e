"""A database of a test's own with decisions, candles and closes, and what is filled in of them."""

import dataclasses
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.activities.decisions import DecisionActivities
from closeloop.gateways.candles import Candle
from closeloop.models.decisions import DecisionMessage, DecisionView, FillReport, FillRequest
from closeloop.models.policy import LearningPolicy
from closeloop.services import decisions, prices
from closeloop.services.prices import PriceFile
from closeloop.store.database import Sessions, open_engine, sessions_of
from tests.store.databases import query, scratch_database

T0 = datetime(2026, 3, 2, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
HALF_HOUR = 30 * MINUTE
GRACE = 5 * MINUTE
BOOK = "b"


@dataclasses.dataclass
class Record:
    """See the module."""

    dsn: str
    sessions: Sessions
    policy: LearningPolicy = dataclasses.field(default_factory=LearningPolicy)

    async def decide(self, *changes: Mapping[str, Any]) -> None:
        """Record decisions: BUYs of X at T0, named by their number, but for the changes."""
        given = [DecisionMessage.model_validate(decision(n) | dict(one)) for n, one in enumerate(changes)]
        async with self.sessions() as session:
            report = await decisions.add(session, enumerate(given), datetime.now(UTC))
        assert report.rejected == []
        assert report.added == len(given)

    async def trade(
        self, rows: Iterable[tuple[datetime, float, float, float]], asset: str = "X", interval: timedelta = HALF_HOUR
    ) -> None:
        """Import candles: when they end, high, low, close."""
        read = [
            Candle(ends_at - interval, *(Decimal(str(price)) for price in (close, high, low, close)), None)
            for ends_at, high, low, close in rows
        ]
        async with self.sessions.begin() as session:
            file = PriceFile("a.csv", datetime(2027, 1, 1, tzinfo=UTC), False)
            seconds = int(interval.total_seconds())
            await prices.store_candles(session, asset, seconds, read, lambda _: None, file)

    async def fill(self, as_of: datetime, page_size: int = 2_000) -> FillReport:
        """A run of the activity."""
        activities = DecisionActivities(self.sessions, self.policy)
        activities.page_size = page_size
        report: FillReport = await ActivityEnvironment().run(
            activities.fill_decision_outcomes, FillRequest(as_of=as_of)
        )
        return report

    async def views(self) -> list[DecisionView]:
        async with self.sessions() as session:
            return await decisions.listing(session)

    async def view(self, name: str = "d-0") -> DecisionView:
        async with self.sessions() as session:
            return await decisions.show(session, name)

    async def outcomes(self) -> list[dict[str, Any]]:
        """Every row of outcomes, but for when it was filled in."""
        rows = await query(self.sessions, "SELECT * FROM learning_outcomes ORDER BY book_id, decision_id")
        return [{name: value for name, value in row.items() if name != "filled_at"} for row in rows]


def decision(number: int) -> dict[str, Any]:
    return {
        "book": BOOK,
        "decision_id": f"d-{number}",
        "symbol": "X",
        "timestamp": T0,
        "thesis": {"recommendation": "BUY", "confidence": 0.6},
    }


def rising(days: float, per_candle: float = 0.1, start: float = 100.0) -> list[tuple[datetime, float, float, float]]:
    """Half-hourly candles from the end of T0 on, each a little higher than the one before."""
    count = int(days * 48) + 1
    made = []
    for n in range(count):
        close = start + per_candle * n
        made.append((T0 + n * HALF_HOUR, close + 0.05, close - 0.15, close))
    return made


@asynccontextmanager
async def record_on(dsn: str) -> AsyncIterator[Record]:
    """A record in a database of its own, with the book."""
    async with scratch_database(dsn) as scratch:
        engine = open_engine(scratch, pool_size=8)
        try:
            record = Record(scratch, sessions_of(engine))
            async with record.sessions.begin() as session:
                await store.books.hold(session, BOOK)
            yield record
        finally:
            await engine.dispose()
