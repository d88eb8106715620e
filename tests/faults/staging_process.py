"""Stages an import as ``closeloop import`` does, and waits in the middle of its input, for test_staging_killed.py."""

import asyncio
import sys
from collections.abc import Iterator

from closeloop.gateways.trades import FileRun, FileTrade, TradeFile
from closeloop.models.policy import ImportsPolicy
from closeloop.services import imports
from closeloop.services.imports import ImportSource
from closeloop.store.database import session_for
from closeloop.workers.settings import Settings
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import connect_temporal
from tests.closes import series

ROWS = 2_500
PAUSE_BEFORE = 2_100  # the first batch of 2,000 is committed by then


def source(book: str, pause: bool) -> ImportSource:
    """A file of 2,500 trades of one run; the same content, whether or not there is a pause in the middle."""

    def trades() -> Iterator[FileTrade]:
        for index, position in enumerate(series(book, ROWS)):
            if pause and index == PAUSE_BEFORE:
                print("waiting", flush=True)
                sys.stdin.readline()
            yield FileTrade(book, index, position.model_dump(mode="json", exclude_none=True))

    return imports.trades_source(TradeFile(trades(), {book: FileRun(run_id="r1")}), "freqtrade", "a.json")


async def main(dsn: str, book: str) -> None:
    settings = Settings.load()
    client = await connect_temporal(settings, Telemetry(settings))
    async with session_for(dsn) as session:
        await imports.begin(client, session, source(book, pause=True), ImportsPolicy())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
