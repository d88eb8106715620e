"""What each rule of going back to the preset would have done with a book's own history. Nothing is written."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.learning.proposals import side_of
from closeloop.learning.weight_walks import DatedTrade, Walk, cycle_instants, made, mean_and_error, walks
from closeloop.learning.weights import InfeasibleBounds, preset_weights
from closeloop.models.errors import NotAcceptable
from closeloop.models.policy import LearningPolicy, WeightsPolicy
from closeloop.models.weights import Cadence, Preset, SimulatedRule, Weights, WeightsSimulation
from closeloop.services import books

MOST_TRADES = 1_000_000
"""More than these are refused: they are held in memory, about a kilobyte each."""

MOST_CYCLES = 5_000
"""More than these are refused: of weeks it is almost a century, so the time of some close is wrong."""

Told = Callable[[str], None]


async def simulate(
    session: AsyncSession, policy: LearningPolicy, preset: Preset, name: str, as_of: datetime, told: Told
) -> WeightsSimulation:
    """Walk the book's history as it had closed by ``as_of``; ``told`` hears of the progress.

    Raises NotOnRecord; NotAcceptable where the policy's bounds leave no weights, or the history is too long.
    """
    book = await books.find(session, name)
    rule = policy.weights
    try:
        start = book.preset_weights or preset_weights(preset, rule)
        trades = await _trades(session, name, as_of, start, rule, told)
        cycles = _cycles(trades, as_of, book.cadence)
        found = walks(trades, start, cycles, rule, lambda done: told(f"cycle {done} of {len(cycles)}"))
    except InfeasibleBounds as error:
        raise NotAcceptable(f"The policy cannot be used: {error}") from None
    counted = [trade for trade in trades if trade.scores]
    with_r = [trade for trade in counted if trade.rr is not None]
    counted = with_r or counted
    nothing = None if any(any(walk.learned) for walk in found) else _why_nothing(trades, len(cycles), name, rule)
    return WeightsSimulation(
        book=name,
        as_of=as_of,
        cadence=book.cadence,
        policy_hash=rule.hash,
        cycles=len(cycles),
        first_cycle=cycles[0] if cycles else None,
        last_cycle=cycles[-1] if cycles else None,
        positions=len(trades),
        n=len(counted),
        unit="R" if with_r else book.currency or "money",
        nothing=nothing,
        rules=[] if nothing else _rules(found, counted, cycles),
    )


async def _trades(
    session: AsyncSession, book: str, as_of: datetime, domains: Weights, policy: WeightsPolicy, told: Told
) -> list[DatedTrade]:
    trades: list[DatedTrade] = []
    async for close, opened_at, closed_at, scored_at in store.weights.closes_until(session, book, as_of):
        if len(trades) == MOST_TRADES:
            raise NotAcceptable(
                f"Book {book} has more than {MOST_TRADES:,} closed positions: simulate to an earlier time (--as-of)."
            )
        trades.append(
            DatedTrade(
                pnl=close.realized_pnl,
                rr=close.rr,
                side=side_of(close.direction, policy),
                won=close.direction_correct,
                scores={domain: score for domain, score in close.domain_scores.items() if domain in domains},
                opened_at=opened_at,
                closed_at=closed_at,
                scored_at=scored_at,
            )
        )
        if len(trades) % 20_000 == 0:
            told(f"{len(trades):,} positions read")
    return trades


def _cycles(trades: Sequence[DatedTrade], as_of: datetime, cadence: Cadence) -> list[datetime]:
    if not trades:
        return []
    first = trades[0].closed_at
    cycles = list(islice(cycle_instants(first, as_of, cadence), MOST_CYCLES + 1))
    if len(cycles) > MOST_CYCLES:
        raise NotAcceptable(
            f"From the first close, {first:%Y-%m-%d}, on there are more than {MOST_CYCLES:,} cycles: is its time right?"
        )
    return cycles


def _rules(found: Sequence[Walk], trades: Sequence[DatedTrade], cycles: Sequence[datetime]) -> list[SimulatedRule]:
    in_r = all(trade.rr is not None for trade in trades)
    outcomes = [trade.rr if in_r and trade.rr is not None else trade.pnl for trade in trades]
    by_rule = {walk.rule: made(walk, trades, cycles, outcomes) for walk in found}
    none, shown = by_rule["none"], []
    for walk in found:
        mine = by_rule[walk.rule]
        mean, error = mean_and_error(mine.values, mine.cycles)
        apart = [value - other for value, other in zip(mine.values, none.values, strict=True)]
        difference, of_difference = mean_and_error(apart, mine.cycles)
        shown.append(
            SimulatedRule(
                rule=walk.rule,
                reverts=walk.reverts,
                learned_cycles=walk.learned_cycles,
                learned_trades=sum(walk.learned[cycle] for cycle in mine.cycles),
                mean=mean,
                standard_error=error,
                against_none=difference,
                against_none_standard_error=of_difference,
                weights=walk.in_force[-1],
            )
        )
    return shown


def _why_nothing(trades: Sequence[DatedTrade], cycles: int, book: str, policy: WeightsPolicy) -> str:
    """Why no cycle would have moved a weight, with what it takes."""
    needs = (
        f"A cycle needs {policy.min_observations} positions that closed within {policy.window_days} days, at least "
        f"{policy.min_pairs} of them with a score of one domain, of a book that is {policy.cold_start_days} days old."
    )
    if not trades:
        return f"Book {book} has no closed position by then. {needs}"
    age = trades[-1].closed_at - trades[0].closed_at
    scored = sum(1 for trade in trades if trade.scores)
    return (
        f"No weight would have moved in {cycles} cycles: book {book} has {len(trades)} closed positions over "
        f"{age / timedelta(days=1):.0f} days, {scored} of them with a score of one of its domains. {needs}"
    )
