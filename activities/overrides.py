"""Overrides: actionable lessons become factors of size and shifts of thresholds; an operator decides on large ones."""

import hashlib
from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.books import known_book, on_record
from closeloop.activities.transactions import transaction
from closeloop.learning.overrides import expires_at, needs_approval, sizing
from closeloop.models.approvals import ApprovalVerdict
from closeloop.models.events import EventType
from closeloop.models.lessons import LessonView
from closeloop.models.overrides import (
    Materialized,
    MaterializeOverrides,
    OverrideStatus,
    OverrideView,
    ProposedOverride,
)
from closeloop.models.policy import LearningPolicy
from closeloop.services.approvals import approval_launch, start_waiting
from closeloop.services.override_decisions import OverrideProposal, override_key
from closeloop.services.recorded_closes import CLOCK_TOLERANCE
from closeloop.store.approvals import WaitingPage
from closeloop.store.database import Sessions

REFUSED = "OverridesRefused"
_DONE = EventType.overrides_materialized
_NUMBERS = ["lesson_version", "size_multiplier", "threshold_adjustments", "confidence", "expires_at", "policy_hash"]


class OverrideActivities:
    """Keeps overrides in line with the lessons."""

    def __init__(self, sessions: Sessions, policy: LearningPolicy, client: Client) -> None:
        self._sessions = sessions
        self._policy = policy
        self._client = client

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.materialize]

    @activity.defn(name="materialize_overrides")
    async def materialize(self, request: MaterializeOverrides) -> Materialized:
        """One transaction makes and closes a book's overrides; then operators are asked about those that wait."""
        if request.as_of > datetime.now(UTC) + CLOCK_TOLERANCE:
            raise _refused("as_of: must not be in the future")
        async with on_record(self._sessions, "overrides", request.book, refusal=REFUSED):
            return await self._materialize(request)

    async def _materialize(self, request: MaterializeOverrides) -> Materialized:
        run = activity.info().workflow_run_id or ""
        async with transaction(self._sessions) as session:
            await store.lessons.hold(session, request.book)
            await known_book(session, request.book, REFUSED)  # a removal takes these locks in the same order
            await store.overrides.carry_over_hash(
                session, request.book, self._policy.flat_hash, self._policy.overrides.hash
            )
            if done := await store.events.payloads(session, _DONE, [f"{request.book}/{run}"]):
                report = Materialized.model_validate(done[0])
                plan = None  # an attempt before this one made the changes
            else:
                plan = await self._plan(session, request, run)
                await store.overrides.end(session, plan.ended, request.as_of)
                await store.overrides.add(session, plan.new)
                report = await self._report(session, request, plan)
                event = (_DONE, f"{request.book}/{run}", report.model_dump(mode="json"))
                await store.events.append(session, event)
            waiting = await OverrideProposal().waiting(session, WaitingPage(book=request.book))
        for proposal in waiting:
            await start_waiting(self._client, approval_launch(proposal))
            activity.heartbeat(proposal.id)
        for override_id in plan.withdrawn if plan else []:
            await self._look(request.book, override_id)
        return report

    async def _report(self, session: AsyncSession, request: MaterializeOverrides, plan: "_Plan") -> Materialized:
        now = await store.overrides.open_overrides(session, request.book)
        return Materialized(
            book=request.book,
            as_of=request.as_of,
            active=sum(o.status is OverrideStatus.active for o in now),
            created=len(plan.new),
            pending=sum(o.status is OverrideStatus.pending for o in now),
            ended=len(plan.ended),
            policy_hash=self._policy.overrides.hash,
        )

    async def _plan(self, session: AsyncSession, request: MaterializeOverrides, run: str) -> "_Plan":
        """What is new and what ends. Raises ApplicationError where that would be a step back in time."""
        last = await store.lessons.last_run(session, request.book)
        seen = [await store.overrides.newest_as_of(session, request.book), last.as_of if last else None]
        newest = max((instant for instant in seen if instant is not None), default=None)
        if newest is not None and request.as_of < newest:
            raise _refused(f"as_of: must not be before that of the last lessons and overrides, {newest.isoformat()}")
        refused = await store.overrides.rejected_or_expired(session, request.book)
        before = await store.overrides.open_overrides(session, request.book)
        active = {o.lesson_id: o for o in before if o.status is OverrideStatus.active}
        pending = {o.lesson_id: o for o in before if o.status is OverrideStatus.pending}
        lessons = {lesson.lesson_id: lesson for lesson in await store.lessons.actionable(session, request.book)}
        plan = _Plan(deadline=datetime.now(UTC) + timedelta(hours=self._policy.approvals.hours))
        for lesson in lessons.values():
            proposed = self._proposed(lesson, request.as_of, run)
            in_force, waiting = active.get(lesson.lesson_id), pending.get(lesson.lesson_id)
            if proposed.expires_at > request.as_of:
                plan.propose(proposed, in_force, waiting, refused, self._policy)
            else:
                plan.end([in_force, waiting], "expired")
        for override in before:
            if override.lesson_id not in lessons:
                plan.end([override], "its lesson is no longer actionable")
            elif override.expires_at <= request.as_of:
                plan.end([override], "expired")
        return plan

    def _proposed(self, lesson: LessonView, as_of: datetime, run: str) -> ProposedOverride:
        assert lesson.effect_now is not None, "an actionable lesson has an effect"
        size = sizing(lesson.effect_now, lesson.n, lesson.action_category, self._policy.overrides)
        identity = to_json([lesson.lesson_id, lesson.version, run])
        return ProposedOverride(
            override_id=hashlib.sha256(identity).hexdigest()[:16],
            book_id=lesson.book,
            pattern_key=lesson.pattern_key,
            action_category=lesson.action_category,
            scope=lesson.scope,
            anchor=store.overrides.conditions(lesson.scope)[0],
            size_multiplier=size.size_multiplier,
            threshold_adjustments=size.threshold_adjustments,
            confidence=size.confidence,
            expires_at=expires_at(lesson.newest_trade_at, lesson.half_life_hours, self._policy.overrides),
            lesson_id=lesson.lesson_id,
            lesson_version=lesson.version,
            run=run,
            as_of=as_of,
            policy_hash=self._policy.overrides.hash,
        )

    async def _look(self, book: str, override_id: str) -> None:
        """Signal the workflow that waits for a decision on this override that it was withdrawn; it may have ended."""
        try:
            await self._client.get_workflow_handle(override_key(book, override_id).workflow_id).signal("look")
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise


@dataclass
class _Plan:
    """What a run does to a book's overrides.

    ``new``: overrides to be stored. ``ended``: why an override ends, by its id. ``withdrawn``: ids of those that end
    while they wait for an operator. ``deadline``: until when new ones wait that need an operator.
    """

    deadline: datetime
    new: list[ProposedOverride] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)
    withdrawn: list[str] = field(default_factory=list)

    def end(self, overrides: Iterable[OverrideView | None], reason: str) -> None:
        """End these overrides; None stands for one that does not exist."""
        for override in overrides:
            if override is not None and override.override_id not in self.ended:
                self.ended[override.override_id] = reason
                if override.status is OverrideStatus.pending:
                    self.withdrawn.append(override.override_id)

    def propose(
        self,
        proposed: ProposedOverride,
        active: OverrideView | None,
        pending: OverrideView | None,
        refused: Container[tuple[str, int, str]],
        policy: LearningPolicy,
    ) -> None:
        """Make an override of a lesson's numbers, unless one in force or waiting has them; a large one waits.

        While it waits, the lesson's override in force stays, until it is replaced or expires or its lesson is no longer
        actionable. ``refused``: (lesson_id, lesson_version, policy_hash) that an operator is not asked about again.
        """
        if _has_numbers_of(active, proposed):
            self.end([pending], "what it would have replaced is what the lesson says again")
        elif (
            _has_numbers_of(pending, proposed)
            or (proposed.lesson_id, proposed.lesson_version, proposed.policy_hash) in refused
        ):
            return
        else:
            self.end([pending], f"replaced by {proposed.override_id}")
            if needs_approval(proposed.size_multiplier, policy.overrides) and not _approved_before(active, proposed):
                self.new.append(replace(proposed, status=OverrideStatus.pending, deadline=self.deadline))
            else:
                self.end([active], f"replaced by {proposed.override_id}")
                self.new.append(proposed)


def _has_numbers_of(override: OverrideView | None, proposed: ProposedOverride) -> bool:
    return override is not None and all(getattr(override, name) == getattr(proposed, name) for name in _NUMBERS)


def _approved_before(active: OverrideView | None, proposed: ProposedOverride) -> bool:
    """Whether the override in force was approved by an operator and changes size at least as much, the same way."""
    if active is None or active.verdict != ApprovalVerdict.approve:
        return False
    approved, asked = active.size_multiplier - 1, proposed.size_multiplier - 1
    return approved * asked > 0 and abs(asked) <= abs(approved)


def _refused(reason: str) -> ApplicationError:
    return ApplicationError(reason, type=REFUSED, non_retryable=True)
