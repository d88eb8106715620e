"""Commands without a stack say what to do: one sentence, exit status 1."""

import asyncio
import json
from pathlib import Path

from tests.cli.test_positions import close
from tests.faults.stack_process import StackProcess
from tests.ports import reserve_ports

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("outcomes",),
    ("outcomes", "--json"),
    ("outcomes", "summary", "--book", "b"),
    ("karma", "--json"),
    ("karma", "rebuild"),
    ("events", "--json"),
    ("lessons", "list"),
    ("lessons", "build"),
    ("overrides", "list", "--json"),
    ("overrides", "materialize"),
    ("overrides", "match", "--pattern", "k", "--action", "entry"),
    ("coefficients",),
    ("db", "upgrade"),
    ("schedules", "apply"),
    ("search-attributes", "apply"),
    ("positions", "close", "-"),
    ("import", "jsonl", "-", "--json"),
)


async def _assert_each_says_what_to_do(stack: StackProcess, commands: tuple[tuple[str, ...], ...] = COMMANDS) -> None:
    line = json.dumps(close("b"))
    results = await asyncio.gather(*(stack.cli(*command, stdin=line) for command in commands))
    for command, result in zip(commands, results, strict=True):
        assert "closeloop dev" in result.sentence(), command
        assert result.out == "", command


async def test_in_a_home_without_a_stack(no_stack: StackProcess) -> None:
    await _assert_each_says_what_to_do(no_stack, (*COMMANDS, ("db", "url"), ("worker",)))
    assert not no_stack.home.exists()


async def test_status_without_a_stack(no_stack: StackProcess) -> None:
    status, text = await asyncio.gather(no_stack.cli("status", "--json"), no_stack.cli("status"))
    assert status.status == 1
    report = status.json()
    assert report["up"] is report["stack_running"] is False
    assert all(report[name]["up"] is False for name in ("postgres", "schema", "temporal", "worker"))
    assert text.status == 1
    assert "closeloop dev" in text.out
    assert "Traceback" not in text.err
    assert not no_stack.home.exists()


async def test_in_a_home_whose_stack_is_down(tmp_path: Path) -> None:
    stack = StackProcess(tmp_path)
    temporal, ui, postgres = reserve_ports(3)
    state = {
        "pid": 1,
        "temporal_address": f"127.0.0.1:{temporal}",
        "ui_url": f"http://127.0.0.1:{ui}",
        "database_url": f"postgresql://closeloop:secret@127.0.0.1:{postgres}/closeloop",
        "postgres_data": str(tmp_path / "postgres"),
    }
    (tmp_path / "stack.json").write_text(json.dumps(state))
    try:
        await _assert_each_says_what_to_do(stack)
        status = await stack.cli("status", "--json")
        assert status.status == 1
        assert status.json()["up"] is False
        (tmp_path / "stack.json").write_text("{")
        assert "stack.json" in (await stack.cli("outcomes")).sentence()
    finally:
        await stack.close()
