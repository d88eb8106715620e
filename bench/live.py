"""Live closes against empty workflows: the same server, the same worker process, in turns."""

import asyncio
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from temporalio.client import Client

from bench.closes import closes
from bench.empty import QUEUE, EmptyWorkflow
from closeloop.models.positions import ClosedPosition
from closeloop.services.positions import start_close

IN_FLIGHT = 20
ROUNDS = 6
A_ROUND = 120


@dataclass
class Timing:
    """Rates of the rounds (per second) and latencies of the runs (seconds)."""

    rates: list[float]
    latencies: list[float]

    def line(self, name: str) -> str:
        """For the report."""
        ranked = sorted(self.latencies)
        p50, p99 = ranked[len(ranked) // 2], ranked[int(len(ranked) * 0.99)]
        rate = statistics.median(self.rates)
        return f"  {name:<24} {rate:7.1f}/s   p50 {p50 * 1000:6.0f} ms   p99 {p99 * 1000:6.0f} ms"


async def live(client: Client) -> float:
    """Print both rates; returns closes / empty (median over rounds, each round compared with its neighbour)."""
    ours, empty = Timing([], []), Timing([], [])
    run = uuid.uuid4().hex[:8]
    positions = closes(f"bench-{run}", (ROUNDS + 1) * A_ROUND)
    for number in range(ROUNDS + 1):
        batch = positions[number * A_ROUND : (number + 1) * A_ROUND]
        warm_up = number == 0
        for timing, jobs in ((empty, _empties(client, f"{run}-{number}")), (ours, _closes(client, batch))):
            started = time.perf_counter()
            latencies = await _in_flight(jobs)
            if not warm_up:
                timing.rates.append(A_ROUND / (time.perf_counter() - started))
                timing.latencies += latencies
    print(f"Live closes, {IN_FLIGHT} in flight, {ROUNDS} rounds of {A_ROUND} in turns with empty workflows")
    print(empty.line("empty workflow"))
    print(ours.line("PositionCloseWorkflow"))
    return statistics.median(o / e for o, e in zip(ours.rates, empty.rates, strict=True))


def _empties(client: Client, run: str) -> list[Callable[[], Awaitable[object]]]:
    def job(number: int) -> Callable[[], Awaitable[object]]:
        return lambda: client.execute_workflow(EmptyWorkflow.run, id=f"bench-empty/{run}/{number}", task_queue=QUEUE)

    return [job(number) for number in range(A_ROUND)]


def _closes(client: Client, positions: Sequence[ClosedPosition]) -> list[Callable[[], Awaitable[object]]]:
    async def one(position: ClosedPosition) -> object:
        return await (await start_close(client, position)).result()

    return [lambda p=position: one(p) for position in positions]  # type: ignore[misc]


async def _in_flight(jobs: Sequence[Callable[[], Awaitable[object]]]) -> list[float]:
    turnstile = asyncio.Semaphore(IN_FLIGHT)

    async def timed(job: Callable[[], Awaitable[object]]) -> float:
        async with turnstile:
            started = time.perf_counter()
            await job()
            return time.perf_counter() - started

    return list(await asyncio.gather(*(timed(job) for job in jobs)))
