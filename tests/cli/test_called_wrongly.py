"""Exit status 2, and what was wrong, for a command that was called wrongly."""

import asyncio
from pathlib import Path

import pytest

from tests.faults.stack_process import StackProcess

WRONG: dict[str, tuple[str, ...]] = {
    "No such option": ("outcomes", "--colour"),
    "No such command": ("harvest",),
    "--last": ("events", "--last", "0"),
    "--book": ("outcomes", "summary"),
    "Missing argument": ("positions", "close"),
    "--temporal-port": ("dev", "--temporal-port", "65536"),
    "--postgres-port": ("dev", "--postgres-port", "none"),
}


async def test_options(no_stack: StackProcess) -> None:
    results = await asyncio.gather(*(no_stack.cli(*arguments) for arguments in WRONG.values()))
    for needle, result in zip(WRONG, results, strict=True):
        assert (result.status, result.out) == (2, ""), result
        assert needle in result.err
        assert "Traceback" not in result.err


FILES = (("positions", "close"), ("convictions", "add"), ("import", "jsonl"), ("import", "freqtrade"))


@pytest.mark.parametrize("what", ["missing", "folder"])
async def test_files(no_stack: StackProcess, what: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    results = await asyncio.gather(*(no_stack.cli(*command, tmp_path / what) for command in FILES))
    for command, result in zip(FILES, results, strict=True):
        # freqtrade's results lie in a folder that says which is the latest; this one says nothing.
        read = command == ("import", "freqtrade") and what == "folder"
        assert (result.status, result.out) == (1 if read else 2, ""), result
        assert (".last_result.json" in result.err) is read
        assert str(tmp_path / what) in result.err.replace("\n", "")
        assert "Traceback" not in result.err


async def test_names_of_books(stack: StackProcess, tmp_path: Path) -> None:
    export = tmp_path / "export.json"
    export.write_text('{"strategy": {"s": {"trades": []}}}')
    results = await asyncio.gather(
        stack.cli("import", "freqtrade", export, "--book", "bad name"),
        stack.cli("import", "freqtrade", export, "--book", ""),
        stack.cli("karma", "rebuild", "--book", "bad name"),
    )
    for result in results:
        assert (result.status, result.out) == (2, ""), result
        assert "book" in result.err
        assert "Traceback" not in result.err
