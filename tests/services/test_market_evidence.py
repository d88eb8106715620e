"""What states have been worth on a book's trades: which are counted, where states come from, and as of when."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from closeloop.models.errors import NotOnRecord
from closeloop.models.market_worth import MarketEvidence
from closeloop.models.positions import ClosedPosition
from closeloop.services.market_evidence import evidence
from closeloop.store.database import Sessions
from tests.activities.levering import give, naming
from tests.activities.patterning import FIRST, POLICY, attribute_all
from tests.activities.patterning import trade as made

DAY = timedelta(days=1)
LATER = FIRST + timedelta(days=400)


def trade(book: str, number: int, rr: float, state: str | None, **context: Any) -> ClosedPosition:
    """One of eight a day, opened in this state of BTC's days."""
    said = {} if state is None else {"regime_states": {"btc_macro": state}}
    at = FIRST + number * DAY / 8
    position: ClosedPosition = made(book, f"{book}-{number:05}", rr, {}, at, **said, **context)
    return position


def switching(book: str, count: int = 480, lift: float = 1.5) -> list[ClosedPosition]:
    """Trades in S3 and S0 by turns, a day and a half each; in S3 they earn more."""
    rng = random.Random(5)
    states = ["S3" if number // 12 % 2 == 0 else "S0" for number in range(count)]
    return [trade(book, i, rng.gauss(lift * (state == "S3"), 1), state) for i, state in enumerate(states)]


async def found(
    sessions: Sessions, book: str, as_of: datetime = LATER, since: datetime | None = None
) -> MarketEvidence:
    async with sessions() as session:
        return await evidence(session, POLICY, book, since, as_of)


async def test_what_a_state_was_worth(sessions: Sessions, book: str) -> None:
    await attribute_all(sessions, switching(book))
    answer = await found(sessions, book)
    assert (answer.trades, answer.with_states, answer.sent, answer.tested) == (480, 480, 480, 2)
    s0, s3 = answer.states
    assert (s3.driver, s3.timeframe, s3.dimension, s3.state) == ("BTC", "1d", "btc_macro", "S3")
    assert (answer.counted, answer.next_look) == (467, 514)
    assert (s3.spells, s3.spells_other, s3.told, s0.told) == (20, 19, True, True)
    assert s3.effect == pytest.approx(1.5, abs=0.25)
    assert not any("can be noise" in sentence for sentence in answer.cannot_say)
    assert answer.cannot_say[-1].startswith("what trades would have made that were not opened")


async def test_as_it_was_then(sessions: Sessions, book: str) -> None:
    """What closed later, and what was opened before ``since``, changes nothing; the same asked twice is the same."""
    positions = switching(book)
    await attribute_all(sessions, positions[:240])
    then = positions[239].closed_at
    before = await found(sessions, book, then)
    await attribute_all(sessions, positions[240:])
    after = await found(sessions, book, then)
    assert after == before
    assert (after.trades, (await found(sessions, book)).trades) == (240, 480)
    since = await found(sessions, book, LATER, positions[240].opened_at)
    assert since.first_opened_at == positions[240].opened_at
    # They closed in months long gone, and came on record today: as of then, nobody had them here.
    assert before.recorded_later == before.with_states


async def test_new_trades_wait_for_the_next_look(sessions: Sessions, book: str) -> None:
    positions = switching(book, 80)
    await attribute_all(sessions, positions[:73])
    first = await found(sessions, book)
    assert (first.counted, first.next_look) == (73, 81)
    await attribute_all(sessions, positions[73:])
    second = await found(sessions, book)
    assert (second.with_states, second.counted, second.states) == (80, 73, first.states)


async def test_where_states_come_from(sessions: Sessions, book: str) -> None:
    levers = await give(sessions, book, f"lv-{book}", as_of=FIRST - DAY, states={"btc_macro": "S1"}, known_then=False)
    named = naming(book, levers, "named").model_copy(update={"opened_at": FIRST, "closed_at": FIRST + DAY})
    levers_too = trade(book, 9, 1.5, "S1", levers_id=levers)
    positions = [
        trade(book, 1, 1.0, "S3"),
        trade(book, 2, 1.1, None),
        trade(book, 3, 1.3, "moon"),
        trade(book, 4, 1.4, "S2").model_copy(update={"risk": None}),
        trade(book, 5, 0.5, "S2"),
        trade(book, 6, 0.5, "S2"),  # the same again, an eighth of a day later
        trade(book, 7, 1.2, None),
        named,
        levers_too,
    ]
    await attribute_all(sessions, positions)
    async with sessions.begin() as session:
        await session.execute(
            text(
                "INSERT INTO market_contexts (book_id, position_id, source, as_of, known_then, states, policy_hash, "
                "filled_by) VALUES (:book, :id, 'backfilled', :at, true, '{\"btc_macro\": \"S0\"}', 'h', 'a test')"
            ),
            {"book": book, "id": f"{book}-00007", "at": FIRST},
        )
    answer = await found(sessions, book)
    assert (answer.trades, answer.without_r, answer.repeated, answer.other_names) == (7, 1, 1, 1)
    assert (answer.with_states, answer.sent, answer.from_levers, answer.backfilled) == (5, 3, 1, 1)
    assert answer.known_later == 1
    assert {each.state: each.n for each in answer.states} == {"S0": 1, "S1": 2, "S2": 1, "S3": 1}
    assert {each.too_few for each in answer.states} == {"trades"}
    assert answer.cannot_say[0].startswith("2 of 7 trades do not say what the market was")


async def test_no_trades_and_no_states(sessions: Sessions, book: str) -> None:
    await attribute_all(sessions, [trade(book, 1, 1.0, None)])
    answer = await found(sessions, book)
    assert (answer.states, answer.tested, len(answer.cannot_say)) == ([], 0, 1)
    assert "closeloop market backfill" in answer.cannot_say[0]
    earlier = await found(sessions, book, datetime(2020, 1, 1, tzinfo=UTC))
    assert "no closed trade whose R is known as of 2020-01-01" in earlier.cannot_say[0]
    with pytest.raises(NotOnRecord):
        await found(sessions, f"{book}-no-such")
