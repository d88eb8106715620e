"""The corpus: outcomes of patterns are recorded, added to the scores of skills, and skills move by their scores.

No transaction contains both a file and the database. So each change of a file is planned in one transaction, carried
out on the disk, and settled in a second transaction. A run that dies in between leaves its plans on record, and the
next run begins by finishing them.
"""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from temporalio import activity

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.transactions import transaction
from closeloop.gateways.skills import SkillFolder
from closeloop.learning.skill_moves import change_of, readable
from closeloop.models.corpus import (
    CorpusReport,
    CorpusRequest,
    PlanResult,
    SkillPlan,
    SkillScored,
    SkillSkipped,
    SkillState,
    place,
)
from closeloop.models.events import EventType
from closeloop.models.policy import LearningPolicy
from closeloop.store.database import Sessions

MAX_LISTED = 200  # entries of each list of the report, which has to fit into a workflow's history


class CorpusActivities:
    """Tends the corpus."""

    def __init__(self, sessions: Sessions, policy: LearningPolicy, skills: SkillFolder) -> None:
        self._sessions = sessions
        self._policy = policy
        self._skills = skills

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.tend_corpus]

    @activity.defn(name="tend_corpus")
    async def tend_corpus(self, request: CorpusRequest) -> CorpusReport:
        """Finish what an earlier run left, plan from what the files say now, and carry that out."""
        run = activity.info().workflow_run_id or ""
        async with transaction(self._sessions) as session:
            await store.corpus.record_matches(session, request.as_of)
        skipped = await self._carry_out(run)
        skipped += await self._plan(request.as_of)
        skipped += await self._carry_out(run)
        async with transaction(self._sessions) as session:
            # All that this run settled: a retry then also reports what the attempt before it did.
            settled = await store.corpus.settled(session, run)
        return _report(settled, skipped)

    async def _plan(self, as_of: datetime | None) -> list[SkillSkipped]:
        async with transaction(self._sessions) as session:
            await store.corpus.lock(session)
            due = {plan.name for plan in await store.corpus.due(session)}
            files = await asyncio.to_thread(self._skills.scan)
            skills, skipped = readable([file for file in files if file.name not in due])
            ids = {skill.file.name: uuid.uuid4().hex for skill in skills if skill.scorable}
            claimed = await store.corpus.claim(session, ids, as_of)
            taken = {(file.state, file.name) for file in files}
            plans: list[SkillPlan] = []
            failed: dict[str, str] = {}
            for skill in skills:
                plan_id = ids[skill.file.name] if skill.scorable else uuid.uuid4().hex
                change = change_of(skill, plan_id, *claimed.get(plan_id, (0, 0)), taken, self._policy.corpus)
                if change.clash is not None:
                    skipped.append(change.clash)
                if change.rewrites:
                    try:
                        await asyncio.to_thread(self._skills.stage, change.plan, change.content)
                    except OSError as error:
                        reason = f"its new score cannot be written: {error.strerror or type(error).__name__}"
                        skipped.append(SkillSkipped(skill=skill.file.place, reason=reason))
                        failed[skill.file.name] = plan_id
                        continue
                if change.is_needed:
                    plans.append(change.plan)
                activity.heartbeat(skill.file.name)
            await store.corpus.release(session, failed)
            events = store.events.appending([_skip_event(item) for item in skipped])
            await store.rows.execute(session, store.corpus.planning(plans), events)
        return skipped

    async def _carry_out(self, run: str) -> list[SkillSkipped]:
        async with transaction(self._sessions) as session:
            await store.corpus.lock(session)
            due = await store.corpus.due(session)
            await asyncio.to_thread(self._skills.tidy, {plan.plan_id for plan in due})
            carried_out: list[tuple[SkillPlan, PlanResult]] = []
            for plan in due:
                carried_out.append((plan, await asyncio.to_thread(self._skills.carry_out, plan)))
                activity.heartbeat(plan.name)
            skipped = [
                SkillSkipped(skill=place(plan.folder, plan.name), reason=done.problem)
                for plan, done in carried_out
                if done.problem is not None
            ]
            events = [_move_event(plan) for plan, done in carried_out if done.moved]
            events += [_skip_event(item) for item in skipped]
            await store.rows.execute(session, *store.corpus.settling(carried_out, run), store.events.appending(events))
        return skipped


def _move_event(plan: SkillPlan) -> tuple[EventType, str, dict[str, Any]]:
    kind = EventType.skill_promoted if plan.destination == SkillState.active else EventType.skill_archived
    payload = {"skill": plan.name, "from": plan.folder, "to": plan.destination, "score": plan.new_score}
    # A person may move a skill back: it can be promoted more than once, each time by a plan of its own.
    return kind, f"{plan.name}/{plan.plan_id}", payload


def _skip_event(item: SkillSkipped) -> tuple[EventType, str, dict[str, Any]]:
    return EventType.skill_skipped, f"{item.skill}/{item.reason}", item.model_dump()


def _report(settled: Sequence[SkillPlan], skipped: Sequence[SkillSkipped]) -> CorpusReport:
    scored = [
        SkillScored(name=p.name, before=p.old_score, after=p.new_score, matches=p.matches) for p in settled if p.matches
    ]
    promoted = [p.name for p in settled if p.moved and p.destination == SkillState.active]
    archived = [p.name for p in settled if p.moved and p.destination == SkillState.archived]
    once = list({(s.skill, s.reason): s for s in skipped}.values())
    every: tuple[Sequence[object], ...] = (scored, promoted, archived, once)
    return CorpusReport(
        scored=scored[:MAX_LISTED],
        promoted=promoted[:MAX_LISTED],
        archived=archived[:MAX_LISTED],
        skipped=once[:MAX_LISTED],
        unlisted=sum(max(0, len(one) - MAX_LISTED) for one in every),
    )
