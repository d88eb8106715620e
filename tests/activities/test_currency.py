"""A book has one currency; a close that comes again is compared with what its numbers and words mean."""

import asyncio
from typing import Any

import pytest

from closeloop import store
from closeloop.models.positions import AttributedClose
from closeloop.services.recorded_closes import RefusedClose
from closeloop.store.database import Sessions
from tests.activities.attributing import accepted, attributed, attributing, refused, tally
from tests.closes import closed


async def currency_of(sessions: Sessions, book: str) -> str | None:
    async with sessions() as session:
        return (await store.books.currencies(session, [book])).get(book)


async def test_the_first_currency_is_the_books_and_another_is_refused_by_name(book: str, sessions: Sessions) -> None:
    first, second, third, silent = await attributing(
        sessions,
        closed(book, "a", currency="JPY"),
        closed(book, "b", currency="BTC"),
        closed(book, "c", currency="jpy"),
        closed(book, "d", currency=None),
    )
    reason = refused(second)
    assert reason.kind == "CurrencyConflict"
    assert "BTC" in reason.reason
    assert "JPY" in reason.reason
    assert [accepted(answer).already_attributed for answer in (first, third, silent)] == [False] * 3
    assert await currency_of(sessions, book) == "JPY"
    async with sessions() as session:
        assert (await store.attributions.summary(session, book)).currency == "JPY"


async def test_a_currency_may_be_stated_later(book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(book, currency=None))
    assert await currency_of(sessions, book) is None
    [again] = await attributed(sessions, closed(book, currency="USDC"))
    assert again.already_attributed
    assert await currency_of(sessions, book) == "USDC"
    [other] = await attributing(sessions, closed(book, currency="EUR"))
    assert refused(other).kind == "CurrencyConflict"


async def test_a_close_that_is_refused_for_its_content_gives_no_currency(book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(book, currency=None))
    conflicting, new = await attributing(
        sessions, closed(book, currency="BTC", realized_pnl="11"), closed(book, "p-2", currency="EUR")
    )
    assert refused(conflicting).kind in ("PositionConflict", "CurrencyConflict")
    accepted(new)
    assert await currency_of(sessions, book) == "EUR"


async def test_of_two_currencies_at_once_exactly_one_wins(book: str, sessions: Sessions) -> None:
    for round_ in range(5):
        name = f"{book}-{round_}"[:64]
        answers = await asyncio.gather(
            *(attributing(sessions, closed(name, f"p-{c}-{i}", currency=c)) for i in range(4) for c in ("USDT", "BTC"))
        )
        flat = [answer for [answer] in answers]
        assert sum(isinstance(answer, AttributedClose) for answer in flat) == 4
        assert {a.kind for a in flat if isinstance(a, RefusedClose)} == {"CurrencyConflict"}
        assert (await tally(sessions, name)).positions == 4


SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"realized_pnl": "9.8"}, {"realized_pnl": "9.800000000000002"}),
    ({"exit_price": "-37.63", "risk": "5"}, {"exit_price": "-37.63000000001", "risk": 5.000000000000001}),
    ({"max_drawdown_pct": 0.4}, {"max_drawdown_pct": 0.4000000000001}),
    ({"exit_reason": "force_sell"}, {"exit_reason": "force_exit"}),
    ({"exit_reason": "exit_signal"}, {"exit_reason": "sell_signal"}),
]
OTHER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"realized_pnl": "9.8"}, {"realized_pnl": "9.80000002"}),
    ({"realized_pnl": "9.8"}, {"realized_pnl": "-9.8"}),
    ({"exit_reason": "roi"}, {"exit_reason": "exit_signal"}),
    ({"risk": None}, {"risk": "5"}),
    ({"size": "1"}, {"size": "1.0001"}),
]


@pytest.mark.parametrize(("before", "after"), SAME)
async def test_the_same_close_in_other_digits_or_words(
    before: dict[str, Any], after: dict[str, Any], book: str, sessions: Sessions
) -> None:
    await attributed(sessions, closed(book, **before))
    [again] = await attributed(sessions, closed(book, **after))
    assert again.already_attributed
    one, two = await attributed(sessions, closed(book, "p-2", **before), closed(book, "p-2", **after))
    assert (one.already_attributed, two.already_attributed) == (False, True)


@pytest.mark.parametrize(("before", "after"), OTHER)
async def test_another_close_under_the_same_id(
    before: dict[str, Any], after: dict[str, Any], book: str, sessions: Sessions
) -> None:
    await attributed(sessions, closed(book, **before))
    [again] = await attributing(sessions, closed(book, **after))
    assert refused(again).kind == "PositionConflict"
    one, two = await attributing(sessions, closed(book, "p-2", **before), closed(book, "p-2", **after))
    accepted(one)
    assert refused(two).kind == "PositionConflict"


async def test_ids_that_are_used_again_are_told_apart_by_the_time_of_opening(book: str, sessions: Sessions) -> None:
    key = {"position_key": "id+opened_at"}
    first = closed(book, **key)
    second = closed(book, **key, opened_at="2026-01-01T03:00:00+01:00")
    answers = await attributed(sessions, first, second)
    ids = ["p-1@2026-01-01T00:00:00Z", "p-1@2026-01-01T02:00:00Z"]
    assert [answer.outcome.position_id for answer in answers] == ids
    again = await attributed(sessions, second, first)
    assert [answer.already_attributed for answer in again] == [True, True]
    assert (await tally(sessions, book)).positions == 2


async def test_prices_of_zero_and_below(book: str, sessions: Sessions) -> None:
    answers = await attributed(
        sessions,
        closed(book, "oil", entry_price="10", exit_price="-37.63", realized_pnl="-47630"),
        closed(book, "option", entry_price="1.5", exit_price="0", realized_pnl="-150"),
        closed(book, "won", entry_price="-2", exit_price="0", realized_pnl="200"),
    )
    assert [answer.outcome.direction_correct for answer in answers] == [False, False, True]
    async with sessions() as session:
        sums = await store.attributions.summary(session, book)
    assert (sums.count, sums.wins, str(sums.realized_pnl)) == (3, 1, "-47580")
