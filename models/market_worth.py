"""What states of the market have been worth on a book's own trades: what is shown of it."""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, Field

from closeloop.models.market import MarketState, Timeframe


class TooFew(StrEnum):
    """What there is too little of to say anything of a state."""

    trades = "trades"
    spells = "spells"
    luck = "luck"
    """Days, periods or symbols, from which the luck of these could be told."""


class StateWorth(BaseModel):
    """What a state of a driver on a timeframe has been worth, in R: the mean of trades opened in it, less of others.

    A spell is an uninterrupted run of the state, or of others, over the book's openings.
    """

    driver: str = Field(description="As the driver weights name it: BTC, ALT, bucket (the trade's own), BTC.d, USDT.d.")
    timeframe: Timeframe
    dimension: str = Field(description="Of a trade's scope, such as btc_macro.")
    state: MarketState
    n: int
    n_other: int = Field(description="Trades in another state of the same driver and timeframe.")
    spells: int
    spells_other: int
    too_few: TooFew | None = Field(default=None, description="Why nothing is said of it.")
    effect: float | None = Field(default=None, description="R.")
    low: float | None = Field(default=None, description="Of the effect's 95 % interval.")
    high: float | None = None
    p_of_trades: float | None = Field(default=None, description="As if each trade were evidence of its own: it is not.")
    p: float | None = Field(default=None, description="With spells, days, periods and symbols.")
    q: float | None = Field(default=None, description="Benjamini-Yekutieli, over all states that were tested.")
    told: bool = Field(default=False, description="Told from noise: q is at most worth.max_q.")


class MarketEvidence(BaseModel):
    """What states have been worth on a book's trades that had closed by ``as_of``.

    ``trades`` have R and are not another one again; ``with_states`` of them have a state of the market at opening, by
    ``sent``, ``from_levers`` and ``backfilled``; ``known_later``: filled in with states that were computed after the
    opening, from bars that had ended by then. ``counted``: the first to close of those with states; the others wait for
    the next look, at ``next_look`` trades.
    """

    book: str
    as_of: datetime
    since: datetime | None
    policy_hash: str
    trades: int
    without_r: int
    repeated: int
    with_states: int
    sent: int
    from_levers: int
    backfilled: int
    known_later: int
    recorded_later: int = Field(description="Attributed, or filled in, only after as_of.")
    other_names: int = Field(description="Trades that name a state that the engine of closeloop does not have.")
    counted: int
    next_look: int
    first_opened_at: datetime | None
    last_opened_at: datetime | None
    tested: int = Field(description="States that were tested: the family of q.")
    cannot_say: list[str] = Field(description="Sentences: what this does not tell, and why.")
    states: list[StateWorth]
