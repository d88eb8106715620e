"""``closeloop books`` and ``closeloop weights``: what an operator types and reads."""

import asyncio
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError

from tests.activities.weighing import AS_OF, BALANCED, history
from tests.faults.stack_process import StackProcess
from tests.waiting import until as until_it

OF = ("--as-of", AS_OF.isoformat())
NEXT_WEEK = ("--as-of", (AS_OF + timedelta(days=7)).isoformat())
CYCLE = {"cycle_id", "workflow_id", "state", "reason", "proposal_id", "old", "new", "evidence"}
EVIDENCE = {"n", "r", "ci_low", "ci_high", "p", "q"}


@pytest.fixture(scope="module")
async def imported(stack: StackProcess) -> StackProcess:
    """Books ``cli-0`` to ``cli-5`` with trades that propose."""
    rows = [row.model_dump_json(exclude_none=True) for i in range(6) for row in history(f"cli-{i}")]
    result = await stack.cli("import", "jsonl", "-", "--json", stdin="\n".join(rows))
    assert result.status == 0, result.err
    return stack


def one_line(text: str) -> str:
    return " ".join(text.split())


async def test_books(stack: StackProcess, tmp_path: Path) -> None:
    added = await stack.cli("books", "add", "cli-books", "--preset", "degen")
    assert (added.status, added.out.strip()) == (0, "book cli-books starts with the preset degen")
    again = await stack.cli("books", "add", "cli-books", "--preset", "degen")
    assert (again.status, again.out.strip()) == (0, "book cli-books has the preset degen already")
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nweights: {rsi: 0.9, news: 0.06, flow: 0.04}\n")
    assert (await stack.cli("books", "add", "cli-own", "--preset", own)).status == 0
    shown, mine, listed = await asyncio.gather(
        stack.json("books", "show", "cli-books"), stack.json("books", "show", "cli-own"), stack.json("books", "list")
    )
    assert (shown["book"], shown["preset"], shown["cadence"]) == ("cli-books", "degen", "weekly")
    assert shown["preset_weights"]["social"] == 0.30
    assert mine["preset_weights"] == pytest.approx({"rsi": 0.4, "news": 0.31, "flow": 0.29}, abs=1e-12)
    assert {row["book"]: row["preset"] for row in listed}["cli-books"] == "degen"
    plain = await stack.cli("books", "show", "cli-books")
    assert "preset degen" in plain.out
    presets = await stack.cli("books", "presets")
    assert presets.status == 0
    assert all(name in presets.out for name in ("balanced", "conservative", "degen", "curator 0.25"))


async def test_another_cadence_leaves_the_preset(stack: StackProcess) -> None:
    await stack.cli("books", "add", "cli-cadence", "--preset", "degen")
    assert (await stack.cli("books", "add", "cli-cadence", "--cadence", "monthly")).status == 0
    shown = await stack.json("books", "show", "cli-cadence")
    assert (shown["preset"], shown["cadence"]) == ("degen", "monthly")


async def test_a_books_preset_is_refused_with_a_sentence(stack: StackProcess, tmp_path: Path) -> None:
    two, many = tmp_path / "two.yaml", tmp_path / "many.yaml"
    two.write_text("name: two\nweights: {a: 0.5, b: 0.5}\n")
    many.write_text("name: many\nweights: {" + ", ".join(f"d{i}: 0.04" for i in range(25)) + "}\n")
    refused = {
        "nobody": "There is no preset 'nobody'",
        str(two): "raise the ceiling",
        str(many): "lower the floor",
        str(tmp_path / "missing.yaml"): "cannot be read",
    }
    for preset, words in refused.items():
        assert words in (await stack.cli("books", "add", "cli-refused", "--preset", preset)).sentence()
    assert "There is no book cli-refused" in (await stack.cli("books", "show", "cli-refused")).sentence()
    assert (await stack.cli("books", "add", "not a book")).status == 2
    assert (await stack.cli("books", "add", "b", "--cadence", "daily")).status == 2


async def test_a_cycle_from_proposal_to_revert(imported: StackProcess) -> None:
    book = ("--book", "cli-0")
    before = await imported.json("weights", "show", *book)
    assert set(before) >= {"book", "weights", "version", "source", "since", "policy_hash"}
    assert (before["weights"], before["version"], before["source"], before["since"]) == (BALANCED, 0, "preset", None)
    cycle = await imported.json("weights", "cycle", *book, *OF)
    assert set(cycle) >= CYCLE
    assert (cycle["state"], cycle["reason"]) == ("proposed", None)
    assert (cycle["cycle_id"], cycle["workflow_id"]) == ("cli-0/2026-W15", "weights/cli-0/2026-W15")
    assert cycle["proposal_id"] == cycle["cycle_id"]
    assert cycle["old"] == BALANCED
    assert all(set(evidence) == EVIDENCE for evidence in cycle["evidence"].values())
    assert set(cycle["evidence"]) == set(cycle["new"]) == set(BALANCED)
    assert sum(cycle["new"].values()) == math.fsum(cycle["new"].values()) == 1.0
    assert await imported.json("weights", "cycle", *book, *OF) == cycle  # the same period: the same cycle
    assert await imported.json("weights", "show", *book) == before
    assert [view["cycle_id"] for view in await imported.json("weights", "proposals", *book)] == [cycle["cycle_id"]]

    table = (await imported.cli("weights", "proposals", *book)).out
    for part in (
        "onchain",
        "0.2500",
        f"{cycle['new']['onchain']:.4f}",
        "correlation",
        "weights approve cli-0/2026-W15",
    ):
        assert part in table
    assert f"{cycle['evidence']['onchain']['r']:+.2f}" in table

    identity = (cycle["cycle_id"], "--by")
    approved = await imported.cli("weights", "approve", *identity, "ann", "--note", "looks right", "--json")
    assert approved.status == 0
    assert approved.json()["accepted"] is True
    now = await imported.json("weights", "show", *book)
    assert (now["weights"], now["version"], now["source"]) == (cycle["new"], 1, "learned")
    assert now["since"]
    assert await imported.json("weights", "proposals", *book) == []

    shown = (await imported.json("weights", "history", *book))["cycles"][0]
    assert {"performance_n", "performance_pnl", "performance_r", "streak", "learned"} <= set(shown)
    decided = (await imported.cli("weights", "cycle", *book, *OF)).out
    assert "decided by ann" in decided
    assert "waits until" not in decided

    late = await imported.cli("weights", "reject", *identity, "bob")
    assert late.status == 1
    assert one_line(late.out).startswith("not accepted: already decided: approved by ann at ")
    reverted = await imported.cli("weights", "revert", *identity, "cid", "--note", "worse")
    assert (reverted.status, one_line(reverted.out)) == (0, "accepted: version 2 has the former weights")
    assert (await imported.json("weights", "show", *book))["weights"] == BALANCED
    too_late = await imported.cli("weights", "approve", *identity, "dan", "--json")
    assert too_late.status == 1
    assert too_late.json()["accepted"] is False
    assert "reverted by cid" in too_late.json()["reason"]

    history_ = await imported.json("weights", "history", *book)
    assert [version["operator"] for version in history_["versions"]] == ["ann", "cid"]
    assert [version["reason"] for version in history_["versions"]] == [
        "approved by ann: looks right",
        "reverted by cid: worse",
    ]
    assert [view["state"] for view in history_["cycles"]] == ["reverted"]
    plain = (await imported.cli("weights", "history", *book)).out
    assert all(word in plain for word in ("ann", "cid", "worse", "reverted"))


async def test_a_word_to_a_cycle_that_has_ended_is_on_record(imported: StackProcess) -> None:
    cycle = await imported.json("weights", "cycle", "--book", "cli-1", *OF)
    assert (await imported.cli("weights", "reject", cycle["cycle_id"], "--by", "ann")).status == 0
    answer = await imported.cli("weights", "approve", cycle["cycle_id"], "--by", "bob", "--json")
    assert (answer.status, answer.json()["accepted"]) == (1, False)
    assert "rejected by ann" in answer.json()["reason"]
    events = await imported.json("events", "--book", "cli-1")
    assert [e["payload"]["operator"] for e in events if e["type"] == "learning.weights.word_refused.v1"] == ["bob"]


async def test_two_commands_at_once(imported: StackProcess) -> None:
    """The same cycle started twice; then two people approve."""
    both = await asyncio.gather(*(imported.json("weights", "cycle", "--book", "cli-2", *OF) for _ in range(2)))
    assert both[0] == both[1]
    identity = both[0]["cycle_id"]
    results = await asyncio.gather(
        *(imported.cli("weights", "approve", identity, "--by", name, "--json") for name in ("ann", "bob"))
    )
    assert sorted(result.status for result in results) == [0, 1]
    [winner] = [name for name, result in zip(("ann", "bob"), results, strict=True) if result.status == 0]
    [loser] = [result.json() for result in results if result.status == 1]
    assert f"approved by {winner} at " in loser["reason"]


async def test_the_next_cycle_and_refusals(imported: StackProcess) -> None:
    book = ("--book", "cli-3")
    first = await imported.json("weights", "cycle", *book, *OF)
    second = await imported.json("weights", "cycle", *book, *NEXT_WEEK)
    assert second["cycle_id"] == "cli-3/2026-W16"
    gone = await imported.cli("weights", "approve", first["cycle_id"], "--by", "ann")
    assert gone.status == 1
    assert "superseded by the next cycle" in gone.out
    early = await imported.cli("weights", "cycle", *book, "--as-of", (AS_OF - timedelta(days=7)).isoformat())
    assert "must be after that of the last cycle" in early.sentence()
    future = await imported.cli("weights", "cycle", *book, "--as-of", (datetime.now(UTC) + timedelta(9)).isoformat())
    assert "must not be in the future" in future.sentence()
    other = await imported.cli("books", "add", "cli-3", "--preset", "degen")
    assert "has learned from preset balanced" in other.sentence()


async def test_a_book_that_nobody_knows(stack: StackProcess) -> None:
    await stack.json("books", "add", "cli-unknown")
    unknown = await stack.json("weights", "cycle", "--book", "cli-unknown", *OF)
    assert (unknown["state"], unknown["reason"]) == ("no_adjustment", "cold_start_baseline")
    assert (unknown["new"], unknown["proposal_id"]) == (None, None)
    plain = await stack.cli("weights", "cycle", "--book", "cli-unknown", *OF)
    assert "cold_start_baseline" in plain.out
    assert (await stack.json("books", "show", "cli-unknown"))["preset"] == "balanced"
    for verdict in ("approve", "reject", "revert"):
        refused = await stack.cli("weights", verdict, "cli-nobody/2026-W15", "--by", "ann")
        assert "There is no proposal cli-nobody/2026-W15" in refused.sentence()


@pytest.mark.parametrize(
    "arguments",
    [
        ("cycle",),
        ("show",),
        ("history",),
        ("approve", "x"),
        ("approve", "--by", "ann"),
        ("cycle", "--book", "not a book"),
        ("cycle", "--book", "b", "--as-of", "yesterday"),
        ("cycle", "--book", "b", "--as-of", "2026-10-01T00:00:00"),
        ("cycle", "--book", "b", "--deadline-hours", "-1"),
        ("cycle", "--book", "b", "--deadline-hours", "1e300"),
        ("cycle", "--book", "b", "--deadline-hours", "nan"),
        ("show", "--book", "not a book"),
    ],
    ids=" ".join,
)
async def test_called_wrongly(stack: StackProcess, arguments: tuple[str, ...]) -> None:
    result = await stack.cli("weights", *arguments)
    assert result.status == 2, result
    assert "Traceback" not in result.err


@pytest.mark.parametrize("by", ["", "  ", "x" * 201])
async def test_an_operator_must_have_a_name(imported: StackProcess, by: str) -> None:
    cycle = await imported.json("weights", "cycle", "--book", "cli-4", *OF)
    refused = await imported.cli("weights", "approve", cycle["cycle_id"], "--by", by, "--json")
    assert (refused.status, refused.json()["accepted"]) == (1, False)
    assert "operator" in refused.json()["reason"]


async def test_temporals_own_client_as_the_operators(imported: StackProcess) -> None:
    """By signal, with nothing of this project's."""
    cycle = await imported.json("weights", "cycle", "--book", "cli-5", *OF)
    handle = (await imported.client()).get_workflow_handle(cycle["workflow_id"])
    assert (await handle.query("cycle"))["state"] == "proposed"
    await handle.signal("approve", {"operator": "ann", "note": "from the UI"})

    async def version() -> int:
        return int((await imported.json("weights", "show", "--book", "cli-5"))["version"])

    async def approved() -> bool:
        return await version() == 1

    await until_it("approved", approved, every=0.2)
    file = imported.home / "learned_weights.cli-5.yaml"
    await until_it("overlay", file.exists)
    assert (await imported.json("weights", "show", "--book", "cli-5"))["weights"] == cycle["new"]


NAMED = ("--pattern", "p", "--action", "entry")


@pytest.mark.parametrize(
    "command",
    [
        ("weights", "show"),
        ("weights", "cycle"),
        ("weights", "history"),
        ("weights", "proposals"),
        ("meta", "status"),
        ("meta", "propose"),
        ("meta", "decisions"),
        ("meta", "shadow", "--by", "ann"),
        ("meta", "approve", "--by", "ann"),
        ("lessons", "build"),
        ("lessons", "list"),
        ("overrides", "materialize"),
        ("overrides", "list"),
        ("overrides", "match", *NAMED),
        ("approvals", "list"),
    ],
    ids=" ".join,
)
async def test_a_book_typed_wrong_is_refused_and_not_made(imported: StackProcess, command: tuple[str, ...]) -> None:
    refused = await imported.cli(*command, "--book", "cli-00")
    assert refused.status == 1
    assert "There is no book cli-00. There are: cli-0, " in one_line(refused.err)
    assert "cli-00" not in {book["book"] for book in await imported.json("books", "list")}


async def test_an_impossible_policy_is_refused_with_a_sentence(imported: StackProcess, tmp_path: Path) -> None:
    await imported.json("import", "jsonl", "-", stdin=history("cli-no-preset")[0].model_dump_json(exclude_none=True))
    policies: dict[str, dict[str, Any]] = {
        "infeasible": {"min_domain_weight": 0.3, "max_domain_weight": 0.4},
        "unknown preset": {"default_preset": "nobody"},
    }
    for name, values in policies.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(values))
        show = await imported.cli("weights", "show", "--book", "cli-no-preset", CLOSELOOP_POLICY=str(path))
        assert show.sentence(), name


async def test_pages_of_cycles_versions_and_books(stack: StackProcess) -> None:
    """From the end backwards; a cursor that names nothing is refused."""
    first, second, third = ("cli-page-a", "cli-page-b", "cli-page-c")
    for book in (first, second, third):
        await stack.json("books", "add", book)
    names = [book["book"] for book in await stack.json("books", "list", "--last", "2", "--before", third)]
    assert names == [first, second]
    for as_of in ("2026-04-06T00:00:00Z", "2026-04-13T00:00:00Z", "2026-04-20T00:00:00Z"):
        await stack.json("weights", "cycle", "--book", first, "--as-of", as_of)
    page = await stack.json("weights", "history", "--book", first, "--last", "1", "--before", f"{first}/2026-W17")
    assert [cycle["cycle_id"] for cycle in page["cycles"]] == [f"{first}/2026-W16"]
    assert await stack.json("weights", "proposals", "--book", first, "--before", f"{first}/2026-W17") == []
    for command in (("books", "list"), ("weights", "proposals"), ("weights", "history", "--book", first)):
        assert "There is no " in (await stack.cli(*command, "--before", "cli-no-such-book")).sentence()


# -- what operators do in Temporal -------------------------------------------------------------------------------------


async def end(stack: StackProcess, workflow: str, how: str) -> None:
    """End a workflow as an operator does in Temporal's UI, and wait until it has ended."""
    handle = (await stack.client()).get_workflow_handle(workflow)
    await (handle.terminate("by hand") if how == "terminate" else handle.cancel())
    with pytest.raises(WorkflowFailureError):
        await handle.result()


async def trigger(stack: StackProcess, schedule: str) -> None:
    await (await stack.client()).get_schedule_handle(f"closeloop/{schedule}").trigger()


@pytest.mark.parametrize("how", ["terminate", "cancel"])
async def test_a_cycle_that_was_ended_in_temporal_is_approved_and_reverted(imported: StackProcess, how: str) -> None:
    book = f"cli-ended-{how}"
    rows = [row.model_dump_json(exclude_none=True) for row in history(book)]
    await imported.json("import", "jsonl", "-", stdin="\n".join(rows))
    cycle = await imported.json("weights", "cycle", "--book", book, *OF)
    await end(imported, cycle["workflow_id"], how)
    approved = await imported.cli("weights", "approve", cycle["cycle_id"], "--by", "ann")
    assert approved.status == 0, approved.err
    assert (await imported.json("weights", "show", "--book", book))["weights"] == cycle["new"]
    await end(imported, cycle["workflow_id"], how)
    assert (await imported.cli("weights", "revert", cycle["cycle_id"], "--by", "ann")).status == 0
    assert (await imported.json("weights", "show", "--book", book))["weights"] == cycle["old"]


async def test_the_watch_starts_again_what_waits(imported: StackProcess) -> None:
    """Also where the book has got another cadence since."""
    book = "cli-ended-watch"
    rows = [row.model_dump_json(exclude_none=True) for row in history(book)]
    await imported.json("import", "jsonl", "-", stdin="\n".join(rows))
    cycle = await imported.json("weights", "cycle", "--book", book, *OF)
    await end(imported, cycle["workflow_id"], "terminate")
    assert (await imported.cli("books", "add", book, "--cadence", "monthly")).status == 0
    await trigger(imported, "overlays")
    handle = (await imported.client()).get_workflow_handle(cycle["workflow_id"])

    async def runs() -> bool:
        return (await handle.describe()).status == WorkflowExecutionStatus.RUNNING

    await until_it("runs again", runs, every=0.2)
    await handle.signal("reject", {"operator": "ann", "note": "from the UI"})
    await handle.result()
    assert await imported.json("weights", "proposals", "--book", book) == []


async def test_a_refused_cycle_does_not_cost_the_book_its_scheduled_one(imported: StackProcess) -> None:
    now = datetime.now(UTC)
    book = "cli-early"
    await imported.json("books", "add", book)
    sunday = now + timedelta(days=6 - now.weekday())  # of this week, so that the failed workflow has this cycle's id
    for ahead in {max(sunday, now + timedelta(hours=1)), now + timedelta(days=3)}:
        refused = await imported.cli("weights", "cycle", "--book", book, "--as-of", ahead.isoformat())
        assert "future" in refused.sentence()
    await trigger(imported, "weights")

    async def cycles() -> list[Any]:
        return list((await imported.json("weights", "history", "--book", book))["cycles"])

    async def has_one() -> bool:
        return bool(await cycles())

    await until_it("the scheduled cycle", has_one, every=0.2)
    assert len(await cycles()) == 1
