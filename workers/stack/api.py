"""The HTTP door of the local stack: an API process on a loopback port, and the token for local use."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from closeloop.models.errors import NotAuthenticated, NotOnRecord
from closeloop.models.tokens import Scope, TokenRequest
from closeloop.services import tokens
from closeloop.store.database import session_for
from closeloop.workers.stack.home import Home, StackError, write_private
from closeloop.workers.stack.process import Child, end_leftovers, until_up

USUAL_PORT = 8234
READY = "api ready"  # as api/server.py prints it
READY_WITHIN_SECONDS = 60
LOCAL = "local"
"""The name of the token for local use."""


class LocalApi:
    """One API process of a home."""

    def __init__(self, home: Home, port: int, temporal_address: str | None) -> None:
        """``temporal_address``: of a local server; None: the environment names one."""
        self._home = home
        self._port = port
        self._temporal_address = temporal_address

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def token_file(self) -> Path:
        """Holds the token for local use; only its owner can read it."""
        return self._home.path / "api.token"

    async def start(self) -> Child:
        """Start it and wait until it listens. Raises StackError."""
        await asyncio.to_thread(self.end_leftovers)
        env = dict(os.environ, CLOSELOOP_HOME=str(self._home.path))
        if self._temporal_address:
            env["TEMPORAL_ADDRESS"] = self._temporal_address
        child = await Child.spawn(
            "api",
            self._command(),
            log=self._home.logs / "api.log",
            stop_signal=signal.SIGTERM,
            env=env,
            folder=Path.cwd(),  # the settings may have paths relative to it
            pipe=True,
        )
        return await until_up(child, self._answer(child))

    def end_leftovers(self) -> None:
        """End an API that a killed run of this home left running."""
        command = self._command()[1:-1]  # whatever its port
        end_leftovers(lambda process: process.cmdline()[1:-1] == command)

    async def make_token(self, dsn: str) -> None:
        """Make the token for local use, unless the one in its file is valid."""
        async with session_for(dsn) as session:
            try:
                await tokens.authenticate(session, self.token_file.read_text().strip())
                return
            except (OSError, NotAuthenticated):
                pass
            try:
                await tokens.revoke(session, LOCAL)  # its file was lost, or is of another database
            except NotOnRecord:
                await session.rollback()
            made = await tokens.create(session, TokenRequest(name=LOCAL, scopes=list(Scope)))
        write_private(self.token_file, f"{made.token}\n")

    def _command(self) -> list[str]:
        return [
            *(sys.executable, "-P", "-m", "closeloop", "api", f"--home={self._home.path}"),
            f"--port={self._port}",
        ]

    async def _answer(self, api: Child) -> None:
        assert api.process.stdout is not None, "it was started with a pipe"
        try:
            line = await asyncio.wait_for(api.process.stdout.readline(), READY_WITHIN_SECONDS)
        except TimeoutError:
            raise StackError(f"The API did not answer within a minute: see {api.log}.") from None
        if line.strip().decode(errors="replace") != READY:
            await api.ended_within(10)
            raise StackError(f"The API did not start ({api.last_line() or api.how_it_ended}): see {api.log}.")
        self._draining = asyncio.create_task(api.process.stdout.read())  # a full pipe would hold it up


def usual_or_free_port() -> int:
    """The usual port, or another one that is free where something listens there."""
    for port in (USUAL_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StackError("No port is free for the API: choose one with --api-port.")
