"""Attribution as tests call it, and what it left in the database."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import RowMapping

from closeloop.activities.attribution import attribute
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import AttributedClose, ClosedPosition
from closeloop.services.recorded_closes import RefusedClose
from closeloop.store.database import Sessions
from tests.store.databases import query

POLICY = LearningPolicy()
NOW = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Tally:
    """How many rows a book has."""

    positions: int
    attributions: int
    learning_events: int
    attribution_events: int
    convictions: int


async def attributing(sessions: Sessions, *positions: ClosedPosition) -> list[AttributedClose | RefusedClose]:
    """Attribute these closes in one transaction."""
    async with sessions.begin() as session:
        return await attribute(session, positions, POLICY, NOW, "a test")


async def attributed(sessions: Sessions, *positions: ClosedPosition) -> list[AttributedClose]:
    """The same, where none may be refused."""
    answers = await attributing(sessions, *positions)
    return [accepted(answer) for answer in answers]


def accepted(answer: AttributedClose | RefusedClose) -> AttributedClose:
    assert isinstance(answer, AttributedClose), answer
    return answer


def refused(answer: AttributedClose | RefusedClose) -> RefusedClose:
    assert isinstance(answer, RefusedClose), answer
    return answer


async def tally(sessions: Sessions, book: str) -> Tally:
    """What the database holds of a book."""
    events = "SELECT count(*) FROM events WHERE payload ->> 'book' = :book AND type ="
    [row] = await query(
        sessions,
        "SELECT (SELECT count(*) FROM positions WHERE book_id = :book) AS positions, "
        "(SELECT count(*) FROM attributions WHERE book_id = :book) AS attributions, "
        f"({events} 'learning.outcome.v1') AS learning_events, "
        f"({events} 'attribution.outcome.v1') AS attribution_events, "
        "(SELECT count(*) FROM conviction_scores WHERE book_id = :book) AS convictions",
        book=book,
    )
    return Tally(**row)


async def karma_of_book(sessions: Sessions, book: str) -> dict[str, tuple[float, int, int, int]]:
    """producer -> (karma, wins, losses, trades)."""
    rows = await query(sessions, "SELECT * FROM producer_karma WHERE book_id = :book", book=book)
    return {r["producer_id"]: (r["karma"], r["wins"], r["losses"], r["trades"]) for r in rows}


async def position_row(sessions: Sessions, book: str, position_id: str = "p-1") -> RowMapping:
    """A position as it is stored."""
    [row] = await query(
        sessions, "SELECT * FROM positions WHERE book_id = :book AND position_id = :id", book=book, id=position_id
    )
    return row


class Sql(str):
    """An expression, where otherwise a value stands."""


async def engine_writes(sessions: Sessions, book: str, position_id: str = "p-1", **columns: str | float | None) -> None:
    """A row as an engine inserts it by itself, with plain SQL."""
    opened = {"symbol": "BTC/USDT", "direction": "long", "opened_at": "2026-01-01T00:00:00Z"}
    values: dict[str, str | float | None] = {**opened, **columns}
    given = [
        value if isinstance(value, Sql) else "NULL" if value is None else "'" + str(value).replace("'", "''") + "'"
        for value in values.values()
    ]
    await query(
        sessions,
        f"INSERT INTO positions (book_id, position_id, {', '.join(values)}) "
        f"VALUES (:book, :id, {', '.join(given).replace(':', chr(92) + ':')})",
        book=book,
        id=position_id,
    )


OF_THE_CLOSE = {
    "closed_at": "2026-01-01T06:00:00Z",
    "entry_price": "50000",
    "exit_price": "50500",
    "size": "0.02",
    "realized_pnl": "10.0",
}
