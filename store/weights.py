"""Governed weights: versions, cycles and what they are computed from."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.weights import (
    WEIGHTS,
    ActiveWeights,
    Cadence,
    CycleRecord,
    CycleState,
    CycleView,
    LearningWeight,
    VersionCause,
    VersionView,
    WeightCycle,
    Weights,
    WeightVersion,
)
from closeloop.store.approvals import WaitingPage, waiting_page
from closeloop.store.rows import execute, insertion


class CycleClose(NamedTuple):
    """What a cycle reads of a closed position."""

    direction: str
    direction_correct: bool
    realized_pnl: float
    rr: float | None
    domain_scores: dict[str, float]


class OverlayState(NamedTuple):
    """What is on record of a version's overlay file: ``overlay`` is ``due``, ``written`` or ``removed``, and
    ``overlay_folder`` the identity of the folder that it was written to or removed from. ``replaced``: of learned
    weights that no person approved just now (an operator's revert, or the policy itself, put them in force) the same of
    the version before; else None."""

    version: int
    cycle_id: str
    overlay: str
    overlay_folder: str | None
    replaced: str | None = None
    replaced_folder: str | None = None


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
    session: AsyncSession, version: ActiveWeights, old: Weights, cycle_id: str | None, cause: VersionCause, reason: str
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
                    "cause": cause,
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
    """When performance last put the preset back in force; None if it never did."""
    query = text("SELECT max(since) FROM weight_versions WHERE book_id = :book AND cause = :restored")
    values = {"book": book, "restored": VersionCause.restored}
    found: datetime | None = (await session.execute(query, values)).scalar_one()
    return found


async def a_person_reverted(session: AsyncSession, book: str) -> bool:
    """Whether a person has undone weights, by word or by deleting the overlay file, and none has approved any since."""
    query = text(
        "SELECT cause FROM weight_versions WHERE book_id = :book AND cause IN (:approved, :reverted) "
        "ORDER BY version DESC LIMIT 1"
    )
    values = {"book": book, "approved": VersionCause.approved, "reverted": VersionCause.reverted}
    return (await session.execute(query, values)).scalar_one_or_none() == VersionCause.reverted


async def first_close(session: AsyncSession, book: str, as_of: datetime) -> datetime | None:
    """When the first of the book's positions that closed by ``as_of`` did; None without any."""
    query = text("SELECT min(closed_at) FROM attributions WHERE book_id = :book AND closed_at <= :as_of")
    found: datetime | None = (await session.execute(query, {"book": book, "as_of": as_of})).scalar_one()
    return found


async def closes_between(
    session: AsyncSession, book: str, after: datetime | None, until: datetime, opened_from: datetime | None
) -> list[CycleClose]:
    """Positions closed in (after, until] and opened at or after ``opened_from``, by (closed_at, position_id).

    Scores of a conviction that came after ``until`` were not known then, and are left out.
    """
    result = await session.execute(
        text(
            "SELECT direction, direction_correct, realized_pnl, rr, "
            "CASE WHEN completed_at IS NULL OR completed_at <= :until THEN domain_scores_at_entry END "
            "FROM attributions WHERE book_id = :book AND closed_at <= :until "
            "AND (CAST(:after AS timestamptz) IS NULL OR closed_at > :after) "
            "AND (CAST(:opened_from AS timestamptz) IS NULL OR opened_at >= :opened_from) "
            "ORDER BY closed_at, position_id"
        ),
        {"book": book, "after": after, "until": until, "opened_from": opened_from},
    )
    return [CycleClose(d, right, float(pnl), rr, scores or {}) for d, right, pnl, rr, scores in result]


class DatedClose(NamedTuple):
    """A close with its times, as a walk through a book's history reads it.

    ``scored_at``: when its conviction came, where that was after the close.
    """

    close: CycleClose
    opened_at: datetime
    closed_at: datetime
    scored_at: datetime | None


async def closes_until(session: AsyncSession, book: str, until: datetime) -> AsyncIterator[DatedClose]:
    """Every position closed by ``until``, by (closed_at, position_id), streamed."""
    result = await session.stream(
        text(
            "SELECT direction, direction_correct, realized_pnl, rr, "
            "CASE WHEN completed_at IS NULL OR completed_at <= :until THEN domain_scores_at_entry END, "
            "opened_at, closed_at, completed_at "
            "FROM attributions WHERE book_id = :book AND closed_at <= :until ORDER BY closed_at, position_id"
        ),
        {"book": book, "until": until},
        execution_options={"yield_per": 1000},
    )
    async for direction, right, pnl, rr, scores, *times in result:
        yield DatedClose(CycleClose(direction, right, float(pnl), rr, scores or {}), *times)


_CYCLE = (
    "SELECT cycle_id, workflow_id, book_id AS book, as_of, state, reason, "
    "CASE WHEN new IS NULL THEN NULL ELSE cycle_id END AS proposal_id, old, new, evidence, learned, performance_n, "
    "performance_pnl, performance_r, streak, guard, approves_itself, unknown_domains, deadline, version, decided_by, "
    "decided_at, note, policy_hash, created_at FROM weight_cycles "
)


async def cycle(session: AsyncSession, cycle_id: str) -> CycleRecord | None:
    """A cycle by its id; None if there is none."""
    return await _one_cycle(session, "WHERE cycle_id = :id", {"id": cycle_id})


async def cycle_as_of(session: AsyncSession, book: str, as_of: datetime) -> CycleRecord | None:
    """The book's cycle of this very instant; None if there is none."""
    return await _one_cycle(session, "WHERE book_id = :book AND as_of = :as_of", {"book": book, "as_of": as_of})


class BookWithoutCycle(NamedTuple):
    """A book that has no cycle of the period that an instant lies in."""

    book: str
    cadence: str
    created_at: datetime


async def without_cycle(
    session: AsyncSession, at: datetime, after: str | None, limit: int, failed_before: datetime | None
) -> list[BookWithoutCycle]:
    """The first ``limit`` books by name, after the book ``after``, without a cycle of their week or month of ``at``.

    Archived books are left out, and those whose last cycle could not be begun, unless that was before
    ``failed_before``; None: none of these is.
    """
    result = await session.execute(
        text(
            "SELECT b.book_id, b.cadence, b.created_at FROM books b "
            'WHERE b.archived_at IS NULL AND (CAST(:after AS text) IS NULL OR b.book_id COLLATE "C" > :after) '
            "AND NOT EXISTS (SELECT FROM weight_cycles c WHERE c.book_id = b.book_id "
            "AND c.as_of >= CASE b.cadence WHEN 'monthly' THEN CAST(:month AS timestamptz) ELSE :week END) "
            "AND NOT EXISTS (SELECT FROM failing_work f WHERE f.task = 'weights' AND f.subject = b.book_id "
            "AND f.last_at >= CAST(:failed_before AS timestamptz)) "
            'ORDER BY b.book_id COLLATE "C" LIMIT :n'
        ),
        {
            "after": after,
            "month": Cadence.monthly.begins(at),
            "week": Cadence.weekly.begins(at),
            "failed_before": failed_before,
            "n": limit,
        },
    )
    return [BookWithoutCycle._make(row) for row in result]


async def newest_cycle(session: AsyncSession) -> tuple[datetime, datetime] | None:
    """The ``as_of`` of the newest cycle of any book, and when it was begun; None before the first."""
    result = await session.execute(text("SELECT as_of, created_at FROM weight_cycles ORDER BY as_of DESC LIMIT 1"))
    row = result.one_or_none()
    return None if row is None else (row.as_of, row.created_at)


async def watched(session: AsyncSession) -> list[CycleRecord]:
    """The last cycle of each book where its proposal was applied: it may be reverted until the next one begins."""
    newest = "SELECT DISTINCT ON (book_id) cycle_id FROM weight_cycles ORDER BY book_id, as_of DESC"
    result = await session.execute(text(_CYCLE + f"WHERE state = 'applied' AND cycle_id IN ({newest})"))
    return [_record(row) for row in result.mappings()]


async def last_cycle(session: AsyncSession, book: str) -> CycleRecord | None:
    """The book's newest cycle; None before the first."""
    return await _one_cycle(session, "WHERE book_id = :book ORDER BY as_of DESC LIMIT 1", {"book": book})


async def last_counting_cycle(
    session: AsyncSession, book: str, min_positions: int, learned: bool
) -> CycleRecord | None:
    """The newest cycle, under learned weights or under the preset, that had enough positions to compare with.

    Under learned weights: only since the preset was last in force, for which a newer preset cycle would stand.
    """
    return await _one_cycle(
        session,
        "WHERE book_id = :book AND performance_n >= :n AND (NOT :learned OR (learned AND as_of > coalesce("
        "(SELECT max(as_of) FROM weight_cycles WHERE book_id = :book AND NOT learned), '-infinity'))) "
        "AND (:learned OR NOT learned) ORDER BY as_of DESC LIMIT 1",
        {"book": book, "n": min_positions, "learned": learned},
    )


async def insert_cycle(session: AsyncSession, record: CycleRecord) -> None:
    """Record a cycle that nobody has decided on yet."""
    row = record.model_dump(exclude={"book", "proposal_id", "decided_by", "decided_at", "note"})
    await execute(session, insertion(WeightCycle, [{"book_id": record.book, **row}]))


async def waiting(session: AsyncSession, page: WaitingPage) -> list[CycleRecord]:
    """Cycles whose proposals wait for an operator, the soonest deadline first."""
    statement = waiting_page(_CYCLE + "WHERE state = 'proposed'", f"'{WEIGHTS}/' || p.cycle_id")
    result = await session.execute(statement, page.values)
    return [_record(row) for row in result.mappings()]


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
    """Store a cycle's next state; None keeps a field as it is. The caller holds the book and has checked the state."""
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


async def cycles(
    session: AsyncSession,
    book: str | None,
    state: CycleState | None = None,
    last: int | None = None,
    before: str | None = None,
) -> list[CycleView]:
    """Cycles by (as_of, book); at most the ``last`` ones of those that come before the cycle ``before``."""
    result = await session.execute(
        text(
            f"SELECT * FROM ({_CYCLE} WHERE (CAST(:book AS text) IS NULL OR book_id = :book) "  # noqa: S608
            "AND (CAST(:state AS text) IS NULL OR state = :state) AND (CAST(:before AS text) IS NULL "
            "OR (as_of, book_id) < (SELECT b.as_of, b.book_id FROM weight_cycles b WHERE b.cycle_id = :before)) "
            "ORDER BY as_of DESC, book_id DESC LIMIT CAST(:last AS bigint)) page ORDER BY as_of, book"
        ),
        {"book": book, "state": state, "last": last, "before": before},
    )
    return [_record(row).view for row in result.mappings()]


async def changes(
    session: AsyncSession, book: str, last: int | None = None, before: str | None = None
) -> list[VersionView]:
    """Versions that were in force, with their reason and who decided on them, the oldest first; at most the ``last``
    ones of those that came into force before the cycle ``before``."""
    result = await session.execute(
        text(
            "SELECT * FROM (SELECT v.version, v.source, v.cause, v.since, v.reason, v.cycle_id, v.weights, "
            "v.policy_hash, v.created_at, e.payload ->> 'operator' AS operator, e.payload ->> 'note' AS note "
            "FROM weight_versions v LEFT JOIN events e ON e.type IN "
            "('learning.weights.applied.v1', 'learning.weights.reverted.v1') "
            "AND e.payload ->> 'book' = v.book_id AND e.payload ->> 'version' = v.version::text "
            "WHERE v.book_id = :book AND (CAST(:before AS text) IS NULL "
            "OR v.since < (SELECT b.as_of FROM weight_cycles b WHERE b.cycle_id = :before)) "
            "ORDER BY v.version DESC LIMIT CAST(:last AS bigint)) page ORDER BY version"
        ),
        {"book": book, "last": last, "before": before},
    )
    return [VersionView.model_validate(dict(row)) for row in result.mappings()]


async def version(session: AsyncSession, book: str, number: int) -> ActiveWeights | None:
    """The weights of a version; None if there is none with this number."""
    result = await session.execute(
        text(
            "SELECT book_id AS book, weights, version, source, since, policy_hash FROM weight_versions "
            "WHERE book_id = :book AND version = :number"
        ),
        {"book": book, "number": number},
    )
    row = result.mappings().first()
    return None if row is None else ActiveWeights.model_validate(dict(row))


async def overlay_state(session: AsyncSession, book: str) -> OverlayState | None:
    """The overlay of the version in force, as recorded; None if the book never had a version."""
    result = await session.execute(
        text(
            "SELECT v.version, v.cycle_id, v.overlay, v.overlay_folder, b.overlay, b.overlay_folder "
            "FROM weight_versions v LEFT JOIN weight_versions b ON b.book_id = v.book_id "
            "AND b.version = v.version - 1 AND v.source = 'learned' AND v.cause IN (:reverted, :itself) "
            "WHERE v.book_id = :book ORDER BY v.version DESC LIMIT 1"
        ),
        {"book": book, "reverted": VersionCause.reverted, "itself": VersionCause.itself},
    )
    row = result.first()
    return None if row is None else OverlayState(*row)


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


async def workflow_before(session: AsyncSession, book: str, as_of: datetime) -> str | None:
    """The workflow id of the book's last cycle before ``as_of``; None if there is none."""
    result = await session.execute(
        text(
            "SELECT workflow_id FROM weight_cycles WHERE book_id = :book AND as_of < :as_of ORDER BY as_of DESC LIMIT 1"
        ),
        {"book": book, "as_of": as_of},
    )
    found: str | None = result.scalar_one_or_none()
    return found


async def _one_cycle(session: AsyncSession, where: str, values: dict[str, Any]) -> CycleRecord | None:
    row = (await session.execute(text(_CYCLE + where), values)).mappings().first()
    return None if row is None else _record(row)


def _record(row: RowMapping) -> CycleRecord:
    return CycleRecord.model_validate(dict(row))
