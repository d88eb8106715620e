"""The HTTP door against an import, Temporal's door and a bare route; matches at a steady rate; the client."""

import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import to_json
from sqlalchemy import text
from temporalio.client import Client, WorkflowHandle

from bench.closes import closes
from bench.patterns import DIMENSIONS, OVERRIDES, PATTERNS, VALUES, store_overrides
from bench.ports import free_port
from closeloop import store
from closeloop.models.positions import ClosedPosition
from closeloop.models.tokens import Scope, TokenRequest
from closeloop.services import tokens
from closeloop.services.positions import start_close
from closeloop.store.database import Sessions
from closeloop.workers.stack.api import READY

INGESTED = 100_000
A_BATCH = 500
SENDERS = 4
SINGLE_CONNECTIONS = 32
SINGLES = 2_000
ROUNDS = 5
POLLS = 2_000
MATCH_RATE = 200
MATCH_SECONDS = 60


@dataclass
class DoorFigures:
    """What was measured."""

    of_import: float
    of_temporal: float
    of_bare: float
    match_p99: float
    put_p99: float = 0.0
    cached_us: float = 0.0


class Connection:
    """A connection that is kept, and asks one thing after the other: nothing that a client library would add."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"

    async def open(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"", more: str = "") -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body."""
        kind = "Content-Type: application/json\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\n{self._head}{kind}{more}Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        status = int(lines[0].split()[1])
        rest = b"" if status == 304 else await self._reader.readexactly(int(headers.get("content-length", 0)))
        return status, headers, rest


@contextlib.asynccontextmanager
async def connections(port: int, token: str, number: int) -> AsyncIterator[list[Connection]]:
    """So many of them."""
    made = [Connection(port, token) for _ in range(number)]
    for one in made:
        await one.open()
    try:
        yield made
    finally:
        for one in made:
            one.close()


@contextlib.asynccontextmanager
async def process(*command: str, ready: str, **env: str) -> AsyncIterator[None]:
    """A process that says on stdout when it listens."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, env=dict(os.environ, **env), stdout=asyncio.subprocess.PIPE
    )
    assert running.stdout is not None
    assert (await running.stdout.readline()).decode().strip() == ready
    try:
        yield
    finally:
        running.terminate()
        await running.wait()


async def door(client: Client, sessions: Sessions, home: Path) -> DoorFigures:
    """Everything of the door, in turns with what it is compared with."""
    port, bare = free_port(), free_port()
    unlimited = {"CLOSELOOP_API_READS_PER_SECOND": "1000000", "CLOSELOOP_API_ITEMS_PER_SECOND": "1000000"}
    api = ("closeloop", "api", f"--home={home}", f"--port={port}")
    async with process(*api, ready=READY, **unlimited), process("bench.bare", str(bare), ready="bare"):
        async with sessions() as session:
            wanted = TokenRequest(name=f"bench-{uuid.uuid4().hex[:8]}", scopes=[Scope.ingest, Scope.read], books=None)
            token = (await tokens.create(session, wanted)).token
        figures = DoorFigures(
            of_import=await _ingest(sessions, home, port, token),
            of_temporal=await _singles(client, sessions, port, token),
            of_bare=await _polls(sessions, port, bare, token),
            match_p99=await _matches(sessions, port, token),
        )
        figures.put_p99, figures.cached_us = await _client(port, token)
        return figures


async def _ingest(sessions: Sessions, home: Path, port: int, token: str) -> float:
    run = uuid.uuid4().hex[:8]
    posted, imported = f"bench-{run}-posted", f"bench-{run}-imported"
    made = closes(posted, INGESTED, actions=False)
    bodies = [to_json(made[begin : begin + A_BATCH]) for begin in range(0, len(made), A_BATCH)]
    del made
    started = time.perf_counter()
    await _post(port, token, bodies)
    answered = time.perf_counter() - started
    await _until_attributed(sessions, posted, INGESTED)
    by_post = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "closes.jsonl"
        file.write_bytes(b"\n".join(to_json(close) for close in closes(imported, INGESTED, actions=False)))
        started = time.perf_counter()
        command = (sys.executable, "-m", "closeloop", "import", "jsonl", str(file))
        running = await asyncio.create_subprocess_exec(
            *command, env=dict(os.environ, CLOSELOOP_HOME=str(home)), stdout=asyncio.subprocess.DEVNULL
        )
        assert await running.wait() == 0
        by_import = time.perf_counter() - started
    for book in (posted, imported):
        assert await _attributed(sessions, book) == INGESTED, book
    print(f"The HTTP door: {INGESTED} closes in batches of {A_BATCH} by {SENDERS} senders, and an import of the same")
    print(f"  POST /v1/positions       {INGESTED / by_post:7.0f}/s until each is attributed")
    print(f"                           {INGESTED / answered:7.0f}/s until each is answered")
    print(f"  closeloop import jsonl   {INGESTED / by_import:7.0f}/s")
    return by_import / by_post


async def _until_attributed(sessions: Sessions, book: str, number: int) -> None:
    for _ in range(6_000):
        if await _attributed(sessions, book) == number:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError(f"closes of {book} were not attributed in ten minutes")


async def _attributed(sessions: Sessions, book: str) -> int:
    async with sessions() as session:
        counted = await session.execute(text("SELECT count(*) FROM attributions WHERE book_id = :book"), {"book": book})
        return int(counted.scalar_one())


async def _post(port: int, token: str, bodies: Sequence[bytes]) -> None:
    async with connections(port, token, SENDERS) as opened:

        async def send(one: Connection, number: int) -> None:
            for body in bodies[number::SENDERS]:
                status, _, answer = await one.ask("POST", "/v1/positions", body)
                assert status == 202, answer
                assert answer.count(b'"accepted"') == A_BATCH

        await asyncio.gather(*(send(one, number) for number, one in enumerate(opened)))


async def _singles(client: Client, sessions: Sessions, port: int, token: str) -> float:
    """One close a request against one a workflow, each until it is committed in PostgreSQL."""
    posts, started_rates, done_rates = [], [], []
    async with connections(port, token, SINGLE_CONNECTIONS) as opened:
        for number in range(ROUNDS):
            run = uuid.uuid4().hex[:8]
            few = SINGLES // 10
            by_temporal = closes(f"bench-{run}-t", few, number, actions=False)
            began = time.perf_counter()
            handles = await _start(client, by_temporal)
            started_rates.append(few / (time.perf_counter() - began))
            await asyncio.gather(*(handle.result() for handle in handles))
            done_rates.append(few / (time.perf_counter() - began))
            bodies = [to_json(close) for close in closes(f"bench-{run}-p", SINGLES, number, actions=False)]
            began = time.perf_counter()

            async def send(one: Connection, mine: list[bytes]) -> None:
                for body in mine:
                    status, _, answer = await one.ask("POST", "/v1/positions", body)
                    assert status == 202, answer

            await asyncio.gather(*(send(one, bodies[n::SINGLE_CONNECTIONS]) for n, one in enumerate(opened)))
            posts.append(SINGLES / (time.perf_counter() - began))
            # What follows from them is not measured with the next round.
            await _until_attributed(sessions, f"bench-{run}-p", SINGLES)
    print(f"Single closes, {SINGLE_CONNECTIONS} connections, {ROUNDS} rounds in turns")
    print(f"  POST, until committed    {statistics.median(posts):7.0f}/s")
    print(f"  Temporal, until started  {statistics.median(started_rates):7.0f}/s (nothing is in PostgreSQL yet)")
    print(f"  Temporal, until done     {statistics.median(done_rates):7.0f}/s")
    return statistics.median(post / done for post, done in zip(posts, done_rates, strict=True))


async def _start(client: Client, made: Sequence[ClosedPosition]) -> list[WorkflowHandle[object, object]]:
    turnstile = asyncio.Semaphore(SINGLE_CONNECTIONS)

    async def one(close: ClosedPosition) -> WorkflowHandle[object, object]:
        async with turnstile:
            return await start_close(client, close)

    return list(await asyncio.gather(*(one(close) for close in made)))


async def _polls(sessions: Sessions, port: int, bare: int, token: str) -> float:
    """304s of the weights in force, in turns with a route that does nothing."""
    async with sessions.begin() as session:
        await store.books.hold(session, "bench-polled")
    path = "/v1/weights?book=bench-polled"
    async with connections(port, token, SENDERS) as ours, connections(bare, token, SENDERS) as theirs:
        _, headers, _ = await ours[0].ask("GET", path)
        known = f"If-None-Match: {headers['etag']}\r\n"
        rates: dict[str, list[float]] = {"304": [], "bare": []}
        for _ in range(ROUNDS):
            for name, opened, asked, more in (("304", ours, path, known), ("bare", theirs, "/", "")):

                async def poll(one: Connection, asked: str = asked, more: str = more, wanted: str = name) -> None:
                    for _ in range(POLLS // SENDERS):
                        status, _, _ = await one.ask("GET", asked, more=more)
                        assert status == (304 if wanted == "304" else 200)

                began = time.perf_counter()
                await asyncio.gather(*(poll(one) for one in opened))
                rates[name].append(POLLS / (time.perf_counter() - began))
    print(f"Polling, {SENDERS} connections, {ROUNDS} rounds of {POLLS} in turns")
    print(f"  304 of /v1/weights       {statistics.median(rates['304']):7.0f}/s")
    print(f"  a bare FastAPI route     {statistics.median(rates['bare']):7.0f}/s")
    return statistics.median(ours / theirs for ours, theirs in zip(rates["304"], rates["bare"], strict=True))


async def _matches(sessions: Sessions, port: int, token: str) -> float:
    """p99 (ms) of overrides:match, each of another scope, at a steady rate; from when it was due to its answer."""
    book, rng = f"bench-{uuid.uuid4().hex[:8]}", random.Random(7)
    await store_overrides(sessions, book, PATTERNS, rng)
    times: list[float] = []
    free: asyncio.Queue[Connection] = asyncio.Queue()

    async def one(due: float, body: bytes) -> None:
        connection = await free.get()
        status, _, answer = await connection.ask("POST", "/v1/overrides:match", body)
        assert status == 200, answer
        times.append((time.perf_counter() - due) * 1e3)
        free.put_nowait(connection)

    async with connections(port, token, SENDERS * 4) as opened:
        for connection in opened:
            free.put_nowait(connection)
        began = time.perf_counter() + 0.1
        under_way = []
        for number in range(MATCH_RATE * MATCH_SECONDS):
            wanted = {
                "book": book,
                "pattern_key": f"p{rng.randrange(PATTERNS)}",
                "action_category": "entry",
                "scope": {name: f"v{rng.randrange(VALUES)}" for name in DIMENSIONS},
            }
            due = began + number / MATCH_RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            under_way.append(asyncio.create_task(one(due, to_json(wanted))))
        await asyncio.gather(*under_way)
    ranked = sorted(times)
    p50, p99 = ranked[len(ranked) // 2], ranked[int(len(ranked) * 0.99)]
    print(f"POST /v1/overrides:match of {OVERRIDES} overrides at {MATCH_RATE}/s for {MATCH_SECONDS} s")
    print(f"  p50 {p50:.2f} ms   p99 {p99:.2f} ms   largest {ranked[-1]:.1f} ms")
    return p99


async def _client(port: int, token: str) -> tuple[float, float]:
    """p99 (ms) of a put into the spool, and a read from memory (us), in a process as an engine's is."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.engine", str(port)),
        env=dict(os.environ, CLOSELOOP_TOKEN=token),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await running.communicate()
    assert running.returncode == 0
    told = json.loads(out)
    print(f"The client: {told['puts']} puts into the spool while it drains, {told['reads']} reads from memory")
    print(f"  a put p50 {told['p50']:.3f} ms   p99 {told['p99']:.3f} ms   largest {told['largest']:.1f} ms")
    print(f"  a read {told['cached']:.2f} us")
    return told["p99"], told["cached"]
