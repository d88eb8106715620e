"""The corpus: outcomes of patterns are recorded, added to the scores of skills, and skills move by their scores.

Files and the database cannot change in one step. So each change of a file is planned in a transaction, carried out,
and settled in another one; a run begins by finishing the plans that an earlier one left.
"""

import asyncio
import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from temporalio import activity

from closeloop import store
from closeloop.activities.transactions import transaction
from closeloop.gateways.skills import CLASH, SkillFolder
from closeloop.learning.corpus import NoScore, destination, read_score, with_score
from closeloop.models.corpus import (
    CarriedOut,
    CorpusReport,
    CorpusRequest,
    SkillFile,
    SkillPlan,
    SkillScored,
    SkillSkipped,
    SkillState,
    place,
)
from closeloop.models.events import EventType
from closeloop.store.database import Sessions

LISTED = 1_000
NEXT = {SkillState.pending: SkillState.active, SkillState.active: SkillState.archived}
TWICE = "an active skill has the same name: neither is given the outcomes of the pattern, and this one stays pending"


class CorpusActivities:
    """Tends the corpus."""

    def __init__(self, sessions: Sessions, skills: SkillFolder) -> None:
        self._sessions = sessions
        self._skills = skills

    @activity.defn(name="tend_corpus")
    async def tend_corpus(self, request: CorpusRequest) -> CorpusReport:
        """Finish what an earlier run left, plan from what the files say now, and carry that out."""
        run = activity.info().workflow_run_id or ""
        async with transaction(self._sessions) as session:
            await store.corpus.record_matches(session)
        skipped = await self._carry_out(run)
        skipped += await self._plan()
        skipped += await self._carry_out(run)
        async with transaction(self._sessions) as session:
            # Of the whole run, so that a retry reports what the first attempt did.
            settled = await store.corpus.settled(session, run)
        return _report(settled, skipped)

    async def _plan(self) -> list[SkillSkipped]:
        async with transaction(self._sessions) as session:
            await store.corpus.lock(session)
            due = {plan.name for plan in await store.corpus.due(session)}
            files = await asyncio.to_thread(self._skills.scan)
            skills, skipped = _readable([file for file in files if file.name not in due])
            ids = {skill.file.name: uuid.uuid4().hex for skill in skills if skill.scorable}
            claimed = await store.corpus.claim(session, ids)
            taken = {(file.state, file.name) for file in files}
            plans, failed = [], {}
            for skill in skills:
                plan_id = ids[skill.file.name] if skill.scorable else uuid.uuid4().hex
                matches, outcome = claimed.get(plan_id, (0, 0))
                plan, content = skill.plan(plan_id, matches, outcome)
                to = plan.destination
                if to is not None and not skill.half_moved and (to, plan.name) in taken:
                    skipped.append(SkillSkipped(skill=skill.file.place, reason=CLASH))
                    plan.destination = None
                if plan.new_score != plan.old_score:
                    try:
                        await asyncio.to_thread(self._skills.stage, plan, content)
                    except OSError as error:
                        reason = f"its new score cannot be written: {error.strerror or type(error).__name__}"
                        skipped.append(SkillSkipped(skill=skill.file.place, reason=reason))
                        failed[plan.name] = plan_id
                        continue
                if matches or plan.destination is not None:
                    plans.append(plan)
                activity.heartbeat(plan.name)
            await store.corpus.release(session, failed)
            events = store.events.appending([_skip_event(item) for item in skipped])
            await store.rows.execute(session, store.corpus.planning(plans), events)
        return skipped

    async def _carry_out(self, run: str) -> list[SkillSkipped]:
        async with transaction(self._sessions) as session:
            await store.corpus.lock(session)
            due = await store.corpus.due(session)
            await asyncio.to_thread(self._skills.tidy, {plan.plan_id for plan in due})
            carried_out: list[tuple[SkillPlan, CarriedOut]] = []
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


@dataclass(frozen=True)
class _Skill:
    """A file that says its score. ``half_moved``: it is in the next folder, too, and needs only to leave this one."""

    file: SkillFile
    score: int
    scorable: bool
    half_moved: bool

    def plan(self, plan_id: str, matches: int, outcome: int) -> tuple[SkillPlan, bytes]:
        """The change that these outcomes lead to, and the file's content after it."""
        old, score = self.file.content, self.score + outcome
        new = with_score(old, score) if outcome else old
        to = NEXT[self.file.state] if self.half_moved else destination(self.file.state, score)
        plan = SkillPlan(
            plan_id=plan_id,
            name=self.file.name,
            folder=self.file.state,
            destination=to,
            old_score=self.score,
            new_score=score,
            old_sha256=hashlib.sha256(old).hexdigest(),
            new_sha256=hashlib.sha256(new).hexdigest(),
            matches=matches,
        )
        return plan, new


def _readable(files: Iterable[SkillFile]) -> tuple[list[_Skill], list[SkillSkipped]]:
    """Skills that can be worked on, and what is reported of the others."""
    places = {(file.state, file.name): file for file in files}
    # One file under two names was being moved; two files of one name are for a person to sort out.
    leaving: dict[str, SkillState] = {}
    twice: set[str] = set()
    for (state, name), file in places.items():
        following = places.get((NEXT[state], name)) if state in NEXT else None
        if following is not None and following.inode == file.inode:
            leaving.setdefault(name, state)
        elif following is not None and state is SkillState.pending:
            twice.add(name)
    skills: list[_Skill] = []
    skipped: list[SkillSkipped] = []
    for (state, name), file in places.items():
        reason = file.problem
        if reason is None and name in twice and state is SkillState.pending:
            reason = TWICE
        if reason is None:
            try:
                score = read_score(file.content)
            except NoScore as error:
                reason = str(error)
        if reason is not None:
            skipped.append(SkillSkipped(skill=file.place, reason=reason))
        elif leaving.get(name, state) is state:
            half_moved = name in leaving
            scorable = state in NEXT and name not in twice and not half_moved
            skills.append(_Skill(file, score, scorable, half_moved))
    return skills, skipped


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
        scored=scored[:LISTED],
        promoted=promoted[:LISTED],
        archived=archived[:LISTED],
        skipped=once[:LISTED],
        unlisted=sum(max(0, len(one) - LISTED) for one in every),
    )
