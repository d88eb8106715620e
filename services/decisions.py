"""Decisions of engines: recording them, filling in what became of the market, listing them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby, islice
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.learning.decision_outcomes import Candles, accuracy, excursions, hold_band, volume_accuracy, window
from closeloop.models import launches
from closeloop.models.closes import read_close
from closeloop.models.decisions import (
    HORIZONS_DAYS,
    ChangeType,
    DecisionMessage,
    DecisionsAdded,
    DecisionSource,
    DecisionType,
    DecisionView,
    FillReport,
    FillRequest,
    RejectedDecision,
    TradeChangeMessage,
)
from closeloop.models.errors import NotAcceptable, NotOnRecord
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import ClosedPosition
from closeloop.services import books
from closeloop.services.cursors import in_book
from closeloop.services.launching import run
from closeloop.store.decision_outcomes import DueDecision

DECISIONS_A_TRANSACTION = 2_000
CLOCK_DIFFERENCE = timedelta(minutes=5)  # by which an engine's clock may be ahead
IN_THE_FUTURE = "timestamp: must not be more than 5 minutes in the future"
ACCURACY_DAYS = 7
"""The horizon at which a thesis is right or wrong (days)."""


async def add(
    session: AsyncSession, given: Iterable[tuple[int, DecisionMessage | str]], now: datetime
) -> DecisionsAdded:
    """Store decisions, given with their index (from 0) in what was sent; the report names those refused, and why.

    Commits every 2,000: sent again, they are the same.
    """
    report = DecisionsAdded(added=0, already_recorded=0, rejected=[])
    rest = iter(given)
    while batch := list(islice(rest, DECISIONS_A_TRANSACTION)):
        first: dict[tuple[str, str], tuple[int, DecisionMessage]] = {}
        for index, message in batch:
            if isinstance(message, str):
                report.rejected.append(RejectedDecision(index=index, reason=message))
            elif message.timestamp is not None and message.timestamp > now + CLOCK_DIFFERENCE:
                report.rejected.append(RejectedDecision(index=index, reason=IN_THE_FUTURE))
            elif (key := (message.book, message.decision_id)) not in first:
                first[key] = index, message
            elif first[key][1] == message:
                report.already_recorded += 1
            else:
                report.rejected.append(RejectedDecision(index=index, reason=_conflict(["another line of the input"])))
        async with session.begin():
            archived = await store.books.archived(session, {book for book, _ in first})
            taken = {key: first[key][1] for key in sorted(first) if key[0] not in archived}
            recorded = await store.decisions.record(session, taken, now)
        for key, (index, _) in first.items():
            if key[0] in archived:
                reason = books.archived_sentence(archived[key[0]])
                report.rejected.append(RejectedDecision(index=index, reason=reason))
            elif key in recorded.new:
                report.added += 1
            elif fields := recorded.differing.get(key):
                report.rejected.append(RejectedDecision(index=index, reason=_conflict(fields)))
            else:
                report.already_recorded += 1
    report.rejected.sort(key=lambda one: one.index)
    return report


def _conflict(fields: Sequence[str]) -> str:
    return f"this decision is on record with other content; differing: {', '.join(fields)}"


def close_of(change: TradeChangeMessage) -> ClosedPosition | None:
    """The close that a change of a position is, where its data are a whole one."""
    if change.change_type is not ChangeType.CLOSE:
        return None
    told = {"book": change.book, "symbol": change.symbol} | (
        {} if change.timestamp is None else {"closed_at": change.timestamp}
    )
    return read_close({**told, **change.change_data, "book": change.book}).position


async def fill(client: Client, as_of: datetime) -> FillReport:
    """Fill in, in a workflow, what is due as of an instant, and wait for it. Raises RunFailed."""
    launch = launches.decision_outcomes(FillRequest(as_of=as_of), as_of)
    report: FillReport = await run(client, launch, "Nothing was filled in")
    return report


async def listing(
    session: AsyncSession,
    book: str | None = None,
    *,
    source: DecisionSource | None = None,
    last: int | None = None,
    before: str | None = None,
) -> list[DecisionView]:
    """Decisions with their outcomes by when they were made, oldest first.

    Only the newest ``last`` of those before the decision ``before`` (see ``cursors.in_book``). Raises NotOnRecord,
    NotAcceptable.
    """
    await books.find_if_named(session, book)
    cursor = None
    if before is not None:
        of, decision_id = in_book(book, before)
        cursor = await show(session, decision_id, of)
    return await store.decisions.listing(session, book, source=source, last=last, before=cursor)


async def show(session: AsyncSession, decision_id: str, book: str | None = None) -> DecisionView:
    """A decision and its outcome, by its id or by BOOK/ID.

    Raises NotOnRecord, and NotAcceptable where several books have one of that name.
    """
    await books.find_if_named(session, book)
    found = await store.decisions.named(session, decision_id, book)
    if not found and book is None and "/" in decision_id:
        of, name = in_book(None, decision_id)
        found = await store.decisions.named(session, name, of)
    if not found:
        raise NotOnRecord(f"There is no decision {decision_id}: 'closeloop decisions list' shows what there is.")
    if len(found) > 1:
        named = ", ".join(one.book for one in found)
        raise NotAcceptable(f"Several books have a decision {decision_id} ({named}): say which with --book.")
    return found[0]


# -- filling in: in the caller's transaction ---------------------------------------------------------------------------


async def fill_page(
    session: AsyncSession,
    as_of: datetime,
    after: tuple[str, datetime, str, str] | None,
    limit: int,
    policy: LearningPolicy,
    report: FillReport,
) -> tuple[str, datetime, str, str] | None:
    """Fill in a page of decisions that are due, in the caller's transaction; where the next begins, None at the end.

    Nothing that ended after ``as_of`` is read. The counts are added to ``report``.
    """
    tolerance = timedelta(minutes=policy.forecasts.price_tolerance_minutes)
    page = await store.decision_outcomes.due(session, as_of, after, limit, tolerance)
    outcomes: list[dict[str, Any]] = []
    due_next: list[dict[str, Any]] = []
    for symbol, of_symbol in groupby(page, key=lambda one: str(one.row["symbol"])):
        decisions = list(of_symbol)
        series = await _candles(session, symbol, decisions, as_of)
        for one in decisions:
            outcome, then = _outcome(one, series, as_of, policy, report)
            if outcome is not None:
                outcomes.append(outcome)
            due_next.append(then)
    await store.decision_outcomes.write(session, outcomes, due_next)
    report.decisions += len(page)
    return page[-1].cursor if len(page) == limit else None


async def _candles(
    session: AsyncSession, symbol: str, decisions: Sequence[DueDecision], as_of: datetime
) -> list[Candles]:
    times = [one.row["decided_at"] for one in decisions]
    begin = min(times) - timedelta(days=7, hours=1)
    end = min(as_of, max(times) + timedelta(days=HORIZONS_DAYS[-1]))
    return await store.decision_outcomes.candles(session, symbol, begin, end)


def _outcome(
    one: DueDecision, series: list[Candles], as_of: datetime, policy: LearningPolicy, report: FillReport
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The outcome of a decision as of an instant, where anything of it is known, and when it is due next."""
    row, prices = one.row, one.prices
    decided_at: datetime = row["decided_at"]
    grace = timedelta(minutes=policy.forecasts.grace_minutes)
    given_up_after = timedelta(days=policy.forecasts.unresolvable_days)
    returns = {days: row[f"return_{days}d"] for days in HORIZONS_DAYS}
    unresolvable = list(row["unresolvable"])
    next_due: datetime | None = None
    for days in HORIZONS_DAYS:
        due_at = decided_at + timedelta(days=days) + grace
        name = f"return_{days}d"
        if returns[days] is not None or name in unresolvable:
            continue
        if due_at > as_of:
            next_due = due_at if next_due is None else min(next_due, due_at)
        elif 0 in prices and days in prices:
            returns[days] = float(100 * (prices[days] - prices[0]) / prices[0])
            report.filled += 1
        elif as_of >= due_at + given_up_after:
            unresolvable.append(name)
            report.unresolvable += 1
        else:
            report.pending += 1
            next_due = due_at if next_due is None else min(next_due, due_at)
    key = {"book_id": row["book_id"], "decision_id": row["decision_id"]}
    filled = [days for days in HORIZONS_DAYS if returns[days] is not None]
    closed_at: datetime | None = row["closed_at"]
    then = key | {"next_due_at": next_due, "awaits_close": closed_at is None}
    if not filled and not unresolvable:
        return None, then
    outcome: dict[str, Any] = key | {f"return_{days}d": returns[days] for days in HORIZONS_DAYS}
    outcome |= _evaluated(one, series, returns, filled)
    outcome |= {
        "catalyst_materialized": row["catalyst_materialized"],
        "position_closed": closed_at is not None,
        "exit_price": row["exit_price"] if closed_at else None,
        "exit_reason": row["exit_reason"] if closed_at else None,
        "unresolvable": unresolvable,
        "filled_at": as_of,
        "policy_hash": policy.forecasts.hash,
    }
    report.closed += closed_at is not None
    return outcome, then


_NOTHING: Mapping[str, Any] = dict.fromkeys(
    (
        "max_favorable_excursion",
        "max_adverse_excursion",
        "volatility_realized",
        "coverage",
        "price_at_decision",
        "price_at_evaluation",
        "evaluation_date",
        "thesis_accuracy_score",
        "volume_pattern_accuracy",
    )
)


def _evaluated(
    one: DueDecision, series: list[Candles], returns: Mapping[int, float | None], filled: Sequence[int]
) -> dict[str, Any]:
    """What stands as at the last horizon that is known."""
    if not filled:
        return dict(_NOTHING)
    row, prices = one.row, one.prices
    reference = row["price_at_decision"] or prices[0]
    decided_at: datetime = row["decided_at"]
    kind = DecisionType(row["decision_type"])
    begin, evaluated_at = int(decided_at.timestamp()), decided_at + timedelta(days=filled[-1])
    exit_at: datetime | None = row["closed_at"]
    end = evaluated_at if exit_at is None else min(evaluated_at, exit_at)
    seen = window(series, -int(-decided_at.timestamp() // 1), int(end.timestamp()))
    favorable = adverse = None
    if seen.high is not None and seen.low is not None:
        favorable, adverse = excursions(float(reference), kind.side, seen.high, seen.low)
        if exit_at is None:  # a longer window shows no less, also where another interval covers it
            favorable = max(favorable, row["max_favorable_excursion"] or 0.0)
            adverse = max(adverse, row["max_adverse_excursion"] or 0.0)
    score = row["thesis_accuracy_score"]
    week = returns[ACCURACY_DAYS]
    if score is None and week is not None:
        band = hold_band(series, begin, ACCURACY_DAYS * 24) if kind is DecisionType.HOLD else None
        score = accuracy(kind, kind.side, week, band)
    expected = row["expected_volume_ratio"]
    volume = row["volume_pattern_accuracy"]
    if volume is None and expected is not None:
        volume = volume_accuracy(series, begin, expected)
    last_price = prices.get(filled[-1]) or row["price_at_evaluation"]
    return {
        "max_favorable_excursion": favorable,
        "max_adverse_excursion": adverse,
        "volatility_realized": seen.volatility,
        "coverage": seen.coverage,
        "price_at_decision": reference,
        "price_at_evaluation": last_price,
        "evaluation_date": evaluated_at,
        "thesis_accuracy_score": score,
        "volume_pattern_accuracy": volume,
    }
