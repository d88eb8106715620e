"""An API process of a test's own on the tests' database, and requests to it with the standard library."""

import asyncio
import contextlib
import http.client
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from closeloop.models.tokens import Scope, TokenRequest
from closeloop.services import tokens
from closeloop.store.database import Sessions, open_engine, sessions_of
from closeloop.workers.stack.api import READY
from tests.ports import reserve_ports


@dataclass
class Answered:
    """An answer: its status, its headers in lower case, its JSON or else its text."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def fields(self) -> list[str]:
        """Of a problem document: the fields that it names."""
        return [error["field"] for error in self.body["errors"]]


@dataclass
class ApiProcess:
    """``closeloop api`` on a port of its own."""

    port: int
    sessions: Sessions
    process: asyncio.subprocess.Process
    names: dict[str, str] = field(default_factory=dict)  # of tokens, by what they are

    async def token(self, *scopes: Scope, books: list[str] | None = None, seconds: float | None = None) -> str:
        """A new token; ``seconds``: for how long it is valid."""
        expires = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
        wanted = TokenRequest(name=f"t-{uuid.uuid4().hex[:8]}", scopes=list(scopes), books=books, expires_at=expires)
        async with self.sessions() as session:
            made = await tokens.create(session, wanted)
        self.names[made.token] = made.name
        return made.token

    async def revoke(self, token: str) -> None:
        """Revoke it, beside the API."""
        async with self.sessions() as session:
            await tokens.revoke(session, self.names[token])

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        kind: str = "application/json",
    ) -> Answered:
        """Ask. ``body``: a JSON value, bytes as they are, or an iterable of bytes, which is sent in chunks."""
        return await asyncio.to_thread(self._ask, method, path, body, token, dict(headers or {}), kind)

    def _ask(
        self, method: str, path: str, body: Any, token: str | None, headers: dict[str, str], kind: str
    ) -> Answered:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = kind
            if isinstance(body, dict | list):
                body = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body=body, headers=headers)  # answered before it was read whole
            response = connection.getresponse()
            text = response.read().decode()
            found = {name.lower(): value for name, value in response.getheaders()}
            try:
                answered = Answered(response.status, found, json.loads(text))
            except ValueError:
                answered = Answered(response.status, found, text)
        finally:
            connection.close()
        return answered

    async def stop(self) -> None:
        """End it."""
        if self.process.returncode is None:
            self.process.terminate()
        await self.process.wait()


async def start_api(dsn: str, home: str, port: int | None = None, **env: str) -> ApiProcess:
    """Start one and wait until it listens; Temporal is the one of the home."""
    port = port or reserve_ports(1)[0]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "closeloop", "api", f"--home={home}", f"--port={port}"),
        stdout=asyncio.subprocess.PIPE,
        env=dict(os.environ, DATABASE_URL=dsn, **env),
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).decode().strip() == READY
    return ApiProcess(port, sessions_of(open_engine(dsn, pool_size=2)), process)


def chunks(raw: bytes, size: int = 65_536) -> Iterable[bytes]:
    """Bytes in pieces, which are sent without a length."""
    return iter([raw[begin : begin + size] for begin in range(0, len(raw), size)])


@contextlib.asynccontextmanager
async def api_on(dsn: str, home: str, **env: str) -> AsyncIterator[ApiProcess]:
    """An API process, for as long as the block."""
    api = await start_api(dsn, home, **env)
    try:
        yield api
    finally:
        await api.stop()
