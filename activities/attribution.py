"""Attribution of closed positions: the one path that a live close, an import and a catch-up take."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

import store.attributions
import store.books
import store.convictions
import store.events
import store.karma
import store.positions
from learning.attribution import hours_held, is_win, outcome_sign, r_multiple
from learning.karma import karma_step
from models.events import EventType
from models.policy import LearningPolicy
from models.positions import (
    AttributedClose,
    ClosedPosition,
    ConvictionStatus,
    KarmaStep,
    PositionKey,
    PositionOutcome,
)

CLOCK_TOLERANCE = timedelta(minutes=5)


@dataclass(frozen=True)
class Refused:
    """A close that can never be attributed as it was sent."""

    kind: str
    reason: str


CONFLICT = "PositionConflict"
IMPOSSIBLE = "PositionRefused"


async def attribute(
    session: AsyncSession, positions: Sequence[ClosedPosition], policy: LearningPolicy, now: datetime
) -> list[AttributedClose | Refused]:
    """Record closes and attribute them, within the caller's transaction; the answers are in the order of the closes.

    Doing it again changes nothing and answers the same. A close that is refused stores nothing and holds up no other.
    """
    refused = {i: r for i, p in enumerate(positions) if (r := _refuse(p, now)) is not None}
    first: dict[PositionKey, ClosedPosition] = {}
    for i, position in enumerate(positions):
        if i not in refused and (earlier := first.setdefault(position.key, position)) != position:
            refused[i] = _conflict(
                [n for n in ClosedPosition.model_fields if getattr(earlier, n) != getattr(position, n)]
            )

    # Every transaction takes its locks in this order, each sorted by key, so that none waits for another in a circle.
    distinct = [first[key] for key in sorted(first, key=lambda k: (k.book, k.position_id.encode()))]
    await store.books.meet(session, {p.book for p in distinct})
    recorded = await store.positions.record(session, distinct)
    stored = [recorded.stored[p.key] for p in distinct if p.key in recorded.stored]
    await store.positions.mark_attributed(session, [p.key for p in stored if p.key not in recorded.new])
    written, on_record = await _write_attributions(session, stored, policy, now)
    steps = await _write_karma(session, written, policy)
    await _write_events(session, written, steps)

    fresh = {_key(o): o for o in written}
    on_record |= fresh
    answers: list[AttributedClose | Refused] = []
    answered: set[PositionKey] = set()
    for i, position in enumerate(positions):
        key = position.key
        if i in refused:
            answers.append(refused[i])
        elif key in recorded.differing:
            answers.append(_conflict(recorded.differing[key]))
        else:
            repeated = key not in fresh or key in answered
            karma = [] if repeated else steps[key]
            answers.append(AttributedClose(outcome=on_record[key], already_attributed=repeated, karma=karma))
            answered.add(key)
    return answers


def _refuse(position: ClosedPosition, now: datetime) -> Refused | None:
    if position.closed_at > now + CLOCK_TOLERANCE:
        return Refused(IMPOSSIBLE, "closed_at: must not be in the future (beyond 5 minutes of clock difference)")
    return None


def _conflict(fields: Sequence[str]) -> Refused:
    return Refused(CONFLICT, f"this position is on record with other content; differing: {', '.join(fields)}")


async def _write_attributions(
    session: AsyncSession, stored: Sequence[ClosedPosition], policy: LearningPolicy, now: datetime
) -> tuple[list[PositionOutcome], dict[PositionKey, PositionOutcome]]:
    """(outcomes written by this call, outcomes that were on record)."""
    await store.convictions.record_with_outcomes(session, [(p, outcome_sign(p.realized_pnl)) for p in stored])
    unscored = [p for p in stored if p.conviction is not None and p.conviction.domain_scores is None]
    recorded_scores = await store.convictions.recorded_scores(session, unscored)
    outcomes = [_outcome(p, recorded_scores.get(p.key), policy, now) for p in stored]
    keys = await store.attributions.insert(session, [_row(o) for o in outcomes])
    on_record = await store.attributions.load(session, [p.key for p in stored if p.key not in keys])
    return [o for o in outcomes if _key(o) in keys], on_record


def _outcome(
    position: ClosedPosition, recorded_scores: dict[str, float] | None, policy: LearningPolicy, now: datetime
) -> PositionOutcome:
    conviction = position.conviction
    if conviction is None:
        status, scores = ConvictionStatus.none, None
    elif conviction.domain_scores is not None:
        status, scores = ConvictionStatus.inline, conviction.domain_scores
    elif recorded_scores is not None:
        status, scores = ConvictionStatus.recorded, recorded_scores
    else:
        status, scores = ConvictionStatus.unknown, None
    return PositionOutcome(
        book=position.book,
        position_id=position.position_id,
        symbol=position.symbol,
        direction=position.direction,
        opened_at=position.opened_at,
        closed_at=position.closed_at,
        realized_pnl=position.realized_pnl,
        rr=r_multiple(position.realized_pnl, position.risk),
        time_held_hours=hours_held(position.opened_at, position.closed_at),
        max_drawdown_pct=position.max_drawdown_pct,
        max_favorable_pct=position.max_favorable_pct,
        direction_correct=is_win(position.realized_pnl),
        regime_at_entry=position.regime_at_entry,
        conviction_id=conviction.conviction_id if conviction else None,
        conviction_status=status,
        domain_scores_at_entry=scores,
        producers=list(position.producers),
        attributed_at=now,
        policy_hash=policy.policy_hash,
    )


async def _write_karma(
    session: AsyncSession, written: Sequence[PositionOutcome], policy: LearningPolicy
) -> dict[PositionKey, list[KarmaStep]]:
    """One step for each producer of each outcome, the earlier close first."""
    pairs = {(o.book, producer) for o in written for producer in o.producers}
    steps: dict[PositionKey, list[KarmaStep]] = {_key(o): [] for o in written}
    if not pairs:
        return steps
    karma = await store.karma.lock(session, list(pairs), policy.karma_start)
    wins = dict.fromkeys(pairs, 0)
    losses = dict.fromkeys(pairs, 0)
    for outcome in sorted(written, key=lambda o: (o.closed_at, o.position_id.encode())):
        for producer in outcome.producers:
            pair = (outcome.book, producer)
            after = karma_step(karma[pair], outcome.sign, policy.karma_alpha)
            steps[_key(outcome)].append(KarmaStep(producer_id=producer, before=karma[pair], after=after))
            karma[pair] = after
            (wins if outcome.direction_correct else losses)[pair] += 1
    await store.karma.add(session, {pair: (karma[pair], wins[pair], losses[pair]) for pair in sorted(pairs)})
    return steps


async def _write_events(
    session: AsyncSession, written: Sequence[PositionOutcome], steps: dict[PositionKey, list[KarmaStep]]
) -> None:
    events: list[tuple[EventType, str, dict[str, Any]]] = []
    for outcome in written:
        about = f"{outcome.book}/{outcome.position_id}"
        events.append((EventType.learning_outcome, about, outcome.model_dump()))
        karma = {
            "book": outcome.book,
            "position_id": outcome.position_id,
            "outcome": outcome.sign,
            "producers": [step.model_dump() for step in steps[_key(outcome)]],
        }
        events.append((EventType.attribution_outcome, about, karma))
    await store.events.append(session, events)


def _key(outcome: PositionOutcome) -> PositionKey:
    return PositionKey(book=outcome.book, position_id=outcome.position_id)


def _row(outcome: PositionOutcome) -> dict[str, Any]:
    row = outcome.model_dump()
    row["book_id"] = row.pop("book")
    return row
