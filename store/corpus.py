"""Outcomes of patterns, and the planned changes of skills that they lead to."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.corpus import PlanResult, PlanState, SkillPlan
from closeloop.store import locks
from closeloop.store.rows import Write, as_json, execute, insertion, recordset

_OF_THE_PLAN = {
    *("plan_id", "name", "folder", "destination", "old_score", "new_score", "old_sha256", "new_sha256", "matches")
}

_SETTLE = (
    "UPDATE skill_scores s SET state = r.state, moved = r.moved, settled_by = r.settled_by, "  # noqa: S608
    f"settled_at = clock_timestamp() FROM {recordset(SkillPlan)} r WHERE s.plan_id = r.plan_id"
)
_SETTLE_MATCHES = (
    "UPDATE pattern_matches m SET applied = r.state = 'done', "  # noqa: S608
    f"plan_id = CASE r.state WHEN 'done' THEN m.plan_id END FROM {recordset(SkillPlan)} r "
    "WHERE (m.pattern_key, m.plan_id) = (r.name, r.plan_id) AND NOT m.applied"
)
_CLAIM = (
    "WITH claimed AS (UPDATE pattern_matches m SET plan_id = r.plan_id "  # noqa: S608
    f"FROM {recordset(SkillPlan)} r WHERE m.pattern_key = r.name AND NOT m.applied AND m.plan_id IS NULL "
    "AND (CAST(:as_of AS timestamptz) IS NULL OR m.closed_at <= :as_of) "
    "RETURNING m.plan_id, m.outcome) "
    "SELECT plan_id, count(*) AS matches, sum(outcome) AS outcome FROM claimed GROUP BY plan_id"
)


async def lock(session: AsyncSession) -> None:
    """Lock the corpus until the transaction ends, so that one run at a time plans changes or touches files."""
    await locks.one_at_a_time(session, locks.CORPUS)


async def record_matches(session: AsyncSession, as_of: datetime | None = None) -> None:
    """Record each pattern that a position attributed and closed by ``as_of`` acted on, once.

    It reads the attributions, so that live closes and imports count alike. An ``actions`` that is no list of objects
    with a ``pattern_key`` is passed over.
    """
    await session.execute(
        text(
            "INSERT INTO pattern_matches (book_id, position_id, pattern_key, outcome, closed_at) "
            "SELECT DISTINCT a.book_id, a.position_id, action ->> 'pattern_key', "
            "CASE WHEN a.direction_correct THEN 1 ELSE -1 END, a.closed_at "
            "FROM attributions a JOIN positions p USING (book_id, position_id) CROSS JOIN LATERAL jsonb_array_elements("
            "CASE WHEN jsonb_typeof(p.entry_context -> 'actions') = 'array' THEN p.entry_context -> 'actions' "
            "ELSE '[]' END) action WHERE jsonb_typeof(action -> 'pattern_key') = 'string' "
            "AND octet_length(action ->> 'pattern_key') BETWEEN 1 AND 200 "
            "AND action ->> 'pattern_key' !~ '[[:cntrl:]]' "
            "AND (CAST(:as_of AS timestamptz) IS NULL OR a.closed_at <= :as_of) "
            "ORDER BY 1, 2, 3 ON CONFLICT (book_id, position_id, pattern_key) DO NOTHING"
        ),
        {"as_of": as_of},
    )


async def unapplied(session: AsyncSession) -> Sequence[RowMapping]:
    """Patterns with outcomes that no skill's score contains yet: their number (``matches``) and sum (``outcome``)."""
    result = await session.execute(
        text(
            "SELECT pattern_key, count(*) AS matches, sum(outcome) AS outcome FROM pattern_matches "
            "WHERE NOT applied GROUP BY pattern_key ORDER BY pattern_key"
        )
    )
    return result.mappings().all()


async def claim(session: AsyncSession, plans: Mapping[str, str], as_of: datetime | None) -> dict[str, tuple[int, int]]:
    """Assign to each plan (plan id by pattern) the outcomes of its pattern by ``as_of`` that no plan has.

    Returns their (number, sum) by plan id.
    """
    if not plans:
        return {}
    rows = [{"plan_id": plan_id, "name": name} for name, plan_id in plans.items()]
    result = await session.execute(text(_CLAIM), {"rows": as_json(rows), "as_of": as_of})
    return {r.plan_id: (r.matches, r.outcome) for r in result}


async def release(session: AsyncSession, plans: Mapping[str, str]) -> None:
    """Give back the outcomes that were claimed for plans (plan id by pattern) which were not made after all."""
    rows = [{"plan_id": plan_id, "name": name, "state": PlanState.dropped} for name, plan_id in plans.items()]
    if rows:
        await execute(session, Write(_SETTLE_MATCHES, as_json(rows)))


def planning(plans: Sequence[SkillPlan]) -> Write | None:
    """The write that stores plans, to be carried out by this run or the next one."""
    return insertion(SkillPlan, [plan.model_dump(include=_OF_THE_PLAN) for plan in plans])


async def due(session: AsyncSession) -> list[SkillPlan]:
    """Plans that were not carried out yet, the oldest first."""
    result = await session.execute(
        text("SELECT * FROM skill_scores WHERE state = 'due' ORDER BY planned_at, name"),
    )
    return [SkillPlan(**row) for row in result.mappings()]


def settling(carried_out: Sequence[tuple[SkillPlan, PlanResult]], by: str) -> list[Write]:
    """Writes that record what became of plans and of the outcomes that they claimed.

    Outcomes count as applied where the file has the new score, and may be claimed again where it has not. A plan that
    is still due stays as it is. ``by``: the workflow run.
    """
    rows = [
        {"plan_id": p.plan_id, "name": p.name, "state": done.state, "moved": done.moved, "settled_by": by}
        for p, done in carried_out
        if done.state is not PlanState.due
    ]
    return [Write(_SETTLE_MATCHES, as_json(rows)), Write(_SETTLE, as_json(rows))] if rows else []


async def settled(session: AsyncSession, by: str) -> list[SkillPlan]:
    """The plans that a workflow run (``by``) carried out, by name."""
    result = await session.execute(
        text("SELECT * FROM skill_scores WHERE settled_by = :by AND state = 'done' ORDER BY name, planned_at"),
        {"by": by},
    )
    return [SkillPlan(**row) for row in result.mappings()]
