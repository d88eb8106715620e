"""The meta-producer: its track record, its decisions, and a proposal that it leaves shadow."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.learning.intervals import wilson_interval
from closeloop.models.approvals import ApprovalView
from closeloop.models.errors import NotOnRecord, NotPossibleNow
from closeloop.models.meta import (
    HitRate,
    MetaDecisionView,
    MetaProposalView,
    MetaScore,
    MetaStatus,
    TrackRecord,
)
from closeloop.models.policy import LearningPolicy
from closeloop.services import books
from closeloop.services.meta_decisions import PROPOSALS, propose_leaving_shadow
from closeloop.store.database import Sessions

_MAX_ID_DIGITS = 18  # any such number fits into PostgreSQL's bigint


async def track_record(session: AsyncSession, policy: LearningPolicy, book: str, as_of: datetime) -> TrackRecord:
    """A book's meta-producer at an instant: whether its gate is open, its mode, and how its forecasts turned out.

    Shadow forecasts and live ones are scored apart.
    """
    outcomes = await store.meta.count_outcomes(session, book, as_of)
    mode = await store.meta.mode(session, book)
    meanwhile = await store.meta.producers_meanwhile(session, book, timedelta(hours=policy.meta.state_hours))
    return TrackRecord(
        book=book,
        outcomes=outcomes,
        outcomes_needed=policy.meta.min_outcomes,
        gate_open=outcomes >= policy.meta.min_outcomes,
        mode="live" if mode and mode["live"] else "shadow",
        since=mode["since"] if mode else None,
        decided_by=mode["operator"] if mode else None,
        said=await store.meta.count_by_reason(session, book),
        shadow=await _score(session, book, shadow=True),
        live=await _score(session, book, shadow=False),
        producers_meanwhile=HitRate(**meanwhile._asdict(), **_interval(meanwhile.correct, meanwhile.n)),
        policy_hash=policy.meta.hash,
    )


async def _score(session: AsyncSession, book: str, *, shadow: bool) -> MetaScore | None:
    found = await store.meta.scored(session, book, shadow=shadow)
    return None if found is None else MetaScore(**found._asdict(), **_interval(found.correct, found.n))


def _interval(correct: int, n: int) -> dict[str, float | None]:
    interval = wilson_interval(correct, n)
    if interval is None:
        return {"hit_rate": None, "hit_low": None, "hit_high": None}
    return {"hit_rate": correct / n, "hit_low": interval[0], "hit_high": interval[1]}


async def status(session: AsyncSession, policy: LearningPolicy, book: str, as_of: datetime) -> MetaStatus:
    """The track record of a book's meta-producer, and the proposal to leave shadow that waits."""
    await books.find(session, book)
    record = await track_record(session, policy, book, as_of)
    waiting = await PROPOSALS.pending(session, book)
    return MetaStatus(**record.model_dump(), proposals=[MetaProposalView.model_validate(dict(row)) for row in waiting])


async def decisions(
    session: AsyncSession, book: str | None = None, *, last: int | None = None, before: str | None = None
) -> AsyncIterator[MetaDecisionView]:
    """Decisions of the meta-producer (live or in shadow), oldest first, streamed.

    At most the newest ``last`` of those before the decision with the id ``before``.

    Raises NotOnRecord.
    """
    await books.find_if_named(session, book)
    number = None
    if before is not None:
        number = int(before) if before.isascii() and before.isdecimal() and len(before) <= _MAX_ID_DIGITS else None
        if number is None or not await store.meta.is_decision(session, number):
            raise NotOnRecord(f"There is no decision {before}: 'closeloop meta decisions --json' shows their ids.")
    async for view in store.meta.decisions(session, book, last=last, before=number):
        yield view


async def propose(
    client: Client, sessions: Sessions, policy: LearningPolicy, book: str, as_of: datetime, secret: str | None = None
) -> ApprovalView:
    """Propose, on its track record, that a book's meta-producer leaves shadow; it waits for an operator. Commits.

    Asked again while a proposal waits, it is the same proposal. ``secret``: of the token that proposes. Raises
    NotPossibleNow where it is live already, BookArchived, NotAuthenticated, NotAllowed.
    """
    async with sessions() as session:
        await books.find_open(session, book)
        record = await track_record(session, policy, book, as_of)
    if record.mode == "live":
        raise NotPossibleNow(f"The meta-producer of {book} is live already, since {record.since:%Y-%m-%d %H:%M} UTC.")
    return await propose_leaving_shadow(client, sessions, policy, book, record.model_dump(mode="json"), secret)
