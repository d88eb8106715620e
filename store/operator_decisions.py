"""Decisions on record, spent once."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.approvals import ApprovalKey
from closeloop.models.operator_decisions import DecisionRecord, OperatorDecision
from closeloop.store.rows import execute, insertion

_COLUMNS = (
    "decision_id, kind, book_id AS book, subject_id AS id, verdict, proposal_hash, operator, note, token_id, "
    "by_policy, recorded_at, sender, word, spent_at, accepted, outcome"
)


async def add(session: AsyncSession, decision_id: str, key: ApprovalKey, values: dict[str, Any]) -> None:
    """Put a decision on record, now; one that is there already stays as it is."""
    row = {"decision_id": decision_id, "kind": key.kind, "book_id": key.book, "subject_id": key.id, **values}
    await execute(session, insertion(OperatorDecision, [row], on_conflict="(decision_id) DO NOTHING"))


async def hold(session: AsyncSession, decision_id: str) -> DecisionRecord | None:
    """A decision, locked until the transaction ends; None where there is none."""
    result = await session.execute(
        text(f"SELECT {_COLUMNS} FROM operator_decisions WHERE decision_id = :id FOR UPDATE"),  # noqa: S608
        {"id": decision_id},
    )
    row = result.mappings().one_or_none()
    return None if row is None else DecisionRecord.model_validate(dict(row))


async def spend(
    session: AsyncSession, decision_id: str, word: str | None, sender: str | None, accepted: bool, outcome: str
) -> None:
    """A decision was carried out or refused; the first time stands."""
    await session.execute(
        text(
            "UPDATE operator_decisions SET spent_at = clock_timestamp(), word = :word, sender = :sender, "
            "accepted = :accepted, outcome = :outcome WHERE decision_id = :id AND spent_at IS NULL"
        ),
        {"id": decision_id, "word": word, "sender": sender, "accepted": accepted, "outcome": outcome},
    )


async def unspent(
    session: AsyncSession,
    limit: int,
    *,
    about: ApprovalKey | None = None,
    before: datetime | None = None,
    older_than: timedelta = timedelta(0),
) -> list[DecisionRecord]:
    """Decisions that nothing has come of yet, the oldest first; ``before`` and ``older_than`` bound when recorded."""
    result = await session.execute(
        text(
            f"SELECT {_COLUMNS} FROM operator_decisions WHERE spent_at IS NULL "  # noqa: S608
            "AND (CAST(:kind AS text) IS NULL OR (kind, book_id, subject_id) = (:kind, :book, :subject)) "
            "AND recorded_at < coalesce(CAST(:before AS timestamptz), 'infinity') "
            "AND recorded_at <= clock_timestamp() - CAST(:age AS interval) "
            "ORDER BY recorded_at, decision_id LIMIT :n"
        ),
        {
            "kind": about.kind if about else None,
            "book": about.book if about else None,
            "subject": about.id if about else None,
            "before": before,
            "age": older_than,
            "n": limit,
        },
    )
    return [DecisionRecord.model_validate(dict(row)) for row in result.mappings()]


async def first_unspent(session: AsyncSession, keys: Sequence[ApprovalKey]) -> dict[str, DecisionRecord]:
    """The oldest approval or rejection of each of these that nothing has come of yet, by the id of its workflow."""
    result = await session.execute(
        text(
            f"SELECT DISTINCT ON (kind, book_id, subject_id) {_COLUMNS} FROM operator_decisions "  # noqa: S608
            "WHERE spent_at IS NULL AND verdict <> 'revert' AND (kind, book_id, subject_id) IN (SELECT * FROM "
            "unnest(CAST(:kinds AS text[]), CAST(:books AS text[]), CAST(:ids AS text[]))) "
            "ORDER BY kind, book_id, subject_id, recorded_at, decision_id"
        ),
        {
            "kinds": [key.kind for key in keys],
            "books": [key.book for key in keys],
            "ids": [key.id for key in keys],
        },
    )
    records = [DecisionRecord.model_validate(dict(row)) for row in result.mappings()]
    return {record.workflow_id: record for record in records}


async def carried_out(session: AsyncSession, key: ApprovalKey) -> list[DecisionRecord]:
    """The decisions on a subject that were carried out, the first one first: one, and perhaps its revert."""
    result = await session.execute(
        text(
            f"SELECT {_COLUMNS} FROM operator_decisions WHERE (kind, book_id, subject_id) = (:kind, :book, :id) "  # noqa: S608
            "AND accepted ORDER BY spent_at, decision_id LIMIT 20"
        ),
        {"kind": key.kind, "book": key.book, "id": key.id},
    )
    return [DecisionRecord.model_validate(dict(row)) for row in result.mappings()]
