"""``closeloop lessons``, ``overrides`` and ``coefficients``: what an operator types and reads."""

import asyncio
import re
from typing import Any

import pytest

from tests.activities.patterning import EDGE, PATTERN, of_three_symbols, trades
from tests.faults.stack_process import StackProcess

COUNT = 900
BOOK = "cli-edge"
LARGE = "cli-large"
AS_OF = ("--as-of", trades(BOOK, COUNT)[-1].closed_at.isoformat())
LESSON = {
    *("pattern_key", "action_category", "scope", "n", "avg_rr", "variance", "win_rate", "edge_raw", "effect"),
    *("effect_low", "effect_high", "half_life_hours", "p", "q", "actionable", "explained_by", "status"),
}
OVERRIDE = {
    *("pattern_key", "action_category", "scope", "size_multiplier", "threshold_adjustments", "confidence"),
    *("expires_at", "lesson_id"),
}


@pytest.fixture(scope="module")
async def learned(stack: StackProcess) -> StackProcess:
    """A book with a planted edge of 1 R, another with one of 3 R; lessons of both, overrides of both."""
    rows = trades(BOOK, COUNT, edge=EDGE) + trades(LARGE, COUNT, edge=EDGE, lift=3.0)
    lines = "\n".join(row.model_dump_json(exclude_none=True) for row in rows)
    imported = await stack.cli("import", "jsonl", "-", "--json", stdin=lines)
    assert imported.status == 0, imported.err
    for book in (BOOK, LARGE):
        built = await stack.json("lessons", "build", "--book", book, *AS_OF)
        assert built["books"][0]["actionable"] == 1
        made = await stack.json("overrides", "materialize", "--book", book, *AS_OF)
        assert made["books"][0]["created"] == 1
    return stack


async def actionable(stack: StackProcess, book: str) -> dict[str, Any]:
    [found] = [lesson for lesson in await stack.json("lessons", "list", "--book", book) if lesson["actionable"]]
    assert isinstance(found, dict)
    return found


async def test_lessons_in_json(learned: StackProcess) -> None:
    found = await actionable(learned, BOOK)
    assert found.keys() >= LESSON
    assert (found["scope"], found["pattern_key"], found["status"]) == (EDGE, PATTERN, "active")
    assert found["effect_low"] < found["effect"] < found["effect_high"]
    assert {lesson["status"] for lesson in await learned.json("lessons", "list", "--book", BOOK)} == {"active"}
    everything = await learned.json("lessons", "list", "--book", BOOK, "--shadows")
    assert {lesson["status"] for lesson in everything} == {"active", "baseline", "shadow"}
    shadows = [lesson["explained_by"] for lesson in everything if lesson["status"] == "shadow"]
    assert found["lesson_id"] in shadows


async def test_a_build_says_what_it_left_alone_and_why(learned: StackProcess) -> None:
    again = await learned.cli("lessons", "build", "--book", BOOK, *AS_OF)
    assert again.status == 0
    assert "nothing is due" in again.out
    assert "900 trades, 900 when it was last mined" in again.out
    assert "--force" in again.out
    forced = await learned.cli("lessons", "build", "--book", BOOK, *AS_OF, "--force")
    assert f"{BOOK} v2: 1 groups of 900 trades" in forced.out


async def test_a_lesson_is_explained_to_a_person(learned: StackProcess) -> None:
    found = await actionable(learned, BOOK)
    text = (await learned.cli("lessons", "show", found["lesson_id"])).out
    for needle in (
        "chain=v0, vol_bucket=v1",
        "in the scope",
        "outside it",
        "Effect +",
        "Decay:",
        "luck weighed, of",
        "symbols",
        "v1",
        "actionable",
    ):
        assert needle in text, needle
    explained = await learned.json("lessons", "show", found["lesson_id"])
    assert explained["with"]["n"] == found["n"] == len(explained["trades"])
    assert explained["with"]["n"] + explained["without"]["n"] == COUNT
    assert explained["with"]["avg_rr"] == pytest.approx(found["avg_rr"])
    assert {trade["position_id"][: len(BOOK)] for trade in explained["trades"]} == {BOOK}
    assert explained["history"][0]["version"] == 1
    assert [each["of"] for each in explained["evidence"]["luck"]] == ["day", "week", "four_weeks", "symbol"]
    shadow = next(
        x for x in await learned.json("lessons", "list", "--book", BOOK, "--shadows") if x["status"] == "shadow"
    )
    assert "A shadow" in (await learned.cli("lessons", "show", shadow["lesson_id"])).out
    baseline = next(
        x for x in await learned.json("lessons", "list", "--book", BOOK, "--shadows") if x["status"] == "baseline"
    )
    text = (await learned.cli("lessons", "show", baseline["lesson_id"])).out
    assert "never sizes" in text
    assert "Conditions that stood out by their trades alone: " in text


async def test_a_book_without_lessons_says_what_it_would_take(stack: StackProcess) -> None:
    book = "cli-three-symbols"
    rows = of_three_symbols(book)
    nothing = await stack.cli("lessons", "list", "--book", book)
    assert nothing.status == 1, "no such book yet"
    imported = await stack.cli(
        "import", "jsonl", "-", stdin="\n".join(row.model_dump_json(exclude_none=True) for row in rows)
    )
    assert imported.status == 0, imported.err
    assert "No lessons yet" in (await stack.cli("lessons", "list", "--book", book)).out
    built = await stack.cli("lessons", "build", "--book", book, "--as-of", rows[-1].closed_at.isoformat())
    told = await stack.cli("lessons", "list", "--book", book)
    needed = "3 symbols (1 in the scope, 2 outside it): too few to tell a token lesson from luck; it takes 6 or more"
    assert "conditions stood out and could not be told from luck" in built.out
    assert "No lesson was accepted: 1 group was mined." in told.out
    assert re.search(r"\d+ conditions stood out by their trades alone, and could not be told from luck", told.out)
    assert needed in built.out
    assert needed in told.out
    assert await stack.json("lessons", "list", "--book", book) == []


async def test_overrides_and_what_they_say(learned: StackProcess) -> None:
    lesson = await actionable(learned, BOOK)
    [found] = await learned.json("overrides", "list", "--book", BOOK)
    assert found.keys() >= OVERRIDE
    assert (found["scope"], found["lesson_id"], found["status"]) == (EDGE, lesson["lesson_id"], "active")
    assert found["override_id"] in (await learned.cli("overrides", "list")).out
    match = ("overrides", "match", "--book", BOOK, "--pattern", PATTERN, "--action", "entry", *AS_OF)
    inside, outside, as_json, empty = await asyncio.gather(
        learned.json(*match, "--scope", "chain=v0,vol_bucket=v1,age_bucket=v2"),
        learned.json(*match, "--scope", "chain=v0"),
        learned.json(*match, "--scope", '{"chain": "v0", "vol_bucket": "v1"}'),
        learned.json(*match),
    )
    assert inside["size_multiplier"] == pytest.approx(found["size_multiplier"])
    assert inside["threshold_adjustments"].keys() == {"ts_threshold"}
    [voice] = inside["spoke"]
    assert voice.keys() == {"override_id", "scope", "multiplier", "weight"}
    assert (voice["override_id"], voice["scope"]) == (found["override_id"], EDGE)
    assert outside == empty == {"size_multiplier": 1.0, "threshold_adjustments": {}, "spoke": []}
    assert as_json == inside
    text = await learned.cli(*match, "--scope", "chain=v0", "--scope", "vol_bucket=v1")
    assert found["override_id"] in text.out
    assert "No override applies" in (await learned.cli(*match)).out
    expired = await learned.json(*match[:-2], "--scope", "chain=v0,vol_bucket=v1")
    assert expired["size_multiplier"] == 1.0, "half a year later it has expired"


async def test_a_large_override_waits_for_an_operator(learned: StackProcess) -> None:
    [found] = await learned.json("overrides", "list", "--book", LARGE)
    assert found["status"] == "pending"
    assert abs(found["size_multiplier"] - 1) > 0.25
    text = (await learned.cli("overrides", "list", "--book", LARGE)).out
    assert "wait for an operator" in text
    assert f"overrides approve {found['override_id']}" in text
    nobody = await learned.cli("overrides", "approve", found["override_id"], "--operator", " ")
    assert (nobody.status, "operator: must not be empty" in nobody.out) == (1, True)
    approved = await learned.json(
        "overrides", "approve", found["override_id"], "--operator", "ann", "--reason", "looked at the trades"
    )
    assert (approved["accepted"], approved["state"]) == (True, "approved")
    late = await learned.cli("overrides", "reject", found["override_id"], "--operator", "bob")
    assert late.status == 1
    assert "approved" in late.out
    assert "by ann" in late.out
    [found] = await learned.json("overrides", "list", "--book", LARGE)
    assert (found["status"], found["decided_by"], found["note"]) == ("active", "ann", "looked at the trades")


@pytest.mark.parametrize(("command", "name"), [("lessons", "lesson_id"), ("overrides", "override_id")])
async def test_lists_are_read_in_pages_from_the_end(learned: StackProcess, command: str, name: str) -> None:
    whole = [row[name] for row in await learned.json(command, "list")]
    assert len(whole) >= 2
    pages: list[str] = []
    while page := await learned.json(command, "list", "--last", "20", *(("--before", pages[0]) if pages else ())):
        pages = [row[name] for row in page] + pages
    assert pages == whole
    [last] = await learned.json(command, "list", "--last", "1", "--before", whole[-1])
    assert last[name] == whole[-2]
    assert re.search(r"list( --closed)?' shows", (await learned.cli(command, "list", "--before", "nothing")).sentence())


async def test_coefficients(learned: StackProcess) -> None:
    [found] = await learned.json("coefficients", "--book", BOOK)
    assert found["module_id"] == "decision_maker"
    assert found["config_data"]["global_rr"]["n"] == COUNT
    assert found["config_data"]["timeframe_weights"]["1h"] == {
        "weight": 1.0,
        "n": COUNT,
        **{name: found["config_data"]["global_rr"][name] for name in ("rr_short", "rr_long")},
    }
    paged = ("coefficients", "--book", BOOK, "--last", "1")
    assert await learned.json(*paged) == [found]
    assert await learned.json(*paged, "--before", found["module_id"]) == []
    text = (await learned.cli("coefficients")).out
    assert "1h" in text
    assert "all together" in text


async def test_of_a_book_without_anything(stack: StackProcess) -> None:
    book = ("--book", "nothing-learned")
    await stack.json("books", "add", "nothing-learned")
    for command in (("lessons", "list"), ("overrides", "list"), ("coefficients",)):
        assert await stack.json(*command, *book) == []
        text = await stack.cli(*command, *book)
        assert (text.status, len(text.out.splitlines())) == (0, 1), text
    built, made = await asyncio.gather(
        stack.cli("lessons", "build", *book), stack.cli("overrides", "materialize", *book)
    )
    assert (built.status, built.out.strip()) == (0, "nothing-learned: nothing is due")
    assert (made.status, "0 in force" in made.out) == (0, True)


async def test_what_is_not_there(stack: StackProcess) -> None:
    for command in (("lessons", "show", "x"), ("overrides", "approve", "x", "--operator", "ann")):
        assert re.search(r"list( --closed)?' shows", (await stack.cli(*command)).sentence())
    future = await stack.cli("lessons", "build", "--book", "nobody", "--as-of", "2999-01-01T00:00:00Z")
    assert "as_of: must not be in the future" in future.sentence()


MATCH = ("overrides", "match", "--pattern", "k", "--action", "entry")
WRONG: dict[str, tuple[str, ...]] = {
    "not dimension=value": (*MATCH, "--book", "b", "--scope", "chain"),
    "no JSON object": (*MATCH, "--book", "b", "--scope", "{chain"),
    "--pattern": ("overrides", "match", "--action", "entry"),
    "--by": ("overrides", "approve", "x"),
    "with its offset": ("lessons", "build", "--as-of", "2026-01-01"),
    "1 to 64 of": (*MATCH, "--book", "bad name"),
    "pattern_key": ("overrides", "match", "--book", "b", "--pattern", "", "--action", "entry"),
    "must not contain control": (*MATCH, "--book", "b", "--scope", '{"a": "\\u0000"}'),
}


@pytest.mark.parametrize("needle", WRONG)
async def test_called_wrongly(stack: StackProcess, needle: str) -> None:
    result = await stack.cli(*WRONG[needle])
    assert (result.status, result.out) == (2, ""), result
    assert needle in " ".join(result.err.replace("│", " ").split())


async def test_which_book_is_asked_for_where_several_have_overrides(learned: StackProcess) -> None:
    approved = [o for o in await learned.json("overrides", "list") if o["status"] == "active"]
    result = await learned.cli(*MATCH)
    assert result.status == (2 if len({o["book"] for o in approved}) > 1 else 0)
