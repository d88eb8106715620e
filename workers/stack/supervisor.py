"""``closeloop dev``: the whole stack in the foreground, its parts restarted when they die, stopped in order."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError

from closeloop import store
from closeloop.store.schema import SchemaNewer
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.schedules import apply_schedules
from closeloop.workers.settings import Settings
from closeloop.workers.stack.home import Home, StackError, StackState
from closeloop.workers.stack.postgres import LocalPostgres
from closeloop.workers.stack.process import Child, check_port, end_leftovers, until_up
from closeloop.workers.stack.temporal import LocalTemporal
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import connect_temporal
from closeloop.workers.worker import READY

# A part that ends so often within so many seconds is not started again: the stack stops with the reason.
MAX_ENDS = 5
ENDS_WINDOW_SECONDS = 60

LOGS_EVERY_SECONDS = 30  # how often the sizes of logs are looked at

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ports:
    """Loopback ports of the parts."""

    temporal: int = 7233
    ui: int = 8233
    postgres: int = 15432


@dataclass
class _Part:
    """A part of the stack. ``died``: when it ended lately (s, monotonic clock)."""

    name: str
    start: Callable[[], Awaitable[Child]]
    child: Child
    died: list[float]


class LocalStack:
    """PostgreSQL, Temporal and a worker under one home. What the environment names elsewhere is used, not started."""

    def __init__(self, settings: Settings, ports: Ports, say: Say, with_worker: bool = True) -> None:
        self._settings = settings
        self._ports = ports
        self._say = say
        self._with_worker = with_worker
        self._home = Home(settings.home)
        self._parts: list[_Part] = []
        self.state: StackState | None = None

    async def run(self, stop: asyncio.Event, ready: asyncio.Event | None = None) -> None:
        """Start, watch until ``stop``, and stop; ``ready`` is set in between. Raises StackError."""
        self._home.create()
        with self._home.claimed():
            try:
                starting = asyncio.create_task(self.start())
                if not await _unless(stop, starting):
                    return
                starting.result()
                self._say(self._ready_line())
                if ready:
                    ready.set()
                watching = asyncio.create_task(self._watch())
                if await _unless(stop, watching):
                    watching.result()
            finally:
                await self.stop()

    async def start(self) -> None:
        """Bring every part up, a line each. The caller holds the home."""
        settings = self._settings
        postgres = None if settings.database_url else LocalPostgres(self._home, self._ports.postgres)
        external = await self._reachable_temporal()
        temporal = (
            None
            if external
            else LocalTemporal(
                self._home, self._ports.temporal, self._ports.ui, settings.temporal().get("namespace", "default")
            )
        )
        ports = self._ports
        if len({ports.temporal, ports.ui, ports.postgres}) < 3:
            raise StackError(
                "Each part needs a port of its own: --temporal-port, --ui-port and --postgres-port must differ."
            )
        await asyncio.to_thread(self._clear, postgres, temporal)
        if postgres:
            check_port(self._ports.postgres, "--postgres-port")
        if temporal:
            check_port(self._ports.temporal, "--temporal-port")
            check_port(self._ports.ui, "--ui-port")

        if postgres:
            await self._add("postgres", postgres.start)
            self._say(f"postgres  up on 127.0.0.1:{self._ports.postgres}, data in {postgres.data}")
        else:
            self._say("postgres  the one in DATABASE_URL")
        dsn = settings.database_url or (postgres.dsn if postgres else "")
        before, after = await _upgrade(dsn)
        self._say(f"schema    at {after}" + ("" if before == after else f" (was {before or 'empty'})"))

        if temporal:
            await self._add("temporal", temporal.start)
            self._say(f"temporal  up on {temporal.address}, UI on {temporal.ui_url}")
        else:
            self._say(f"temporal  the one at TEMPORAL_ADDRESS, {external}")
        self.state = StackState(
            pid=os.getpid(),
            temporal_address=temporal.address if temporal else str(external),
            temporal_namespace=settings.temporal().get("namespace", "default"),
            ui_url=temporal.ui_url if temporal else None,
            database_url=dsn,
            postgres_data=str(postgres.data) if postgres else None,
        )
        self._home.save(self.state)
        client = await self._connect(temporal)
        await register_search_attributes(client)
        schedules = await apply_schedules(client)
        self._say(f"schedules {', '.join(schedules)}")
        if self._with_worker:
            await self._add("worker", self._start_worker)
            self._say(f"worker    polling, logs in {self._home.logs / 'worker.log'}")

    async def stop(self) -> None:
        """Stop every part, the last started first."""
        while self._parts:
            part = self._parts.pop()
            await part.child.stop()

    async def _add(self, name: str, start: Callable[[], Awaitable[Child]]) -> None:
        self._parts.append(_Part(name, start, await start(), []))

    def _clear(self, postgres: LocalPostgres | None, temporal: LocalTemporal | None) -> None:
        """End what a killed run of this home left running, before its ports are looked at."""
        command = _worker_command(self._home)[1:]
        end_leftovers(lambda process: process.cmdline()[1:] == command)
        if temporal:
            temporal.end_leftovers()
        if postgres:
            postgres.end_leftovers()

    async def _reachable_temporal(self) -> str | None:
        config = self._settings.temporal()
        address = config.get("target_host")
        if not address:
            return None
        try:
            await Client.connect(**config)
        except (RuntimeError, RPCError):
            self._say(f"temporal  nothing answers at TEMPORAL_ADDRESS {address}: starting one here")
            self._say("          (unset TEMPORAL_ADDRESS, or other commands will look for it there)")
            return None
        return address

    async def _connect(self, temporal: LocalTemporal | None) -> Client:
        if temporal:  # whatever TEMPORAL_ADDRESS says: nothing answered there
            return await Client.connect(
                temporal.address, namespace=temporal.namespace, data_converter=pydantic_data_converter
            )
        return await connect_temporal(
            self._settings, Telemetry(self._settings.model_copy(update={"otlp_endpoint": None}))
        )

    async def _start_worker(self) -> Child:
        env = dict(os.environ, CLOSELOOP_HOME=str(self._home.path))
        if self.state and self.state.ui_url:
            env["TEMPORAL_ADDRESS"] = self.state.temporal_address
        child = await Child.spawn(
            "worker",
            _worker_command(self._home),
            log=self._home.logs / "worker.log",
            stop_signal=signal.SIGTERM,
            env=env,
            folder=Path.cwd(),  # the settings may have paths relative to it
            pipe=True,
        )
        return await until_up(child, self._answer(child))

    async def _answer(self, worker: Child) -> None:
        assert worker.process.stdout is not None, "it was started with a pipe"
        try:
            line = await asyncio.wait_for(worker.process.stdout.readline(), 60)
        except TimeoutError:
            line = b""
        if line.strip().decode() != READY:
            raise StackError(f"The worker did not start ({worker.end_of_log()}): see {worker.log}.")
        # Read on: once the pipe is full, a worker that prints would wait for ever.
        self._draining = asyncio.create_task(worker.process.stdout.read())

    async def _watch(self) -> None:
        """Restart a part that ended; give up on one that ends again and again."""
        while True:
            waits = {asyncio.create_task(part.child.process.wait()): part for part in self._parts}
            try:
                await asyncio.wait(waits, timeout=LOGS_EVERY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            for part in self._parts:
                await asyncio.to_thread(part.child.rotate_log)
                while not part.child.running:
                    await self._restart(part)

    async def _restart(self, part: _Part) -> None:
        now = time.monotonic()
        part.died = [t for t in part.died if now - t < ENDS_WINDOW_SECONDS] + [now]
        if len(part.died) >= MAX_ENDS:
            raise StackError(f"The {part.name} ended five times within a minute: see {part.child.log}.")
        self._say(f"{part.name:<9} ended with status {part.child.process.returncode}: starting it again")
        await asyncio.sleep(0.5 * len(part.died))
        try:
            part.child = await part.start()
        except StackError as error:
            self._say(f"{part.name:<9} {error}")
        else:
            self._say(f"{part.name:<9} up again")

    def _ready_line(self) -> str:
        state = self.state
        assert state is not None, "start() has run"
        ui = f"Temporal UI {state.ui_url}, " if state.ui_url else ""
        return f"ready     {ui}Temporal {state.temporal_address}, PostgreSQL: see 'closeloop db url'. Ctrl-C stops it."


def _worker_command(home: Home) -> list[str]:
    """How the worker of this home is started, and recognised among processes after its supervisor was killed."""
    return [sys.executable, "-P", "-m", "closeloop", "worker", f"--home={home.path}"]


async def _unless(stop: asyncio.Event, task: "asyncio.Task[None]") -> bool:
    """Wait for the task; False if ``stop`` came first (the task is then cancelled and over)."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((stopped, task), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        stopped.cancel()
        return True
    task.cancel()
    await asyncio.wait((task,))
    return False


async def _upgrade(dsn: str) -> tuple[str | None, str]:
    try:
        return await store.schema.upgrade(dsn)
    except SchemaNewer as error:
        raise StackError(str(error)) from None
    except OSError as error:
        raise StackError(
            f"The database in DATABASE_URL does not answer ({error}): start it, or unset DATABASE_URL."
        ) from None
