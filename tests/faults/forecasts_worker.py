"""A worker process with everything, for test_forecasts_killed.py and test_market_killed.py, which kill it."""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from closeloop.models.policy import LearningPolicy
from closeloop.store.database import open_engine
from closeloop.workers.wiring import build_market_worker
from tests.workers.own_worker import own_worker

READY = "ready"


async def main(address: str, namespace: str, dsn: str, folder: str, source: str, coingecko: str = "") -> None:
    client = await Client.connect(address, namespace=namespace, data_converter=pydantic_data_converter)
    engine = open_engine(dsn, pool_size=8)
    market = build_market_worker(
        client,
        engine,
        LearningPolicy(),
        binance_url=source,
        coingecko_url=coingecko,
        market="sources" if coingecko else "off",
        history=timedelta(hours=12),
    )
    async with own_worker(client, engine, Path(folder)), market:
        print(READY, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
