"""Overrides: those in force, those that wait for an operator, those that ended, and those that match a scope."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic_core import to_json
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.overrides import OverrideStatus, OverrideView, PmOverride, ProposedOverride
from closeloop.store.approvals import WaitingPage, waiting_page
from closeloop.store.pages import page
from closeloop.store.rows import Write, as_json, execute, insertion, recordset

_COLUMNS = (
    "override_id, book_id AS book, pattern_key, action_category, scope, size_multiplier, threshold_adjustments, "
    "confidence, expires_at, lesson_id, lesson_version, status, reason, run, as_of, deadline, verdict, decided_by, "
    "decided_at, note, created_at, ended_at, policy_hash"
)
_SINCE = (
    "({0}.as_of + CASE WHEN {0}.verdict = 'approve' THEN greatest({0}.decided_at - {0}.created_at, interval '0') "
    "ELSE interval '0' END)"
)
"""Since when an override is in force, on its run's own time line: one that was approved, an hour after it was proposed,
an hour after the run's ``as_of``."""

_FOUND = (
    "SELECT o.override_id, o.scope, o.size_multiplier, o.threshold_adjustments, o.confidence FROM pm_overrides o {join}"  # noqa: S608
    "WHERE o.book_id = :book AND o.pattern_key = :pattern AND o.action_category = :action AND o.status = '{status}' "
    "AND o.anchor = ANY(CAST(:conditions AS text[])) AND o.scope <@ CAST(:scope AS jsonb) AND o.expires_at > :at "
    "AND " + _SINCE.format("o") + " <= :at "
)
MATCHING = (
    _FOUND.format(status="active", join="")
    + "UNION ALL "
    # One that was replaced by an approved one was in force until the approval; one that never was in force had waited.
    + _FOUND.format(
        status="ended",
        join="LEFT JOIN pm_overrides n ON n.override_id = substr(o.reason, length('replaced by ') + 1) "
        "AND n.verdict = 'approve' ",
    )
    + "AND (o.verdict = 'approve' OR (o.verdict IS NULL AND o.deadline IS NULL)) "
    "AND coalesce(" + _SINCE.format("n") + ", o.ended_at) > :at ORDER BY override_id"
)


def conditions(scope: Mapping[str, str]) -> list[str]:
    """The conditions of a scope as sorted texts ``dimension=value``; the first one is the anchor of an override."""
    return sorted(f"{dimension}={value}" for dimension, value in scope.items())


async def matching(
    session: AsyncSession, book: str, pattern_key: str, action_category: str, scope: Mapping[str, str], at: datetime
) -> Sequence[RowMapping]:
    """Overrides that were in force at an instant and whose scope is contained in this one, by id."""
    result = await session.execute(text(MATCHING), matching_values(book, pattern_key, action_category, scope, at))
    return result.mappings().all()


def matching_values(
    book: str, pattern_key: str, action_category: str, scope: Mapping[str, str], at: datetime
) -> dict[str, Any]:
    """The parameters of MATCHING."""
    return {
        "book": book,
        "pattern": pattern_key,
        "action": action_category,
        "conditions": conditions(scope),
        "scope": to_json(scope).decode(),
        "at": at,
    }


_LISTING = page(
    f"SELECT {_COLUMNS} FROM pm_overrides WHERE (CAST(:book AS text) IS NULL OR book_id = :book) "  # noqa: S608
    "AND (:closed OR status IN ('active', 'pending'))",
    key="override_id",
    order="book, pattern_key, action_category, status, abs(size_multiplier - 1) DESC, override_id",
)


async def listing(
    session: AsyncSession,
    book: str | None,
    closed: bool = False,
    *,
    last: int | None = None,
    before: str | None = None,
) -> list[OverrideView]:
    """Overrides in force and those that wait, of a book or of all; with ``closed`` the others, too.

    See ``pages.page``.
    """
    values = {"book": book, "closed": closed, "last": last, "before": before}
    result = await session.execute(text(_LISTING), values)
    return [_view(row) for row in result.mappings()]


async def open_overrides(session: AsyncSession, book: str, status: OverrideStatus | None = None) -> list[OverrideView]:
    """Overrides of a book that are in force or wait (or only those of one status), by id."""
    result = await session.execute(
        text(
            f"SELECT {_COLUMNS} FROM pm_overrides WHERE book_id = :book AND status IN ('active', 'pending') "  # noqa: S608
            "AND (CAST(:status AS text) IS NULL OR status = :status) ORDER BY override_id"
        ),
        {"book": book, "status": status},
    )
    return [_view(row) for row in result.mappings()]


async def books(session: AsyncSession) -> list[str]:
    """Books with overrides in force, by name. An archived one has none."""
    result = await session.execute(
        text("SELECT DISTINCT book_id FROM pm_overrides WHERE status = 'active' ORDER BY book_id")
    )
    return list(result.scalars())


async def waiting(session: AsyncSession, page: WaitingPage) -> list[OverrideView]:
    """Overrides that wait for an operator, the soonest deadline first."""
    pending = f"SELECT {_COLUMNS} FROM pm_overrides WHERE status = 'pending'"  # noqa: S608
    result = await session.execute(waiting_page(pending, "'override/' || p.book || '/' || p.override_id"), page.values)
    return [_view(row) for row in result.mappings()]


async def find(session: AsyncSession, override_id: str) -> OverrideView | None:
    """An override by its id; None if there is none."""
    result = await session.execute(
        text(f"SELECT {_COLUMNS} FROM pm_overrides WHERE override_id = :id"),  # noqa: S608
        {"id": override_id},
    )
    row = result.mappings().first()
    return None if row is None else _view(row)


async def rejected_or_expired(session: AsyncSession, book: str) -> set[tuple[str, int, str]]:
    """(lesson_id, lesson_version, policy_hash) of overrides that an operator rejected or that expired undecided."""
    result = await session.execute(
        text(
            "SELECT lesson_id, lesson_version, policy_hash FROM pm_overrides WHERE book_id = :book "
            "AND verdict IN ('reject', 'expired')"
        ),
        {"book": book},
    )
    return {(row.lesson_id, row.lesson_version, row.policy_hash) for row in result}


async def newest_as_of(session: AsyncSession, book: str) -> datetime | None:
    """The newest ``as_of`` at which a run changed a book's overrides; None without any.

    The end of an override that was rejected or expired does not count: it is the time of the decision, not the
    ``as_of`` of a run.
    """
    result = await session.execute(
        text(
            "SELECT max(CASE WHEN verdict IN ('reject', 'expired') THEN as_of ELSE greatest(as_of, ended_at) END) "
            "FROM pm_overrides WHERE book_id = :book"
        ),
        {"book": book},
    )
    found: datetime | None = result.scalar_one()
    return found


async def add(session: AsyncSession, overrides: Sequence[ProposedOverride]) -> None:
    """Store new overrides."""
    await execute(session, insertion(PmOverride, [asdict(override) for override in overrides]))


async def carry_over_hash(session: AsyncSession, book: str, before: str, now: str) -> None:
    """Replace the policy hash ``before`` of a book's overrides by ``now``, a hash of the same numbers.

    What was approved or rejected under 0.1 is then not asked again. The caller holds the book.
    """
    await session.execute(
        text("UPDATE pm_overrides SET policy_hash = :now WHERE book_id = :book AND policy_hash = :before"),
        {"book": book, "before": before, "now": now},
    )


async def end(session: AsyncSession, reasons: Mapping[str, str], at: datetime) -> None:
    """End the overrides with these ids, each for its reason, as of ``at``. The caller holds the book."""
    sql = (
        "UPDATE pm_overrides o SET status = 'ended', reason = r.reason, ended_at = r.ended_at "  # noqa: S608
        f"FROM {recordset(PmOverride)} r WHERE o.override_id = r.override_id AND o.status IN ('active', 'pending')"
    )
    rows = [{"override_id": i, "reason": reason, "ended_at": at} for i, reason in sorted(reasons.items())]
    if rows:
        await execute(session, Write(sql, as_json(rows)))


async def decide(session: AsyncSession, override_id: str, values: Mapping[str, Any]) -> None:
    """Store the decision on an override that waits; approved, it replaces the override of its lesson that is in force.

    ``values``: status, reason, verdict, decided_by, decided_at, note, ended_at. The caller holds the book.
    """
    if values["status"] == "active":
        await session.execute(
            text(
                "UPDATE pm_overrides o "
                "SET status = 'ended', reason = 'replaced by ' || p.override_id, ended_at = p.as_of "
                "FROM pm_overrides p WHERE p.override_id = :id AND o.lesson_id = p.lesson_id AND o.status = 'active'"
            ),
            {"id": override_id},
        )
    await session.execute(
        text(
            "UPDATE pm_overrides SET status = :status, reason = :reason, verdict = :verdict, decided_by = :decided_by, "
            "decided_at = :decided_at, note = :note, ended_at = :ended_at "
            "WHERE override_id = :id AND status = 'pending'"
        ),
        dict(values) | {"id": override_id},
    )


def _view(row: RowMapping) -> OverrideView:
    return OverrideView.model_validate(dict(row))
