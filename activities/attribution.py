"""Closed positions are attributed and learned from: the one path that a live close, an import and a catch-up take."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.activities.learners import Learner, learn_from
from closeloop.activities.levers import contexts_of, take_levers
from closeloop.learning.attribution import hours_held, is_win, outcome_sign, r_multiple
from closeloop.learning.karma import karma_step
from closeloop.models.convictions import ConvictionStatus
from closeloop.models.events import EventType
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import (
    AttributedClose,
    ClosedPosition,
    KarmaStep,
    LearnReport,
    PositionKey,
    PositionOutcome,
)
from closeloop.services.recorded_closes import RefusedClose, conflict, record_closes
from closeloop.store.convictions import ConvictionTrade, RecordedScores


async def attribute_and_learn(
    session: AsyncSession,
    positions: Sequence[ClosedPosition],
    policy: LearningPolicy,
    now: datetime,
    by: str,
    learners: Sequence[Learner],
    read: Mapping[PositionKey, str] | None = None,
) -> tuple[list[AttributedClose | RefusedClose], LearnReport]:
    """Attribute closes and let every learner take them in, within the caller's transaction.

    The attribution stands whatever becomes of a learner: what a learner wrote before it failed is undone, its failure
    is reported, and the closes are marked as not yet learned by it, so that a catch-up lets it take them in later.
    Raises a database error that ended the transaction: then the caller tries all of it again.
    """
    answers = await attribute(session, positions, policy, now, by, read=read)
    taken = [p for p, answer in zip(positions, answers, strict=True) if isinstance(answer, AttributedClose)]
    contexts = await contexts_of(session, taken)
    return answers, await learn_from(
        session, learners, [a for a in answers if isinstance(a, AttributedClose)], contexts
    )


async def attribute(
    session: AsyncSession,
    positions: Sequence[ClosedPosition],
    policy: LearningPolicy,
    now: datetime,
    by: str,
    learners: Sequence[str] = (),
    read: Mapping[PositionKey, str] | None = None,
) -> list[AttributedClose | RefusedClose]:
    """Record closes and attribute them, within the caller's transaction; the answers are in the order of the closes.

    ``by`` names the workflow run or import that attributes. What is attributed here is marked as not yet learned by
    each of ``learners`` (names). Closes that were attributed before change nothing; they are answered with the outcome
    and karma of then. A refused close stores nothing, and the others are attributed all the same. ``read``: see
    record_closes.
    """
    refused, recorded = await record_closes(session, positions, now, attributed=True, read=read)
    here = recorded.new | recorded.taken
    await store.positions.mark_attributed(session, [key for key in recorded.stored if key not in here])
    keys = [position.key for position in positions]
    written = await _write_attributions(session, recorded.stored, policy, now, by)
    steps = await _write_karma_and_events(session, written, policy, learners)
    before = [key for key in recorded.stored if key not in written]
    outcomes = written | await store.attributions.load(session, before)
    steps |= await _steps_on_record(session, before)
    notes = await take_levers(session, recorded.stored, written, by)

    answers: list[AttributedClose | RefusedClose] = []
    answered = set(before)
    for i, key in enumerate(keys):
        if i in refused:
            answers.append(refused[i])
        elif key in recorded.differing:
            answers.append(conflict(recorded.differing[key]))
        else:
            already = key in answered
            answers.append(
                AttributedClose(
                    outcome=outcomes[key], already_attributed=already, karma=steps[key], noted=notes.get(key, [])
                )
            )
            answered.add(key)
    return answers


async def _write_attributions(
    session: AsyncSession, stored: Mapping[PositionKey, ClosedPosition], policy: LearningPolicy, now: datetime, by: str
) -> dict[PositionKey, PositionOutcome]:
    """The outcomes that this call wrote, by key; the other positions had an attribution on record."""
    positions = list(stored.values())
    convictions = store.convictions.recording([(p, outcome_sign(p.realized_pnl)) for p in positions])
    recorded: dict[PositionKey, RecordedScores] = {}
    if unscored := [p for p in positions if p.conviction is not None and p.conviction.domain_scores is None]:
        await store.convictions.lock(session, positions)
        # Another close of this batch may bring the scores of a conviction that this one only names: convictions first.
        await store.rows.execute(session, *convictions)
        recorded = await store.convictions.recorded_scores(session, unscored)
        write = store.convictions.setting_outcomes(
            [
                ConvictionTrade(
                    p.book, p.conviction.conviction_id, outcome_sign(p.realized_pnl), p.opened_at, p.closed_at
                )
                for p in unscored
                if p.conviction is not None
            ]
        )
        convictions = [] if write is None else [write]
    outcomes = {key: _outcome(p, recorded.get(key), policy, now, by) for key, p in stored.items()}
    written = await store.attributions.insert(session, list(outcomes.values()), together_with=convictions)
    return outcomes if len(written) == len(outcomes) else {key: o for key, o in outcomes.items() if key in written}


def _outcome(
    position: ClosedPosition, recorded: RecordedScores | None, policy: LearningPolicy, now: datetime, by: str
) -> PositionOutcome:
    conviction = position.conviction
    if conviction is None:
        status, scores = ConvictionStatus.none, None
    elif conviction.domain_scores is not None:
        status, scores = ConvictionStatus.inline, conviction.domain_scores
    elif recorded is not None and recorded.formed_later:
        status, scores = ConvictionStatus.formed_later, None
    elif recorded is not None and recorded.scores is not None:
        status, scores = ConvictionStatus.recorded, recorded.scores
    else:
        status, scores = ConvictionStatus.unknown, None
    # Not validated again: the values come from a validated message, and validating took a tenth of an import's time.
    return PositionOutcome.model_construct(
        book=position.book,
        position_id=position.key.position_id,
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
        cycle_id=recorded.cycle_id if recorded else None,
        producers=list(position.producers),
        attributed_at=now,
        attributed_by=by,
        policy_hash=policy.karma.hash,
    )


async def _write_karma_and_events(
    session: AsyncSession,
    written: Mapping[PositionKey, PositionOutcome],
    policy: LearningPolicy,
    learners: Sequence[str],
) -> dict[PositionKey, list[KarmaStep]]:
    """Take a karma step for each producer of each outcome, the earlier close first; then append the events of both."""
    pairs = sorted({(key.book, producer) for key, outcome in written.items() for producer in outcome.producers})
    steps: dict[PositionKey, list[KarmaStep]] = {key: [] for key in written}
    karma = await store.karma.lock(session, pairs, policy.karma.start)
    wins, losses = dict.fromkeys(pairs, 0), dict.fromkeys(pairs, 0)
    for key, outcome in sorted(written.items(), key=lambda item: (item[1].closed_at, item[0].position_id)):
        for producer in outcome.producers:
            pair = (key.book, producer)
            after = karma_step(karma[pair], outcome.sign, policy.karma)
            steps[key].append(KarmaStep(producer_id=producer, before=karma[pair], after=after))
            karma[pair] = after
            (wins if outcome.direction_correct else losses)[pair] += 1
    await store.rows.execute(
        session,
        store.karma.addition({pair: (karma[pair], wins[pair], losses[pair]) for pair in pairs}) if pairs else None,
        store.patterns.marking_unlearned(list(written), learners),
        store.events.appending([event for key, outcome in written.items() for event in _events(outcome, steps[key])]),
    )
    return steps


async def _steps_on_record(session: AsyncSession, keys: Sequence[PositionKey]) -> dict[PositionKey, list[KarmaStep]]:
    """The karma steps that were taken when these positions were attributed, from their events.

    None of a position whose event has left the database: they cannot be computed again.
    """
    payloads = await store.events.payloads(session, EventType.attribution_outcome, [_about(key) for key in keys])
    steps: dict[PositionKey, list[KarmaStep]] = {key: [] for key in keys}
    return steps | {
        PositionKey(payload["book"], payload["position_id"]): [
            KarmaStep.model_validate(step) for step in payload["producers"]
        ]
        for payload in payloads
    }


def _about(key: PositionKey) -> str:
    return f"{key.book}/{key.position_id}"


def _events(outcome: PositionOutcome, steps: Sequence[KarmaStep]) -> list[tuple[EventType, str, dict[str, Any]]]:
    about = _about(outcome.key)
    karma = {
        "book": outcome.book,
        "position_id": outcome.position_id,
        "outcome": outcome.sign,
        "producers": [step.model_dump() for step in steps],
    }
    return [
        (EventType.learning_outcome, about, outcome.model_dump()),
        (EventType.attribution_outcome, about, karma),
    ]
