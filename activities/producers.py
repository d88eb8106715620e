"""What producers are worth: performance and agreement over the rolling window, and recalibration."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
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
from closeloop.learning.calibration import (
    ALL,
    COLUMNS,
    Recalibration,
    dense,
    performance,
    recalibrate,
    reliability,
    with_all,
)
from closeloop.learning.ensemble import PAIR_COLUMNS, agreement
from closeloop.learning.health import assess
from closeloop.models.events import EventType
from closeloop.models.policy import LearningPolicy, ProducersPolicy
from closeloop.models.producers import PerformanceReport, PerformanceRequest
from closeloop.store.database import Sessions
from closeloop.store.producers import Window

LONGEST_HISTORY = 200_000
AT_ONCE = 2
HEARTBEATS_KEPT_DAYS = 30

Key = tuple[str, str, str, str]


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
                    due = await store.producers.recalibration_due(
                        session,
                        book,
                        request.as_of,
                        policy.producers.recalibration_min_outcomes,
                        policy.producers.recalibration_growth,
                    )
                for producer, outcomes, version in due:
                    if await self._recalibrate(book, producer, version + 1, outcomes, request.as_of):
                        report.recalibrations.append(f"{book}/{producer}/{version + 1}")
                report.books.append(book)

            report.failed = await each_book(self._sessions, "recalibration", await self._books(request), update)
            async with transaction(self._sessions) as session:
                await store.producers.forget_heartbeats(session, HEARTBEATS_KEPT_DAYS)
        return report

    async def _books(self, request: PerformanceRequest) -> list[str]:
        if request.books is not None:
            return request.books
        async with transaction(self._sessions) as session:
            return await store.producers.books_with_outcomes(session)

    async def _add_up(self, book: str) -> int:
        return sum(await asyncio.gather(*(self._add_up_days(book) for _ in range(AT_ONCE))))

    async def _add_up_days(self, book: str) -> int:
        total = 0
        while True:
            async with transaction(self._sessions) as session:
                days = await store.producers.add_up_due_days(session, book, self._block)
            if not days:
                return total
            total += days
            activity.heartbeat(book, total)

    @property
    def _block(self) -> timedelta:
        return timedelta(hours=self._policy.producers.agreement_block_hours)

    async def _write(self, book: str, as_of: datetime) -> None:
        policy = self._policy
        window = Window(after=as_of - timedelta(days=policy.producers.window_days), until=as_of)
        stamp = {"book_id": book, "as_of": as_of, "policy_hash": policy.policy_hash}
        scores, pairs = await asyncio.gather(self._scores(book, window), self._pairs(book, window))
        async with transaction(self._sessions) as session:
            await store.producers.take_turns(session, book)
            await store.producers.write_performance(session, book, [stamp | row for row in scores])
            await store.producers.write_correlation(session, book, [stamp | row for row in pairs])

    async def _scores(self, book: str, window: Window) -> list[dict[str, Any]]:
        async with transaction(self._sessions) as session:
            sums = await store.producers.window_sums(session, book, window)
            abstained = await store.producers.abstentions(session, book, window)
        return performance_rows(sums, abstained, self._policy.producers)

    async def _pairs(self, book: str, window: Window) -> list[dict[str, Any]]:
        async with transaction(self._sessions) as session:
            pairs = await store.producers.window_pairs(session, book, window, self._block)
        return agreement_rows(pairs, self._policy.producers)

    async def _recalibrate(self, book: str, producer: str, version: int, outcomes: int, as_of: datetime) -> bool:
        async with transaction(self._sessions) as session:
            history = await store.producers.confidence_history(session, book, producer, as_of, LONGEST_HISTORY)
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
            "policy_hash": self._policy.policy_hash,
        }
        told = {"book": book} | {name: row[name] for name in ("producer_id", "version", "adopted", "evidence", "as_of")}
        async with transaction(self._sessions) as session:
            if not await store.producers.write_recalibration(session, row):
                return False
            event = (EventType.recalibration, f"{book}/{producer}/{version}", told)
            await store.events.append(session, event)
        return True


def microseconds(instant: datetime) -> int:
    """Microseconds since 1970 (UTC), exactly."""
    since = instant - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def performance_rows(
    sums: Sequence[tuple[Any, ...]], abstained: Sequence[tuple[Any, ...]], producers: ProducersPolicy
) -> list[dict[str, Any]]:
    """Rows of producer_performance from the window's sums by (producer, asset, horizon, regime or '', bin)."""
    streams = list(dict.fromkeys((r[0], r[1], r[2], r[3]) for r in sums))
    number = {stream: i for i, stream in enumerate(streams)}
    names: list[list[str]] = [sorted({stream[i] for stream in streams}) for i in range(4)]
    codes = [{name: code for code, name in enumerate(known)} for known in names]
    keys = np.array([[codes[i][s[i]] for i in range(4)] for s in streams], dtype=np.int64).reshape(-1, 4)
    group = np.array([number[(r[0], r[1], r[2], r[3])] for r in sums], dtype=np.int64)
    values = np.array([r[5:] for r in sums], dtype=np.float64).reshape(-1, len(COLUMNS))
    bins = np.array([r[4] for r in sums], dtype=np.int64)
    all_keys, all_sums = with_all(keys, dense(group, bins, values, len(streams)))
    scores = performance(all_sums, producers)
    silent = _abstentions(abstained)
    rows: list[dict[str, Any]] = []
    for i, codes_of in enumerate(all_keys.tolist()):
        slices = ["" if code == ALL else names[j][code] for j, code in enumerate(codes_of)]
        if codes_of[3] != ALL and slices[3] == "":
            continue  # forecasts that named no regime have no row of their own: they are in that of all regimes
        key: Key = (slices[0], slices[1], slices[2], slices[3])
        rows.append(
            _keyed(key)
            | {name: _number(array[i]) for name, array in vars(scores).items()}
            | {"abstentions": silent.pop(key, 0), "sums": all_sums[i].tolist()}
        )
    nothing = performance(np.zeros((1, *all_sums.shape[1:])), producers)
    empty = {name: _number(array[0]) for name, array in vars(nothing).items()}
    return rows + [_keyed(key) | empty | {"abstentions": n, "sums": []} for key, n in sorted(silent.items())]


def _abstentions(rows: Sequence[tuple[Any, ...]]) -> Counter[Key]:
    """Abstentions of each slice, and of all assets, horizons and regimes."""
    counts: Counter[Key] = Counter()
    for producer, asset, horizon, regime, count in rows:
        for key in {(producer, a, h, r) for a in (asset, "") for h in (horizon, "") for r in (regime, "")}:
            counts[key] += count
    return counts


def _keyed(key: Key) -> dict[str, str]:
    return dict(zip(("producer_id", "asset", "horizon", "regime"), key, strict=True))


def agreement_rows(pairs: Sequence[tuple[Any, ...]], producers: ProducersPolicy) -> list[dict[str, Any]]:
    """Rows of producer_correlation from (asset, horizon, first, second, horizon in seconds, counts)."""
    counts = np.array([r[5:] for r in pairs], dtype=np.int64).reshape(-1, len(PAIR_COLUMNS))
    horizons = np.array([r[4] for r in pairs], dtype=np.int64) * 1_000_000
    rates = vars(agreement(counts, horizons, producers))
    return [
        {"asset": r[0], "horizon": r[1], "first": r[2], "second": r[3]}
        | {name: _number(array[i]) for name, array in rates.items()}
        for i, r in enumerate(pairs)
    ]


def _number(value: Any) -> Any:
    """A NumPy number as JSON has it; None where it is undefined."""
    plain = value.item()
    return None if isinstance(plain, float) and plain != plain else plain


def bins_of(sums: Sequence[Sequence[float]] | None) -> list[dict[str, Any]]:
    """The reliability diagram of a row of producer_performance."""
    return [asdict(b) for b in reliability(np.array(sums, dtype=np.float64))] if sums else []


def health_row(row: Mapping[str, Any], policy: LearningPolicy, as_of: datetime) -> dict[str, Any]:
    """A producer's health, from the counts of its heartbeats."""
    found = assess(
        row["successes"] or 0,
        row["failures"] or 0,
        row["last_success_at"],
        as_of,
        policy.producers,
    )
    return asdict(found)
