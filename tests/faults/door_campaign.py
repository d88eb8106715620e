"""Clients send messages while the database is restarted and the API is killed: each is on record once in the end.

``python -m tests.faults.door_campaign --items 100000`` tells what came of it; a test runs a small one.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.closes import message
from tests.faults.stack_process import StackProcess
from tests.waiting import eventually, until

CLIENTS = 8
PATIENCE_SECONDS = 600.0
BOOK = "door"


@dataclass
class Campaign:
    """What was answered: each id's last receipt, and what was not answered in the end."""

    items: int
    batch: int
    receipts: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)
    done: int = 0
    seconds: float = 0.0

    async def run(self, stack: StackProcess, seed: int) -> None:
        """Send everything, with two restarts of the database and two kills of the API on the way."""
        token = (stack.home / "api.token").read_text().strip()
        url = f"http://127.0.0.1:{stack.ports['api']}"
        began = time.monotonic()
        troubling = asyncio.create_task(self._trouble(stack, random.Random(seed)))
        async with httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30.0
        ) as client:
            await asyncio.gather(*(self._send(client, number) for number in range(CLIENTS)))
        await troubling
        self.seconds = time.monotonic() - began

    async def _trouble(self, stack: StackProcess, rng: random.Random) -> None:
        """A part is killed whenever another fifth has been answered; the supervisor starts it again."""
        parts = ["postgres", "api", "postgres", "api"]
        rng.shuffle(parts)
        for number, name in enumerate(parts, 1):
            await until(f"{number} fifths are answered", functools.partial(self._answered, number))
            killed = stack.child(name)
            killed.kill()
            self.troubles[name] += 1
            line = f"{name} "
            await stack.until_line(line, sum(one.startswith(line) for one in stack.lines))

    def _answered(self, fifths: int) -> bool:
        return self.done >= self.items * fifths // 5

    async def _send(self, client: httpx.AsyncClient, number: int) -> None:
        mine = range(number, self.items, CLIENTS)
        for begin in range(0, len(mine), self.batch):
            bodies = [_message(i) for i in mine[begin : begin + self.batch]]
            results = await self._until_answered(client, bodies)
            self.done += len(bodies)
            for body, one in zip(bodies, results, strict=True):
                self.receipts[one["status"]] += 1
                self.accepted[body["position_id"]] += one["status"] == "accepted"

    async def _until_answered(self, client: httpx.AsyncClient, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                answered = await client.post("/v1/positions", json=bodies)
                if answered.status_code == 202:
                    results: list[dict[str, Any]] = answered.json()["results"]
                    return results
                assert answered.status_code in (429, 503), (answered.status_code, answered.text[:500])
                await asyncio.sleep(float(answered.headers["retry-after"]))
            await asyncio.sleep(0.1)
        self.unanswered += [body["position_id"] for body in bodies]
        return [{"status": "unanswered"} for _ in bodies]

    async def settled(self, stack: StackProcess) -> None:
        """Wait until each close is attributed, and hold that everything is there once."""

        async def counts() -> dict[str, int]:
            [row] = await stack.sql(
                "SELECT (SELECT count(*) FROM positions WHERE book_id = $1) AS positions, "
                "(SELECT count(DISTINCT position_id) FROM positions WHERE book_id = $1) AS closes, "
                "(SELECT count(*) FROM inbox WHERE book_id = $1) AS inbox, "
                "(SELECT count(*) FROM attributions WHERE book_id = $1) AS attributions",
                BOOK,
            )
            return dict(row)

        sent = self.items - len(self.unanswered)
        expected = {"positions": sent, "closes": sent, "inbox": sent, "attributions": sent}
        found = await eventually(counts, lambda seen: seen == expected, PATIENCE_SECONDS)
        assert found == expected, found
        assert self.receipts["accepted"] + self.receipts["duplicate"] == sent, self.receipts
        assert max(self.accepted.values()) == 1
        assert len(self.unanswered) <= self.items // 1_000


def _message(number: int) -> dict[str, Any]:
    return message(BOOK, f"p-{number:06}", realized_pnl=str(number % 7 - 3))


async def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    stack = StackProcess(with_api=True)
    try:
        await stack.start()
        campaign = Campaign(wanted.items, wanted.batch)
        await campaign.run(stack, wanted.seed)
        await campaign.settled(stack)
        told = {
            "items": wanted.items,
            "clients": CLIENTS,
            "receipts": dict(campaign.receipts),
            "unanswered": len(campaign.unanswered),
            "killed": dict(campaign.troubles),
            "seconds": round(campaign.seconds, 1),
        }
        print(json.dumps(told))
    finally:
        await stack.close()


if __name__ == "__main__":
    asyncio.run(main())
