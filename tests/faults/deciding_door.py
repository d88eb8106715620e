"""A door that decides with the token that it reads from stdin, for test_tokens_killed.py, which kills it."""

import asyncio
import sys

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from closeloop.models.weights import WeightsVerdict
from closeloop.services import weights
from closeloop.store.database import open_engine, sessions_of


async def main(address: str, namespace: str, dsn: str, cycle_id: str) -> None:
    client = await Client.connect(address, namespace=namespace, data_converter=pydantic_data_converter)
    sessions = sessions_of(open_engine(dsn, pool_size=1))
    secret = sys.stdin.readline().strip()
    await weights.send_decision(client, sessions, cycle_id, WeightsVerdict.approve, "", "why", secret)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
