"""Governed weights: versions, cycles and what they are computed from."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.weights import (
    ActiveWeights,
    CycleState,
    CycleView,
    Evidence,
    LearningWeight,
    WeightCycle,
    Weights,
    WeightVersion,
)
from closeloop.store.rows import execute, insertion


async def active(session: AsyncSession, book: str) -> ActiveWeights | None:
    """The weights in force: the book's highest version; None before the first."""
    result = await session.execute(
        text(
            "SELECT book_id AS book, weights, version, source, since, policy_hash FROM weight_versions "
            "WHERE book_id = :book ORDER BY version DESC LIMIT 1"
        ),
        {"book": book},
    )
    row = result.mappings().first()
    return None if row is None else ActiveWeights.model_validate(dict(row))


async def activate(
    session: AsyncSession, version: ActiveWeights, old: Weights, cycle_id: str | None, reason: str
) -> None:
    """Put a new version in force, with a row of ``learning_weights`` for each domain. The caller holds the book."""
    await execute(
        session,
        insertion(
            WeightVersion,
            [
                {
                    "book_id": version.book,
                    "version": version.version,
                    "weights": version.weights,
                    "source": version.source,
                    "since": version.since,
                    "cycle_id": cycle_id,
                    "reason": reason,
                    "policy_hash": version.policy_hash,
                    "overlay": "due",
                }
            ],
        ),
        insertion(
            LearningWeight,
            [
                {
                    "book_id": version.book,
                    "version": version.version,
                    "domain": domain,
                    "old_weight": old.get(domain, 0.0),
                    "new_weight": weight,
                    "delta": weight - old.get(domain, 0.0),
                    "reason": reason,
                }
                for domain, weight in version.weights.items()
            ],
        ),
    )


async def last_restoration(session: AsyncSession, book: str) -> datetime | None:
    """Since when the preset is (or was) back in force after degrading cycles, the last time."""
    query = text("SELECT max(since) FROM weight_versions WHERE book_id = :book AND reason LIKE 'degraded%'")
    found: datetime | None = (await session.execute(query, {"book": book})).scalar_one()
    return found


async def first_close(session: AsyncSession, book: str, as_of: datetime) -> datetime | None:
    """When the book's first position closed."""
    query = text("SELECT min(closed_at) FROM attributions WHERE book_id = :book AND closed_at <= :as_of")
    found: datetime | None = (await session.execute(query, {"book": book, "as_of": as_of})).scalar_one()
    return found


async def closes_between(
    session: AsyncSession, book: str, after: datetime | None, until: datetime, opened_from: datetime | None
) -> Sequence[RowMapping]:
    """Positions closed in (after, until] and opened at or after ``opened_from``, by (closed_at, position_id)."""
    result = await session.execute(
        text(
            "SELECT direction, direction_correct, realized_pnl, rr, domain_scores_at_entry FROM attributions "
            "WHERE book_id = :book AND closed_at <= :until "
            "AND (CAST(:after AS timestamptz) IS NULL OR closed_at > :after) "
            "AND (CAST(:opened_from AS timestamptz) IS NULL OR opened_at >= :opened_from) "
            "ORDER BY closed_at, position_id"
        ),
        {"book": book, "after": after, "until": until, "opened_from": opened_from},
    )
    return result.mappings().all()


_CYCLE = (
    "SELECT cycle_id, workflow_id, book_id AS book, as_of, state, reason, "
    "CASE WHEN new IS NULL THEN NULL ELSE cycle_id END AS proposal_id, old, new, evidence, learned, performance_n, "
    "performance_pnl, performance_r, streak, unknown_domains, deadline, version, decided_by, decided_at, note, "
    "policy_hash, created_at FROM weight_cycles "
)


async def cycle(session: AsyncSession, cycle_id: str) -> RowMapping | None:
    """A cycle's row."""
    return (await session.execute(text(_CYCLE + "WHERE cycle_id = :id"), {"id": cycle_id})).mappings().first()


async def last_cycle(session: AsyncSession, book: str) -> RowMapping | None:
    """The book's newest cycle."""
    query = text(_CYCLE + "WHERE book_id = :book ORDER BY as_of DESC LIMIT 1")
    return (await session.execute(query, {"book": book})).mappings().first()


async def last_counting_cycle(session: AsyncSession, book: str, min_positions: int, learned: bool) -> RowMapping | None:
    """The newest cycle, under learned weights or under the preset, that had enough positions to compare with.

    Under learned weights: only since the preset was last in force, for which a newer preset cycle would stand.
    """
    query = text(
        _CYCLE  # noqa: S608
        + "WHERE book_id = :book AND performance_n >= :n AND (NOT :learned OR (learned AND as_of > coalesce("
        "(SELECT max(as_of) FROM weight_cycles WHERE book_id = :book AND NOT learned), '-infinity'))) "
        "AND (:learned OR NOT learned) ORDER BY as_of DESC LIMIT 1"
    )
    values = {"book": book, "n": min_positions, "learned": learned}
    return (await session.execute(query, values)).mappings().first()


async def insert_cycle(session: AsyncSession, row: dict[str, Any]) -> None:
    """Record a cycle."""
    await execute(session, insertion(WeightCycle, [row]))


async def settle_cycle(
    session: AsyncSession,
    cycle_id: str,
    state: CycleState,
    *,
    reason: str | None = None,
    decided_by: str | None = None,
    decided_at: datetime | None = None,
    note: str | None = None,
    version: int | None = None,
) -> None:
    """Move a cycle on. The caller holds the book and has looked at the cycle's state."""
    await session.execute(
        text(
            "UPDATE weight_cycles SET state = :state, reason = coalesce(:reason, reason), "
            "decided_by = coalesce(:decided_by, decided_by), decided_at = coalesce(:decided_at, decided_at), "
            "note = coalesce(:note, note), version = coalesce(:version, version) WHERE cycle_id = :id"
        ),
        {
            "id": cycle_id,
            "state": str(state),
            "reason": reason,
            "decided_by": decided_by,
            "decided_at": decided_at,
            "note": note,
            "version": version,
        },
    )


async def cycles(session: AsyncSession, book: str | None, state: str | None = None) -> list[CycleView]:
    """Cycles, the oldest first."""
    result = await session.execute(
        text(
            _CYCLE + "WHERE (CAST(:book AS text) IS NULL OR book_id = :book) "
            "AND (CAST(:state AS text) IS NULL OR state = :state) ORDER BY as_of, book_id"
        ),
        {"book": book, "state": state},
    )
    return [view(row) for row in result.mappings()]


async def changes(session: AsyncSession, book: str) -> Sequence[RowMapping]:
    """Every version that was in force, with its reason and who decided on it, the oldest first."""
    result = await session.execute(
        text(
            "SELECT v.version, v.source, v.since, v.reason, v.cycle_id, v.weights, v.policy_hash, v.created_at, "
            "e.payload ->> 'operator' AS operator, e.payload ->> 'note' AS note "
            "FROM weight_versions v LEFT JOIN events e ON e.type IN "
            "('learning.weights.applied.v1', 'learning.weights.reverted.v1') "
            "AND e.payload ->> 'book' = v.book_id AND e.payload ->> 'version' = v.version::text "
            "WHERE v.book_id = :book ORDER BY v.version"
        ),
        {"book": book},
    )
    return result.mappings().all()


async def version(session: AsyncSession, book: str, number: int) -> ActiveWeights | None:
    """A version that was in force."""
    result = await session.execute(
        text(
            "SELECT book_id AS book, weights, version, source, since, policy_hash FROM weight_versions "
            "WHERE book_id = :book AND version = :number"
        ),
        {"book": book, "number": number},
    )
    row = result.mappings().first()
    return None if row is None else ActiveWeights.model_validate(dict(row))


async def overlay_state(session: AsyncSession, book: str) -> Row[Any] | None:
    """(version, cycle_id, overlay, overlay_folder) of the version in force; its overlay is due, written or removed."""
    result = await session.execute(
        text(
            "SELECT version, cycle_id, overlay, overlay_folder FROM weight_versions WHERE book_id = :book "
            "ORDER BY version DESC LIMIT 1"
        ),
        {"book": book},
    )
    return result.first()


async def mark_overlay(session: AsyncSession, book: str, version: int, state: str, folder: str) -> None:
    """Put on record that a version's overlay was written or removed."""
    await session.execute(
        text(
            "UPDATE weight_versions SET overlay = :state, overlay_folder = :folder "
            "WHERE book_id = :book AND version = :version"
        ),
        {"book": book, "version": version, "state": state, "folder": folder},
    )


async def books_with_versions(session: AsyncSession) -> list[str]:
    """Books whose weights were ever changed."""
    return list((await session.execute(text("SELECT DISTINCT book_id FROM weight_versions ORDER BY 1"))).scalars())


def view(row: RowMapping) -> CycleView:
    """A row as others see it."""
    values = dict(row)
    evidence = {domain: Evidence.model_validate(e) for domain, e in values.pop("evidence").items()}
    return CycleView.model_validate(values | {"evidence": evidence})


async def workflow_before(session: AsyncSession, book: str, as_of: datetime) -> str | None:
    """The workflow of the book's cycle before the one of this instant."""
    result = await session.execute(
        text(
            "SELECT workflow_id FROM weight_cycles WHERE book_id = :book AND as_of < :as_of ORDER BY as_of DESC LIMIT 1"
        ),
        {"book": book, "as_of": as_of},
    )
    found: str | None = result.scalar_one_or_none()
    return found
