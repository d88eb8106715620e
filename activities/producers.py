"""What producers are worth: performance and agreement over the rolling window, and recalibration."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from temporalio import activity

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.books import each_book
from closeloop.activities.heartbeats import beating
from closeloop.activities.transactions import transaction
from closeloop.learning.agreement import PAIR_COLUMNS, agreement
from closeloop.learning.recalibration import Recalibration, recalibrate
from closeloop.models.bounded import BOOKS
from closeloop.models.events import EventType
from closeloop.models.policy import LearningPolicy, ProducersPolicy
from closeloop.models.producers import HEARTBEATS_KEPT_DAYS, PerformanceReport, PerformanceRequest, SliceScores
from closeloop.services.producers import plain_number, scores_of_slices
from closeloop.store.database import Sessions
from closeloop.store.performance import PairCounts, Window

MAX_RECALIBRATION_OUTCOMES = 200_000  # the newest of a producer, to which its map is fitted
CONCURRENT_BATCHES = 2  # of days of a book that are added up at the same time


class ProducerActivities:
    """Brings what is known of producers up to date."""

    def __init__(self, sessions: Sessions, policy: LearningPolicy) -> None:
        self._sessions = sessions
        self._policy = policy

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.update_performance, self.update_recalibration]

    @activity.defn(name="update_performance")
    async def update_performance(self, request: PerformanceRequest) -> PerformanceReport:
        """Add up the days whose outcomes changed, then the window of each book. Repeating it changes nothing."""
        report = PerformanceReport()
        async with beating():

            async def update(book: str) -> None:
                report.days += await self._add_up(book)
                await self._write(book, request.as_of)
                if len(report.books) < BOOKS:
                    report.books.append(book)

            report.failed = await each_book(self._sessions, "performance", await self._books(request), update)
        return report

    @activity.defn(name="update_recalibration")
    async def update_recalibration(self, request: PerformanceRequest) -> PerformanceReport:
        """Fit and test a new map for each producer with enough new outcomes since its last one."""
        policy = self._policy
        report = PerformanceReport()
        async with beating():

            async def update(book: str) -> None:
                async with transaction(self._sessions) as session:
                    due = await store.recalibration.due(
                        session,
                        book,
                        request.as_of,
                        policy.producers.recalibration_min_outcomes,
                        policy.producers.recalibration_growth,
                    )
                for producer, outcomes, version, as_of in due:
                    written = await self._recalibrate(book, producer, version + 1, outcomes, as_of)
                    if written and len(report.recalibrations) < BOOKS:
                        report.recalibrations.append(f"{book}/{producer}/{version + 1}")
                if len(report.books) < BOOKS:
                    report.books.append(book)

            report.failed = await each_book(self._sessions, "recalibration", await self._books(request), update)
            async with transaction(self._sessions) as session:
                await store.producers.forget_heartbeats(session, HEARTBEATS_KEPT_DAYS)
        return report

    async def _books(self, request: PerformanceRequest) -> list[str]:
        if request.books is not None:
            return request.books
        async with transaction(self._sessions) as session:
            return await store.performance.books_with_outcomes(session)

    async def _add_up(self, book: str) -> int:
        return sum(await asyncio.gather(*(self._add_up_days(book) for _ in range(CONCURRENT_BATCHES))))

    async def _add_up_days(self, book: str) -> int:
        total = 0
        while True:
            async with transaction(self._sessions) as session:
                days = await store.performance.add_up_due_days(session, book, self._block)
            if not days:
                return total
            total += days
            activity.heartbeat(book, total)

    @property
    def _block(self) -> timedelta:
        return timedelta(hours=self._policy.producers.agreement_block_hours)

    async def _write(self, book: str, as_of: datetime) -> None:
        """Replace the book's scores by those as of an instant, or as of the later one for which they stand already."""
        policy = self._policy
        while True:
            async with transaction(self._sessions) as session:
                seen = await store.performance.written_window(session, book)
            until = max(as_of, seen.as_of)
            window = Window(after=until - timedelta(days=policy.producers.window_days), until=until)
            stamp = {"book_id": book, "as_of": until, "policy_hash": policy.producers.hash}
            slices, pairs = await asyncio.gather(self._slices(book, window), self._pairs(book, window))
            scores = [one.slice._asdict() | one.scores.model_dump() | {"sums": one.sums} for one in slices]
            async with transaction(self._sessions) as session:
                if await store.performance.take_window(session, book, until, seen):
                    await store.performance.write_performance(session, book, [stamp | row for row in scores])
                    await store.performance.write_correlation(session, book, [stamp | row for row in pairs])
                    return
            activity.heartbeat(book, "another resolution wrote meanwhile")

    async def _slices(self, book: str, window: Window) -> list[SliceScores]:
        async with transaction(self._sessions) as session:
            sums = await store.performance.window_sums(session, book, window)
            abstained = await store.performance.abstentions(session, book, window)
        return scores_of_slices(sums, abstained, self._policy.producers)

    async def _pairs(self, book: str, window: Window) -> list[dict[str, Any]]:
        async with transaction(self._sessions) as session:
            pairs = await store.performance.window_pairs(session, book, window, self._block)
        return _agreement_rows(pairs, self._policy.producers)

    async def _recalibrate(self, book: str, producer: str, version: int, outcomes: int, as_of: datetime) -> bool:
        async with transaction(self._sessions) as session:
            history = await store.recalibration.confidence_history(
                session, book, producer, as_of, MAX_RECALIBRATION_OUTCOMES
            )
        columns = list(zip(*history, strict=True))
        result: Recalibration = await asyncio.to_thread(
            recalibrate,
            np.array(columns[0], dtype=np.int64),
            np.array(columns[1], dtype=np.int64),
            np.array(columns[2], dtype=np.float64),
            np.array(columns[3], dtype=np.bool_),
            microseconds(as_of),
            self._policy.producers,
        )
        evidence = {name: value for name, value in asdict(result).items() if name not in ("map", "adopted")}
        row = {
            "book_id": book,
            "producer_id": producer,
            "version": version,
            "adopted": result.adopted,
            "stated": list(result.map.x) if result.map else [],
            "recalibrated": list(result.map.y) if result.map else [],
            "evidence": evidence,
            "n": outcomes,
            "as_of": as_of,
            "policy_hash": self._policy.producers.hash,
        }
        shown = ("producer_id", "version", "adopted", "evidence", "as_of")
        payload = {"book": book} | {name: row[name] for name in shown}
        async with transaction(self._sessions) as session:
            if not await store.recalibration.write(session, row):
                return False
            event = (EventType.recalibration, f"{book}/{producer}/{version}", payload)
            await store.events.append(session, event)
        return True


def microseconds(instant: datetime) -> int:
    """Microseconds since 1970 (UTC), exactly."""
    since = instant - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _agreement_rows(pairs: Sequence[PairCounts], producers: ProducersPolicy) -> list[dict[str, Any]]:
    """Rows of producer_correlation."""
    counts = np.array([pair.counts for pair in pairs], dtype=np.int64).reshape(-1, len(PAIR_COLUMNS))
    horizons = np.array([pair.horizon_seconds for pair in pairs], dtype=np.int64) * 1_000_000
    rates = vars(agreement(counts, horizons, producers))
    return [
        {"asset": pair.asset, "horizon": pair.horizon, "first": pair.first, "second": pair.second}
        | {name: plain_number(array[i]) for name, array in rates.items()}
        for i, pair in enumerate(pairs)
    ]
