"""Real parts for every test: the embedded PostgreSQL and Temporal, started once for the session.

``dsn`` is PostgreSQL alone, ``settings`` is the stack: each is started by the first test that asks for it, in this
process's loop. A test that kills parts starts a stack of its own (tests/faults/).
"""

import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.models.policy import LearningPolicy
from closeloop.store.database import Sessions, open_engine, sessions_of
from closeloop.workers.settings import Settings
from closeloop.workers.stack.home import Home
from closeloop.workers.stack.postgres import LocalPostgres
from closeloop.workers.stack.supervisor import LocalStack, Ports
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import build_market_worker, build_worker, connect_temporal
from tests.faults.stack_process import StackProcess
from tests.ports import reserve_ports
from tests.samples import SAMPLES

# Nobody listens there: prices come from what tests put into the database.
NO_SOURCE = "http://127.0.0.1:9"
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


# A test that asks for one of these asks for a server (or, of test_wheel.py, for an environment to be built).
SERVERS = {"dsn", "settings", "stack", "new_stack", "installed"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-server", action="store_true", help="only tests that need neither PostgreSQL nor Temporal")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--no-server"):
        kept = [item for item in items if SERVERS.isdisjoint(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config._closeloop_exit = exitstatus  # type: ignore[attr-defined]


def pytest_unconfigure(config: pytest.Config) -> None:
    # The Temporal client's native threads can abort an interpreter that finalizes: leave before it does.
    import sys

    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(getattr(config, "_closeloop_exit", 1))


def free_ports() -> Ports:
    return Ports(*reserve_ports(3))


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A home that the unprivileged user of PostgreSQL can reach."""
    path = Path(tempfile.mkdtemp(prefix="closeloop-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
async def dsn(home: Path) -> AsyncIterator[str]:
    """PostgreSQL alone, with the schema. A test that needs no Temporal asks for this (or ``sessions``) only."""
    folder = Home(home)
    folder.create()
    [port] = reserve_ports(1)
    server = LocalPostgres(folder, port)
    child = await server.start()
    try:
        await store.schema.upgrade(server.dsn)
        yield server.dsn
    finally:
        await child.stop()


@pytest.fixture(scope="session")
async def settings(home: Path, dsn: str) -> AsyncIterator[Settings]:
    """Settings of a running stack (that PostgreSQL, and Temporal) without a worker: tests bring their own."""
    settings = Settings.load(home)
    # The database's address is the stack's word, not the environment's: commands find it in the home.
    stack = LocalStack(
        settings.model_copy(update={"database_url": dsn}),
        free_ports(),
        lambda line: None,
        with_worker=False,
        with_api=False,
    )
    stop, ready = asyncio.Event(), asyncio.Event()
    stack_run = asyncio.create_task(stack.run(stop, ready))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait((stack_run, waiting), return_when=asyncio.FIRST_COMPLETED)
    if stack_run.done():
        stack_run.result()
    yield settings.model_copy(update={"database_url": None})
    stop.set()
    await stack_run


@pytest.fixture(scope="session")
async def engine(dsn: str) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(dsn, pool_size=20)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
def sessions(engine: AsyncEngine) -> Sessions:
    return sessions_of(engine)


@pytest.fixture
async def session(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


@pytest.fixture(scope="session")
async def client(settings: Settings) -> Client:
    return await connect_temporal(settings, Telemetry(settings))


@pytest.fixture(scope="session")
async def worker(client: Client, engine: AsyncEngine, home: Path) -> AsyncIterator[None]:
    """A worker with every workflow and activity, polling for the whole session."""
    policy = LearningPolicy()
    async with (
        build_worker(
            client,
            engine,
            policy,
            concurrency=16,
            overlay_folder=home,
            corpus_folder=home / "corpus",
            archive_folder=home / "archive",
        ),
        build_market_worker(client, engine, policy, binance_url=NO_SOURCE, coingecko_url=NO_SOURCE),
    ):
        yield


@pytest.fixture
async def new_stack() -> AsyncIterator[Callable[..., StackProcess]]:
    """Makes stacks, not yet started, each with a home of its own; what runs of them at the end of the test is ended."""
    made: list[StackProcess] = []

    def make(**settings: Any) -> StackProcess:
        made.append(StackProcess(**settings))
        return made[-1]

    yield make
    for stack in made:
        await stack.close()


@pytest.fixture
def book() -> str:
    """A book of the test's own: tests share the database, and no test sees another's rows."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Real data from beside the project; a test of its exact figures says so when it skips."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"real data {name} is not beside this checkout")
        return path

    return find


@pytest.fixture(scope="session", params=["sample", "real"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A sample of such data, made by a formula, and the real data where it is: a test holds for both."""
    if request.param == "real":
        found: Callable[[str], Path] = request.getfixturevalue("shared_data")
        return found
    folder = tmp_path_factory.mktemp("samples")

    def make(name: str) -> Path:
        first = name.split("/")[0]
        if not (folder / first).exists():
            SAMPLES[first](folder / first)
        return folder / name

    return make
