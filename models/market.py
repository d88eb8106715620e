"""The market: drivers, timeframes, states and flags; its bars, states and checkpoints as they are stored.

Instants of bars: ``timestamp`` and ``bar_start`` are when a bar starts, ``bar_end`` is when it ends (UTC). A bar may be
used from its end on.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field as Col
from sqlmodel import SQLModel

MARKET_BOOK = "onchain_crypto"
"""The book of regime prices: one market serves every book of trades."""


class Driver(StrEnum):
    """What moves the market: two that hold for every token, the four buckets, and dominances in percent."""

    btc = "BTC"
    alt = "ALT"
    nano = "nano"
    small = "small"
    mid = "mid"
    big = "big"
    btc_d = "BTC.d"
    usdt_d = "USDT.d"


BUCKETS = (Driver.nano, Driver.small, Driver.mid, Driver.big)
DOMINANCES = (Driver.btc_d, Driver.usdt_d)


class Timeframe(StrEnum):
    """Length of a bar: micro, meso and macro."""

    m1 = "1m"
    h1 = "1h"
    d1 = "1d"

    @property
    def seconds(self) -> int:
        """Length of a bar (s)."""
        return _SECONDS[self]

    @property
    def step(self) -> timedelta:
        """Length of a bar."""
        return timedelta(seconds=self.seconds)


_SECONDS = {Timeframe.m1: 60, Timeframe.h1: 3_600, Timeframe.d1: 86_400}


def priced_as(component: str) -> str:
    """The asset under which candles of BTC or of a component of ALT are on record: in USDT, unless it says otherwise.

    >>> [priced_as(name) for name in ("BTC", "SOL/USDC")]
    ['BTC/USDT', 'SOL/USDC']
    """
    return component if "/" in component else f"{component}/USDT"


class MarketState(StrEnum):
    """State of the uptrend engine: S0 downtrend, S1 early uptrend, S2 no man's land, S3 uptrend, S4 none of these."""

    s0 = "S0"
    s1 = "S1"
    s2 = "S2"
    s3 = "S3"
    s4 = "S4"

    @property
    def words(self) -> str:
        """The state for a person.

        >>> MarketState.s0.words
        'S0 downtrend'
        """
        return f"{self} {_WORDS[self]}"


_WORDS = {
    MarketState.s0: "downtrend",
    MarketState.s1: "early uptrend",
    MarketState.s2: "no man's land",
    MarketState.s3: "uptrend",
    MarketState.s4: "none of these",
}


class Flag(StrEnum):
    """What the uptrend engine says of a bar, beside its state."""

    buy_signal = "buy_signal"
    buy_flag = "buy_flag"
    trim_flag = "trim_flag"
    first_dip_buy_flag = "first_dip_buy_flag"
    emergency_exit = "emergency_exit"
    reclaimed_ema333 = "reclaimed_ema333"


class RegimeBar(SQLModel, table=True):
    """A bar of a driver. Dominance is in percent, composites are an index that began at 100, BTC is in USDT.

    ``n_source``: bars that it was made of. ``revision``: how often it was changed since it was first written.
    """

    __tablename__ = "regime_price_data_ohlc"

    driver: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    book_id: str = Col(
        default=MARKET_BOOK, sa_column=Column(Text, primary_key=True, server_default=text("'onchain_crypto'"))
    )
    timeframe: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    timestamp: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    open_usd: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    high_usd: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    low_usd: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    close_usd: Decimal = Col(sa_column=Column(Numeric, nullable=False))
    volume: Decimal = Col(default=Decimal(0), sa_column=Column(Numeric, nullable=False, server_default=text("0")))
    source: str = Col(default="binance", sa_column=Column(Text, nullable=False, server_default=text("'binance'")))
    component_count: int | None = Col(default=None, sa_column=Column(Integer))
    n_source: int = Col(default=1, sa_column=Column(Integer, nullable=False, server_default=text("1")))
    revision: int = Col(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    written_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )


class MarketStateRow(SQLModel, table=True):
    """What the uptrend engine made of a bar. A bar that is computed anew and differs is a row of the next revision.

    ``state`` and ``prev_state`` are null before the 100th bar, and in a revision that withdraws the bar. ``indicators``
    are in the order of ``learning.market.engine.INDICATORS``, null where one does not exist yet.
    """

    __tablename__ = "market_states"

    driver: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    timeframe: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    bar_end: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    revision: int = Col(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    bar_start: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    computed_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    state: str | None = Col(default=None, sa_column=Column(Text))
    prev_state: str | None = Col(default=None, sa_column=Column(Text))
    published: bool = Col(sa_column=Column(Boolean, nullable=False))
    provisional: bool = Col(sa_column=Column(Boolean, nullable=False))
    flags: list[str] = Col(sa_column=Column(ARRAY(Text), nullable=False))
    ts: float | None = Col(default=None, sa_column=Column(Double))
    ox: float | None = Col(default=None, sa_column=Column(Double))
    dx: float | None = Col(default=None, sa_column=Column(Double))
    edx: float | None = Col(default=None, sa_column=Column(Double))
    indicators: list[float | None] = Col(sa_column=Column(ARRAY(Double), nullable=False))


class MarketCheckpoint(SQLModel, table=True):
    """Where a computation can go on from: all that it remembers after the bars that ended by ``bar_end``.

    ``stage``: ``bars`` (a driver's minutes from its components) or ``engine``. ``fingerprint``: of the numbers that it
    was computed with; with others it is of no use.
    """

    __tablename__ = "market_checkpoints"

    driver: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    timeframe: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    stage: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    bar_end: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    fingerprint: str = Col(sa_column=Column(Text, nullable=False))
    carry: bytes = Col(sa_column=Column(LargeBinary, nullable=False))
    written_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )


class MarketChange(SQLModel, table=True):
    """From where on a series has to be computed anew: the start of the first bar under it that changed.

    ``subject``: ``asset/`` and an asset whose one-minute candles were stored, replaced or deleted; ``bucket/`` and one
    whose members changed; ``bars/``, a driver and a timeframe whose bars were changed. Whoever takes it up deletes it.
    """

    __tablename__ = "market_changes"

    subject: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    from_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))


class MarketBarCount(SQLModel, table=True):
    """How many bars of a component were refused, repaired or dropped, by kind."""

    __tablename__ = "market_bar_counts"

    driver: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    asset: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    kind: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    bars: int = Col(sa_column=Column(BigInteger, nullable=False))


class MarketToken(SQLModel, table=True):
    """A token belongs to a bucket from ``valid_from`` until before ``valid_to`` (null: until further notice)."""

    __tablename__ = "market_tokens"
    __table_args__ = (
        Index("market_tokens_bucket", "bucket", "asset"),
        CheckConstraint("valid_to > valid_from", name="market_tokens_some_time"),
    )

    asset: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    valid_from: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    bucket: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    valid_to: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))


class MarketSource(SQLModel, table=True):
    """What a third party said when it was asked last.

    ``source``: ``coingecko``, or ``binance/`` and an asset. ``answered_at``: when it last answered. ``updated_at``: the
    age of its answer, as it says. ``collected_until``: up to where everything it has was stored.
    """

    __tablename__ = "market_sources"

    source: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    asked_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    answered_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    updated_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    collected_until: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    failures: int = Col(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    reason: str | None = Col(default=None, sa_column=Column(Text))
    next_attempt_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
