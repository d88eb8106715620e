"""A backup of all that closeloop has on record, in a file, and its restore into an empty database."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from closeloop import store
from closeloop.gateways.postgres_tools import DumpDamaged, PostgresTools, ToolFailed
from closeloop.models.errors import NotAcceptable, NotPossibleNow, RunFailed
from closeloop.store.database import session_for

ATTEMPTS = 5
"""How often a restore begins where a worker's transaction and its own waited for each other."""

_DEADLOCK, _LOCK_TIMEOUT = "40P01", "55P03"


@dataclass(frozen=True)
class Backup:
    """What was written: the file, its size (bytes), and the revision of the schema in it."""

    file: Path
    size: int
    revision: str


@dataclass(frozen=True)
class Restored:
    """Revisions of the schema: that of the backup, and that of the database now."""

    revision: str
    now: str


async def backup(tools: PostgresTools, target: Path, *, force: bool = False) -> Backup:
    """Write the database, as it is at one instant, to a file that only its owner reads: whole, or not at all.

    Raises NotAcceptable where the file cannot be written or is there already (without ``force``), NotPossibleNow where
    there is nothing to back up or the server is newer than the tools, RunFailed where pg_dump failed.
    """
    _check_target(target, force)
    async with session_for(tools.dsn) as session:
        schema = await store.backups.schema_name(session)
        revision = await store.schema.revision(session)
        _check_version(tools, await store.backups.server_major(session))
    if revision is None:
        raise NotPossibleNow("The database holds nothing of closeloop: there is nothing to back up.")
    try:
        with _written_whole(target, force) as file:
            await tools.dump(schema, file)
            size = os.fstat(file.fileno()).st_size
    except ToolFailed as error:
        raise RunFailed(f"The backup failed, and {target} was not written: {error}.") from None
    return Backup(target, size, revision)


async def restore(tools: PostgresTools, file: Path) -> Restored:
    """Put what a backup holds into an empty database, in one transaction, and migrate it to this version's schema.

    Raises NotAcceptable for a file that is no backup, is damaged, or is of a newer closeloop; NotPossibleNow where the
    database is not empty or its server too new; RunFailed where PostgreSQL failed. The database is then as it was.
    """
    async with session_for(tools.dsn) as session:
        schema = await store.backups.schema_name(session)
        version = await store.backups.server_major(session)
        _check_version(tools, version)
        revision = await _revision(tools, file, schema)
        if filled := await store.backups.filled(session):
            raise _not_empty(filled)
    await _upgrade(tools.dsn)
    await _replace(tools, file, schema, version)
    now = await _upgrade(tools.dsn)
    async with session_for(tools.dsn) as session:
        await store.backups.restored(session)
    return Restored(revision, now)


async def _replace(tools: PostgresTools, file: Path, schema: str, version: int) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await tools.restore(file, schema, version, store.backups.replacing())
            return
        except ToolFailed as error:
            if error.sqlstate == store.backups.NOT_EMPTY:
                raise _not_empty(str(error)) from None
            if error.sqlstate == _DEADLOCK and attempt < ATTEMPTS:
                continue
            if error.sqlstate in (_DEADLOCK, _LOCK_TIMEOUT):
                raise RunFailed(
                    "Others hold the tables of the database, and nothing was restored: stop the workers, or try again."
                ) from None
            if isinstance(error, DumpDamaged):
                raise NotAcceptable(f"{file} is damaged, and nothing was restored: {error}.") from None
            raise RunFailed(f"The restore failed, and the database is as it was: {error}.") from None


async def _revision(tools: PostgresTools, file: Path, schema: str) -> str:
    try:
        with file.open("rb"):
            revision = await tools.revision(file, schema)
    except OSError as error:
        raise NotAcceptable(f"{file} cannot be read: {error.strerror}.") from None
    except ToolFailed as error:
        raise NotAcceptable(f"{file} is not a backup, or is damaged: {error}.") from None
    if revision is None:
        raise NotAcceptable(f"{file} is not a backup of closeloop.")
    if not store.schema.is_known(revision):
        raise NotAcceptable(
            f"{file} is a backup of a newer closeloop (schema revision {revision}): restore it with that version."
        )
    return revision


async def _upgrade(dsn: str) -> str:
    try:
        _, now = await store.schema.upgrade(dsn)
    except store.schema.SchemaNewer as error:
        raise NotPossibleNow(str(error)) from None
    return now


@contextmanager
def _written_whole(target: Path, force: bool) -> Iterator[IO[bytes]]:
    """A file that takes the target's place once it is on disk; removed if it does not come to that."""
    target = target.resolve()  # where it is a link, the file that it points to is replaced
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            os.fsync(file.fileno())
        _check_target(target, force)
        temporary.replace(target)
    except OSError as error:
        raise NotAcceptable(f"{target} cannot be written: {error.strerror}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _check_target(target: Path, force: bool) -> None:
    if target.exists() and not target.is_file():
        raise NotAcceptable(f"{target} is not a file: say where the backup is to be written.")
    if target.exists() and not force:
        raise NotAcceptable(f"{target} is there already: choose another name, or replace it with --force.")
    if not target.parent.is_dir():
        raise NotAcceptable(f"There is no folder {target.parent}: make it first.")


def _check_version(tools: PostgresTools, server: int) -> None:
    if server > tools.version():
        raise NotPossibleNow(
            f"The database is PostgreSQL {server}, and closeloop's tools are of {tools.version()}: use pg_dump "
            f"--format=custom and pg_restore of PostgreSQL {server}."
        )


def _not_empty(table: str) -> NotPossibleNow:
    return NotPossibleNow(
        f"The database is not empty (there are rows in {table}), and nothing was restored: restore into a new home, or "
        "an empty database."
    )
