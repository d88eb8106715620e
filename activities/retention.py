"""Old rows leave the database: into an archive on the disk, or away, as the policy says.

No transaction contains both a file and the database. So a batch is announced in one transaction, with the name of its
file; a second transaction reads the rows, brings the file to the disk, deletes exactly the rows in it, and says that
this is done. A process that dies before that commit leaves rows that are all there and a file that counts for nothing,
which the next attempt deletes. Each attempt has a file of its own.
"""

import asyncio
import uuid
from datetime import datetime, timedelta
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.books import on_record
from closeloop.activities.transactions import transaction
from closeloop.gateways.archive import ArchiveFile, ArchiveFolder
from closeloop.models.policy import LearningPolicy
from closeloop.models.retention import ARCHIVE_UNWRITABLE, Leaving, LeavingBatch, LeftBatch
from closeloop.store import locks
from closeloop.store.database import Sessions

BATCH_ROWS = 20_000
BATCH_CHARACTERS = 64_000_000  # of JSON in a file, before it is compressed
TASK = "retention"


class RetentionActivities:
    """Lets old rows go."""

    def __init__(
        self, sessions: Sessions, policy: LearningPolicy, folder: ArchiveFolder, batch_rows: int = BATCH_ROWS
    ) -> None:
        self._sessions = sessions
        self._policy = policy.retention
        self._folder = folder
        self._batch_rows = batch_rows

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.let_leave]

    @activity.defn(name="let_leave")
    async def let_leave(self, batch: LeavingBatch) -> LeftBatch:
        """Let at most a batch of a table's old rows leave.

        Raises ApplicationError of the type ArchiveUnwritable; then nothing has left, and ``status`` tells it.
        """
        days = self._policy.days_of(batch.table)
        if days is None:
            return LeftBatch()
        async with on_record(self._sessions, TASK, batch.table):
            try:
                return await self._leave(batch.table, batch.as_of - timedelta(days=days))
            except OSError as error:
                raise ApplicationError(
                    f"the archive cannot be written ({error.strerror or type(error).__name__}: {self._folder.path}); "
                    "nothing was deleted. Make it writable, or name another folder (CLOSELOOP_ARCHIVE)",
                    type=ARCHIVE_UNWRITABLE,
                ) from None

    async def _leave(self, table: Leaving, horizon: datetime) -> LeftBatch:
        name = f"{table}-{horizon:%Y%m%d}-{uuid.uuid4().hex}.jsonl.gz" if self._policy.archive else None
        async with transaction(self._sessions) as session:
            await locks.one_at_a_time(session, locks.RETENTION)
            for given_up, left_over in await store.retention.unfinished(session, table):
                if left_over is not None:
                    await asyncio.to_thread(self._folder.delete_unfinished, left_over)
                await store.retention.give_up(session, given_up)
            if not await store.retention.count_leaving(session, table, horizon, 1):
                return LeftBatch()
            folder = str(self._folder.path) if name else None
            archive_id = await store.retention.begin(session, table, horizon, folder, name)
        file = None if name is None else await asyncio.to_thread(self._folder.create, name)
        try:
            return await self._move(table, horizon, archive_id, file)
        finally:
            # Where this fails, the file is left to the next attempt: only that knows, once it has the lock, whether
            # the transaction was committed.
            if file is not None:
                file.close()

    async def _move(self, table: Leaving, horizon: datetime, archive_id: int, file: ArchiveFile | None) -> LeftBatch:
        keys: list[tuple[Any, ...]] = []
        characters = 0
        async with transaction(self._sessions) as session:
            await locks.one_at_a_time(session, locks.RETENTION)
            async for rows in store.retention.leaving(session, table, horizon, self._batch_rows):
                keys += [key for key, _ in rows]
                lines = [line for _, line in rows]
                characters += sum(map(len, lines))
                if file is not None:
                    await asyncio.to_thread(file.write, lines)
                if characters >= BATCH_CHARACTERS:
                    break
            size = 0 if file is None else await asyncio.to_thread(file.complete)
            deleted = await store.retention.delete(session, table, keys, horizon)
            if deleted != len(keys) or not await store.retention.finish(session, archive_id, deleted, size):
                raise ApplicationError("another run let the same rows leave meanwhile", type="RetentionOvertaken")
        more = len(keys) >= self._batch_rows or characters >= BATCH_CHARACTERS
        return LeftBatch(rows=deleted, bytes=size, more=more)
