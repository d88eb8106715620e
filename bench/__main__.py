"""``make bench``: start a stack of its own, measure, print ratios beside what they should be."""

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

import psutil

from bench.bulk import bulk, memory
from bench.door import door
from bench.forecasts import forecasts
from bench.live import live
from bench.market import engine_rate, live_tick
from bench.market_levers import levers
from bench.mining import mining
from bench.patterns import match
from bench.ports import free_port
from bench.repeats import repeats
from closeloop.store.database import sessions_of
from closeloop.workers.addresses import database_url
from closeloop.workers.settings import Settings
from closeloop.workers.stack.supervisor import LocalStack, Ports
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import connect_temporal, open_database

LARGE_BOOK = "bench-large"


def _verdict(name: str, figure: float, target: float, unit: str = "times", at_least: bool = True) -> None:
    met = figure >= target if at_least else figure <= target
    wanted = "at least" if at_least else "at most"
    print(f"{'met ' if met else 'MISSED'}  {name}: {figure:.2f} {unit} ({wanted} {target:g})")


async def main() -> None:
    """Everything, in one run."""
    folder = Path(tempfile.mkdtemp(prefix="closeloop-bench-"))
    folder.chmod(0o755)
    settings = Settings.load(folder).model_copy(update={"database_url": None, "otlp_endpoint": None})
    stack = LocalStack(
        settings,
        Ports(free_port(), free_port(), free_port()),
        lambda line: None,
        with_worker=False,
        with_api=False,
    )
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(stack.run(stop, ready))
    await asyncio.wait((running, asyncio.create_task(ready.wait())), return_when=asyncio.FIRST_COMPLETED)
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.worker",
        env=dict(os.environ, CLOSELOOP_HOME=str(folder)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert worker.stdout is not None
        await worker.stdout.readline()
        client = await connect_temporal(settings, Telemetry(settings))
        engine = open_database(settings)
        live_ratio = await live(client)
        imports = await bulk(client, sessions_of(engine), database_url(settings))
        before, highest = await memory(client, sessions_of(engine), psutil.Process(worker.pid), LARGE_BOOK)
        again = await repeats(sessions_of(engine), LARGE_BOOK)
        loop = await forecasts(sessions_of(engine), database_url(settings))
        match_p99, scan_ratio = await match(sessions_of(engine))
        http = await door(client, sessions_of(engine), folder)
        given = await levers(sessions_of(engine))
        mined = await asyncio.to_thread(mining)
        market = await live_tick(sessions_of(engine))
        million = await asyncio.to_thread(engine_rate)
        await engine.dispose()
        print()
        _verdict("live closes with all learners / empty workflows", live_ratio, 0.8)
        _verdict("backfill / COPY of its rows", imports.of_copy, 0.4)
        _verdict("backfill / loop of transactions", imports.of_loop, 5)
        _verdict("backfill", imports.per_second, 2000, "positions/s")
        _verdict("worker's memory at most", highest, 400, "MiB", at_least=False)
        _verdict("worker's memory during an import / before", highest / before, 2, at_least=False)
        _verdict("forecasts resolved / COPY of their rows", loop.of_copy, 0.4)
        _verdict("forecasts resolved / row by row", loop.bulk_ratio, 15)
        _verdict("100,000 due forecasts", loop.bulk_seconds, 20, "s", at_least=False)
        _verdict("1,000 due beside a million / alone", loop.beside_history, 1.5, at_least=False)
        _verdict("performance / plain Python", loop.from_scratch_ratio, 4)
        _verdict("performance of a million outcomes", loop.from_scratch_seconds, 10, "s", at_least=False)
        _verdict("memory of performance of a million outcomes", loop.memory_mib, 500, "MiB", at_least=False)
        _verdict("performance after 1,000 more outcomes", loop.brought_up_to_date_seconds, 1, "s", at_least=False)
        _verdict("match, 10,000 overrides, p99 in the database", match_p99, 5, "ms", at_least=False)
        _verdict("scan in Python / match", scan_ratio, 1)
        _verdict("100,000 closes by POST / import of the same", http.of_import, 0.7)
        _verdict("single closes by POST / by Temporal's door", http.of_temporal, 5)
        _verdict("304s / a bare FastAPI route", http.of_bare, 0.5)
        _verdict("overrides:match at 200/s, p99", http.match_p99, 20, "ms", at_least=False)
        _verdict("the client's put, p99", http.put_p99, 1, "ms", at_least=False)
        _verdict("the client's read from memory", http.cached_us, 20, "us", at_least=False)
        _verdict("levers of 1,000 tokens", given.milliseconds, 20, "ms", at_least=False)
        _verdict("levers of 1,000 tokens one by one / in one go", given.one_by_one, 10)
        _verdict("first pass of mining / pandas", mined.ratio, 30)
        _verdict("mining of 100,000 trades", mined.seconds, 60, "s", at_least=False)
        _verdict("memory of mining 100,000 trades", mined.mebibytes, 2048, "MiB", at_least=False)
        _verdict("trades read for mining, looked for repeats / not", again.reading, 1.5, at_least=False)
        _verdict("closes attributed and looked for / attributed", again.attributing, 1.2, at_least=False)
        _verdict("mining ten times the trades / the trades, processor time", mined.growth, 10, at_least=False)
        _verdict("a live tick of the market's 24 series", market.tick, 60, "ms", at_least=False)
        _verdict("a million minutes / the whole series at each bar", million.ratio, 50)
        _verdict("a million minutes through the engine", million.seconds, 20, "s", at_least=False)
        _verdict("memory of a million minutes", million.mebibytes, 1024, "MiB", at_least=False)
    finally:
        worker.terminate()
        await worker.wait()
        stop.set()
        await running
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.flush()
    os._exit(0)
