"""The API process: ``closeloop api``."""

import asyncio
import contextlib
import ipaddress
import logging
import signal
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from closeloop.api.app import build_app
from closeloop.api.authentication import Tokens
from closeloop.api.door import Door
from closeloop.api.limits import Limiter, Rates
from closeloop.api.measures import Measures
from closeloop.api.memory import Memory
from closeloop.api.starting import Starter
from closeloop.gateways.presets import load_preset
from closeloop.store.database import sessions_of
from closeloop.workers.garbage import collect_rarely
from closeloop.workers.settings import Settings
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import SUBJECTS, connect_temporal_lazily, open_api_database

logger = logging.getLogger(__name__)

READY = "api ready"  # the line on stdout by which the supervisor knows that the door is open
HEADERS_SECONDS = 10.0
"""A connection on which no whole request has come for so many seconds is closed."""
MOST_CONNECTIONS = 1_000
MOST_HEADER_BYTES = 32 * 1024


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def run_api(settings: Settings, telemetry: Telemetry, host: str, port: int, announce: bool = True) -> None:
    """Serve until SIGINT or SIGTERM. Raises StackError and SettingsError with what to do where it cannot begin."""
    policy = settings.learning_policy()
    engine = open_api_database(settings)
    sessions = sessions_of(engine)
    client = await connect_temporal_lazily(settings, telemetry)
    limiter = Limiter(Rates(settings.api_reads_per_second, settings.api_items_per_second))
    door = Door(
        engine=engine,
        sessions=sessions,
        client=client,
        policy=policy,
        preset=load_preset(policy.weights.default_preset),
        subjects=SUBJECTS,
        limiter=limiter,
        tokens=Tokens(sessions, limiter),
        measures=Measures(sessions),
        starter=Starter(client),
        memory=Memory(),
    )
    config = uvicorn.Config(
        build_app(door, loopback=is_loopback(host)),
        host=host,
        port=port,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    server = _Server(config, announce)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    beside = [
        asyncio.create_task(work)
        for work in (door.tokens.record_uses(), door.measures.keep_flushing(), door.starter.keep_starting())
    ]
    collect_rarely()
    try:
        await server.serve()
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await door.measures.flush()
        await engine.dispose()


class _Server(uvicorn.Server):
    """Tells on stdout when it listens; its signals are ours."""

    def __init__(self, config: uvicorn.Config, announce: bool) -> None:
        super().__init__(config)
        self._announce = announce

    def stop(self) -> None:
        """End once the requests under way are answered."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """The process's own handlers stay."""
        yield

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self._announce and not self.should_exit:
            print(READY, flush=True)


class PatientProtocol(H11Protocol):
    """Closes a connection that does not bring a whole request's headers in time: uvicorn itself would wait for ever."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._begun: asyncio.TimerHandle | None = None
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Wait on, or no more: a request has begun."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        if self._begun is not None:
            self._begun.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self._begun is None:
            self._begun = self.loop.call_later(HEADERS_SECONDS, self._give_up)
        elif not waits and self._begun is not None:
            self._begun.cancel()
            self._begun = None

    def _give_up(self) -> None:
        self._begun = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()
