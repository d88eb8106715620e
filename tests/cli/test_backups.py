"""``backup`` and ``restore``: a stack's history goes into another's, whole or not at all."""

import asyncio
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from sqlalchemy import Connection

from closeloop import store
from closeloop.gateways.postgres_tools import PostgresTools
from closeloop.models.errors import NotAcceptable, NotPossibleNow
from closeloop.services import backups
from closeloop.store.database import open_engine
from closeloop.store.schema import _config
from tests.faults.stack_process import StackProcess
from tests.faults.trades import Trade, jsonl, trades
from tests.store.databases import scratch_database
from tests.waiting import until


async def execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def value(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    found = await connection.fetchval(query)
    await connection.close()
    return found


async def migrate(dsn: str, revision: str) -> None:
    """The schema as an older closeloop made it."""

    def to(connection: Connection) -> None:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    engine = open_engine(dsn, pool_size=1)
    async with engine.begin() as connection:
        await connection.run_sync(to)
    await engine.dispose()


async def with_books(dsn: str, count: int, note: str = "''") -> None:
    await execute(
        dsn,
        f"INSERT INTO books (book_id) SELECT 'b' || n FROM generate_series(1, {count}) n",
        "INSERT INTO events (type, source, payload, dedupe_key) SELECT 'learning.test.v1', 'test', "
        f"jsonb_build_object('n', n, 'note', {note}), 'k' || n FROM generate_series(1, {count}) n",
    )


async def test_into_a_stack_whose_worker_runs(
    stack: StackProcess, history: list[Trade], new_stack: Callable[..., StackProcess], tmp_path: Path
) -> None:
    dump = tmp_path / "closeloop.backup"
    umask = os.umask(0)
    try:
        written = await stack.cli("backup", dump)
    finally:
        os.umask(umask)
    assert (written.status, written.err) == (0, "")
    assert str(dump) in written.out
    assert stat.S_IMODE(dump.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [dump.name]

    new = await new_stack().start()
    restored = await new.cli("restore", dump)
    assert (restored.status, restored.err) == (0, "")
    for question in (
        ("outcomes", "summary", "--book", "history"),
        ("outcomes", "--book", "history"),
        ("karma", "--book", "history"),
        ("weights", "show", "--book", "history"),
    ):
        assert await new.json(*question) == await stack.json(*question), question
    assert "events are append-only" in str(await refused_by(new.database_url, "DELETE FROM events"))

    again = await new.cli("restore", dump)
    assert again.status == 1
    assert "not empty" in again.sentence()

    more = trades("after", 5)  # the worker that ran all the while goes on
    report = await new.json("import", "jsonl", "-", stdin=jsonl(more))
    assert report["books"]["after"]["attributed"] == len(more)


async def refused_by(dsn: str, statement: str) -> Exception | None:
    try:
        await execute(dsn, statement)
    except asyncpg.PostgresError as error:
        return error
    return None


async def test_overlays_of_learned_weights_are_written_again(dsn: str, tmp_path: Path) -> None:
    """The home of the restored stack has no overlay file yet; that is no operator's deletion."""
    dump = tmp_path / "dump"
    values = "'{\"onchain\": 1}', 'learned', 'approved', now(), 'r', 'h', 'folder'"
    async with scratch_database(dsn) as source, scratch_database(dsn) as target:
        await with_books(source, 1)
        columns = "book_id, version, overlay, weights, source, cause, since, reason, policy_hash, overlay_folder"
        for version, overlay in ((1, "written"), (2, "written")):
            await execute(
                source, f"INSERT INTO weight_versions ({columns}) VALUES ('b1', {version}, '{overlay}', {values})"
            )
        await backups.backup(PostgresTools(source), dump)
        await backups.restore(PostgresTools(target), dump)
        states = "SELECT string_agg(overlay, ' ' ORDER BY version) FROM weight_versions"
        assert await value(source, states) == "written written"
        assert await value(target, states) == "written due"


async def test_a_file_that_is_there_is_kept_without_force(dsn: str, tmp_path: Path) -> None:
    target = tmp_path / "kept"
    target.write_text("mine")
    async with scratch_database(dsn) as source:
        tools = PostgresTools(source)
        with pytest.raises(NotAcceptable, match="--force"):
            await backups.backup(tools, target)
        assert target.read_text() == "mine"
        made = await backups.backup(tools, target, force=True)
        assert target.stat().st_size == made.size > 1000
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        for place in (tmp_path, tmp_path / "no such folder" / "dump", Path("/dev/null")):
            with pytest.raises(NotAcceptable):
                await backups.backup(tools, place, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


async def test_a_backup_that_fails_leaves_no_file(dsn: str, tmp_path: Path) -> None:
    async with scratch_database(dsn, migrated=False) as empty:
        with pytest.raises(NotPossibleNow, match="nothing to back up"):
            await backups.backup(PostgresTools(empty), tmp_path / "dump")
    assert list(tmp_path.iterdir()) == []


async def test_the_password_is_in_no_argument(dsn: str, tmp_path: Path) -> None:
    """While pg_dump waits for a lock, its arguments are what everybody on the machine can read."""
    password = dsn.split(":")[2].split("@")[0]
    async with scratch_database(dsn) as source:
        connection = await asyncpg.connect(source)
        async with connection.transaction():
            await connection.execute("LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
            writing = asyncio.create_task(backups.backup(PostgresTools(source), tmp_path / "dump"))

            def arguments() -> list[bytes]:
                found = []
                for process in Path("/proc").glob("[0-9]*/cmdline"):
                    try:
                        line = process.read_bytes()
                    except OSError:
                        continue
                    if b"pg_dump" in line and source.rsplit("/", 1)[1].split("?")[0].encode() in line:
                        found.append(line)
                return found

            await until("pg_dump runs", lambda: bool(arguments()))
            assert password
            assert [line for line in arguments() if password.encode() in line] == []
        await connection.close()
        await writing


@pytest.mark.parametrize("kept", [0.3, 0.7])
async def test_a_damaged_file_restores_nothing(dsn: str, tmp_path: Path, kept: float) -> None:
    """Cut off within its data (the last tenth or so is a second table of contents, without which it is whole)."""
    dump = tmp_path / "dump"
    async with scratch_database(dsn) as source, scratch_database(dsn) as target:
        await with_books(source, 20_000, "md5(n::text) || md5((n + 1)::text)")
        await backups.backup(PostgresTools(source), dump)
        whole = dump.read_bytes()
        dump.write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(NotAcceptable, match="damaged"):
            await backups.restore(PostgresTools(target), dump)
        assert await value(target, "SELECT count(*) FROM books") == 0
        middle = len(whole) // 2
        dump.write_bytes(whole[:middle] + bytes(200) + whole[middle + 200 :])
        with pytest.raises(NotAcceptable, match="damaged"):
            await backups.restore(PostgresTools(target), dump)
        assert await value(target, "SELECT count(*) FROM books") == 0

        dump.write_bytes(whole)  # and the whole one goes in afterwards
        await backups.restore(PostgresTools(target), dump)
        assert await value(target, "SELECT count(*) FROM events") == 20_000


@pytest.mark.parametrize("content", [b"", b"PGDMP", b"CREATE TABLE books ();\n", b"PGDMP" + bytes(range(256)) * 20])
async def test_what_is_no_backup(dsn: str, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    async with scratch_database(dsn) as target:
        for name in (file, tmp_path / "missing", tmp_path):
            with pytest.raises(NotAcceptable, match=str(name)):
                await backups.restore(PostgresTools(target), name)


async def test_a_backup_of_another_database(dsn: str, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    async with scratch_database(dsn, migrated=False) as source, scratch_database(dsn) as target:
        await execute(source, "CREATE TABLE books (title text)")
        with dump.open("wb") as file:
            await PostgresTools(source).dump("public", file)
        with pytest.raises(NotAcceptable, match="not a backup of closeloop"):
            await backups.restore(PostgresTools(target), dump)


async def test_of_an_older_and_of_a_newer_closeloop(dsn: str, tmp_path: Path) -> None:
    """An older backup is migrated; a newer one is refused, and the database stays as it was."""
    dump = tmp_path / "dump"
    async with scratch_database(dsn, migrated=False) as source, scratch_database(dsn, migrated=False) as target:
        await migrate(source, "0007")
        await with_books(source, 3)
        await backups.backup(PostgresTools(source), dump)
        made = await backups.restore(PostgresTools(target), dump)
        assert (made.revision, made.now) == ("0007", store.schema.newest())
        assert await value(target, "SELECT count(*) FROM books WHERE currency IS NULL") == 3

        await execute(source, "UPDATE alembic_version SET version_num = '9999'")
        await backups.backup(PostgresTools(source), dump, force=True)
    async with scratch_database(dsn) as target:
        with pytest.raises(NotAcceptable, match="newer closeloop"):
            await backups.restore(PostgresTools(target), dump)
        assert await value(target, "SELECT version_num FROM alembic_version") == store.schema.newest()


async def test_what_was_written_while_a_restore_waited_stops_it(dsn: str, tmp_path: Path) -> None:
    """The look whether the database is empty is made again under the locks of the restore."""
    dump = tmp_path / "dump"
    async with scratch_database(dsn) as source, scratch_database(dsn) as target:
        await with_books(source, 2)
        await backups.backup(PostgresTools(source), dump)
        writer = await asyncpg.connect(target)
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute("INSERT INTO books (book_id) VALUES ('mine')")
        restoring = asyncio.create_task(backups.restore(PostgresTools(target), dump))
        await until_it_waits(target)
        await transaction.commit()
        await writer.close()
        with pytest.raises(NotPossibleNow, match="not empty"):
            await restoring
        assert await value(target, "SELECT string_agg(book_id, ' ') FROM books") == "mine"


async def until_it_waits(dsn: str) -> None:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
        "AND query LIKE 'LOCK TABLE%'"
    )

    async def waits() -> bool:
        return await value(dsn, query) == 1

    await until("the restore waits for the writer", waits)


async def test_killed_in_the_middle_it_leaves_the_database_empty(stack: StackProcess, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    async with scratch_database(stack.database_url) as source, scratch_database(stack.database_url) as target:
        await with_books(source, 100_000, "md5(n::text) || md5((n + 1)::text)")
        await backups.backup(PostgresTools(source), dump)
        restoring = await stack.begin("restore", dump, DATABASE_URL=target)
        copying = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY public.%'"
        )

        async def it_copies() -> bool:
            return bool(await value(target, copying)) or restoring.process.returncode is not None

        await until("it copies rows", it_copies)
        assert restoring.process.returncode is None
        restoring.process.send_signal(signal.SIGKILL)
        await restoring.process.wait()

        async def it_is_alone() -> bool:
            others = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return await value(target, others) == 0

        await until("its connection ends", it_is_alone)
        assert await value(target, "SELECT count(*) FROM events") == 0
        assert await value(target, "SELECT count(*) FROM books") == 0
        assert (await stack.cli("restore", dump, DATABASE_URL=target)).status == 0
        assert await value(target, "SELECT count(*) FROM events") == 100_000
