"""What states of the market have been worth on a book's own trades, as of an instant. Nothing is written."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.learning.market.contexts import bucket_of, channel_of, completed, states_sent
from closeloop.learning.market.worth import STATES, Openings, Worth, looked_at, next_look, worth
from closeloop.learning.scope import REGIME_STATE_DIMENSIONS
from closeloop.models.errors import NotAcceptable
from closeloop.models.market_contexts import ContextSource, FoundContext
from closeloop.models.market_worth import MarketEvidence, StateWorth, TooFew
from closeloop.models.policy import LearningPolicy, WorthPolicy, hash_of
from closeloop.services import books
from closeloop.store.market import openings

MOST_TRADES = 1_000_000
"""More than these are refused: they are held in memory, about a hundred bytes each."""

_PLACES = {str(state): place for place, state in enumerate(STATES)}


async def evidence(
    session: AsyncSession, policy: LearningPolicy, book: str, since: datetime | None, as_of: datetime
) -> MarketEvidence:
    """What states have been worth on the trades that were opened from ``since`` on and had closed by ``as_of``.

    States are those as of the openings, whenever they were put on record. Raises NotOnRecord, and NotAcceptable where
    there are too many trades.
    """
    await books.find(session, book)
    trades = _Trades()
    async for batch in openings.closed(session, book, since, as_of, policy.mining.same_trade):
        trades.add(batch)
        if len(trades.rr) > MOST_TRADES:
            raise NotAcceptable(f"More than {MOST_TRADES:,} trades of book {book}: ask for fewer with --since.")
    counted = looked_at(len(trades.rr), policy.worth)
    found = worth(trades.openings(counted), policy.worth, policy.mining)
    at = sorted(trades.opened_at[:counted])
    states = [shown_worth(each, policy.worth) for each in found]
    answer = MarketEvidence(
        book=book,
        as_of=as_of,
        since=since,
        policy_hash=hash_of(policy.worth, policy.mining),
        trades=trades.trades,
        without_r=trades.without_r,
        repeated=trades.repeated,
        with_states=len(trades.rr),
        sent=trades.by_source.get(None, 0),
        from_levers=trades.by_source.get(ContextSource.levers, 0),
        backfilled=trades.by_source.get(ContextSource.backfilled, 0),
        known_later=trades.known_later,
        recorded_later=trades.recorded_later,
        other_names=trades.other_names,
        counted=counted,
        next_look=next_look(len(trades.rr), policy.worth),
        first_opened_at=datetime.fromtimestamp(at[0], UTC) if at else None,
        last_opened_at=datetime.fromtimestamp(at[-1], UTC) if at else None,
        tested=sum(each.q is not None for each in states),
        cannot_say=[],
        states=states,
    )
    return answer.model_copy(update={"cannot_say": _cannot_say(answer, policy.worth)})


@dataclass
class _Trades:
    """Trades as they are read, by their closing: those with a state of the market as columns, all others counted."""

    trades: int = 0
    without_r: int = 0
    repeated: int = 0
    known_later: int = 0
    recorded_later: int = 0
    other_names: int = 0
    by_source: dict[ContextSource | None, int] = field(default_factory=dict)
    rr: "array[float]" = field(default_factory=lambda: array("d"))
    opened_at: "array[float]" = field(default_factory=lambda: array("d"))
    symbols: "array[int]" = field(default_factory=lambda: array("q"))
    buckets: "array[int]" = field(default_factory=lambda: array("q"))
    states: "array[int]" = field(default_factory=lambda: array("b"))
    _numbers: dict[tuple[str, str | None], int] = field(default_factory=dict)

    def add(self, batch: Sequence[RowMapping]) -> None:
        for row in batch:
            self._add(row)

    def openings(self, n: int) -> Openings:
        """The first ``n`` to close, by their opening."""
        at = np.asarray(self.opened_at, np.float64)[:n]
        order = np.argsort(at, kind="stable")
        width = len(REGIME_STATE_DIMENSIONS)
        states = np.asarray(self.states, np.int64).reshape(-1, width)[:n][order]
        return Openings(
            np.asarray(self.rr, np.float64)[:n][order],
            at[order],
            np.asarray(self.symbols, np.int64)[:n][order],
            np.asarray(self.buckets, np.int64)[:n][order],
            {dimension: states[:, place] for place, dimension in enumerate(REGIME_STATE_DIMENSIONS)},
        )

    def _add(self, row: RowMapping) -> None:
        if row["rr"] is None:
            self.without_r += 1
            return
        if row["again"]:
            self.repeated += 1
            return
        self.trades += 1
        source = None if row["source"] is None else ContextSource(row["source"])
        record = None if source is None else FoundContext(source, row["states"], None, None)
        context = completed(row["context"], record)
        places = _places(context)
        self.other_names += any(
            name in REGIME_STATE_DIMENSIONS and str(state) not in _PLACES
            for name, state in states_sent(context).items()
        )
        if all(place < 0 for place in places):
            return
        # What was filled in and added nothing that the close did not say itself is the engine's word.
        if source is not None and states_sent(row["context"]).keys() >= row["states"].keys():
            source = None
        self.by_source[source] = self.by_source.get(source, 0) + 1
        self.known_later += source is not None and not row["known_then"]
        self.recorded_later += row["recorded_later"]
        self.rr.append(row["rr"])
        self.opened_at.append(row["opened_at"])
        self.symbols.append(self._number("symbol", row["symbol"]))
        self.buckets.append(self._number("bucket", bucket_of(row["context"])))
        self.states.extend(places)

    def _number(self, kind: str, name: str | None) -> int:
        return self._numbers.setdefault((kind, name), len(self._numbers))


def _places(context: Any) -> list[int]:
    said: Mapping[str, Any] = states_sent(context)
    return [_PLACES.get(str(said.get(dimension)), -1) for dimension in REGIME_STATE_DIMENSIONS]


def shown_worth(found: Worth, numbers: WorthPolicy) -> StateWorth:
    """What a state has been worth, as it is shown."""
    driver, timeframe = channel_of(found.dimension)
    too_few = None if found.too_few is None else TooFew(found.too_few)
    if too_few is None and found.low is None:
        too_few = TooFew.luck
    return StateWorth(
        driver=driver,
        timeframe=timeframe,
        dimension=found.dimension,
        state=found.state,
        n=found.n,
        n_other=found.n_other,
        spells=found.spells,
        spells_other=found.spells_other,
        too_few=too_few,
        effect=found.effect,
        low=found.low,
        high=found.high,
        p_of_trades=found.p_of_trades,
        p=found.p,
        q=found.q,
        told=found.q is not None and found.q <= numbers.max_q,
    )


def _cannot_say(found: MarketEvidence, numbers: WorthPolicy) -> list[str]:
    """What cannot be said, and why, the most important first."""
    told = []
    if not found.trades:
        return [f"book {found.book} has no closed trade whose R is known{_by_then(found)}"]
    if not found.with_states:
        return [
            f"none of {found.trades:,} trades says what the market was when it was opened: 'closeloop market backfill "
            f"--book {found.book}' fills in what is on record"
        ]
    if missing := found.trades - found.with_states:
        told.append(
            f"{missing:,} of {found.trades:,} trades do not say what the market was when they were opened, and are not "
            f"counted ('closeloop market backfill --book {found.book}' fills in what is on record)"
        )
    if found.without_r:
        told.append(f"{found.without_r:,} trades have no R, as their risk is not known, and are not counted")
    few = [each for each in found.states if each.too_few is not None]
    if few:
        told.append(
            f"nothing of {len(few)} of {len(found.states)} states: there are fewer than {numbers.min_trades} trades or "
            f"{numbers.min_spells} spells of them or of others, or too few days, periods or symbols to know their luck"
        )
    by_trades = [each for each in found.states if each.p_of_trades is not None and each.p_of_trades <= numbers.max_q]
    lucky = sum(each.p is not None and each.p > numbers.max_q for each in by_trades)
    if lucky:
        told.append(
            f"that {lucky} states which look different trade by trade are: by their spells, days and symbols they can "
            "be luck"
        )
    if found.tested and not any(each.told for each in found.states):
        told.append(f"that any of {found.tested} tested states was worth something: all of it can be noise")
    told.append("what trades would have made that were not opened, or were opened in another state")
    return told


def _by_then(found: MarketEvidence) -> str:
    return f" as of {found.as_of:%Y-%m-%d %H:%M} UTC"
