"""``closeloop approvals``: everything that waits for an operator, by whatever command it was proposed."""

from datetime import datetime

import pytest

from tests.faults.stack_process import StackProcess

BOOKS = ("approvals-a", "approvals-b", "approvals-c")


@pytest.fixture(scope="module")
async def waiting(stack: StackProcess) -> StackProcess:
    """A proposal in each of the books, in this order."""
    for book in BOOKS:
        await stack.json("books", "add", book)
        await stack.json("meta", "propose", "--book", book)
    return stack


def name(book: str, number: int = 1) -> str:
    return f"meta/{book}/{number}"


async def listed(stack: StackProcess, *arguments: str) -> list[str]:
    found = await stack.json("approvals", "list", *arguments)
    ours = [view for view in found if view["book"] in BOOKS]
    return ["{kind}/{book}/{id}".format(**view) for view in ours]


async def test_what_waits_by_the_soonest_deadline(waiting: StackProcess) -> None:
    found = await waiting.json("approvals", "list")
    deadlines = [datetime.fromisoformat(view["deadline"]) for view in found]
    assert deadlines == sorted(deadlines)
    assert all(view["state"] == "pending" and view["proposal"] and view["decision"] is None for view in found)
    assert await listed(waiting) == [name(book) for book in BOOKS]
    assert await listed(waiting, "--book", BOOKS[1]) == [name(BOOKS[1])]
    assert await waiting.json("approvals", "show", name(BOOKS[0])) in found


async def test_pages_go_backwards(waiting: StackProcess) -> None:
    """From the end of the list; deadlines of other tests may lie between."""
    seen: list[str] = []
    page = await waiting.json("approvals", "list", "--last", "1")
    while page:
        [view] = page
        seen.insert(0, "{kind}/{book}/{id}".format(**view))
        page = await waiting.json("approvals", "list", "--last", "1", "--before", seen[0])
    assert [one for one in seen if one.split("/")[1] in BOOKS] == [name(book) for book in BOOKS]
    assert len(seen) == len(set(seen))
    unknown = await waiting.cli("approvals", "list", "--before", "meta/nobody/1")
    assert "There is no meta/nobody/1" in unknown.sentence()


async def test_a_person_reads_what_to_do(waiting: StackProcess) -> None:
    text = (await waiting.cli("approvals", "list", "--book", BOOKS[0])).out
    assert name(BOOKS[0]) in text
    assert f"Let the meta-producer of {BOOKS[0]} speak" in text
    assert "waits until " in text
    assert f"closeloop approvals approve {name(BOOKS[0])} --by NAME --note TEXT" in text
    await waiting.json("books", "add", "nothing-waits")
    assert (await waiting.cli("approvals", "list", "--book", "nothing-waits")).out == "Nothing waits for a decision.\n"


async def test_approved_shown_and_no_second_thoughts(stack: StackProcess) -> None:
    book = "approvals-decided"
    await stack.json("books", "add", book)
    await stack.json("meta", "propose", "--book", book)
    answer = await stack.json("approvals", "approve", name(book), "--by", "ann", "--note", "good enough")
    assert (answer["accepted"], answer["state"]) == (True, "approved")
    assert (await stack.json("meta", "status", "--book", book))["mode"] == "live"
    shown = await stack.json("approvals", "show", name(book))
    assert shown["state"] == "approved"
    assert {key: shown["decision"][key] for key in ("verdict", "operator", "note")} == {
        "verdict": "approve",
        "operator": "ann",
        "note": "good enough",
    }
    assert "approved by ann at " in shown["outcome"]
    assert "good enough" in (await stack.cli("approvals", "show", name(book))).out
    for verdict in ("approve", "reject"):
        late = await stack.cli(
            "approvals", verdict, name(book), "--by", "bob", "--note", "on second thoughts", "--json"
        )
        assert (late.status, late.json()["accepted"], late.json()["state"]) == (1, False, "approved")
        assert "already decided: approved by ann" in late.json()["reason"]
    assert (await stack.json("meta", "status", "--book", book))["mode"] == "live"
    events = await stack.json("events", "--book", book)
    words = [e["payload"] for e in events if e["type"] == "learning.approval.word_refused.v1"]
    assert [(word["operator"], word["note"], word["verdict"]) for word in words] == [
        ("bob", "on second thoughts", "approve"),
        ("bob", "on second thoughts", "reject"),
    ]


async def test_the_options_of_old_still_work_and_are_not_shown(stack: StackProcess) -> None:
    book = "approvals-aliases"
    await stack.json("books", "add", book)
    await stack.json("meta", "propose", "--book", book)
    rejected = await stack.json("approvals", "reject", name(book), "--operator", "ann", "--reason=too early")
    assert (rejected["accepted"], rejected["state"]) == (True, "rejected")
    decision = (await stack.json("approvals", "show", name(book)))["decision"]
    assert (decision["operator"], decision["note"]) == ("ann", "too early")
    for group in ("approvals", "weights", "overrides", "meta"):
        help_ = (await stack.cli(group, "approve", "--help")).out
        assert "--by" in help_
        assert "--note" in help_
        assert "--operator" not in help_
        assert "--reason" not in help_


@pytest.mark.parametrize(
    "wrong",
    [
        "meta/nobody/1",
        "nothing/book/1",
        "meta",
        "meta/book",
        "meta//1",
        "weights/b/2026-W01",
        "override/b/x",
        "a/b c/d",
        "",
    ],
)
async def test_what_is_not_there(stack: StackProcess, wrong: str) -> None:
    for command in (("show",), ("approve", "--by", "ann")):
        refused = await stack.cli("approvals", command[0], wrong, *command[1:])
        assert refused.status == 1
        assert refused.sentence().startswith("closeloop: There is no ")
