"""``books remove`` and ``books restore``."""

import json

from tests.cli.test_positions import close
from tests.faults.stack_process import StackProcess


async def test_a_book_is_removed_and_brought_back(stack: StackProcess) -> None:
    one = json.dumps(close("gone", "p-1"))
    assert (await stack.cli("positions", "close", "-", stdin=one)).status == 0
    removed = await stack.json("books", "remove", "gone", "--by", "ann", "--note", "a trial")
    assert (removed["book"]["archived_by"], removed["withdrawn"], removed["preset_restored"]) == ("ann", [], False)
    again = await stack.cli("books", "remove", "gone", "--by", "bob")
    assert (again.status, "was removed already, by ann" in again.out) == (0, True)
    refused = await stack.cli("positions", "close", "-", stdin=json.dumps(close("gone", "p-2")))
    assert refused.status == 1
    assert "'closeloop books restore gone --by NAME' brings it back" in refused.err
    shown = await stack.cli("books", "show", "gone")
    assert "book gone was removed by ann" in shown.out
    [listed] = [book for book in await stack.json("books", "list") if book["book"] == "gone"]
    assert (listed["positions"], listed["archived_by"]) == (1, "ann")
    cycle = await stack.cli("weights", "cycle", "--book", "gone")
    assert (cycle.status, "was removed by ann" in cycle.err) == (1, True)
    back = await stack.cli("books", "restore", "gone", "--by", "bob")
    assert (back.status, "send again what was refused" in back.out) == (0, True)
    assert (await stack.cli("positions", "close", "-", stdin=json.dumps(close("gone", "p-2")))).status == 0
    kinds = {event["type"] for event in await stack.json("events", "--book", "gone")}
    assert {"learning.book.archived.v1", "learning.book.restored.v1"} <= kinds


async def test_called_wrongly_or_of_no_book(stack: StackProcess) -> None:
    assert (await stack.cli("books", "remove", "gone")).status == 2
    assert (await stack.cli("books", "remove", "gone", "--by", " ")).status == 2
    nobody = await stack.cli("books", "remove", "nosuch", "--by", "ann")
    assert (nobody.status, "There is no book nosuch" in nobody.err) == (1, True)
    assert (await stack.cli("books", "restore", "nosuch", "--by", "ann")).status == 1
