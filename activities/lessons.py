"""Lessons of a book: load its trades, mine them, write a version."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
from pydantic_core import to_json
from sqlalchemy import Row
from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.books import known_book, on_record
from closeloop.activities.heartbeats import beating
from closeloop.activities.transactions import transaction
from closeloop.learning.decay import fading
from closeloop.learning.edge import SignatureWeights, edge_score, factors, signature_weights, weights_of
from closeloop.learning.lessons import Lesson
from closeloop.learning.mining import is_due, mine
from closeloop.learning.overrides import is_actionable
from closeloop.learning.trades import Group, Trade, group_of
from closeloop.models.events import EventType
from closeloop.models.lessons import (
    BookNames,
    BooksPage,
    BuildLessons,
    BuiltLessons,
    LearningLesson,
    LearningRegimeWeights,
    LessonGroup,
    LessonRun,
    LessonStatus,
    SkippedGroup,
)
from closeloop.models.policy import LearningPolicy, hash_of
from closeloop.models.sentences import strongest_untold
from closeloop.services.recorded_closes import CLOCK_TOLERANCE
from closeloop.store.database import Sessions

REFUSED = "LessonsRefused"
SKIPPED_GROUPS_LISTED = 20  # most groups that a report names as not mined

GroupKey = tuple[str, str]


def mining_hash(policy: LearningPolicy) -> str:
    """The hash of what lessons are mined with: a group is mined again where one of these numbers has changed."""
    return hash_of(policy.mining, policy.decay, policy.edge)


class LessonActivities:
    """Builds lessons."""

    def __init__(self, sessions: Sessions, policy: LearningPolicy) -> None:
        self._sessions = sessions
        self._policy = policy

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.books, self.build]

    @activity.defn(name="books_with_patterns")
    async def books(self, page: BooksPage | None = None) -> BookNames:
        """A page of the books that have actions to learn from. Null asks for all, as workflows of 0.1 did."""
        after, limit = (page.after, page.limit) if page else (None, None)
        async with transaction(self._sessions) as session:
            return BookNames(books=await store.patterns.books(session, after, limit))

    @activity.defn(name="build_lessons")
    async def build(self, request: BuildLessons) -> BuiltLessons:
        """Mine the groups of a book that are due and write what came out as a version. A retry finds it written."""
        if request.as_of > datetime.now(UTC) + CLOCK_TOLERANCE:
            raise _refused("as_of: must not be in the future")
        run = activity.info().workflow_run_id or ""
        async with on_record(self._sessions, "lessons", request.book, refusal=REFUSED), beating():
            async with transaction(self._sessions) as session:
                await known_book(session, request.book, REFUSED)
                await store.lessons.carry_over_hash(
                    session, request.book, self._policy.flat_hash, mining_hash(self._policy)
                )
            async with transaction(self._sessions) as session:
                if written := await store.lessons.report_of(session, request.book, run):
                    return written
                last = await store.lessons.last_run(session, request.book)
                if last is not None and request.as_of < last.as_of:
                    if request.by_schedule:  # somebody has built them since this period began
                        policy_hash = mining_hash(self._policy)
                        return BuiltLessons(book=request.book, as_of=request.as_of, policy_hash=policy_hash)
                    raise _refused(f"as_of: must not be before that of the last run, {last.as_of.isoformat()}")
                found = await store.patterns.groups(
                    session, request.book, request.as_of, self._policy.mining.same_trade
                )
                counts = {(g.pattern_key, g.action_category): g.trades for g in found}
                before = {
                    (g.pattern_key, g.action_category): g for g in await store.lessons.groups(session, request.book)
                }
                wanted = [key for key in counts if request.force or self._is_due(counts[key], before.get(key))]
                skipped = [_skipped(key, counts[key], before[key].trades) for key in counts if key not in wanted]
                report = BuiltLessons(
                    book=request.book,
                    as_of=request.as_of,
                    skipped=len(skipped),
                    skipped_groups=skipped[:SKIPPED_GROUPS_LISTED],
                    same_trade=self._policy.mining.same_trade,
                    repeated=sum(g.repeated for g in found if (g.pattern_key, g.action_category) in wanted),
                    policy_hash=mining_hash(self._policy),
                )
                if not wanted:
                    return report
                batches = store.patterns.trades(
                    session, request.book, request.as_of, wanted, self._policy.mining.same_trade
                )
                groups = await asyncio.to_thread(_groups_of, _rows_for_a_thread(batches))
            return await self._write(request, report, run, last.version if last else 0, groups)

    def _is_due(self, trades: int, before: LessonGroup | None) -> bool:
        if before is None:
            return is_due(trades, None, self._policy.mining)
        return before.policy_hash != mining_hash(self._policy) or is_due(trades, before.trades, self._policy.mining)

    async def _write(
        self, request: BuildLessons, report: BuiltLessons, run: str, before: int, groups: Sequence[Group]
    ) -> BuiltLessons:
        version = before + 1
        mined = await asyncio.to_thread(self._mine, request, version, groups)
        counted = Counter(lesson.status for lesson in mined.lessons)
        report = report.model_copy(
            update={
                "version": version,
                "trades": sum(group.n for group in groups),
                "groups": len(groups),
                "candidates": mined.candidates,
                "lessons": counted[LessonStatus.active],
                "actionable": sum(lesson.actionable for lesson in mined.lessons),
                "shadows": counted[LessonStatus.shadow],
                "untold": mined.untold,
                "strongest": mined.strongest,
            }
        )
        written = LessonRun(
            book_id=request.book,
            version=version,
            as_of=request.as_of,
            workflow_run=run,
            report={},
            policy_hash=report.policy_hash,
        )
        async with transaction(self._sessions) as session:
            await store.lessons.hold(session, request.book)
            await known_book(session, request.book, REFUSED)  # it may have been removed since
            last = await store.lessons.last_run(session, request.book)
            if (last.version if last else 0) != before:
                # Another run wrote a version meanwhile: Temporal retries, and that attempt mines the groups still due.
                raise ApplicationError("another run has written lessons meanwhile", type="LessonsChanged")
            retired = await store.lessons.write(session, written, mined.groups, mined.lessons, mined.weights)
            report = report.model_copy(update={"retired": retired})
            await store.lessons.set_report(session, request.book, version, report)
            event = (EventType.lessons_built, f"{request.book}/{version}", report.model_dump(mode="json"))
            await store.events.append(session, event)
        return report

    def _mine(self, request: BuildLessons, version: int, groups: Sequence[Group]) -> "_Version":
        mined = mine(groups, self._policy.mining)
        by_key = {group.key: group for group in groups}
        learned = {key: signature_weights(group, self._policy.edge) for key, group in by_key.items()}
        of_all = mining_hash(self._policy)
        evidence = [lesson.evidence for lesson in mined.lessons if lesson.evidence and lesson.evidence.untold]
        return _Version(
            candidates=mined.candidates,
            untold=sum(each.untold or 0 for each in evidence),
            strongest=strongest_untold(evidence),
            groups=[
                LessonGroup(
                    book_id=request.book,
                    pattern_key=group.pattern_key,
                    action_category=group.action_category,
                    trades=group.n,
                    version=version,
                    policy_hash=of_all,
                )
                for group in groups
            ],
            lessons=[
                self._lesson(request, version, by_key[key], lesson, learned[key])
                for lesson in mined.lessons
                for key in [(lesson.pattern_key, lesson.action_category)]
            ],
            weights=[
                LearningRegimeWeights(
                    book_id=request.book,
                    pattern_key=pattern,
                    action_category=action,
                    regime_signature=one.signature,
                    weights=asdict(one.weights),
                    n=one.n,
                    version=version,
                    policy_hash=of_all,
                )
                for (pattern, action), of_group in learned.items()
                for one in of_group
            ],
        )

    def _lesson(
        self, request: BuildLessons, version: int, group: Group, lesson: Lesson, learned: Sequence[SignatureWeights]
    ) -> LearningLesson:
        policy, rows = self._policy, group.rows(lesson.conditions)
        newest = float(group.entered_at[rows].max())
        half_life_hours, now, left, score, of_lesson = None, None, None, None, {}
        if lesson.status is not LessonStatus.shadow:  # of shadows there are thousands, and nothing is decided by them
            left = lesson.effect
            if found_fading := fading(group.entered_at[rows], self._excess(group, rows), policy.decay):
                half_life_hours = found_fading.half_life_hours
                now = found_fading.left(request.as_of.timestamp(), policy.decay.interval)
                left = now.effect
            found = factors(group, rows)
            of_lesson = asdict(found)
            if lesson.effect is not None:
                age_hours = (request.as_of.timestamp() - newest) / 3600
                weights = weights_of(group, rows, learned)
                score = edge_score(found, weights, lesson.effect, half_life_hours, age_hours)
        explained_by = lesson.explained_by
        return LearningLesson(
            lesson_id=lesson_id(request.book, group.key, lesson.conditions),
            book_id=request.book,
            pattern_key=group.pattern_key,
            action_category=group.action_category,
            scope=dict(sorted(lesson.conditions.items())),
            n=lesson.n,
            avg_rr=lesson.avg_rr,
            variance=lesson.variance,
            win_rate=lesson.win_rate,
            edge_raw=lesson.edge_raw,
            effect=lesson.effect,
            effect_low=lesson.effect_low,
            effect_high=lesson.effect_high,
            half_life_hours=half_life_hours,
            effect_now=left,
            effect_now_low=now.low if now else None,
            effect_now_high=now.high if now else None,
            p=lesson.p,
            q=lesson.q,
            actionable=is_actionable(
                lesson.status is LessonStatus.active,
                lesson.q,
                lesson.effect,
                half_life_hours,
                now,
                policy.mining,
                policy.decay,
            ),
            explained_by=None if explained_by is None else lesson_id(request.book, group.key, explained_by),
            status=lesson.status,
            edge_score=score,
            factors=of_lesson,
            evidence=lesson.evidence.model_dump(mode="json") if lesson.evidence else None,
            newest_trade_at=datetime.fromtimestamp(newest, UTC),
            version=version,
            as_of=request.as_of,
            policy_hash=mining_hash(policy),
        )

    def _excess(self, group: Group, rows: Any) -> Any:
        """rr of these trades minus the mean of the others; minus the policy's baseline where there are no others."""
        outside = np.ones(group.n, dtype=np.bool_)
        outside[rows] = False
        return group.rr[rows] - (group.rr[outside].mean() if outside.any() else self._policy.mining.baseline_rr)


@dataclass(frozen=True)
class _Version:
    """What a run writes."""

    candidates: int
    untold: int
    strongest: str | None
    groups: list[LessonGroup]
    lessons: list[LearningLesson]
    weights: list[LearningRegimeWeights]


def lesson_id(book: str, group: GroupKey, conditions: Mapping[str, str]) -> str:
    """The id of a lesson: the same in every run, as it is made of the book, the group and the conditions."""
    identity = to_json([book, *group, sorted(conditions.items())])
    return hashlib.sha256(identity).hexdigest()[:16]


def _groups_of(rows: Iterator[Row[Any]]) -> list[Group]:
    return [
        group_of(pattern, action, map(_trade, of_group))
        for (pattern, action), of_group in groupby(rows, key=lambda row: (row.pattern_key, row.action_category))
    ]


def _trade(row: Row[Any]) -> Trade:
    opened: datetime = row.opened_at
    return Trade(
        trade_id=row.position_id,
        symbol=row.symbol,
        rr=row.rr,
        entered_at=opened.timestamp(),
        held_hours=(row.closed_at - opened).total_seconds() / 3600,
        scope=row.scope,
    )


def _rows_for_a_thread(batches: AsyncIterator[Sequence[Row[Any]]]) -> Iterator[Row[Any]]:
    """An iterator for a thread over rows that the event loop fetches: one batch at a time is in memory."""
    loop = asyncio.get_running_loop()

    async def following() -> Sequence[Row[Any]] | None:
        return await anext(batches, None)

    def pull() -> Iterator[Row[Any]]:
        while (batch := asyncio.run_coroutine_threadsafe(following(), loop).result()) is not None:
            yield from batch

    return pull()


def _skipped(key: GroupKey, trades: int, before: int) -> SkippedGroup:
    reason = f"{trades} trades, {before} when it was last mined: too few new ones (--force mines it all the same)"
    return SkippedGroup(pattern_key=key[0], action_category=key[1], reason=reason)


def _refused(reason: str) -> ApplicationError:
    return ApplicationError(reason, type=REFUSED, non_retryable=True)
