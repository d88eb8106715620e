"""One running stack for all tests of the commands; each test has books of its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.activities.test_prices import MARKETS
from tests.faults.stack_process import StackProcess
from tests.faults.trades import Trade, jsonl, trades
from tests.gateways.binance_server import BinanceServer


@pytest.fixture(scope="package")
def exchange() -> Iterator[BinanceServer]:
    """Where the stack's worker asks for prices."""
    with BinanceServer() as server:
        for asset, candles in MARKETS.items():
            server.add(asset, candles, 300)
        yield server


@pytest.fixture(scope="package")
async def stack(exchange: BinanceServer) -> AsyncIterator[StackProcess]:
    stack = StackProcess()
    try:
        yield await stack.start(CLOSELOOP_BINANCE_URL=exchange.url)
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
