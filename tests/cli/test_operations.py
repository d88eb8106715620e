"""``status``, ``db``, ``schedules``, ``search-attributes`` and ``worker``."""

import asyncio
import os
import re
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from temporalio.client import Client

from closeloop import store
from closeloop.models.launches import LLM_TASK_QUEUE, MARKET_TASK_QUEUE, TASK_QUEUE
from closeloop.models.policy import LearningPolicy
from closeloop.models.schedules import SCHEDULES
from closeloop.models.status import Addresses, Status
from closeloop.services.status import status as look_at_everything
from closeloop.store.database import open_engine, session_for
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.stack.process import LOG_BYTES, Child
from closeloop.workers.wiring import build_market_worker
from tests.conftest import NO_SOURCE
from tests.faults.stack_process import StackProcess
from tests.store.databases import scratch_database
from tests.waiting import eventually, until
from tests.workers.namespaces import own_namespace


async def test_status(stack: StackProcess) -> None:
    async def up() -> bool:  # "ready" was said before each queue was polled for the first time
        return bool((await stack.json("status"))["up"])

    await until("everything up", up)
    status, text, elsewhere = await asyncio.gather(
        stack.json("status"),
        stack.cli("status"),
        stack.cli("--home", stack.home, "status", "--json", CLOSELOOP_HOME="/nowhere"),
    )
    assert status["up"] is True
    assert status["home"] == str(stack.home)
    assert status["stack_running"] is True
    assert {name: status[name]["up"] for name in ("postgres", "schema", "temporal", "worker")} == dict.fromkeys(
        ("postgres", "schema", "temporal", "worker"), True
    )
    assert status["missing_search_attributes"] == []
    assert [one["id"] for one in status["schedules"]] == [schedule.id for schedule in SCHEDULES]
    assert all(one["there"] and one["as_applied"] and one["next_at"] for one in status["schedules"])
    assert [one["work"] for one in status["periodic"]] == ["weights", "corpus", "lessons", "retention"]
    # Other tests of this stack let workflows fail.
    assert [trouble for trouble in status["troubles"] if trouble["about"] != "failed workflows"] == []
    assert "closeloop/weights" in text.out
    assert "due next" in text.out
    assert {status[name]["reason"] for name in ("postgres", "schema", "temporal", "worker")} == {None}
    assert Path(status["postgres"]["data"]).is_dir()
    assert status["temporal"]["address"] == f"127.0.0.1:{stack.ports['temporal']}"
    assert status["temporal"]["ui"] == f"http://127.0.0.1:{stack.ports['ui']}"
    assert text.status == 0
    assert str(stack.home) in text.out
    assert elsewhere.json()["up"] is True


async def test_status_names_who_polls_each_queue(stack: StackProcess) -> None:
    async def queues() -> dict[str, list[str]]:
        return {queue["task_queue"]: queue["workers"] for queue in (await stack.json("status"))["worker"]["queues"]}

    polled = f"{stack.child('worker').pid}@"

    async def by_the_worker() -> bool:
        return all(any(who.startswith(polled) for who in workers) for workers in (await queues()).values())

    await until("each queue is polled by the stack's worker", by_the_worker)
    assert list(await queues()) == [TASK_QUEUE, MARKET_TASK_QUEUE, LLM_TASK_QUEUE]
    text = (await stack.cli("status")).out
    for queue, workers in (await queues()).items():
        assert f"{queue} {workers[0]}" in re.sub(r"\s+│?\s*", " ", text)


async def test_a_queue_that_nobody_polls(dsn: str, client: Client, home: Path) -> None:
    """A worker of some queues only: the others are named, and not everything is up."""
    own = await own_namespace(client)
    await register_search_attributes(own)

    @asynccontextmanager
    async def temporal() -> AsyncIterator[Client]:
        yield own

    async def look() -> Status:
        return await look_at_everything(addresses, lambda: session_for(dsn), temporal)

    def polled(seen: Status) -> list[str]:
        return [queue.task_queue for queue in seen.worker.queues if queue.workers]

    addresses = Addresses(home=home, stack_running=True, postgres_data=None, temporal=None, temporal_ui=None)
    engine = open_engine(dsn, pool_size=1)
    async with build_market_worker(own, engine, LearningPolicy(), binance_url=NO_SOURCE, coingecko_url=NO_SOURCE):
        seen = await eventually(look, lambda seen: bool(polled(seen)))
    await engine.dispose()
    assert polled(seen) == [MARKET_TASK_QUEUE]
    assert (seen.postgres.up, seen.schema_.up, seen.temporal.up) == (True, True, True)
    assert (seen.worker.up, seen.up) == (False, False)


async def test_db_url_and_upgrade(stack: StackProcess) -> None:
    url, first, second = await asyncio.gather(
        stack.cli("db", "url"), stack.cli("db", "upgrade"), stack.cli("db", "upgrade")
    )
    assert url.status == 0
    connection = await asyncpg.connect(url.out.strip())
    assert await connection.fetchval("SELECT version_num FROM alembic_version") == store.schema.newest()
    await connection.close()
    for upgrade in (first, second):
        assert (upgrade.status, upgrade.err) == (0, "")
        assert "nothing to do" in upgrade.out


async def test_a_database_without_a_schema(stack: StackProcess) -> None:
    await stack.sql("CREATE DATABASE fresh")
    url = (await stack.cli("db", "url")).out.strip().rsplit("/", 1)[0] + "/fresh"
    reading, status = await asyncio.gather(
        stack.cli("outcomes", DATABASE_URL=url), stack.cli("status", "--json", DATABASE_URL=url)
    )
    assert "closeloop db upgrade" in reading.sentence()
    assert status.status == 1
    assert (status.json()["postgres"]["up"], status.json()["schema"]["up"]) == (True, False)
    both = await asyncio.gather(*(stack.cli("db", "upgrade", DATABASE_URL=url) for _ in range(2)))
    assert [upgrade.status for upgrade in both] == [0, 0]
    assert sorted("nothing to do" in upgrade.out for upgrade in both) == [False, True]
    assert (await stack.cli("outcomes", "--json", DATABASE_URL=url)).json() == []


async def test_a_wrong_address_of_the_database(stack: StackProcess) -> None:
    """One sentence that names DATABASE_URL, never the password."""
    port = stack.ports["postgres"]
    urls = [
        f"postgresql://closeloop:secret@127.0.0.1:{port}/closeloop",
        f"postgresql://nobody:secret@127.0.0.1:{port}/closeloop",
        "postgresql://closeloop:secret@nowhere.invalid/closeloop",
        "mysql://closeloop:secret@127.0.0.1/closeloop",
    ]
    results = await asyncio.gather(
        *(stack.cli("karma", DATABASE_URL=url) for url in urls),
        stack.cli("db", "upgrade", DATABASE_URL=urls[0]),
        stack.cli("import", "jsonl", "-", DATABASE_URL=urls[0]),
    )
    for result in results:
        assert "DATABASE_URL" in result.sentence()
        assert "secret" not in result.err


async def test_what_a_namespace_needs(stack: StackProcess) -> None:
    attributes, schedules, listed = await asyncio.gather(
        stack.cli("search-attributes", "apply"), stack.cli("schedules", "apply"), stack.json("schedules", "list")
    )
    assert (attributes.status, schedules.status) == (0, 0)
    assert "already" in attributes.out
    assert {schedule["id"]: schedule["every_seconds"] for schedule in listed}["closeloop/catch-up"] == 300
    for schedule in listed:
        assert f"applied {schedule['id']}" in schedules.out


async def test_settings_that_cannot_be_used(stack: StackProcess, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("no_such_number: 1\n")
    settings = {
        "no_such_number": {"CLOSELOOP_POLICY": str(policy)},
        "missing.yaml": {"CLOSELOOP_POLICY": str(tmp_path / "missing.yaml")},
        "log_level": {"CLOSELOOP_LOG_LEVEL": "LOUD"},
        "worker_concurrency": {"CLOSELOOP_WORKER_CONCURRENCY": "0"},
    }
    results = await asyncio.gather(*(stack.cli("worker", **env) for env in settings.values()))
    for needle, result in zip(settings, results, strict=True):
        assert needle in result.sentence()


@pytest.mark.parametrize(
    ("content", "needle"),
    [
        ("# für alle\n".encode("latin-1"), "UTF-8"),
        ("# für alle\n".encode("utf-16"), "UTF-8"),
        (b"[" * 3000, "nested"),
        (b"weights: " + b"{a: " * 3000 + b"1" + b"}" * 3000, "nested"),
        (b"weights: \x00", "cannot be read"),
    ],
    ids=["latin-1", "utf-16", "lists", "sections", "control"],
)
async def test_a_policy_file_that_cannot_be_read(
    no_stack: StackProcess, tmp_path: Path, content: bytes, needle: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_bytes(content)
    sentence = (await no_stack.cli("worker", CLOSELOOP_POLICY=str(policy))).sentence()
    assert str(policy) in sentence
    assert needle in sentence


async def test_an_older_worker_on_a_newer_schema(stack: StackProcess) -> None:
    """The worker is what has to be upgraded; the database was."""
    async with scratch_database(stack.database_url) as scratch:
        connection = await asyncpg.connect(scratch)
        await connection.execute("UPDATE alembic_version SET version_num = '9999'")
        await connection.close()
        worker, status = await asyncio.gather(
            stack.cli("worker", DATABASE_URL=scratch), stack.cli("status", DATABASE_URL=scratch)
        )
        assert (worker.status, status.status) == (1, 1)
        for said in (worker.err.splitlines()[-1], status.out):
            assert "is older than the database" in said
            assert "upgrade it" in said
            assert "db upgrade" not in said


async def test_logs_are_their_owners(stack: StackProcess) -> None:
    logs = [*(stack.home / "logs").iterdir(), *stack.home.glob("*.log")]
    assert {"worker.log", "temporal.log", "postgres.log"} <= {log.name for log in logs}
    assert {stat.S_IMODE(log.stat().st_mode) for log in logs} == {0o600}


async def test_a_log_that_grows_is_moved(tmp_path: Path) -> None:
    """The process goes on writing while its log is moved, each line once; a log made for all becomes its owner's."""
    log = tmp_path / "part.log"
    log.touch(mode=0o644)
    program = "import sys\nfor line in sys.stdin: sys.stderr.write(line)"
    os.mkfifo(tmp_path / "pipe")
    child = await Child.spawn("part", ["/bin/sh", "-c", f"{sys.executable} -c '{program}' < {tmp_path}/pipe"], log=log)
    try:
        with await asyncio.to_thread((tmp_path / "pipe").open, "w") as pipe:

            async def grown_to(lines: range) -> None:
                await asyncio.to_thread(pipe.writelines, (f"{number:09}\n" for number in lines))
                await asyncio.to_thread(pipe.flush)
                await until("it is in the log", lambda: log.read_bytes().endswith(b"%09d\n" % lines[-1]))

            first = range(LOG_BYTES // 10 + 1)
            await grown_to(first)
            child.rotate_log()
            second = range(first.stop, first.stop + 5)
            await grown_to(second)
            child.rotate_log()  # small as it is, it stays
            former = tmp_path / "part.log.1"
            assert former.read_text().split() == [f"{number:09}" for number in first]
            assert log.read_text().split() == [f"{number:09}" for number in second]
            assert {stat.S_IMODE(path.stat().st_mode) for path in (log, former)} == {0o600}
    finally:
        await child.stop()


async def test_a_second_worker_that_is_stopped(stack: StackProcess) -> None:
    worker = await stack.begin("worker")
    assert worker.process.pid != os.getpid()
    polling = f"{worker.process.pid}@"

    async def it_polls() -> bool:
        status = await stack.json("status")
        return any(identity.startswith(polling) for identity in status["worker"]["workers"])

    await until("the second worker polls", it_polls)
    worker.process.terminate()
    result = await worker.result()
    assert result.status == 0
    assert result.out == "worker ready\n"
