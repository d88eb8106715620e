"""Calls of the language model: reserved before they are made, settled after; what a day has cost."""

from dataclasses import asdict
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.model_calls import (
    UNUSABLE_ANSWERS,
    CallOutcome,
    DaySpending,
    NotReserved,
    QuestionCost,
    ReservationRequest,
    ReservedCall,
    Usage,
)
from closeloop.store import locks

_TODAY = "date_trunc('day', clock_timestamp() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"


async def reserve(session: AsyncSession, wanted: ReservationRequest) -> ReservedCall | NotReserved:
    """Reserve the most that a call can cost, unless that is more than what is left of today's budget.

    Nothing is reserved either while another run asks the same question, or where the question has used up its attempts.
    A reservation that nobody settled by its end counts as lost: its call may have been made, so it counts as paid.
    """
    await locks.one_at_a_time(session, locks.MODEL_BUDGET)
    await session.execute(
        text(
            "UPDATE llm_calls SET outcome = :lost, cost_usd = reserved_usd, settled_at = clock_timestamp(), "
            "reason = 'the process that asked did not come back' "
            "WHERE dedupe_key = :key AND settled_at IS NULL AND held_until <= clock_timestamp()"
        ),
        {"key": wanted.key, "lost": CallOutcome.lost},
    )
    before = (
        await session.execute(
            text(
                "SELECT count(*) FILTER (WHERE outcome = ANY(CAST(:none AS text[]))) AS unanswered, "
                "extract(epoch FROM max(held_until) FILTER (WHERE settled_at IS NULL) - clock_timestamp()) AS held, "
                "(array_agg(reason ORDER BY call_id DESC) FILTER (WHERE outcome = ANY(CAST(:none AS text[]))))[1] "
                "AS reason FROM llm_calls WHERE dedupe_key = :key"
            ),
            {"key": wanted.key, "none": list(UNUSABLE_ANSWERS)},
        )
    ).one()
    if before.held is not None:
        return NotReserved("held", "another run is asking this", max(float(before.held), 0.0))
    if before.unanswered >= wanted.attempts:
        return NotReserved("exhausted", f"given up after {before.unanswered} attempts: {before.reason}")
    spent = (await spending(session)).spent_usd
    if spent + wanted.most > wanted.budget:
        return NotReserved(
            "over_budget",
            f"today's budget of {format(wanted.budget.normalize(), 'f')} USD is spent: {spent:.4f} USD, "
            f"and a call may cost {wanted.most:.4f}",
        )
    result = await session.execute(
        text(
            "INSERT INTO llm_calls (dedupe_key, book_id, model, prompt_version, reserved_usd, run, held_until) "
            "VALUES (:key, :book, :model, :version, :most, :run, clock_timestamp() + CAST(:hold AS interval)) "
            "RETURNING call_id"
        ),
        asdict(wanted),
    )
    return ReservedCall(int(result.scalar_one()))


async def settle(
    session: AsyncSession,
    call: ReservedCall,
    outcome: CallOutcome,
    usage: Usage | None,
    cost: Decimal | None,
    reason: str | None = None,
) -> None:
    """Store how a call ended. ``cost`` in USD; None: unknown, so that the reserved amount counts as its cost."""
    await session.execute(
        text(
            "UPDATE llm_calls SET outcome = :outcome, reason = :reason, "
            "cost_usd = coalesce(CAST(:cost AS numeric), reserved_usd), "
            "input_tokens = :input, output_tokens = :output, settled_at = clock_timestamp() WHERE call_id = :id"
        ),
        {
            "id": call.call_id,
            "outcome": outcome,
            "reason": reason,
            "cost": cost,
            "input": usage and usage.input_tokens,
            "output": usage and usage.output_tokens,
        },
    )


async def spending(session: AsyncSession) -> DaySpending:
    """Calls since midnight (UTC), by the clock of the database, which all workers share."""
    result = await session.execute(
        text(
            "SELECT coalesce(sum(calls), 0) AS calls, coalesce(sum(spent), 0) AS spent_usd, "  # noqa: S608
            "coalesce(jsonb_object_agg(outcome, calls) FILTER (WHERE outcome IS NOT NULL), '{}') AS outcomes FROM "
            "(SELECT coalesce(outcome, 'under way') AS outcome, count(*) AS calls, "
            "sum(coalesce(cost_usd, reserved_usd)) AS spent "
            f"FROM llm_calls WHERE reserved_at >= {_TODAY} GROUP BY 1) today"
        )
    )
    return DaySpending.model_validate(dict(result.mappings().one()))


async def cost_of(session: AsyncSession, key: str) -> QuestionCost:
    """What all the calls of a question cost together, in USD and tokens."""
    result = await session.execute(
        text(
            "SELECT coalesce(sum(cost_usd), 0) AS cost, coalesce(sum(input_tokens), 0) AS input, "
            "coalesce(sum(output_tokens), 0) AS output FROM llm_calls WHERE dedupe_key = :key"
        ),
        {"key": key},
    )
    row = result.one()
    return QuestionCost(row.cost, Usage(row.input, row.output))
