"""Activities of an import: staged rows become attributions, in chunks that a crash cannot lose or repeat."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.attribution import attribute_and_learn
from closeloop.activities.heartbeats import beating
from closeloop.activities.learners import Learner
from closeloop.activities.transactions import transaction
from closeloop.models.closes import read_close
from closeloop.models.imports import BookCounts, ImportReport, ImportRequest, book_of
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import ClosedPosition, NotedField, PositionKey
from closeloop.services.recorded_closes import RefusedClose
from closeloop.store.database import Sessions
from closeloop.store.errors import is_passing
from closeloop.store.imports import RefusedImportRow, RowNote, StagedRow

# Most rows, and most bytes of them, that are attributed in one transaction.
CHUNK_ROWS = 1_000
CHUNK_BYTES = 4_000_000
# While the database works on a chunk, the next one is parsed on the same thread. After so many rows the thread looks
# for the database's answers, which wait no longer than these rows take to parse.
ROWS_READ_AT_ONCE = 50


class ReadRow(NamedTuple):
    """A staged row: the close that it holds, or why it holds none; ``notes``: each field that was left out, and why."""

    staged: StagedRow
    position: ClosedPosition | None
    reason: str
    notes: Sequence[NotedField]


class ImportActivities:
    """Attributes what an import staged."""

    def __init__(self, sessions: Sessions, policy: LearningPolicy, learners: Sequence[Learner]) -> None:
        self._sessions = sessions
        self._policy = policy
        self._learners = list(learners)

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.attribute_import, self.report_import]

    @activity.defn(name="attribute_import")
    async def attribute_import(self, request: ImportRequest) -> None:
        """Chunk after chunk until no row is left; what became of a row is stored in its attribution's transaction.

        While PostgreSQL works on a chunk, the next one is read.
        """
        async with transaction(self._sessions) as session:
            if not await store.imports.take_up(session, request.import_id):
                reason = f"no import {request.import_id} is staged"
                raise ApplicationError(reason, type="ImportUnknown", non_retryable=True)
        done = 0
        async with beating():
            rows = await self._read(request.import_id, None)
            while rows:
                following = asyncio.create_task(self._read(request.import_id, rows[-1].staged.seq))
                try:
                    done += await self._attribute_chunk(request.import_id, rows)
                    activity.heartbeat(done)
                    rows = await following
                finally:
                    following.cancel()

    @activity.defn(name="report_import")
    async def report_import(self, request: ImportRequest) -> ImportReport:
        """The counts of an import."""
        async with transaction(self._sessions) as session:
            counts = await store.imports.counts(session, request.import_id) or {}
            rejected = await store.imports.rejection_count(session, request.import_id)
        books = {book: BookCounts.model_validate(c) for book, c in counts.items()}
        return ImportReport(import_id=request.import_id, books=books, rejected=rejected)

    async def _read(self, import_id: str, after: int | None) -> list[ReadRow]:
        async with transaction(self._sessions) as session:
            staged = await store.imports.waiting(session, import_id, after, CHUNK_ROWS, CHUNK_BYTES)
        rows: list[ReadRow] = []
        for number, row in enumerate(staged, start=1):
            read = read_close(row.payload)
            rows.append(ReadRow(row, read.position, read.reason, read.notes))
            if number % ROWS_READ_AT_ONCE == 0:
                await asyncio.sleep(0)
        return rows

    async def _attribute_chunk(self, import_id: str, read: Sequence[ReadRow]) -> int:
        """Attribute a chunk in one transaction; returns how many of its rows this attempt attributed or refused.

        The others were taken by an earlier attempt that is still running.
        """
        counts: Counter[str] = Counter()
        async with transaction(self._sessions) as session:
            await store.imports.lock(session, import_id)
            taken = await store.imports.take(session, import_id, read[0].staged.seq, read[-1].staged.seq)
            rows = [row for row in read if row.staged.seq in taken]
            try:
                async with session.begin_nested():
                    counts = await self._settle(session, import_id, rows)
            except Exception as error:
                if is_passing(error):
                    raise
                # A row that passed validation should not fail in the database. If one does, only that row is refused.
                activity.logger.warning("a chunk is attributed row by row", exc_info=True)
                counts = await self._settle_one_by_one(session, import_id, rows)
        # Only after the commit: what was rolled back was not attributed.
        meter = activity.metric_meter()
        meter.create_counter("closeloop_closes_attributed", "Closes attributed").add(counts["attributed"])
        meter.create_counter("closeloop_duplicates_refused", "Closes that were attributed already").add(
            counts["already_attributed"]
        )
        return len(rows)

    async def _settle_one_by_one(self, session: AsyncSession, import_id: str, rows: Sequence[ReadRow]) -> Counter[str]:
        counts: Counter[str] = Counter()
        for row in rows:
            try:
                async with session.begin_nested():
                    counts += await self._settle(session, import_id, [row])
            except Exception as error:
                if is_passing(error):
                    raise
                reason = f"it cannot be stored: {str(getattr(error, 'orig', error)).splitlines()[0][:300]}"
                await store.imports.settle(session, import_id, 1, {}, [_refusal(row, reason)])
        return counts

    async def _settle(self, session: AsyncSession, import_id: str, rows: Sequence[ReadRow]) -> Counter[str]:
        accepted: Counter[tuple[str, str]] = Counter()
        new: list[PositionKey] = []
        refused = [_refusal(row, row.reason) for row in rows if row.position is None]
        readable = [(row, row.position) for row in rows if row.position is not None]
        positions = [position for _, position in readable]
        answers, _ = await attribute_and_learn(
            session, positions, self._policy, datetime.now(UTC), import_id, self._learners
        )
        notes: list[RowNote] = []
        for (row, position), answer in zip(readable, answers, strict=True):
            if isinstance(answer, RefusedClose):
                refused.append(_refusal(row, answer.reason))
            else:
                # Also of a close that was attributed before: the file has what is noted.
                notes += [
                    RowNote(row.staged.seq, row.staged.row_index, position.book, note.field, note.reason)
                    for note in (*row.notes, *answer.noted)
                ]
                outcome = "already_attributed" if answer.already_attributed else "attributed"
                accepted[position.book, outcome] += 1
                if not answer.already_attributed:
                    new.append(position.key)
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for (book, outcome), number in accepted.items():
            counts[book].update({"read": number, outcome: number})
        for book, number in (await store.repeats.count(session, self._policy.mining.same_trade, new)).items():
            counts[book]["repeated"] += number
        await store.imports.settle(session, import_id, len(rows), counts, refused, notes)
        return sum(counts.values(), Counter())


def _refusal(row: ReadRow, reason: str) -> RefusedImportRow:
    book = book_of(row.staged.payload) if row.position is None else row.position.book
    return RefusedImportRow(row.staged.seq, row.staged.row_index, book, reason)
