"""``closeloop dev``: the whole stack in the foreground, its parts restarted when they die, stopped in order."""

import asyncio
import contextlib
import os
import pwd
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError

from closeloop import store
from closeloop.models.status import WorkerEnds
from closeloop.store.schema import SchemaNewer
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.schedules import apply_schedules
from closeloop.workers.settings import Settings, SettingsError
from closeloop.workers.stack.api import LocalApi, usual_or_free_port
from closeloop.workers.stack.home import Home, StackError, StackState
from closeloop.workers.stack.neighbours import note_about, people_beside
from closeloop.workers.stack.postgres import LocalPostgres
from closeloop.workers.stack.process import Child, check_port
from closeloop.workers.stack.temporal import LocalTemporal
from closeloop.workers.stack.worker import LocalWorker
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import connect_temporal

# A server that ends so often within so many seconds is not started again: the stack stops with the reason. A worker is
# started again for ever (worker.py): nothing depends on it but the work.
MAX_ENDS = 5
ENDS_WINDOW_SECONDS = 60

LOGS_EVERY_SECONDS = 30  # how often the sizes of logs are looked at

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ports:
    """Loopback ports of the parts. ``api`` None: its usual one, or another where that is taken."""

    temporal: int = 7233
    ui: int = 8233
    postgres: int = 15432
    api: int | None = None


@dataclass
class _Part:
    """A part of the stack. ``died``: when it ended lately (s, monotonic clock)."""

    name: str
    start: Callable[[], Awaitable[Child]]
    child: Child
    died: list[float]


class LocalStack:
    """PostgreSQL, Temporal and a worker under one home. What the environment names elsewhere is used, not started."""

    def __init__(
        self, settings: Settings, ports: Ports, say: Say, with_worker: bool = True, with_api: bool = True
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._say = say
        self._with_worker = with_worker
        self._with_api = with_api
        self._home = Home(settings.home)
        self._parts: list[_Part] = []
        self._worker: LocalWorker | None = None
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
                self._note_others()
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
                self._home,
                self._ports.temporal,
                self._ports.ui,
                settings.temporal().get("namespace", "default"),
                timedelta(days=settings.temporal_retention_days),
            )
        )
        ports = self._ports
        named = [port for port in (ports.temporal, ports.ui, ports.postgres, ports.api) if port is not None]
        if len(set(named)) < len(named):
            raise StackError(
                "Each part needs a port of its own: --temporal-port, --ui-port, --postgres-port and --api-port must "
                "differ."
            )
        await asyncio.to_thread(self._clear, postgres, temporal)
        if postgres:
            check_port(self._ports.postgres, "--postgres-port")
        if temporal:
            check_port(self._ports.temporal, "--temporal-port")
            check_port(self._ports.ui, "--ui-port")
        if self._with_api and ports.api is not None:
            check_port(ports.api, "--api-port")

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
            api_url=None,
        )
        self._home.save(self.state)
        client = await self._connect(temporal)
        await register_search_attributes(client)
        schedules = await apply_schedules(client, settings.market)
        self._say(f"schedules {', '.join(schedules)}")
        address = temporal.address if temporal else None
        if self._with_worker:
            self._worker = LocalWorker(self._home, self._say, address)
        opening = asyncio.create_task(self._open_door(dsn, address)) if self._with_api else None
        try:
            if self._worker:
                await self._worker.start()
            if opening:
                await opening
        finally:
            if opening and not opening.done():
                opening.cancel()
                await asyncio.wait((opening,))

    async def _open_door(self, dsn: str, temporal_address: str | None) -> None:
        api = LocalApi(self._home, self._ports.api or usual_or_free_port(), temporal_address)
        await api.make_token(dsn)
        await self._add("api", api.start)
        assert self.state is not None, "it was set before"
        self.state = self.state.model_copy(update={"api_url": api.url})
        self._home.save(self.state)
        self._say(f"api       up on {api.url}, a token for this machine in {api.token_file}")

    @property
    def worker_ends(self) -> WorkerEnds | None:
        """Tells of the worker's last end, while it has not run well since."""
        return self._worker.ends if self._worker else None

    async def stop(self) -> None:
        """Stop every part, the last started first."""
        if self._worker:
            await self._worker.stop()
        while self._parts:
            part = self._parts.pop()
            await part.child.stop()

    async def _add(self, name: str, start: Callable[[], Awaitable[Child]]) -> None:
        self._parts.append(_Part(name, start, await start(), []))

    def _clear(self, postgres: LocalPostgres | None, temporal: LocalTemporal | None) -> None:
        """End what a killed run of this home left running, before its ports are looked at."""
        LocalWorker(self._home, self._say, None).end_leftovers()
        LocalApi(self._home, 0, None).end_leftovers()
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

    async def _watch(self) -> None:
        """Start parts again that end, each on its own; raises StackError once a server ends again and again."""
        watching = [asyncio.create_task(self._keep(part)) for part in self._parts]
        watching.append(asyncio.create_task(self._rotate_logs()))
        if self._worker:
            watching.append(asyncio.create_task(self._worker.keep()))
        try:
            done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in watching:
                task.cancel()
            await asyncio.wait(watching)

    async def _keep(self, part: _Part) -> None:
        while True:
            await part.child.process.wait()
            while not part.child.running:
                await self._restart(part)

    async def _rotate_logs(self) -> None:
        while True:
            for part in self._parts:
                await asyncio.to_thread(part.child.rotate_log)
            if self._worker:
                await asyncio.to_thread(self._worker.rotate_log)
            await asyncio.sleep(LOGS_EVERY_SECONDS)

    async def _restart(self, part: _Part) -> None:
        now = time.monotonic()
        part.died = [t for t in part.died if now - t < ENDS_WINDOW_SECONDS] + [now]
        if len(part.died) >= MAX_ENDS:
            raise StackError(f"The {part.name} ended five times within a minute: see {part.child.log}.")
        self._say(f"{part.name:<9} ended ({part.child.how_it_ended}): starting it again")
        await asyncio.sleep(0.5 * len(part.died))
        try:
            part.child = await part.start()
        except StackError as error:
            self._say(f"{part.name:<9} {error}")
        else:
            self._say(f"{part.name:<9} up again")

    def _note_others(self) -> None:
        """Say once where others can reach the Temporal that was started here, and nothing keeps them from deciding."""
        if not any(part.name == "temporal" for part in self._parts):
            return
        with contextlib.suppress(SettingsError):  # the worker says what is wrong with the policy
            if self._settings.learning_policy().approvals.require_token:
                return
        if note := note_about(people_beside(pwd.getpwall(), os.getuid())):
            self._say(note)

    def _ready_line(self) -> str:
        state = self.state
        assert state is not None, "start() has run"
        ui = f"Temporal UI {state.ui_url}, " if state.ui_url else ""
        api = f"API {state.api_url}, " if state.api_url else ""
        where = f"{api}{ui}Temporal {state.temporal_address}, PostgreSQL: see 'closeloop db url'"
        line = f"ready     {where}. Ctrl-C stops it."
        return f"{line} No worker runs yet: it is tried again." if self.worker_ends else line


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
