"""Levers on record, as tests put them there."""

from datetime import UTC, datetime
from typing import Any

from closeloop import store
from closeloop.store.database import Sessions
from tests.activities.patterning import PATTERN
from tests.closes import closed
from tests.store.databases import query

OPENED = datetime(2026, 1, 1, tzinfo=UTC)  # as the closes of tests are
STATES = {"btc_macro": "S3", "alt_meso": "S1", "bucket_meso": "S0"}


async def give(sessions: Sessions, book: str, levers_id: str, **changes: Any) -> str:
    """Put levers on record for the opening of a test's close; returns their id."""
    row = {
        "levers_id": levers_id,
        "book_id": book,
        "as_of": OPENED,
        "given_at": OPENED,
        "request": {"bucket": "nano", "timeframe": "1h"},
        "answer": {},
        "states": STATES,
        "a_value": 0.72,
        "e_value": 0.25,
        "known_then": True,
        "policy_hash": "h",
    }
    async with sessions.begin() as session:
        await store.given_levers.record(session, row | changes)
    return levers_id


def naming(book: str, levers_id: Any, position_id: str = "p-1", **context: Any) -> Any:
    """A close with an action that names levers."""
    actions = [{"pattern_key": PATTERN, "action_category": "entry"}]
    return closed(book, position_id, entry_context={"levers_id": levers_id, "actions": actions} | context)


async def contexts(sessions: Sessions, book: str) -> list[dict[str, Any]]:
    """What was filled in of a book's closes, by position."""
    rows = await query(sessions, "SELECT * FROM market_contexts WHERE book_id = :book ORDER BY position_id", book=book)
    return [dict(row) for row in rows]
