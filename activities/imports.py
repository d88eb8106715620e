"""Activities of an import: staged rows become attributions, in chunks that a crash cannot lose or repeat."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import ValidationError
from pydantic_core import from_json
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities.attribution import Refused, attribute
from closeloop.activities.heartbeats import beating
from closeloop.activities.learners import BulkLearner, Learner
from closeloop.activities.transactions import transaction
from closeloop.models.imports import BookCounts, ImportReport, ImportRequest
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import AttributedClose, ClosedPosition
from closeloop.models.refusals import describe
from closeloop.models.values import BOOK_PATTERN
from closeloop.store.database import Sessions
from closeloop.store.errors import is_passing
from closeloop.store.imports import Refusal, StagedRow

CHUNK = 1_000
CHUNK_BYTES = 4_000_000


class ImportActivities:
    """Attributes what an import staged."""

    def __init__(self, sessions: Sessions, policy: LearningPolicy, learners: Sequence[Learner]) -> None:
        self._sessions = sessions
        self._policy = policy
        self._learners = list(learners)

    @activity.defn(name="attribute_import")
    async def attribute_import(self, request: ImportRequest) -> None:
        """Chunk after chunk until no row is left; what became of a row is stored in its attribution's transaction."""
        done = 0
        async with beating():
            while taken := await self._attribute_chunk(request.import_id):
                done += taken
                activity.heartbeat(done)

    @activity.defn(name="report_import")
    async def report_import(self, request: ImportRequest) -> ImportReport:
        """The counts of an import."""
        async with transaction(self._sessions) as session:
            counts = await store.imports.counts(session, request.import_id) or {}
            rejected = await store.imports.rejection_count(session, request.import_id)
        books = {book: BookCounts.model_validate(c) for book, c in counts.items()}
        return ImportReport(import_id=request.import_id, books=books, rejected=rejected)

    async def _attribute_chunk(self, import_id: str) -> int:
        counts: Counter[str] = Counter()
        async with transaction(self._sessions) as session:
            if not await store.imports.lock(session, import_id):
                raise ApplicationError(f"no import {import_id} is staged", type="ImportUnknown", non_retryable=True)
            rows = await store.imports.take(session, import_id, CHUNK, CHUNK_BYTES)
            try:
                async with session.begin_nested():
                    counts = await self._settle(session, import_id, rows)
            except Exception as error:
                if is_passing(error):
                    raise
                # No row should pass our door and then fail; if one does, it may not hold up the others.
                activity.logger.warning("a chunk is attributed row by row", exc_info=True)
                counts = await self._settle_one_by_one(session, import_id, rows)
        # Only after the commit: what was rolled back was not attributed.
        meter = activity.metric_meter()
        meter.create_counter("closeloop_closes_attributed", "Closes attributed").add(counts["attributed"])
        meter.create_counter("closeloop_duplicates_refused", "Closes that were attributed already").add(
            counts["already_attributed"]
        )
        return len(rows)

    async def _settle_one_by_one(self, session: AsyncSession, import_id: str, rows: list[StagedRow]) -> Counter[str]:
        counts: Counter[str] = Counter()
        for row in rows:
            try:
                async with session.begin_nested():
                    counts += await self._settle(session, import_id, [row])
            except Exception as error:
                if is_passing(error):
                    raise
                reason = f"it cannot be stored: {str(getattr(error, 'orig', error)).splitlines()[0][:300]}"
                refusal = Refusal(row.seq, row.row_index, book_of(row.payload), reason)
                await store.imports.settle(session, import_id, 1, {}, [refusal])
        return counts

    async def _settle(self, session: AsyncSession, import_id: str, rows: list[StagedRow]) -> Counter[str]:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        refused: list[Refusal] = []
        readable: list[tuple[StagedRow, ClosedPosition]] = []
        for row in rows:
            try:
                readable.append((row, ClosedPosition.model_validate_json(row.payload)))
            except ValidationError as error:
                refused.append(Refusal(row.seq, row.row_index, book_of(row.payload), describe(error)))
        positions = [position for _, position in readable]
        owed = [learner.name for learner in self._learners if not isinstance(learner, BulkLearner)]
        answers = await attribute(session, positions, self._policy, datetime.now(UTC), import_id, owed)
        await self._learn(session, positions, answers)
        for (row, position), answer in zip(readable, answers, strict=True):
            if isinstance(answer, Refused):
                refused.append(Refusal(row.seq, row.row_index, position.book, answer.reason))
            else:
                outcome = "already_attributed" if answer.already_attributed else "attributed"
                counts[position.book].update(("read", outcome))
        await store.imports.settle(session, import_id, len(rows), counts, refused)
        return sum(counts.values(), Counter())

    async def _learn(
        self, session: AsyncSession, positions: Sequence[ClosedPosition], answers: Sequence[AttributedClose | Refused]
    ) -> None:
        """Learn from what was attributed just now; a learner that fails is owed it, and undoes nothing else."""
        new = [a.outcome for a in answers if isinstance(a, AttributedClose) and not a.already_attributed]
        contexts = {position.key: position.entry_context for position in positions}
        for learner in self._learners if new else ():
            if not isinstance(learner, BulkLearner):
                continue
            try:
                async with session.begin_nested():
                    await learner.take_in(session, new, contexts)
            except Exception as error:
                if is_passing(error):
                    raise
                activity.logger.warning("learner failed", exc_info=True, extra={"learner": learner.name})
                await store.rows.execute(session, store.patterns.owing([o.key for o in new], [learner.name]))


def book_of(payload: str) -> str | None:
    """The book that a row names, if as much as that can be read."""
    try:
        row = from_json(payload)
    except ValueError:
        return None
    book = row.get("book") if isinstance(row, dict) else None
    return book if isinstance(book, str) and BOOK_PATTERN.fullmatch(book) else None
