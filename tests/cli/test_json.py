"""``--json``: one JSON document on stdout and nothing else, for every command that has it."""

import asyncio
import json
from pathlib import Path

from tests.cli.test_help import EVERY
from tests.faults.stack_process import StackProcess
from tests.faults.trades import Trade, jsonl, trades

# The arguments with which some are tried; others of which none is required are tried without any, and may fail.
ARGUMENTS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("status",): (),
    ("schedules", "list"): (),
    ("outcomes",): ("--book", "history"),
    ("outcomes", "summary"): ("--book", "history"),
    ("karma",): ("--book", "history"),
    ("karma", "rebuild"): ("--book", "history"),
    ("events",): ("--book", "history"),
    ("positions", "close"): ("{folder}/close.jsonl",),
    ("convictions", "add"): ("{folder}/conviction.jsonl",),
    ("import", "jsonl"): ("{folder}/import.jsonl",),
    ("import", "freqtrade"): ("{folder}/export.json",),
}
OTHERS = [
    path
    for path, command in EVERY.items()
    if path not in ARGUMENTS
    and any("--json" in parameter.opts for parameter in command.params)
    and not any(parameter.required for parameter in command.params)
]


async def test_one_document_and_nothing_else(stack: StackProcess, history: list[Trade], tmp_path: Path) -> None:
    (tmp_path / "close.jsonl").write_text(jsonl(trades("json", 2)))
    (tmp_path / "import.jsonl").write_text(jsonl(trades("json-import", 2)) + "{not json\n")
    (tmp_path / "export.json").write_text('{"strategy": {"json": {"trades": []}}}')
    conviction = {"book": "json", "symbol": "X", "conviction_id": "c", "cycle_id": "y", "domain_scores": {"d": 0.5}}
    (tmp_path / "conviction.jsonl").write_text(json.dumps(conviction))
    tried = ARGUMENTS | dict.fromkeys(OTHERS, ())
    results = await asyncio.gather(
        *(
            stack.cli(*path, *(text.format(folder=tmp_path) for text in arguments), "--json")
            for path, arguments in tried.items()
        )
    )
    for path, result in zip(tried, results, strict=True):
        assert result.status == 0 or (result.status == 1 and path in OTHERS), (path, result)
        if result.status == 0 or result.out:
            assert isinstance(json.loads(result.out), dict | list), path
            assert result.out.endswith("\n"), path


async def test_of_a_book_that_nobody_knows(stack: StackProcess) -> None:
    book = ("--book", "nobody")
    outcomes, karma, events, summary, rebuilt = await asyncio.gather(
        stack.json("outcomes", *book),
        stack.json("karma", *book),
        stack.json("events", *book),
        stack.json("outcomes", "summary", *book),
        stack.cli("karma", "rebuild", *book, "--json"),
    )
    assert outcomes == karma == events == []
    assert summary["book"] == "nobody"
    assert (summary["count"], summary["wins"], summary["realized_pnl"]) == (0, 0, "0")
    assert summary["hit_rate"] is summary["hit_rate_low"] is summary["hit_rate_high"] is None
    assert isinstance(rebuilt.json(), dict)


async def test_tables_of_a_book_that_nobody_knows(stack: StackProcess) -> None:
    commands = (("outcomes",), ("karma",), ("events",), ("outcomes", "summary"))
    results = await asyncio.gather(*(stack.cli(*command, "--book", "nobody") for command in commands))
    for result in results:
        assert (result.status, result.err) == (0, "")
        assert len(result.out.splitlines()) == 1, result.out


async def test_a_reader_that_has_enough(stack: StackProcess, history: list[Trade]) -> None:
    """``| head``: neither a traceback nor a wrong sentence."""
    commands = ("outcomes --json", "events --json", "outcomes", "events")
    script = 'closeloop {} --book history | head -n 1; echo " ${{PIPESTATUS[0]}}"'
    results = await asyncio.gather(*(stack.shell(script.format(command)) for command in commands))
    for command, result in zip(commands, results, strict=True):
        assert result.err == "", command
        assert result.out.rsplit(" ", 1)[1].strip() == "0", command
