"""Outcomes, karma and events, as they are read."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from tests.faults.stack_process import StackProcess
from tests.faults.trades import Trade, assert_karma_in_order, karma_in_order

OUTCOME = {
    *("book", "position_id", "symbol", "direction", "opened_at", "closed_at", "realized_pnl", "rr", "time_held_hours"),
    *("max_drawdown_pct", "max_favorable_pct", "direction_correct", "regime_at_entry", "domain_scores_at_entry"),
}


async def test_outcomes(stack: StackProcess, history: list[Trade]) -> None:
    every, last, text = await asyncio.gather(
        stack.json("outcomes", "--book", "history"),
        stack.json("outcomes", "--book", "history", "--last", "3"),
        stack.cli("outcomes", "--book", "history", "--last", "3"),
    )
    ordered = sorted(history, key=lambda row: (row["closed_at"], row["position_id"]))
    assert [o["position_id"] for o in every] == [row["position_id"] for row in ordered]
    for outcome, row in zip(every, ordered, strict=True):
        assert set(outcome) >= OUTCOME
        assert Decimal(outcome["realized_pnl"]) == Decimal(row["realized_pnl"])
        assert isinstance(outcome["realized_pnl"], str)
        assert outcome["rr"] == pytest.approx(float(Decimal(row["realized_pnl"]) / Decimal(row["risk"])), rel=1e-12)
        assert outcome["time_held_hours"] == 2.0
        assert outcome["direction_correct"] is (Decimal(row["realized_pnl"]) > 0)
        assert outcome["domain_scores_at_entry"] == row["conviction"]["domain_scores"]
    assert last == every[-3:]
    for outcome in last:
        assert outcome["position_id"] in text.out


async def test_summary(stack: StackProcess, history: list[Trade]) -> None:
    summary, text = await asyncio.gather(
        stack.json("outcomes", "summary", "--book", "history"), stack.cli("outcomes", "summary", "--book", "history")
    )
    pnl = [Decimal(row["realized_pnl"]) for row in history]
    n, wins = len(pnl), sum(value > 0 for value in pnl)
    assert (summary["book"], summary["count"], summary["wins"]) == ("history", n, wins)
    assert summary["hit_rate"] == pytest.approx(wins / n)
    assert isinstance(summary["realized_pnl"], str)
    assert Decimal(summary["realized_pnl"]) == sum(pnl)
    # Wilson's interval: the hit rates p at which the observed one lies 1.96 standard errors away.
    for bound in (summary["hit_rate_low"], summary["hit_rate_high"]):
        assert abs(wins / n - bound) == pytest.approx(1.959964 * (bound * (1 - bound) / n) ** 0.5, rel=1e-5)
    assert summary["hit_rate_low"] < wins / n < summary["hit_rate_high"]
    assert str(n) in text.out


async def test_karma(stack: StackProcess, history: list[Trade]) -> None:
    found, text = await asyncio.gather(
        stack.json("karma", "--book", "history"), stack.cli("karma", "--book", "history")
    )
    for row in found:
        assert set(row) == {"book", "producer_id", "karma", "wins", "losses", "trades", "updated_at"}
        assert row["producer_id"] in text.out
    assert {row["producer_id"]: row["karma"] for row in found} == pytest.approx(karma_in_order(history), abs=1e-12)


async def test_karma_rebuild(stack: StackProcess, history: list[Trade]) -> None:
    await stack.sql("UPDATE producer_karma SET karma = 0, trades = 0 WHERE book_id = 'history' AND producer_id = 'ta'")
    await stack.sql("DELETE FROM producer_karma WHERE book_id = 'history' AND producer_id = 'flow'")
    rebuilt = await stack.json("karma", "rebuild", "--book", "history")
    [worker] = (await stack.json("status"))["running_workers"]
    assert rebuilt.pop("policy_hash") == worker["policy_hash"]
    assert rebuilt == {
        "producers": {"history": 4},
        "unlisted": 0,
        "failed": {},
        "karma": {"alpha": 0.05, "start": 1.0},
    }
    await assert_karma_in_order(stack, "history", history)
    everything = await stack.json("karma", "rebuild")
    assert everything["producers"]["history"] == 4
    await assert_karma_in_order(stack, "history", history)


async def test_events(stack: StackProcess, history: list[Trade]) -> None:
    of_book = ("events", "--book", "history")
    every, learning, last, none, text = await asyncio.gather(
        stack.json(*of_book),
        stack.json(*of_book, "--type", "learning.outcome.v1"),
        stack.json(*of_book, "--type", "attribution.outcome.v1", "--last", "5"),
        stack.json(*of_book, "--type", "no.such.type"),
        stack.cli(*of_book, "--last", "2"),
    )
    assert len(every) == 2 * len(history)
    assert [event["id"] for event in every] == sorted(event["id"] for event in every)
    assert set(every[0]) >= {"id", "type", "ts", "source", "payload", "dedupe_key"}
    assert {event["payload"]["book"] for event in every} == {"history"}
    assert learning == [event for event in every if event["type"] == "learning.outcome.v1"]
    assert last == [event for event in every if event["type"] == "attribution.outcome.v1"][-5:]
    assert none == []
    assert str(every[-1]["id"]) in text.out
    assert json.dumps(every[-1]["payload"]["position_id"]) in text.out.replace("\n", "")


PAGED = {
    ("outcomes",): lambda o: (o["book"], o["position_id"]),
    ("events",): lambda e: (None, str(e["id"])),
    ("karma",): lambda k: (k["book"], k["producer_id"]),
}


@pytest.mark.parametrize("of_one_book", [True, False], ids=["a book", "all books"])
@pytest.mark.parametrize("command", PAGED, ids=" ".join)
async def test_pages_backwards_are_the_list(
    stack: StackProcess, history: list[Trade], command: tuple[str, ...], of_one_book: bool
) -> None:
    """Three pages from the end are the end of the list, without a row twice or left out."""
    book = ("--book", "history") if of_one_book else ()
    every = await stack.json(*command, *book)
    size = min(4, len(every) // 3 + 1)
    found: list[Any] = []
    before: tuple[str, ...] = ()
    for _ in range(3):
        page = await stack.json(*command, *book, "--last", str(size), *before)
        found[:0] = page
        if not page:
            break
        of, name = PAGED[command](page[0])
        before = ("--before", name if of_one_book or of is None else f"{of}/{name}")
    assert found == every[-len(found) :]
    assert len(found) == min(len(every), 3 * size)


async def test_a_page_before_what_is_not_there(stack: StackProcess, history: list[Trade]) -> None:
    for command, reason in (
        (("outcomes", "--book", "history", "--before", "nothing"), "no outcome of history/nothing"),
        (("outcomes", "--before", "nothing"), "names no book"),
        (("karma", "--before", "nothing"), "names no book"),
        (("events", "--before", "nothing"), "no event's id"),
    ):
        result = await stack.cli(*command, "--json")
        assert (result.status, result.out) == (1, "")
        assert reason in result.err
