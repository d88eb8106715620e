"""The corpus from the command line."""

import json

from tests.closes import message
from tests.faults.stack_process import StackProcess


async def test_list_and_run(stack: StackProcess) -> None:
    skills = stack.home / "corpus" / "skills"
    for place, score in (("pending/cli-rises", "2"), ("active/cli-falls", "-3"), ("active/cli-[bold]", "high")):
        path = skills / f"{place}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"score: {score}\n")
    actions = [{"pattern_key": "cli-rises"}, {"pattern_key": "cli-nothing"}]
    close = message("cli-corpus", entry_context={"actions": actions})
    assert (await stack.json("positions", "close", "-", stdin=json.dumps(close)))["closed"]

    listed = {row["name"]: row for row in await stack.json("corpus", "list")}
    assert listed["cli-rises"] == {
        "name": "cli-rises",
        "state": "pending",
        "score": 2,
        "problem": None,
        "pending_matches": 1,
        "pending_outcome": 1,
    }
    assert (listed["cli-nothing"]["state"], listed["cli-nothing"]["pending_matches"]) == (None, 1)
    assert listed["cli-[bold]"]["problem"] == "its score is not a whole number"
    names = list(listed)
    assert [row["name"] for row in await stack.json("corpus", "list", "--last", "2")] == names[-2:]
    before = await stack.json("corpus", "list", "--last", "1", "--before", names[-1])
    assert [row["name"] for row in before] == [names[-2]]
    assert "no skill nobody" in (await stack.cli("corpus", "list", "--before", "nobody")).sentence()
    text = await stack.cli("corpus", "list")
    for name in ("cli-rises", "cli-nothing", "cli-[bold]", "no file"):
        assert name in text.out

    report = await stack.json("corpus", "run")
    assert {"name": "cli-rises", "before": 2, "after": 3, "matches": 1} in report["scored"]
    assert "cli-rises" in report["promoted"]
    assert "cli-falls" in report["archived"]
    assert {"skill": "active/cli-[bold].md", "reason": "its score is not a whole number"} in report["skipped"]
    assert (skills / "active" / "cli-rises.md").read_text() == "score: 3\n"
    again = await stack.cli("corpus", "run")
    assert (again.status, "left alone active/cli-[bold].md" in again.out) == (0, True)
    events = await stack.json("events", "--type", "learning.skill.promoted.v1")
    assert [event["payload"]["skill"] for event in events] == ["cli-rises"]
    listed = {row["name"]: row for row in await stack.json("corpus", "list")}
    assert (listed["cli-rises"]["state"], listed["cli-rises"]["pending_matches"]) == ("active", 0)


async def test_without_a_stack(no_stack: StackProcess) -> None:
    for command in ("list", "run"):
        assert "closeloop dev" in (await no_stack.cli("corpus", command)).sentence()
