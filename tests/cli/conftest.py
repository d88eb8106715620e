"""One running stack for all tests of the commands; each test has books of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.stack_process import StackProcess
from tests.faults.trades import Trade, jsonl, trades


@pytest.fixture(scope="package")
async def stack() -> AsyncIterator[StackProcess]:
    stack = StackProcess()
    try:
        yield await stack.start()
    finally:
        await stack.close()


@pytest.fixture(scope="package")
async def history(stack: StackProcess, tmp_path_factory: pytest.TempPathFactory) -> list[Trade]:
    """Trades of book ``history``, imported."""
    rows = trades("history", 600)
    file = tmp_path_factory.mktemp("history") / "history.jsonl"
    file.write_text(jsonl(rows))
    report = await stack.json("import", "jsonl", file)
    assert report["books"]["history"]["attributed"] == len(rows)
    return rows


@pytest.fixture
async def no_stack(tmp_path: Path) -> AsyncIterator[StackProcess]:
    """A home in which nothing was ever started."""
    stack = StackProcess(tmp_path / "nothing here")
    yield stack
    await stack.close()
