"""Levers: how aggressive to be (A) and how ready to leave (E), what they are made of, and what they are asked with."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from closeloop.models.market import Driver, Flag, MarketState, Timeframe
from closeloop.models.values import Finite, Identifier, NotBoolean, UnitFloat


class ContextSource(StrEnum):
    """Where the rank and the slope of a bucket come from."""

    request = "request"
    indices = "indices"
    """closeloop computed them from the buckets' own indices."""


class BucketContext(BaseModel):
    """How a token's bucket does among the buckets. What is left out counts for nothing; without a confidence, all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: Annotated[int, Field(ge=1), NotBoolean] | None = Field(default=None, description="1: the best bucket.")
    slope: Finite | None = Field(default=None, description="Of the bucket, positive where it rises.")
    confidence: UnitFloat | None = Field(default=None, description="In rank and slope.")
    leader: Identifier | None = Field(default=None, description="The member that did best. Nothing depends on it.")


class LeversRequest(BaseModel):
    """What A and E are asked for: a token's bucket, the timeframe that it is traded on, and what is its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bucket: str | None = Field(default=None, description="nano, small, mid or big; null: in none.")
    timeframe: str = Field(description="That is traded, such as 1h.")
    intent: dict[str, UnitFloat] = Field(default={}, description="Intent metrics by name, such as hi_buy.")
    context: BucketContext | None = None


class StateGiven(BaseModel):
    """The state of a driver on a timeframe as a file says it: as ``closeloop market states --json`` prints it, or with
    a flag as a field of its own (``"buy_signal": true``). A null state, one that is warming up and one that is too
    old are none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    driver: Driver
    timeframe: Timeframe
    state: MarketState | None = None
    prev_state: MarketState | None = None
    flags: tuple[Flag, ...] = ()
    warming_up: bool = False
    stale: bool = False

    @model_validator(mode="before")
    @classmethod
    def _flags(cls, given: Any) -> Any:
        """Flags may be a list, an object of true and false, or fields of their own; what else is printed is unused."""
        if not isinstance(given, Mapping):
            return given
        values = {name: value for name, value in given.items() if name not in _PRINTED_TOO}
        flags = values.pop("flags", None) or []
        named = dict(flags) if isinstance(flags, Mapping) else dict.fromkeys(flags, True) if _texts(flags) else None
        if named is None:
            raise ValueError("flags: must be a list of names, or an object of true and false")
        named |= {flag.value: values.pop(flag.value) for flag in Flag if flag.value in values}
        for name, holds in named.items():
            if not isinstance(holds, bool):
                raise ValueError(f"{name}: must be true or false")
        return values | {"flags": [name for name, holds in named.items() if holds]}


_PRINTED_TOO = frozenset(
    {"scores", "bar_end", "provisional", "published", "revision", "computed_at", "known_then", "bars", "bars_needed"}
)


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


class Pair(BaseModel):
    """Points added to A and to E."""

    model_config = ConfigDict(frozen=True)

    A: float
    E: float


class Part(BaseModel):
    """What a state, a flag in it (``S1+buy_signal``) or a fall into S0 (``S3>S0``) adds, before its weight."""

    model_config = ConfigDict(frozen=True)

    name: str
    da: float = Field(serialization_alias="dA")
    de: float = Field(serialization_alias="dE")


class Contribution(BaseModel):
    """What a driver on a timeframe adds to A and E: ``weight`` times the sum of its ``parts``."""

    model_config = ConfigDict(frozen=True)

    driver: Driver
    timeframe: Timeframe
    state: MarketState
    flags: tuple[Flag, ...] = Field(description="Those that count in this state.")
    transition: str | None = Field(description="The fall into S0 that counts, such as S3>S0.")
    weight: float = Field(description="Strength x driver x timeframe x execution weight.")
    parts: tuple[Part, ...]
    da: float = Field(serialization_alias="dA")
    de: float = Field(serialization_alias="dE")


class Levers(BaseModel):
    """A and E of a token, and what they are made of.

    ``A_raw`` and ``E_raw`` are 0.5 + ``regime`` + ``intent``, and ``regime`` is the sum of the ``contributions``;
    ``A`` is A_raw within [0, 1] times ``bucket_multiplier``, ``E`` is E_raw within [0, 1] divided by it, both within
    [0, 1].
    """

    A: float
    E: float
    A_raw: float
    E_raw: float
    position_size_frac: float = Field(description="Share of the portfolio.")
    regime: Pair
    intent: Pair
    bucket_multiplier: float
    context: BucketContext | None = Field(default=None, description="What the multiplier follows from.")
    context_source: ContextSource | None = Field(default=None, description="Who says so; null: nobody does.")
    contributions: tuple[Contribution, ...]
    missing: tuple[str, ...] = Field(description="Channels without a state, such as BTC/1h: they add nothing.")


class TokenAsked(LeversRequest):
    """A token that levers are asked for together with others."""

    token: Identifier


class TokenLevers(BaseModel):
    """The levers of a token."""

    token: str
    levers: Levers


class RefusedToken(BaseModel):
    """A token without levers; ``index`` is its place (from 0) in what was asked, ``token`` null where unreadable."""

    index: int
    token: str | None
    reason: str


class LeversOfTokens(BaseModel):
    """Levers of many tokens as of one instant, in the order in which they were asked for."""

    as_of: datetime
    tokens: list[TokenLevers]
    refused: list[RefusedToken]
