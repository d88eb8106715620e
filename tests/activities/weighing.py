"""A desk of a test's own for weight cycles: a database, an overlay folder, the activities, and closes to learn from."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment
from temporalio.worker import Worker

from closeloop import store
from closeloop.activities.approvals import ApprovalActivities
from closeloop.activities.overlays import OverlayActivities
from closeloop.activities.weight_cycles import WeightCycleActivities
from closeloop.activities.weight_decisions import WeightDecisionActivities
from closeloop.gateways.overlay import OverlayFolder
from closeloop.gateways.presets import load_preset
from closeloop.models.approvals import ApprovalAnswer, ApprovalKey, RecordApproval
from closeloop.models.policy import ApprovalsPolicy, LearningPolicy
from closeloop.models.positions import ClosedPosition
from closeloop.models.weights import (
    ActiveWeights,
    CycleKey,
    CycleView,
    OpenCycle,
    OpenedCycle,
    OverlayReport,
    Preset,
    RecordRevert,
    Weights,
    WeightsVerdict,
)
from closeloop.store.database import Sessions, open_engine, sessions_of
from closeloop.workers.wiring import SUBJECTS, build_worker
from tests.activities.attributing import attributed
from tests.closes import closed
from tests.store.databases import query, scratch_database
from tests.waiting import PATIENCE

AS_OF = datetime(2026, 4, 6, tzinfo=UTC)  # a Monday: the week is 2026-W15
BALANCED = {"curator": 0.25, "onchain": 0.25, "tradfi": 0.20, "social": 0.15, "technical": 0.10, "events": 0.05}
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@dataclasses.dataclass
class Desk:
    """See the module."""

    dsn: str
    engine: AsyncEngine
    sessions: Sessions
    client: Client
    folder: Path

    def cycles(self, policy: LearningPolicy | None = None, preset: Preset | None = None) -> WeightCycleActivities:
        return WeightCycleActivities(self.sessions, policy or LearningPolicy(), preset or load_preset("balanced"))

    def overlays(self, folder: Path | None = None) -> OverlayActivities:
        return OverlayActivities(self.sessions, OverlayFolder(folder or self.folder), self.client)

    def approvals(self) -> ApprovalActivities:
        return ApprovalActivities(self.sessions, SUBJECTS, self.client, ApprovalsPolicy())

    def decisions(self) -> WeightDecisionActivities:
        return WeightDecisionActivities(self.sessions, self.client, ApprovalsPolicy())

    def worker(self, queue: str, policy: LearningPolicy | None = None) -> Worker:
        return build_worker(
            self.client,
            self.engine,
            policy or LearningPolicy(),
            concurrency=12,
            overlay_folder=self.folder,
            corpus_folder=self.folder / "corpus",
            archive_folder=self.folder / "archive",
            task_queue=queue,
        )

    async def open(
        self, book: str, as_of: datetime = AS_OF, activities: WeightCycleActivities | None = None, **changes: Any
    ) -> OpenedCycle:
        """Evaluate and propose; the workflow has the id that a dispatch or the CLI would give it."""
        await self.make(book)
        year, week, _ = as_of.isocalendar()
        values = {"deadline": None, "workflow_id": f"weights/{book}/{year}-W{week:02}"} | changes
        return await (activities or self.cycles()).open_cycle(OpenCycle(book=book, as_of=as_of, **values))

    async def decide(
        self,
        cycle: OpenedCycle,
        verdict: WeightsVerdict,
        operator: str = "ann",
        at: datetime | None = None,
        note: str = "",
    ) -> ApprovalAnswer:
        said = {"operator": operator, "note": note, "at": at or datetime.now(UTC), **key_of(cycle).model_dump()}
        if verdict == WeightsVerdict.revert:
            return await self.decisions().revert(RecordRevert.model_validate(said))
        return await self.approvals().decide(RecordApproval.model_validate(said | {"verdict": verdict}))

    async def expire(self, cycle: OpenedCycle) -> ApprovalAnswer:
        record = RecordApproval(verdict=None, at=datetime.now(UTC), **key_of(cycle).model_dump())
        return await self.approvals().decide(record)

    async def revert_deleted(self, key: CycleKey) -> ApprovalAnswer:
        environment = ActivityEnvironment()
        environment.info = dataclasses.replace(environment.info, scheduled_time=datetime.now(UTC))
        answer: ApprovalAnswer = await environment.run(self.overlays().revert_deleted_overlay, key)
        return answer

    async def make(self, book: str) -> None:
        """The book, as the first message that names it would make it."""
        async with self.sessions.begin() as session:
            await store.books.hold(session, book)

    async def look(self, folder: Path | None = None) -> OverlayReport:
        """What a look at the overlay files finds."""
        report: OverlayReport = await ActivityEnvironment().run(self.overlays(folder).check_overlays)
        return report

    async def view(self, cycle_id: str) -> CycleView:
        async with self.sessions() as session:
            record = await store.weights.cycle(session, cycle_id)
        assert record is not None, cycle_id
        return record.view

    async def active(self, book: str) -> ActiveWeights | None:
        async with self.sessions() as session:
            return await store.weights.active(session, book)

    async def weights(self, book: str) -> Weights:
        active = await self.active(book)
        assert active is not None, book
        return active.weights

    async def events(self, book: str, kind: str = "") -> list[RowMapping]:
        """Events of weights, of one kind or all: (type, payload)."""
        return await query(
            self.sessions,
            "SELECT type, payload FROM events WHERE payload ->> 'book' = :book AND type LIKE :kind ORDER BY id",
            book=book,
            kind=f"learning.weights.{kind}%",
        )

    async def kinds(self, book: str) -> list[str]:
        """What happened, in order: the event types without what they share."""
        return [row["type"].removeprefix("learning.weights.").removesuffix(".v1") for row in await self.events(book)]

    async def until(self, cycle_id: str, state: str) -> CycleView:
        """The cycle, once it is in this state."""
        async with asyncio.timeout(PATIENCE):
            while True:
                rows = await query(self.sessions, "SELECT state FROM weight_cycles WHERE cycle_id = :id", id=cycle_id)
                if rows and rows[0]["state"] == state:
                    return await self.view(cycle_id)
                await asyncio.sleep(0.02)


def key_of(cycle: OpenedCycle) -> ApprovalKey:
    """A cycle's proposal as something that waits for an operator."""
    return CycleKey(cycle_id=cycle.cycle_id, book=cycle.book).approval


@asynccontextmanager
async def desk_on(dsn: str, client: Client, folder: Path) -> AsyncIterator[Desk]:
    """A desk with an empty database: nothing of it is seen by the session's worker."""
    async with scratch_database(dsn) as own:
        engine = open_engine(own, pool_size=15)
        try:
            yield Desk(own, engine, sessions_of(engine), client, folder)
        finally:
            await engine.dispose()


def close(
    book: str,
    name: str,
    at: datetime,
    pnl: float,
    scores: dict[str, float] | None = None,
    *,
    opened: datetime | None = None,
    **changes: Any,
) -> ClosedPosition:
    """A closed position with a conviction of these scores."""
    return closed(
        book,
        name,
        opened_at=(opened or at - 2 * HOUR).isoformat(),
        closed_at=at.isoformat(),
        realized_pnl=repr(pnl),
        conviction={"conviction_id": f"c-{name}", "cycle_id": f"y-{name}", "domain_scores": scores} if scores else None,
        signals=[],
        **changes,
    )


def history(
    book: str, as_of: datetime = AS_OF, n: int = 40, age: timedelta = 120 * DAY, **changes: Any
) -> list[ClosedPosition]:
    """One close of that age, then ``n`` within the window: onchain was right, social wrong, technical noise."""
    rows = [close(book, "first", as_of - age, 1.0)]
    span = min(29 * DAY, age - HOUR)
    for i in range(n):
        won = i % 2 == 0
        scores = {
            "onchain": (0.8 if won else 0.2) + 0.01 * (i % 7),
            "social": (0.1 if won else 0.6) + 0.01 * (i % 5),
            "technical": ((i * 37) % 19) / 19 - 0.5,
        }
        rows.append(close(book, f"h-{i:04}", as_of - span * (i + 0.5) / n, 6.0 if won else -4.0, scores, **changes))
    return rows


async def learn_from(desk: Desk, rows: Sequence[ClosedPosition]) -> None:
    """Attribute closes."""
    await attributed(desk.sessions, *rows)
