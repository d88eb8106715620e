"""Through pgbouncer in transaction mode, where it is installed: many clients on few connections, nothing lost."""

import asyncio
import contextlib
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from closeloop.models.tokens import Scope
from closeloop.store.database import open_engine, sessions_of
from closeloop.workers.settings import Settings
from tests.activities.attributing import attributed
from tests.api.doors import api_on
from tests.closes import closed, message
from tests.ports import reserve_ports
from tests.store.databases import query, scratch_database
from tests.waiting import until

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
CONNECTIONS = 3


@contextlib.asynccontextmanager
async def pooler(dsn: str) -> AsyncIterator[str]:
    """A pgbouncer before this database; yields the DSN through it."""
    assert PROGRAM is not None
    parts = urlsplit(dsn)
    [port] = reserve_ports(1)
    name = parts.path.lstrip("/")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n{name} = host=127.0.0.1 port={parts.port} user={parts.username} password={parts.password}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = transaction\ndefault_pool_size = {CONNECTIONS}\nmax_client_conn = 200\n"
        )
        process = await asyncio.create_subprocess_exec(
            *(PROGRAM, "-q", str(file)), user=pwd.getpwnam("nobody").pw_uid, stderr=asyncio.subprocess.DEVNULL
        )
        through = f"postgresql://anyone@127.0.0.1:{port}/{name}?sslmode=disable"

        async def answers() -> bool:
            with contextlib.suppress(OSError, asyncpg.PostgresError):
                await (await asyncpg.connect(through, statement_cache_size=0)).close()
                return True
            return False

        try:
            await until("pgbouncer answers", answers)
            yield through
        finally:
            process.terminate()
            await process.wait()


@pytest.fixture
async def through(dsn: str) -> AsyncIterator[tuple[str, str]]:
    """The DSN of a database of the test's own, and the one through a pooler."""
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed")
    async with scratch_database(dsn) as scratch, pooler(scratch) as pooled:
        yield scratch, pooled


async def test_the_door(through: tuple[str, str], settings: Settings) -> None:
    scratch, pooled = through
    sent = [[message("b", f"p-{batch}-{n}") for n in range(10)] for batch in range(30)]
    async with (
        api_on(scratch, str(settings.home)) as direct,
        api_on(pooled, str(settings.home), CLOSELOOP_DATABASE_POOLER="true") as api,
    ):
        token = await direct.token(Scope.ingest, Scope.read)
        answers = await asyncio.gather(
            *(api.ask("POST", "/v1/positions", batch, token) for batch in sent),
            *(api.ask("POST", "/v1/positions", batch, token) for batch in sent),
            *(api.ask("GET", "/v1/books", None, token) for _ in range(40)),
        )
        assert {answered.status for answered in answers} == {200, 202}
        statuses = [one["status"] for answered in answers[:60] for one in answered.body["results"]]
        assert (statuses.count("accepted"), statuses.count("duplicate")) == (300, 300)
        [row] = await query(direct.sessions, "SELECT count(*) AS n FROM inbox")
        assert row["n"] == 300
        assert (await api.ask("GET", "/readyz")).body["database"] is True


async def test_attributing(through: tuple[str, str]) -> None:
    scratch, pooled = through
    engine = open_engine(pooled, pool_size=20, through_pooler=True)
    sessions = sessions_of(engine)
    try:
        await asyncio.gather(
            *(attributed(sessions, *(closed("b", f"p-{batch}-{n}") for n in range(5))) for batch in range(40))
        )
        [row] = await query(sessions, "SELECT karma, trades FROM producer_karma WHERE producer_id = 'ta'")
        assert row["trades"] == 200
    finally:
        await engine.dispose()
    direct = open_engine(scratch)
    try:
        [counted] = await query(sessions_of(direct), "SELECT count(*) AS n FROM attributions")
        assert counted["n"] == 200
    finally:
        await direct.dispose()
