"""One close, one attribution: what is stored, what is answered, what is refused."""

import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from closeloop import store
from closeloop.activities.attribution import attribute
from closeloop.models.positions import PositionKey
from closeloop.models.values import utc_text
from closeloop.store.database import Sessions
from tests.activities.attributing import (
    NOW,
    OF_THE_CLOSE,
    POLICY,
    Tally,
    accepted,
    attributed,
    attributing,
    engine_writes,
    karma_of_book,
    position_row,
    refused,
    tally,
)
from tests.closes import closed, message
from tests.learning.plain_karma import karma_of
from tests.store.databases import query

NOTHING = Tally(positions=0, attributions=0, learning_events=0, attribution_events=0, convictions=0)
ONE = Tally(positions=1, attributions=1, learning_events=1, attribution_events=1, convictions=1)


def after(*outcomes: int) -> float:
    """Karma after these outcomes."""
    return karma_of(outcomes, POLICY.karma.start, POLICY.karma.alpha)


async def test_a_close_is_attributed_as_the_algorithm_says(book: str, sessions: Sessions) -> None:
    [answer] = await attributed(sessions, closed(book))
    outcome = answer.outcome
    assert not answer.already_attributed
    assert outcome.realized_pnl == Decimal("10.0")
    assert (outcome.rr, outcome.time_held_hours, outcome.direction_correct) == (2.0, 6.0, True)
    assert (outcome.max_drawdown_pct, outcome.max_favorable_pct, outcome.regime_at_entry) == (0.4, 1.3, "BULL")
    assert outcome.domain_scores_at_entry == {"onchain": 0.8, "social": 0.1}
    assert (outcome.producers, outcome.policy_hash, outcome.attributed_at) == (["ta"], POLICY.karma.hash, NOW)
    async with sessions() as session:
        stored = await store.attributions.load(session, [PositionKey(book=book, position_id="p-1")])
    assert stored == {PositionKey(book=book, position_id="p-1"): outcome}
    assert await tally(sessions, book) == ONE


async def test_events_tell_the_outcome_and_the_karma(book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(book, realized_pnl="-4"))
    rows = await query(sessions, "SELECT type, payload FROM events WHERE payload ->> 'book' = :book", book=book)
    payloads = {row["type"]: row["payload"] for row in rows}
    assert payloads["learning.outcome.v1"]["realized_pnl"] == "-4"
    assert payloads["learning.outcome.v1"]["rr"] == -0.8
    assert payloads["attribution.outcome.v1"]["outcome"] == -1
    assert payloads["attribution.outcome.v1"]["producers"] == [{"producer_id": "ta", "before": 1.0, "after": after(-1)}]


@pytest.mark.parametrize(("realized_pnl", "rr", "wins"), [("0", 0.0, 0), ("0.01", 0.002, 1), ("-5", -1.0, 0)])
async def test_break_even_is_not_a_win(realized_pnl: str, rr: float, wins: int, book: str, sessions: Sessions) -> None:
    [answer] = await attributed(sessions, closed(book, realized_pnl=realized_pnl))
    assert (answer.outcome.rr, answer.outcome.direction_correct) == (rr, wins == 1)
    assert (await karma_of_book(sessions, book))["ta"][1:] == (wins, 1 - wins, 1)


async def test_r_is_unknown_where_the_risk_is_and_nothing_else_is_needed(book: str, sessions: Sessions) -> None:
    needed = ("book", "position_id", "symbol", "direction", "opened_at", *OF_THE_CLOSE)
    optional: dict[str, Any] = {name: None for name in message(book) if name not in needed}
    [answer] = await attributed(sessions, closed(book, **optional))
    assert answer.outcome.rr is None
    assert answer.outcome.conviction_status == "none"
    assert answer.karma == []
    assert await karma_of_book(sessions, book) == {}


async def test_doing_it_twice_changes_nothing_and_answers_the_same(book: str, sessions: Sessions) -> None:
    [first] = await attributed(sessions, closed(book, realized_pnl="-4"))
    karma = await karma_of_book(sessions, book)
    [second] = await attributed(sessions, closed(book, realized_pnl="-4"))
    assert second.already_attributed
    assert second.outcome == first.outcome
    assert await karma_of_book(sessions, book) == karma == {"ta": (after(-1), 0, 1, 1)}
    assert await tally(sessions, book) == ONE


async def test_a_retry_returns_the_karma_of_the_first_attempt(book: str, sessions: Sessions) -> None:
    """A worker that dies after the commit: its retry must tell the audit trail the same story
    (docs/decisions/0001-exactly-once-in-two-halves.md)."""
    [first] = await attributed(sessions, closed(book, realized_pnl="-4"))
    [second] = await attributed(sessions, closed(book, realized_pnl="-4"))
    assert second.karma == first.karma != []


async def test_a_retry_answers_money_in_the_same_digits(book: str, sessions: Sessions) -> None:
    """The driver reads 120000 as 1.2E+5: a reader of JSON must not see the difference."""
    [first] = await attributed(sessions, closed(book, realized_pnl="120000"))
    [second] = await attributed(sessions, closed(book, realized_pnl="120000"))
    told = '"realized_pnl":"120000"'
    assert told in first.outcome.model_dump_json()
    assert told in second.outcome.model_dump_json()


async def test_a_producer_with_several_signals_takes_one_step(book: str, sessions: Sessions) -> None:
    signals = [{"signal_id": f"s-{i}", "producer_id": name} for i, name in enumerate(["ta", "flow", "ta", "ta"])]
    [answer] = await attributed(sessions, closed(book, signals=signals, realized_pnl="-1"))
    assert [step.producer_id for step in answer.karma] == ["flow", "ta"]
    assert await karma_of_book(sessions, book) == {"flow": (after(-1), 0, 1, 1), "ta": (after(-1), 0, 1, 1)}


async def test_books_do_not_learn_from_each_other(book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(f"{book}-a", realized_pnl="-1"), closed(f"{book}-b", realized_pnl="1"))
    assert await karma_of_book(sessions, f"{book}-a") == {"ta": (after(-1), 0, 1, 1)}
    assert await karma_of_book(sessions, f"{book}-b") == {"ta": (1.0, 1, 0, 1)}


# Batches ------------------------------------------------------------------------------------------------------------


async def test_a_batch_answers_in_its_own_order(book: str, sessions: Sessions) -> None:
    names = ["b", "é", "a", "Z", "10", "9"]
    answers = await attributed(sessions, *(closed(book, name) for name in names))
    assert [answer.outcome.position_id for answer in answers] == names


async def test_an_empty_batch_is_fine(sessions: Sessions) -> None:
    assert await attributing(sessions) == []


async def test_identical_duplicates_in_a_batch_count_once(book: str, sessions: Sessions) -> None:
    answers = await attributed(sessions, closed(book), closed(book, "p-2"), closed(book), closed(book))
    assert [answer.already_attributed for answer in answers] == [False, False, True, True]
    assert answers[0].outcome == answers[2].outcome == answers[3].outcome
    assert (await karma_of_book(sessions, book))["ta"] == (1.0, 2, 0, 2)
    assert (await tally(sessions, book)).attributions == 2


async def test_different_duplicates_in_a_batch_are_refused_by_the_names_of_the_fields(
    book: str, sessions: Sessions
) -> None:
    answers = await attributing(
        sessions, closed(book), closed(book, symbol="ETH/USDT", realized_pnl="11"), closed(book, "p-2")
    )
    accepted(answers[0])
    accepted(answers[2])
    refusal = refused(answers[1])
    assert refusal.kind == "PositionConflict"
    assert refusal.reason.endswith("differing: symbol, realized_pnl")
    assert (await position_row(sessions, book))["realized_pnl"] == 10
    assert (await tally(sessions, book)).attributions == 2


async def test_a_refused_close_holds_up_no_other_and_stores_nothing(book: str, sessions: Sessions) -> None:
    late = NOW + timedelta(minutes=6)
    answers = await attributing(sessions, closed(book, "late", closed_at=late.isoformat()), closed(book))
    assert refused(answers[0]).kind == "PositionRefused"
    accepted(answers[1])
    assert await tally(sessions, book) == ONE


async def test_the_steps_of_a_batch_follow_the_closing_times(book: str, sessions: Sessions) -> None:
    day = "2026-01-{:02}T00:00:00Z"
    late = closed(book, "a", closed_at=day.format(9), realized_pnl="1")
    early = closed(book, "b", closed_at=day.format(3), realized_pnl="-1")
    answers = await attributed(sessions, late, early)
    assert [(step.before, step.after) for step in answers[1].karma] == [(1.0, after(-1))]
    assert [(step.before, step.after) for step in answers[0].karma] == [(after(-1), after(-1, 1))]


# Refused ------------------------------------------------------------------------------------------------------------


CHANGES: dict[str, Any] = {
    "symbol": "ETH/USDT",
    "direction": "short",
    "opened_at": "2026-01-01T00:00:01Z",
    "closed_at": "2026-01-01T06:00:00.000001Z",
    "entry_price": "50000.0001",
    "exit_price": "50501",
    "size": "0.020001",
    "realized_pnl": "10.0000001",
    "risk": None,
    "max_drawdown_pct": 0.40000001,
    "max_favorable_pct": 0.0,
    "regime_at_entry": "BEAR",
    "exit_reason": "ROI",
    "conviction": {"conviction_id": "c-p-1"},
    "signals": [],
    "entry_context": {"timeframe": "1h", "scope": {"chain": "Solana"}},
}


@pytest.mark.parametrize("field", CHANGES)
async def test_other_content_is_refused_and_nothing_is_overwritten(field: str, book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(book))
    row, karma = await position_row(sessions, book), await karma_of_book(sessions, book)
    [answer] = await attributing(sessions, closed(book, **{field: CHANGES[field]}))
    assert refused(answer).kind == "PositionConflict"
    assert refused(answer).reason.endswith(f"differing: {field}")
    assert await position_row(sessions, book) == row
    assert await karma_of_book(sessions, book) == karma
    assert await tally(sessions, book) == ONE
    [again] = await attributed(sessions, closed(book))
    assert again.already_attributed


async def test_the_same_content_in_other_words_is_the_same(book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(book))
    same = closed(book, closed_at="2026-01-01T08:00:00+02:00", realized_pnl=10, size="2E-2", risk="5.00")
    [answer] = await attributed(sessions, same)
    assert answer.already_attributed


async def test_a_close_in_the_future_is_refused(book: str, sessions: Sessions) -> None:
    beyond = NOW + timedelta(minutes=5, microseconds=1)
    [answer] = await attributing(sessions, closed(book, closed_at=beyond.isoformat()))
    assert refused(answer).kind == "PositionRefused"
    assert refused(answer).reason.startswith("closed_at: ")
    assert await tally(sessions, book) == NOTHING
    assert await query(sessions, "SELECT 1 FROM books WHERE book_id = :book", book=book) == []
    [answer] = await attributed(sessions, closed(book, closed_at=(NOW + timedelta(minutes=5)).isoformat()))
    assert not answer.already_attributed


async def test_a_transaction_that_is_rolled_back_leaves_nothing(book: str, sessions: Sessions) -> None:
    async with sessions() as session:
        [answer] = await attribute(session, [closed(book)], POLICY, NOW, "a test")
        assert not accepted(answer).already_attributed
        await session.rollback()
    assert await tally(sessions, book) == NOTHING
    assert await karma_of_book(sessions, book) == {}
    for table in ("books", "conviction_log"):
        assert await query(sessions, f"SELECT 1 FROM {table} WHERE book_id = :book", book=book) == []
    [answer] = await attributed(sessions, closed(book))
    assert not answer.already_attributed


# Rows that the engine wrote -----------------------------------------------------------------------------------------


async def test_a_closed_row_of_the_engine_is_attributed_by_the_same_call(book: str, sessions: Sessions) -> None:
    whole = message(book)
    columns = {name: whole[name] for name in ("risk", "max_drawdown_pct", "max_favorable_pct", "regime_at_entry")}
    await engine_writes(
        sessions,
        book,
        **OF_THE_CLOSE,
        **columns,
        exit_reason="roi",
        conviction_id="c-p-1",
        conviction=json.dumps(whole["conviction"]),
        signals=json.dumps(whole["signals"]),
        entry_context=json.dumps(whole["entry_context"]),
    )
    assert not (await position_row(sessions, book))["attributed"]
    [first] = await attributed(sessions, closed(book))
    assert not first.already_attributed
    assert (first.outcome.rr, first.outcome.conviction_status) == (2.0, "inline")
    assert (await position_row(sessions, book))["attributed"]
    [second] = await attributed(sessions, closed(book))
    assert second.already_attributed
    assert await tally(sessions, book) == ONE
    assert await karma_of_book(sessions, book) == {"ta": (1.0, 1, 0, 1)}


async def test_a_closed_row_of_the_engine_is_not_overwritten(book: str, sessions: Sessions) -> None:
    await engine_writes(sessions, book, **OF_THE_CLOSE)
    [answer] = await attributing(sessions, closed(book, realized_pnl="11", conviction=None, signals=None, risk=None))
    assert "realized_pnl" in refused(answer).reason
    row = await position_row(sessions, book)
    assert (row["realized_pnl"], row["attributed"]) == (Decimal("10.0"), False)
    assert (await tally(sessions, book)).attributions == 0


AT_THE_OPEN = {"risk": "8", "regime_at_entry": "BEAR", "signals": '[{"signal_id": "s-9", "producer_id": "early"}]'}
WITHOUT: dict[str, Any] = {
    "risk": None,
    "regime_at_entry": None,
    "signals": None,
    "conviction": None,
    "entry_context": None,
}


async def test_an_open_row_of_the_engine_is_completed_by_its_close(book: str, sessions: Sessions) -> None:
    await engine_writes(sessions, book)
    [answer] = await attributed(sessions, closed(book))
    assert not answer.already_attributed
    assert (answer.outcome.rr, answer.outcome.regime_at_entry, answer.outcome.producers) == (2.0, "BULL", ["ta"])
    row = await position_row(sessions, book)
    money = {name: Decimal(value) for name, value in OF_THE_CLOSE.items() if name != "closed_at"}
    assert {name: row[name] for name in (*money, "risk")} == money | {"risk": 5}
    assert row["closed_at"].isoformat() == "2026-01-01T06:00:00+00:00"
    assert row["attributed"]
    assert await karma_of_book(sessions, book) == {"ta": (1.0, 1, 0, 1)}


@pytest.mark.parametrize("given", [WITHOUT, {}], ids=["what it left out stays", "it brings everything"])
async def test_the_close_of_an_open_row_can_be_retried(given: dict[str, Any], book: str, sessions: Sessions) -> None:
    await engine_writes(sessions, book, **AT_THE_OPEN)
    [first] = await attributed(sessions, closed(book, **given))
    [second] = await attributed(sessions, closed(book, **given))
    assert second.already_attributed
    assert second.outcome == first.outcome
    assert (await tally(sessions, book)).learning_events == 1


async def test_other_content_for_a_completed_row_is_refused(book: str, sessions: Sessions) -> None:
    await engine_writes(sessions, book, **AT_THE_OPEN)
    await attributed(sessions, closed(book, **WITHOUT))
    [answer] = await attributing(sessions, closed(book, **WITHOUT | {"realized_pnl": "11"}))
    assert "realized_pnl" in refused(answer).reason


@pytest.mark.parametrize("opened_at", ["2025-12-31T23:59:59.250Z", "2026-01-01T00:00:07Z"], ids=["before", "after"])
async def test_an_open_row_is_replaced_also_where_the_close_says_another_time_of_opening(
    opened_at: str, book: str, sessions: Sessions
) -> None:
    """The engine wrote the row when it sent the order; the close says when that was filled."""
    await engine_writes(sessions, book, **AT_THE_OPEN)
    for already in (False, True):
        [answer] = await attributed(sessions, closed(book, opened_at=opened_at))
        assert answer.already_attributed is already
        assert utc_text(answer.outcome.opened_at) == utc_text(datetime.fromisoformat(opened_at))
    row = await position_row(sessions, book)
    assert (row["opened_at"], row["attributed"]) == (datetime.fromisoformat(opened_at), True)
    assert (await tally(sessions, book)).positions == 1


ANOTHER_TRADE = {"symbol": "ETH/USDT", "direction": "short"}


@pytest.mark.parametrize("field", ANOTHER_TRADE)
async def test_a_close_of_another_trade_does_not_complete_an_open_row(
    field: str, book: str, sessions: Sessions
) -> None:
    await engine_writes(sessions, book, **AT_THE_OPEN)
    before = await position_row(sessions, book)
    [answer] = await attributing(sessions, closed(book, **{field: ANOTHER_TRADE[field]}))
    assert refused(answer).kind == "PositionConflict"
    assert await position_row(sessions, book) == before
    assert (await tally(sessions, book)).attributions == 0
    assert refused(answer).reason.endswith(f"differing: {field}")


async def test_an_open_row_that_nobody_closed_is_left_alone(book: str, sessions: Sessions) -> None:
    await engine_writes(sessions, book, "open", **AT_THE_OPEN)
    await attributed(sessions, closed(book))
    row = await position_row(sessions, book, "open")
    assert (row["closed_at"], row["attributed"]) == (None, False)
