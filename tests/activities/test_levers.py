"""Closes that name levers: the record fills what they do not say, once, and what the engine says itself stays."""

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client

from closeloop import store
from closeloop.models.closes import read_close
from closeloop.models.positions import CatchUpRequest, NotedField
from closeloop.services.positions import close, position_close_id
from closeloop.store.database import Sessions
from tests.activities.attributing import OF_THE_CLOSE, attributed, engine_writes, position_row
from tests.activities.levering import OPENED, STATES, contexts, give, naming
from tests.activities.patterning import LEARNERS, attribute_all, facts, learn_missed, owed
from tests.closes import message
from tests.store.databases import backend, query, wait_until_it_blocks
from tests.waiting import PATIENCE
from tests.workflows.test_backfill import backfill, stage

FILLED = {**STATES, "A_mode": "high", "E_mode": "low"}


async def scopes(sessions: Sessions, book: str) -> list[dict[str, str]]:
    return [row["scope"] for row in await facts(sessions, book)]


def told(notes: Sequence[NotedField]) -> dict[str, str]:
    return {note.field: note.reason for note in notes}


async def test_what_a_close_does_not_say_comes_from_the_levers(book: str, sessions: Sessions) -> None:
    levers = await give(sessions, book, f"lv-{book}")
    sent = naming(book, levers, timeframe="1h")
    [answer] = await attributed(sessions, sent)
    assert answer.noted == []
    [context] = await contexts(sessions, book)
    found = (context["source"], context["levers_id"], context["states"], context["a_value"], context["e_value"])
    assert found == ("levers", levers, STATES, 0.72, 0.25)
    assert (context["known_then"], context["filled_by"]) == (True, "a test")
    assert (await position_row(sessions, book))["entry_context"] == sent.entry_context, "as it was sent"


async def test_the_learner_sees_it_also_if_it_comes_later(book: str, sessions: Sessions) -> None:
    levers = await give(sessions, book, f"lv-{book}")
    await attribute_all(sessions, [naming(book, levers)])
    await learn_missed(sessions, [book])
    assert await scopes(sessions, book) == [FILLED]


async def test_a_close_that_comes_again_changes_nothing(book: str, sessions: Sessions) -> None:
    levers = await give(sessions, book, f"lv-{book}")
    sent = naming(book, levers, A_value=0.5)
    [first] = await attributed(sessions, sent)
    before = await contexts(sessions, book)
    [again] = await attributed(sessions, sent)
    assert (first.already_attributed, again.already_attributed) == (False, True)
    assert again.noted == first.noted != []
    assert await contexts(sessions, book) == before


async def test_what_the_engine_says_itself_stays(book: str, sessions: Sessions) -> None:
    levers = await give(sessions, book, f"lv-{book}")
    said = {"regime_states": {"btc": {"macro": "S0"}}, "A_value": 0.5, "scope": {"alt_meso": "S1", "E_mode": "high"}}
    sent = naming(book, levers, **said)
    [answer] = await attributed(sessions, sent)
    await attribute_all(sessions, [sent])
    assert told(answer.noted) == {
        "entry_context.regime_states.btc_macro": "S0 was sent and stays; the levers had S3",
        "entry_context.A_value": "0.5 was sent and stays; the levers had 0.72",
        "entry_context.E_value": "high was sent and stays; the levers had 0.25",
    }


async def test_what_stays_is_what_is_learned_from(book: str, sessions: Sessions) -> None:
    levers = await give(sessions, book, f"lv-{book}")
    said = {"regime_states": {"btc": {"macro": "S0"}}, "A_value": 0.5, "scope": {"alt_meso": "S2", "E_mode": "high"}}
    await attribute_all(sessions, [naming(book, levers, **said)])
    await learn_missed(sessions, [book])
    assert await scopes(sessions, book) == [
        {"btc_macro": "S0", "alt_meso": "S2", "bucket_meso": "S0", "A_mode": "mid", "E_mode": "high"}
    ]


@pytest.mark.parametrize(
    ("named", "changes", "reason"),
    [
        ("unknown", {}, "no such levers are on record of book {book}"),
        ("", {}, "no such levers are on record of book {book}"),
        (7, {}, "must be a text"),
        (["lv"], {}, "must be a text"),
        ("given", {"book_id": "another"}, "no such levers are on record of book {book}"),
        (
            "given",
            {"as_of": OPENED + timedelta(microseconds=1)},
            "these levers are for 2026-01-01T00:00:00.000001Z, after the position was opened: they are not used",
        ),
    ],
)
async def test_levers_that_cannot_be_used_cost_the_field_and_not_the_trade(
    named: Any, changes: dict[str, Any], reason: str, book: str, sessions: Sessions
) -> None:
    given = await give(sessions, book, f"lv-{book}", **changes)
    [answer] = await attributed(sessions, naming(book, given if named == "given" else named))
    assert told(answer.noted) == {"entry_context.levers_id": reason.format(book=book)}
    assert await contexts(sessions, book) == []


async def test_levers_that_were_asked_for_afterwards_are_told_apart(book: str, sessions: Sessions) -> None:
    """For an instant before the opening, by what was known then: no look-ahead, but nobody had them."""
    levers = await give(sessions, book, f"lv-{book}", given_at=OPENED + timedelta(days=1))
    [answer] = await attributed(sessions, naming(book, levers))
    assert answer.noted == []
    assert [context["known_then"] for context in await contexts(sessions, book)] == [False]


async def test_levers_that_come_on_record_later_fill_nothing(book: str, sessions: Sessions) -> None:
    sent = naming(book, f"lv-{book}")
    await attributed(sessions, sent)
    await give(sessions, book, f"lv-{book}")
    [again] = await attributed(sessions, sent)
    reason = "these levers were not on record when the close was attributed"
    assert (again.already_attributed, told(again.noted)) == (True, {"entry_context.levers_id": reason})
    assert await contexts(sessions, book) == []


async def test_a_name_at_the_top_of_the_message_is_the_same(book: str) -> None:
    read = read_close(message(book, entry_context={"timeframe": "1h"}) | {"levers_id": "lv-1"})
    assert read.position is not None
    assert read.position.entry_context == {"timeframe": "1h", "levers_id": "lv-1"}
    alone = read_close(json.dumps({k: v for k, v in message(book).items() if k != "entry_context"} | {"levers_id": 7}))
    assert alone.position is not None
    assert alone.position.entry_context == {"levers_id": 7}
    both = read_close(message(book, entry_context={"levers_id": "lv-2"}) | {"levers_id": "lv-1"})
    assert both.position is not None
    assert both.position.entry_context == {"levers_id": "lv-2"}
    unreadable = read_close(message(book, entry_context="1h") | {"levers_id": "lv-1"})
    assert unreadable.position is not None
    assert (unreadable.position.entry_context, [note.field for note in unreadable.notes]) == (None, ["entry_context"])


@pytest.mark.usefixtures("worker")
async def test_through_every_door(book: str, client: Client, sessions: Sessions) -> None:
    """The workflow of a live close, an import, and a row that an engine wrote."""
    levers = await give(sessions, book, f"lv-{book}")
    live = naming(book, levers, "live", A_value=0.5)
    report = await close(client, live)
    note = {"entry_context.A_value": "0.5 was sent and stays; the levers had 0.72"}
    assert told(report.noted) == note
    memo = await (await client.get_workflow_handle(position_close_id(live)).describe()).memo()
    assert memo["noted"] == "entry_context.A_value: 0.5 was sent and stays; the levers had 0.72"

    imported = [naming(book, levers, "import", A_value=0.5), naming(book, "unknown", "import-unknown")]
    import_id = await stage(sessions, [position.model_dump_json(exclude_none=True) for position in imported])
    counts = (await backfill(client, import_id)).books[book]
    assert (counts.attributed, counts.refused) == (2, 0)
    rows = await query(sessions, "SELECT field, reason FROM import_notes WHERE import_id = :id", id=import_id)
    assert {row["field"]: row["reason"] for row in rows} == note | {
        "entry_context.levers_id": f"no such levers are on record of book {book}"
    }

    context = json.dumps(naming(book, levers).entry_context)
    await engine_writes(sessions, book, "row", entry_context=context, **OF_THE_CLOSE)
    await client.execute_workflow("CatchUpWorkflow", CatchUpRequest(), id=f"catch-up/{book}", task_queue="closeloop")
    handle = client.get_workflow_handle(f"position-close/{book}/row/2026-01-01T06:00:00Z")
    await asyncio.wait_for(handle.result(), PATIENCE)

    found = [context["position_id"] for context in await contexts(sessions, book)]
    assert found == ["import", "live", "row"]
    by_position = {row["position_id"]: row["scope"] for row in await facts(sessions, book)}
    assert by_position == {
        "live": FILLED | {"A_mode": "mid"},
        "import": FILLED | {"A_mode": "mid"},
        "import-unknown": {},
        "row": FILLED,
    }


async def test_a_learner_that_waits_sees_what_is_filled_in_meanwhile(book: str, sessions: Sessions) -> None:
    """Whoever fills contexts in holds the marks; a learner that waits for them must not learn what it saw before."""
    await attribute_all(sessions, [naming(book, None)])
    [row] = await query(sessions, "SELECT book_id, position_id FROM attributions WHERE book_id = :book", book=book)
    async with sessions() as holding:
        key = naming(book, None).key
        await store.market_contexts.hold_marks(holding, LEARNERS[0].name, [key])
        learning = asyncio.create_task(learn_missed(sessions, [book], LEARNERS[:1]))
        await wait_until_it_blocks(sessions, await backend(holding))
        filled = {
            **row,
            "source": "backfilled",
            "levers_id": None,
            "as_of": OPENED,
            "known_then": False,
            "states": STATES,
            "a_value": None,
            "e_value": None,
            "policy_hash": "h",
            "filled_by": "a test",
        }
        assert await store.market_contexts.add(holding, [filled]) == {key}
        await holding.commit()
    await asyncio.wait_for(learning, PATIENCE)
    assert await scopes(sessions, book) == [STATES]
    assert await owed(sessions, book) == [(LEARNERS[1].name, "p-1")]


async def test_levers_are_written_once(book: str, sessions: Sessions) -> None:
    levers = await give(sessions, book, f"lv-{book}")
    await give(sessions, book, levers, a_value=0.1, states={})
    async with sessions() as session:
        row = (await store.given_levers.load(session, [levers, "unknown"]))[levers]
    assert (row["a_value"], row["states"]) == (0.72, STATES)
